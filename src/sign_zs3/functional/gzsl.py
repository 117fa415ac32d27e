"""Scores of generalised zero-shot segmentation, all from one confusion matrix over all test pixels."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from sign_zs3.protocol import IGNORE_INDEX

Absent = Literal["skip", "zero"]


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int, ignore_index: int = IGNORE_INDEX) -> Tensor:
    """Return the counts of pixels by true class (rows) and predicted class (columns), (C, C) int64.

    Args:
        prediction: Predicted classes, integers of any shape.
        target: True classes, integers, the shape of `prediction`.
        num_classes: C.
        ignore_index: Pixels with this target are not counted, whatever is predicted there.

    Raises:
        ValueError: Shapes differ, a tensor holds no integers, or a counted pixel has a class outside 0..C-1 (named).

    >>> confusion_matrix(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 255]), num_classes=2)
    tensor([[1, 1],
            [0, 1]])
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, got {num_classes}")
    if prediction.shape != target.shape:
        raise ValueError(f"prediction and target differ in shape: {tuple(prediction.shape)} and {tuple(target.shape)}")
    for name, tensor in (("prediction", prediction), ("target", target)):
        if tensor.is_floating_point() or tensor.is_complex():
            raise ValueError(f"{name} must hold integer classes, got {tensor.dtype}")
    # uint8 must widen before the comparison: an ignore_index such as -1 does not fit into it.
    target, prediction = target.long(), prediction.long()
    counted = target != ignore_index
    target, prediction = target[counted], prediction[counted]
    for name, values, which in (
        ("target", target, f" or {ignore_index} (ignored)"),
        ("prediction", prediction, " on the pixels that count"),
    ):
        if (outside := values[(values < 0) | (values >= num_classes)]).numel():
            found = ", ".join(map(str, sorted(set(outside.tolist()))[:5]))
            raise ValueError(f"{name} holds class {found}: expected 0..{num_classes - 1}{which}")
    return torch.bincount(target * num_classes + prediction, minlength=num_classes**2).view(num_classes, num_classes)


def per_class_iou(confusion: Tensor, absent: Absent = "skip") -> Tensor:
    """Return the intersection over union of each class: (C,) float64 on the CPU, fractions.

    Args:
        confusion: (C, C) counts, rows are the truth.
        absent: What a class without label gets, wherever it is predicted: `skip` NaN, `zero` 0.

    Raises:
        ValueError: The matrix is not square, or `absent` is neither word.

    >>> per_class_iou(torch.tensor([[1, 1, 0], [0, 2, 0], [0, 0, 0]]))
    tensor([0.5000, 0.6667,    nan], dtype=torch.float64)
    """
    counts = _check(confusion, absent)
    truth = counts.sum(dim=1)
    union = counts.sum(dim=0) + truth - counts.diagonal()
    # by the labels alone: else the classes that count would change with what a model predicts
    return _divide(counts.diagonal(), torch.where(truth > 0, union, 0), absent)


def gzsl_scores(
    confusion: Tensor, seen: Sequence[int], unseen: Sequence[int], absent: Absent = "skip"
) -> dict[str, float]:
    """Return means over seen, unseen and all classes, and harmonic means of the two sides.

    `miou`: mean IoU. `pixel_accuracy`: share of pixels that are right. `mean_accuracy`: mean recall per class.
    `frequency_weighted_iou`: IoU weighted by the class's share of the true pixels. No prefix: all classes of the
    matrix. `seen_` and `unseen_`: the pixels whose *truth* lies on that side (frequencies as shares of that side's
    pixels), every prediction competing. `harmonic_`: 2ab / (a + b) of the two.

    Args:
        confusion: (C, C) counts, rows are the truth.
        seen: Ids of the seen classes.
        unseen: Ids of the unseen classes.
        absent: `skip` leaves classes without a label out of the means, `zero` counts them 0 (ZS3). On the published
            test sets each class has labels, and both are what SPNet, CaGNet and SIGN compute.

    Returns:
        Fractions in [0, 1] under `seen_miou`, `unseen_miou`, `harmonic_miou`, `miou`, and so for `pixel_accuracy`,
        `mean_accuracy` and `frequency_weighted_iou`. A side without labels is NaN, and with it the harmonic mean; of
        two sides of which one is 0 it is 0.

    Raises:
        ValueError: The matrix is not square, an id lies outside of it or occurs twice, or `absent` is neither word.

    >>> scores = gzsl_scores(torch.tensor([[3, 1], [0, 4]]), seen=[0], unseen=[1])
    >>> scores["seen_miou"], scores["unseen_miou"], round(scores["harmonic_miou"], 4), scores["pixel_accuracy"]
    (0.75, 0.8, 0.7742, 0.875)
    """
    counts = _check(confusion, absent)
    ids = [*seen, *unseen]
    if outside := sorted({i for i in ids if not 0 <= i < len(counts)}):
        raise ValueError(f"seen and unseen hold ids {outside}: expected 0..{len(counts) - 1}")
    if twice := sorted({i for i in ids if ids.count(i) > 1}):
        raise ValueError(f"ids {twice} occur twice in seen and unseen: each class lies on one side, once")
    hits, truth = counts.diagonal(), counts.sum(dim=1)
    iou, recall = per_class_iou(confusion, absent), _divide(hits, truth, absent)
    # 0 * NaN would spoil the sum; an absent class has no weight either way.
    weighted = truth * iou.nan_to_num()

    def side(ids: Sequence[int]) -> dict[str, float]:
        index = torch.tensor(list(ids), dtype=torch.long)
        pixels = truth[index].sum()
        return {
            "miou": float(iou[index].nanmean()),
            "pixel_accuracy": float(hits[index].sum() / pixels),
            "mean_accuracy": float(recall[index].nanmean()),
            "frequency_weighted_iou": float(weighted[index].sum() / pixels),
        }

    seen_scores, unseen_scores = side(seen), side(unseen)
    scores: dict[str, float] = {}
    for name, value in side(range(len(counts))).items():
        a, b = seen_scores[name], unseen_scores[name]
        harmonic = 0.0 if a + b == 0 else 2 * a * b / (a + b)  # NaN where a side is
        scores |= {f"seen_{name}": a, f"unseen_{name}": b, f"harmonic_{name}": harmonic, name: value}
    return scores


def _check(confusion: Tensor, absent: str) -> Tensor:
    if absent not in ("skip", "zero"):
        raise ValueError(f"absent must be 'skip' or 'zero', got {absent!r}")
    if confusion.dim() != 2 or confusion.shape[0] != confusion.shape[1]:
        raise ValueError(f"expected a square (C, C) confusion matrix, got shape {tuple(confusion.shape)}")
    return confusion.detach().cpu().double()


def _divide(part: Tensor, whole: Tensor, absent: str) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=1), math.nan if absent == "skip" else 0.0)
