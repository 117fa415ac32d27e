"""Windows over a large image, each with its true position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple


class Place(NamedTuple):
    """Where a window lies in a larger image, in pixels.

    Attributes:
        top: Its first row.
        left: Its first column.
        height: Rows of the larger image.
        width: Columns of the larger image.
    """

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
        """Return `origin` and `full_size` for a spatial module.

        Args:
            stride: Pixels per cell of the feature map.
            height: Rows of the window's feature map.
            width: Its columns.
        """
        origin = (self.top // stride, self.left // stride)
        # a resized window may be rounded up past the end of its image
        full_size = (
            max(-(-self.height // stride), origin[0] + height),
            max(-(-self.width // stride), origin[1] + width),
        )
        return {"origin": origin, "full_size": full_size}


class Window(NamedTuple):
    """A part of an image, and the core of it whose labels count.

    Attributes:
        rows: Rows of the image.
        columns: Columns of the image.
        core: Rows and columns of the window.
        target: Rows and columns of the image that the core covers.
        whole: Whether the window is the image itself.
    """

    rows: slice
    columns: slice
    core: tuple[slice, slice]
    target: tuple[slice, slice]
    whole: bool


def windows(height: int, width: int, size: int, overlap: int, stride: int) -> Iterator[Window]:
    """Cover an image with windows, whose cores cover it exactly once.

    Args:
        height: Rows of the image.
        width: Columns of the image.
        size: Rows and columns of a window; rounded down to a multiple of `stride`, or up where `overlap` needs it.
        overlap: Rows or columns that neighbours share at least; less than half of `size`.
        stride: Windows begin at multiples of it.
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
