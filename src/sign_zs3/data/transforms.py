"""Augmentation presets: functions of an image and a seed, with no random state of their own.

The geometry is that of the published loaders (SPNet, CaGNet, SIGN): warp to a square, random scale, pad,
random crop, horizontal flip. Images stay uint8; normalisation happens on the device.
"""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable
from typing import Any

import numpy as np

from sign_zs3.data.datasets.base import Image, Transform, Valid
from sign_zs3.data.protocol import IGNORE_INDEX

IMAGENET_MEAN = (124, 116, 104)
"""Mean RGB colour of ImageNet, uint8."""


def training_preset(
    warp: int | None = 513,
    scale: tuple[float, float] = (0.5, 1.5),
    crop: int = 321,
    flip: float = 0.5,
    fill: tuple[int, int, int] = IMAGENET_MEAN,
) -> Transform:
    """Returns the training augmentation: warp, random scale, pad below and right, random crop, flip.

    Padding has the colour `fill` (which normalises to about 0), 255 in the mask and False in `valid`.

    Args:
        warp: Side in pixels that every image is warped to, its aspect lost; None keeps the native size.
        scale: Range of the random scale factor.
        crop: Side of the square crop in pixels.
        flip: Probability of the horizontal flip.
        fill: Colour of the padding, uint8 RGB.
    """
    return _Preset(functools.partial(_training, warp, scale, crop, flip, fill))


def evaluation_preset(size: int | None = None) -> Transform:
    """Returns the evaluation transform.

    Args:
        size: Side in pixels that image and mask are warped to (513 in the published code); None leaves
            both at their native size, so that scores count the label's own pixels.
    """
    return _keep if size is None else _Preset(functools.partial(_warp, size))


class _Preset:
    """Runs an albumentations pipeline as a function of its seed; builds it at first use, in each process."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self.build = build
        self.pipeline: Any = None

    def __call__(self, image: Image, mask: Image, valid: Valid, seed: int) -> tuple[Image, Image, Valid]:
        if self.pipeline is None:
            self.pipeline = self.build()
        # one pair of generators for all steps: `set_random_seed` would give each step the same one, and so
        # tie the flip to the scale
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        result = self.pipeline(image=image, masks=[mask, valid.astype(np.uint8)])
        mask, inside = result["masks"]
        return result["image"], mask, inside == 1

    def __getstate__(self) -> dict[str, Any]:
        return {"build": self.build, "pipeline": None}


def _keep(image: Image, mask: Image, valid: Valid, seed: int) -> tuple[Image, Image, Valid]:
    return image, mask, valid


def _albumentations() -> Any:
    # or the import asks a server for a newer version
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations


def _training(warp: int | None, scale: tuple[float, float], crop: int, flip: float, fill: tuple[int, int, int]) -> Any:
    library = _albumentations()
    steps = [] if warp is None else [library.Resize(warp, warp)]
    steps += [
        library.RandomScale((scale[0] - 1, scale[1] - 1), p=1.0),
        library.PadIfNeeded(crop, crop, position="top_left", border_mode=0, fill=fill, fill_mask=IGNORE_INDEX),
        library.RandomCrop(crop, crop),
        library.HorizontalFlip(p=flip),
    ]
    return library.Compose(steps)


def _warp(size: int) -> Any:
    library = _albumentations()
    return library.Compose([library.Resize(size, size)])
