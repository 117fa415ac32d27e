"""A callback that says from outside how far a run has come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from sign_zs3.tasks import ZeroShotTask


class Beats(pl.Callback):
    """Write the number of batches done into a file.

    Args:
        path: The file.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Write it."""
        assert isinstance(pl_module, ZeroShotTask)
        beside = self.path.with_suffix(".part")
        beside.write_text(str(pl_module.schedule.batches), encoding="utf-8")
        beside.replace(self.path)


def beat(path: Path) -> int:
    """Return the number of batches done, 0 before the first."""
    return int(path.read_text()) if path.exists() else 0
