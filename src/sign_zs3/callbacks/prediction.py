"""Predicted label maps as PNG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.callbacks import BasePredictionWriter


class PredictionWriter(BasePredictionWriter):
    """Write ``predictions/ID.png`` into the run's folder: index maps of the data set's own ids."""

    def __init__(self) -> None:
        super().__init__("batch")

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
        folder.mkdir(parents=True, exist_ok=True)
        for name, labels in prediction:
            # An id is a file's name in the data set; only its last part may name a file here.
            path = folder / f"{Path(name).name}.png"
            beside = path.with_suffix(".part")
            Image.fromarray(labels.numpy()).save(beside, format="PNG")
            beside.replace(path)
