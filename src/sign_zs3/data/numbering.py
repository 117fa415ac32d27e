"""Whether masks are numbered as their classes are, by the ids that occur in them."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX, Protocol, ranges

log = logging.getLogger(__name__)

LOOKED_AT = 24
"""Masks that are read before a training."""
ENOUGH = 20
"""Masks that are enough to say that an id is in few of them."""


@dataclass(frozen=True)
class Shift:
    """Masks that look numbered too high by one (+1) or too low (-1), and what shows it, as part of a sentence.

    `certain` is False where a data set may hold such ids by chance: the highest class is in no mask, that is all.
    """

    by: int
    sign: str
    certain: bool

    def __str__(self) -> str:
        start, other = ("1", "0") if self.by > 0 else ("0", "1")
        return f"{self.sign}: the masks look numbered from {start} where their classes are from {other}"


def find_shift(protocol: Protocol, holding: NDArray[np.int64], masks: int) -> Shift | None:
    """Tell whether masks look numbered too high or too low by one; None where nothing shows it.

    Too high: an id occurs that is no class, and each id less one is a class. Too low: the highest class is in no mask,
    but the id below the lowest is, which is background or no label. In true masks that is in nearly all.

    `holding`, int64 (256,), says how many masks hold an own id, of so many `masks` that were read.
    """
    numbered = {*protocol.ids, *protocol.ignored_ids} - {IGNORE_INDEX}
    if 0 in protocol.ignored_ids or (0, "background") in zip(protocol.ids, protocol.classes, strict=True):
        numbered.discard(0)
    occur = {int(i) for i in np.flatnonzero(holding)} - {IGNORE_INDEX}
    lowest, highest = min(numbered), max(numbered)
    unknown = sorted(occur - numbered - {0})
    if unknown:
        if all(i - 1 in numbered for i in occur - {0}):
            return Shift(1, f"the id {unknown[0]} occurs, which is no class, and each id less one is a class", True)
        return None
    if lowest == 0 or lowest - 1 not in occur or not all(i + 1 in numbered for i in occur):
        return None
    share = int(holding[lowest - 1]) / masks
    sign = f"the id {highest} is in no mask, and {lowest - 1}, which is no object, in {share:.0%} of {masks}"
    return Shift(-1, sign, masks >= ENOUGH and share < 0.25)


def look_at_masks(dataset: SegmentationDataset, indices: Sequence[int], known_numbering: bool) -> None:
    """Look at some training masks, evenly spread, before any training; and at more until one shows a seen class.

    `indices` are those of the training images, at least one. A `UserError` where a mask holds an id that is no class,
    none shows a seen class, or in all likelihood they are numbered otherwise than their classes: the last is a warning
    alone without a `known_numbering`, that of a published data set.
    """
    protocol, holding = dataset.protocol, np.zeros(256, np.int64)

    def read(index: int) -> None:
        pixels = dataset.count(index, dataset.read_mask(index))
        dataset.refuse_unknown(index, pixels)
        holding[:] += pixels > 0

    first = {indices[i] for i in np.linspace(0, len(indices) - 1, min(LOOKED_AT, len(indices))).round().astype(int)}
    for index in sorted(first):
        read(index)
    if (shift := find_shift(protocol, holding, len(first))) is not None and shift.certain:
        if known_numbering:
            raise UserError(f"{protocol.dataset}: {shift}; renumber the masks")
        log.warning("%s: %s (seen in %d training masks)", protocol.dataset, shift, len(first))
    rest = (index for index in indices if index not in first)
    while not holding[list(protocol.ids[: protocol.num_seen])].any():
        if (index := next(rest, None)) is None:
            raise UserError(nothing_seen(protocol, holding, len(indices)))
        read(index)


def nothing_seen(protocol: Protocol, holding: NDArray[np.int64], masks: int) -> str:
    """Return the line about training masks without a pixel of a seen class; arguments as in `find_shift`."""
    occur = np.flatnonzero(holding).tolist()
    seen = ranges(protocol.ids[: protocol.num_seen])
    advice = "name other unseen classes, or correct the masks"
    if occur and set(occur) <= {0, IGNORE_INDEX}:
        advice = f"255 always means no label, so write the id of the class, e.g. {protocol.ids[0]}, in its place"
    return (
        f"training masks: found the ids {ranges(occur)} in {masks}, expected a seen class "
        f"({seen}) in one of them at least; {advice}"
    )
