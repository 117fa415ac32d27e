"""How scores become labels, the one way for every pixel, and how an image of any size is read in windows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor

from sign_zs3.errors import UserError
from sign_zs3.functional.devices import in_memory
from sign_zs3.functional.geometry import Cells, map_size, move_map, resize_scores
from sign_zs3.images import as_rgb, check_pixels, read_image
from sign_zs3.models.config import SCALES, are_scales

Area: TypeAlias = tuple[slice, slice]  # rows and columns
SLICE = 1 << 22  # how many scores `label_scores` resizes at once


class View(NamedTuple):
    """Scores of each class in each cell of the map of one view of some images: as they are, mirrored or resized.

    Attributes:
        values: (N, C, h, w) float32; minus infinity for classes that C does not know yet.
        cells: Where the cells look in the images, whatever the view.
    """

    values: Tensor
    cells: Cells


class Scores(NamedTuple):
    """Scores of each class, the mean of all views.

    Attributes:
        views: One or more, of the same images.
        size: (height, width) of the images.
        are_logits: Whether they are logits; otherwise probabilities.
    """

    views: tuple[View, ...]
    size: tuple[int, int]
    are_logits: bool

    def read(self, classes: slice, size: tuple[int, int] | None) -> Tensor:
        """Return scores (N, classes, height, width) of some classes, float32.

        They are at each pixel of the images at another size, or (None) in the cells of the first view.
        """
        first, parts = self.views[0], []
        for values, cells in self.views:
            if size is not None:
                parts.append(resize_scores(values[:, classes], size, cells.resized(self.size, size)))
            else:
                own = cells == first.cells
                part = values[:, classes]
                parts.append(part if own else move_map(part, cells, first.cells, map_size(first.values)))
        return parts[0] if len(parts) == 1 else torch.stack(parts).mean(dim=0)


class Labels(NamedTuple):
    """Each pixel's best class, (N, H, W) int64, and its probability, float32 in [0, 1]; None where not asked for."""

    label: Tensor
    confidence: Tensor | None


