"""A run that is resumed trains and validates on the images that it began with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import SIGNModule
from sign_zs3.errors import UserError
from tests.conftest import TINY
from tests.inputs.conftest import Folder

import pytorch_lightning as pl  # isort: skip


def run(folder: Folder, tmp_path: Path, iterations: int, ckpt_path: Path | None = None, **options: Any) -> Path:
    """Train for some iterations; return the checkpoint."""
    model = SIGNModule(**{**TINY, "phases": ["train"], "train_iterations": iterations})
    trainer = pl.Trainer(
        max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False, accelerator="cpu"
    )
    data = folder.data(batch_size=2, warp_size=16, **options)
    trainer.fit(model, data, ckpt_path=None if ckpt_path is None else str(ckpt_path))
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    return tmp_path / "last.ckpt"


CHANGES: dict[str, dict[str, Any]] = {
    "val_fraction 0.3 instead of 0.1": {"val_fraction": 0.3},
    "seed 5 instead of 0": {"seed": 5},
    "test_fraction 0.5 instead of 0.2": {"test_fraction": 0.5},
    "unseen_pixels 'drop' instead of 'ignore'": {"unseen_pixels": "drop"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_another_cut_is_refused(change: str, folder: Folder, tmp_path: Path) -> None:
    path = run(folder, tmp_path, 2, val_fraction=0.1)
    with pytest.raises(UserError) as caught:
        run(folder, tmp_path, 2, path, **{"val_fraction": 0.1, **CHANGES[change]})
    assert f"than the run that is resumed had ({change}" in str(caught.value) and "\n" not in str(caught.value)


def test_other_images_are_refused(folder: Folder, tmp_path: Path) -> None:
    path = run(folder, tmp_path, 2, val_fraction=0.1)
    folder.image(0).unlink()
    with pytest.raises(UserError, match="its lists or folders have changed"):
        run(folder, tmp_path, 2, path, val_fraction=0.1)


def test_what_does_not_change_the_images_may_change(folder: Folder, tmp_path: Path) -> None:
    path = run(folder, tmp_path, 2, val_fraction=0.1)
    before = torch.load(path, weights_only=True)["FolderDataModule"]
    run(folder, tmp_path, 2, path, val_fraction=0.1, num_workers=1, crop_size=8)
    assert torch.load(path, weights_only=True)["FolderDataModule"] == before


def test_a_test_reads_any_images(folder: Folder, tmp_path: Path) -> None:
    path = run(folder, tmp_path, 2, val_fraction=0.1)
    model = SIGNModule.load_from_checkpoint(path)
    trainer = pl.Trainer(logger=False, enable_progress_bar=False, accelerator="cpu")
    trainer.test(model, folder.data(val_fraction=0.3), ckpt_path=str(path))
    assert model.scores["per_class"]


def test_what_is_stored_is_plain_and_small(folder: Folder, tmp_path: Path) -> None:
    stored = torch.load(run(folder, tmp_path, 2), weights_only=True)["FolderDataModule"]
    assert set(stored) == {"options", "training", "validation"}
    assert all(isinstance(stored[name], str) and len(stored[name]) == 32 for name in ("training", "validation"))
