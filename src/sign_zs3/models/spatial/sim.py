"""What stands between E and C: SIM (section 3.3; Table 2 and 3), CaGNet's contextual module, or nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.functional import (
    absolute_positional_encoding,
    interpolated_positional_encoding,
    relative_positional_encoding,
)

MAX_SIDE = 512
"""Of the feature map in training: its encoding takes memory whatever the size of an image."""

Encoding = Literal["multihead", "self_attention", "attention", "conv"]
Position = Literal["relative", "absolute", "interpolated", "none"]


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


class _SelfAttention(nn.Module):
    """Scaled dot-product attention among all pixels of one image (never across the images of a batch)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        n, tokens, width = x.shape
        # (N, L, 3 * width) -> three of (N, heads, L, width / heads)
        q, k, v = self.project_in(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=inside)
        out: Tensor = self.project_out(mixed.transpose(1, 2).reshape(n, tokens, width))
        return out


class _AttentionEncoding(nn.Module):
    """1x1 down to `width`; three residual blocks of self-attention and a 1x1; 1x1 up to D.

    Layer normalisation carries no parameters: Table 2's counts leave no room for any.
    """

    def __init__(
        self, dim_in: int, feature_dim: int, width: int, heads: int, projections: int, window: int | None
    ) -> None:
        super().__init__()
        self.reduce = nn.Linear(dim_in, width, bias=False)
        self.attentions = nn.ModuleList(_SelfAttention(width, heads) for _ in range(3))
        self.projections = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(projections))
        self.last = nn.Linear(width, feature_dim, bias=False)
        self.width = width
        self.window = window

    def _norm(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, (self.width,))

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        tokens = self.reduce(x.flatten(2).transpose(1, 2))  # (N, h * w, width)
        for index, attention in enumerate(self.attentions):
            if self.window is None or max(height, width) <= self.window:
                tokens = tokens + attention(self._norm(tokens))
            else:
                shift = self.window // 2 if index % 2 else 0
                grid = self._norm(tokens).view(n, height, width, self.width)
                tokens = tokens + _in_windows(attention, grid, self.window, shift).flatten(1, 2)
            if index < len(self.projections):
                tokens = tokens + F.relu(self.projections[index](self._norm(tokens)))
        out: Tensor = self.last(self._norm(tokens))
        return out.transpose(1, 2).reshape(n, -1, height, width)


def _in_windows(attention: nn.Module, grid: Tensor, side: int, shift: int) -> Tensor:
    """Apply attention to (N, h, w, width) within windows of side x side cells, the first one cut short by `shift`."""
    n, height, width, channels = grid.shape
    below, right = -(height + shift) % side, -(width + shift) % side
    padding = (0, 0, shift, right, shift, below)
    padded = F.pad(grid, padding)
    rows, columns = padded.shape[1] // side, padded.shape[2] // side

    def cut(x: Tensor) -> Tensor:  # (n, rows * side, columns * side, c) -> (n * rows * columns, side * side, c)
        return x.view(-1, rows, side, columns, side, x.shape[-1]).transpose(2, 3).reshape(-1, side * side, x.shape[-1])

    inside = cut(F.pad(grid.new_ones(1, height, width, 1), padding)) > 0
    mixed: Tensor = attention(cut(padded), inside.view(-1, 1, 1, side * side).repeat(n, 1, 1, 1))
    mixed = mixed.view(n, rows, columns, side, side, channels).transpose(2, 3).reshape(padded.shape)
    return mixed[:, shift : shift + height, shift : shift + width]


