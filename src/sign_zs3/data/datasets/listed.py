"""Data sets whose images and masks are files, named by lists."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Image, NeededSize, SegmentationDataset, Transform, content_hash
from sign_zs3.data.datasets.files import missing_files, read_index_mask, read_palette
from sign_zs3.errors import UserError
from sign_zs3.images import decoding, read_image
from sign_zs3.protocol import Protocol


@dataclass(frozen=True)
class Item:
    """An image and its mask: the image's id in the lists, and two files."""

    name: str
    image: Path
    mask: Path


class ListedDataset(SegmentationDataset):
    """Base of the data sets on disk. Subclasses make the items; a mask is an 8-bit PNG unless they say otherwise.

    Args:
        items: What the lists name.
        protocol: The class split.
        problems: What was wrong with the lists.
        hide_unseen, transform: As of `SegmentationDataset`.
        check: Refuse problems and missing files; False leaves them to `sign-zs3 data check`.

    Raises:
        UserError: A list has problems or a file is missing.
    """

    follow_exif: ClassVar[bool] = False
    """Whether images are turned as their EXIF says. The published data sets' masks were drawn on the stored pixels."""

    def __init__(
        self,
        items: Sequence[Item],
        protocol: Protocol,
        problems: Sequence[str] = (),
        hide_unseen: bool = False,
        transform: Transform | None = None,
        check: bool = True,
    ) -> None:
        super().__init__(protocol, hide_unseen, transform)
        self.items = tuple(items)
        # pictures are to have the colours that the masks have
        if not protocol.palette and self.items and (palette := read_palette(self.items[0].mask)) is not None:
            self.protocol = replace(protocol, palette=palette.tobytes().hex())
        self.problems = tuple(problems)
        self._fingerprints: dict[int, tuple[tuple[int, int], str]] = {}
        if not check:
            return
        if self.problems:
            raise UserError(self.problems[0])
        for what, paths in (("images", [i.image for i in self.items]), ("masks", [i.mask for i in self.items])):
            if missing := missing_files(paths):
                raise UserError(
                    f"{missing[0]}: not found ({len(missing)} of the {len(paths)} {what} in the lists are missing), "
                    f"expected every listed file; unpack the data set again so that {missing[0].parent} is complete"
                )

    def __len__(self) -> int:
        return len(self.items)

    def name(self, index: int) -> str:
        """Return the image's id, e.g. ``"2007_000032"``."""
        return self.items[index].name

    def fingerprint(self, index: int) -> str:
        """Return what stands for the bytes of the image's file; they are read again where the file has changed."""
        path = self.items[index].image
        with decoding(path, "an image"):
            status = path.stat()
            state = status.st_size, status.st_mtime_ns
            known = self._fingerprints.get(index)
            if known is None or known[0] != state:
                known = self._fingerprints[index] = state, content_hash(path.read_bytes())
        return known[1]

    def mask_source(self, index: int) -> str:
        """Return the path of the mask."""
        return str(self.items[index].mask)

    def read(self, index: int) -> tuple[Image, NDArray[Any]]:
        """Read an image, uint8 (H, W, 3) RGB, and its mask, (H, W) of own ids.

        Files that cannot be decoded, or differ in size, are a `UserError`.
        """
        return self.read_reduced(index, None)

    def read_reduced(self, index: int, needed_size: NeededSize | None) -> tuple[Image, NDArray[Any]]:
        """Read an image, uint8 (h, w, 3), decoded no larger than needed where its format allows, and its mask."""
        mask = self.read_mask(index)
        image, size = read_image(
            self.items[index].image, (mask.shape[0], mask.shape[1]), needed_size, follow_exif=self.follow_exif
        )
        self.check_sizes(index, size, mask.shape)
        return image, mask

    def examine(self, index: int) -> tuple[NDArray[np.int64] | None, list[str]]:
        """Examine as `SegmentationDataset.examine` does; a broken mask does not hide a broken image."""
        faults: list[str] = []
        pixels: NDArray[np.int64] | None = None
        mask_size: tuple[int, int] | None = None
        try:
            mask = self.read_mask(index)
            mask_size = mask.shape[0], mask.shape[1]
            pixels = self.count(index, mask)
        except UserError as error:
            faults.append(str(error))
        try:
            _, size = read_image(self.items[index].image, mask_size, follow_exif=self.follow_exif)
            self.check_sizes(index, size, mask_size or size)
        except UserError as error:
            faults.append(str(error))
        return pixels, faults

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone; a `UserError` where it cannot be decoded."""
        return read_index_mask(self.items[index].mask)


def in_two_lists(sets: Mapping[Any, SegmentationDataset | None]) -> Iterator[str]:
    """Yield a line for each image that two of some data sets hold; their keys name them."""
    listed = [(name, {item.image for item in s.items}) for name, s in sets.items() if isinstance(s, ListedDataset)]
    for (one, first), (two, second) in itertools.combinations(listed, 2):
        for path in sorted(first & second):
            yield f"{path}: found in the {one} and in the {two} list, expected it in one; remove it from the other"
