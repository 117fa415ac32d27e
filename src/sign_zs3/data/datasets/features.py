"""Data sets with a network's maps instead of images, see `sign_zs3.data.features`."""

import logging
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from tqdm import tqdm

from sign_zs3.data.datasets.base import Image, Sample, Samples, SegmentationDataset
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.transforms import ResizedCrop

log = logging.getLogger(__name__)

_MASK_BYTES = 2**28
"""Of compressed masks that a process keeps: some 80,000 masks of 256 x 256."""


@dataclass(frozen=True)
class View:
    """How a data set's images are encoded and what a sample holds of their maps.

    Args:
        size: Side in pixels that image and mask are warped to; None keeps their own size.
        crop: Side of the random crop of maps and mask in pixels, a multiple of the coarsest stride and below `size`;
            None: no crop.
        flip: Probability of the horizontal flip.
    """

    size: int | None = None
    crop: int | None = None
    flip: float = 0.0


class FeatureDataset(Samples):
    """A data set with maps from a cache instead of images; `fill` comes before the first sample.

    Crop and flip are functions of the sample's seed, by the draws of `training_preset`: without a crop, the maps are
    those of that preset's image. Nothing is padded. Images are decoded by `fill` alone, and only where their maps are
    missing; masks are decoded once, as far as the memory for them goes.

    Args:
        dataset: The data set; its transform is not used.
        cache: Where the maps are.
        view: How images are encoded and maps are cropped.
    """

    def __init__(self, dataset: SegmentationDataset, cache: FeatureCache, view: View) -> None:
        self.dataset = dataset
        self.cache = cache
        self.view = view
        self._names: dict[int, str] = {}
        self._masks: dict[int, tuple[bytes, tuple[int, ...], tuple[int, ...]]] = {}
        self._room = _MASK_BYTES

    def __len__(self) -> int:
        return len(self.dataset)

    def fill(self, indices: Sequence[int], progress: bool = False) -> None:
        """Compute the maps of the images to be read that are missing, broken, or of an image that has changed since.

        `progress` shows a bar and logs a line. An image that cannot be read, or maps that cannot be kept, are a
        `UserError`.
        """
        computed, size = 0, self.view.size
        # to find that nothing is missing takes a moment, too short for a bar
        with tqdm(indices, "features", unit="image", leave=False, delay=1, disable=not progress or None) as bar:
            for index in bar:
                self._names.pop(index, None)
                wanted = (False, True) if self.view.flip else (False,)
                missing = [mirrored for mirrored in wanted if not self.cache.holds(self._file(index, mirrored))]
                if not missing:
                    continue
                image, mask = self.dataset.read_reduced(index, None if size is None else lambda *_: (size, size))
                for mirrored in missing:
                    self.cache.write(self._file(index, mirrored), self._encoded(image, mask.shape, mirrored))
                computed += len(missing)
        if progress and computed:
            log.info("features: %d images in %s, %d maps computed", len(indices), self.cache.folder, computed)

    def sample(self, index: int, seed: int, compact: bool = False) -> Sample:
        """Read the maps and the mask of an image that `fill` has seen, cropped and mirrored as `seed` decides.

        Returns:
            As `SegmentationDataset.sample`, but instead of the image ``maps``, a tuple of float16 (C_l,
            ceil(H / stride_l), ceil(W / stride_l)), fine to coarse, where the mask is (H, W).

        Raises:
            UserError: The mask has an id that is neither a class nor ignored, or the maps cannot be read.
        """
        draw = random.Random(seed)
        draw.random()  # the scale, which is 1
        down, right = draw.random(), draw.random()
        mirrored = draw.random() < self.view.flip
        mask, full = self._mask(index)
        size, window = mask.shape, None
        if mirrored:
            mask = mask[:, ::-1]
        if (crop := self.view.crop) is not None:
            step = self.cache.strides[-1]
            top = step * int(down * ((size[0] - crop) // step + 1))
            left = step * int(right * ((size[1] - crop) // step + 1))
            window = slice(top, top + crop), slice(left, left + crop)
            mask = mask[window]
        maps = self.cache.read(self._file(index, mirrored), size, window)
        labels = self.dataset.labels(mask, np.ones(mask.shape, np.bool_), compact)
        return {"maps": maps, **labels, "size": torch.tensor(full), "id": self.dataset.name(index)}

    def _file(self, index: int, mirrored: bool) -> str:
        """Return the name of an image's maps; its content decides its native size."""
        if index not in self._names:
            size = self.view.size
            self._names[index] = f"{self.dataset.fingerprint(index)}-" + (f"{size}x{size}" if size else "native")
        return self._names[index] + ("-m" if mirrored else "")

    def _encoded(self, image: Image, full: tuple[int, ...], mirrored: bool) -> Image:
        """Return the image that is encoded, uint8 (3, H, W), of an image whose mask has the size `full`."""
        if self.view.size is not None:
            return ResizedCrop.warp(full, self.view.size, mirrored).image(image)
        return image.transpose(2, 0, 1)[:, :, :: -1 if mirrored else 1]

    def _mask(self, index: int) -> tuple[Image, tuple[int, ...]]:
        """Return the whole mask, read-only uint8 (H, W) of contiguous ids, and its size before the warp."""
        if index in self._masks:
            packed, shape, full = self._masks[index]
            return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape), full
        mask = self.dataset.contiguous(index, self.dataset.read_mask(index))
        full = mask.shape
        if self.view.size is not None:
            mask = ResizedCrop.warp(full, self.view.size).mask(mask)
        # compressed to a tenth or less in a fraction of the time that decoding takes; no old mask makes room for a new
        # one: images come in turn, so that none would be found again
        packed = zlib.compress(mask.tobytes(), 1)
        if len(packed) <= self._room:
            self._room -= len(packed)
            self._masks[index] = packed, mask.shape, full
        return mask, full
