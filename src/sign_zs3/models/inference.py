"""How an image of any size is labelled: cut into windows, each with its true position, and put together again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sign_zs3.errors import UserError
from sign_zs3.images import as_rgb, check_pixels, read_image
from sign_zs3.models.scores import Scores, Segmentation, label_scores


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


def check_windows(window: int, overlap: int) -> None:
    """Raise a UserError for windows of a negative side, or that overlap by half of it or more."""
    if window < 0:
        raise UserError(f"window: found {window}, expected a number of pixels, or 0 to read images whole")
    if window and not 0 <= 2 * overlap < window:
        raise UserError(f"overlap: found {overlap}, expected 0 or more and less than half of window = {window}")


def label_by_windows(
    pixels: Tensor | NDArray[np.uint8], score: Callable[[Tensor, Place | None], Scores], num_classes: int, window: int,
    overlap: int, stride: int, confidence_map: bool,
) -> Segmentation:  # fmt: skip
    """Label an image (3, H, W) in windows that overlap; memory holds the scores of one window.

    `score` maps a window (1, 3, h, w), on the CPU, and its place to its scores. `window` is the side of the windows in
    pixels, of which neighbours share at least `overlap`; 0 makes one window of the image, as does `stride` 0, with
    which no positions are known.
    """
    height, width = pixels.shape[-2:]
    size = window if window and stride else max(height, width)
    labels = torch.empty((height, width), dtype=torch.uint8)
    confidences = torch.empty((height, width)) if confidence_map else None
    sums = torch.zeros(num_classes, dtype=torch.float64)
    for part in windows(height, width, size, overlap, max(stride, 1)):
        read = pixels[:, part.rows, part.columns]
        read = read if isinstance(read, Tensor) else torch.tensor(read)  # a copy: an array may be read-only
        place = None if part.whole else Place(part.rows.start, part.columns.start, height, width)
        found = label_scores(score(read.unsqueeze(0), place), (read.shape[-2], read.shape[-1]))
        assert found.confidence is not None
        label, confidence = (x[0][part.core].cpu() for x in (found.label, found.confidence))
        labels[part.target] = label.to(torch.uint8)
        sums.scatter_add_(0, label.flatten(), confidence.flatten().double())
        if confidences is not None:
            confidences[part.target] = confidence
    return Segmentation.of(labels, sums, confidences)


def read_pixels(image: Any, max_pixels: int) -> Tensor | NDArray[np.uint8]:
    """Return an image of any kind that `Segmenter.segment` takes as (3, H, W); arrays and tensors are not copied."""
    from PIL import Image, ImageOps

    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise UserError(
                f"image: found a tensor of shape {tuple(image.shape)}, expected (3, H, W) in [0, 255]; permute it"
            )
        check_pixels("image", image.shape[1], image.shape[2], max_pixels)
        return image
    if isinstance(image, (str, Path)):
        image = read_image(Path(image), max_pixels=max_pixels)[0]
    elif isinstance(image, Image.Image):
        check_pixels("image", image.height, image.width, max_pixels)
        try:
            image = as_rgb(ImageOps.exif_transpose(image))
        except (OSError, ValueError) as error:
            raise UserError(
                f"image: cannot be decoded ({error}), expected an 8- or 16-bit image; convert it"
            ) from error
    array: NDArray[np.uint8] = np.asarray(image)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8 or not array.size:
        raise UserError(
            f"image: found an array of shape {array.shape} of {array.dtype}, expected (H, W, 3) of uint8; convert it"
        )
    check_pixels("image", array.shape[0], array.shape[1], max_pixels)
    return array.transpose(2, 0, 1)
