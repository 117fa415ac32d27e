"""Heads: from a backbone's pyramid to E(x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError
from sign_zs3.functional.geometry import map_size, resize_map

MAX_DILATION = 1024
"""Cells; a dilation beyond the map reads nothing but padding, which takes memory all the same."""

HEADS = ("deeplab", "fcn", "fcn16", "unet")


class DeepLabHead(nn.ModuleList):
    """The *sum* of parallel dilated 3x3 convolutions on the last level (DeepLab-v2; Chen et al., TPAMI 2017).

    Args:
        channels: Channels of the backbone's levels.
        feature_dim: D, channels of E(x).
        dilations: One convolution each.

    Attributes:
        levels: Indices of the backbone's levels that the head reads.
    """

    def __init__(self, channels: Sequence[int], feature_dim: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        super().__init__(nn.Conv2d(channels[-1], feature_dim, 3, padding=d, dilation=d) for d in dilations)
        self.levels = (len(channels) - 1,)
        for convolution in self:
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the one level (N, channels, h, w) to E(x) (N, D, h, w)."""
        (x,) = maps
        branches: list[Tensor] = [convolution(x) for convolution in self]
        total = branches[0]
        for branch in branches[1:]:
            total = total + branch
        return total


class FCNHead(nn.Module):
    """A linear score of every level of some stride and more, summed (FCN-8s, FCN-16s; Long et al., CVPR 2015).

    Each level is batch-normalised without parameters, since levels and backbones differ in scale, and mapped by a
    1x1 convolution at its own resolution; the maps are resized bilinearly to the finest one and summed. Both steps
    being linear, this is a 1x1 convolution on all levels resized and concatenated, with less memory. A pyramid
    with no level of that stride is read whole.

    Args:
        channels: Channels of the backbone's levels.
        strides: Their strides.
        feature_dim: D, channels of E(x).
        finest: Stride of the finest level to read.

    Attributes:
        levels: Indices of the backbone's levels that the head reads.
    """

    def __init__(self, channels: Sequence[int], strides: Sequence[int], feature_dim: int, finest: int = 8) -> None:
        super().__init__()
        coarse = tuple(i for i, stride in enumerate(strides) if stride >= finest)
        self.levels = coarse or tuple(range(len(channels)))
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels[i], affine=False) for i in self.levels)
        self.projections = nn.ModuleList()
        # The normalised channels of all levels add up: this deviation gives E(x) unit scale if they are uncorrelated.
        deviation = sum(channels[i] for i in self.levels) ** -0.5
        for i in self.levels:
            projection = nn.Conv2d(channels[i], feature_dim, 1)
            assert projection.bias is not None
            nn.init.normal_(projection.weight, std=deviation)
            nn.init.zeros_(projection.bias)
            self.projections.append(projection)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the levels (N, channels, h_i, w_i), fine to coarse, to E(x) (N, D, h_0, w_0)."""
        total: Tensor | None = None
        for norm, projection, level in zip(self.norms, self.projections, maps, strict=True):
            x: Tensor = projection(norm(level))
            total = x if total is None else total + resize_map(x, map_size(total))
        assert total is not None
        return total


class UNetHead(nn.Module):
    """A decoder from the coarsest level to the finest (U-Net; Ronneberger et al., MICCAI 2015).

    At each step the map is resized to the next finer level and concatenated with it, and read by two 3x3
    convolutions with batch norm and ReLU; a 1x1 convolution to D ends it. Other than in the original, where the
    decoder mirrors the encoder's widths, all steps are `min(feature_dim, 256)` wide: backbones narrow down to
    some 20 channels at their finest level, fewer than E(x) needs. A pyramid of one level has no step.

    Args:
        channels: Channels of the backbone's levels.
        feature_dim: D, channels of E(x).

    Attributes:
        levels: Indices of the backbone's levels that the head reads: all.
    """

    def __init__(self, channels: Sequence[int], feature_dim: int) -> None:
        super().__init__()
        self.levels = tuple(range(len(channels)))
        width = min(feature_dim, 256)
        self.steps = nn.ModuleList()
        below = channels[-1]
        for finer in reversed(channels[:-1]):
            self.steps.append(
                nn.Sequential(
                    nn.Conv2d(below + finer, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            below = width
        self.projection = nn.Conv2d(below, feature_dim, 1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the levels (N, channels, h_i, w_i), fine to coarse, to E(x) (N, D, h_0, w_0)."""
        x = maps[-1]
        for step, finer in zip(self.steps, reversed(maps[:-1]), strict=True):
            x = step(torch.cat([resize_map(x, map_size(finer)), finer], dim=1))
        features: Tensor = self.projection(x)
        return features


Head: TypeAlias = DeepLabHead | FCNHead | UNetHead


def build_head(
    name: str, channels: Sequence[int], strides: Sequence[int], feature_dim: int, dilations: Sequence[int]
) -> Head:
    """Build a head for a pyramid.

    Args:
        name: ``deeplab``, ``fcn`` (its finest stride is 8), ``fcn16`` (16: a quarter of the pixels) or ``unet``.
        channels: Channels of the backbone's levels, fine to coarse.
        strides: Their strides.
        feature_dim: D, channels of E(x).
        dilations: Of ``deeplab``.

    Raises:
        UserError: Unknown name, or dilations out of range.
    """
    if name == "deeplab":
        if not all(type(d) is int and 1 <= d <= MAX_DILATION for d in dilations) or not 1 <= len(dilations) <= 64:
            raise UserError(
                f"dilations: found {list(dilations)!r:.100}, expected 1 to 64 whole numbers of 1 to {MAX_DILATION}"
            )
        return DeepLabHead(channels, feature_dim, dilations)
    if name in ("fcn", "fcn16"):
        return FCNHead(channels, strides, feature_dim, 8 if name == "fcn" else 16)
    if name == "unet":
        return UNetHead(channels, feature_dim)
    raise UserError(f"head: found {name!r}, expected one of {', '.join(HEADS)}")
