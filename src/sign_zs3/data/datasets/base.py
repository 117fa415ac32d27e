"""What all data sets of images and masks share: contiguous ids, hidden unseen classes, checks, pictures."""

from __future__ import annotations

import functools
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX, Protocol, ranges

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Part: TypeAlias = Literal["train", "val", "test"]
Sample: TypeAlias = dict[str, Any]
Image: TypeAlias = NDArray[np.uint8]
Valid: TypeAlias = NDArray[np.bool_]
NeededSize: TypeAlias = Callable[[int, int], tuple[int, int]]
"""From an image's height and width to those that are needed."""


class Transform(ABC):
    """An augmentation: a function of its arguments, with no random state of its own."""

    @abstractmethod
    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image, Valid]:
        """Return image, mask, and where they are no padding, bool; all of one size.

        Args:
            image: uint8 (h, w, 3) RGB: of the mask's size, or reduced to 1/2, 1/4 or 1/8 of it, rounded up, but not
                below `needed_size`.
            mask: uint8 (H, W) of contiguous ids and 255.
            seed: Decides the augmentation.
        """

    def needed_size(self, height: int, width: int, seed: int) -> tuple[int, int]:
        """Return the height and width at which an image of this size is needed: a reader may decode it smaller."""
        return height, width


class Samples(Dataset[Sample], ABC):
    """Samples that are functions of an index and a seed."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def sample(self, index: int, seed: int, compact: bool = False) -> Sample:
        """Read one sample, see `SegmentationDataset.sample`."""

    def __getitem__(self, index: int) -> Sample:
        """Return ``sample(index, seed=index)``."""
        return self.sample(index, seed=index)


class SegmentationDataset(Samples):
    """Images with masks under a class split; subclasses say how many, their names and how to read one.

    Args:
        protocol: The class split.
        hide_unseen: Turn unseen classes into 255 in the masks, as training must.
        transform: Augmentation; None for none.
    """

    def __init__(self, protocol: Protocol, hide_unseen: bool = False, transform: Transform | None = None) -> None:
        self.protocol = protocol
        self.hide_unseen = hide_unseen
        self.transform = transform
        table = protocol.lookup()
        # an id that is no class becomes a number that no other id becomes; where none is left, all ids are known
        unused = np.setdiff1d(np.arange(256), table).tolist()
        self._unknown: int | None = unused[-1] if unused else None
        self._table = np.where(table < 0, self._unknown or 0, table).astype(np.uint8)

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names by contiguous id, seen ones first."""
        return self.protocol.classes

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the name of an image, unique in the data set and fit for a file name."""

    @abstractmethod
    def read(self, index: int) -> tuple[Image, NDArray[Any]]:
        """Read an image, uint8 (H, W, 3) RGB, and its mask, (H, W) of the data set's own ids."""

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone, (H, W) of own ids; override it where that saves decoding the image."""
        return self.read(index)[1]

    def read_reduced(self, index: int, needed_size: NeededSize | None) -> tuple[Image, NDArray[Any]]:
        """Read as `read` does; the image may be decoded at 1/2, 1/4 or 1/8, rounded up, but not below `needed_size`.

        An image and a mask that differ in size are a `UserError`.
        """
        image, mask = self.read(index)
        self.check_sizes(index, image.shape[:2], mask.shape)
        return image, mask

    def fingerprint(self, index: int) -> str:
        """Return 32 hexadecimal digits that stand for an image's content (BLAKE2b); here of its shape and pixels."""
        image = self.read(index)[0]
        return content_hash(repr(image.shape).encode() + image.tobytes())

    def mask_source(self, index: int) -> str:
        """Return what an error about a mask should name: its file, or else the image's name."""
        return self.name(index)

    def sample(self, index: int, seed: int, compact: bool = False) -> Sample:
        """Read and augment one image.

        Args:
            index: Which image, 0..len-1.
            seed: Decides the augmentation.
            compact: Leave the mask at uint8, an eighth of the memory.

        Returns:
            ``image`` uint8 (3, H, W); ``mask`` int64 (H, W) of contiguous ids and 255; ``valid`` bool (H, W), False on
            padding; ``hidden`` int64 scalar, the number of pixels whose label was hidden because its class is unseen
            (for diagnosis: no loss may read it); ``size`` int64 (2,), height and width before the transform; ``id``
            the name.

        Raises:
            UserError: A file cannot be read, image and mask differ in size, or an id is neither a class nor ignored.
        """
        transform = self.transform
        needed_size = None if transform is None else functools.partial(transform.needed_size, seed=seed)
        image, raw = self.read_reduced(index, needed_size)
        mask = self.contiguous(index, raw)
        valid: Valid = np.ones(mask.shape, np.bool_)
        if transform is not None:
            image, mask, valid = transform(image, mask, seed)
        labels = self.labels(mask, valid, compact)
        size = torch.tensor(raw.shape)
        return {"image": _as_tensor(image.transpose(2, 0, 1)), **labels, "size": size, "id": self.name(index)}

    def labels(self, mask: Image, valid: Valid, compact: bool) -> Sample:
        """Return the ``mask``, ``valid`` and ``hidden`` of a sample, from a mask that may still show unseen classes."""
        hidden = 0
        if self.hide_unseen:
            unseen = (mask >= self.protocol.num_seen) & (mask != IGNORE_INDEX)
            hidden = int(np.count_nonzero(unseen))
            mask = np.where(unseen, np.uint8(IGNORE_INDEX), mask) if hidden else mask
        return {
            "mask": _as_tensor(mask if compact else mask.astype(np.int64)),
            "valid": _as_tensor(valid),
            "hidden": torch.tensor(hidden),
        }

    def held(self, index: int) -> NDArray[np.bool_]:
        """Tell from its mask which classes an image holds, unseen ones too: bool (K,) by contiguous id."""
        pixels = np.bincount(self.contiguous(index, self.read_mask(index)).ravel(), minlength=256)
        return pixels[: self.protocol.num_classes] > 0

    def examine(self, index: int) -> tuple[NDArray[np.int64] | None, list[str]]:
        """Return the pixels per own id, and a line per fault, of an image and its mask that are read whole.

        The pixels are int64 (256,), or None where the mask cannot be counted. Ids that are no class are not among the
        faults: `refuse_unknown` looks for them.
        """
        try:
            return self.count(index, self.read_reduced(index, None)[1]), []
        except UserError as error:
            return None, [str(error)]

    def count(self, index: int, raw: NDArray[Any]) -> NDArray[np.int64]:
        """Return the pixels per id of a mask of own ids, int64 (256,); an id above 255 or below 0 is a `UserError`."""
        return np.bincount(self._as_bytes(index, raw).ravel(), minlength=256)

    def refuse_unknown(self, index: int, pixels: NDArray[np.int64]) -> None:
        """Refuse a mask of which `pixels` per own id, int64 (256,), hold an id that is neither a class nor ignored."""
        if (unknown := (pixels > 0) & (self.protocol.lookup() < 0)).any():
            self._refuse_id(index, int(unknown.argmax()))

    def plot(self, sample: Sample) -> Figure:
        """Return a figure, of no window, with the image beside its mask and a legend that marks unseen classes."""
        from sign_zs3.drawing.panels import sample_panel

        return sample_panel(sample["image"], sample["mask"], sample["id"], self.protocol)

    def check_sizes(self, index: int, image: tuple[int, ...], mask: tuple[int, ...]) -> None:
        """Refuse an image and a mask whose (height, width) differ."""
        if image != mask:
            raise UserError(
                f"{self.mask_source(index)}: found a mask of {mask[0]} x {mask[1]} for an image of {image[0]} x "
                f"{image[1]} (height x width), expected the same size; replace the one that is wrong"
            )

    def contiguous(self, index: int, raw: NDArray[Any]) -> Image:
        """Return a mask of contiguous ids and 255, uint8 (H, W), from one of own ids; others are a `UserError`."""
        import cv2

        raw = self._as_bytes(index, raw)
        mask: Image = np.asarray(cv2.LUT(raw, self._table), np.uint8)
        if self._unknown is not None and (unknown := mask == self._unknown).any():
            self._refuse_id(index, int(raw[unknown].flat[0]))
        return mask

    def _as_bytes(self, index: int, raw: NDArray[Any]) -> Image:
        if raw.dtype != np.uint8 and (outside := (raw < 0) | (raw > 255)).any():
            self._refuse_id(index, int(raw[outside].flat[0]))
        return raw.astype(np.uint8, copy=False)

    def _refuse_id(self, index: int, found: int) -> None:
        protocol = self.protocol
        shifted = found > 0 and found - 1 in protocol.ids and "; or are the masks numbered from 1, the classes from 0?"
        raise UserError(
            f"{self.mask_source(index)}: found the id {found}, expected a class of {protocol.dataset} "
            f"({ranges(protocol.ids)}) or an ignored id ({ranges(protocol.ignored_ids)}); correct the mask or the "
            f"list of classes{shifted or ''}"
        )


def content_hash(content: bytes) -> str:
    """Return 32 hexadecimal digits that stand for some bytes (BLAKE2b)."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _as_tensor(array: NDArray[Any]) -> torch.Tensor:
    """Return a tensor in the array's memory, or in a copy where that is not contiguous and writable."""
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
