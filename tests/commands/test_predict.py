"""The verb predict on images of one's own: the files that it writes, and what it does with bad ones."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from torch import nn

from sign_zs3 import Segmenter, UserError, load_segmenter
from sign_zs3.cli import main
from sign_zs3.commands.predict import named_images
from sign_zs3.drawing.colours import protocol_colours

ORIENTATION = 0x0112
UPPER_PIXELS = 4096


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells several classes apart, unseen ones among them, by a pixel's surroundings alone."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model(train_iterations=1, generator_iterations=0, transfer_iterations=1, self_training_iterations=0,
                       seen_penalty=0.25)  # fmt: skip
    trainer = quiet_trainer(folder)
    trainer.fit(model, tiny_data())
    torch.manual_seed(0)
    networks: Any = model.segmenter
    with torch.no_grad():
        nn.init.normal_(networks.spatial.mu.weight)
        nn.init.normal_(networks.encoder.head[0].weight, std=0.3)
        nn.init.normal_(networks.classifier.projection.weight, std=3.0)
    trainer.save_checkpoint(folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Segmenter:
    return load_segmenter(checkpoint)


def scene(seed: int = 0, height: int = 60, width: int = 90) -> NDArray[np.uint8]:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.NEAREST))


def opened(path: Path | str) -> Image.Image:
    with Image.open(path) as image:
        image.load()
        return image


def own_ids(segmenter: Segmenter, labels: torch.Tensor) -> NDArray[np.uint8]:
    assert segmenter.config is not None
    ids: NDArray[np.uint8] = np.asarray(segmenter.config.protocol.ids, np.uint8)
    return np.take(ids, labels.numpy())


def report_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return found


class Program:
    """The command line, with what it printed."""

    def __init__(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.checkpoint = checkpoint
        self.capsys = capsys
        self.out = self.err = ""

    def __call__(self, *arguments: object) -> int:
        code = main(["predict", "--ckpt_path", str(self.checkpoint), "--data.images", *map(str, arguments)])
        self.out, self.err = self.capsys.readouterr()
        assert "Traceback" not in self.out + self.err
        return code

    def refused(self, *arguments: object) -> str:
        assert self(*arguments) == 1
        (line,) = self.err.strip().splitlines()
        assert line.startswith("error: ")
        return line


@pytest.fixture
def predict(checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
            tmp_path: Path) -> Program:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    return Program(checkpoint, capsys)


# -- what is written ---------------------------------------------------------------------------------------------


def test_the_files_of_an_image(predict: Program, segmenter: Segmenter, tmp_path: Path) -> None:
    image = scene()
    Image.fromarray(image).save(tmp_path / "photo.png")
    assert predict("photo.png") == 0, predict.err
    assert predict.out == "predictions: predictions (1 image: NAME.png, NAME_overlay.jpg; predictions.json)\n"
    folder = tmp_path / "predictions"
    assert sorted(path.name for path in folder.iterdir()) == ["photo.png", "photo_overlay.jpg", "predictions.json"]
    assert segmenter.config is not None
    protocol = segmenter.config.protocol

    # the model's own penalty counts, as it does in Python
    labels = segmenter.predict(image)
    assert len(torch.unique(labels)) > 3
    with Image.open(folder / "photo.png") as index:
        assert index.mode == "P" and index.size == (90, 60)
        ids = np.asarray(index)
        np.testing.assert_array_equal(ids, own_ids(segmenter, labels))
        colours = (protocol_colours(protocol)[labels.numpy()] * 255).round()
        np.testing.assert_array_equal(np.asarray(index.convert("RGB")), colours)
    with Image.open(folder / "photo_overlay.jpg") as overlay:
        # the image, enlarged to 320 columns, and the legend below
        assert overlay.width >= 320 and overlay.height > 213

    report = report_of(folder)
    assert report["complete"] is True and report["failed"] == [] and report["method"] == "SIGN"
    assert (report["dataset"], report["split"]) == (protocol.dataset, protocol.split)
    assert report["checkpoint"] == str(predict.checkpoint)
    assert [entry["name"] for entry in report["classes"]] == list(protocol.classes)
    assert [entry["id"] for entry in report["classes"]] == list(protocol.ids)
    assert [entry["name"] for entry in report["classes"] if not entry["seen"]] == list(protocol.unseen_classes)
    assert report["options"]["seen_penalty"] == 0.25
    (entry,) = report["images"]
    assert (entry["file"], entry["index"], entry["overlay"]) == ("photo.png", "photo.png", "photo_overlay.jpg")
    assert (entry["width"], entry["height"]) == (90, 60)
    counts = {protocol.classes[i]: int((labels == i).sum()) for i in torch.unique(labels).tolist()}
    assert entry["pixels"] == counts
    assert set(entry["class_confidence"]) == set(counts)
    found = segmenter.segment(image, confidence_map=True)
    assert found.confidence_map is not None
    assert entry["confidence"] == pytest.approx(float(found.confidence_map.double().mean()), abs=1e-6)


def test_folders_keep_their_subfolders(predict: Program, tmp_path: Path) -> None:
    for name in ("a/one.png", "a/deep/two.JPG", "a/one.jpg", "a/notes.txt", "a/.hidden.png", "b/one.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("no image")
        else:
            Image.fromarray(scene()).save(path)
    assert predict("a", "--output", "out") == 0
    written = sorted(path.relative_to("out").as_posix() for path in Path("out").rglob("*.png"))
    # the two that would share a name keep their suffixes
    assert written == ["deep/two.png", "one.jpg.png", "one.png.png"]
    # both folders' names are kept where both have such an image
    assert predict("a", "b", "--output", "both") == 0
    assert {entry["index"] for entry in report_of(Path("both"))["images"]} == {
        "a/deep/two.png", "a/one.jpg.png", "a/one.png.png", "b/one.png",
    }  # fmt: skip
    assert "predict: 100%" in predict.err


def test_what_is_given_twice_is_labelled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/one.png", "in/out/one.png", "one.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    given = [tmp_path / "in", tmp_path / "in" / "one.png", tmp_path / "one.png"]
    found = named_images(given, output=tmp_path / "in" / "out")
    assert found == {"one": tmp_path / "in" / "one.png", "one-2": tmp_path / "one.png"}
    # whatever way leads there, and no name is one that `paths_of` would change
    monkeypatch.chdir(tmp_path / "in" / "out")
    found = named_images([Path("one.png"), Path(".."), Path("../../in")], output=tmp_path / "elsewhere")
    assert found == {"one": Path("one.png"), "in/one": Path("../one.png")}
    # what was written through a link is not read
    (tmp_path / "in" / "link").symlink_to(tmp_path / "in" / "out")
    found = named_images([tmp_path / "in"], output=tmp_path / "in" / "link")
    assert found == {"one": tmp_path / "in" / "one.png"}


def test_pipes_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    os.mkfifo(tmp_path / "b.png")
    (tmp_path / "c.png").symlink_to("nowhere")
    assert list(named_images([tmp_path], tmp_path / "out")) == ["a", "c"]
    with pytest.raises(UserError, match=r"b\.png is not there.*expected an image"):
        named_images([tmp_path / "b.png"], tmp_path / "out")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(predict: Program, segmenter: Segmenter, tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(scene())
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    assert predict("turned.png") == 0
    ways = Image.Transpose
    turn = {2: ways.FLIP_LEFT_RIGHT, 3: ways.ROTATE_180, 4: ways.FLIP_TOP_BOTTOM, 5: ways.TRANSPOSE,
            6: ways.ROTATE_270, 7: ways.TRANSVERSE, 8: ways.ROTATE_90}  # fmt: skip
    upright = np.asarray(image if orientation == 1 else image.transpose(turn[orientation]))
    index = np.asarray(opened(tmp_path / "predictions" / "turned.png"))
    assert index.shape == ((60, 90) if orientation < 5 else (90, 60))
    np.testing.assert_array_equal(index, own_ids(segmenter, segmenter.predict(upright)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_other_kinds_of_images(predict: Program, tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(scene())
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 256)
    else:
        image = image.convert(mode)
    name = "photo.tif" if mode == "CMYK" else "photo.png"
    image.save(tmp_path / name)
    assert predict(name) == 0
    assert opened(tmp_path / "predictions" / "photo.png").size == (90, 60)


def test_options_of_reading(predict: Program, segmenter: Segmenter, tmp_path: Path) -> None:
    image = scene(height=150, width=130)
    Image.fromarray(image).save(tmp_path / "photo.png")
    options = ["--flip", "--scales", "0.5,1", "--seen_penalty", "0.1", "--window", "64", "--overlap", "16"]
    assert predict("photo.png", *options) == 0
    labels = segmenter.predict(image, flip=True, scales=(0.5, 1.0), seen_penalty=0.1, window=64, overlap=16)
    assert not torch.equal(labels, segmenter.predict(image))
    np.testing.assert_array_equal(np.asarray(opened("predictions/photo.png")), own_ids(segmenter, labels))
    assert report_of(Path("predictions"))["options"] == {
        "flip": True, "scales": [0.5, 1.0], "seen_penalty": 0.1, "window": 64, "overlap": 16, "max_pixels": 100_000_000,
    }  # fmt: skip
    # the names of the other form do as well; 0 reads the image whole
    assert predict("photo.png", "--model.scales", "[1.0]", "--window", "0", "--overwrite") == 0
    whole = segmenter.predict(image, window=0)
    np.testing.assert_array_equal(np.asarray(opened("predictions/photo.png")), own_ids(segmenter, whole))


def test_a_folder_that_save_pretrained_wrote(predict: Program, segmenter: Segmenter, tmp_path: Path) -> None:
    segmenter.save_pretrained(tmp_path / "model")
    Image.fromarray(scene()).save(tmp_path / "photo.png")
    predict.checkpoint = tmp_path / "model"
    assert predict("photo.png") == 0, predict.err
    index = np.asarray(opened("predictions/photo.png"))
    np.testing.assert_array_equal(index, own_ids(segmenter, segmenter.predict(scene())))
    assert report_of(Path("predictions"))["options"]["seen_penalty"] == 0.25


def test_an_image_of_one_pixel(predict: Program, tmp_path: Path) -> None:
    Image.fromarray(scene(height=1, width=1)).save(tmp_path / "dot.png")
    Image.fromarray(scene(height=1, width=300)).save(tmp_path / "line.png")
    assert predict("dot.png", "line.png") == 0
    assert opened("predictions/dot.png").size == (1, 1)
    assert opened("predictions/line.png").size == (300, 1)
    (dot, _) = report_of(Path("predictions"))["images"]
    assert list(dot["pixels"].values()) == [1]


# -- bad input ---------------------------------------------------------------------------------------------------


def test_it_goes_on_past_what_cannot_be_read(predict: Program, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "b.png")
    Image.fromarray(scene()).save(tmp_path / "large.bmp")
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "c.jpg").write_text("no image")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "d.png").write_bytes(whole[: len(whole) // 2])
    Image.fromarray(scene(height=100, width=100)).save(tmp_path / "e.png")
    (tmp_path / "large.bmp").unlink()
    assert predict(".", "--max_pixels", "5400") == 1
    lines = [line for line in predict.err.splitlines() if line.startswith(("failed: ", "error: "))]
    assert [line.partition(".")[0] for line in lines[:-1]] == ["failed: a", "failed: c", "failed: d", "failed: e"]
    assert all("cannot be decoded" in line and "expected an image" in line for line in lines[:3])
    assert "e.png: found 100 x 100 = 10000 pixels, expected at most 5400" in lines[3]
    assert lines[-1] == "error: 4 of 5 images failed; they are named above"
    assert "(1 image:" in predict.out
    report = report_of(Path("predictions"))
    assert report["complete"] is True
    assert [entry["file"] for entry in report["images"]] == ["b.png"]
    assert [Path(entry["file"]).name for entry in report["failed"]] == ["a.png", "c.jpg", "d.png", "e.png"]
    assert sorted(path.name for path in Path("predictions").iterdir()) == [
        "b.png", "b_overlay.jpg", "predictions.json",
    ]  # fmt: skip


def test_an_image_that_was_deleted_meanwhile(predict: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    from sign_zs3.commands import predict as module

    monkeypatch.setattr(module, "named_images", lambda *_, **__: {"a": Path("a.png"), "gone": Path("gone.png")})
    assert predict("a.png") == 1
    assert "failed: gone.png: not found, expected an image; put the file there" in predict.err


def test_too_little_memory_is_told(predict: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")

    def full(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(Segmenter, "segment", full)
    assert predict("a.png") == 1
    assert "failed: a.png: not enough memory, expected room for image and window; lower --window" in predict.err


def test_too_little_memory_for_a_tensor_is_told(
    predict: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the CPU torch says so by a RuntimeError; another one is no such thing."""
    Image.fromarray(scene()).save(tmp_path / "a.png")
    Image.fromarray(scene()).save(tmp_path / "b.png")
    segment = Segmenter.segment

    def full(self: Segmenter, image: Any, **options: Any) -> Any:
        monkeypatch.setattr(Segmenter, "segment", segment)
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr(Segmenter, "segment", full)
    assert predict("a.png", "b.png") == 1
    assert "failed: a.png: not enough memory" in predict.err
    assert [entry["file"] for entry in report_of(Path("predictions"))["images"]] == ["b.png"]


