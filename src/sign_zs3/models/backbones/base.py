"""What a backbone is: a network whose stages are read as a pyramid, and one of modules in a chain."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError
from sign_zs3.functional.geometry import Places
from sign_zs3.models.weights import evaluating


class Backbone(nn.Module, ABC):
    """A network whose stages are read as a pyramid; the base class for pyramids of one's own.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level to the image.
        places: Where its cells look, where that is known; else it is measured.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    places: Places | None = None

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), normalised, to one (N, channels, ceil(H / stride), ceil(W / stride)) per level."""

    def parameter_groups(self, layer_decay: float) -> list[dict[str, Any]]:
        """Return groups of parameters, each with its `multiplier` of the backbone's learning rate.

        A layer's is `layer_decay` times that of the layer above; a `UserError` below 1 where there are no such layers.
        """
        if layer_decay != 1:
            raise UserError(f"layer_decay: found {layer_decay}, expected 1, since the backbone is no transformer")
        return [{"params": list(self.parameters()), "multiplier": 1.0}]


class ChainBackbone(Backbone, nn.Sequential):
    """Modules applied one after the other; the outputs of those with an index in `taps`, ascending, are the levels."""

    def __init__(
        self, modules: Iterable[nn.Module], taps: tuple[int, ...], channels: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__(*modules)
        self.taps, self.channels, self.strides = taps, channels, strides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone`."""
        x, levels = images, []
        for index, module in enumerate(self):
            x = module(x)
            if index in self.taps:
                levels.append(x)
        return tuple(levels)


def measure_levels(network: nn.Module) -> list[tuple[int, int]]:
    """Return the channels and the stride of each map of a tuple that a network gives, from a trial image.

    A `ValueError` where it gives others than maps (1, channels, h, w), or whatever the network raises.
    """
    small, large = 64, 512
    with evaluating(network), torch.no_grad():
        maps = network(torch.zeros(1, 3, small, large))
    if not all(isinstance(x, Tensor) and x.ndim == 4 and x.shape[-2] < x.shape[-1] <= large for x in maps) or not maps:
        found = [tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__ for x in maps]
        raise ValueError(f"{small} x {large} pixels give {found}, expected maps (1, channels, h, w), fine to coarse")
    return [(x.shape[1], round((large - small) / (x.shape[-1] - x.shape[-2]))) for x in maps]
