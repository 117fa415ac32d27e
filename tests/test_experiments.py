"""Every experiment file is run, with its lengths cut and its images small."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_zs3.cli import main

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SHARED = Path(__file__).parents[2] / "shared" / "data"
CUT = [
    *("--model.train_iterations", "2", "--model.generator_iterations", "0", "--model.transfer_iterations", "2"),
    *("--model.self_training_iterations", "2", "--model.feature_dim", "32", "--trainer.accelerator", "cpu"),
    *("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "2"),
]


def test_every_file_is_tried_here() -> None:
    assert sorted(path.name for path in EXPERIMENTS.glob("*.yaml")) == [
        "coco_stuff.yaml", "context.yaml", "msrc.yaml", "quickstart.yaml", "voc.yaml", "voc_sign.yaml", "voc_st.yaml",
    ]  # fmt: skip


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.name)
def test_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 50


def test_quickstart(tmp_path: Path) -> None:
    arguments = ["--data.train_size", "32", "--data.val_size", "4", "--data.test_size", "4", "--data.batch_size", "4"]
    config = str(EXPERIMENTS / "quickstart.yaml")
    assert main(["fit", "--config", config, *CUT, *arguments, "--trainer.default_root_dir", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["final"] == "self_training"


def small(tmp_path: Path) -> list[str]:
    return [
        *("--data.num_workers", "0", "--data.batch_size", "2", "--data.crop_size", "97", "--data.warp_size", "129"),
        *("--data.eval_size", "97", "--model.weights", "null", "--model.backbone", "resnet18"),
        *("--trainer.default_root_dir", str(tmp_path)),
    ]


@pytest.mark.parametrize("name", ["voc", "voc_sign", "voc_st"])
def test_voc_rows_on_real_images(name: str, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs real VOC and SBD images in ../shared/data")
    arguments = [
        *("--data.root", str(SHARED), "--data.sbd_root", str(SHARED)),
        *("--model.vectors", str(SHARED / "embeddings" / "voc.npz"), *small(tmp_path)),
    ]
    assert main(["fit", "--config", str(EXPERIMENTS / f"{name}.yaml"), *CUT, *arguments]) == 0
    run = tmp_path / "version_0"
    found = json.loads((run / "results.json").read_text())
    assert found["dataset"] == "voc"
    assert list(found["phases"]) == ["train", "transfer", *(["self_training"] if name != "voc_sign" else [])]
    last = str(run / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", str(EXPERIMENTS / f"{name}.yaml"), *CUT, *arguments, "--ckpt_path", last]) == 0
    assert json.loads((tmp_path / "version_1" / "results.json").read_text())["test"] == found["test"]


def test_coco_stuff_on_real_images(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs real COCO-Stuff images in ../shared/data")
    arguments = [
        *("--data.root", str(SHARED / "coco-stuff"), "--data.val_size", "3"),
        *("--model.vectors", str(SHARED / "embeddings" / "coco_stuff.npz"), *small(tmp_path)),
    ]
    assert main(["fit", "--config", str(EXPERIMENTS / "coco_stuff.yaml"), *CUT, *arguments]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["dataset"] == "coco_stuff"
    assert len(found["test"]["per_class"]) == 171


def test_msrc_on_real_images(tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs the MSRC images in ../shared/data")
    arguments = ["--data.root", str(SHARED / "msrc"), *small(tmp_path)]
    assert main(["fit", "--config", str(EXPERIMENTS / "msrc.yaml"), *CUT, *arguments]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["dataset"] == "msrc"
    assert len(found["test"]["per_class"]) == 21


def test_context_in_its_native_layout(tmp_path: Path) -> None:
    """Its images are not to be had here: drawn ones take their place, with the published folders and formats."""
    voc, labels = tmp_path / "VOCdevkit" / "VOC2010", tmp_path / "33_context_labels"
    (voc / "JPEGImages").mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    names = {"train": [f"2008_{i:06d}" for i in range(8)], "val": [f"2008_{i:06d}" for i in range(100, 103)]}
    for part, members in names.items():
        (tmp_path / f"{part}.txt").write_text("\n".join(members))
        for name in members:
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(voc / "JPEGImages" / f"{name}.jpg")
            mask = np.kron(rng.integers(0, 34, (5, 6)), np.ones((10, 10))).astype(np.uint8)
            Image.fromarray(mask).save(labels / f"{name}.png")
    arguments = ["--data.root", str(tmp_path), "--model.vectors", "bundled", *small(tmp_path)]
    assert main(["fit", "--config", str(EXPERIMENTS / "context.yaml"), *CUT, *arguments]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["dataset"] == "pascal_context_33"
    assert len(found["test"]["per_class"]) == 33