class Segmentation(NamedTuple):
    """What was found in one image.

    Attributes:
        labels: (H, W) uint8 class indices, seen classes first, on the CPU.
        pixels: (C,) int64, pixels of each class.
        confidence: (C,) float64 in [0, 1], mean softmax at the class over its pixels; NaN where it has none.
        confidence_map: (H, W) float32 in [0, 1], softmax at each pixel's class, where it was asked for.
    """

    labels: Tensor
    pixels: Tensor
    confidence: Tensor
    confidence_map: Tensor | None

    @classmethod
    def of(cls, labels: Tensor, sums: Tensor, confidence_map: Tensor | None = None) -> Segmentation:
        """Count the labels (H, W) uint8 of an image, given the sums (C,) of each class's confidence."""
        pixels = torch.bincount(labels.flatten(), minlength=len(sums))
        return cls(labels, pixels, sums / pixels, confidence_map)


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

    def in_cells(self, stride: int, size: tuple[int, int], full_size: tuple[int, int]) -> dict[str, Any]:
        """Return `origin` and `full_size` for a spatial module that reads the window as a map of `size`.

        `full_size` is that of the larger image's map.
        """
        origin = (self.top // stride, self.left // stride)
        # a resized window may be rounded up past the end of its image
        rows, columns = (max(whole, first + count) for whole, first, count in zip(full_size, origin, size, strict=True))
        return {"origin": origin, "full_size": (rows, columns)}


def windows(height: int, width: int, size: int, overlap: int, stride: int) -> Iterator[tuple[Area, Area, Area]]:
    """Cover an image of `height` x `width` pixels with windows, whose cores cover it exactly once.

    Windows have `size` rows and columns, rounded to a multiple of `stride` (down, or up where `overlap` needs it). They
    begin at multiples of it, and share at least `overlap` < `size` / 2 pixels with their neighbours. Yield each one's
    area, and that of its core, whose labels count, in the window and in the image.
    """
    of_rows, of_columns = _intervals(height, size, overlap, stride), _intervals(width, size, overlap, stride)
    for rows, columns in itertools.product(of_rows, of_columns):
        area, core, target = zip(rows, columns, strict=True)
        yield area, core, target


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


def label_scores(scores: Scores, size: tuple[int, int] | None, confidence: bool = True) -> Labels:
    """Return the best class of each pixel, its probability where asked for; classes at minus infinity are never best.

    Scores are interpolated at the pixels of the images at `size`, (height, width), a few classes at a time: memory does
    not grow with the number of classes times that of pixels. None labels the cells of the first view.
    """
    values, needs_total = scores.views[0].values, confidence and scores.are_logits
    step = values.shape[1]
    # a graph that is exported knows no sizes: it resizes all classes at once
    if size is not None and not torch.compiler.is_exporting():
        step = max(1, SLICE // (len(values) * size[0] * size[1]))
    best = label = total = values  # until the first slice is read
    for first in range(0, values.shape[1], step):
        resized = scores.read(slice(first, first + step), size)
        part_best, part_label = resized.max(dim=1)  # argmax over a strided dimension takes six times as long
        part_total = resized.logsumexp(dim=1) if needs_total else part_best
        if first == 0:
            best, label, total = part_best, part_label, part_total
            continue
        higher = part_best > best
        best, label = torch.where(higher, part_best, best), torch.where(higher, part_label + first, label)
        total = torch.logaddexp(total, part_total) if needs_total else best
    sure = (best - total).exp() if needs_total else best
    return Labels(label, sure if confidence else None)


def segmentations(scores: Scores, sizes: list[tuple[int, int]]) -> list[Segmentation]:
    """Return what was found in each image of a batch, at a size (height, width) of its own."""
    found = []
    for image, size in enumerate(sizes):
        views = tuple(View(values[image : image + 1], cells) for values, cells in scores.views)
        labels, confidence = label_scores(scores._replace(views=views), size)
        assert confidence is not None
        label, sure = labels[0].cpu(), confidence[0].cpu()
        sums = torch.bincount(label.flatten(), sure.flatten().double(), minlength=views[0].values.shape[1])
        found.append(Segmentation.of(label.to(torch.uint8), sums))
    return found


def check_views(seen_penalty: float, scales: Any) -> None:
    """Raise a UserError for scales at which no image can be read, or a penalty that is not finite."""
    if not are_scales(scales):
        raise UserError(f"scales: found {scales!r:.100}, expected {SCALES}")
    if not math.isfinite(seen_penalty):
        raise UserError(f"seen_penalty: found {seen_penalty}, expected a number")


def window_sides(window: int | None, overlap: int | None, own: int) -> tuple[int, int]:
    """Return the side of windows and what they overlap by, where None is a model's `own` side and a quarter of it.

    A UserError where the side is negative, or they overlap by half of it or more.
    """
    window = own if window is None else window
    overlap = window // 4 if overlap is None else overlap
    if type(window) is not int or type(overlap) is not int or window < 0:
        found = f"window and overlap: found {window!r:.50} and {overlap!r:.50}"
        raise UserError(f"{found}, expected whole numbers of pixels, or window = 0 to read images whole")
    if window and not 0 <= 2 * overlap < window:
        raise UserError(f"overlap: found {overlap}, expected 0 or more and less than half of window = {window}")
    return window, overlap


def label_by_windows(
    pixels: Tensor | NDArray[np.uint8], score: Callable[[Tensor, Place | None], Scores], num_classes: int, window: int,
    overlap: int, stride: int, confidence_map: bool, report: Callable[[int, int], object] | None = None,
) -> Segmentation:  # fmt: skip
    """Label an image (3, H, W) in windows that overlap; memory holds the scores of one window.

    `score` maps a window (1, 3, h, w), on the CPU, and its place to its scores; windows begin at multiples of `stride`
    pixels, and the rest is as `Segmenter.segment` has it.
    """
    height, width = pixels.shape[-2:]
    size = window or max(height, width)
    labels = torch.empty((height, width), dtype=torch.uint8)
    confidences = torch.empty((height, width)) if confidence_map else None
    sums = torch.zeros(num_classes, dtype=torch.float64)
    areas = list(windows(height, width, size, overlap, stride))
    for number, ((rows, columns), core, target) in enumerate(areas, 1):
        read = pixels[:, rows, columns]
        # a copy: an array may be read-only, or run backwards
        read = read if isinstance(read, Tensor) else torch.from_numpy(read.copy())
        place = None if read.shape == pixels.shape else Place(rows.start, columns.start, height, width)
        with in_memory("window", f"{map_size(read)[0]} x {map_size(read)[1]} pixels", "give a smaller --window"):
            found = label_scores(score(read.unsqueeze(0), place), map_size(read))
        assert found.confidence is not None
        label, confidence = (x[0][core].cpu() for x in (found.label, found.confidence))
        labels[target] = label.to(torch.uint8)
        sums.scatter_add_(0, label.flatten(), confidence.flatten().double())
        if confidences is not None:
            confidences[target] = confidence
        if report is not None:
            report(number, len(areas))
    return Segmentation.of(labels, sums, confidences)


def read_pixels(image: Any, max_pixels: int) -> Tensor | NDArray[np.uint8]:
    """Return an image of any kind that `Segmenter.segment` takes as (3, H, W); arrays and tensors are not copied."""
    if isinstance(image, Tensor):
        if image.ndim != 3 or image.shape[0] != 3 or not image.numel():
            raise UserError(
                f"image: found a tensor of shape {tuple(image.shape)}, expected (3, H, W) in [0, 255]; permute it"
            )
        check_pixels("image", image.shape[1], image.shape[2], max_pixels)
        if image.dtype != torch.uint8:
            low, high = (float(end) for end in image.aminmax())
            # one in [0, 1] would be read as black
            if not (low >= 0 and high <= 255) or (0 < high <= 1 and image.is_floating_point()):
                raise UserError(
                    f"image: found a tensor of numbers from {low:g} to {high:g}, expected (3, H, W) in [0, 255]; "
                    "multiply one in [0, 1] by 255, and do not normalise it"
                )
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
            f"image: found an array of shape {array.shape} of {array.dtype}, expected (H, W, 3) of uint8, in [0, 255]; "
            "convert it"
        )
    check_pixels("image", array.shape[0], array.shape[1], max_pixels)
    return array.transpose(2, 0, 1)