class _ConvolutionEncoding(nn.Module):
    """1x1 to D; 3x3 to `width`; two residual pairs of 3x3; 3x3 up to D."""

    def __init__(self, dim_in: int, feature_dim: int, width: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(dim_in, feature_dim, 1, bias=False)
        self.down = nn.Conv2d(feature_dim, width, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(3))
        self.last = nn.Conv2d(width, feature_dim, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.down(F.relu(self.reduce(x))))
        for block in self.blocks:
            x = x + F.relu(block(x))
        out: Tensor = self.last(x)
        return out


class _GatedScales(nn.Module):
    """CaGNet's context: 3x3 convolutions of three dilations, each weighed by its own attention map; 1x1 up to D."""

    def __init__(self, feature_dim: int, width: int) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Conv2d(feature_dim if d == 1 else width, width, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 5)
        )
        self.gate = nn.Conv2d(3 * width, 3, 3, padding=1, bias=False)
        self.last = nn.Conv2d(3 * width, feature_dim, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps: list[Tensor] = []
        for scale in self.scales:
            x = F.relu(scale(x))
            maps.append(x)
        gates = torch.split(torch.sigmoid(self.gate(torch.cat(maps, dim=1))), 1, dim=1)
        out: Tensor = self.last(torch.cat([m * g for m, g in zip(maps, gates, strict=True)], dim=1))
        return out


class _GatedEncoding(_GatedScales):
    """1x1 to D before CaGNet's context."""

    def __init__(self, dim_in: int, feature_dim: int, width: int) -> None:
        # Drawn first, so that a seed keeps giving the weights it gave.
        reduce = nn.Conv2d(dim_in, feature_dim, 1, bias=False)
        super().__init__(feature_dim, width)
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(F.relu(self.reduce(x)))


class SpatialInformationModule(nn.Module):
    """F, z = SIM(E(x) + PE) with + the concatenation (eq. 1).

    A residual encoding of [E(x), PE] gives h; 1x1 convolutions give mu and logvar;
    z = mu + eps * exp(logvar / 2) when sampled, mu otherwise; the latent gates the feature,
    F = sigmoid(h + h * sigmoid(z)), so that features lie in (0, 1).

    The paper's appendix with the layers is not to be had: the structures here are inferred from Table 2's
    parameter counts of the encoding (D = 600: ``multihead`` 4.86 M, ``self_attention`` 4.60 M, ``conv`` 5.25 M,
    ``attention`` 5.24 M with mu and logvar counted in), the gate and the last sigmoid from the released code.

    Args:
        feature_dim: D; a multiple of 4 unless `position` is "none".
        encoding: A row of Table 2.
        position: A row of Table 3: ``relative`` (eq. 11 to 16), ``absolute``, ``interpolated`` (absolute at
            `train_size`, resized to the map) or ``none`` (zeros in its place, so that the counts are the same).
        train_size: (height, width) of the feature map in training, for ``interpolated``.
        width: Inner width; None scales the published one (512, 256 or 300) by D / 600.
        heads: Heads of ``multihead``.
        window: Side in cells of the windows to which attention is confined on maps that are larger than one, shifted
            by half a window in every second block: time linear in pixels. None: among all pixels, as in the paper.

    Raises:
        ValueError: Unknown `encoding` or `position`, a width that the heads do not divide, ``interpolated``
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
        super().__init__()
        if position not in ("relative", "absolute", "interpolated", "none"):
            raise ValueError(f"position: found {position!r}, expected relative, absolute, interpolated or none")
        if position == "interpolated" and train_size is None:
            raise ValueError("position: interpolated needs train_size, the feature map's size in training")
        if train_size is not None and not (
            len(train_size) == 2 and all(type(side) is int and 1 <= side <= MAX_SIDE for side in train_size)
        ):
            raise ValueError(f"train_size: found {train_size!r:.100}, expected two whole numbers of 1 to {MAX_SIDE}")
        if type(heads) is not int or heads < 1:
            raise ValueError(f"heads: found {heads!r:.100}, expected a whole number of at least 1")
        if window is not None and not (type(window) is int and 2 <= window <= MAX_SIDE):
            raise ValueError(f"window: found {window!r:.100}, expected a whole number of 2 to {MAX_SIDE}, or None")
        if window is not None and encoding not in ("multihead", "self_attention"):
            raise ValueError(
                f"window: found {window} with encoding {encoding!r}, expected None: it has no self-attention"
            )
        if position != "none" and feature_dim % 4:
            raise ValueError(f"feature_dim: found {feature_dim}, expected a multiple of 4 (sines, cosines, two axes)")
        self.position = position
        self.train_size = None if train_size is None else (train_size[0], train_size[1])
        self.feature_dim = feature_dim
        dim_in = 2 * feature_dim
        self.encoding: nn.Module
        if encoding in ("multihead", "self_attention"):
            heads = heads if encoding == "multihead" else 1
            inner = _scaled(512, feature_dim, heads) if width is None else width
            if inner % heads:
                raise ValueError(f"width: found {inner}, expected a multiple of heads = {heads}")
            projections = 3 if encoding == "multihead" else 2
            self.encoding = _AttentionEncoding(dim_in, feature_dim, inner, heads, projections, window)
        elif encoding == "conv":
            self.encoding = _ConvolutionEncoding(dim_in, feature_dim, width or _scaled(256, feature_dim))
        elif encoding == "attention":
            self.encoding = _GatedEncoding(dim_in, feature_dim, width or _scaled(300, feature_dim))
        else:
            raise ValueError(f"encoding: found {encoding!r}, expected multihead, self_attention, attention or conv")
        # Table 2's count of "attention" has no room for biases on mu and logvar.
        self.mu = nn.Conv2d(feature_dim, feature_dim, 1, bias=encoding != "attention")
        self.logvar = nn.Conv2d(feature_dim, feature_dim, 1, bias=encoding != "attention")
        _start_at_zero(self.mu, self.logvar)

    def position_map(
        self,
        height: int,
        width: int,
        origin: tuple[int, int] = (0, 0),
        full_size: tuple[int, int] | None = None,
        device: torch.device | None = None,
    ) -> Tensor:
        """Return PE, (D, height, width) float32, for a map or for a window of a larger one.

        Args:
            height: Rows.
            width: Columns.
            origin: (row, column) of the window in the whole map.
            full_size: (height, width) of the whole map; None: the window is the map.
            device: Where to make it.
        """
        dim = self.feature_dim
        if self.position == "relative":
            return relative_positional_encoding(height, width, dim, origin=origin, full_size=full_size, device=device)
        if self.position == "absolute":
            return absolute_positional_encoding(height, width, dim, origin=origin, full_size=full_size, device=device)
        if self.position == "interpolated":
            assert self.train_size is not None
            return interpolated_positional_encoding(
                height, width, self.train_size, dim, origin=origin, full_size=full_size, device=device
            )
        return torch.zeros(dim, height, width, device=device)

    def forward(
        self,
        x: Tensor,
        sample: bool | None = None,
        origin: tuple[int, int] = (0, 0),
        full_size: tuple[int, int] | None = None,
    ) -> SpatialFeatures:
        """Add position and context to a feature map.

        Args:
            x: E(x), (N, D, h, w).
            sample: Draw z, or take its mean; None: draw in training mode.
            origin: See `position_map`.
            full_size: See `position_map`.

        Returns:
            F, z, mu and logvar.
        """
        n, _, height, width = x.shape
        position = self.position_map(height, width, origin, full_size, x.device).to(x.dtype)
        h = x + self.encoding(torch.cat([x, position.expand(n, -1, -1, -1)], dim=1))
        mu, logvar = self.mu(h), self.logvar(h)
        latent = _draw(mu, logvar, self.training if sample is None else sample)
        return SpatialFeatures(torch.sigmoid(h + h * torch.sigmoid(latent)), latent, mu, logvar)


class ContextualModule(nn.Module):
    """CaGNet's contextual module (Gu et al., ACM MM 2020): a latent of each pixel's surroundings, and no position.

    3x3 convolutions of dilations 1, 2 and 5, each weighed by its own attention map, give a context of D channels;
    3x3 convolutions on it give mu and logvar; z = mu + eps * exp(logvar / 2) when sampled, mu otherwise; the latent
    gates the feature, F = sigmoid(E + E * sigmoid(z)).

    Args:
        feature_dim: D.
        width: Channels of each scale; None scales the published 256 by D / 600.
    """

    def __init__(self, feature_dim: int = 600, width: int | None = None) -> None:
        super().__init__()
        self.context = _GatedScales(feature_dim, width or _scaled(256, feature_dim))
        self.mu = nn.Conv2d(feature_dim, feature_dim, 3, padding=1)
        self.logvar = nn.Conv2d(feature_dim, feature_dim, 3, padding=1)
        _start_at_zero(self.mu, self.logvar)

    def forward(
        self,
        x: Tensor,
        sample: bool | None = None,
        origin: tuple[int, int] = (0, 0),
        full_size: tuple[int, int] | None = None,
    ) -> SpatialFeatures:
        """Add context to a feature map.

        Args:
            x: E(x), (N, D, h, w).
            sample: Draw z, or take its mean; None: draw in training mode.
            origin: Not read: the module knows no position.
            full_size: Not read.

        Returns:
            F, z, mu and logvar.
        """
        context = self.context(x)
        mu, logvar = self.mu(context), self.logvar(context)
        latent = _draw(mu, logvar, self.training if sample is None else sample)
        return SpatialFeatures(torch.sigmoid(x + x * torch.sigmoid(latent)), latent, mu, logvar)


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
        """Pass a feature map on.

        Args:
            x: E(x), (N, D, h, w).
            sample: Draw z from N(0, 1), or take its mean 0; None: draw in training mode.
            origin: Not read: there is no position.
            full_size: Not read.

        Returns:
            F, z, and mu = logvar = 0, all of x's shape.
        """
        zero = torch.zeros_like(x)
        drawn = self.training if sample is None else sample
        latent = _noise(x) if drawn else zero
        return SpatialFeatures(torch.sigmoid(x) if self.sigmoid else x, latent, zero, zero)


def build_spatial(name: str, feature_dim: int, **options: Any) -> nn.Module:
    """Make what stands between E and C: (E(x), sample, origin, full_size) -> `SpatialFeatures`.

    Args:
        name: ``sim``, ``contextual`` or ``plain``.
        feature_dim: D.
        **options: Further arguments of `SpatialInformationModule`, `ContextualModule` or `PlainFeatures`.

    Raises:
        UserError: An unknown name.
    """
    makers: dict[str, type[nn.Module]] = {
        "sim": SpatialInformationModule, "contextual": ContextualModule, "plain": PlainFeatures,
    }  # fmt: skip
    if name not in makers:
        raise UserError(f"spatial: found {name!r}, expected one of {', '.join(makers)}")
    return makers[name](feature_dim, **options)


def _start_at_zero(*heads: nn.Conv2d) -> None:
    # z starts as N(0, 1): at the published alpha = 100 a random start of e^logvar diverges in two iterations.
    for head in heads:
        for parameter in head.parameters():
            nn.init.zeros_(parameter)


def _draw(mu: Tensor, logvar: Tensor, sample: bool) -> Tensor:
    return mu + _noise(mu) * torch.exp(logvar / 2) if sample else mu


def _noise(like: Tensor) -> Tensor:
    # randn_like fills by the layout in memory, so that channels_last would draw another noise
    return torch.randn(like.shape, dtype=like.dtype, device=like.device)


def _scaled(published: int, feature_dim: int, multiple: int = 1) -> int:
    return max(1, round(published * feature_dim / 600 / multiple)) * multiple
