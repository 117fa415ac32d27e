"""What stands between E and C: SIM (section 3.3; Tables 2 and 3), CaGNet's module, or none; by the name in a config."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError, check_choice
from sign_zs3.limits import MAX_SIDE
from sign_zs3.models.spatial.base import (
    Cells,
    Position,
    PositionedModule,
    SpatialFeatures,
    SpatialModule,
    noise,
    scaled_width,
    zeroed,
)
from sign_zs3.models.spatial.encodings import AttentionEncoding, ConvolutionEncoding, GatedEncoding, GatedScales
from sign_zs3.models.spatial.released import ReleasedModule

Encoding = Literal["multihead", "self_attention", "attention", "conv"]


class PlainFeatures(SpatialModule):
    """No spatial information, no parameters: a latent of pure noise, and F = sigmoid(E(x)), in (0, 1) as G(e + z) is.

    Without `sigmoid` F is E(x) itself, unbounded.
    """

    def __init__(self, feature_dim: int = 600, sigmoid: bool = True) -> None:
        super().__init__()
        self.feature_dim, self.sigmoid = feature_dim, sigmoid

    def forward(self, x: Tensor, sample: bool | None = None, **cells: Any) -> SpatialFeatures:
        """See `SpatialModule`; z is of N(0, 1), and positions are not read."""
        zero = torch.zeros_like(x)
        latent = noise(x) if sample or (sample is None and self.training) else zero
        return SpatialFeatures(self.bounded(x) if self.sigmoid or self.unit else x, latent, zero, zero)


class SpatialInformationModule(PositionedModule):
    """F, z = SIM(E(x) + PE) with + the concatenation (eq. 1).

    A residual encoding of [E(x), PE] gives h; 1x1 convolutions give mu and logvar; z = mu + eps * exp(logvar / 2) when
    sampled, mu otherwise; the latent gates the feature, F = sigmoid(h + h * sigmoid(z)), in (0, 1).

    The paper's appendix with the layers is not available: the structures here are inferred from Table 2's
    parameter counts of the encoding (D = 600: ``multihead`` 4.86 M, ``self_attention`` 4.60 M, ``conv`` 5.25 M,
    ``attention`` 5.24 M with mu and logvar counted in), the gate and the last sigmoid from the released code.

    Args:
        feature_dim: D; a multiple of 4 unless `position` is "none".
        encoding: A row of Table 2.
        position: A row of Table 3: ``relative`` (eq. 11 to 16), ``absolute``, ``interpolated`` (absolute at
            `train_size`, resized to the map) or ``none`` (zeros in its place, so that the counts are the same); or
            ``endpoints``, the released code's relative one.
        train_size: (height, width) of the feature map in training, for ``interpolated``.
        width: Inner width; None scales the published one (512, 256 or 300) by D / 600.
        heads: Heads of ``multihead``.
        window: Side in cells of the windows to which attention is confined on maps that are larger than one, shifted
            by half a window in every second block: time linear in pixels. None: among all pixels, as in the paper.

    Raises:
        UserError: Unknown `encoding` or `position`, a width that the heads do not divide, ``interpolated``
            with no `train_size` or one beyond `MAX_SIDE`, or a `window` for an encoding without self-attention.
    """

    def __init__(
        self,
        feature_dim: int = 600,
        encoding: Encoding = "multihead",
        position: Position = "relative",
        train_size: Sequence[int] | None = None,
        width: int | None = None,
        heads: int = 8,
        window: int | None = None,
    ) -> None:
        super().__init__(feature_dim, position, train_size)
        attends = encoding in ("multihead", "self_attention")
        if type(heads) is not int or heads < 1:
            raise UserError(f"spatial_heads (heads): found {heads!r:.100}, expected a whole number of at least 1")
        if window is not None and not (type(window) is int and 2 <= window <= MAX_SIDE):
            raise UserError(
                f"spatial_window (window): found {window!r:.100}, expected a whole number of 2 to {MAX_SIDE}, or None"
            )
        if window is not None and not attends:
            raise UserError(
                f"spatial_window (window): found {window} with encoding {encoding!r}, which has no attention: use None"
            )
        self.encoding: nn.Module
        if attends:
            heads = heads if encoding == "multihead" else 1
            inner = scaled_width(512, feature_dim, heads) if width is None else width
            if inner % heads:
                raise UserError(f"spatial_width (width): found {inner}, expected a multiple of heads = {heads}")
            projections = 3 if encoding == "multihead" else 2
            self.encoding = AttentionEncoding(feature_dim, inner, heads, projections, window)
        elif encoding == "conv":
            self.encoding = ConvolutionEncoding(feature_dim, width or scaled_width(256, feature_dim))
        elif encoding == "attention":
            self.encoding = GatedEncoding(feature_dim, width or scaled_width(300, feature_dim))
        else:
            raise UserError(f"encoding: found {encoding!r}, expected multihead, self_attention, attention or conv")
        # Table 2's count of "attention" has no room for biases on mu and logvar.
        self.mu = zeroed(nn.Conv2d(feature_dim, feature_dim, 1, bias=encoding != "attention"))
        self.logvar = zeroed(nn.Conv2d(feature_dim, feature_dim, 1, bias=encoding != "attention"))

    def forward(
        self, x: Tensor, sample: bool | None = None, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """See `SpatialModule`."""
        h = x + self.encoding(self.beside_position(x, origin, full_size))
        return self.gated(h, self.mu(h), self.logvar(h), sample)


class ContextualModule(SpatialModule):
    """CaGNet's contextual module (Gu et al., ACM MM 2020): a latent of each pixel's surroundings, and no position.

    3x3 convolutions of dilations 1, 2 and 5, each weighed by its own attention map, give a context of D channels;
    3x3 convolutions on it give mu and logvar; z = mu + eps * exp(logvar / 2) when sampled, mu otherwise; the latent
    gates the feature, F = sigmoid(E + E * sigmoid(z)). `width`, the channels of each scale, is 256 * D / 600 by
    default, the published one at D = `feature_dim` = 600.
    """

    def __init__(self, feature_dim: int = 600, width: int | None = None) -> None:
        super().__init__()
        self.context = GatedScales(feature_dim, width or scaled_width(256, feature_dim), feature_dim)
        self.mu = zeroed(nn.Conv2d(feature_dim, feature_dim, 3, padding=1))
        self.logvar = zeroed(nn.Conv2d(feature_dim, feature_dim, 3, padding=1))

    def forward(self, x: Tensor, sample: bool | None = None, **cells: Any) -> SpatialFeatures:
        """See `SpatialModule`; positions are not read."""
        context = self.context(x)
        return self.gated(x, self.mu(context), self.logvar(context), sample)


MODULES: dict[str, Any] = {
    "sim": SpatialInformationModule,
    "contextual": ContextualModule,
    "released": ReleasedModule,
    "plain": PlainFeatures,
}


def build_spatial(name: str, feature_dim: int, unit: bool = False, **options: Any) -> SpatialModule:
    """Make what stands between E and C, one of `MODULES` with its further options; for `unit` see `SpatialModule`.

    SIM's encoding then starts at zero, since E(x) has a meaning already.
    """
    check_choice("spatial", name, *MODULES)
    made: SpatialModule = MODULES[name](feature_dim, **options)
    if unit and name == "released":
        raise UserError("unit_features: found beside a spatial part as it was released, which ends in a sigmoid")
    made.unit = unit
    if unit and isinstance(made, SpatialInformationModule):
        nn.init.zeros_(made.encoding.get_parameter("last.weight"))
    return made
