"""The verb export: what is written labels as the model does, and runs without this package."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.models.test_pretrained import LITE, SMALL, build
from torch import nn

from sign_zs3 import Segmenter, ShapesDataModule, UserError, load_segmenter
from sign_zs3.cli import main
from sign_zs3.files import write_json
from sign_zs3.models import export
from sign_zs3.protocol import Protocol
from sign_zs3.reports.run import as_results

EXAMPLE = Path(__file__).parents[2] / "examples" / "onnx_predict.py"
# none is (2, 16, 24), which is traced; a side of 5 has two cells
SIZES = [(1, 32, 32), (3, 33, 47), (2, 16, 24), (1, 5, 64)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a checkpoint after the training step, one after transfer, and results."""
    folder = tmp_path_factory.mktemp("run")
    model = tiny_model(train_iterations=1, generator_iterations=0, transfer_iterations=1, self_training_iterations=0,
                       seen_penalty=0.5)  # fmt: skip
    trainer = quiet_trainer(folder)
    trainer.fit(model, tiny_data())
    torch.manual_seed(0)
    networks: Any = model.segmenter
    with torch.no_grad():
        # so few iterations teach it one class; thus it tells several apart
        nn.init.normal_(networks.spatial.mu.weight)
        nn.init.normal_(networks.encoder.head[0].weight, std=0.3)
        nn.init.normal_(networks.classifier.projection.weight, std=3.0)
    trainer.save_checkpoint(folder / "checkpoints" / "last.ckpt")
    model.segmenter.known.copy_(torch.arange(22) < 18)
    trainer.save_checkpoint(folder / "checkpoints" / "train.ckpt")
    protocol = model.protocol
    assert isinstance(protocol, Protocol)
    scores = [
        {
            "seen_miou": value,
            "unseen_miou": value / 2,
            "harmonic_miou": value / 1.5,
            "per_class": dict.fromkeys(protocol.classes, value),
        }
        for value in (0.25, 0.75)
    ]
    results = as_results(protocol, "SIGN", 0, dict(zip(("train", "transfer"), scores, strict=True)))
    write_json(folder / "results.json", results)
    return folder


@pytest.fixture(scope="module")
def checkpoint(run_folder: Path) -> Path:
    return run_folder / "checkpoints" / "last.ckpt"


@pytest.fixture(scope="module")
def onnx_file(checkpoint: Path) -> Path:
    path = checkpoint.parent / "model.onnx"
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(path)]) == 0
    return path


def scenes(count: int, size: int = 32) -> torch.Tensor:
    data = ShapesDataModule(scene_size=size, test_size=count, eval_batch_size=count)
    data.setup("test")
    return torch.stack([data.test_dataloader().dataset[index]["image"] for index in range(count)])


