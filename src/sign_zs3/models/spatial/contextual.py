"""CaGNet's contextual module."""

from torch import Tensor, nn

from sign_zs3.models.spatial.convolution import GatedScales
from sign_zs3.models.spatial.features import Cells, SpatialFeatures, SpatialModule, scaled_width


class ContextualModule(SpatialModule):
    """CaGNet's contextual module (Gu et al., ACM MM 2020): a latent of each pixel's surroundings, and no position.

    3x3 convolutions of dilations 1, 2 and 5, each weighed by its own attention map, give a context of D channels;
    3x3 convolutions on it give mu and logvar; z = mu + eps * exp(logvar / 2) when sampled, mu otherwise; the latent
    gates the feature, F = sigmoid(E + E * sigmoid(z)). `width`, the channels of each scale, is 256 * D / 600 by
    default, the published one at D = `feature_dim` = 600.
    """

    def __init__(self, feature_dim: int = 600, width: int | None = None) -> None:
        super().__init__()
        self.context = GatedScales(feature_dim, width or scaled_width(256, feature_dim))
        self.mu = nn.Conv2d(feature_dim, feature_dim, 3, padding=1)
        self.logvar = nn.Conv2d(feature_dim, feature_dim, 3, padding=1)
        self._start_at_zero(self.mu, self.logvar)

    def forward(
        self, x: Tensor, sample: bool | None = None, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """See `SpatialModule`; positions are not read."""
        context = self.context(x)
        return self._gate(x, self.mu(context), self.logvar(context), sample)
