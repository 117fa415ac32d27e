"""What stands between E and C returns: features and a latent; and the module that adds nothing to E(x)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn


class SpatialFeatures(NamedTuple):
    """What the modules of this file return.

    Attributes:
        features: F, (N, D, h, w), in (0, 1) after a sigmoid.
        latent: z, (N, D, h, w).
        mu: Mean of z, (N, D, h, w).
        logvar: Log-variance of z, (N, D, h, w).
    """

    features: Tensor
    latent: Tensor
    mu: Tensor
    logvar: Tensor


class PlainFeatures(nn.Module):
    """No spatial information: F = sigmoid(E(x)) or E(x) itself, and a latent of pure noise. Has no parameters.

    Args:
        feature_dim: D.
        sigmoid: Squash F into (0, 1), where G's features lie; False: F = E(x), unbounded.
    """

    def __init__(self, feature_dim: int = 600, sigmoid: bool = True) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.sigmoid = sigmoid

    def forward(
        self,
        x: Tensor,
        sample: bool | None = None,
        origin: tuple[int, int] = (0, 0),
        full_size: tuple[int, int] | None = None,
    ) -> SpatialFeatures:
        """Pass a feature map on, as `SpatialInformationModule.forward`; z is of N(0, 1), and mu = logvar = 0."""
        zero = torch.zeros_like(x)
        drawn = self.training if sample is None else sample
        latent = _noise(x) if drawn else zero
        return SpatialFeatures(torch.sigmoid(x) if self.sigmoid else x, latent, zero, zero)


def draw_latent(mu: Tensor, logvar: Tensor, sample: bool) -> Tensor:
    """Return z = mu + eps * exp(logvar / 2) with eps of N(0, 1), or mu where it is not to be sampled."""
    return mu + _noise(mu) * torch.exp(logvar / 2) if sample else mu


def _noise(like: Tensor) -> Tensor:
    # randn_like fills by the layout in memory, so that channels_last would draw another noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def start_at_zero(*heads: nn.Conv2d) -> None:
    """Let z start as N(0, 1): at the published alpha = 100 a random start of e^logvar diverges in two iterations."""
    for head in heads:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def scaled_width(published: int, feature_dim: int, multiple: int = 1) -> int:
    """Return a published width, which is for D = 600, for another D; a multiple of `multiple`."""
    return max(1, round(published * feature_dim / 600 / multiple)) * multiple
