"""Label maps drawn over their images, with a legend: arrays in, arrays out.

Pictures are (height, width, 3) uint8 RGB, labels (H, W) uint8 class indices; seen classes come first. `shown` are the
indices of the classes to draw; None: all. Names of unseen classes carry a star; a class such as ``background`` is not
tinted.
"""

import functools
from collections.abc import Collection
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from sign_zs3.drawing.colours import is_clear, protocol_colours
from sign_zs3.protocol import Protocol

Picture: TypeAlias = NDArray[np.uint8]
Labels: TypeAlias = NDArray[np.uint8]

LONGEST, SHORTEST = 1600, 320
"""Longer sides in pixels to which the picture of a larger image is reduced, and that of a smaller one enlarged."""
OPACITY = 0.5
NOTE = "★ unseen in training"
_LONGEST_NAME = 32
_STRIP = 64


def draw_overlay(image: Picture, labels: Labels, protocol: Protocol) -> Picture:
    """Draw labels over their image, and below it the names and shares of the classes that it holds."""
    picture = blend(image, labels, protocol)
    legend = draw_legend(labels, protocol, picture.shape[1])
    width = max(picture.shape[1], legend.shape[1])
    return np.concatenate([_widened(picture, width), _widened(legend, width)])


def blend(image: Picture, labels: Labels, protocol: Protocol, shown: Collection[int] | None = None) -> Picture:
    """Lay the colours of the classes over an image, half transparent, with a line around each region.

    Image and result are those of `at_shown_size`.
    """
    picture, reduced = at_shown_size(image, labels)
    drawn = np.ones(256, np.bool_) if shown is None else np.isin(np.arange(256), list(shown))
    drawn[[index for index, name in enumerate(protocol.classes) if is_clear(name)]] = False
    colours = protocol_colours(protocol)[reduced] * 255
    opacity = np.where(drawn[reduced], OPACITY, 0.0)
    opacity[_edges(reduced) & drawn[reduced]] = 1.0
    return np.asarray((picture + (colours - picture) * opacity[..., None]).round(), np.uint8)


def at_shown_size(image: Picture, *maps: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return an image and (H, W) maps of it at the maps' size, but that its longer side has 320 to 1600 pixels.

    The image has the maps' shape, but for a reduction and its rounding.
    """
    import cv2

    height, width = maps[0].shape
    scale = min(LONGEST / max(height, width), max(1.0, SHORTEST / max(height, width)))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    # OpenCV reads the array in place: of a large image Pillow would make a copy first
    method = cv2.INTER_AREA if image.shape[0] > size[0] else cv2.INTER_NEAREST
    picture: NDArray[Any] = cv2.resize(image, size[::-1], interpolation=method)
    rows, columns = ((2 * np.arange(to) + 1) * full // (2 * to) for to, full in zip(size, (height, width), strict=True))
    return picture, *(values[rows][:, columns] for values in maps)


def draw_legend(labels: Labels, protocol: Protocol, width: int) -> Picture:
    """Draw the classes that labels hold, the largest first, each with its share of the pixels.

    The result is `width` pixels wide, or more where the longest name needs them.
    """
    entries = [
        (f"{short_name(protocol, index)}  {f'{100 * share:.1f} %' if share >= 0.001 else '< 0.1 %'}", index)
        for index, share in shares(labels)
    ]
    note = NOTE if any(index >= protocol.num_seen for _, index in entries) else ""
    size = min(max(width // 45, 13), 24)
    font = _font(size)
    box, line = round(1.1 * size), round(1.7 * size)
    entry = round(max(font.getlength(text) for text, _ in entries)) + 3 * box
    width = max(width, entry, round(font.getlength(note)) + 2 * box)
    columns = min(len(entries), width // entry)
    rows = -(-len(entries) // columns)
    legend = Image.new("RGB", (width, line * (rows + bool(note)) + box), "white")
    draw = ImageDraw.Draw(legend)
    colours = (protocol_colours(protocol) * 255).round().astype(int)
    for place, (text, index) in enumerate(entries):
        column, row = divmod(place, rows)
        left, top = box // 2 + column * (width // columns), box // 2 + row * line
        draw.rectangle((left, top, left + box, top + box), fill=tuple(colours[index].tolist()), outline="black")
        draw.text((left + 1.6 * box, top + box / 2), text, fill="black", font=font, anchor="lm")
    if note:
        draw.text((box // 2, box // 2 + rows * line + box / 2), note, fill=(90, 90, 90), font=font, anchor="lm")
    return np.asarray(legend)


def shares(labels: Labels) -> list[tuple[int, float]]:
    """Return each class that labels (H, W) hold and its share of the pixels, the largest first."""
    counts = np.zeros(256, np.int64)
    # of all at once, NumPy would first make a copy eight times as large
    for start in range(0, len(labels), _STRIP):
        counts += np.bincount(labels[start : start + _STRIP].ravel(), minlength=256)
    order = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    return list(zip(order.tolist(), (counts[order] / labels.size).tolist(), strict=True))


def short_name(protocol: Protocol, index: int) -> str:
    """Return the name of a class for a legend, shortened if it is long, with a star where it is unseen."""
    name = protocol.classes[index]
    short = name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"
    return f"{short}{' ★' if index >= protocol.num_seen else ''}"


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

    return ImageFont.truetype(f"{get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
