"""Each command opens the checkpoint that it is given once."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.opens import LINUX, counted
from tests.reliability.programs import write_config

from sign_zs3 import SIGNModule, load_segmenter, load_task
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main

pytestmark = pytest.mark.skipif(not LINUX, reason="openings are counted by Linux")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run's configuration, its checkpoint after all phases and in the middle, and an image."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder)
    assert main(["fit", "--config", config]) == 0
    checkpoints = folder / "runs" / "version_0" / "checkpoints"
    shutil.copy(checkpoints / "last.ckpt", folder / "whole.ckpt")
    shutil.copy(checkpoints / "train.ckpt", folder / "middle.ckpt")
    (folder / "images").mkdir()
    Image.fromarray(np.full((24, 32, 3), 90, np.uint8)).save(folder / "images" / "a.png")
    return folder


COMMANDS: dict[str, tuple[str, list[str]]] = {
    "test": ("whole.ckpt", ["test", "--config", "tiny.yaml", "--ckpt_path"]),
    "test, data alone": ("whole.ckpt", ["test", "--data", "ShapesDataModule", "--data.scene_size", "32",
                                        "--data.test_size", "2", "--ckpt_path"]),
    "validate": ("whole.ckpt", ["validate", "--config", "tiny.yaml", "--ckpt_path"]),
    "predict a data set": ("whole.ckpt", ["predict", "--config", "tiny.yaml", "--ckpt_path"]),
    "predict images": ("whole.ckpt", ["predict", "--data.images", "images", "--output", "out", "--ckpt_path"]),
    "resume": ("middle.ckpt", ["fit", "--config", "tiny.yaml", "--ckpt_path"]),
    "warm start": ("middle.ckpt", ["fit", "--config", "tiny.yaml", "--model.phases=[transfer]", "--model.init_from"]),
    "export": ("whole.ckpt", ["export", "--output", "model", "--ckpt_path"]),
    "extend": ("whole.ckpt", ["extend", "--classes", "zebra", "--output", "more.ckpt", "--ckpt_path"]),
    "rename": ("whole.ckpt", ["rename", "--classes", "red square=zebra", "--output", "other.ckpt",
                              "--ckpt_path"]),
    "remove": ("whole.ckpt", ["remove", "--classes", "red square", "--output", "fewer.ckpt", "--ckpt_path"]),
}  # fmt: skip


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_opens_its_checkpoint_once(
    name: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, arguments = COMMANDS[name]
    for needed in (file, "tiny.yaml", "images"):
        (tmp_path / needed).symlink_to(run / needed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    with counted(run / file) as opened:
        assert main([*arguments, file]) == 0
    assert opened.count == 1


def test_panels_open_the_checkpoint_of_each_model_once(run: Path, tmp_path: Path) -> None:
    checkpoint = run / "runs" / "version_0" / "checkpoints" / "self_training.ckpt"
    with counted(checkpoint) as opened:
        assert main(["results", str(run / "runs" / "version_0"), "--output", str(tmp_path), "--panels", "2"]) == 0
    assert opened.count == 1


def test_the_page_opens_its_checkpoint_once(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("gradio")
    from sign_zs3.commands import page_layout

    served: list[Any] = []

    def build_page(model: Any, examples: Any, **options: Any) -> Any:
        served.append(model)
        return SimpleNamespace(launch=lambda **_: (None, "", None), block_thread=lambda: None, close=lambda **_: None)

    monkeypatch.setattr(page_layout, "build_page", build_page)
    with counted(run / "whole.ckpt") as opened:
        assert main(["demo", "--ckpt_path", str(run / "whole.ckpt")]) == 0
    assert len(served) == opened.count == 1


READERS: dict[str, Callable[[Path], object]] = {
    "load_task": load_task,
    "load_segmenter": load_segmenter,
    "load_from_checkpoint": lambda path: SIGNModule.load_from_checkpoint(path, map_location="cpu", weights_only=True),
    "init_from": lambda path: quiet_trainer(path.parent).validate(
        tiny_model(init_from=str(path)), tiny_data(), verbose=False
    ),
    "Trainer.test": lambda path: quiet_trainer(path.parent, ScheduleCheckpoint()).test(
        tiny_model(), tiny_data(), ckpt_path=path, verbose=False, weights_only=True
    ),
}


@pytest.mark.parametrize("name", READERS)
def test_a_notebook_opens_a_checkpoint_once(name: str, run: Path) -> None:
    with counted(run / "middle.ckpt") as opened:
        READERS[name](run / "middle.ckpt")
    assert opened.count == 1


def test_every_opening_is_counted(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copy(run / "whole.ckpt", tmp_path / "copy.ckpt"))
    with counted(copy) as opened:
        copy.stat()
    assert opened.count == 0
    with counted(copy) as opened:
        for _ in range(20):
            copy.open("rb").close()
        torch.load(copy, weights_only=True, map_location="cpu")
        torch._C.PyTorchFileReader(str(copy))  # by C++
        subprocess.run(["cat", copy], stdout=subprocess.DEVNULL, check=True)
    assert opened.count == 23
