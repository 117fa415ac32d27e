"""The spatial parts of the released code of CaGNet and SIGN, which differ from those of the papers."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError, check_choice
from sign_zs3.models.spatial.base import Cells, Position, PositionedModule, SpatialFeatures, draw, scaled_width, zeroed
from sign_zs3.models.spatial.encodings import GatedScales, SelfAttention

ReleasedEncoding = Literal["none", "1", "2", "2.1", "3", "4", "5", "6", "7", "8"]
_WIDTHS = {"3": 64, "4": 512, "5": 128, "6": 512, "7": 128, "8": 128}


class ReleasedModule(PositionedModule):
    """SIGN's spatial part as it was released: an encoding of E(x) and its positions, then CaGNet's contextual part.

    With u = [sigmoid(E(x)), PE] the encoding gives h, and from sigmoid(h) the contextual part gives mu and logvar, the
    latter not below 0; z = mu + eps * exp(logvar / 2) when sampled, mu otherwise; F = sigmoid(h + h * sigmoid(z)).
    Without an encoding h = E(x), and PE is not read: that is the released CaGNet. By their number in the release, with
    all 1x1 convolutions bias-free and followed by a ReLU, the encodings are

    - 1: h = E(x) + p, where p is the contextual part's chain of `GatedScales` on u; 2 and 2.1: h = E(x) * (1 +
      sigmoid(z')) with a latent z' of p, which has 128 channels in 2;
    - 3: 1x1 to 64 channels, self-attention with the input added, 1x1, self-attention, 1x1 to D; 4: the same with 512
      channels, multi-head attention of 8 heads, and nothing added;
    - 5 and 6: a 1x1 to D, to which 3 with 128 channels, or 4, is added;
    - 7 and 8: as 5, but what goes into each attention and into the second 1x1 is added to what comes out, not what goes
      into the whole. (8 tells padding from the image, which is never padded here.)

    Sources: the names and shapes of the released checkpoints, and formulas read in the code of github.com/cplusx/SIGN
    and github.com/bcmi/CaGNet-Zero-Shot-Semantic-Segmentation.

    Args:
        feature_dim: D.
        encoding: Its number, or ``none``.
        position, train_size: See `SpatialInformationModule`; the release has ``endpoints``.
        across_batch: Let the multi-head attention of 4 and 6 run among the images of a batch, at each cell, as the
            release does by mistake; of one image it then sees that cell alone.
    """

    def __init__(
        self,
        feature_dim: int = 600,
        encoding: ReleasedEncoding = "1",
        position: Position = "endpoints",
        train_size: Sequence[int] | None = None,
        across_batch: bool = False,
    ) -> None:
        super().__init__(feature_dim, position if encoding != "none" else "none", train_size)
        check_choice("encoding", encoding, "none", "1", "2", "2.1", *_WIDTHS)
        if across_batch and encoding not in ("4", "6"):
            raise UserError(f"across_batch: found with encoding {encoding}, expected 4 or 6: leave it out")
        self.kind = encoding
        width = scaled_width(256, feature_dim)
        self.encoding: GatedScales | nn.Sequential | None = None
        if encoding in _WIDTHS:
            if encoding not in ("3", "4"):
                self.reduce = Rectified(2 * feature_dim, feature_dim)
            self.encoding = _attentive(feature_dim, encoding, across_batch)
        elif encoding != "none":
            channels = scaled_width(128, feature_dim) if encoding == "2" else feature_dim
            self.encoding = GatedScales(2 * feature_dim, width, channels, rectified=True)
            if encoding != "1":
                self.encoding_mu, self.encoding_logvar = _latent(channels, feature_dim)
        self.context = GatedScales(feature_dim, width, feature_dim, rectified=True)
        self.mu, self.logvar = _latent(feature_dim, feature_dim)

    def forward(
        self, x: Tensor, sample: bool | None = None, origin: Cells = (0, 0), full_size: Cells | None = None
    ) -> SpatialFeatures:
        """See `SpatialModule`."""
        sample, h = self.training if sample is None else sample, x
        if self.encoding is not None:
            u = self.beside_position(torch.sigmoid(x), origin, full_size)
            u = u if self.kind in ("1", "2", "2.1", "3", "4") else self.reduce(u)
            h = self.encoding(u)
            if self.kind.startswith("2"):
                h = x * torch.sigmoid(draw(self.encoding_mu(h), F.relu(self.encoding_logvar(h)), sample))
            # what the encoding is added to
            h = h + {"1": x, "2": x, "2.1": x, "5": u, "6": u}.get(self.kind, 0)
        context = self.context(torch.sigmoid(h))
        return self.gated(h, self.mu(context), F.relu(self.logvar(context)), sample)


class Rectified(nn.Conv2d):
    """A bias-free 1x1 convolution and a ReLU, to which the input is added where `adds`."""

    def __init__(self, channels: int, out: int, adds: bool = False) -> None:
        super().__init__(channels, out, 1, bias=False)
        self.adds = adds

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to (N, out, h, w)."""
        y = F.relu(super().forward(x))
        return x + y if self.adds else y


class DotAttention(nn.Module):
    """Self-attention by inner products of 1x1 convolutions f and g, not scaled, with the input added so many `times`.

    Maps (N, width, h, w) to out_conv(sum over j of softmax_j(f(x_i) g(x_j)) h(x_j)) + times * x_i.
    """

    def __init__(self, width: int, times: int) -> None:
        super().__init__()
        self.f, self.g, self.h, self.out_conv = (nn.Conv2d(width, width, 1) for _ in range(4))
        self.times = times

    def forward(self, x: Tensor) -> Tensor:
        """See above."""
        f, g, h = (layer(x).flatten(2).transpose(1, 2) for layer in (self.f, self.g, self.h))
        mixed = F.scaled_dot_product_attention(f, g, h, scale=1.0)
        out: Tensor = self.out_conv(mixed.transpose(1, 2).reshape(x.shape))
        return out + self.times * x


class TokenAttention(SelfAttention):
    """Attention of 8 heads on maps (N, width, h, w), among an image's cells, or a batch's images at each cell."""

    def __init__(self, width: int, across_batch: bool) -> None:
        super().__init__(width, heads=8)
        self.across_batch = across_batch

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """See above."""
        tokens = x.flatten(2)  # (N, width, h * w)
        if self.across_batch:
            return super().forward(tokens.permute(2, 0, 1)).permute(1, 2, 0).reshape(x.shape)
        return super().forward(tokens.transpose(1, 2)).transpose(1, 2).reshape(x.shape)


def _attentive(feature_dim: int, kind: str, across_batch: bool) -> nn.Sequential:
    """Return 1x1, attention, 1x1, attention, 1x1 of the encodings 3 to 8."""
    width, twice = scaled_width(_WIDTHS[kind], feature_dim, 8), kind in ("7", "8")
    sides = (2 * feature_dim if kind in ("3", "4") else feature_dim, width, width, feature_dim)
    steps = [Rectified(*pair, adds=twice and number == 1) for number, pair in enumerate(pairwise(sides))]
    attentions: list[nn.Module] = [
        TokenAttention(width, across_batch) if kind in ("4", "6") else DotAttention(width, 2 if twice else 1)
        for _ in range(2)
    ]
    return nn.Sequential(steps[0], attentions[0], steps[1], attentions[1], steps[2])


def _latent(channels: int, out: int) -> tuple[nn.Conv2d, nn.Conv2d]:
    """Return the 3x3 convolutions to mu and logvar: mu starts at 0, and logvar near it, where its ReLU has a slope."""
    mu, logvar = (nn.Conv2d(channels, out, 3, padding=1, bias=False) for _ in range(2))
    nn.init.normal_(logvar.weight, std=1e-3)
    return zeroed(mu), logvar
