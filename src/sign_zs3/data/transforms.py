"""Augmentation presets: functions of an image and a seed, with no random state of their own.

The geometry is that of the published loaders (SPNet, CaGNet, SIGN), in one pass: nothing is resized twice and nothing
outside the crop is computed. Images stay uint8; normalisation happens on the device.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sign_zs3.data.datasets.base import Image, Transform, Valid
from sign_zs3.errors import UserError
from sign_zs3.files import line_of, read_yaml, refusing
from sign_zs3.protocol import IGNORE_INDEX

MEAN_COLOUR = (124, 116, 104)
"""Mean RGB colour of ImageNet, uint8."""


def training_preset(
    warp: int | None = 513,
    scale: tuple[float, float] = (0.5, 1.5),
    crop: int = 321,
    flip: float = 0.5,
    fill: tuple[int, int, int] = MEAN_COLOUR,
    augmentations: str | Path | None = None,
) -> Transform:
    """Return the training augmentation: warp, random scale, pad below and right, random crop, flip.

    Padding has the colour `fill` (which normalises to about 0), 255 in the mask and False in `valid`.

    Args:
        warp: Side in pixels that every image is warped to, its aspect lost; None keeps the native size.
        scale: Range of the random scale factor.
        crop: Side of the square crop in pixels.
        flip: Probability of the horizontal flip.
        fill: Colour of the padding, uint8 RGB.
        augmentations: YAML file of an albumentations pipeline (as ``albumentations.save`` writes it), run on the crop;
            None for none. It must keep the crop uint8 and its size. Steps that move pixels move the labels too, by
            nearest neighbour whatever the file says; what they bring in from outside the crop is padding. The file
            holds names and numbers: it can run no code.

    Raises:
        UserError: The file is no albumentations pipeline, or one that does not fit.
    """
    extra = None
    if augmentations is not None:
        extra = _Pipeline(str(augmentations))
        # better an error now than in the first batch
        extra(np.zeros((crop, crop, 3), np.uint8), np.zeros((crop, crop), np.uint8), np.ones((crop, crop), np.bool_), 0)
    return _Training(warp, (float(scale[0]), float(scale[1])), crop, flip, fill, extra)


def evaluation_preset(size: int | None = None) -> Transform | None:
    """Return the evaluation transform: image and mask are warped to `size` pixels a side (513 in the published code).

    None is no transform: both keep their native size, so that scores count the label's own pixels.
    """
    return None if size is None else training_preset(size, (1.0, 1.0), size, flip=0.0)


class _Pipeline:
    """An albumentations pipeline as a function of a seed; each process reads the file."""

    def __init__(self, path: str) -> None:
        self.path = path
        # without it, the import asks a server for a newer version
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations

        try:
            loaded = albumentations.from_dict(read_yaml(Path(self.path), "an albumentations pipeline"))
            self.pipeline = albumentations.Compose([loaded], mask_interpolation=0)
        except Exception as error:  # the steps' constructors are called with whatever the file holds
            raise UserError(
                f"augmentations: {self.path} cannot be used ({line_of(error)}), expected an albumentations pipeline as "
                "albumentations.save(pipeline, path, data_format='yaml') writes it; write the file again"
            ) from error

    def __call__(self, image: Image, mask: Image, valid: Valid, seed: int) -> tuple[Image, Image, Valid]:
        # `set_random_seed` would give each step generators of the same seed
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        expected = ", expected steps that need no more than an image and masks; take the step out"
        with refusing(f"augmentations: {self.path} fails on a crop", expected):
            # what a step fills is the same in both, and so never 1 in one and 2 in the other
            result = self.pipeline(image=image, masks=[mask, np.uint8(1) * valid, np.uint8(2) * valid])
        changed, (labels, ones, twos) = result["image"], result["masks"]
        if changed.dtype != image.dtype or changed.shape != image.shape or labels.shape != mask.shape:
            raise UserError(
                f"augmentations: {self.path} makes a crop {tuple(changed.shape)} of {changed.dtype}, expected "
                f"{image.shape} of uint8 as it was; take out what resizes, normalises or converts to tensors"
            )
        # steps fill labels with 0, or what the file says, where they drop pixels or bring some in from outside
        valid = (ones == 1) & (twos == 2)
        return changed, np.where(valid, labels, np.uint8(IGNORE_INDEX)), valid

    def __reduce__(self) -> tuple[type[_Pipeline], tuple[str]]:
        return type(self), (self.path,)


@dataclass(frozen=True)
class _Training(Transform):
    warp: int | None
    scale: tuple[float, float]
    crop: int
    flip: float
    fill: tuple[int, int, int]
    extra: _Pipeline | None = None

    def needed_size(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """Return the size of the whole image after warp and scale."""
        factor = random.Random(seed).uniform(*self.scale)
        sides = (height, width) if self.warp is None else (self.warp, self.warp)
        return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image, Valid]:
        height, width = self.needed_size(mask.shape[0], mask.shape[1], seed)
        draw = random.Random(seed)
        draw.random()  # the scale
        crop = self.crop
        top, left = (int(draw.random() * (max(side, crop) - crop + 1)) for side in (height, width))
        mirrored = draw.random() < self.flip
        # what the crop holds of the scaled image
        rows, columns = min(crop, height - top), min(crop, width - left)
        cut = ResizedCrop((mask.shape[0], mask.shape[1]), (height, width), (top, left), (rows, columns), mirrored)
        # stored by channel, as samples are
        planes, labels, valid = cut.image(image), cut.mask(mask), np.ones((rows, columns), np.bool_)
        if (rows, columns) != (crop, crop):
            # what pads an image on the right is on the left in a mirror image
            across = slice(crop - columns, crop) if mirrored else slice(columns)
            padded = np.empty((5, crop, crop), np.uint8)
            padded[:] = np.array([*self.fill, IGNORE_INDEX, False], np.uint8)[:, None, None]
            padded[:, :rows, across] = np.stack([*planes, labels, valid])
            planes, labels, valid = padded[:3], padded[3], padded[4] == 1
        if self.extra is None:
            return planes.transpose(1, 2, 0), labels, valid
        # a seed of its own: the first draw of `seed` is the scale
        return self.extra(np.ascontiguousarray(planes.transpose(1, 2, 0)), labels, valid, draw.getrandbits(64))


@dataclass(frozen=True)
class ResizedCrop:
    """A rectangle of a resized image; no more of the image is computed.

    Args:
        full: (height, width) of the image, as the mask has it.
        to: (height, width) that it is resized to.
        start: (top, left) of the rectangle in the resized image.
        size: (height, width) of the rectangle.
        mirrored: Swap left and right of the rectangle.
    """

    full: tuple[int, int]
    to: tuple[int, int]
    start: tuple[int, int]
    size: tuple[int, int]
    mirrored: bool = False

    @classmethod
    def warp(cls, full: Sequence[int], size: int, mirrored: bool = False) -> ResizedCrop:
        """Return the whole of an image that is warped to a square."""
        return cls((full[0], full[1]), (size, size), (0, 0), (size, size), mirrored)

    def image(self, image: Image) -> Image:
        """Return the bilinear colours, uint8 (3, *size), of an image of `full` or a reduced size."""
        import cv2

        window, matrix = [], np.zeros((2, 3))
        for axis in (0, 1):
            length = image.shape[axis]
            # a reduced image is 2, 4 or 8 times smaller, rounded up
            reduction = 2 ** round(math.log2(self.full[axis] / length))
            ratio = self.full[axis] / (self.to[axis] * reduction)
            # pixel centres: pixel i of the result lies at (i + 1/2) ratio - 1/2 of the image
            first = (self.start[axis] + 0.5) * ratio - 0.5
            last = first + (self.size[axis] - 1) * ratio
            low = max(0, math.floor(first))
            window.append(slice(low, math.ceil(last) + 2))
            mirrored = axis == 1 and self.mirrored
            matrix[1 - axis, 1 - axis] = -ratio if mirrored else ratio
            matrix[1 - axis, 2] = (last if mirrored else first) - low
        warped = cv2.warpAffine(
            # OpenCV warps four channels in half the time of three
            cv2.cvtColor(image[tuple(window)], cv2.COLOR_RGB2RGBA),
            matrix,
            self.size[::-1],
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        planes = np.empty((4, *self.size), np.uint8)
        cv2.split(warped, list(planes))
        return planes[:3]

    def mask(self, mask: Image) -> Image:
        """Return the nearest labels, uint8 `size`, of a mask of the `full` size."""
        index = []
        for axis in (0, 1):
            # the pixel that holds the centre (i + 1/2) full / to, in whole numbers
            twice = 2 * np.arange(self.start[axis], self.start[axis] + self.size[axis]) + 1
            index.append(twice * self.full[axis] // (2 * self.to[axis]))
        chosen: Image = mask[index[0]][:, index[1][:: -1 if self.mirrored else 1]]
        return chosen
