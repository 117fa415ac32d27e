"""Cross-entropy over pixels: of labels (eq. 3 and 9), weighed by confidence, and of the transfer step (eq. 10)."""

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.protocol import IGNORE_INDEX

_FIXED_POINT = 2**24


def pixel_cross_entropy(logits: Tensor, labels: Tensor, balance: float = 0.0) -> Tensor:
    """Return the mean cross-entropy of labelled pixels (eq. 3 and 9).

    Args:
        logits: (N, C, H, W), float.
        labels: (N, H, W) int64 class indices; pixels of 255 do not count.
        balance: In [0, 1]: 0 weighs all pixels alike, 1 all classes, see `balanced_weights`.

    Returns:
        Scalar float32; 0 with a gradient path when no pixel is labelled.

    >>> float(pixel_cross_entropy(torch.zeros(1, 4, 2, 2), torch.tensor([[[0, 255], [3, 255]]])))  # log(4)
    1.3862943649291992
    """
    # CUDA has no deterministic sum of its own over a map
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    weights = (labels != IGNORE_INDEX).float()
    return (losses * balanced_weights(labels, weights, balance)).sum() / weights.sum().clamp(min=1)


def balanced_weights(labels: Tensor, weights: Tensor, balance: float) -> Tensor:
    """Weigh the pixels of common classes less and those of rare ones more; the sum of the weights stays.

    A class whose pixels weigh n in all weighs n^(1 - balance) then, relative to others: 0 changes nothing, and at 1
    every class that is there weighs the same. Pixels of a class keep their weights relative to each other.

    Args:
        labels: (N, H, W) int64 class indices, or 255, which are one class more here.
        weights: (N, H, W) float32, at least 0.
        balance: In [0, 1].

    Returns:
        (N, H, W) float32.

    >>> labels, ones = torch.tensor([[[0, 0, 0, 1]]]), torch.ones(1, 1, 4)
    >>> balanced_weights(labels, ones, 1)  # 2 for the three pixels of class 0 and for the one of class 1
    tensor([[[0.6667, 0.6667, 0.6667, 2.0000]]])
    """
    if balance == 0:
        return weights
    # in whole numbers the order of a sum, which CUDA leaves open, does not matter
    total = torch.zeros(IGNORE_INDEX + 1, dtype=torch.int64, device=weights.device)
    total.index_add_(0, labels.flatten(), (weights.flatten() * _FIXED_POINT).long())
    balanced = weights * (total.clamp(min=1) / _FIXED_POINT).pow(-balance)[labels]
    return balanced * (weights.sum() / balanced.sum().clamp(min=torch.finfo(torch.float32).tiny))


def transfer_loss(
    real_logits: Tensor,
    real_labels: Tensor,
    synthetic_logits: Tensor,
    synthetic_labels: Tensor,
    balance: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return both terms of the transfer step's loss, which is their sum (eq. 10).

    Each is the `pixel_cross_entropy` of its logits and labels: of real features, whose labels are seen classes, and of
    synthetic ones, generated for seen and unseen classes. They are means: neither weighs more for having more pixels.
    `balance` is that of the real ones; classes of synthetic ones are drawn.

    >>> unsure, sure = torch.zeros(1, 2, 1, 1), torch.tensor([[[[0.0]], [[100.0]]]])
    >>> transfer_loss(unsure, torch.tensor([[[0]]]), sure, torch.tensor([[[1]]]))  # log(2) and 0
    (tensor(0.6931), tensor(0.))
    """
    loss_synthetic = pixel_cross_entropy(synthetic_logits, synthetic_labels)
    return pixel_cross_entropy(real_logits, real_labels, balance), loss_synthetic


def weighted_cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the weighted mean cross-entropy of pixels (section 3.4), and each pixel's.

    Args:
        logits: (N, C, H, W), float.
        labels: (N, H, W) int64 class indices; pixels of 255 have no loss, but their weight counts.
        weights: (N, H, W) float32, at least 0: 1 for labels, those of eq. 17 for pseudo-labels.

    Returns:
        Scalar float32, 0 where all weights are; and (N, H, W) float32, the cross-entropy before weighting.

    >>> logits, labels = torch.zeros(1, 2, 1, 2), torch.tensor([[[0, 255]]])
    >>> weighted_cross_entropy(logits, labels, torch.ones(1, 1, 2))  # the mean of log(2) and 0
    (tensor(0.3466), tensor([[[0.6931, 0.0000]]]))
    """
    losses = F.cross_entropy(logits.float(), labels, ignore_index=IGNORE_INDEX, reduction="none")
    return weighted_mean(losses, weights), losses


def weighted_mean(values: Tensor, weights: Tensor) -> Tensor:
    """Return the mean of values by weights of the same shape, float32; 0 where all weights are 0.

    >>> float(weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])))
    1.5
    """
    return (weights * values).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return float64 as it is and anything else as float32: losses and their weights are computed in no less."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
