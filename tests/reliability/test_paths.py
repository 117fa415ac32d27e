"""Nothing is written outside the folder that was named, whatever names are in lists, files and checkpoints."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sign_zs3 import ClassTable, Segmenter, SPNetModule, UserError
from sign_zs3.callbacks import PredictionWriter
from sign_zs3.callbacks.pictures import PictureLogger
from sign_zs3.cli import main
from sign_zs3.data.datamodules import FolderDataModule
from sign_zs3.data.datasets.files import missing_files, read_list
from sign_zs3.files import replacing
from sign_zs3.models import Segmentation
from sign_zs3.protocol import Protocol
from sign_zs3.reports.predictions import paths_of, write_prediction
from sign_zs3.reports.runs import collect
from tests.conftest import quiet_trainer
from tests.reliability import seeds

HOSTILE = (
    "//x",
    *("../x", "../../x", "/tmp/sign-zs3-x", "a/../../x", "..", ".", "a/..", "..\\x", "C:\\x", "C:x", "x" * 300, "~"),
    *("a/" * 200 + "x", "~root/x", "-rf", "$(touch x)", "%2e%2e/x", "\uff0e\uff0e/x", "x.", "con", "\x1b[2J", "a\nb"),
)
CLASSES = ("../x", "../../y", "/tmp/sign-zs3-z", "..\\w", "~", "$(touch v)")
PARTS = st.lists(st.sampled_from(["..", ".", "a", "", "~", "\\"]), max_size=6).map("/".join)
NAMES = st.sampled_from((*HOSTILE, "a\0b")) | PARTS | st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
few = settings(max_examples=50, derandomize=True, deadline=None, database=None)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Path]:
    """A folder to write to, in others in which nothing else may be written."""
    place = tmp_path / "a" / "b" / "output"
    place.mkdir(parents=True)
    yield place
    outside = [path for path in (tmp_path / "a").rglob("*") if place not in (path, *path.parents)]
    assert outside == [place.parent] and not list(Path("/tmp").glob("sign-zs3-*"))


def segmenter(folder: Path, classes: tuple[str, ...] | None = None) -> Segmenter:
    files = dict(seeds.trained("SIGN")[1])
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    found = Segmenter.from_pretrained(folder)
    assert found.config is not None
    if classes is not None:
        protocol = found.config.protocol
        renamed = replace(protocol, classes=(*classes, *protocol.classes[len(classes) :]))
        found.config = replace(found.config, protocol=renamed)
    return found


@given(NAMES)
@few
def test_places_of_predictions(name: str) -> None:
    for path in paths_of(name):
        assert not Path(path).is_absolute() and ".." not in Path(path).parts


@given(NAMES)
@few
def test_ids_of_lists(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    folder = tmp_path_factory.getbasetemp()
    (folder / "list.txt").write_text(f"{name}\n", encoding="utf-8")
    with suppress(UserError):
        for found in read_list(folder / "list.txt"):
            image = folder / "images" / f"{found}.jpg"
            assert ".." not in image.parts and folder / "images" in image.parents and "\0" not in found
            # a part of 300 letters is no file, and no error of the system either
            assert missing_files([image]) == [image]


def test_names_of_images(output: Path) -> None:
    protocol = Protocol("d", "s", ("cow", "sheep"), (0, 1), 1)
    found = Segmentation(torch.zeros(4, 4, dtype=torch.uint8), torch.ones(2).long(), torch.ones(2), None)
    for name in HOSTILE:
        with suppress(UserError):
            write_prediction(output, name, name, np.zeros((4, 4, 3), np.uint8), found, protocol)


def test_links_in_the_output_are_replaced_and_not_followed(output: Path, tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for name in ("x.png", ".x.png.part"):
        (output / name).symlink_to(tmp_path / "precious")
    with replacing(output / "x.png") as beside:
        beside.write_text("new")
    assert (tmp_path / "precious").read_text() == "mine"
    assert (output / "x.png").read_text() == "new" and not (output / "x.png").is_symlink()


def test_predictions_of_files_with_any_name(output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also of such that no text has, and of classes that are called like paths."""
    segmenter(tmp_path / "model", CLASSES).save_pretrained(tmp_path / "model")
    given = tmp_path / "given"
    given.mkdir()
    (tmp_path / "elsewhere").mkdir()
    names = [b"a\nb.png", b"x\\..\\x.png", b"-rf.png", b"\xff\xfe.png", b"$(touch x).png", b"x" * 251 + b".png"]
    for name in names:
        seeds.picture().save(os.path.join(os.fsencode(given), name), "PNG")  # noqa: PTH118
    seeds.picture().save(tmp_path / "elsewhere" / "linked.png")
    (given / "link").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(output)
    arguments = ["--ckpt_path", str(tmp_path / "model"), "--data.images", str(given), "--output", str(output / "out")]
    # the name of 255 letters leaves no room for an ending
    assert main(["predict", *arguments]) == 1
    report = json.loads((output / "out" / "predictions.json").read_text())
    # and what the link leads to
    assert len(report["images"]) == len(names) - 1 + 1 and len(report["failed"]) == 1
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["linked.png"]