def pictures(shape: tuple[int, int, int]) -> torch.Tensor:
    """Drawn scenes, cut or repeated to (N, height, width)."""
    count, height, width = shape
    found = scenes(count).repeat(1, 1, -(-height // 32), -(-width // 32))
    return found[:, :, :height, :width].contiguous()


def onnx_runner(path: Path) -> Callable[[torch.Tensor], list[NDArray[Any]]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: list(session.run(None, {"images": images.numpy()}))


def check_parity(segmenter: Segmenter, run: Callable[[torch.Tensor], Any]) -> None:
    """Compare labels and confidence with `segment`, image by image, in sizes and numbers that were not traced."""
    seen: set[int] = set()
    for shape in SIZES:
        images = pictures(shape)
        labels, confidence = (np.asarray(found) for found in run(images))
        assert labels.shape == confidence.shape == shape and labels.dtype == np.uint8
        for image, label, sure in zip(images, labels, confidence, strict=True):
            expected = segmenter.segment(image, confidence_map=True)
            assert expected.confidence_map is not None
            assert (expected.labels.numpy() == label).mean() >= 0.999
            np.testing.assert_allclose(sure, expected.confidence_map.numpy(), atol=1e-4)
            seen |= set(np.unique(label).tolist())
    assert len(seen) > 1, "a model of one class would agree whatever was exported"


# -- the graphs --------------------------------------------------------------------------------------------------


def test_onnx_labels_as_the_model_does(checkpoint: Path, onnx_file: Path) -> None:
    check_parity(load_segmenter(checkpoint), onnx_runner(onnx_file))


def test_onnx_reads_an_image_of_one_pixel(checkpoint: Path, onnx_file: Path) -> None:
    image = torch.full((1, 3, 1, 1), 200, dtype=torch.uint8)
    labels, _ = onnx_runner(onnx_file)(image)
    assert labels.tolist() == [load_segmenter(checkpoint).predict(image[0]).tolist()]


def test_torch_export_labels_as_the_model_does(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = checkpoint.parent / "model.pt2"
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(path)]) == 0
    assert "compared: 100.00 %" in capsys.readouterr().out
    extra = {"sign_zs3.json": ""}
    program = torch.export.load(path, extra_files=extra)
    check_parity(load_segmenter(checkpoint), program.module())
    metadata = json.loads(extra["sign_zs3.json"])
    config = load_segmenter(checkpoint).config
    assert config is not None
    assert metadata["min_side"] == 5 and tuple(metadata["classes"]) == config.protocol.classes


@pytest.mark.parametrize(
    ("spatial", "classifier"),
    [
        ({"name": "contextual"}, "linear"),
        ({"name": "plain", "sigmoid": False}, "projection"),
        ({"name": "sim", "encoding": "conv", "position": "interpolated", "train_size": [4, 4]}, "linear"),
    ],
    ids=["CaGNet", "SPNet", "interpolated"],
)
def test_onnx_of_other_methods(tmp_path: Path, spatial: dict[str, Any], classifier: str) -> None:
    segmenter = build(spatial=spatial, classifier=classifier)
    segmenter.known.fill_(True)
    networks: Any = segmenter
    with torch.no_grad():
        # even odds for the classes, and features that differ from pixel to pixel
        networks.encoder.head[0].weight.mul_(5)
        if classifier == "linear":
            networks.classifier.projection.bias.sub_(segmenter(pictures((4, 32, 32))).mean(dim=(0, 2, 3)))
        else:
            networks.classifier.vectors.sub_(networks.classifier.vectors.mean(dim=0))
    assert export.write_onnx(segmenter, tmp_path / "model.onnx") == 1
    check_parity(segmenter, onnx_runner(tmp_path / "model.onnx"))


def test_networks_that_pad_by_the_side_are_exported(tmp_path: Path) -> None:
    segmenter = build(LITE, {"name": "plain"})
    before = {name: value.clone() for name, value in segmenter.state_dict().items()}
    assert export.write_program(segmenter, tmp_path / "model.pt2") >= 0.999
    assert all(torch.equal(before[name], value) for name, value in segmenter.state_dict().items())
    run = torch.export.load(tmp_path / "model.pt2").module()
    for height, width in [(32, 41), (47, 50), (33, 35)]:
        image = pictures((1, height, width))
        _, confidence = run(image)
        expected = segmenter.segment(image[0], confidence_map=True).confidence_map
        assert expected is not None
        torch.testing.assert_close(confidence[0], expected, atol=1e-4, rtol=0)


def test_windowed_attention_goes_into_a_folder_alone(tmp_path: Path) -> None:
    segmenter = build(spatial={"name": "sim", "window": 3})
    with pytest.raises(UserError, match=r"windows of 3 cells.*--format pretrained"):
        export.write_onnx(segmenter, tmp_path / "model.onnx")
    segmenter.save_pretrained(tmp_path / "model")
    images = pictures((1, 32, 41))
    torch.testing.assert_close(Segmenter.from_pretrained(tmp_path / "model")(images), segmenter.eval()(images))


def test_a_file_that_disagrees_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(export.Labeller):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            labels, confidence = super().forward(images)
            # as a graph, it gives another label
            return (labels + 1 if torch.compiler.is_exporting() else labels), confidence

    monkeypatch.setattr(export, "Labeller", Wrong)
    with pytest.raises(UserError, match=r"agree on 0\.00 % of the pixels, expected at least 99\.9 %"):
        export.write_program(build(spatial={"name": "plain"}), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


# -- metadata ----------------------------------------------------------------------------------------------------


def test_onnx_metadata_names_classes_and_preprocessing(checkpoint: Path, onnx_file: Path) -> None:
    proto = onnx.load(onnx_file)
    onnx.checker.check_model(proto)
    (image,), outputs = proto.graph.input, proto.graph.output
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    axes = [axis.dim_param or axis.dim_value for axis in image.type.tensor_type.shape.dim]
    assert axes == ["batch", 3, "height", "width"]
    assert {output.name for output in outputs} == {"labels", "confidence"}
    metadata = json.loads({entry.key: entry.value for entry in proto.metadata_props}["sign_zs3"])
    config = load_segmenter(checkpoint).config
    assert config is not None
    assert (tuple(metadata["classes"]), tuple(metadata["ids"])) == (config.protocol.classes, config.protocol.ids)
    assert tuple(metadata["unseen"]) == config.protocol.unseen_classes and all(metadata["known"])
    assert (metadata["dataset"], metadata["split"], metadata["seen_penalty"]) == ("shapes", config.protocol.split, 0.5)
    assert metadata["preprocessing"]["mean"] == list(config.image_mean)
    assert (metadata["stride"], metadata["window"]) == (4, 512)
    assert metadata["left_out"] == {"flip": False, "scales": [1.0]}


def test_flip_and_scales_of_a_checkpoint_go_with_the_folder_and_are_told_of_a_file(
    run_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content = torch.load(run_folder / "checkpoints" / "last.ckpt", weights_only=True)
    content["hyper_parameters"] |= {"flip": True, "scales": [0.5, 1.0]}
    torch.save(content, tmp_path / "views.ckpt")
    command = ["export", "--ckpt_path", str(tmp_path / "views.ckpt"), "--output"]
    assert main([*command, str(tmp_path / "model")]) == 0
    (image,) = pictures((1, 40, 56))
    folder, plain = load_segmenter(tmp_path / "model"), load_segmenter(run_folder / "checkpoints" / "last.ckpt")
    assert torch.equal(folder.predict(image), load_segmenter(tmp_path / "views.ckpt").predict(image))
    assert torch.equal(folder.predict(image), plain.predict(image, flip=True, scales=(0.5, 1)))
    assert not torch.equal(folder.predict(image), plain.predict(image))
    assert torch.equal(folder.predict(image, flip=False, scales=(1,)), plain.predict(image))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "Predictions are the mean over the mirror image and the scales 0.5, 1" in card
    # the other form of predict says so for both
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    for name in ("model", "views.ckpt"):
        written = tmp_path / f"of-{name}"
        assert main(["predict", "--ckpt_path", str(tmp_path / name), "--data.images", str(tmp_path / "photo.png"),
                     "--output", str(written)]) == 0  # fmt: skip
        options = json.loads((written / "predictions.json").read_text())["options"]
        assert (options["flip"], options["scales"]) == (True, [0.5, 1.0])
    index = [np.asarray(Image.open(tmp_path / f"of-{name}" / "photo.png")) for name in ("model", "views.ckpt")]
    np.testing.assert_array_equal(index[0], index[1])
    assert main([*command, str(tmp_path / "model.pt2")]) == 0
    assert "not part of the file, which reads an image once: flip True, scales [0.5, 1.0]" in caplog.text
    capsys.readouterr()


def test_the_example_runs_without_this_package(checkpoint: Path, onnx_file: Path, tmp_path: Path) -> None:
    for package in ("sign_zs3", "torch"):
        (tmp_path / f"{package}.py").write_text("raise ImportError('not needed here')\n")
    (image,) = pictures((1, 48, 40))
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photo.png")
    script = "import runpy, sys; sys.path.insert(0, '.'); runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", script, str(EXAMPLE), str(onnx_file), "photo.png", "labels.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    segmenter = load_segmenter(checkpoint)
    assert segmenter.config is not None
    labels = segmenter.predict(image)
    own = np.asarray(segmenter.config.protocol.ids, np.uint8)[labels.numpy()]
    assert (np.asarray(Image.open(tmp_path / "labels.png")) == own).mean() >= 0.999
    for index in torch.unique(labels).tolist():
        name = segmenter.config.protocol.classes[index]
        unseen = " (unseen in training)" if name in segmenter.config.protocol.unseen_classes else ""
        assert f"{name}{unseen}: {float((labels == index).double().mean()):.1%} of the pixels" in done.stdout
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 32
    # a large photograph is reduced to 64 cells a side, and its labels have its size all the same
    (image,) = pictures((1, 300, 700))
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "large.png")
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(onnx_file), "large.png", "large_labels.png"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "large_labels.png") as labelled:
        assert labelled.size == (700, 300)


# -- the folder --------------------------------------------------------------------------------------------------


def test_the_folder_is_the_model_with_the_scores_of_its_run(
    run_folder: Path, checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "model")]) == 0
    assert "scores after phase transfer" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    first, second = load_segmenter(checkpoint), load_segmenter(tmp_path / "model")
    assert first.config == second.config
    images = pictures((2, 33, 20))
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| 75.0 | 37.5 | 50.0 |" in card and "| method | SIGN |" in card

    earlier = ["export", "--ckpt_path", str(run_folder / "checkpoints" / "train.ckpt"), "--output"]
    assert main([*earlier, str(tmp_path / "model"), "--overwrite"]) == 0
    card = (tmp_path / "model" / "README.md").read_text(encoding="utf-8")
    assert "| 25.0 | 12.5 | 16.7 |" in card and "Not taught yet" in card
    assert not bool(load_segmenter(tmp_path / "model").known.all())


