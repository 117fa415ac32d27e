"""What stands between E and C: its interface, what it returns, and the module that adds nothing to E(x)."""

from abc import ABC, abstractmethod
from typing import NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

Cells: TypeAlias = tuple[int, int]  # rows and columns of a feature map: a position, or a size


class SpatialFeatures(NamedTuple):
    """F, in (0, 1) after a sigmoid, its latent z, and the latter's mean and log-variance; each (N, D, h, w)."""

    features: Tensor
    latent: Tensor
    mu: Tensor
    logvar: Tensor


class SpatialModule(nn.Module, ABC):
    """A module between E and C."""

    @abstractmethod
    def forward(
        self, x: Tensor, sample: bool | None = None, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """Add position or context to a feature map.

        Args:
            x: E(x), (N, D, h, w).
            sample: Draw z, or take its mean; None: draw in training mode.
            origin: (row, column) of the map in the whole map, where it is a window of one.
            full_size: (height, width) of the whole map; None: it is the map.
        """

    def _gate(self, h: Tensor, mu: Tensor, logvar: Tensor, sample: bool | None) -> SpatialFeatures:
        """Return F = sigmoid(h + h * sigmoid(z)) with z = mu + eps * exp(logvar / 2), eps of N(0, 1), or z = mu."""
        latent = mu + _noise(mu) * torch.exp(logvar / 2) if self._draws(sample) else mu
        return SpatialFeatures(torch.sigmoid(h + h * torch.sigmoid(latent)), latent, mu, logvar)

    def _draws(self, sample: bool | None) -> bool:
        return self.training if sample is None else sample

    @staticmethod
    def _start_at_zero(*heads: nn.Conv2d) -> None:
        """Let z start as N(0, 1): at the published alpha = 100, a random e^logvar diverges within two iterations."""
        for head in heads:
            for parameter in head.parameters():
                nn.init.zeros_(parameter)


class PlainFeatures(SpatialModule):
    """No spatial information, no parameters: a latent of pure noise, and F = sigmoid(E(x)), in (0, 1) as G(e + z) is.

    Without `sigmoid` F is E(x) itself, unbounded.
    """

    def __init__(self, feature_dim: int = 600, sigmoid: bool = True) -> None:
        super().__init__()
        self.feature_dim, self.sigmoid = feature_dim, sigmoid

    def forward(
        self, x: Tensor, sample: bool | None = None, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """See `SpatialModule`; z is of N(0, 1)."""
        zero = torch.zeros_like(x)
        latent = _noise(x) if self._draws(sample) else zero
        return SpatialFeatures(torch.sigmoid(x) if self.sigmoid else x, latent, zero, zero)


def _noise(like: Tensor) -> Tensor:
    # randn_like fills by the layout in memory, so that channels_last would draw another noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def scaled_width(published: int, feature_dim: int, multiple: int = 1) -> int:
    """Return a published width, which is for D = 600, for another D; a multiple of `multiple`."""
    return max(1, round(published * feature_dim / 600 / multiple)) * multiple
