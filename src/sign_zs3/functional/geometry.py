"""Where the cells of a feature map look, and all that goes between cells and pixels: sizes, resizing, label maps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.functional.devices import exact_products
from sign_zs3.protocol import IGNORE_INDEX


class Axis(NamedTuple):
    """Where the cells along one side of a map look: cell i at pixel ``offset + stride * i`` of the image.

    Pixels are numbered from 0 at their centres. A symmetrically padded network has offset 0, one that cuts the image
    into patches (stride - 1) / 2; on a mirrored image the stride is negative.

    >>> Axis(8).mirrored(641), Axis(4, 1.5).scaled(0.5)
    (Axis(stride=-8, offset=640), Axis(stride=8.0, offset=3.5))
    """

    stride: float
    offset: float = 0

    def looks_at(self, count: int, device: torch.device) -> Tensor:
        """Return the pixels, (count,) float32, at which `count` cells look."""
        return torch.arange(count, device=device, dtype=torch.float32) * self.stride + self.offset

    def scaled(self, factor: float) -> Axis:
        """Return the same cells in an image of which this one was resized by a factor, pixel borders on borders."""
        return Axis(self.stride / factor, (self.offset + 0.5) / factor - 0.5)

    def mirrored(self, length: int) -> Axis:
        """Return the same cells in the mirror image, of `length` pixels."""
        return Axis(-self.stride, length - 1 - self.offset)


class Cells(NamedTuple):
    """Where the cells of a map look in an image: those of a column, and those of a row."""

    rows: Axis
    columns: Axis

    def resized(self, size: tuple[int, int], other: tuple[int, int]) -> Cells:
        """Return the same cells in the image once it is resized from `size`, (height, width), to another one."""
        sides = zip(self, size, other, strict=True)
        return Cells(*(axis if old == new else axis.scaled(old / new) for axis, old, new in sides))


class Places(NamedTuple):
    """Where a backbone looks, and what sizes it takes.

    Attributes:
        axes: Where the cells of each level look, along either side of the image.
        step: Images are padded at the right and at the bottom, to the next multiple of `step` and `extra` more.
        extra: 1 where a cell looks at the image's first pixel and one at its last, 0 where cells are patches.
    """

    axes: tuple[Axis, ...]
    step: int
    extra: int

    def padded(self, length: int) -> int:
        """Return the length of a side of `length` pixels once it is padded."""
        # no negative numbers, which graphs of ONNX round the other way
        return (length - self.extra + self.step - 1) // self.step * self.step + self.extra

    def cells(self, length: int, stride: int) -> int:
        """Return how many cells of a level a side of `length` pixels has once it is padded."""
        return (self.padded(length) - self.extra) // stride + (self.extra > 0)


PIXELS = Cells(Axis(1), Axis(1))


def map_size(maps: Tensor) -> tuple[int, int]:
    """Return the (height, width) of maps (..., height, width).

    >>> map_size(torch.zeros(2, 3, 4, 5))
    (4, 5)
    """
    return maps.shape[-2], maps.shape[-1]


def repeats_after(stride: int, scales: Sequence[float]) -> int:
    """Return the fewest pixels that are a multiple of `stride` in an image at each of some scales.

    >>> repeats_after(8, [1, 0.75, 0.5])
    32
    """
    fractions = [Fraction(scale).limit_denominator(16) or Fraction(1, 16) for scale in scales]
    return math.lcm(*((stride / fraction).numerator for fraction in fractions))


def move_map(maps: Tensor, cells: Cells, others: Cells, size: tuple[int, int]) -> Tensor:
    """Interpolate maps bilinearly between their cells; beyond the outermost, they are as there.

    Args:
        maps: (N, C, h, w), float; half precision is interpolated in float32.
        cells: Where their cells look in an image.
        others: Where those of the result look in it.
        size: (height, width) of the result.

    Returns:
        (N, C, height, width) in the type of `maps`.

    >>> line = Cells(Axis(1), Axis(8))
    >>> move_map(torch.tensor([[[[0.0, 8.0]]]]), line, Cells(Axis(1), Axis(4, -4)), (1, 4))
    tensor([[[[0., 0., 4., 8.]]]])
    """
    # two products of matrices, whose gradient CUDA sums in a fixed order, as it does not for F.interpolate's
    device = "cpu" if maps.is_meta else maps.device.type
    with torch.autocast(device, enabled=False), exact_products(maps.device):
        values = maps.to(torch.promote_types(maps.dtype, torch.float32))
        sides = zip(cells, others, map_size(maps), size, strict=True)
        down, along = (_hats(*side, device=maps.device).to(values) for side in sides)
        return (down @ (values @ along.T)).to(maps.dtype)


def _hats(axis: Axis, other: Axis, cells: int, count: int, device: torch.device) -> Tensor:
    """Return the weight (count, cells) of each cell of an axis at each of another one, in rows of sum 1."""
    at = (other.looks_at(count, device) - axis.offset) / axis.stride
    places = torch.arange(cells, device=device, dtype=at.dtype)
    return (1 - (at.clamp(0, cells - 1)[:, None] - places).abs()).clamp(min=0)


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images or maps (N, C, h, w), float, bilinearly to `size`, borders on borders; not copied at that size.

    >>> resize_map(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
    tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    return maps if map_size(maps) == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def resize_scores(scores: Tensor, size: tuple[int, int], cells: Cells | None = None) -> Tensor:
    """Interpolate scores bilinearly at each pixel of an image; classes at minus infinity stay far below all others.

    Args:
        scores: (N, C, h, w), float.
        size: (height, width) of the image.
        cells: Where the scores' cells look in it; None: they tile it.

    Returns:
        (N, C, height, width).

    >>> scores = torch.tensor([[[[0.0, 8.0]], [[-torch.inf] * 2]]])
    >>> resize_scores(scores, (1, 9), Cells(Axis(8), Axis(8)))[:, 0]  # a cell at either end
    tensor([[[0., 1., 2., 3., 4., 5., 6., 7., 8.]]])
    """
    # 0 * -inf is NaN in the interpolation's weighted sums, so unknown classes travel as the lowest number.
    scores = scores.clamp(min=torch.finfo(scores.dtype).min / 4)
    return resize_map(scores, size) if cells is None else move_map(scores, cells, PIXELS, size)


def shrink_labels(labels: Tensor, size: tuple[int, int], cells: Cells | None = None) -> Tensor:
    """Read a label map at the pixels nearest to the places of cells, the later one of two that are as near.

    Args:
        labels: (N, H, W), integers or bool.
        size: (height, width) of the map of cells.
        cells: Where they look; None: at the upper left corner of each of the parts that tile the image, which is the
            rule of the published code.

    Returns:
        (N, height, width) int64; 255 in cells that look beyond the image.

    >>> shrink_labels(torch.tensor([[[1, 1, 1, 2, 2]]]), (1, 2), Cells(Axis(4), Axis(4)))
    tensor([[[1, 2]]])
    """
    if cells is None:
        return F.interpolate(labels.unsqueeze(1).float(), size, mode="nearest").squeeze(1).long()
    for dim, (axis, count) in enumerate(zip(cells, size, strict=True), start=1):
        at, last = (axis.looks_at(count, labels.device) + 0.5).floor().long(), labels.shape[dim] - 1
        labels = labels.index_select(dim, at.clamp(0, last)).long()
        labels = labels.movedim(dim, -1).where((at >= 0) & (at <= last), IGNORE_INDEX).movedim(-1, dim)
    return labels
