"""Predicted label maps as PNG files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import BasePredictionWriter

from sign_zs3.files import replacing

log = logging.getLogger(__name__)


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions/ID.png`` into the run's folder: index maps of the data set's own ids."""

    def __init__(self) -> None:
        super().__init__("batch")

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say where the maps are."""
        log.info("index maps: %s", Path(trainer.log_dir or trainer.default_root_dir) / "predictions")

    def write_on_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Write the maps of one batch."""
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"
        for name, labels in prediction:
            # An id may name subfolders of the data set, and no place outside of this one.
            inside = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
            with replacing(folder.joinpath(*inside[:-1], f"{inside[-1]}.png")) as beside:
                Image.fromarray(labels.numpy()).save(beside, format="PNG")
