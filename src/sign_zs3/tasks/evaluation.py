"""How a task labels images and scores itself: the same in validation and test, and in the pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.metrics import GZSLMeanIoU
from sign_zs3.models.segmenter import Segmentation, Segmenter, label_scores

FEATURE_RESOLUTION_SIZE = (513, 513)

Batch = dict[str, Any]


class EvaluatedTask(pl.LightningModule):
    """The evaluation of `ZeroShotTask`, by its options `seen_penalty`, `resolution`, `flip` and `scales`."""

    segmenter: Segmenter
    metric: GZSLMeanIoU
    scores: dict[str, Any]
    confusion: Tensor | None

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Return logits (N, C, h, w) of images (N, 3, H, W) in [0, 255], or of what was kept of them."""
        logits: Tensor = self.segmenter(images, self.hparams["seen_penalty"])
        return logits

    @property
    def reading(self) -> dict[str, Any]:
        """`seen_penalty`, `flip` and `scales` of the evaluation, as `Segmenter.segment` takes them."""
        return {name: self.hparams[name] for name in ("seen_penalty", "flip", "scales")}

    def label(self, images: Tensor | Sequence[Tensor], size: tuple[int, int] | None) -> Tensor:
        """Label images with the evaluation's options.

        Args:
            images: (N, 3, H, W) in [0, 255]; or their backbone's maps or F, which are not warped.
            size: (height, width) of the result; None: that of the feature map.

        Returns:
            (N, height, width) int64 class indices.
        """
        scores = self._read(images)
        if size is not None:
            return label_scores(scores, size, as_logits=False)[0]
        return scores.max(dim=1).indices  # argmax over a strided dimension takes six times as long

    def _read(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Return `Segmenter.scores` with the evaluation's options."""
        hp = self.hparams
        if isinstance(images, Tensor) and hp["resolution"] == "feature" and map_size(images) != FEATURE_RESOLUTION_SIZE:
            images = F.interpolate(images.float(), FEATURE_RESOLUTION_SIZE, mode="bilinear", align_corners=False)
        return self.segmenter.scores(images, **self.reading)

    def _evaluate(self, batch: Batch) -> None:
        target = batch["mask"]
        if self.hparams["resolution"] == "feature":
            prediction = self.label(batch["image"], None)
            target = shrink_mask(target, map_size(prediction))
        else:
            prediction = self.label(batch["image"], map_size(target))
        self.metric.update(prediction, target)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch into the confusion matrix."""
        self._evaluate(batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch into the confusion matrix."""
        self._evaluate(batch)

    def on_validation_epoch_end(self) -> None:
        """Log ``val/...``; unseen scores only where the validation set labels unseen classes."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/...``, and keep the scores and what they were computed from."""
        with self.metric.sync_context():
            self.confusion = self.metric.confusion.cpu().clone()
        self.scores = self._log_scores("test")

    def _log_scores(self, stage: str) -> dict[str, Any]:
        scores: dict[str, Any] = self.metric.compute()
        self.metric.reset()
        has_unseen = not math.isnan(scores["unseen_pixel_accuracy"])
        self.log_dict(
            {
                f"{stage}/{name}": value
                for name, value in scores.items()
                if isinstance(value, float) and (has_unseen or stage == "test" or name.startswith("seen_"))
            },
            sync_dist=True,  # every rank holds the same numbers already
        )
        return scores

    def predict_step(self, batch: Batch, batch_idx: int) -> list[tuple[str, Segmentation]]:
        """Return each image's id and what was found in it, at the size it had before the data set's transform."""
        hp = self.hparams
        scores = self._read(batch["image"])
        sizes = batch["size"].tolist() if "size" in batch else [map_size(batch["mask"])] * len(scores)
        as_logits = not hp["flip"] and list(hp["scales"]) == [1.0]
        return [
            (name, _segmentation(one, (size[0], size[1]), as_logits))
            for name, one, size in zip(batch["id"], scores, sizes, strict=True)
        ]


def _segmentation(scores: Tensor, size: tuple[int, int], as_logits: bool) -> Segmentation:
    """Return what (C, h, w) scores, logits or probabilities, say of an image."""
    labels, confidence = (found[0].cpu() for found in label_scores(scores[None], size, as_logits))
    pixels = torch.bincount(labels.flatten(), minlength=len(scores))
    sums = torch.zeros(len(scores), dtype=torch.float64)
    sums.scatter_add_(0, labels.flatten(), confidence.flatten().double())
    return Segmentation(labels.to(torch.uint8), pixels, sums / pixels, None)


def map_size(maps: Tensor) -> tuple[int, int]:
    """Return the (height, width) of maps (..., height, width)."""
    return maps.shape[-2], maps.shape[-1]


def shrink_mask(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map (N, H, W) int64 to `size` by nearest neighbour."""
    return F.interpolate(mask.unsqueeze(1).float(), size, mode="nearest").squeeze(1).long()
