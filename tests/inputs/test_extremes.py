"""The smallest maps and images, and the fewest and most classes: a result, or one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sign_zs3 import ClassTable, load_segmenter
from sign_zs3.cli import main
from tests.conftest import TINY
from tests.inputs.conftest import Folder

WORDS = [name for name in ClassTable.bundled().names if name.isalpha()]


def write(root: Path, names: list[str], size: tuple[int, int], count: int = 12, first: int = 0) -> Path:
    """A folder of noise whose masks hold all classes, numbered from `first`."""
    rng = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{first + number}\t{name}\n" for number, name in enumerate(names)))
    for number in range(count):
        Image.fromarray(rng.integers(0, 256, (*size, 3), np.uint8)).save(root / "images" / f"{number:02}.png")
        ids = np.resize(rng.permutation(len(names)), size) + first
        Image.fromarray(np.minimum(ids, 255).astype(np.uint8)).save(root / "masks" / f"{number:02}.png")
    return root


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``fit`` on a folder; return the status and the line of an error, or the results."""
    monkeypatch.chdir(tmp_path)

    def run(root: Path, data: dict[str, Any], method: str | None = None, **model: Any) -> tuple[int, Any]:
        options = {"root": str(root), "batch_size": 2, "crop_size": 16, "num_workers": 0, **data}
        config = {
            "trainer": {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, "enable_progress_bar": False},
            "data": {"class_path": "FolderDataModule", "init_args": options},
            "model": {**(TINY if method is None else {}), **model},
            **({} if method is None else {"method": method}),
        }
        (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
        status = main(["fit", "--config", "run.yaml"])
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
        if status:
            assert len(errors) == 1
            return status, errors[0]
        return status, json.loads(max(tmp_path.glob("runs/*/results.json")).read_text())

    return run


# -- small maps and images -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_panel")
@pytest.mark.parametrize(
    "model",
    [
        {},
        {"backbone": "resnet18", "weights": None},
        {"head": "fcn", "dilations": [1]},
        {"head": "unet", "dilations": [1]},
        *({"encoding": encoding} for encoding in ("self_attention", "conv", "attention")),
        {"position": "none"},
    ],
    ids=str,
)
def test_a_map_of_one_cell_in_a_batch_of_one(model: dict[str, Any], fit: Any, folder: Folder) -> None:
    status, results = fit(folder.root, {"unseen": ["horse"], "crop_size": 8, "batch_size": 1}, **model)
    assert status == 0
    assert set(results["phases"]) == {"train", "transfer", "self_training"}


@pytest.mark.usefixtures("no_panel")
@pytest.mark.parametrize("method", ["SPNet", "ZS3", "CaGNet"])
def test_a_map_of_one_cell_for_other_methods(method: str, fit: Any, folder: Folder) -> None:
    lengths = {f"{kind}_iterations": 2 for kind in ("train", "self_training")}
    lengths |= {f"{kind}_iterations": 2 for kind in ("generator", "transfer") if method != "SPNet"}
    data = {"unseen": ["horse"], "crop_size": 8, "batch_size": 1}
    assert fit(folder.root, data, method, backbone="small", dilations=[1, 2], **lengths)[0] == 0


def test_one_pixel_has_no_variance(fit: Any, folder: Folder) -> None:
    status, line = fit(folder.root, {"unseen": ["horse"], "crop_size": 1, "batch_size": 1})
    assert status == 1
    assert line == (
        "error: crop_size: found one cell in a batch of one image, which has no variance for batch normalisation, "
        "expected more: raise it, or batch_size"
    )
    assert fit(folder.root, {"unseen": ["horse"], "crop_size": 1, "batch_size": 2})[0] == 0


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (1, 40), (7, 7)])
def test_images_smaller_than_the_stride(size: tuple[int, int], fit: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "small", WORDS[:1] if size == (1, 1) else WORDS[:4], size)
    unseen = [] if size == (1, 1) else [WORDS[3]]
    status, _ = fit(root, {"unseen": unseen}, **({"phases": ["train"]} if not unseen else {}))
    assert status == 0
    last = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["predict", "--data.images", str(root / "images"), "--ckpt_path", last, "--output", "found"]) == 0
    for path in (root / "images").iterdir():
        with Image.open(tmp_path / "found" / path.name) as mask:
            assert mask.size == size[::-1]
    segmenter = load_segmenter(last)
    image = torch.zeros(3, *size, dtype=torch.uint8)
    assert segmenter.predict(image, flip=True, scales=[0.5, 1.0, 2.0]).shape == size


