"""A model small enough to run all phases in a second or two, on a handful of drawn scenes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from sign_zs3 import ShapesDataModule, SIGNModule

TINY: dict[str, Any] = {
    "backbone": "small",
    "feature_dim": 16,
    "dilations": [1, 2],
    "spatial_heads": 2,
    "discriminator_hidden": 16,
    "train_iterations": 3,
    "generator_iterations": 2,
    "transfer_iterations": 3,
    "self_training_iterations": 3,
    "lr": 1e-2,
    "lr_transfer": 1e-2,
    "lr_self_training": 1e-2,
    "alpha": 1.0,
}


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def no_panel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends draws one, which takes longer than a tiny run, and is tested with the program."""
    monkeypatch.setattr("sign_zs3.callbacks.pictures.save_panel", lambda *_: None)


def tiny_data(**options: Any) -> ShapesDataModule:
    defaults = {
        "train_size": 12,
        "val_size": 4,
        "test_size": 4,
        "scene_size": 32,
        "batch_size": 2,
        "eval_batch_size": 2,
    }
    return ShapesDataModule(**(defaults | options))


def tiny_model(**options: Any) -> SIGNModule:
    return SIGNModule(**(TINY | options))


def quiet_trainer(root: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    defaults: dict[str, Any] = {
        "max_epochs": -1, "accelerator": "cpu", "logger": False, "enable_progress_bar": False,
        "enable_model_summary": False, "num_sanity_val_steps": 0, "limit_val_batches": 0,
    }  # fmt: skip
    defaults["enable_checkpointing"] = any(isinstance(c, pl.callbacks.Checkpoint) for c in callbacks)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pl.Trainer(default_root_dir=root, callbacks=list(callbacks), **(defaults | options))


class StopAt(pl.Callback):
    """Stop a run after so many batches."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop |= self.batches == 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        trainer.should_stop |= pl_module.schedule.batches == self.batches


Fit = Callable[..., SIGNModule]


@pytest.fixture
def fit(tmp_path: Path) -> Fit:
    """Train a tiny model; options of the model by name, `data` and `trainer` as dicts."""

    def run(
        *callbacks: pl.Callback, data: dict[str, Any] | None = None, trainer: dict[str, Any] | None = None,
        ckpt_path: str | None = None, **options: Any,
    ) -> SIGNModule:  # fmt: skip
        model = tiny_model(**options)
        quiet_trainer(tmp_path, *callbacks, **(trainer or {})).fit(
            model, tiny_data(**(data or {})), ckpt_path=ckpt_path
        )
        return model

    return run