def test_it_goes_on_past_what_cannot_be_written(predict: Program, tmp_path: Path) -> None:
    long = "a" * 245 + ".png"
    for name in (long, "b.jpg", "b.png/c.png", "d.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene()).save(tmp_path / "in" / name)
    assert predict("in") == 1
    lines = [line for line in predict.err.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 2 and "name" in lines[0] and "cannot be written, since" in lines[1]
    report = report_of(Path("predictions"))
    assert [entry["index"] for entry in report["images"]] == ["b.png", "d.png"]
    assert len(report["failed"]) == 2


def test_a_full_disk_ends_it_with_what_is_whole(checkpoint: Path, tmp_path: Path) -> None:
    """A limit on the size of files cuts writes short, as a full disk does."""
    resource = pytest.importorskip("resource", reason="limits of a process: not on this system")
    (tmp_path / "in").mkdir()
    for index in range(3):
        noise = np.random.default_rng(index).integers(0, 256, (200, 300, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{index}.png")
    (tmp_path / "in" / "broken.png").touch()
    command = [sys.executable, "-m", "sign_zs3", "predict", "--ckpt_path", str(checkpoint), "--data.images", "in"]
    # a coverage that is measured would be cut short as well, and complain
    environment = {key: value for key, value in os.environ.items() if not key.startswith("COVERAGE_")}
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env=environment | {"OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000)),
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert len(lines) == 4 and all("_overlay.jpg: cannot be written (File too large)" in line for line in lines[:3])
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == [
        "0.png", "1.png", "2.png", "predictions.json",
    ]  # fmt: skip


def test_no_room_at_all_stops_at_once(predict: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("0.png", "a.png", "b.png"):
        Image.fromarray(scene()).save(tmp_path / name)
    (tmp_path / "0.png").write_bytes(b"")
    write, tried = Path.write_bytes, []

    def full(self: Path, content: bytes) -> int:
        tried.append(self.name)
        if self.suffix == ".part" and "overlay" in self.name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    assert predict("0.png", "a.png", "b.png") == 1
    assert tried == [".a_overlay.jpg.part"]
    lines = predict.err.strip().splitlines()
    assert lines[-1].startswith("error: ") and "cannot be written (No space left on device); make room" in lines[-1]
    assert [line.partition(".")[0] for line in lines if line.startswith("failed: ")] == [
        "failed: 0",
        "failed: predictions/a_overlay",
    ]
    report = report_of(Path("predictions"))
    assert report["complete"] is False and len(report["failed"]) == 2


def test_closed_folders_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("in/a.png", "in/closed/b.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    scan = os.scandir

    def guarded(path: Any) -> Any:
        # the superuser may open any folder
        if str(path).endswith("closed"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", guarded)
    told: list[str] = []
    found = named_images([tmp_path / "in"], tmp_path / "out", lambda folder, error: told.append(f"{folder} {error}"))
    assert list(found) == ["a"]
    (line,) = told
    assert "closed: this folder cannot be opened (Permission denied)" in line
    with pytest.raises(UserError, match="cannot be opened"):
        named_images([tmp_path / "in"], tmp_path / "out")
    with pytest.raises(UserError, match="cannot be opened"):
        named_images([tmp_path / "in" / "closed"], tmp_path / "out", lambda folder, error: told.append(folder))


def test_an_output_that_exists_is_refused(predict: Program, tmp_path: Path) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "predictions").mkdir()
    kept = tmp_path / "predictions" / "a.png"
    kept.write_text("mine")
    line = predict.refused("a.png")
    assert "--output: predictions is not empty: name another folder, or replace files with --overwrite" in line
    assert kept.read_text() == "mine"
    assert predict("a.png", "--overwrite") == 0
    assert opened(kept).size == (90, 60)
    # an image to read is never replaced
    before = (tmp_path / "a.png").read_bytes()
    assert "a.png would be replaced, which is one of the images" in predict.refused(
        "a.png", "--output", ".", "--overwrite"
    )
    assert (tmp_path / "a.png").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["none.png"],
            "--images: none.png is not there, or may not be read, expected an image or a folder of images",
        ),
        (["empty"], "--images: found no image in empty, expected files that end in .jpg"),
        (["a.png", "--output", "a.png"], "--output: found the file a.png, expected a folder"),
        (["a.png", "--ckpt_path", "none.ckpt"], "checkpoint: none.ckpt is not there"),
        (["a.png", "--ckpt_path", "a.png"], "checkpoint: a.png"),
        (["a.png", "--ckpt_path", "empty"], "empty: found no config.json, expected a folder"),
        (["a.png", "--device", "fpga"], "--device: found fpga, which torch cannot use here"),
        (["a.png", "--device", "meta"], "--device: found meta, which torch cannot use here"),
        (
            ["a.png", "--window", "64", "--overlap", "32"],
            "overlap: found 32, expected 0 or more and less than half of window = 64",
        ),
        (["a.png", "--output", "dangling"], "dangling links to what is not there; name another place"),
        (["a.png", "--output", "a.png/out"], "a.png is a file; name another place"),
    ],
)
def test_bad_arguments_are_one_line(predict: Program, tmp_path: Path, arguments: list[str], message: str) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    assert message in predict.refused(*arguments)
    assert not (tmp_path / "predictions").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--scales", "0"], "--scales/--model.scales: found '0', expected numbers above 0"),
        (["--scales", "1,11"], "found '1,11', expected numbers above 0, at most 4"),
        (["--seen_penalty", "inf"], "found 'inf', expected a finite number"),
        (["--output", ""], "found '', expected a path"),
        (["--config", "x.yaml", "--device", "cpu"], "--config: is no option here; --help lists those that are"),
        (["--flip", "maybe"], "found 'maybe', expected true or false"),
        (["--max_pixels", "0"], "found '0', expected a whole number of at least 1"),
        (["--window", "-1"], "found '-1', expected a whole number of at least 0"),
    ],
)
def test_bad_options_are_named(
    predict: Program, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as stopped:
        predict("a.png", *arguments)
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


# -- as a program ------------------------------------------------------------------------------------------------


def test_sigterm_leaves_a_report_of_what_is_done(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for index in range(60):
        Image.fromarray(scene(index, 200, 300)).save(tmp_path / "in" / f"{index:03d}.png", compress_level=0)
    command = [sys.executable, "-m", "sign_zs3", "predict", "--ckpt_path", str(checkpoint), "--data.images", "in"]
    with subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as program:  # fmt: skip
        deadline = time.monotonic() + 120
        while not (tmp_path / "predictions" / "001.png").exists():
            assert program.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        program.send_signal(signal.SIGTERM)
        _, err = program.communicate(timeout=60)
    assert program.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM" in err and "Traceback" not in err
    report = report_of(tmp_path / "predictions")
    assert report["complete"] is False
    done = [entry["index"] for entry in report["images"]]
    assert 1 <= len(done) < 60
    # nothing half written, and at most the one that was being written more than the report says
    found = sorted(path.name for path in (tmp_path / "predictions").glob("*.png"))
    assert found[: len(done)] == done and len(found) <= len(done) + 1


# ru_maxrss would begin at the peak of the process that starts this one
@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
def test_a_large_image_needs_memory_for_itself_its_labels_and_a_window() -> None:
    """The peak of a process that labels 4 million pixels, against one that labels 1 million."""
    script = """
import sys, torch
from pathlib import Path
from sign_zs3.models import Classifier, Encoder, Segmenter, SpatialInformationModule
torch.set_num_threads(1)
encoder = Encoder("small", feature_dim=8, dilations=(1,))
spatial = SpatialInformationModule(8, encoding="conv", width=8)
segmenter = Segmenter(encoder, spatial, Classifier(8, 5), num_seen=3)
side = int(sys.argv[1])
image = torch.zeros(3, side, side, dtype=torch.uint8)
image[:, ::7] = 200
segmenter.segment(image, window=256)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
    peaks = []
    for side in (1000, 2000):
        done = subprocess.run([sys.executable, "-c", script, str(side)], capture_output=True, text=True, check=True)
        peaks.append(int(done.stdout) * 1024)
    # three bytes of image and one of label; read as a whole, the scores of five classes alone take 20
    assert 3 < (peaks[1] - peaks[0]) / (2000**2 - 1000**2) < 10


def test_the_limit_is_max_pixels_and_not_that_of_pillow(
    predict: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(scene()).save(tmp_path / "a.png")
    # of 5400 pixels it would warn, and of twice as many it would refuse to read them
    for limit in (5000, 2600):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert predict("a.png", "--max_pixels", "5400", "--overwrite") == 0, predict.err
        assert limit == Image.MAX_IMAGE_PIXELS
