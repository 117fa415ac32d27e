"""Divergences: the KL term of the latent code (eq. 2) and the maximum mean discrepancy (eq. 5 and 6)."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from sign_zs3.functional.cross_entropy import at_least_float32
from sign_zs3.functional.devices import exact_products, to_device
from sign_zs3.protocol import IGNORE_INDEX

BANDWIDTHS: tuple[float, ...] = (2, 5, 10, 20, 40, 60)
SMALL, AT_ONCE = 64, 16
"""Features of a class, at most, and classes that are compared in one pass: a small class costs by the number of
operations, whatever its size."""


def gaussian_kl(mu: Tensor, logvar: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return KL(N(mu, exp(logvar)) || N(0, 1)), eq. 2, as a mean over elements: -(1 + logvar - mu^2 - e^logvar) / 2.

    Args:
        mu: (N, D, h, w) means of the latent code.
        logvar: Logarithms of its variances, the shape of `mu`.
        mask: (N, 1, h, w) or (N, h, w), True where a pixel counts; None: all do.

    Returns:
        A scalar, float32 for lower precisions, under autocast too; 0, with a gradient path, where the mask is empty.

    Raises:
        ValueError: The shapes do not fit.

    >>> gaussian_kl(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2))
    tensor(0.5000)
    """
    if mu.shape != logvar.shape:
        raise ValueError(f"mu and logvar differ in shape: {tuple(mu.shape)} and {tuple(logvar.shape)}")
    mu, logvar = at_least_float32(mu), at_least_float32(logvar)
    if mask is None:
        count: Tensor | int = max(mu.numel(), 1)
    else:
        mask = mask.unsqueeze(1) if mask.dim() == mu.dim() - 1 else mask
        if mask.shape != (mu.shape[0], 1, *mu.shape[2:]):
            found = f"mask of shape {tuple(mask.shape)} does not fit mu of shape {tuple(mu.shape)}"
            raise ValueError(f"{found}: expected (N, 1, h, w) or (N, h, w)")
        mask = mask.bool()
        count = (mask.sum() * mu.shape[1]).clamp(min=1)
        # At mu = logvar = 0 an element adds exactly 0, even where the latent outside of the mask overflows.
        mu, logvar = mu.masked_fill(~mask, 0), logvar.masked_fill(~mask, 0)
    return (torch.expm1(logvar) - logvar + mu.square()).sum() / 2 / count


def mmd(real: Tensor, fake: Tensor, bandwidths: Sequence[float] | Tensor = BANDWIDTHS, sqrt: bool = True) -> Tensor:
    """Return the maximum mean discrepancy between two sets of features, the biased estimate with means.

    mean k(real, real) + mean k(fake, fake) - 2 mean k(real, fake), where the kernel k is the sum over b of
    `exp(-|x - y|^2 / (2 b))`. Eq. 6 prints sums, which grow with the number of pixels; with means it is that of
    `bandwidths=(1,), sqrt=False`. The released code's root is this one divided by the square root of 2, so that its
    weight of 50 is about 35 here.

    Args:
        real: (n, D) features.
        fake: (m, D) features.
        bandwidths: Variances b of the Gaussian kernels that are summed; a tensor is on the features' device.
        sqrt: Return the root, MMD, instead of its square.

    Returns:
        A scalar >= 0, float32 for lower precisions, under autocast too. The root's gradient is 0, not infinite, where
        both sets agree to within rounding.

    Raises:
        ValueError: Widths differ, a set is empty, or a bandwidth is not positive.

    >>> mmd(torch.zeros(1, 1), torch.ones(1, 1), bandwidths=(1,), sqrt=False)  # 1 + 1 - 2 exp(-1 / 2)
    tensor(0.7869)
    """
    _check_features(real, fake, bandwidths)
    if len(real) == 0 or len(fake) == 0:
        raise ValueError(f"mmd needs at least one feature on each side, got {len(real)} real and {len(fake)} fake")
    squared = _squared_mmd([real], [fake], bandwidths)[0]
    return _root(squared, bandwidths) if sqrt else squared


