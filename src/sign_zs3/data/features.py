"""The maps of a frozen network, computed once per image and kept on disk.

A frozen network computes the same maps of an image at each pass, and they cost far more than what is trained on
them. `FeatureCache` keeps them in files whose names say which content, size and mirroring they were computed from,
in a folder of the network's own: maps of another network, size or image are never read. `FeatureDataset` stands in
for a data set and gives maps where that gives images.

Images are encoded whole, and training crops the maps. So a map's border cells have seen the pixels around the crop
as far as the network sees, where the maps of a cropped image would have seen padding; and where the network is SIM
too, attention and position are those of the whole image.
"""

from __future__ import annotations

import contextlib
import logging
import math
import random
import uuid
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sign_zs3.data.datasets.base import Image, NeededSize, Sample, SegmentationDataset
from sign_zs3.data.transforms import _Cut
from sign_zs3.errors import UserError
from sign_zs3.files import line_of

log = logging.getLogger(__name__)

_NOTE = """\
Maps that a frozen network computed of images, kept by sign-zs3 (option feature_cache): a folder per network,
a file per image, size and mirroring. Nothing else is in them: delete what you like, it is computed again when needed.
"""
_STORE_BYTES = 2**28
"""Compressed masks that a process keeps: some 80,000 of 256 x 256."""


