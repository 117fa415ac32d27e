"""C: the pixel classifier."""

from __future__ import annotations

from torch import Tensor, nn


class Classifier(nn.Module):
    """One 1x1 convolution on the feature map F.

    Args:
        feature_dim: D, channels of F.
        num_classes: C, seen and unseen.
    """

    def __init__(self, feature_dim: int, num_classes: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(feature_dim, num_classes, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map F (N, D, h, w) to logits (N, C, h, w)."""
        logits: Tensor = self.projection(features)
        return logits
