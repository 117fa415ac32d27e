"""Heads: from a backbone's pyramid, fine to coarse, to E(x) of D = `feature_dim` channels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError, check_choice
from sign_zs3.functional.geometry import Axis, Cells, map_size, move_map
from sign_zs3.limits import MAX_DILATION


class DeepLabHead(nn.ModuleList):
    """The *sum* of parallel dilated 3x3 convolutions on the last level (DeepLab-v2; Chen et al., TPAMI 2017)."""

    def __init__(self, channels: Sequence[int], feature_dim: int, dilations: Sequence[int] = (6, 12, 18, 24)) -> None:
        convolutions = [nn.Conv2d(channels[-1], feature_dim, 3, padding=d, dilation=d) for d in dilations]
        super().__init__(_initialised(convolution, 0.01) for convolution in convolutions)
        self.levels = (len(channels) - 1,)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the one level (N, channels, h, w) to E(x) (N, D, h, w)."""
        (x,) = maps
        branches: list[Tensor] = [convolution(x) for convolution in self]
        return sum(branches[1:], branches[0])


class FCNHead(nn.Module):
    """A linear score of every level of some stride and more, summed (FCN-8s, FCN-16s; Long et al., CVPR 2015).

    Each level is batch-normalised without parameters, since levels and backbones differ in scale, and mapped by a 1x1
    convolution at its own resolution; the maps, interpolated at the cells of the finest one, are summed. Both steps
    being linear, it is one 1x1 convolution on all levels concatenated. Strides of `finest` and more are read, or else
    all.
    """

    def __init__(self, channels: Sequence[int], axes: Sequence[Axis], feature_dim: int, finest: int = 8) -> None:
        super().__init__()
        coarse = tuple(i for i, axis in enumerate(axes) if axis.stride >= finest)
        self.levels = coarse or tuple(range(len(channels)))
        self.axes = [axes[i] for i in self.levels]
        widths = [channels[i] for i in self.levels]
        self.norms = nn.ModuleList(nn.BatchNorm2d(width, affine=False) for width in widths)
        # The normalised channels of all levels add up: this deviation gives E(x) unit scale if they are uncorrelated.
        deviation = sum(widths) ** -0.5
        self.projections = nn.ModuleList(_initialised(nn.Conv2d(w, feature_dim, 1), deviation) for w in widths)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the levels (N, channels, h_i, w_i), fine to coarse, to E(x) (N, D, h_0, w_0)."""
        triples = zip(self.norms, self.projections, maps, strict=True)
        projected = (projection(norm(level)) for norm, projection, level in triples)
        finest: Tensor = next(projected)
        moved = (_moved(x, axis, self.axes[0], finest) for x, axis in zip(projected, self.axes[1:], strict=True))
        return sum(moved, finest)


class UNetHead(nn.Module):
    """A decoder from the coarsest level to the finest (U-Net; Ronneberger et al., MICCAI 2015).

    At each step the map is interpolated at the cells of the next finer level, concatenated with it, and read by two 3x3
    convolutions with batch norm and ReLU; a 1x1 convolution to D ends it. All steps are `min(feature_dim, 256)` wide,
    where the original mirrors the encoder: backbones have some 20 channels at their finest, fewer than E(x) needs.
    """

    def __init__(self, channels: Sequence[int], axes: Sequence[Axis], feature_dim: int) -> None:
        super().__init__()
        self.levels, self.axes = tuple(range(len(channels))), list(axes)
        width = min(feature_dim, 256)
        self.steps = nn.ModuleList()
        below = channels[-1]
        for finer in reversed(channels[:-1]):
            self.steps.append(nn.Sequential(*_convolution(below + finer, width), *_convolution(width, width)))
            below = width
        self.projection = nn.Conv2d(below, feature_dim, 1)
        _kaiming(self)
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the levels (N, channels, h_i, w_i), fine to coarse, to E(x) (N, D, h_0, w_0)."""
        x, axis = maps[-1], self.axes[-1]
        for step, finer, next_axis in zip(self.steps, reversed(maps[:-1]), reversed(self.axes[:-1]), strict=True):
            x, axis = step(torch.cat([_moved(x, axis, next_axis, finer), finer], dim=1)), next_axis
        features: Tensor = self.projection(x)
        return features


