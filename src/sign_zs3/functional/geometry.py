"""Between pixels and cells of a feature map: sizes, resizing of maps and scores, label maps at feature resolution."""

import torch
from torch import Tensor
from torch.nn import functional as F


def map_size(maps: Tensor) -> tuple[int, int]:
    """Return the (height, width) of maps (..., height, width).

    >>> map_size(torch.zeros(2, 3, 4, 5))
    (4, 5)
    """
    return maps.shape[-2], maps.shape[-1]


def resize_map(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps (N, C, h, w), float, bilinearly to `size`; those that have the size already stay as they are.

    >>> resize_map(torch.tensor([[[[0.0, 1.0]]]]), (1, 4))
    tensor([[[[0.0000, 0.2500, 0.7500, 1.0000]]]])
    """
    return maps if map_size(maps) == size else F.interpolate(maps, size, mode="bilinear", align_corners=False)


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize scores (N, C, h, w), float, bilinearly to `size`; classes at minus infinity stay far below all others.

    >>> resize_scores(torch.tensor([[[[1.0]], [[-torch.inf]]]]), (2, 2)).argmax(dim=1)
    tensor([[[0, 0],
             [0, 0]]])
    """
    # 0 * -inf is NaN in the interpolation's weighted sums, so unknown classes travel as the lowest number.
    lowest = torch.finfo(scores.dtype).min / 4
    return F.interpolate(scores.clamp(min=lowest), size, mode="bilinear", align_corners=False)


def shrink_labels(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize a label map (N, H, W), integers or bool, to `size` by nearest neighbour; the result is int64.

    >>> shrink_labels(torch.tensor([[[1, 1, 2, 2]]]), (1, 2))
    tensor([[[1, 2]]])
    """
    return F.interpolate(labels.unsqueeze(1).float(), size, mode="nearest").squeeze(1).long()
