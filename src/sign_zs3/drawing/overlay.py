"""Label maps drawn over their images, with a legend: arrays in, arrays out.

Pictures are (height, width, 3) uint8 RGB, labels (H, W) uint8 class indices; seen classes come first. `shown` are the
indices of the classes to draw; None: all. The names of unseen classes carry a star.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sign_zs3.drawing.figures import class_colours

if TYPE_CHECKING:
    from PIL import ImageFont

Picture: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.uint8]

LONGEST, SHORTEST = 1600, 320
"""Longer sides in pixels to which the picture of a larger image is reduced, and that of a smaller one enlarged."""
OPACITY = 0.5
NOTE = "★ unseen in training"
_LONGEST_NAME = 32
_STRIP = 64


def draw_overlay(
    image: Picture, labels: Labels, classes: Sequence[str], num_seen: int, shown: Collection[int] | None = None
) -> Picture:
    """Draw labels over their image, and below it the names and shares of the classes that it holds.

    Image and labels are as for `blend`; the first `num_seen` of the classes are seen.
    """
    picture = blend(image, labels, len(classes), shown)
    legend = draw_legend(labels, classes, num_seen, picture.shape[1], shown)
    width = max(picture.shape[1], legend.shape[1])
    return np.concatenate([_widened(picture, width), _widened(legend, width)])


def blend(image: Picture, labels: Labels, num_classes: int, shown: Collection[int] | None = None) -> Picture:
    """Lay the colours of the classes over an image, half transparent, with a line around each region.

    The image has the labels' shape, but for a reduction and its rounding. The result has the size of the labels, but
    that its longer side has 320 to 1600 pixels.
    """
    import cv2

    height, width = labels.shape
    scale = min(LONGEST / max(height, width), max(1.0, SHORTEST / max(height, width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    # OpenCV reads the array in place: of a large image Pillow would make a copy first
    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_NEAREST
    picture: NDArray[Any] = cv2.resize(image, size[::-1], interpolation=method)
    rows, columns = ((2 * np.arange(to) + 1) * full // (2 * to) for to, full in zip(size, labels.shape, strict=True))
    reduced = labels[rows][:, columns]
    drawn = np.ones(256, np.bool_) if shown is None else np.isin(np.arange(256), list(shown))
    colours = class_colours(num_classes)[reduced] * 255
    opacity = np.where(drawn[reduced], OPACITY, 0.0)
    opacity[_edges(reduced) & drawn[reduced]] = 1.0
    return np.asarray((picture + (colours - picture) * opacity[..., None]).round(), np.uint8)


def draw_legend(
    labels: Labels, classes: Sequence[str], num_seen: int, width: int, shown: Collection[int] | None = None
) -> Picture:
    """Draw the classes that labels hold, the largest first, each with its share of the pixels.

    The result is `width` pixels wide, or more where the longest name needs them. Classes that are not `shown` have an
    empty box.
    """
    from PIL import Image, ImageDraw

    entries = legend_entries(labels, classes, num_seen)
    note = NOTE if any(index >= num_seen for _, index in entries) else ""
    size = min(max(width // 45, 13), 24)
    font = _font(size)
    box, line = round(1.1 * size), round(1.7 * size)
    entry = round(max(font.getlength(text) for text, _ in entries)) + 3 * box
    width = max(width, entry, round(font.getlength(note)) + 2 * box)
    columns = min(len(entries), width // entry)
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, line * (rows + bool(note)) + box), "white")
    draw = ImageDraw.Draw(legend)
    colours = (class_colours(len(classes)) * 255).round().astype(int)
    for place, (text, index) in enumerate(entries):
        column, row = divmod(place, rows)
        left, top = box // 2 + column * (width // columns), box // 2 + row * line
        filled = tuple(colours[index].tolist()) if shown is None or index in shown else "white"
        draw.rectangle((left, top, left + box, top + box), fill=filled, outline="black")
        draw.text((left + 1.6 * box, top + box / 2), text, fill="black", font=font, anchor="lm")
    if note:
        draw.text((box // 2, box // 2 + rows * line + box / 2), note, fill=(90, 90, 90), font=font, anchor="lm")
    return np.asarray(legend)


def legend_entries(labels: Labels, classes: Sequence[str], num_seen: int) -> list[tuple[str, int]]:
    """Return the text and index of each class that labels (H, W) hold, the largest first.

    A text is the class's name, shortened if it is long, a star where it is unseen, and its share of the pixels.
    """
    counts = np.zeros(len(classes), np.int64)
    # of all at once, NumPy would first make a copy eight times as large
    for start in range(0, len(labels), _STRIP):
        counts += np.bincount(labels[start : start + _STRIP].ravel(), minlength=len(classes))
    entries = []
    for index in sorted(np.flatnonzero(counts).tolist(), key=lambda index: -counts[index]):
        name, share = classes[index], counts[index] / labels.size
        short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
        percent = f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"
        entries.append((f"{short}{' ★' if index >= num_seen else ''}  {percent}", index))
    return entries


def _edges(labels: Labels) -> NDArray[np.bool_]:
    """Say which pixels touch another class on the right, left, above or below."""
    edges = np.zeros(labels.shape, np.bool_)
    across, down = labels[:, 1:] != labels[:, :-1], labels[1:] != labels[:-1]
    for part, differs in ((np.s_[:, 1:], across), (np.s_[:, :-1], across), (np.s_[1:], down), (np.s_[:-1], down)):
        edges[part] |= differs
    return edges


def _widened(picture: Picture, width: int) -> Picture:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    # Matplotlib brings DejaVu Sans along, which has the star; Pillow's own font does not
    from matplotlib import get_data_path
    from PIL import ImageFont

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
