"""SIM's encodings, by self-attention and by convolutions (Table 2), and CaGNet's context."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class SelfAttention(nn.Module):
    """Scaled dot-product attention among all pixels of one image (never across the images of a batch)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)

    def forward(self, x: Tensor, inside: Tensor | None = None) -> Tensor:
        """Mix (N, L, width) tokens; `inside` (n, 1, 1, L) bool says which of them may be read."""
        n, tokens, width = x.shape
        # (N, L, 3 * width) -> three of (N, heads, L, width / heads)
        parts = self.project_in(x).view(n, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = parts.contiguous()  # one copy: attention reads rows of a head, next to each other, 4 % faster
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=inside)
        out: Tensor = self.project_out(mixed.transpose(1, 2).reshape(n, tokens, width))
        return out


class AttentionEncoding(nn.Module):
    """1x1 down to `width`; three residual blocks of self-attention and a 1x1; 1x1 up to D.

    Layer normalisation carries no parameters: Table 2's counts leave no room for any.
    """

    def __init__(self, feature_dim: int, width: int, heads: int, projections: int, window: int | None) -> None:
        super().__init__()
        self.reduce = nn.Linear(2 * feature_dim, width, bias=False)
        self.attentions = nn.ModuleList(SelfAttention(width, heads) for _ in range(3))
        self.projections = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(projections))
        self.last = nn.Linear(width, feature_dim, bias=False)
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.window = window

    def forward(self, x: Tensor) -> Tensor:
        """Map [E(x), PE] (N, 2 * D, h, w) to (N, D, h, w)."""
        n, _, height, width = x.shape
        tokens = self.reduce(x.flatten(2).transpose(1, 2))  # (N, h * w, width)
        for index, attention in enumerate(self.attentions):
            if self.window is None or max(height, width) <= self.window:
                tokens = tokens + attention(self.norm(tokens))
            else:
                shift = self.window // 2 if index % 2 else 0
                grid = self.norm(tokens).view(n, height, width, -1)
                tokens = tokens + attend_in_windows(attention, grid, self.window, shift).flatten(1, 2)
            if index < len(self.projections):
                tokens = tokens + F.relu(self.projections[index](self.norm(tokens)))
        out: Tensor = self.last(self.norm(tokens))
        return out.transpose(1, 2).reshape(n, -1, height, width)


def attend_in_windows(attention: nn.Module, grid: Tensor, side: int, shift: int) -> Tensor:
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
    """CaGNet's context: 3x3 convolutions of three dilations, each weighed by its own attention map; a 1x1 to `out`.

    Where `rectified`, a ReLU stands before the attention maps' sigmoid and after the 1x1, as in the released code.
    """

    def __init__(self, channels: int, width: int, out: int, rectified: bool = False) -> None:
        super().__init__()
        self.scales = nn.ModuleList(
            nn.Conv2d(channels if d == 1 else width, width, 3, padding=d, dilation=d, bias=False) for d in (1, 2, 5)
        )
        self.gate = nn.Conv2d(3 * width, 3, 3, padding=1, bias=False)
        self.last = nn.Conv2d(3 * width, out, 1, bias=False)
        self.rectified = rectified

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels, h, w) to its context, (N, out, h, w)."""
        maps: list[Tensor] = []
        for scale in self.scales:
            x = F.relu(scale(x))
            maps.append(x)
        gate = self.gate(torch.cat(maps, dim=1))
        gates = torch.split(torch.sigmoid(F.relu(gate) if self.rectified else gate), 1, dim=1)
        out: Tensor = self.last(torch.cat([m * g for m, g in zip(maps, gates, strict=True)], dim=1))
        return F.relu(out) if self.rectified else out


class GatedEncoding(GatedScales):
    """1x1 to D before CaGNet's context."""

    def __init__(self, feature_dim: int, width: int) -> None:
        # Drawn first, so that a seed keeps giving the weights it gave.
        reduce = nn.Conv2d(2 * feature_dim, feature_dim, 1, bias=False)
        super().__init__(feature_dim, width, feature_dim)
        self.reduce = reduce

    def forward(self, x: Tensor) -> Tensor:
        """Map [E(x), PE] (N, 2 * D, h, w) to (N, D, h, w)."""
        return super().forward(F.relu(self.reduce(x)))
