"""`sign-zs3 new`: what it finds in a folder, what it proposes, and that its configuration is run as it is."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from sign_zs3.cli import main
from sign_zs3.commands import new, proposal
from sign_zs3.commands.training import ZeroShotCLI
from sign_zs3.data.survey import find_layout, find_names, split_by_folder
from sign_zs3.embeddings.table import ClassTable
from sign_zs3.errors import UserError

NAMES = ("sky", "grass", "cow", "horse", "sheep")
IMAGES = 20


@pytest.fixture(autouse=True)
def as_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.setattr(new, "has_gpu", lambda: False)
    monkeypatch.setattr(new, "encode_seconds", lambda side: 0.1)
    monkeypatch.chdir(tmp_path)


def write(root: Path, images: str = "images", masks: str = "masks", classes: bool = True, end: str = "") -> Path:
    rng = np.random.default_rng(0)
    for number in range(IMAGES):
        ids = np.zeros((40, 48), np.uint8)
        ids[4:, :24], ids[4:, 24:] = 1 + number % 5, 1 + (number + 1) % 5
        for folder, name, pixels in (
            (images, f"{number:02}.jpg", rng.integers(0, 256, (40, 48, 3), np.uint8)),
            (masks, f"{number:02}{end}.png", ids),
        ):
            (root / folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / folder / name)
    if classes:
        (root / "classes.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(NAMES, 1)))
    return root


def written(path: str = "mine.yaml") -> dict[str, dict[str, object]]:
    content: dict[str, dict[str, object]] = yaml.safe_load(Path(path).read_text())
    return content


def test_a_configuration_is_written_and_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "mine")
    assert main(["new", str(root)]) == 0
    out = capsys.readouterr().out
    assert "images:   20 with masks, in images and masks" in out
    assert "vectors:  5 of 5 classes" in out
    assert "note:     id 0, 10% of the pixels, means no label" in out
    assert "(proposed), nearest seen class" in out
    assert "written:  mine.yaml" in out and "estimated from the 100 ms" in out
    assert "sign-zs3 data check --config mine.yaml\n          sign-zs3 fit --config mine.yaml" in out
    content = written()
    assert content["trainer"]["default_root_dir"] == "runs/mine"
    assert content["model"]["feature_cache"] == "runs/mine/features"
    assert "A PROPOSAL" in Path("mine.yaml").read_text()
    cli = ZeroShotCLI(["--config", "mine.yaml"], run=False)
    assert cli.datamodule.protocol.num_classes == 5
    assert len(cli.datamodule.protocol.unseen_classes) == 1
    assert main(["data", "check", "--config", "mine.yaml"]) == 0


def test_the_frozen_encoder_is_that_of_the_program() -> None:
    from sign_zs3.commands.encoder import LITE

    template = Path(new.__file__).with_name("new_cpu.yaml").read_text()
    for name, value in LITE.items():
        assert f"  {name}: {proposal.as_yaml(value)}" in template, name


def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "mine")
    Path("mine.yaml").write_text("kept")
    assert main(["new", str(root)]) == 1
    assert "error: --output: found mine.yaml, which exists" in capsys.readouterr().err
    assert Path("mine.yaml").read_text() == "kept"
    assert main(["new", str(root), "--output", "other.yaml", "--unseen", "cow, grass"]) == 0
    assert "(proposed)" not in capsys.readouterr().out
    content = written("other.yaml")
    assert content["trainer"]["default_root_dir"] == "runs/other"
    assert content["data"]["init_args"]["unseen"] == ["cow", "grass"]  # type: ignore[index]
    assert main(["new", str(root), "--output", "third.yaml", "--unseen", "cwo"]) == 1
    assert "'cow'" in capsys.readouterr().err and not Path("third.yaml").exists()


def test_without_classes_a_list_is_proposed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "mine", classes=False)
    for _ in range(2):
        assert main(["new", str(root)]) == 1
        error = capsys.readouterr().err
        assert "put the true names there, then give this command again" in error and not Path("mine.yaml").exists()
    assert (root / "classes.txt").read_text() == "".join(f"{i}\tclass {i}\n" for i in range(1, 6))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("labels.txt", "\n".join(("__ignore__", "_background_", *NAMES))),
        ("labels.txt", "\n".join(NAMES)),
        ("labels.txt", "".join(f"{i}: {name}\n" for i, name in enumerate(NAMES, 1))),
        ("classes.json", json.dumps(["_background_", *NAMES])),
        ("classes.json", json.dumps({str(i): name for i, name in enumerate(NAMES, 1)})),
    ],
)
def test_names_are_taken_from_other_lists(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert find_names(tmp_path, [0, 1, 2, 3, 4, 5, 255]) == (dict(enumerate(NAMES, 1)), file)


def test_a_list_that_does_not_fit_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("cow\ndog\n")
    assert find_names(tmp_path, [0, 7]) == ({7: "class 7"}, "")


@pytest.mark.parametrize(
    ("images", "masks", "end"),
    [
        ("JPEGImages", "SegmentationClass", ""),
        ("img", "label", ""),
        ("Images", "Masks", "_mask"),
        ("train/images", "train/labels", ""),
    ],
)
def test_usual_folders_are_found(images: str, masks: str, end: str, tmp_path: Path) -> None:
    root = write(tmp_path / "mine", images, masks, end=end)
    layout, paired = find_layout(root)
    assert (layout["images"], layout["masks"], len(paired)) == (images, masks, IMAGES)
    assert layout.get("mask_suffix") == (f"{end}.png" if end else None)
    assert main(["new", str(root)]) == 0
    cli = ZeroShotCLI(["--config", "mine.yaml"], run=False)
    assert len(cli.datamodule.make_dataset("train", hide_unseen=True, augment=False)) == 16


def test_other_folders_are_named(tmp_path: Path) -> None:
    root = write(tmp_path / "mine", "photos", "truth")
    with pytest.raises(UserError, match="name them with --images and --masks"):
        find_layout(root)
    assert main(["new", str(root), "--images", "photos", "--masks", "truth"]) == 0
    assert written()["data"]["init_args"]["masks"] == "truth"  # type: ignore[index]


def test_parts_in_folders_become_lists(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "mine")
    for part, few in (("train", range(15)), ("val", range(15, 20))):
        for side, suffix in (("images", "jpg"), ("masks", "png")):
            (root / side / part).mkdir()
            for number in few:
                shutil.move(root / side / f"{number:02}.{suffix}", root / side / part)
    assert main(["new", str(root)]) == 0
    assert (root / "splits" / "test.txt").read_text().split() == [f"val/{number}" for number in range(15, 20)]
    assert Path("mine.yaml").read_text().startswith("# mine: SIGN + AST for 15 training and 5 test images")
    assert split_by_folder(["train/a", "b"]) == {} == split_by_folder(["train/a", "train/b"])


def test_names_without_a_vector_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "mine")
    (root / "classes.txt").write_text("1\tsky\n2\tgrass\n3\tcow\n4\thorsse\n5\tsheep\n")
    assert main(["new", str(root)]) == 0
    captured = capsys.readouterr()
    assert "no word vector for 'horsse', close: horse" in captured.err and "4 of 5 classes" in captured.out
    assert written()["data"]["init_args"]["ignored_classes"] == ["horsse"]  # type: ignore[index]
    assert ZeroShotCLI(["--config", "mine.yaml"], run=False).datamodule.protocol.num_classes == 4


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (np.full((40, 48), 9, np.uint8), "found the id 9, which"),
        (np.full((40, 48, 3), 9, np.uint8), "sign-zs3 data convert FOLDER --colours"),
        (np.full((40, 48), 300, np.uint16), "found the id 300"),
    ],
)
def test_masks_that_do_not_serve(
    ids: np.ndarray, expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = write(tmp_path / "mine")
    Image.fromarray(ids).save(root / "masks" / "03.png")
    assert main(["new", str(root)]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "03.png" in error and expected in error and not Path("mine.yaml").exists()


def test_unseen_classes_are_near_seen_ones_and_on_test_images() -> None:
    names = ["cat", "dog", "cow", "sheep", "car"]
    table, train = ClassTable.bundled(), {"cat": 9, "dog": 5, "cow": 3, "sheep": 8, "car": 4}
    everywhere = dict.fromkeys(names, 4)
    # of the nearest pair, cat and dog, the one on fewer training images
    assert proposal.propose_unseen(names, table, train, everywhere) == ["dog"]
    assert proposal.propose_unseen(names, table, train, everywhere | {"dog": 1}) == ["cat"]
    assert proposal.propose_unseen(names, table, train, {**everywhere, "dog": 0, "cat": 0}) == ["cow"]
    assert proposal.propose_unseen(names[:2], table, train, everywhere) == []
    assert proposal.propose_unseen(names, table, train, dict.fromkeys(names, 0)) == []


def test_lengths_and_sizes_grow_with_the_folder() -> None:
    def plan(size: tuple[int, int], train: int, gpu: bool = False) -> proposal.Plan:
        mask = SimpleNamespace(size=size)
        return proposal.Plan.for_masks({Path("a"): mask}, train, gpu)  # type: ignore[dict-item]

    small, large = plan((120, 160), 48), plan((3000, 4000), 5000)
    assert (small.warp, large.warp) == (128, 320)
    assert small.crop % 32 == large.crop % 32 == 0
    assert small.iterations < large.iterations <= 2000
    assert large.seconds(0.1, {"train": 10, "test": 2}, 320**2) > large.seconds(0.1, {"train": 5, "test": 2}, 320**2)
    assert plan((500, 375), 100, gpu=True).crop == 321


def test_a_gpu_gets_a_resnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(new, "has_gpu", lambda: True)
    assert main(["new", str(write(tmp_path / "mine"))]) == 0
    cli = ZeroShotCLI(["--config", "mine.yaml", "--trainer.accelerator", "cpu"], run=False)
    assert (cli.model.hparams["backbone"], cli.datamodule.crop_size) == ("resnet101", 321)
