"""E: a backbone's pyramid and the head that makes one feature map of it (section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError, check_choice
from sign_zs3.files import line_of
from sign_zs3.functional.geometry import Cells, map_size, move_map, repeats_after, resize_map
from sign_zs3.models.backbones.base import Backbone, ChainBackbone, measure_levels
from sign_zs3.models.backbones.build import build_backbone
from sign_zs3.models.backbones.places import measure_places
from sign_zs3.models.config import SCALES, are_scales
from sign_zs3.models.heads import build_head


def rescale(images: Tensor, scale: float) -> Tensor:
    """Resize images (N, C, H, W), float, bilinearly by a factor, to at least one pixel a side."""
    if scale == 1.0:  # sizes cannot be rounded in a graph that is exported
        return images
    height, width = map_size(images)
    return resize_map(images, (_scaled(height, scale), _scaled(width, scale)))


def _scaled(side: int, scale: float) -> int:
    return max(1, round(side * scale))


class Encoder(nn.Module):
    """A backbone and a head; by default DeepLab-v2: the *sum* of parallel dilated 3x3 convolutions.

    Args:
        backbone: A name that `build_backbone` knows, a `Backbone`, or a pair of a module
            (N, 3, H, W) -> (N, channels, h, w) and its number of channels.
        feature_dim: D, the channels of E(x); 600 in the published models.
        output_stride, weights, backbone_levels, dense: See `build_backbone`.
        freeze_batch_norm: Keep batch-norm statistics and parameters of the backbone as they are. None: frozen where
            `weights` are given, as in DeepLab-v2; from scratch, normalisation by initial statistics would be none.
        dilations: Of the ``deeplab`` head's convolutions.
        input_scales: Scales at which the image is read; the maximum over scales is taken per element (the released
            code trains with 1, 0.75 and 0.5; the paper does not mention it).
        maximum: Over the ``features`` E(x), or over the ``logits`` that `Segmenter.forward` gives, as SPNet's tests do;
            E(x) then has the first scale alone.
        head: ``deeplab``, ``fcn``, ``fcn16``, ``unet``, ``deeplabv3plus`` or ``identity``, see `build_head`.
        freeze: Keep the whole backbone as it is: no gradient, batch norm in evaluation. Its maps then depend on the
            image alone, and may be computed once and kept.

    Attributes:
        strides: Strides of the backbone's levels that the head reads, fine to coarse; E(x) has the first one.
        places: Where the cells of the backbone's levels look, and to which sizes images are padded.

    Raises:
        UserError: An unknown head, scales or dilations out of range, and see `build_backbone`.
    """

    def __init__(
        self,
        backbone: str | Backbone | tuple[nn.Module, int] = "resnet101",
        feature_dim: int = 600,
        output_stride: int = 8,
        weights: str | None = None,
        freeze_batch_norm: bool | None = None,
        dilations: Sequence[int] = (6, 12, 18, 24),
        input_scales: Sequence[float] = (1.0,),
        head: str = "deeplab",
        freeze: bool = False,
        backbone_levels: Sequence[str] | None = None,
        dense: str = "value",
        maximum: Literal["features", "logits"] = "features",
    ) -> None:
        super().__init__()
        check_choice("maximum", maximum, "features", "logits")
        if not are_scales(input_scales):
            raise UserError(f"input_scales: found {input_scales!r:.100}, expected {SCALES}")
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, output_stride, weights, backbone_levels, dense)
        elif not isinstance(backbone, Backbone):
            module, channels = backbone
            backbone = ChainBackbone([module], taps=(0,), channels=(channels,), strides=(1,))
            try:
                ((found, stride),) = measure_levels(backbone)
            except Exception as error:  # whatever a module makes of an image
                raise UserError(
                    f"backbone: cannot be read ({line_of(error)[:200]}): give a module (N, 3, H, W) -> "
                    "(N, channels, h, w) of float32 and its number of channels"
                ) from error
            if found != channels:
                raise UserError(f"backbone: found {found} channels in its map, expected {channels}: give their number")
            backbone.strides = (stride,)
        self.backbone, self.feature_dim = backbone, feature_dim
        self.places = measure_places(backbone)
        self.head = build_head(head, backbone.channels, self.places.axes, feature_dim, dilations)
        self.strides = tuple(backbone.strides[level] for level in self.head.levels)
        self.input_scales, self.maximum = tuple(input_scales), maximum
        self.freeze_batch_norm = weights is not None if freeze_batch_norm is None else freeze_batch_norm
        self.freeze = freeze
        for module in self._frozen_parts():
            module.requires_grad_(False)
        self.train(self.training)

    def _frozen_parts(self) -> list[nn.Module]:
        """Return the modules that are never trained: the whole backbone, or its batch norms."""
        if self.freeze:
            return [self.backbone]
        modules = self.backbone.modules() if self.freeze_batch_norm else ()
        return [module for module in modules if isinstance(module, nn.modules.batchnorm._BatchNorm)]

    def own_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that may be trained: not those of a frozen backbone or of frozen batch norms."""
        frozen = {id(parameter) for module in self._frozen_parts() for parameter in module.parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in frozen]

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training or evaluation; a frozen backbone or frozen batch norm stays in evaluation."""
        super().train(mode)
        for module in self._frozen_parts():
            module.eval()
        return self

    @property
    def period(self) -> int:
        """Pixels after which an image meets the cells of every input scale alike; windows begin at multiples of it."""
        return repeats_after(self.places.step, self.input_scales)

    def cells(self, size: tuple[int, int]) -> Cells:
        """Return where the cells of E(x) look in an image of `size`, (height, width)."""
        return self._cells(size, self.input_scales[0])

    def _cells(self, size: tuple[int, int], scale: float) -> Cells:
        axis = self.places.axes[self.head.levels[0]]
        if scale == 1:
            return Cells(axis, axis)
        return Cells(axis, axis).resized((_scaled(size[0], scale), _scaled(size[1], scale)), size)

    def map_size(self, size: tuple[int, int], scale: float | None = None) -> tuple[int, int]:
        """Return the (height, width) of E(x) of an image of `size`, (height, width), or of what `read` gives."""
        scale, stride = self.input_scales[0] if scale is None else scale, self.strides[0]
        height, width = (self.places.cells(side if scale == 1 else _scaled(side, scale), stride) for side in size)
        return height, width

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), float, normalised, to the backbone's levels that the head reads.

        Images are padded as `places` says, with zero, which is the mean colour. The levels are one (N, channels, h, w)
        per entry of `strides`; without gradient where the backbone is frozen.
        """
        height, width = map_size(images)
        padded = F.pad(images, (0, self.places.padded(width) - width, 0, self.places.padded(height) - height))
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.freeze):
            levels = self.backbone(padded)
        return tuple(levels[level] for level in self.head.levels)

    def forward(self, images: Tensor | Sequence[Tensor]) -> Tensor:
        """Return E(x), (N, D, h, w), unbounded, with h and w of `map_size`; `cells` says where its cells look.

        Args:
            images: (N, 3, H, W) float, normalised; or what `maps` returned for them, in any float type.

        Raises:
            ValueError: Maps for several `input_scales`, or not one per level that the head reads.
        """
        if not isinstance(images, Tensor):
            if self.input_scales != (1.0,):
                raise ValueError(f"input_scales: found {self.input_scales} beside maps, which have one scale: use 1.0")
            if len(images) != len(self.head.levels):
                raise ValueError(f"maps: found {len(images)}, expected {len(self.head.levels)}, one per level read")
            dtype = next(self.parameters()).dtype
            encoded: Tensor = self.head([level.to(dtype) for level in images])
            return encoded
        if self.maximum == "logits":
            return self.read(images, self.input_scales[0])
        return self.maximum_over_scales(images, self.read)

    def read(self, images: Tensor, scale: float) -> Tensor:
        """Return E(x) of images (N, 3, H, W), float, normalised, at one scale."""
        encoded: Tensor = self.head(self.maps(rescale(images, scale)))
        return encoded

    def maximum_over_scales(self, images: Tensor, read: Callable[[Tensor, float], Tensor]) -> Tensor:
        """Return the maximum of the maps that `read` makes of images at each scale, at the cells of the first one."""
        size, found = map_size(images), read(images, self.input_scales[0])
        for scale in self.input_scales[1:]:
            moved = move_map(read(images, scale), self._cells(size, scale), self.cells(size), map_size(found))
            found = torch.maximum(found, moved)
        return found