# -- few and many classes --------------------------------------------------------------------------------------------


def test_one_class_has_nothing_to_transfer(fit: Any, tmp_path: Path) -> None:
    status, line = fit(write(tmp_path / "one", ["cow"], (16, 20)), {"unseen": []})
    assert status == 1
    assert line == (
        "error: unseen: found no unseen class, which transfer and self_training are for: name some, or set phases to "
        "[train]"
    )


def test_one_class_is_learnt(fit: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "one", ["cow"], (16, 20))
    status, results = fit(root, {"unseen": []}, phases=["train"])
    assert status == 0
    scores = results["phases"]["train"]
    assert scores["seen_miou"] == 1.0
    assert scores["unseen_miou"] is None and scores["harmonic_miou"] is None
    assert main(["data", "check", "--config", "run.yaml"]) == 0


@pytest.mark.parametrize("names", [["cow"], ["cow", "sky", "grass"]])
def test_no_seen_class_is_one_line(names: list[str], fit: Any, tmp_path: Path) -> None:
    status, line = fit(write(tmp_path / "all", names, (16, 20)), {"unseen": names})
    assert status == 1
    assert f"found 0 seen of {len(names)} classes, expected at least one seen class" in line


@pytest.mark.parametrize("phases", [None, ["train", "transfer"], ["train", "self_training"], ["train"]])
def test_an_empty_list_of_unseen_classes(phases: list[str] | None, fit: Any, folder: Folder) -> None:
    status, result = fit(folder.root, {"unseen": []}, **({} if phases is None else {"phases": phases}))
    if phases == ["train"]:
        assert status == 0
        assert result["phases"]["train"]["unseen_miou"] is None
    else:
        assert status == 1
        assert result.startswith("error: unseen: found no unseen class")


def test_one_seen_class_teaches_the_others_names(fit: Any, folder: Folder) -> None:
    assert fit(folder.root, {"unseen": ["sky", "grass", "horse"]})[0] == 0


@pytest.mark.parametrize(("count", "first"), [(254, 0), (254, 1), (255, 0)])
def test_as_many_classes_as_ids(count: int, first: int, fit: Any, tmp_path: Path) -> None:
    names = WORDS[:count]
    root = write(tmp_path / "many", names, (20, 20), first=first)
    status, results = fit(root, {"unseen": names[-3:]})
    assert status == 0
    assert len(results["phases"]["train"]["per_class"]) == count
    last = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["data", "check", "--config", "run.yaml"]) == 0
    assert main(["predict", "--data.images", str(root / "images"), "--ckpt_path", last, "--output", "found"]) == 0
    assert main(["test", "--config", "run.yaml", "--ckpt_path", last]) == 0
    image = np.zeros((20, 20, 3), np.uint8)
    assert int(load_segmenter(last).segment(image).labels.max()) < count


@pytest.mark.parametrize("count", [256, 300])
def test_more_classes_than_ids_are_one_line(count: int, fit: Any, tmp_path: Path) -> None:
    status, line = fit(write(tmp_path / "many", WORDS[:count], (20, 20)), {"unseen": WORDS[:3]})
    assert status == 1
    assert "found the id 255 in line 256, expected 0 to 254, since 255 always means no label" in line


def test_the_last_id_is_taught_by_name_and_no_further_one(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [name for name in WORDS[:260] if name not in ("zebra", "pony")][:254]
    assert fit(write(tmp_path / "many", names, (20, 20)), {"unseen": names[-3:]})[0] == 0
    last = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["extend", "--ckpt_path", last, "--classes", "[zebra]", "--output", "255.ckpt"]) == 0
    assert load_segmenter("255.ckpt").num_classes == 255
    capsys.readouterr()
    assert main(["extend", "--ckpt_path", "255.ckpt", "--classes", "pony", "--output", "256.ckpt"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert "256" in line or "255" in line
    assert not Path("256.ckpt").exists()
    assert main(["remove", "--ckpt_path", "255.ckpt", "--classes", "zebr", "--output", "254.ckpt"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    assert line.endswith("?") and " ...; did you mean 'zebra' or " in line and len(line) < 600


def test_a_class_list_without_a_class(fit: Any, tmp_path: Path) -> None:
    root = write(tmp_path / "none", ["cow"], (16, 20))
    (root / "classes.txt").write_text("\n\n")
    status, line = fit(root, {"unseen": []})
    assert status == 1
    assert str(root / "classes.txt") in line