def test_a_folder_of_classes_that_are_called_like_paths(output: Path, tmp_path: Path) -> None:
    model = segmenter(tmp_path / "model", CLASSES)
    model.save_pretrained(output / "saved")
    assert sorted(path.name for path in output.rglob("*.*")) == ["README.md", "config.json", "model.safetensors"]
    again = Segmenter.from_pretrained(output / "saved")
    assert again.config is not None and again.config.protocol.classes[: len(CLASSES)] == CLASSES


def test_a_run_on_classes_that_are_called_like_paths(output: Path, tmp_path: Path) -> None:
    """Training with pictures and kept maps, prediction of a data set, and its results."""
    root = tmp_path / "data"
    names = ["one", "sub/two", "three..", "four five", "-six"]
    for number, name in enumerate(names):
        for kind in ("images", "masks"):
            (root / kind / name).parent.mkdir(parents=True, exist_ok=True)
        seeds.picture().save(root / "images" / f"{name}.png")
        Image.fromarray(np.full((24, 28), number % len(CLASSES), np.uint8)).save(root / "masks" / f"{name}.png")
    (root / "classes.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(CLASSES)))
    for part, own in (("train", names[:3]), ("test", names[3:])):
        (root / f"{part}.txt").write_text("\n".join(own))
    vectors = np.random.default_rng(0).normal(size=(len(CLASSES), 8)).astype(np.float32)
    ClassTable(CLASSES, {"../source": vectors}).save(output / "table.safetensors")
    data = FolderDataModule(
        str(root), unseen=[CLASSES[-1]], train_list="train.txt", test_list="test.txt", batch_size=1, num_workers=0,
        crop_size=16, warp_size=16, scale=(1.0, 1.0), val_fraction=0.0,
    )  # fmt: skip
    model = SPNetModule(
        backbone="small", head="fcn", train_iterations=1, self_training="none", freeze_encoder=True,
        vectors=str(output / "table.safetensors"), feature_cache=str(output / "cache"),
    )  # fmt: skip
    quiet_trainer(output / "run", PictureLogger(1, 1)).fit(model, data)
    trainer = quiet_trainer(output / "run", PredictionWriter(), PictureLogger(1, 1))
    trainer.predict(model, data)
    trainer.test(model, data, verbose=False)
    written = [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]
    assert [path for path in written if path.startswith("cache/small-")]
    assert [path for path in written if path.startswith("run/pictures/")]
    assert "run/predictions/four five.png" in written and "run/predictions/-six.png" in written


def test_a_table_of_classes_that_are_called_like_paths(output: Path, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("\n".join(CLASSES))
    lines = [f"{name} {number} 1" for number, name in enumerate(CLASSES) if " " not in name]
    (tmp_path / "vectors.txt").write_text("\n".join(lines) + "\n")
    command = ["embed", "--classes", str(tmp_path / "classes.txt"), "--source", str(tmp_path / "vectors.txt")]
    assert main([*command, "--output", str(output / "table.npz"), "--missing", "drop"]) == 0
    assert [path.name for path in output.iterdir()] == ["table.npz"]


@pytest.mark.parametrize("phase", ["../../x", "/tmp/sign-zs3-x", "a b", "", "x" * 200])
def test_phases_name_files_and_no_places(phase: str, output: Path, tmp_path: Path) -> None:
    content: dict[str, Any] = json.loads(seeds.results()[0])
    content["phases"][phase] = content["test"]
    (tmp_path / "results.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="as the name of a phase"):
        collect([tmp_path / "results.json"])
    assert main(["results", str(tmp_path), "--output", str(output), "--phase", phase]) == 1


def test_pipes_are_not_waited_for(tmp_path: Path) -> None:
    from sign_zs3.data.datasets.files import read_classes, read_index_mask, read_mat
    from sign_zs3.images import read_image

    os.mkfifo(tmp_path / "pipe")
    for read in (read_image, read_index_mask, read_list, read_classes, lambda path: read_mat(path, "LabelMap")):
        with pytest.raises(UserError, match=r"pipe: is a pipe or device, expected"):
            read(tmp_path / "pipe")
