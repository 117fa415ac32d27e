"""D: tells real features from synthetic ones (eq. 7)."""

from torch import Tensor, nn


class Discriminator(nn.Module):
    """1x1 convolution of F to `hidden` channels, LeakyReLU of slope `slope`, 1x1 convolution to one logit per pixel."""

    def __init__(self, feature_dim: int = 600, hidden: int = 1024, slope: float = 0.2) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(feature_dim, hidden, 1), nn.LeakyReLU(slope), nn.Conv2d(hidden, 1, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Map F (N, D = `feature_dim`, h, w) to raw logits (N, 1, h, w); above 0 means real."""
        logits: Tensor = self.layers(features)
        return logits