class DeepLabV3PlusHead(nn.Module):
    """DeepLab-v3+ (Chen et al., ECCV 2018) without its last 1x1 convolution, which is C; that of ZS3Net.

    The last level is read by a 1x1 convolution, three 3x3 ones of dilations 6, 12 and 18, and one of its mean over all
    cells, 256 channels each; a 1x1 convolution makes 256 of their 1,280. They are interpolated at the cells of the
    first level, of which a 1x1 convolution makes 48 channels, and read with these by two 3x3 convolutions to D. Batch
    norm and ReLU follow each convolution, dropout of 0.5, 0.5 and 0.1 the 1,280 and the last two.
    """

    def __init__(self, channels: Sequence[int], axes: Sequence[Axis], feature_dim: int) -> None:
        super().__init__()
        self.levels, self.axes, deep = (0, len(channels) - 1), (axes[0], axes[-1]), channels[-1]
        branches = (_convolution(deep, 256, size, dilation) for size, dilation in ((1, 1), (3, 6), (3, 12), (3, 18)))
        self.branches = nn.ModuleList(nn.Sequential(*branch) for branch in branches)
        self.mean = nn.Sequential(nn.AdaptiveAvgPool2d(1), *_convolution(deep, 256, 1))
        self.joint = nn.Sequential(*_convolution(5 * 256, 256, 1), nn.Dropout(0.5))
        self.fine = nn.Sequential(*_convolution(channels[0], 48, 1))
        middle, last = _convolution(256 + 48, 256), _convolution(256, feature_dim)
        self.last = nn.Sequential(*middle, nn.Dropout(0.5), *last, nn.Dropout(0.1))
        _kaiming(self)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Map the first and the last level, (N, channels, h_i, w_i), to E(x) (N, D, h_0, w_0), not below 0."""
        fine, deep = maps
        whole = self.mean(deep).expand(-1, -1, *map_size(deep))
        joint = self.joint(torch.cat([*(branch(deep) for branch in self.branches), whole], dim=1))
        moved = _moved(joint, self.axes[1], self.axes[0], fine)
        features: Tensor = self.last(torch.cat([moved, self.fine(fine)], dim=1))
        return features


class IdentityHead(nn.Module):
    """E(x) is the last level as it is, whose channels D must be: for features that have a meaning, such as CLIP's."""

    def __init__(self, channels: Sequence[int], feature_dim: int) -> None:
        super().__init__()
        if channels[-1] != feature_dim:
            raise UserError(
                f"head: identity gives the {channels[-1]} channels of the backbone, expected {feature_dim}, which is "
                "feature_dim, or for SPNet the length of class vectors: take those of the backbone's own texts"
            )
        self.levels = (len(channels) - 1,)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Return the one level, (N, D, h, w)."""
        return maps[0]


def _moved(x: Tensor, axis: Axis, other: Axis, finer: Tensor) -> Tensor:
    """Interpolate a level at the cells of a finer one."""
    return move_map(x, Cells(axis, axis), Cells(other, other), map_size(finer))


def _convolution(channels: int, width: int, size: int = 3, dilation: int = 1) -> tuple[nn.Module, ...]:
    padding = size // 2 * dilation
    convolution = nn.Conv2d(channels, width, size, padding=padding, dilation=dilation, bias=False)
    return convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True)


def _kaiming(head: nn.Module) -> None:
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def _initialised(convolution: nn.Conv2d, std: float) -> nn.Conv2d:
    """Draw a convolution's weights from N(0, std^2), and set its bias to 0."""
    nn.init.normal_(convolution.weight, std=std)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.bias)
    return convolution


def build_head(
    name: str, channels: Sequence[int], axes: Sequence[Axis], feature_dim: int, rates: Sequence[int]
) -> DeepLabHead | FCNHead | UNetHead | DeepLabV3PlusHead | IdentityHead:
    """Make a head, which reads the backbone's levels with the indices `levels`.

    It is ``deeplab``, ``fcn`` (its finest stride is 8), ``fcn16`` (16: a quarter of the pixels), ``unet``,
    ``deeplabv3plus`` or ``identity``; an unknown name, or a dilation of ``deeplab`` out of range, is a UserError.
    """
    check_choice("head", name, "deeplab", "fcn", "fcn16", "unet", "deeplabv3plus", "identity")
    if name == "identity":
        return IdentityHead(channels, feature_dim)
    if name == "deeplabv3plus":
        return DeepLabV3PlusHead(channels, axes, feature_dim)
    if name == "unet":
        return UNetHead(channels, axes, feature_dim)
    if name != "deeplab":
        return FCNHead(channels, axes, feature_dim, 8 if name == "fcn" else 16)
    if not all(type(d) is int and 1 <= d <= MAX_DILATION for d in rates) or not 1 <= len(rates) <= 64:
        raise UserError(f"dilations: found {list(rates)!r:.100}, expected 1 to 64 whole numbers of 1 to {MAX_DILATION}")
    return DeepLabHead(channels, feature_dim, rates)
