"""Segmenter = E + spatial module + C: all that inference needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError
from sign_zs3.functional.geometry import map_size, repeats_after
from sign_zs3.limits import MAX_PIXELS
from sign_zs3.models.classifier import Classifier, ProjectionClassifier, build_classifier
from sign_zs3.models.config import IMAGENET_MEAN, IMAGENET_STD, SegmenterConfig
from sign_zs3.models.encoder import Encoder, rescale
from sign_zs3.models.inference import (
    Place,
    Scores,
    Segmentation,
    View,
    check_views,
    label_by_windows,
    read_pixels,
    window_sides,
)
from sign_zs3.models.pretrained import PretrainedFolder
from sign_zs3.models.spatial import SpatialFeatures, build_spatial
from sign_zs3.models.weights import evaluating

Inputs: TypeAlias = Tensor | Sequence[Tensor]
"""Images (N, 3, H, W), RGB, uint8 or float in [0, 255], of any size; or what `Segmenter.maps` returned for them."""

WINDOW, WINDOW_CELLS = 1024, 128
"""Side of the windows of a large image, at most, in pixels and in cells: attention costs their number squared."""


class Segmenter(nn.Module, PretrainedFolder):
    """Images in, class logits out; `save_pretrained` and `from_pretrained` write and read it as a folder.

    Args:
        encoder: E.
        spatial: A module (E(x), sample) -> `SpatialFeatures`, such as SIM.
        classifier: C, seen classes first, of which there are `num_seen`.
        image_mean, image_std: Per RGB channel, of images in [0, 1].
        config: What the networks were built from, see `build`.

    Attributes:
        num_classes: C, seen and unseen.
        known: (C,) bool buffer: the classes C was taught, before the transfer step only seen ones. The logits of
            others are those of untrained weights: `forward` puts them at minus infinity.
    """

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
        self.encoder, self.spatial, self.classifier = encoder, spatial, classifier
        self.num_classes, self.num_seen, self.config = classifier.num_classes, num_seen, config
        self.register_buffer("known", torch.arange(classifier.num_classes) < num_seen)
        self.register_buffer("image_mean", torch.tensor(image_mean).view(1, 3, 1, 1))
        self.register_buffer("image_std", torch.tensor(image_std).view(1, 3, 1, 1))

    @classmethod
    def build(cls, config: SegmenterConfig, weights: str | None = None) -> Segmenter:
        """Make a segmenter with initial weights but for those of its backbone, see `build_backbone`."""
        encoder, protocol = Encoder(weights=weights, **config.encoder), config.protocol
        dim, classes = encoder.feature_dim, protocol.num_classes
        spatial = build_spatial(feature_dim=dim, **config.spatial)
        classifier = build_classifier(feature_dim=dim, num_classes=classes, **config.classifier)
        return cls(encoder, spatial, classifier, protocol.num_seen, config.image_mean, config.image_std, config)

    @property
    def window(self) -> int:
        """Side in pixels of the windows in which `segment` reads a large image: 1024, or 128 cells if that is less."""
        return min(WINDOW, WINDOW_CELLS * self.encoder.strides[0])

    def normalise(self, images: Tensor) -> Tensor:
        """Map images (N, 3, H, W), uint8 or float in [0, 255], to zero mean and unit deviation."""
        return (images.to(self.image_mean.dtype) / 255 - self.image_mean) / self.image_std

    def maps(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the maps of images that the encoder's head reads, see `Encoder.maps`."""
        return self.encoder.maps(self.normalise(images))

    def features(self, inputs: Inputs, sample: bool | None = None, place: Place | None = None) -> SpatialFeatures:
        """Return F, z, mu and logvar, each (N, D, h, w).

        Args:
            inputs: Images or their maps, see `Inputs`.
            sample: Draw z, or take its mean; None: draw in training mode.
            place: Where the images lie in a larger one; None: they are whole.
        """
        x = self.encoder(self.normalise(inputs) if isinstance(inputs, Tensor) else inputs)
        return self._spatial_features(x, sample, place, self.encoder.input_scales[0])

    def _spatial_features(self, x: Tensor, sample: bool | None, place: Place | None, scale: float) -> SpatialFeatures:
        cells: dict[str, Any] = {}
        if place is not None:
            full_size = self.encoder.map_size((place.height, place.width), scale)
            cells = place.scaled(scale).in_cells(self.encoder.strides[0], map_size(x), full_size)
        found: SpatialFeatures = self.spatial(x, sample, **cells)
        return found

    def forward(self, inputs: Inputs, seen_penalty: float = 0.0, place: Place | None = None) -> Tensor:
        """Return logits (N, C, h, w) of F at the mean of the latent, minus infinity for classes that C does not know.

        Arguments are those of `features`; `seen_penalty` is subtracted from the seen logits (calibrated stacking; Chao
        et al., ECCV 2016).
        """
        logits: Tensor
        if self.encoder.maximum == "logits" and isinstance(inputs, Tensor):

            def read(images: Tensor, scale: float) -> Tensor:
                x = self.encoder.read(images, scale)
                found: Tensor = self.classifier(self._spatial_features(x, False, place, scale).features)
                return found

            logits = self.encoder.maximum_over_scales(self.normalise(inputs), read)
        else:
            logits = self.classifier(self.features(inputs, False, place).features)
        if seen_penalty:
            seen = torch.arange(self.num_classes, device=logits.device) < self.num_seen
            logits = logits - seen_penalty * seen.to(logits.dtype).view(1, -1, 1, 1)
        return logits.masked_fill(~self.known.view(1, -1, 1, 1), -math.inf)

    def scores(
        self, inputs: Inputs, seen_penalty: float = 0.0, flip: bool = False, scales: Sequence[float] = (1.0,),
        place: Place | None = None, size: tuple[int, int] | None = None,
    ) -> Scores:  # fmt: skip
        """Return logits, or with test-time augmentation (`flip`, several `scales`) each view's softmax.

        Args:
            inputs: Images or their maps, see `Inputs`.
            seen_penalty: See `forward`.
            flip: Also read the mirror image.
            scales: Image scales to read.
            place: See `features`.
            size: (height, width) of the images, where maps are given.

        Raises:
            UserError: No scale, or one that is not above 0; or `flip` or scales with maps, which hold one view alone.
        """
        check_views(seen_penalty, scales)
        if not isinstance(inputs, Tensor):
            if flip or tuple(scales) != (1.0,):
                raise UserError(
                    f"flip {flip}, scales {list(scales)}: found kept maps, which hold one view of the image: "
                    "switch flip and scales off, or the feature cache"
                )
            assert size is not None
            view = View(self(inputs, seen_penalty).float(), self.encoder.cells(size))
            return Scores((view,), size, are_logits=True)
        size, views = map_size(inputs), []
        for scale in scales:
            images, there = rescale(inputs.float(), scale), None if place is None else place.scaled(scale)
            cells = self.encoder.cells(map_size(images)).resized(map_size(images), size)
            views.append(View(self(images, seen_penalty, there).float(), cells))
            if flip:
                views.append(self._mirrored(images, there, size, seen_penalty))
        if len(views) == 1:
            return Scores(tuple(views), size, are_logits=True)
        return Scores(tuple(v._replace(values=v.values.softmax(dim=1)) for v in views), size, are_logits=False)

    def _mirrored(self, images: Tensor, place: Place | None, size: tuple[int, int], seen_penalty: float) -> View:
        """Return what is read of the mirror images, of images that come from others of `size`.

        A window begins at a whole cell of the whole mirror image, for which it leaves out some columns at its end.
        """
        part = images
        if place is not None:
            width, place = images.shape[-1], place.mirrored(images.shape[-1])
            cut = -place.left % self.encoder.period
            if 2 * cut < width:  # a narrow one has hardly a place to begin
                part, place = images[..., : width - cut], place._replace(left=place.left + cut)
        cells = self.encoder.cells(map_size(part))
        cells = cells._replace(columns=cells.columns.mirrored(part.shape[-1])).resized(map_size(images), size)
        return View(self(part.flip(-1), seen_penalty, place).float(), cells)

    def predict(self, image: Any, **options: Any) -> Tensor:
        """Label an image as `segment` does; return class indices (H, W) int64 on the CPU, seen classes first."""
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
        report: Callable[[int, int], object] | None = None,
    ) -> Segmentation:
        """Label one image at its own size, a large one in windows that overlap.

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
            report: Called after each window with the number of windows that are read and of all.

        Raises:
            UserError: The image cannot be read, is no RGB image or is too large; or an option is out of range.
        """
        window, overlap = window_sides(window, overlap, self.window)
        given = {"seen_penalty": seen_penalty, "flip": flip, "scales": scales}
        own = {name: getattr(self.config, name) for name in given} if self.config else {}
        options = own | {name: value for name, value in given.items() if value is not None}
        check_views(options.get("seen_penalty", 0.0), options.get("scales", (1.0,)))
        pixels, device = read_pixels(image, max_pixels), self.image_mean.device

        def score(part: Tensor, place: Place | None) -> Scores:
            return self.scores(part.to(device), place=place, **options)

        with evaluating(self):
            # windows begin at whole cells of the image at every scale, unless that leaves them hardly a place to begin
            stride = repeats_after(self.encoder.period, options.get("scales", (1.0,)))
            stride = stride if 2 * stride <= window else self.encoder.places.step
            return label_by_windows(pixels, score, self.num_classes, window, overlap, stride, confidence_map, report)
