"""Encodings by convolutions: SIM's (Table 2: ``conv`` and ``attention``) and CaGNet's context."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ConvolutionEncoding(nn.Module):
    """1x1 to D; 3x3 to `width`; two residual pairs of 3x3; 3x3 up to D."""

    def __init__(self, feature_dim: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(2 * feature_dim, feature_dim, 1, bias=False)
        self.down = nn.Conv2d(feature_dim, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(3))
        self.last = nn.Conv2d(width, feature_dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [E(x), PE] (N, 2 * D, h, w) to (N, D, h, w)."""
        x = F.relu(self.down(F.relu(self.reduce(x))))
        for block in self.blocks:
            x = x + F.relu(block(x))
        out: Tensor = self.last(x)
        return out


class GatedScales(nn.Module):
    """CaGNet's context: 3x3 convolutions of three dilations, each weighed by its own attention map; 1x1 up to D."""

    def __init__(self, feature_dim: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Conv2d(feature_dim if d == 1 else width, width, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 5)
        )
        self.gate = nn.Conv2d(3 * width, 3, 3, padding=1, bias=False)
        self.last = nn.Conv2d(3 * width, feature_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D, h, w) to its context, (N, D, h, w)."""
        maps: list[Tensor] = []
        for scale in self.scales:
            x = F.relu(scale(x))
            maps.append(x)
        gates = torch.split(torch.sigmoid(self.gate(torch.cat(maps, dim=1))), 1, dim=1)
        out: Tensor = self.last(torch.cat([m * g for m, g in zip(maps, gates, strict=True)], dim=1))
        return out


class GatedEncoding(GatedScales):
    """1x1 to D before CaGNet's context."""

    def __init__(self, feature_dim: int, width: int) -> None:
        # Drawn first, so that a seed keeps giving the weights it gave.
        reduce = nn.Conv2d(2 * feature_dim, feature_dim, 1, bias=False)
        super().__init__(feature_dim, width)
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        """Map [E(x), PE] (N, 2 * D, h, w) to (N, D, h, w)."""
        return super().forward(F.relu(self.reduce(x)))
