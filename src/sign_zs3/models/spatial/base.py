"""What all spatial modules share: what they take and give, their latent's gate, and positions."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError, check_choice
from sign_zs3.functional import positional
from sign_zs3.limits import MAX_SIDE

Position = Literal["relative", "endpoints", "absolute", "interpolated", "none"]
Cells: TypeAlias = tuple[int, int]  # rows and columns of a feature map: a position, or a size


class SpatialFeatures(NamedTuple):
    """F, in (0, 1) or of length 1, its latent z, and the latter's mean and log-variance; each (N, D, h, w)."""

    features: Tensor
    latent: Tensor
    mu: Tensor
    logvar: Tensor


class SpatialModule(nn.Module, ABC):
    """A module between E and C; with `unit`, F of each cell is a unit vector instead of what a sigmoid gives."""

    unit = False

    @abstractmethod
    def forward(
        self, x: Tensor, sample: bool | None = None, *, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """Add position or context to a feature map.

        Args:
            x: E(x), (N, D, h, w).
            sample: Draw z, or take its mean; None: draw in training mode.
            origin: (row, column) of the map in the whole map, where it is a window of one.
            full_size: (height, width) of the whole map; None: it is the map.
        """

    def gated(self, h: Tensor, mu: Tensor, logvar: Tensor, sample: bool | None) -> SpatialFeatures:
        """Return F = sigmoid(h + h * sigmoid(z)) with z = mu + eps * exp(logvar / 2), eps of N(0, 1), or z = mu."""
        latent = draw(mu, logvar, self.training if sample is None else sample)
        return SpatialFeatures(self.bounded(h + h * torch.sigmoid(latent)), latent, mu, logvar)

    def bounded(self, x: Tensor) -> Tensor:
        """Return sigmoid(x), or with `unit` x / |x| at each cell."""
        return F.normalize(x, dim=1) if self.unit else torch.sigmoid(x)


class PositionedModule(SpatialModule):
    """A spatial module that reads a positional encoding PE; arguments and errors of `SpatialInformationModule`."""

    def __init__(self, feature_dim: int, position: Position, train_size: Sequence[int] | None) -> None:
        super().__init__()
        sides = tuple(train_size or ())
        check_choice("position", position, "relative", "endpoints", "absolute", "interpolated", "none")
        if position == "interpolated" and train_size is None:
            raise UserError("position: interpolated needs train_size, the feature map's size in training")
        two_sides = len(sides) == 2 and all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)
        if train_size is not None and not two_sides:
            raise UserError(f"train_size: found {train_size!r:.100}, expected two whole numbers of 1 to {MAX_SIDE}")
        if position != "none" and feature_dim % 4:
            raise UserError(f"feature_dim: found {feature_dim}, expected a multiple of 4 (sines, cosines, two axes)")
        self.position = position
        self.train_size = (sides[0], sides[1]) if sides else None
        self.feature_dim = feature_dim

    def position_map(
        self, height: int, width: int, origin: Cells = (0, 0), full_size: Cells | None = None, device: Any = None
    ) -> Tensor:
        """Return PE, (D, height, width) float32, for a map or for a window of a larger one, see `forward`."""
        where: dict[str, Any] = {"dim": self.feature_dim, "origin": origin, "full_size": full_size, "device": device}
        if self.position in ("relative", "endpoints"):
            endpoints = self.position == "endpoints"
            return positional.relative_positional_encoding(height, width, endpoints=endpoints, **where)
        if self.position == "absolute":
            return positional.absolute_positional_encoding(height, width, **where)
        if self.position == "interpolated":
            assert self.train_size is not None
            return positional.interpolated_positional_encoding(height, width, self.train_size, **where)
        return torch.zeros(self.feature_dim, height, width, device=device)

    def beside_position(self, x: Tensor, origin: Cells, full_size: Cells | None) -> Tensor:
        """Return [x, PE], (N, 2 * D, h, w)."""
        n, _, height, width = x.shape
        position = self.position_map(height, width, origin, full_size, x.device).to(x.dtype)
        return torch.cat([x, position.expand(n, -1, -1, -1)], dim=1)


def draw(mu: Tensor, logvar: Tensor, sample: bool) -> Tensor:
    """Return mu + eps * exp(logvar / 2) with eps of N(0, 1), or mu where nothing is to be drawn."""
    return mu + noise(mu) * torch.exp(logvar / 2) if sample else mu


def noise(like: Tensor) -> Tensor:
    """Draw from N(0, 1) as a tensor is."""
    # randn_like fills by the layout in memory, so that channels_last would draw another noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def zeroed(head: nn.Conv2d) -> nn.Conv2d:
    """Let z start as N(0, 1): at the published alpha = 100, a random e^logvar diverges within two iterations."""
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    return head


def scaled_width(published: int, feature_dim: int, multiple: int = 1) -> int:
    """Return a published width, which is for D = 600, for another D; a multiple of `multiple`."""
    return max(1, round(published * feature_dim / 600 / multiple)) * multiple
