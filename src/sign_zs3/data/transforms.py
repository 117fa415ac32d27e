"""Augmentation presets: functions of an image and a seed, with no random state of their own.

The geometry is that of the published loaders (SPNet, CaGNet, SIGN): warp to a square, random scale, pad,
random crop, horizontal flip. It is done in one pass: each pixel of the crop is looked up where the composed
map says, so nothing is resized twice and nothing outside the crop is touched. Images stay uint8;
normalisation happens on the device.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Image, Transform, Valid
from sign_zs3.data.protocol import IGNORE_INDEX
from sign_zs3.errors import UserError

IMAGENET_MEAN = (124, 116, 104)
"""Mean RGB colour of ImageNet, uint8."""


def training_preset(
    warp: int | None = 513,
    scale: tuple[float, float] = (0.5, 1.5),
    crop: int = 321,
    flip: float = 0.5,
    fill: tuple[int, int, int] = IMAGENET_MEAN,
    augmentations: str | Path | None = None,
) -> Transform:
    """Returns the training augmentation: warp, random scale, pad below and right, random crop, flip.

    Padding has the colour `fill` (which normalises to about 0), 255 in the mask and False in `valid`.

    Args:
        warp: Side in pixels that every image is warped to, its aspect lost; None keeps the native size.
        scale: Range of the random scale factor.
        crop: Side of the square crop in pixels.
        flip: Probability of the horizontal flip.
        fill: Colour of the padding, uint8 RGB.
        augmentations: YAML file of an albumentations pipeline (as ``albumentations.save`` writes it), run on
            the crop; None for none.

    Raises:
        UserError: The file is no albumentations pipeline.
    """
    extra = None if augmentations is None else _Pipeline(str(augmentations))
    return _Training(warp, (float(scale[0]), float(scale[1])), crop, flip, fill, extra)


def evaluation_preset(size: int | None = None) -> Transform | None:
    """Returns the evaluation transform.

    Args:
        size: Side in pixels that image and mask are warped to (513 in the published code); None leaves
            both at their native size, so that scores count the label's own pixels: no transform.
    """
    return None if size is None else _Warp(size)


class _Pipeline:
    """An albumentations pipeline as a function of a seed; it is read again in each process."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.pipeline = self._load()

    def _load(self) -> Any:
        # or the import asks a server for a newer version
        os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
        import albumentations

        try:
            loaded = albumentations.load(self.path, data_format="yaml")
        # whatever the file holds is handed to the constructors of the steps
        except Exception as error:
            found = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"augmentations: {self.path} cannot be used ({found}), expected an albumentations pipeline as "
                "albumentations.save(pipeline, path, data_format='yaml') writes it; write the file again"
            ) from error
        return albumentations.Compose([loaded])

    def __call__(self, image: Image, mask: Image, valid: Valid, seed: int) -> tuple[Image, Image, Valid]:
        # one pair of generators for all steps: `set_random_seed` would give each step the same one
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.pipeline(image=image, masks=[mask, valid.astype(np.uint8)])
        mask, inside = result["masks"]
        return result["image"], mask, inside == 1

    def __getstate__(self) -> dict[str, str]:
        return {"path": self.path}

    def __setstate__(self, state: dict[str, str]) -> None:
        self.__init__(state["path"])  # type: ignore[misc]


@dataclass(frozen=True)
class _Training(Transform):
    warp: int | None
    scale: tuple[float, float]
    crop: int
    flip: float
    fill: tuple[int, int, int]
    extra: _Pipeline | None = None

    def enough(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """Returns the size that the whole image would have after warp and scale."""
        return self._scaled(height, width, random.Random(seed))

    def _scaled(self, height: int, width: int, draw: random.Random) -> tuple[int, int]:
        factor = draw.uniform(*self.scale)
        sides = (height, width) if self.warp is None else (self.warp, self.warp)
        return max(1, round(sides[0] * factor)), max(1, round(sides[1] * factor))

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image, Valid]:
        draw = random.Random(seed)
        height, width = self._scaled(mask.shape[0], mask.shape[1], draw)
        crop = self.crop
        top, left = (int(draw.random() * (max(side, crop) - crop + 1)) for side in (height, width))
        mirrored = draw.random() < self.flip
        # rows and columns of the crop that lie in the image
        rows, columns = (min(crop, side - start) for side, start in ((height, top), (width, left)))
        image = np.ascontiguousarray(_resample(image, (height, width), (top, left), (rows, columns)))
        mask = _nearest(mask, (height, width), (top, left), (rows, columns))
        if (rows, columns) != (crop, crop):
            whole = np.empty((crop, crop, 3), np.uint8)
            whole[:] = np.array(self.fill, np.uint8)
            whole[:rows, :columns] = image
            image = whole
            labels = np.full((crop, crop), IGNORE_INDEX, np.uint8)
            labels[:rows, :columns] = mask
            mask = labels
        valid = np.zeros((crop, crop), np.bool_)
        valid[:rows, :columns] = True
        if mirrored:
            image, mask, valid = image[:, ::-1], mask[:, ::-1], valid[:, ::-1]
        if self.extra is not None:
            image, mask, valid = self.extra(np.ascontiguousarray(image), np.ascontiguousarray(mask), valid, seed)
        return image, mask, valid


@dataclass(frozen=True)
class _Warp(Transform):
    size: int

    def enough(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """Returns the size that image and mask are warped to."""
        return self.size, self.size

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image, Valid]:
        to = (self.size, self.size)
        valid = np.ones(to, np.bool_)
        return _resample(image, to, (0, 0), to), _nearest(mask, to, (0, 0), to), valid


def _resample(image: Image, to: tuple[int, int], start: tuple[int, int], window: tuple[int, int]) -> Image:
    """Resizes an image bilinearly and cuts a window out of the result, computing no more than the window."""
    import cv2

    sources, matrix = [], np.zeros((2, 3))
    for axis in (0, 1):
        length = image.shape[axis]
        ratio = length / to[axis]
        # pixel centres: position i of the result lies at (i + 1/2) ratio - 1/2 of the image
        first = (start[axis] + 0.5) * ratio - 0.5
        low = max(0, int(np.floor(first)))
        high = min(length, int(np.ceil(first + (window[axis] - 1) * ratio)) + 2)
        sources.append(slice(low, high))
        matrix[1 - axis, 1 - axis], matrix[1 - axis, 2] = ratio, first - low
    warped = cv2.warpAffine(
        image[sources[0], sources[1]],
        matrix,
        (window[1], window[0]),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return np.asarray(warped, np.uint8)


def _nearest(mask: Image, to: tuple[int, int], start: tuple[int, int], window: tuple[int, int]) -> Image:
    """Does the same as `_resample` with the nearest label."""
    index = []
    for axis in (0, 1):
        positions = (np.arange(start[axis], start[axis] + window[axis]) + 0.5) * (mask.shape[axis] / to[axis])
        index.append(positions.astype(np.intp).clip(0, mask.shape[axis] - 1))
    chosen: NDArray[np.uint8] = mask[index[0]][:, index[1]]
    return chosen
