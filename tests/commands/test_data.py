"""The verbs `data check` and `data show`, through the program."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from tests.conftest import TINY
from tests.data.conftest import FOLDER_CLASSES, FOLDER_TEST, FOLDER_TRAIN, FakeFolder

from sign_zs3 import ClassTable
from sign_zs3.cli import main
from sign_zs3.data.check import as_report, check_data
from sign_zs3.data.datamodules import FolderDataModule
from sign_zs3.data.datasets.base import Sample
from sign_zs3.drawing import panels
from sign_zs3.drawing.colours import class_colours
from sign_zs3.protocol import Protocol


@pytest.fixture
def fake(tmp_path: Path) -> FakeFolder:
    folder = FakeFolder(tmp_path / "mine")
    folder.write_all()
    return folder


def options(fake: FakeFolder) -> list[str]:
    return ["--data", "FolderDataModule", "--data.root", str(fake.root), "--data.unseen", "[cow,dog]"]


def lines(text: str) -> list[str]:
    return text.strip().splitlines()


# -- the verb ------------------------------------------------------------------------------------------------------


def test_without_a_verb_the_usage_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("usage: sign-zs3 data check")


@pytest.mark.parametrize(("verb", "hint"), [("chck", "; did you mean 'check'?"), ("--report", "")])
def test_another_verb_is_one_line(verb: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", verb])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == f"error: found {verb!r}, expected one of check, show, convert{hint}\n"


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", flag]) == 0
    assert "data show" in capsys.readouterr().out
    for verb, own in (("check", "--report"), ("show", "--as_trained")):
        assert main(["data", verb, flag]) == 0
        out = capsys.readouterr().out
        assert own in out and "--data.help" in out


@pytest.mark.parametrize("args", [["check"], ["check", "--config", "nowhere.yaml"], ["show", "--split", "dev"]])
def test_usage_errors_exit_with_2(args: list[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["data", *args])
    assert stopped.value.code == 2


@pytest.mark.parametrize("verb", ["check", "show"])
def test_wrong_options_are_one_line(verb: str, fake: FakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", verb, *options(fake), "--data.unseen", "[cwo]"]) == 1
    assert main(["data", verb, *options(fake), "--data.root", "/nowhere"]) == 1
    assert main(["data", verb, *options(fake), "--data.batch_size", "0"]) == 1
    unseen, root, batch = lines(capsys.readouterr().err)
    assert unseen.startswith("error: unseen: found 'cwo'") and unseen.endswith("did you mean 'cow'?")
    assert root.startswith("error: /nowhere/classes.txt: cannot be read")
    assert batch.startswith("error: batch_size: found 0")


# -- check ---------------------------------------------------------------------------------------------------------


def test_check_prints_counts_and_writes_a_report(
    fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "report.json"
    assert main(["data", "check", *options(fake), "--report", str(path)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    data = FolderDataModule(str(fake.root), unseen=["cow", "dog"])
    report = as_report(data.protocol, *check_data(data, progress=False))
    assert json.loads(path.read_text()) == report
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    for entry in report["classes"]:
        name = entry["name"] + ("" if entry["seen"] else " (unseen)")
        cells = [f"{entry[what][part]:,}" for part in ("train", "test") for what in ("images", "pixels")]
        assert re.search(rf"{entry['id']} │ {re.escape(name)} +│ +" + " │ +".join(cells), out), entry
    share = report["training"]["unseen_share_of_unlabelled"]
    assert f"training: 2 of 7 images hold an unseen class (unseen_pixels=drop leaves these out); {share:.1%}" in out
    assert lines(out)[-1] == f"report: {path}"


def test_check_lists_every_fault_and_exits_with_1(
    fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.image(FOLDER_TRAIN[0]).write_bytes(b"")
    fake.mask(FOLDER_TEST[2]).unlink()
    assert main(["data", "check", *options(fake), "--report", str(tmp_path / "report.json")]) == 1
    out, err = capsys.readouterr()
    first, second, last = lines(err)
    assert first.startswith(f"fault: {fake.image(FOLDER_TRAIN[0])}: cannot be decoded")
    assert second.startswith(f"fault: {fake.mask(FOLDER_TEST[2])}: not found")
    assert last == "error: 2 faults; correct or remove the files above"
    report = json.loads((tmp_path / "report.json").read_text())
    assert [f"fault: {fault}" for fault in report["faults"]] == [first, second]
    assert "grass" in out


def test_check_says_of_one_fault_that_it_is_one(fake: FakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    fake.image(FOLDER_TRAIN[0]).unlink()
    assert main(["data", "check", *options(fake)]) == 1
    assert lines(capsys.readouterr().err)[-1] == "error: 1 fault; correct or remove the files above"


def test_check_of_what_is_not_there_shows_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data", "VOCDataModule", "--data.root", str(tmp_path)]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    fault, last = lines(err)
    assert fault.startswith("fault: root: found no VOC2012/ImageSets") and "VOCtrainval_11-May-2012.tar" in fault
    assert last.startswith("error: 1 fault;")


def test_check_tells_of_classes_that_are_rare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for number in range(20):
        mask = np.full((8, 8), 1, np.uint8)
        mask[0] = 2 if number % 6 == 1 else 1
        mask[1] = 3 if number % 7 == 0 else 1
        Image.fromarray(np.stack([mask] * 3, axis=2)).save(tmp_path / "images" / f"{number:02}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{number:02}.png")
    (tmp_path / "classes.txt").write_text("1\tgrass\n2\tcow\n3\tdog\n", encoding="utf-8")
    command = ["data", "check", "--data", "FolderDataModule", "--data.root", str(tmp_path), "--data.unseen", "[dog]"]
    assert main(command) == 0
    out = capsys.readouterr().out
    row = next(line for line in out.splitlines() if re.search(r"\bcow\b", line))
    images = int(re.findall(r"\d+", row)[1])
    assert 0 < images <= 4 and f"training: cow is in {images} images, grass in 16; with --data.repeat_threshold" in out
    # dog is rarer, but unseen: no image comes more often for it
    assert "training: dog" not in out


def test_check_names_classes_that_are_absent(fake: FakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    fake.write_classes("".join(f"{i}\t{name}\n" for i, name in {**FOLDER_CLASSES, 9: "moon", 10: "sun"}.items()))
    assert main(["data", "check", *options(fake)]) == 0
    out = capsys.readouterr().out
    assert "train: no pixel of moon (9), sun (10)" in out and "test: no pixel of moon (9), sun (10)" in out


def test_names_in_brackets_are_shown_as_they_are(fake: FakeFolder, capsys: pytest.CaptureFixture[str]) -> None:
    fake.write_classes("1\tsky [bold]\n2\tgrass [/x]\n3\tcow\n4\tdog\n5\tsign\n7\twater\n")
    assert main(["data", "check", *options(fake)]) == 0
    out = capsys.readouterr().out
    assert "sky [bold]" in out and "grass [/x]" in out


def test_a_report_that_cannot_be_written_loses_no_fault_and_leaves_no_half(
    fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake.image(FOLDER_TRAIN[0]).unlink()
    path = tmp_path / "reports" / "report.json"
    path.parent.mkdir()
    path.write_text("the last one")

    def full(self: Path, text: str, **_: object) -> int:
        self.write_bytes(text.encode()[:100])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    assert main(["data", "check", *options(fake), "--report", str(path)]) == 1
    fault, error = lines(capsys.readouterr().err)
    assert fault.startswith(f"fault: {fake.image(FOLDER_TRAIN[0])}: not found")
    assert error.startswith(f"error: {path}: cannot be written (no space left on device); make room, or name another")
    assert path.read_text() == "the last one" and [file.name for file in path.parent.iterdir()] == ["report.json"]


# -- show ----------------------------------------------------------------------------------------------------------


class Sheets:
    """What was drawn: the samples and the class split of each contact sheet."""

    def __init__(self) -> None:
        self.samples: list[Sample] = []
        self.protocol: Protocol | None = None

    @property
    def ids(self) -> list[str]:
        return [sample["id"] for sample in self.samples]

    @property
    def labels(self) -> set[int]:
        return {int(label) for sample in self.samples for label in sample["mask"].unique()}


@pytest.fixture
def sheets(monkeypatch: pytest.MonkeyPatch) -> Sheets:
    drawn, draw = Sheets(), panels.contact_sheet

    def record(images: Any, masks: Any, names: Any, protocol: Protocol, title: str = "", **rest: Any) -> Any:
        drawn.samples = [
            {"image": image, "mask": mask, "id": name} for image, mask, name in zip(images, masks, names, strict=True)
        ]
        drawn.protocol = protocol
        return draw(images, masks, names, protocol, title, **rest)

    monkeypatch.setattr(panels, "contact_sheet", record)
    return drawn


def show(fake: FakeFolder, path: Path, *more: str) -> tuple[int, int]:
    """Draws, and returns the picture's width and height."""
    assert main(["data", "show", *options(fake), "--output", str(path), *more]) == 0
    assert not list(path.parent.glob("*.part"))
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_show_draws_the_test_images_with_unseen_classes(
    fake: FakeFolder, tmp_path: Path, sheets: Sheets, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "sheets" / "test.png"
    width, height = show(fake, path)
    assert 1000 < width < 2000 and 200 < height < 600
    assert sheets.ids == list(FOLDER_TEST)
    assert sheets.protocol is not None and sheets.labels & set(sheets.protocol.unseen)
    for sample in sheets.samples:
        assert np.array_equal(sample["mask"].numpy(), sheets.protocol.lookup()[fake.masks[sample["id"]]])
    assert f"contact sheet of 3 of 3 images: {path}" in capsys.readouterr().out


def test_show_spreads_its_images_evenly(
    fake: FakeFolder, tmp_path: Path, sheets: Sheets, capsys: pytest.CaptureFixture[str]
) -> None:
    one = show(fake, tmp_path / "1.png", "--split", "train", "--count", "1")
    assert sheets.ids == [FOLDER_TRAIN[0]]
    three = show(fake, tmp_path / "3.png", "--split", "train", "--count", "3")
    assert sheets.ids == [FOLDER_TRAIN[0], FOLDER_TRAIN[3], FOLDER_TRAIN[6]]
    many = show(fake, tmp_path / "100.png", "--split", "train", "--count", "100")
    assert sheets.ids == list(FOLDER_TRAIN)
    assert one[0] < three[0] == many[0] and three[1] < many[1]
    assert "contact sheet of 7 of 7 images" in capsys.readouterr().out


def test_show_as_training_sees_them(fake: FakeFolder, tmp_path: Path, sheets: Sheets) -> None:
    plain = ["--split", "train", "--data.crop_size", "24", "--data.warp_size", "40"]
    show(fake, tmp_path / "plain.png", *plain)
    assert sheets.protocol is not None
    unseen = set(sheets.protocol.unseen)
    assert sheets.labels & unseen
    show(fake, tmp_path / "trained.png", *plain, "--as_trained", "true")
    assert all(sample["image"].shape == (3, 24, 24) for sample in sheets.samples)
    assert not sheets.labels & unseen
    assert any((sample["mask"] == 255).any() for sample in sheets.samples)


def test_show_draws_validation_images_with_unseen_classes(fake: FakeFolder, tmp_path: Path, sheets: Sheets) -> None:
    """A cut of the training list, or a list of its own."""
    show(fake, tmp_path / "cut.png", "--split", "val", "--data.val_fraction", "0.8")
    assert len(sheets.ids) == 6 and set(sheets.ids) < set(FOLDER_TRAIN)
    assert sheets.protocol is not None and sheets.labels & set(sheets.protocol.unseen)
    fake.write_list("train", FOLDER_TRAIN[:4])
    fake.write_list("val", FOLDER_TRAIN[4:])
    show(fake, tmp_path / "listed.png", "--split", "val")
    assert sheets.ids == list(FOLDER_TRAIN[4:])
    assert sheets.labels & set(sheets.protocol.unseen)


def test_show_under_development_has_its_classes(fake: FakeFolder, tmp_path: Path, sheets: Sheets) -> None:
    show(fake, tmp_path / "sheet.png", "--split", "val", "--data.development", "2", "--data.val_fraction", "0.8")
    assert sheets.protocol is not None and sheets.protocol.classes.index("water") >= 0
    assert sheets.protocol.num_classes == 4 and "cow" not in sheets.protocol.classes


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--count", "0"], "error: --count: found 0, expected at least 1"),
        (["--count", "-3"], "error: --count: found -3"),
        (["--split", "val", "--data.val_fraction", "0"], "error: --split: found no image in val"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    path = tmp_path / "sheets" / "sheet.png"
    assert main(["data", "show", *options(fake), "--output", str(path), *more]) == 1
    assert lines(capsys.readouterr().err)[-1].startswith(message)
    assert not path.parent.exists()


def test_a_broken_image_is_one_line_and_leaves_no_sheet(
    fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.image(FOLDER_TEST[1]).write_bytes(b"")
    path = tmp_path / "sheets" / "sheet.png"
    assert main(["data", "show", *options(fake), "--output", str(path)]) == 1
    (error,) = lines(capsys.readouterr().err)
    assert error.startswith(f"error: {fake.image(FOLDER_TEST[1])}: cannot be decoded")
    assert not path.parent.exists()


def test_large_images_are_thinned_and_keep_their_labels(fake: FakeFolder, tmp_path: Path, sheets: Sheets) -> None:
    mask = np.kron(fake.masks[FOLDER_TEST[0]], np.ones((20, 30), np.uint8))
    fake.add("large", mask)
    fake.write_list("test", ["large"])
    show(fake, tmp_path / "sheet.png")
    (sample,) = sheets.samples
    height, width = sample["mask"].shape
    assert 256 <= min(height, width) < 512 and sample["image"].shape == (3, height, width)
    assert height / width == pytest.approx(mask.shape[0] / mask.shape[1], rel=0.01)
    assert sheets.protocol is not None
    assert sheets.labels == set(sheets.protocol.lookup()[np.unique(mask)].tolist())
    # the samples hold no memory of the whole image
    assert sample["image"].untyped_storage().nbytes() == 3 * height * width


# -- the figure ----------------------------------------------------------------------------------------------------


def sheet_of(labels: dict[str, list[int]], protocol: Protocol, title: str = "") -> Figure:
    masks = [torch.tensor([found]) for found in labels.values()]
    images = [torch.zeros((3, *mask.shape), dtype=torch.uint8) for mask in masks]
    return panels.contact_sheet(images, masks, list(labels), protocol, title)


def test_the_legend_of_a_contact_sheet_marks_unseen_classes(tmp_path: Path) -> None:
    protocol = Protocol.build("toy", "default", {1: "sky", 2: "cow", 3: "grass", 4: "dog"}, ["cow", "dog"], (0, 255))
    figure = sheet_of({"first": [0, 2, 255], "second": [0, 0, 3]}, protocol, "toy, test")
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    # contiguous ids: sky, grass, cow, dog; grass is in no mask
    assert texts == ["sky", "cow ★", "dog ★", "unlabelled"]
    assert figure.legends[0].get_title().get_text() == "★ unseen class"
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["first", "", "second", ""]
    assert figure.get_suptitle() == "toy, test"
    figure.savefig(tmp_path / "sheet.png")


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 2), (2, 1, 4), (3, 1, 6), (4, 2, 6), (7, 3, 6)])
def test_a_contact_sheet_has_a_cell_per_image_and_mask(count: int, rows: int, columns: int) -> None:
    protocol = Protocol.build("toy", "default", {1: "sky", 2: "cow"}, ["cow"], (0, 255))
    figure = sheet_of({str(number): [0, 1] for number in range(count)}, protocol)
    assert len(figure.axes) == rows * columns
    assert sum(len(axes.images) for axes in figure.axes) == 2 * count
    colours = class_colours(["sky", "cow"])
    drawn = figure.axes[1].images[0].get_array()
    assert drawn is not None and np.allclose(drawn[0], colours[[0, 1]])


