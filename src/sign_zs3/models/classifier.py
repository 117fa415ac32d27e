"""C: the pixel classifier."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import check_choice
from sign_zs3.functional.cross_entropy import at_least_float32


class Classifier(nn.Module):
    """One 1x1 convolution from D = `feature_dim` channels, those of the feature map F, to C = `num_classes`.

    With `width`, another one to so many channels, ReLU and dropout of 0.5 stand before it, as in the released code of
    CaGNet and SIGN. With `scale`, F is multiplied first by a number that is learnt and starts there.
    """

    def __init__(
        self, feature_dim: int, num_classes: int, width: int | None = None, scale: float | None = None
    ) -> None:
        super().__init__()
        self.scale = scale
        self.hidden = nn.Sequential(*([] if scale is None else [Scale(scale)]))
        if width is not None:
            self.hidden.extend([nn.Conv2d(feature_dim, width, 1), nn.ReLU(), nn.Dropout(0.5)])
        self.projection, self.num_classes = nn.Conv2d(width or feature_dim, num_classes, 1), num_classes

    def forward(self, features: Tensor) -> Tensor:
        """Map F (N, D, h, w) to logits (N, C, h, w)."""
        if self.scale is not None:
            return _exact(self.hidden(at_least_float32(features)), self.projection.weight, self.projection.bias)
        logits: Tensor = self.projection(self.hidden(features))
        return logits


class Scale(nn.Module):
    """A factor exp(s) > 0, of which s is learnt, as CLIP's logit scale."""

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.logarithm = nn.Parameter(torch.tensor(math.log(initial)))

    def forward(self, x: Tensor) -> Tensor:
        """Multiply (N, D, h, w)."""
        return x * self.logarithm.exp()


class ProjectionClassifier(nn.Module):
    """SPNet's (Xian et al., CVPR 2019): the inner product of each pixel's feature with fixed class vectors, x `scale`.

    It has no parameters: classes, unseen ones too, differ by `vectors` alone, (C, W) float32, seen ones first, of which
    a copy is kept as a buffer.
    """

    vectors: Tensor

    def __init__(self, vectors: Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("vectors", vectors.clone())
        self.scale, self.num_classes = scale, len(vectors)

    def forward(self, features: Tensor) -> Tensor:
        """Map F (N, W, h, w) to logits (N, C, h, w): scale * F^T w_c at each pixel."""
        return self.scale * _exact(features, self.vectors[:, :, None, None])


def _exact(features: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply a 1x1 convolution in float32 at least: logits of some 25 have many equals in half precision."""
    with torch.autocast("cpu" if features.is_meta else features.device.type, enabled=False):
        wide = None if bias is None else at_least_float32(bias)
        return F.conv2d(at_least_float32(features), at_least_float32(weight), wide)


def build_classifier(name: str, feature_dim: int, num_classes: int, **other: Any) -> Classifier | ProjectionClassifier:
    """Make C: ``linear`` (options `width`, `scale`), or ``projection`` (`scale`) with zeros for class vectors."""
    check_choice("classifier", name, "linear", "projection")
    if name == "linear":
        return Classifier(feature_dim, num_classes, **other)
    return ProjectionClassifier(torch.zeros(num_classes, feature_dim), **other)
