"""Windows over a large image, each with its true position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a window lies in a larger image: its first row and column, and the image's size, in pixels."""

    top: int
    left: int
    height: int
    width: int

    def scaled(self, scale: float) -> Place:
        """Return the place where window and image are resized."""
        return Place(*(round(scale * value) for value in self))

    def mirrored(self, width: int) -> Place:
        """Return the place of a window of `width` columns in the mirror image."""
        return Place(self.top, max(0, self.width - self.left - width), self.height, self.width)

    def in_cells(self, stride: int, height: int, width: int) -> dict[str, Any]:
        """Return `origin` and `full_size` for a spatial module that reads the window as `height` x `width` cells."""
        origin = (self.top // stride, self.left // stride)
        # a resized window may be rounded up past the end of its image
        rows = max(-(-self.height // stride), origin[0] + height)
        return {"origin": origin, "full_size": (rows, max(-(-self.width // stride), origin[1] + width))}


class Window(NamedTuple):
    """A part of an image, and the core whose labels count: as rows and columns of the part, and of the image."""

    rows: slice
    columns: slice
    core: tuple[slice, slice]
    target: tuple[slice, slice]
    whole: bool  # the window is the image itself


def windows(height: int, width: int, size: int, overlap: int, stride: int) -> Iterator[Window]:
    """Cover an image of `height` x `width` pixels with windows, whose cores cover it exactly once.

    Windows have `size` rows and columns, rounded to a multiple of `stride` (down, or up where `overlap` needs it). They
    begin at multiples of it, and share at least `overlap` < `size` / 2 pixels with their neighbours.
    """
    rows, columns = _intervals(height, size, overlap, stride), _intervals(width, size, overlap, stride)
    for top, row_core, row_target in rows:
        for left, column_core, column_target in columns:
            core, target = (row_core, column_core), (row_target, column_target)
            yield Window(top, left, core, target, whole=len(rows) == len(columns) == 1)


def _intervals(length: int, size: int, overlap: int, stride: int) -> list[tuple[slice, slice, slice]]:
    """Return each interval of 0..length, and its core, counted from its start and from 0."""
    if length > size:
        # one stride more than what is shared, so that the next window starts later
        size = max(size // stride, 1 - (-overlap // stride)) * stride
    if length <= size:
        return [(slice(0, length),) * 3]
    step = (size - overlap) // stride * stride
    count = 1 + -(-(length - size) // step)
    # the last one starts at a multiple of the stride, too, and is shorter instead
    last = -(-(length - size) // stride) * stride
    # spread evenly: neighbours share about as much everywhere
    starts = [round(last * i / (count - 1) / stride) * stride for i in range(count)]
    stops = [min(start + size, length) for start in starts]
    edges = [0, *((a + b) // 2 for a, b in zip(starts[1:], stops[:-1], strict=True)), length]
    return [
        (slice(start, stop), slice(low - start, high - start), slice(low, high))
        for start, stop, low, high in zip(starts, stops, edges[:-1], edges[1:], strict=True)
    ]
