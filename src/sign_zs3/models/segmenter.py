"""Segmenter = E + spatial module + C: all that inference needs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.images import as_rgb, check_pixels, read_image
from sign_zs3.models.classifier import Classifier, ProjectionClassifier, build_classifier
from sign_zs3.models.config import IMAGENET_MEAN, IMAGENET_STD, SegmenterConfig
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.pretrained import PretrainedFolder
from sign_zs3.models.spatial.sim import SpatialFeatures, build_spatial
from sign_zs3.models.windows import Place, windows

MAX_PIXELS = 100_000_000
# sides of the windows of a large image: attention among the cells of the feature map costs their number squared
WINDOW = 1024
WINDOW_CELLS = 128
# numbers that `label_scores` resizes at once
SLICE = 1 << 22


class Segmentation(NamedTuple):
    """What `Segmenter.segment` found in an image.

    Attributes:
        labels: (H, W) uint8 class indices, seen classes first, on the CPU.
        pixels: (C,) int64, pixels of each class.
        confidence: (C,) float64 in [0, 1], mean softmax at the class over its pixels; NaN where it has none.
        confidence_map: (H, W) float32 in [0, 1], softmax at each pixel's class, where it was asked for.
    """

    labels: Tensor
    pixels: Tensor
    confidence: Tensor
    confidence_map: Tensor | None


class KeptFeatures(NamedTuple):
    """F of images, computed before: in place of images for all that reads `Segmenter.mean_features`.

    Attributes:
        features: (N, D, h, w), in any float type.
    """

    features: Tensor


class Segmenter(nn.Module, PretrainedFolder):
    """Images in, class logits out; `save_pretrained` and `from_pretrained` write and read it as a folder.

    Args:
        encoder: E.
        spatial: A module (E(x), sample) -> `SpatialFeatures`, such as SIM.
        classifier: C, seen classes first.
        num_seen: S, how many of C's classes are seen.
        image_mean: Per RGB channel, of images in [0, 1].
        image_std: Per RGB channel, of images in [0, 1].
        config: What the networks were built from, see `build`.

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
        config: SegmenterConfig | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.spatial = spatial
        self.classifier = classifier
        self.num_seen = num_seen
        self.config = config
        self.register_buffer("known", torch.arange(classifier.num_classes) < num_seen)
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(image_std).view(1, 3, 1, 1))

    @classmethod
    def build(cls, config: SegmenterConfig, weights: str | None = None) -> Segmenter:
        """Make a segmenter with initial weights.

        Args:
            config: What to make.
            weights: Of the backbone, see `build_backbone`.

        Raises:
            UserError: An option that the networks do not have.
        """
        encoder = Encoder(weights=weights, **config.encoder)
        dim = encoder.feature_dim
        spatial = build_spatial(feature_dim=dim, **config.spatial)
        classifier = build_classifier(feature_dim=dim, num_classes=len(config.classes), **config.classifier)
        return cls(encoder, spatial, classifier, config.num_seen, config.image_mean, config.image_std, config)

    @property
    def num_classes(self) -> int:
        """C, seen and unseen."""
        return int(self.known.numel())

    @property
    def window(self) -> int:
        """Side in pixels of the windows in which `segment` reads a large image: 1024, or 128 cells if that is less."""
        return min(WINDOW, WINDOW_CELLS * self.encoder.strides[0]) or WINDOW

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

    def features(
        self, images: Tensor | Sequence[Tensor], sample: bool | None = None, place: Place | None = None
    ) -> SpatialFeatures:
        """Return F, z, mu and logvar.

        Args:
            images: (N, 3, H, W), uint8 or float in [0, 255], or their `maps`.
            sample: Draw z, or take its mean; None: draw in training mode.
            place: Where the images lie in a larger one; None: they are whole.

        Raises:
            ValueError: For `KeptFeatures`, of which only `mean_features` can be had.
        """
        if isinstance(images, KeptFeatures):
            raise ValueError("features: found kept ones, which have no latent, expected images or their backbone maps")
        x = self.encoder(self.normalise(images) if isinstance(images, Tensor) else images)
        where = {} if place is None else place.in_cells(self.encoder.strides[0], x.shape[-2], x.shape[-1])
        features: SpatialFeatures = self.spatial(x, sample, **where)
        return features

    def mean_features(self, images: Tensor | Sequence[Tensor], place: Place | None = None) -> Tensor:
        """Return F at the mean of the latent, (N, D, h, w): what C reads but where it is trained with E.

        Args:
            images: As for `features`, or their `KeptFeatures`.
            place: See `features`.
        """
        if isinstance(images, KeptFeatures):
            return images.features.to(self.image_mean.dtype)
        return self.features(images, sample=False, place=place).features

    def forward(
        self, images: Tensor | Sequence[Tensor], seen_penalty: float = 0.0, place: Place | None = None
    ) -> Tensor:
        """Return logits at feature resolution.

        Args:
            images: (N, 3, H, W), RGB, uint8 or float in [0, 255]; any size. Or what `maps` returns for them, or their
                `KeptFeatures`.
            seen_penalty: Calibrated stacking (Chao et al., ECCV 2016): subtracted from the seen logits.
            place: Where the images lie in a larger one; None: they are whole.

        Returns:
            (N, C, h, w), minus infinity for classes that C does not know yet.
        """
        logits: Tensor = self.classifier(self.mean_features(images, place))
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
        place: Place | None = None,
    ) -> Tensor:
        """Return logits, or with `flip` or several `scales` the mean of their softmax.

        Args:
            images: See `forward`.
            seen_penalty: See `forward`.
            flip: Also read the mirror image.
            scales: Image scales to read.
            place: Where the images lie in a larger one; None: they are whole.

        Returns:
            (N, C, h, w) float32 at the feature resolution of the first scale; their arg-max is the label.

        Raises:
            UserError: No scale, or one that is not above 0; or `flip` or scales with maps, from which no other view of
                the image can be made.
        """
        if not scales or not all(0 < scale < math.inf for scale in scales):
            raise UserError(f"scales: found {list(scales)}, expected at least one number above 0, such as 1.0")
        if not flip and tuple(scales) == (1.0,):
            logits: Tensor = self(images, seen_penalty, place)
            return logits.float()
        if not isinstance(images, Tensor):
            raise UserError(
                f"flip {flip}, scales {list(scales)}: found kept maps, which hold one view of the image: "
                "switch flip and scales off, or the feature cache"
            )
        total: Tensor | None = None
        for scale in scales:
            scaled, there = images, place
            if scale != 1.0:
                size = [max(1, round(side * scale)) for side in images.shape[-2:]]
                scaled = F.interpolate(images.float(), size, mode="bilinear", align_corners=False)
                there = None if place is None else place.scaled(scale)
            views = [self(scaled, seen_penalty, there)]
            if flip:
                mirrored = None if there is None else there.mirrored(scaled.shape[-1])
                views.append(self(scaled.flip(-1), seen_penalty, mirrored).flip(-1))
            for view in views:
                probability = view.float().softmax(dim=1)
                if total is None:
                    total = probability
                    continue
                total = total + F.interpolate(probability, total.shape[-2:], mode="bilinear", align_corners=False)
        assert total is not None
        return total / (len(scales) * (1 + flip))

    def predict(self, image: Any, **options: Any) -> Tensor:
        """Label one image at its own size.

        Args:
            image: See `segment`.
            **options: Of `segment`.

        Returns:
            (H, W) int64 class indices on the CPU, seen classes first.
        """
        return self.segment(image, **options).labels.long()

    @torch.no_grad()
    def segment(
        self,
        image: Any,
        *,
        seen_penalty: float | None = None,
        flip: bool | None = None,
        scales: Sequence[float] | None = None,
        window: int | None = None,
        overlap: int | None = None,
        max_pixels: int = MAX_PIXELS,
        confidence_map: bool = False,
    ) -> Segmentation:
        """Label one image at its own size, a large one by windows that overlap.

        A pixel's label is that of the window in which it lies farthest from the border, and a window's position is its
        true one in the image. So memory holds the image, its label map and the scores of one window.

        Args:
            image: A path, a PIL image, an (H, W, 3) uint8 array, or a (3, H, W) tensor in [0, 255]. The EXIF
                orientation of the first two is followed.
            seen_penalty: See `forward`; None takes that of `config`.
            flip: Also read the mirror image; None takes what `config` says.
            scales: Image scales to read; None takes those of `config`.
            window: An image of more rows or columns is read in windows of this side in pixels; 0 reads it whole, None
                takes the property `window`.
            overlap: Pixels that neighbouring windows share at least; None: a quarter of the window.
            max_pixels: An image of more pixels is refused.
            confidence_map: Also return each pixel's confidence.

        Raises:
            UserError: The image cannot be read, is no RGB image or is too large; or an option is out of range.
        """
        window = self.window if window is None else window
        overlap = window // 4 if overlap is None else overlap
        if window < 0:
            raise UserError(f"window: found {window}, expected a number of pixels, or 0 to read images whole")
        if window and not 0 <= 2 * overlap < window:
            raise UserError(f"overlap: found {overlap}, expected 0 or more and less than half of window = {window}")
        pixels = _pixels(image, max_pixels)
        config = self.config
        if seen_penalty is None:
            seen_penalty = 0.0 if config is None else config.seen_penalty
        if flip is None:
            flip = config is not None and config.flip
        if scales is None:
            scales = (1.0,) if config is None else config.scales
        height, width = pixels.shape[-2:]
        stride = max(self.encoder.backbone.strides)
        # a backbone whose stride is not known gives no positions for windows
        size = window if window and stride else max(height, width)
        labels = torch.empty((height, width), dtype=torch.uint8)
        confidences = torch.empty((height, width)) if confidence_map else None
        sums = torch.zeros(self.num_classes, dtype=torch.float64)
        as_logits = not flip and tuple(scales) == (1.0,)
        was_training = self.training
        self.eval()
        try:
            for part in windows(height, width, size, overlap, max(stride, 1)):
                # a copy of the window alone: an array may be read-only
                read = pixels[:, part.rows, part.columns]
                read = read if isinstance(read, Tensor) else torch.tensor(read)
                batch = read.unsqueeze(0).to(self.image_mean.device)
                place = None if part.whole else Place(part.rows.start, part.columns.start, height, width)
                scores = self.scores(batch, seen_penalty, flip, scales, place)
                found = label_scores(scores, (batch.shape[-2], batch.shape[-1]), as_logits)
                label, confidence = (x[0][part.core].cpu() for x in found)
                labels[part.target] = label.to(torch.uint8)
                sums.scatter_add_(0, label.flatten(), confidence.flatten().double())
                if confidences is not None:
                    confidences[part.target] = confidence
        finally:
            self.train(was_training)
        counts = torch.bincount(labels.flatten(), minlength=self.num_classes)
        return Segmentation(labels, counts, sums / counts, confidences)


