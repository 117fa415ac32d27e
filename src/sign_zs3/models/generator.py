"""G: synthetic features from class vectors and a latent (section 3.2)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

PUBLISHED_WIDTHS = (1024, 960, 864, 784, 720)
PUBLISHED_DROPOUT = (0.1, 0.1, 0.3, 0.5, 0.5)


class Generator(nn.Module):
    """A perceptron per pixel: class vector and latent in, feature out.

    At D = 600 and 600-d class vectors this is the published 1200-1024-960-864-784-720-600 with 4.72 M parameters.
    LeakyReLU 0.2 and dropout follow each hidden layer; a sigmoid ends it, since real features lie in (0, 1) too.

    Args:
        word_dim, latent_dim, feature_dim: W, Z and D, the channels of class vectors, z and features.
        hidden: Widths of the hidden layers; None scales the published ones by D / 600.
        dropout: Dropout after each hidden layer: one rate for all, or one each; None takes the published rates for
            five hidden layers, otherwise 0.
        bounded: End in the sigmoid.
        unit: End in a unit vector instead.

    Raises:
        ValueError: The number of dropout rates is not that of hidden layers.
    """

    def __init__(
        self,
        word_dim: int = 600,
        latent_dim: int = 600,
        feature_dim: int = 600,
        hidden: Sequence[int] | None = None,
        dropout: float | Sequence[float] | None = None,
        bounded: bool = True,
        unit: bool = False,
    ) -> None:
        super().__init__()
        sizes = [max(1, w * feature_dim // 600) for w in PUBLISHED_WIDTHS] if hidden is None else list(hidden)
        if dropout is None:
            dropout = PUBLISHED_DROPOUT if len(sizes) == 5 else 0.0
        rates = [dropout] * len(sizes) if isinstance(dropout, (int, float)) else list(dropout)
        if len(rates) != len(sizes):
            raise ValueError(f"dropout: found {len(rates)} rates for {len(sizes)} hidden layers: give one, or one each")
        layers: list[nn.Module] = []
        previous = word_dim + latent_dim
        for width, rate in zip(sizes, rates, strict=True):
            layers += [nn.Conv2d(previous, width, 1), nn.LeakyReLU(0.2), *([nn.Dropout(rate)] if rate else [])]
            previous = width
        layers.append(nn.Conv2d(previous, feature_dim, 1))
        self.layers = nn.Sequential(*layers, *([nn.Sigmoid()] if bounded and not unit else []))
        self.word_dim, self.latent_dim, self.unit = word_dim, latent_dim, unit

    def forward(self, vectors: Tensor, latent: Tensor) -> Tensor:
        """Map e (N, W, h, w), the class vector of each pixel's label, and z (N, Z, h, w) to F^ (N, D, h, w).

        F^ = G(e + z) with + the concatenation.
        """
        features: Tensor = self.layers(torch.cat([vectors, latent], dim=1))
        return F.normalize(features, dim=1) if self.unit else features
