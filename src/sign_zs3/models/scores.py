"""Scores of classes on a feature map, and the one way in which a pixel gets its label from them."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sign_zs3.functional.geometry import resize_scores

SLICE = 1 << 22  # how many scores `label_scores` resizes at once


class Scores(NamedTuple):
    """Scores (N, C, h, w) float32 of each class in each cell: logits, or probabilities, the mean of views' softmax.

    Logits of classes that C does not know yet are minus infinity.
    """

    values: Tensor
    are_logits: bool


class Labels(NamedTuple):
    """Each pixel's best class, (N, H, W) int64, and its probability, float32 in [0, 1]; None where not asked for."""

    label: Tensor
    confidence: Tensor | None


class Segmentation(NamedTuple):
    """What was found in one image.

    Attributes:
        labels: (H, W) uint8 class indices, seen classes first, on the CPU.
        pixels: (C,) int64, pixels of each class.
        confidence: (C,) float64 in [0, 1], mean softmax at the class over its pixels; NaN where it has none.
        confidence_map: (H, W) float32 in [0, 1], softmax at each pixel's class, where it was asked for.
    """

    labels: Tensor
    pixels: Tensor
    confidence: Tensor
    confidence_map: Tensor | None

    @classmethod
    def of(cls, labels: Tensor, sums: Tensor, confidence_map: Tensor | None = None) -> Segmentation:
        """Count the labels (H, W) uint8 of an image, given the sums (C,) of each class's confidence."""
        pixels = torch.bincount(labels.flatten(), minlength=len(sums))
        return cls(labels, pixels, sums / pixels, confidence_map)


def label_scores(scores: Scores, size: tuple[int, int] | None, confidence: bool = True) -> Labels:
    """Return the best class of each pixel, its probability where asked for; classes at minus infinity are never best.

    Scores are resized bilinearly to `size`, (height, width), a few classes at a time: memory does not grow with the
    number of classes times that of pixels. None keeps their own size.
    """
    values, needs_total = scores.values, confidence and scores.are_logits
    step = values.shape[1]
    # a graph that is exported knows no sizes: it resizes all classes at once
    if size is not None and not torch.compiler.is_exporting():
        step = max(1, SLICE // (len(values) * size[0] * size[1]))
    best = label = total = values  # until the first slice is read
    for first in range(0, values.shape[1], step):
        part = values[:, first : first + step]
        resized = part if size is None else resize_scores(part, size)
        part_best, part_label = resized.max(dim=1)  # argmax over a strided dimension takes six times as long
        part_total = resized.logsumexp(dim=1) if needs_total else part_best
        if first == 0:
            best, label, total = part_best, part_label, part_total
            continue
        higher = part_best > best
        best, label = torch.where(higher, part_best, best), torch.where(higher, part_label + first, label)
        total = torch.logaddexp(total, part_total) if needs_total else best
    sure = (best - total).exp() if needs_total else best
    return Labels(label, sure if confidence else None)


def segmentations(scores: Scores, sizes: list[tuple[int, int]]) -> list[Segmentation]:
    """Return what was found in each image of a batch, at a size (height, width) of its own."""
    found = []
    for values, size in zip(scores.values, sizes, strict=True):
        labels, confidence = label_scores(Scores(values[None], scores.are_logits), size)
        assert confidence is not None
        label, sure = labels[0].cpu(), confidence[0].cpu()
        sums = torch.zeros(len(values), dtype=torch.float64).scatter_add_(0, label.flatten(), sure.flatten().double())
        found.append(Segmentation.of(label.to(torch.uint8), sums))
    return found
