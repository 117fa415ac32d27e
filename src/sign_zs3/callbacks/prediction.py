"""Predicted label maps as files."""

from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import BasePredictionWriter

from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.shares import in_shares
from sign_zs3.reports.predictions import closing_line, write_prediction, write_report
from sign_zs3.tasks.base import ZeroShotTask


class PredictionWriter(BasePredictionWriter):
    """Write index maps, overlays and the report into ``predictions/`` of the run, see `reports.predictions`."""

    def __init__(self) -> None:
        super().__init__("batch")
        self._indices: dict[str, int] = {}
        self._images: dict[int, dict[str, Any]] = {}
        self._folder = Path()

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn where in the data set each image is."""
        dataset = _dataset(trainer)
        self._indices = {dataset.name(index): index for index in range(len(dataset))}
        self._images = {}
        # on all ranks: rank 0 sends it to the others, which may have different numbers of batches
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "predictions"

    def write_on_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Write the files of one batch."""
        assert isinstance(pl_module, ZeroShotTask)
        for name, found in prediction:
            if (index := self._indices.get(name)) is None:
                continue  # one that only fills up the share of a rank
            # as it is stored: that of the batch may be warped
            image, protocol = _dataset(trainer).read(index)[0], pl_module.protocol
            self._images[index] = write_prediction(self._folder, name, name, image, found, protocol)

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the report, of the images of all ranks, and say where everything is."""
        assert isinstance(pl_module, ZeroShotTask)
        shares = in_shares(lambda *_: self._images, trainer.global_rank, trainer.world_size)
        if not trainer.is_global_zero:
            return
        images = {index: entry for share in shares for index, entry in share.items()}
        listed, method = [images[index] for index in sorted(images)], type(pl_module).__name__.removesuffix("Module")
        path = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        options = pl_module.evaluation_options
        write_report(self._folder, pl_module.protocol, listed, checkpoint=path, method=method, options=options)
        print(closing_line(self._folder, len(images)))


def _dataset(trainer: pl.Trainer) -> SegmentationDataset:
    assert trainer.predict_dataloaders is not None
    found = trainer.predict_dataloaders.dataset
    while not isinstance(found, SegmentationDataset):  # maps of a cache, or samples that are not scored
        found = found.dataset
    return found