def test_classes_that_are_not_taught_are_told(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = run_folder / "checkpoints" / "train.ckpt"
    assert main(["export", "--ckpt_path", str(source), "--output", str(tmp_path / "model")]) == 0
    config = load_segmenter(source).config
    assert config is not None
    assert f"never among the labels: {', '.join(config.protocol.unseen_classes)};" in caplog.text


def test_a_folder_that_is_exported_again_keeps_its_scores(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "one")]) == 0
    assert main(["export", "--ckpt_path", str(tmp_path / "one"), "--output", str(tmp_path / "two")]) == 0
    for name in ("README.md", "config.json", "model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.parametrize(
    "spoilt",
    [[1], "x", {"seen_miou": "0.5"}, {"seen_miou": 50}, {"per_class": [1]}, {"per_class": {"sky": "x"}}],
    ids=str,
)
def test_damaged_scores_are_left_out(
    run_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, spoilt: Any
) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    results["phases"]["transfer"] = spoilt
    (tmp_path / "run" / "results.json").write_text(json.dumps(results))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert main(["export", "--ckpt_path", str(last), "--output", str(tmp_path / "model")]) == 0
    assert "cannot be read" in caplog.text and "so the model card has no scores" in caplog.text
    assert "None are stored" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_scores_of_other_classes_are_not_taken(run_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run_folder, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    fewer = tmp_path / "run" / "checkpoints" / "transfer.ckpt"
    assert main(["remove", "--ckpt_path", str(last), "--classes", "blue star", "--output", str(fewer)]) == 0
    assert main(["export", "--ckpt_path", str(fewer), "--output", str(tmp_path / "model")]) == 0
    assert "None are stored" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


def test_scores_of_another_run_are_not_taken(checkpoint: Path, tmp_path: Path) -> None:
    other = tmp_path / "run" / "checkpoints"
    other.mkdir(parents=True)
    (other / "last.ckpt").write_bytes(checkpoint.read_bytes())
    for content in ("{", '{"dataset": "voc", "split": "default", "final": "train", "phases": {}}'):
        (tmp_path / "run" / "results.json").write_text(content)
        arguments = ["--ckpt_path", str(other / "last.ckpt"), "--output", str(tmp_path / "model"), "--overwrite"]
        assert main(["export", *arguments]) == 0
        assert "None are stored" in (tmp_path / "model" / "README.md").read_text(encoding="utf-8")


# -- bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "model.tflite"], "--output: found model.tflite, expected a name that ends in .onnx or .pt2"),
        (["--output", "m.pt2", "--format", "onnx"], "m.pt2 with --format onnx, expected a name that ends in .onnx"),
        (["--output", "there.onnx"], "--output: there.onnx is there already; name another, or replace it with"),
        (["--output", "there"], "--output: there is there already"),
        (["--output", "there.onnx", "--format", "pretrained"], "found the file there.onnx, expected a folder"),
        (["--output", "new.onnx", "--ckpt_path", "none.ckpt"], "checkpoint: none.ckpt is not there"),
        (["--output", "new.onnx", "--ckpt_path", "empty.ckpt"], "checkpoint: empty.ckpt is damaged or no checkpoint"),
        (["--output", "new.onnx", "--ckpt_path", "there"], "there: found no config.json, expected a folder with"),
    ],
)  # fmt: skip
def test_bad_input_is_one_line_and_writes_nothing(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    for name in ("there.onnx", "empty.ckpt"):
        (tmp_path / name).touch()
    assert main(["export", "--ckpt_path", str(checkpoint), *arguments]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.ckpt", "there", "there.onnx"]
    assert not (tmp_path / "there.onnx").stat().st_size


def test_missing_packages_are_named(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "onnxscript" else find(name, *rest)
    )
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "model.onnx")]) == 1
    expected = "onnxscript not installed, expected for an ONNX file: pip install 'onnx>=1.16'"
    assert expected in capsys.readouterr().err


def test_networks_that_no_graph_holds_are_refused(tmp_path: Path) -> None:
    segmenter = build(SMALL | {"input_scales": [1.0, 0.5]})
    with pytest.raises(UserError, match=r"input_scales: found \[1\.0, 0\.5\], expected \[1\.0\]"):
        export.write_program(segmenter, tmp_path / "model.pt2")
    segmenter.config = None
    with pytest.raises(UserError, match=r"expected one of Segmenter\.build"):
        export.write_onnx(segmenter, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
