"""What a backbone is: a fully convolutional network that gives a pyramid of maps, fine to coarse."""

from abc import ABC, abstractmethod
from collections.abc import Iterable

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """A network whose stages are read as a pyramid; the base class for pyramids of one's own.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level to the image; 0 where it is not known.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), normalised, to one (N, channels, ceil(H / stride), ceil(W / stride)) per level."""


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