def test_a_contact_sheet_of_nothing_but_unlabelled_pixels(tmp_path: Path) -> None:
    protocol = Protocol.build("toy", "default", {1: "sky"}, [], (0, 255))
    figure = sheet_of({"void": [255, 255]}, protocol)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["unlabelled"]
    figure.savefig(tmp_path / "sheet.png")


# -- names that other programs would take for markup or paths -------------------------------------------------------


def test_names_are_drawn_as_they_are(fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {1: "sky [/x]", 2: "$\\frac$", 3: "cow", 5: "[bold]tree", 7: "a $1 and $2 sign", 4: "dog"}
    fake.write_classes("".join(f"{own_id}\t{name}\n" for own_id, name in names.items()))
    assert main(["data", "check", *options(fake)]) == 0
    checked = capsys.readouterr().out
    assert all(name in checked for name in names.values())
    sheet = tmp_path / "sheet.png"
    assert main(["data", "show", *options(fake), "--output", str(sheet)]) == 0
    model = ["--config", write_tiny(tmp_path), *options(fake)]
    vectors = tmp_path / "vectors.npz"
    rows = np.random.default_rng(0).standard_normal((len(names), 8)).astype(np.float32)
    ClassTable(tuple(names.values()), {"random": rows}).save(vectors)
    nearest = ["--model.vectors", str(vectors), "--output", str(tmp_path / "near.png")]
    assert main(["embed", "show", *model, *nearest]) == 0
    sizes = ["--data.crop_size", "32", "--data.warp_size", "32", "--data.num_workers", "0", "--data.batch_size", "2"]
    assert main(["fit", *model, *sizes, "--model.vectors", str(vectors)]) == 0
    out = capsys.readouterr().out
    assert "sky [/x]" in out and "[bold]tree" in out
    # a run's own configuration serves the other verbs
    config = ["--config", str(tmp_path / "runs" / "version_0" / "config.yaml")]
    assert main(["data", "check", *config]) == 0
    assert main(["embed", "show", *config, "--output", str(tmp_path / "again.png")]) == 0


def test_predictions_keep_their_subfolders(fake: FakeFolder, tmp_path: Path) -> None:
    for folder in ("images", "masks"):
        for name in FOLDER_TEST:
            for path in (fake.root / folder).glob(f"{name}.*"):
                for side in ("north", "south"):
                    (fake.root / folder / side).mkdir(exist_ok=True)
                    shutil.copy(path, fake.root / folder / side / path.name)
    fake.write_list("test", [f"{side}/{name}" for side in ("north", "south") for name in FOLDER_TEST])
    model = ["--config", write_tiny(tmp_path), *options(fake), "--model.phases", "[train]", "--data.num_workers", "0"]
    sizes = ["--data.crop_size", "32", "--data.warp_size", "32", "--data.batch_size", "2"]
    assert main(["fit", *model, *sizes]) == 0
    checkpoint = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["predict", *model, *sizes, "--ckpt_path", checkpoint]) == 0
    written = tmp_path / "runs" / "version_1" / "predictions"
    found = sorted(path.relative_to(written).as_posix() for path in written.rglob("*.png"))
    assert found == sorted(f"{side}/{name}.png" for side in ("north", "south") for name in FOLDER_TEST)


def test_a_folder_is_no_report(fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", *options(fake), "--report", str(tmp_path)]) == 1
    assert lines(capsys.readouterr().err)[-1].startswith(f"error: {tmp_path}: is a folder")
    assert main(["data", "show", *options(fake), "--output", str(tmp_path / "sheet.jpg")]) == 1
    assert "expected a name that ends in .png" in lines(capsys.readouterr().err)[-1]


def write_tiny(folder: Path) -> str:
    content = {"trainer": {"default_root_dir": str(folder / "runs"), "accelerator": "cpu"}, "model": TINY}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content))
    return str(folder / "tiny.yaml")


def test_no_image_is_resized_twice(fake: FakeFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--config", write_tiny(tmp_path), *options(fake), "--model.resolution", "feature"]
    assert main(["fit", *model, "--data.eval_size", "100"]) == 1
    assert lines(capsys.readouterr().err)[-1].startswith("error: eval_size: found 100 with resolution 'feature'")
