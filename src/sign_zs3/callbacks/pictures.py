"""Pictures while training: the same images each time, and the scores of the tests as plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.data.datasets.base import Sample, SegmentationDataset
from sign_zs3.data.examples import choose_examples
from sign_zs3.drawing import charts, figures, panels
from sign_zs3.errors import UserError, check_at_least
from sign_zs3.functional.geometry import PIXELS, map_size, shrink_labels
from sign_zs3.models.inference import label_scores
from sign_zs3.models.weights import evaluating
from sign_zs3.protocol import IGNORE_INDEX
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.schedule import Phase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONGEST = 512
"""Pixels of a picture's longer side; the model reads the image at its own size."""


@dataclass(frozen=True)
class _Shown:
    """An image that is shown: (3, H, W) for the model, and (3, h, w), (h, w), (h, w) for the picture."""

    name: str
    image: Tensor
    picture: Tensor
    truth: Tensor
    valid: Tensor


class PictureLogger(pl.Callback):
    """Show what the model makes of a few images, the same ones every time, while it trains.

    Every so many iterations and at the end of each phase, it shows image, truth, prediction and confidence, in
    self-training also the teacher's pseudo-labels and their weights (eq. 17, or which are kept); after a test, the
    confusion matrix and the IoU per class. They go to the loggers that take pictures: W&B, also with the masks of truth
    and prediction class by class, and TensorBoard; without any, to PNG files in ``pictures/`` of the run's folder.

    Images are those of the validation, or training images where there is none; unseen classes are shown where the data
    module shows them. They are labelled in one pass, without test-time augmentation or warp. No bit of the training
    changes.

    Args:
        every: Iterations between two pictures; 0: only at the end of each phase.
        count: How many images.

    Raises:
        UserError: `every` is negative, or `count` below 1.
    """

    def __init__(self, every: int = 500, count: int = 4) -> None:
        super().__init__()
        check_at_least(0, every=every)
        check_at_least(1, count=count)
        self.every = every
        self.count = count
        self._folder = Path()
        self._shown: list[_Shown] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Learn where files go."""
        # on all ranks: rank 0 sends it to the others, and would wait for them
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "pictures"

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Choose the images."""
        if trainer.is_global_zero:
            data = trainer.datamodule  # type: ignore[attr-defined]
            if not isinstance(data, ZeroShotDataModule):
                raise UserError(
                    f"PictureLogger: found a {type(data).__name__}, expected a ZeroShotDataModule, whose data sets it "
                    "shows: leave the callback out, or derive the data module from that class"
                )
            assert data.val_set is not None
            # where nothing is cut off for it, the validation set reads whole images of the training list
            chosen = choose_examples(data.val_set, self.count, data.val_indices or data.train_indices)
            self._shown = [_reduced(data.val_set[index]) for index in chosen]

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Draw where an interval or a phase ends."""
        assert isinstance(pl_module, ZeroShotTask)
        schedule = pl_module.schedule
        finished = schedule.just_finished()
        due = self.every and schedule.batches_pending == 0 and schedule.iteration % self.every == 0
        if not (due or finished) or not trainer.is_global_zero:
            return
        phase = finished or schedule.phase
        with torch.no_grad(), evaluating(pl_module):
            self._draw(trainer, pl_module, phase, phase.iterations if finished else schedule.locate()[1])

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the confusion matrix and the IoU per class."""
        assert isinstance(pl_module, ZeroShotTask)
        protocol, confusion = pl_module.protocol, pl_module.confusion
        if not trainer.is_global_zero or confusion is None:
            return
        schedule, finished = pl_module.schedule, pl_module.schedule.just_finished()
        phase = (finished or schedule.phase).name
        title = f"{protocol.dataset}, {'after' if finished else 'in'} {phase}"
        matrix = charts.draw_confusion(confusion, protocol.classes, protocol.num_seen, title)
        bars, _ = pl_module.metric.plot(pl_module.scores)
        bars.suptitle(figures.literal(title), fontsize=10)
        self._put(trainer, "test/confusion", matrix, schedule.batches, f"confusion-{phase}")
        self._put(trainer, "test/iou", bars, schedule.batches, f"iou-{phase}")

    def _draw(self, trainer: pl.Trainer, model: ZeroShotTask, phase: Phase, done: int) -> None:
        protocol, schedule = model.protocol, model.schedule
        title = f"{phase.name}, iteration {done} of {phase.iterations}"
        number = f"{schedule.iteration:0{len(str(schedule.total))}d}"
        pictures, truths = [shown.picture for shown in self._shown], [shown.truth for shown in self._shown]
        labels, confidences = [], []
        for shown in self._shown:
            image = shown.image[None].to(model.device)
            scores = model.segmenter.scores(image, model.hparams["seen_penalty"])
            label, confidence = label_scores(scores, map_size(shown.truth))
            assert confidence is not None
            labels.append(label[0].cpu())
            confidences.append(confidence[0].cpu())
        panel = panels.prediction_panel(pictures, truths, labels, protocol, title, confidences)
        self._put(trainer, "pictures/panel", panel, schedule.batches, f"panel-{number}")
        masks = {"truth": truths, "prediction": labels}
        if phase.kind == "self_training":
            masks["pseudo-labels"], weights = self._pseudo_labels(model)
            hp = model.hparams
            settings = {"annealed": f", T = {hp['temperature']:g}", "top_fraction": f", top {hp['top_fraction']:g}"}
            subtitle = f"{title}, {hp['self_training']}{settings.get(hp['self_training'], '')}"
            panel = panels.pseudo_label_panel(pictures, truths, masks["pseudo-labels"], weights, protocol, subtitle)
            self._put(trainer, "pictures/pseudo_labels", panel, schedule.batches, f"pseudo-labels-{number}")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                images = [figures.pixels(picture) for picture in pictures]
                captions = [f"{shown.name}: {title}" for shown in self._shown]
                names = dict(enumerate(figures.starred(protocol.classes, protocol.num_seen)))
                names[IGNORE_INDEX] = "unlabelled"
                by_image = [
                    {name: {"mask_data": maps[i].byte().numpy(), "class_labels": names} for name, maps in masks.items()}
                    for i in range(len(pictures))
                ]
                logger.log_image("pictures/predictions", images, schedule.batches, caption=captions, masks=by_image)

    def _pseudo_labels(self, model: ZeroShotTask) -> tuple[list[Tensor], list[Tensor]]:
        """Return the pseudo-labels, 255 where there is none, and their weights, NaN there."""
        labels, weights = [], []
        for shown in self._shown:
            batch = {"image": shown.image, "mask": shown.truth, "valid": shown.valid}
            pseudo = model.pseudo_labels({name: value[None].to(model.device) for name, value in batch.items()})
            labels.append(pseudo.labels.masked_fill(~pseudo.chosen, IGNORE_INDEX)[0].cpu())
            weights.append(pseudo.weights.masked_fill(~pseudo.chosen, torch.nan)[0].cpu())
        return labels, weights

    def _put(self, trainer: pl.Trainer, key: str, figure: Figure, step: int, name: str) -> None:
        """Give a figure to the loggers that take pictures, or else to a file."""
        takers = [logger for logger in trainer.loggers if isinstance(logger, (WandbLogger, TensorBoardLogger))]
        if not takers:
            figures.save_figure(figure, self._folder / f"{name}.png")
            return
        pixels = figures.render(figure)
        for logger in takers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key, [pixels], step)
            else:
                logger.experiment.add_image(key, pixels, step, dataformats="HWC")


def save_panel(path: Path, model: ZeroShotTask, dataset: SegmentationDataset) -> None:
    """Label a few test images and write their panel as PNG."""
    samples = [dataset[index] for index in choose_examples(dataset)]
    images, truths = ([sample[key] for sample in samples] for key in ("image", "mask"))
    labels = [model.label_image(image) for image in images]
    panel = panels.prediction_panel(images, truths, labels, dataset.protocol)
    figures.save_figure(panel, path)


def _reduced(sample: Sample) -> _Shown:
    image, mask, valid = sample["image"], sample["mask"].long(), sample["valid"]
    height, width = map_size(mask)
    factor = LONGEST / max(height, width)
    if factor >= 1:
        return _Shown(sample["id"], image, image, mask, valid)
    size = (max(1, round(height * factor)), max(1, round(width * factor)))
    picture = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0].round().clamp(0, 255).byte()
    pixels = PIXELS.resized(size, (height, width))
    mask, valid = (shrink_labels(labels[None], size, pixels)[0] for labels in (mask, valid))
    return _Shown(sample["id"], image, picture, mask, valid.bool())
