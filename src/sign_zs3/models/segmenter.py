"""Segmenter = E + spatial module + C: all that inference needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.models.classifier import Classifier, ProjectionClassifier
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.spatial import SpatialFeatures

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Segmenter(nn.Module):
    """Images in, class logits out.

    Args:
        encoder: E.
        spatial: A module (E(x), sample) -> `SpatialFeatures`, such as SIM.
        classifier: C, seen classes first.
        num_seen: S, how many of C's classes are seen.
        image_mean: Per RGB channel, of images in [0, 1].
        image_std: Per RGB channel, of images in [0, 1].

    Attributes:
        known: (C,) bool buffer: the classes C was taught. Before the transfer step only seen ones: the
            logits of others are those of untrained weights, and `forward` puts them at minus infinity.
    """

    known: Tensor
    image_mean: Tensor
    image_std: Tensor

    def __init__(
        self,
        encoder: Encoder,
        spatial: nn.Module,
        classifier: Classifier | ProjectionClassifier,
        num_seen: int,
        image_mean: Sequence[float] = IMAGENET_MEAN,
        image_std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.spatial = spatial
        self.classifier = classifier
        self.num_seen = num_seen
        self.register_buffer("known", torch.arange(classifier.num_classes) < num_seen)
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(image_std).view(1, 3, 1, 1))

    @property
    def num_classes(self) -> int:
        """C, seen and unseen."""
        return int(self.known.numel())

    def normalise(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), uint8 or float in [0, 255], to zero mean and unit deviation."""
        return (images.to(self.image_mean.dtype) / 255 - self.image_mean) / self.image_std

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of the backbone that the encoder's head reads: `features` and others take them for images.

        Args:
            images: (N, 3, H, W), RGB, uint8 or float in [0, 255].

        Returns:
            See `Encoder.maps`.
        """
        return self.encoder.maps(self.normalise(images))

    def features(self, images: Tensor | Sequence[Tensor], sample: bool | None = None) -> SpatialFeatures:
        """Return F, z, mu and logvar of images (N, 3, H, W), uint8 or float in [0, 255], or of their `maps`."""
        x = self.encoder(self.normalise(images) if isinstance(images, Tensor) else images)
        features: SpatialFeatures = self.spatial(x, sample)
        return features

    def forward(self, images: Tensor | Sequence[Tensor], seen_penalty: float = 0.0) -> Tensor:
        """Return logits at feature resolution.

        Args:
            images: (N, 3, H, W), RGB, uint8 or float in [0, 255]; any size. Or what `maps` returns for them.
            seen_penalty: Calibrated stacking (Chao et al., ECCV 2016): subtracted from the seen logits.

        Returns:
            (N, C, h, w), minus infinity for classes that C does not know yet.
        """
        logits: Tensor = self.classifier(self.features(images, sample=False).features)
        if seen_penalty:
            penalty = torch.zeros(self.num_classes, device=logits.device, dtype=logits.dtype)
            penalty[: self.num_seen] = seen_penalty
            logits = logits - penalty.view(1, -1, 1, 1)
        return logits.masked_fill(~self.known.view(1, -1, 1, 1), -math.inf)

    def scores(
        self,
        images: Tensor | Sequence[Tensor],
        seen_penalty: float = 0.0,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
    ) -> Tensor:
        """Return logits, or with `flip` or several `scales` the mean of their softmax.

        Args:
            images: (N, 3, H, W), RGB, uint8 or float in [0, 255]; or what `maps` returns for them.
            seen_penalty: See `forward`.
            flip: Also read the mirror image.
            scales: Image scales to read.

        Returns:
            (N, C, h, w) float32 at the feature resolution of the first scale; their arg-max is the label.

        Raises:
            UserError: No scale, or `flip` or scales with maps, from which no other view of the image can be made.
        """
        if not flip and tuple(scales) == (1.0,):
            logits: Tensor = self(images, seen_penalty)
            return logits.float()
        if not isinstance(images, Tensor):
            raise UserError(
                f"flip {flip}, scales {list(scales)}: found kept backbone maps, which hold one view of the image: "
                "switch flip and scales off, or the feature cache"
            )
        total: Tensor | None = None
        for scale in scales:
            scaled = images
            if scale != 1.0:
                size = [max(1, round(side * scale)) for side in images.shape[-2:]]
                scaled = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
            views = [self(scaled, seen_penalty)]
            if flip:
                views.append(self(scaled.flip(-1), seen_penalty).flip(-1))
            for view in views:
                probability = view.float().softmax(dim=1)
                if total is None:
                    total = probability
                    continue
                total = total + F.interpolate(probability, total.shape[-2:], mode="bilinear", align_corners=False)
        if total is None:
            raise UserError("scales: found none, expected at least one image scale such as 1.0")
        return total / (len(scales) * (1 + flip))

    @torch.no_grad()
    def predict(self, image: Any, seen_penalty: float = 0.0) -> Tensor:
        """Label one image at its own size.

        Args:
            image: A PIL image, an (H, W, 3) uint8 array, a (3, H, W) tensor in [0, 255], or a path.
            seen_penalty: See `forward`.

        Returns:
            (H, W) int64 class indices on the CPU, seen classes first.
        """
        if not isinstance(image, Tensor):
            image = _read(image)
        was_training = self.training
        self.eval()
        try:
            batch = image.unsqueeze(0).to(self.image_mean.device)
            scores = resize_scores(self.scores(batch, seen_penalty), tuple(image.shape[-2:]))
        finally:
            self.train(was_training)
        return scores.argmax(dim=1)[0].cpu()


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) scores bilinearly to `size`; classes at minus infinity stay there."""
    # 0 * -inf is NaN in the interpolation's weighted sums, so unknown classes travel as the lowest number.
    lowest = torch.finfo(scores.dtype).min / 4
    return F.interpolate(scores.clamp(min=lowest), size, mode="bilinear", align_corners=False)


def _read(image: Any) -> Tensor:
    import numpy as np
    from PIL import Image, ImageOps

    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened:
                image = ImageOps.exif_transpose(opened).convert("RGB")
        except OSError as error:
            raise UserError(f"{image}: cannot be read as an image ({error}): give a JPEG or PNG file") from error
    elif isinstance(image, Image.Image):
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise UserError(f"image: found shape {array.shape} of {array.dtype}, expected (H, W, 3) of uint8")
    return torch.from_numpy(array.copy()).permute(2, 0, 1)