def resize_scores(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (N, C, h, w) scores bilinearly to `size`; classes at minus infinity stay there."""
    # 0 * -inf is NaN in the interpolation's weighted sums, so unknown classes travel as the lowest number.
    lowest = torch.finfo(scores.dtype).min / 4
    return F.interpolate(scores.clamp(min=lowest), size, mode="bilinear", align_corners=False)


def label_scores(scores: Tensor, size: tuple[int, int], as_logits: bool) -> tuple[Tensor, Tensor]:
    """Resize scores bilinearly, a few classes at a time, and keep the best class of each pixel.

    So memory does not grow with the number of classes times that of pixels.

    Args:
        scores: (N, C, h, w) float32; classes at minus infinity are never the best.
        size: (height, width) of the result.
        as_logits: Scores are logits, of which a softmax is taken; False: probabilities.

    Returns:
        The best class, (N, height, width) int64, and its probability, (N, height, width) float32.
    """
    step = max(1, SLICE // (len(scores) * size[0] * size[1]))
    best, label, total = _best_of(scores[:, :step], size, as_logits)
    for first in range(step, scores.shape[1], step):
        value, index, log_sum = _best_of(scores[:, first : first + step], size, as_logits)
        higher = value > best
        best, label = torch.where(higher, value, best), torch.where(higher, index + first, label)
        if total is not None and log_sum is not None:
            total = torch.logaddexp(total, log_sum)
    return label, best if total is None else (best - total).exp()


def _best_of(scores: Tensor, size: tuple[int, int], as_logits: bool) -> tuple[Tensor, Tensor, Tensor | None]:
    resized = resize_scores(scores, size)
    best, label = resized.max(dim=1)
    return best, label, resized.logsumexp(dim=1) if as_logits else None


def _pixels(image: Any, max_pixels: int) -> Tensor | NDArray[np.uint8]:
    """Return an image as (3, H, W), uint8 unless it is a tensor of another type, without copying what has pixels."""
    from PIL import Image, ImageOps

    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise UserError(
                f"image: found a tensor of shape {tuple(image.shape)}, expected (3, H, W) in [0, 255]; permute it"
            )
        check_pixels("image", image.shape[1], image.shape[2], max_pixels)
        return image
    if isinstance(image, (str, Path)):
        image = read_image(Path(image), max_pixels=max_pixels)[0]
    elif isinstance(image, Image.Image):
        check_pixels("image", image.height, image.width, max_pixels)
        try:
            image = as_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError) as error:
            raise UserError(
                f"image: cannot be decoded ({error}), expected an 8- or 16-bit image; convert it"
            ) from error
    array: NDArray[np.uint8] = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise UserError(
            f"image: found an array of shape {array.shape} of {array.dtype}, expected (H, W, 3) of uint8; convert it"
        )
    check_pixels("image", array.shape[0], array.shape[1], max_pixels)
    return array.transpose(2, 0, 1)
