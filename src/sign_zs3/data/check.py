"""A whole data set, read once and counted."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datasets.base import Part, SegmentationDataset
from sign_zs3.data.datasets.listed import in_two_lists
from sign_zs3.data.numbering import Shift, find_shift, nothing_seen
from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX, Protocol


@dataclass
class SplitCount:
    """What a split holds.

    Attributes:
        images: Number of images in the lists.
        pixels: Pixels per contiguous class id, int64 (256,), those ignored at 255.
        holding: Images that hold a pixel of a class, int64 (256,).
        with_unseen: Images that hold a pixel of any unseen class.
        masks: Number of masks that could be read.
        own_ids: Of these, those that hold an own id, be it a class or not, int64 (256,).
    """

    images: int = 0
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    holding: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))
    with_unseen: int = 0
    masks: int = 0
    own_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(256, np.int64))

    def add(self, own: NDArray[np.int64], protocol: Protocol) -> None:
        """Count a mask by its pixels per own id, int64 (256,); one with an id that is no class is only read."""
        self.masks += 1
        self.own_ids += own > 0
        table = protocol.lookup()
        if own[table < 0].any():
            return
        pixels = np.bincount(table[table >= 0], own[table >= 0], 256).astype(np.int64)
        self.pixels += pixels
        self.holding += pixels > 0
        self.with_unseen += bool(pixels[protocol.num_seen : protocol.num_classes].any())


def check_data(data: ZeroShotDataModule, progress: bool = True) -> tuple[dict[Part, SplitCount], list[str]]:
    """Read every image and mask of a data module, not set up, once; return what each split holds, and the faults.

    Unseen classes count too, as do training images that are cut off for validation. A fault is one line.
    """
    protocol, faults = data.protocol, list[str]()
    sets: dict[Part, SegmentationDataset] = {}
    parts: list[Part] = ["train", "val", "test"] if data.own_validation else ["train", "test"]
    for part in parts:
        checked, data.check_files = data.check_files, False
        try:
            sets[part] = data.make_dataset(part, hide_unseen=False, augment=False)
        except UserError as error:
            faults.append(str(error))
            continue
        finally:
            data.check_files = checked
        faults += getattr(sets[part], "problems", ())
    faults += in_two_lists(sets)
    counts = {part: SplitCount(len(dataset)) for part, dataset in sets.items()}
    places = [(part, index) for part, dataset in sets.items() for index in range(len(dataset))]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        examined = pool.map(lambda place: sets[place[0]].examine(place[1]), places)
        bar = tqdm(examined, total=len(places), unit="image", disable=not progress or None)
        for (part, index), (pixels, found) in zip(places, bar, strict=True):
            if pixels is not None:
                counts[part].add(pixels, protocol)
                try:
                    sets[part].refuse_unknown(index, pixels)
                except UserError as error:
                    faults.append(str(error))
            faults += found
    # what no single mask shows
    shift, train = shift_of(protocol, counts), counts.get("train", SplitCount())
    if shift is not None and (shift.by > 0 or (shift.certain and data.known_numbering)):
        faults.append(f"{protocol.dataset}: {shift}; renumber the masks or the classes")
    if train.masks and not train.holding[: protocol.num_seen].any():
        faults.append(nothing_seen(protocol, train.own_ids, train.masks))
    return counts, list(dict.fromkeys(faults))


def shift_of(protocol: Protocol, counts: dict[Part, SplitCount]) -> Shift | None:
    """Return whether the masks of all splits look numbered too high or too low, see `find_shift`."""
    own_ids = _own_ids(counts)
    return find_shift(protocol, own_ids, sum(count.masks for count in counts.values())) if own_ids.any() else None


def _own_ids(counts: dict[Part, SplitCount]) -> NDArray[np.int64]:
    return sum((count.own_ids for count in counts.values()), np.zeros(256, np.int64))


def as_report(protocol: Protocol, counts: dict[Part, SplitCount], faults: list[str]) -> dict[str, Any]:
    """Return what `check_data` found as plain types.

    ``format, dataset, split, images {split: n}, training {...}, classes [{name, id, seen, images, pixels}],
    ignored_pixels, unknown_ids {id: masks that hold it}, faults``.
    """
    train, own_ids = counts.get("train", SplitCount()), _own_ids(counts)
    unseen = int(train.pixels[protocol.num_seen : protocol.num_classes].sum())
    ignored = int(train.pixels[IGNORE_INDEX])
    return {
        "format": 1,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "images": {part: count.images for part, count in counts.items()},
        "training": {
            "images_with_unseen": train.with_unseen,
            "unseen_pixels": unseen,
            "unlabelled_pixels": ignored,
            "unseen_share_of_unlabelled": unseen / (unseen + ignored) if unseen + ignored else None,
        },
        "classes": [
            {
                "name": name,
                "id": own_id,
                "seen": index < protocol.num_seen,
                "images": {part: int(count.holding[index]) for part, count in counts.items()},
                "pixels": {part: int(count.pixels[index]) for part, count in counts.items()},
            }
            for index, (name, own_id) in enumerate(zip(protocol.classes, protocol.ids, strict=True))
        ],
        "ignored_pixels": {part: int(count.pixels[IGNORE_INDEX]) for part, count in counts.items()},
        "unknown_ids": {int(i): int(own_ids[i]) for i in np.flatnonzero((own_ids > 0) & (protocol.lookup() < 0))},
        "faults": faults,
    }