class FeatureCache:
    """Files of a network's maps: ``FOLDER/KEY/NAME.safetensors`` with a float16 tensor per level.

    Several processes may fill one cache at once: files are written beside and renamed. Copies sent to other
    processes can read but not encode.

    Args:
        folder: Where the caches of all networks are.
        key: Stands for all that decides the network's maps but the image: weights, architecture, normalisation;
            fit for a folder's name. A function is asked for it at the first use, when a checkpoint's weights are there.
        encode: From one image, uint8 (1, 3, H, W) on the CPU, to its maps, one per stride, float (1, C_l,
            ceil(H / stride_l), ceil(W / stride_l)) on any device; called without gradients.
        strides: Pixels per cell of each level, fine to coarse; each divides the last.

    Raises:
        ValueError: A stride does not divide the coarsest one, or there is none.
    """

    def __init__(
        self,
        folder: str | Path,
        key: str | Callable[[], str],
        encode: Callable[[Tensor], Sequence[Tensor]],
        strides: Sequence[int],
    ) -> None:
        if (
            not strides
            or list(strides) != sorted(strides)
            or any(stride < 1 or strides[-1] % stride for stride in strides)
        ):
            raise ValueError(f"strides {tuple(strides)}: expected them fine to coarse, each a divisor of the last")
        self._root = Path(folder)
        self._key = key
        self.strides = tuple(strides)
        self._encode: Callable[[Tensor], Sequence[Tensor]] | None = encode

    def __getstate__(self) -> dict[str, Any]:
        # a worker that is not forked would be sent the network
        return {**vars(self), "_key": self.folder.name, "_encode": None}

    @property
    def folder(self) -> Path:
        """``FOLDER/KEY``."""
        if not isinstance(self._key, str):
            self._key = self._key()
        return self._root / self._key

    def holds(self, name: str) -> bool:
        """Tell whether whole maps of that name are there; of a broken or cut file it is False."""
        # a broken file makes the reader raise almost anything
        with contextlib.suppress(Exception), self._open(name) as file:
            return set(file.keys()) == set(self._levels())
        return False

    def read(self, name: str, size: Sequence[int], window: tuple[slice, slice] | None = None) -> tuple[Tensor, ...]:
        """Read an image's maps, or a rectangle of them.

        Args:
            name: As in `write`.
            size: (height, width) in pixels of the image.
            window: Rows and columns in pixels, all four numbers multiples of the coarsest stride; None: all.

        Returns:
            float16 (C_l, ceil(height / stride_l), ceil(width / stride_l)) of the window per level, contiguous, in
            memory of its own.

        Raises:
            UserError: The file is not there, is broken, or has maps of an image of another size.
        """
        maps = []
        try:
            with self._open(name) as file:
                for level, stride in zip(self._levels(), self.strides, strict=True):
                    whole = file.get_tensor(level)
                    if tuple(whole.shape[1:]) != (expected := _cells(size, stride)):
                        raise ValueError(f"found maps of {tuple(whole.shape[1:])} at stride {stride}, not {expected}")
                    if window is not None:
                        rows, columns = (slice(axis.start // stride, axis.stop // stride) for axis in window)
                        whole = whole[:, rows, columns]
                    maps.append(whole.clone(memory_format=torch.contiguous_format))
        except Exception as error:  # a broken file makes the reader raise almost anything
            raise UserError(
                f"feature_cache: {self._path(name)} cannot be read ({line_of(error)}), expected the maps that were "
                "there before the first batch; start again, which computes what is missing or broken"
            ) from error
        return tuple(maps)

    def write(self, name: str, image: Image) -> None:
        """Compute an image's maps and puts them in the place of what was there.

        Args:
            name: Stands for the image's content, size and mirroring; fit for a file name.
            image: uint8 (3, H, W).

        Raises:
            UserError: A value is no finite float16, or the file cannot be written.
            ValueError: `encode` gave maps of other shapes than it should.
        """
        from safetensors.torch import save

        if self._encode is None:
            raise RuntimeError("a copy of a cache cannot encode: fill the cache in the process that holds the network")
        with torch.no_grad():
            encoded = self._encode(torch.from_numpy(np.require(image[None], requirements=["C", "W"])))
        maps = {}
        for level, stride, found in zip(self._levels(), self.strides, encoded, strict=True):
            expected = _cells(image.shape[1:], stride)
            if found.ndim != 4 or found.shape[0] != 1 or tuple(found.shape[2:]) != expected:
                raise ValueError(f"encode gave {tuple(found.shape)} at stride {stride}, expected (1, C, *{expected})")
            half = found[0].detach().to(torch.float16)
            if not half.isfinite().all():
                raise UserError(
                    f"feature_cache: found a value of {float(found.abs().max()):.3g} in the maps at stride {stride}, "
                    "expected none above 65504, the largest that 16 bits hold; leave feature_cache out"
                )
            maps[level] = half.cpu().contiguous()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _replace(self._path(name), save(maps))
            note = self.folder.parent / "README.txt"
            if not note.exists():
                _replace(note, _NOTE.encode())
        except OSError as error:
            raise UserError(
                f"feature_cache: {self._path(name)} cannot be written ({line_of(error)}), expected a folder with room "
                "for the maps; make room or name another folder"
            ) from error

    def _levels(self) -> tuple[str, ...]:
        return tuple(str(level) for level in range(len(self.strides)))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        # the reader refuses files that are longer or shorter than their header says
        return safe_open(self._path(name), "pt")


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


class FeatureDataset(SegmentationDataset):
    """A data set with maps from a cache instead of images; `fill` comes before the first sample.

    Crop and flip are functions of the sample's seed, by the draws of `training_preset`: without a crop, the maps
    are those of that preset's image. Nothing is padded. Images are decoded by `fill` alone, and only where their
    maps are missing; masks are decoded once, as far as the memory for them goes.

    Args:
        dataset: The data set; its transform is not used.
        cache: Where the maps are.
        view: How images are encoded and maps are cropped.
    """

    def __init__(self, dataset: SegmentationDataset, cache: FeatureCache, view: View) -> None:
        super().__init__(dataset.protocol, dataset.hide_unseen)
        self.dataset = dataset
        self.cache = cache
        self.view = view
        self._names: dict[int, str] = {}
        self._masks: dict[int, tuple[bytes, tuple[int, ...], tuple[int, ...]]] = {}
        self._room = _STORE_BYTES

    def __len__(self) -> int:
        return len(self.dataset)

    def name(self, index: int) -> str:
        """Return the image's name."""
        return self.dataset.name(index)

    def mask_source(self, index: int) -> str:
        """Return what an error about a mask should name."""
        return self.dataset.mask_source(index)

    def read(self, index: int) -> tuple[Image, NDArray[Any]]:
        """Read image and mask, as the data set does."""
        return self.dataset.read(index)

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone, as the data set does."""
        return self.dataset.read_mask(index)

    def read_reduced(self, index: int, needed_size: NeededSize | None) -> tuple[Image, NDArray[Any]]:
        """Read image and mask, as the data set does."""
        return self.dataset.read_reduced(index, needed_size)

    def fingerprint(self, index: int) -> str:
        """Return what stands for the image's content."""
        return self.dataset.fingerprint(index)

    def fill(self, indices: Sequence[int], progress: bool = False) -> None:
        """Compute the maps that are missing, broken, or of an image that has changed since.

        Args:
            indices: The images that samples will be asked of.
            progress: Show a bar and log a line.

        Raises:
            UserError: An image cannot be read, or its maps cannot be kept.
        """
        from tqdm import tqdm

        computed, size = 0, self.view.size
        # to find that all is there takes moments
        with tqdm(indices, "features", unit="image", leave=False, delay=1, disable=not progress or None) as bar:
            for index in bar:
                self._names[index] = self._name(index)
                wanted = (False, True) if self.view.flip else (False,)
                missing = [mirrored for mirrored in wanted if not self.cache.holds(self._file(index, mirrored))]
                if not missing:
                    continue
                image, mask = self.read_reduced(index, None if size is None else lambda *_: (size, size))
                for mirrored in missing:
                    self.cache.write(self._file(index, mirrored), self._whole(image, mask.shape, mirrored))
                computed += len(missing)
        if progress:
            log.info("features: %d images in %s, %d maps computed", len(indices), self.cache.folder, computed)

    def sample(self, index: int, seed: int, compact: bool = False) -> Sample:
        """Read the maps and the mask of an image, cropped and mirrored.

        Args:
            index: Which image, 0..len-1, one of those that were filled.
            seed: Decides crop and flip.
            compact: Leave the mask at uint8.

        Returns:
            As `SegmentationDataset.sample`, but ``maps``, a tuple of float16 (C_l, ceil(h /
            stride_l), ceil(w / stride_l)), fine to coarse, where the mask is (h, w).

        Raises:
            UserError: The mask has an id that is no class and not ignored, or the maps cannot be read.
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
            starts = (
                step * int(at * ((side - crop) // step + 1)) for at, side in zip((down, right), size, strict=True)
            )
            rows, columns = (slice(start, start + crop) for start in starts)
            mask, window = mask[rows, columns], (rows, columns)
        if index not in self._names:
            self._names[index] = self._name(index)
        maps = self.cache.read(self._file(index, mirrored), size, window)
        labels = self.labels(mask, np.ones(mask.shape, np.bool_), compact)
        return {"maps": maps, **labels, "size": torch.tensor(full), "id": self.name(index)}

    def _name(self, index: int) -> str:
        """Return the stem of the files of an image; its content decides its native size."""
        size = self.view.size
        return f"{self.fingerprint(index)}-" + ("native" if size is None else f"{size}x{size}")

    def _file(self, index: int, mirrored: bool) -> str:
        return self._names[index] + ("-m" if mirrored else "")

    def _cut(self, full: tuple[int, ...], mirrored: bool) -> _Cut:
        assert self.view.size is not None
        to = (self.view.size, self.view.size)
        return _Cut((full[0], full[1]), to, (0, 0), to, mirrored)

    def _whole(self, image: Image, full: tuple[int, ...], mirrored: bool) -> Image:
        """Return the image that is encoded, uint8 (3, H, W)."""
        if self.view.size is not None:
            return self._cut(full, mirrored).image(image)
        return image.transpose(2, 0, 1)[:, :, :: -1 if mirrored else 1]

    def _mask(self, index: int) -> tuple[Image, tuple[int, ...]]:
        """Return the whole mask, uint8 (H, W) of contiguous ids, not to be written to; and its size before a warp."""
        if index in self._masks:
            packed, shape, full = self._masks[index]
            return np.frombuffer(zlib.decompress(packed), np.uint8).reshape(shape), full
        mask = self._contiguous(index, self.read_mask(index))
        full = mask.shape
        if self.view.size is not None:
            mask = self._cut(mask.shape, False).mask(mask)
        # compressed to a tenth or less in a fraction of the time that decoding takes; images come in turn, so that
        # putting out old ones for new ones would keep nothing
        packed = zlib.compress(mask.tobytes(), 1)
        if len(packed) <= self._room:
            self._room -= len(packed)
            self._masks[index] = packed, mask.shape, full
        return mask, full


def _cells(size: Sequence[int], stride: int) -> tuple[int, ...]:
    return tuple(math.ceil(side / stride) for side in size)


def _replace(path: Path, content: bytes) -> None:
    """Write a file beside its place under a name of its own, since another run may write the same one."""
    beside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        beside.write_bytes(content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