def class_mmd(
    real: Tensor,
    fake: Tensor,
    labels_real: Tensor,
    labels_fake: Tensor | None = None,
    bandwidths: Sequence[float] | Tensor = BANDWIDTHS,
    sqrt: bool = True,
    ignore_index: int = IGNORE_INDEX,
) -> Tensor:
    """Return the mean over classes of `mmd` between a class's real and synthetic features (eq. 5).

    Eq. 5 sums over the classes of one image. This is their mean, so that the weight does not depend on how many classes
    an image shows: call it once per image and average over images. Every pixel takes part; the largest matrix has the
    size of the largest class.

    Args:
        real: (n, D) features of one image.
        fake: (m, D) synthetic features.
        labels_real: (n,) classes, integers. The host sorts them: on the CPU they cost no wait for the features' device.
        labels_fake: (m,) classes; None: those of `labels_real` (then n = m).
        bandwidths: See `mmd`.
        sqrt: See `mmd`.
        ignore_index: Features with this label are left out.

    Returns:
        A scalar >= 0; 0, with a gradient path, where no class has both real and synthetic features.

    Raises:
        ValueError: Shapes do not fit or a bandwidth is not positive.

    >>> real, fake = torch.tensor([[0.0], [0.0], [9.0]]), torch.tensor([[0.0], [1.0], [0.0]])
    >>> class_mmd(real, fake, torch.tensor([0, 1, 255]), bandwidths=(1,), sqrt=False)  # the mean of 0 and 0.7869
    tensor(0.3935)
    """
    _check_features(real, fake, bandwidths)
    labels_fake = labels_real if labels_fake is None else labels_fake
    for name, features, labels in (("real", real, labels_real), ("fake", fake, labels_fake)):
        if labels.shape != features.shape[:1]:
            shapes = f"expected shape {tuple(features.shape[:1])}, got {tuple(labels.shape)}"
            raise ValueError(f"labels_{name} must have one label per feature: {shapes}")
    order = _sorted(labels_real)
    real_by_class = _split_by_class(real, *order)
    fake_by_class = _split_by_class(fake, *(order if labels_fake is labels_real else _sorted(labels_fake)))
    shared = [c for c in real_by_class if c in fake_by_class and c != ignore_index]
    if not shared:
        return at_least_float32(real)[:0].sum() + at_least_float32(fake)[:0].sum()
    small = [c for c in shared if max(len(real_by_class[c]), len(fake_by_class[c])) <= SMALL]
    groups = [[c] for c in shared if c not in small]
    groups += [small[first : first + AT_ONCE] for first in range(0, len(small), AT_ONCE)]
    parts = [_squared_mmd([real_by_class[c] for c in g], [fake_by_class[c] for c in g], bandwidths) for g in groups]
    squared = torch.cat(parts)
    return (_root(squared, bandwidths) if sqrt else squared).mean()


