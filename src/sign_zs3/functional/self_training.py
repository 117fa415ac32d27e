"""Weights and choice of pseudo-labelled pixels in self-training (Section 3.4)."""

import torch
from torch import Tensor

from sign_zs3.functional.cross_entropy import at_least_float32


def annealed_weights(confidence: Tensor, pseudo: Tensor, temperature: float) -> Tensor:
    """Return annealed self-training's loss weights, eq. 17 per image in closed form: exp((p - max p) / T).

    The softmax's sum and Z cancel, since Z makes the largest weight 1. T -> infinity weighs all alike; T -> 0 keeps
    only the most confident pixel.

    Args:
        confidence: (N, H, W) in [0, 1], the probability of the class chosen.
        pseudo: (N, H, W), True on pseudo-labelled pixels; the maximum is taken over these, per image.
        temperature: T > 0.

    Returns:
        (N, H, W) in [0, 1], float32 (float64 stays): 1 on pixels that are not pseudo-labelled.

    Raises:
        ValueError: T <= 0, or the shapes do not fit.

    >>> confidence, pseudo = torch.tensor([[[0.9, 0.8, 0.4]]]), torch.tensor([[[True, True, False]]])
    >>> annealed_weights(confidence, pseudo, temperature=0.1)  # 1, exp(-1), and 1 for a label
    tensor([[[1.0000, 0.3679, 1.0000]]])
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be above 0, got {temperature}")
    confidence, pseudo = _check(confidence, pseudo)
    best = confidence.masked_fill(~pseudo, -torch.inf).amax(dim=(1, 2), keepdim=True)
    return torch.exp((confidence - best).masked_fill(~pseudo, 0) / temperature)


def probability_weights(logits: Tensor, first: int) -> Tensor:
    """Return the weights of probability-weighted self-training: the probability that a pixel is unseen at all.

    It is the sum of the softmax over the pseudo-classes, P = 1 - (sum over the seen classes). If the teacher is
    calibrated, P is the share of truly unseen pixels among those that look like this one. So the weights of a batch sum
    up to the expected number of unseen pixels: an image that shows no unseen class weighs little, and there is no
    setting. Eq. 17 compares the confidence in one class with the highest one in its image instead: every image has
    pixels of weight 1, a pixel that is surely unseen but of one of two classes loses weight, and the T that suits
    differs from data to data.

    Args:
        logits: (N, C, H, W), the teacher's, of all classes.
        first: In 0..C-1: the pseudo-classes are those from here on; seen classes come first. At 0 all weigh 1.

    Returns:
        (N, H, W) in [0, 1], float32 (float64 stays).

    Raises:
        ValueError: `first` is no class, or the logits are no map.

    >>> logits = torch.tensor([0.0, 0.0, 0.0, 0.0]).view(1, 4, 1, 1)
    >>> probability_weights(logits, first=3)  # one class of four
    tensor([[[0.2500]]])
    """
    if logits.dim() != 4 or not 0 <= first < logits.shape[1]:
        raise ValueError(f"expected logits (N, C, H, W) and first in 0..C-1, got {tuple(logits.shape)} and {first}")
    return at_least_float32(logits).softmax(dim=1)[:, first:].sum(dim=1)


def confident_fraction(confidence: Tensor, pseudo: Tensor, fraction: float) -> Tensor:
    """Choose the most confident fraction of each image's pseudo-labelled pixels: self-training with a threshold.

    Args:
        confidence: (N, H, W), the probability of the class chosen.
        pseudo: (N, H, W), True on pseudo-labelled pixels.
        fraction: In [0, 1]. An image with n pseudo-labelled pixels keeps round(fraction * n) of them.

    Returns:
        (N, H, W) bool, a subset of `pseudo`; of equal confidences the first in raster order are kept.

    Raises:
        ValueError: The fraction lies outside [0, 1], or the shapes do not fit.

    >>> confidence, pseudo = torch.tensor([[[0.9, 0.8, 0.4]]]), torch.tensor([[[False, True, True]]])
    >>> confident_fraction(confidence, pseudo, 0.5)
    tensor([[[False,  True, False]]])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must lie in [0, 1], got {fraction}")
    confidence, pseudo = _check(confidence, pseudo)
    flat = pseudo.flatten(1)
    keep = torch.round(flat.sum(dim=1) * fraction)
    order = confidence.flatten(1).masked_fill(~flat, -torch.inf).argsort(dim=1, descending=True, stable=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)
    return ((rank < keep[:, None]) & flat).view_as(pseudo)


def within_top(logits: Tensor, labels: Tensor, top: int) -> Tensor:
    """Choose pixels whose label ranks among the highest logits of all classes: CaGNet's rule for pseudo-labels.

    Args:
        logits: (N, C, H, W).
        labels: (N, H, W) int64 in 0..C-1.
        top: In 1..C; C lets every label pass.

    Returns:
        (N, H, W) bool: True where fewer than `top` classes have a higher logit than the label's.

    Raises:
        ValueError: `top` lies outside 1..C, or the shapes do not fit.

    >>> logits = torch.tensor([3.0, 1.0, 2.0]).view(1, 3, 1, 1).expand(1, 3, 1, 3)
    >>> within_top(logits, torch.tensor([[[0, 1, 2]]]), top=2)
    tensor([[[ True, False,  True]]])
    """
    if logits.dim() != 4 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        found = f"{tuple(logits.shape)} and {tuple(labels.shape)}"
        raise ValueError(f"expected logits (N, C, H, W) and labels (N, H, W), got {found}")
    if not 1 <= top <= logits.shape[1]:
        raise ValueError(f"top must lie in 1..{logits.shape[1]}, got {top}")
    return (logits > logits.gather(1, labels.unsqueeze(1))).sum(dim=1) < top


def _check(confidence: Tensor, pseudo: Tensor) -> tuple[Tensor, Tensor]:
    if confidence.dim() != 3 or confidence.shape != pseudo.shape:
        found = f"{tuple(confidence.shape)} and {tuple(pseudo.shape)}"
        raise ValueError(f"expected confidence and pseudo of one shape (N, H, W), got {found}")
    return at_least_float32(confidence), pseudo.bool()