def median_bandwidths(real: Tensor, fake: Tensor, most: int = 1_000) -> Tensor:
    """Return variances b of Gaussian kernels that suit the scale of features: 1/4 to 4 times the median of |x-y|^2.

    Unit vectors, whose squared distances are at most 4, look all alike to the kernels of `BANDWIDTHS`.

    Args:
        real: (n, D) features.
        fake: (m, D) features; the distances are those among both together.
        most: How many features of either are read, at even steps.

    Returns:
        (5,) float32 (float64 stays); of a median of 1 where no two features differ.

    >>> median_bandwidths(torch.zeros(1, 1), torch.tensor([[2.0]]))
    tensor([ 1.,  2.,  4.,  8., 16.])
    """
    both = torch.cat([at_least_float32(x.detach())[:: max(1, -(-len(x) // most))] for x in (real, fake)])
    squared = torch.pdist(both).square()
    median = squared.masked_fill(squared == 0, torch.nan).nanmedian().nan_to_num(1.0)
    # powers of two: the host knows how many, and waits for none
    return median * torch.arange(-2, 3, dtype=median.dtype, device=median.device).exp2()


def _root(squared: Tensor, bandwidths: Sequence[float] | Tensor) -> Tensor:
    # Below this it is rounding of four means as large as len(bandwidths); its root looks like a distance.
    positive = squared > 4 * torch.finfo(squared.dtype).eps * len(bandwidths)
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), squared * 0)


def _check_features(real: Tensor, fake: Tensor, bandwidths: Sequence[float] | Tensor) -> None:
    if real.dim() != 2 or fake.dim() != 2 or real.shape[1] != fake.shape[1]:
        raise ValueError(f"expected real (n, D) and fake (m, D), got {tuple(real.shape)} and {tuple(fake.shape)}")
    if not isinstance(bandwidths, Tensor) and (not bandwidths or not all(b > 0 for b in bandwidths)):
        raise ValueError(f"bandwidths must be positive and at least one, got {tuple(bandwidths)}")


def _sorted(labels: Tensor) -> tuple[Tensor, list[int], list[int]]:
    """Return, on the host, the order that sorts labels, the classes in it, and how many labels each has."""
    labels = labels.cpu()
    order = torch.argsort(labels, stable=True)  # whatever the device, the same sums
    classes, counts = torch.unique_consecutive(labels[order], return_counts=True)
    return order, classes.tolist(), counts.tolist()


def _split_by_class(features: Tensor, order: Tensor, classes: list[int], counts: list[int]) -> dict[int, Tensor]:
    return dict(zip(classes, torch.split(features[to_device(order, features.device)], counts), strict=True))


def _squared_mmd(real: Sequence[Tensor], fake: Sequence[Tensor], bandwidths: Sequence[float] | Tensor) -> Tensor:
    """Squared `mmd` of each of B classes, (B,), in one pass: all are padded to the largest.

    With weights w = 1/n on real and -1/m on synthetic features z, 0 on padding, it is the sum of w_i w_j k(z_i, z_j).
    """
    rows = at_least_float32(torch.cat([x for pair in zip(real, fake, strict=True) for x in pair]))
    sizes = np.array([(len(r), len(f)) for r, f in zip(real, fake, strict=True)])  # (B, 2)
    totals = sizes.sum(axis=1)
    count, length = len(sizes), int(totals.max())
    # where each row goes: scattered at once, since autograd copies all that is padded for each piece put into it
    shifts = length * np.arange(count) - (totals.cumsum() - totals)
    to = torch.from_numpy(np.arange(totals.sum()) + shifts.repeat(totals))
    of_each = torch.from_numpy((np.array([1.0, -1.0]) / sizes).ravel().repeat(sizes.ravel()))
    places, shares = to_device(to, rows.device), to_device(of_each.to(rows.dtype), rows.device)
    z = rows.new_zeros(count * length, rows.shape[1]).index_copy(0, places, rows).view(count, length, -1)  # (B, L, D)
    w = rows.new_zeros(count * length).index_copy(0, places, shares).view(count, length)  # (B, L)
    with torch.autocast(z.device.type, enabled=False), exact_products(z.device):
        # the kernel sees differences only: moving the origin into the data keeps |x|^2 + |y|^2 - 2xy precise
        center = (w.abs().unsqueeze(1) @ z / 2).detach()
        squared: Tensor = _WeightedKernel.apply(z - center, w, bandwidths)
    return squared


class _WeightedKernel(torch.autograd.Function):
    """Sum of w_i w_j k(z_i, z_j) of B sets z (B, L, D), weights w (B, L); autograd takes 1.8 to 2.4 times as long."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, w: Tensor, bandwidths: Sequence[float] | Tensor) -> Tensor:
        squares = z.square().sum(dim=2)
        distances = torch.baddbmm(squares[:, :, None] + squares[:, None, :], z, z.mT, alpha=-2).clamp_(min=0)
        kernels, slope = torch.zeros_like(distances), torch.zeros_like(distances)
        for bandwidth in bandwidths:
            kernel = distances.mul(-1 / (2 * bandwidth)).exp_()
            kernels.add_(kernel)
            if isinstance(bandwidth, Tensor):  # of the device
                slope.addcdiv_(kernel, 2 * bandwidth)
            else:
                slope.add_(kernel, alpha=1 / (2 * bandwidth))
        ctx.save_for_backward(z, w, slope)
        return (w * (kernels @ w.unsqueeze(2)).squeeze(2)).sum(dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        z, w, slope = ctx.saved_tensors
        # manual optimisation calls backward inside the autocast region
        with torch.autocast(z.device.type, enabled=False), exact_products(z.device):
            factor = -4 * gradient[:, None, None] * w.unsqueeze(2)
            return factor * ((slope @ w.unsqueeze(2)) * z - slope @ (w.unsqueeze(2) * z)), None, None
