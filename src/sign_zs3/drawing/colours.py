"""The colours of classes: natural where a name tells one, elsewhere distinct, for colour-blind people as well.

Distances are those of OKLab (Björn Ottosson, "A perceptual color space for image processing", 2020), the least of
three: as most people see the colours, and under protanopia and deuteranopia (Machado, Oliveira and Fernandes, "A
Physiologically-based Model for Simulation of Color Vision Deficiency", IEEE TVCG 2009, severity 1).
"""

import functools
import re
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from sign_zs3.protocol import Protocol

Colours: TypeAlias = NDArray[np.float64]
Palette: TypeAlias = NDArray[np.uint8]

UNLABELLED = (0.15, 0.15, 0.15)
"""RGB of pixels without a label."""
_COLOUR_WORDS = {
    "red": "d62728", "orange": "f08a1d", "yellow": "f2cf2e", "green": "3a9a3f", "blue": "2b5fd0", "purple": "8e44ad",
    "violet": "8e44ad", "pink": "ee8fb8", "brown": "80502b", "black": "0d0d0d", "white": "f2f2f2", "grey": "9a9a9a",
    "gray": "9a9a9a",
}  # fmt: skip
_THINGS = {
    "background other unlabeled unlabelled": "5c5c5c",
    "tomato strawberry": "d62728",
    "carrot fire": "f08a1d",
    "banana lemon": "f2cf2e",
    "grass lawn moss": "5fa136",
    "tree forest bush leaves": "2e6b34",
    "plant": "3f8f55",
    "sky": "8cc4ee",
    "cloud": "d3e2ee",
    "water river lake": "3d86c0",
    "sea ocean": "1d5c96",
    "road street pavement": "85858c",
    "sand beach": "e2c88c",
    "snow ice": "eef4fa",
    "mountain hill rock stone": "8d7d6f",
    "ground dirt mud soil": "8a5f38",
    "wood": "a8743f",
    "brick": "b3553a",
    "wall building house": "b9ab98",
    "person people face body skin": "e3aa86",
}
_NATURAL = {word: colour for words, colour in _THINGS.items() for word in words.split()} | _COLOUR_WORDS
_CLEAR = {"background", "unlabeled", "unlabelled", "void"}
# from linear RGB to the answers of the cones, and from their cube roots to OKLab
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)
# linear RGB as it is, as protanopic and as deuteranopic people see it
_EYES = np.array(
    [
        [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    ]
)
# a natural colour gives way to be this far from others; what a step away costs; what is too near, and what is the same
_WANTED, _COST, _TOO_NEAR, _SAME = 0.12, 1.5, 0.02, 0.001


def class_colours(names: Sequence[str]) -> Colours:
    """Return the colours of classes, (C, 3) RGB in [0, 1], no two of at most 255 alike.

    A class has the colour that a word of its name means ("red circle", "grass"), lighter or darker where an earlier
    class has it; any other has the colour of a grid that is farthest from those of earlier classes. So a class that is
    added at the end changes no colour.
    """
    return _chosen(tuple(names)).copy()


def protocol_colours(protocol: Protocol) -> Colours:
    """Return the colours of a protocol's classes by contiguous id, (256, 3) RGB in [0, 1]; `UNLABELLED` elsewhere.

    They are those of the palette of the data set's masks, if it tells all classes apart and is not all grey; else of
    Pascal VOC's for data of that name; else `class_colours` in the order of the own ids, alike for all splits. A class
    for which a palette has only black, as for one that was taught afterwards, gets one of the latter, too.
    """
    table, ids = np.tile(np.array(UNLABELLED), (256, 1)), np.array(protocol.ids)
    order = np.argsort(ids)
    table[order] = class_colours([protocol.classes[index] for index in order])
    palette = np.frombuffer(bytes.fromhex(protocol.palette), np.uint8).reshape(-1, 3)
    if not palette.size and protocol.dataset == "voc":
        palette = voc_palette()
    if palette.size:
        told = palette[ids].any(axis=1, keepdims=True) | (ids == 0)[:, None]
        own = np.where(told, palette[ids] / 255, table[: len(ids)])
        if len(np.unique(own, axis=0)) == len(own) and (np.ptp(palette[ids], axis=1) > 0).any():
            table[: len(ids)] = own
    return table


def palette_bytes(ids: Sequence[int], colours: Colours) -> bytes:
    """Return the palette of an index image, 768 bytes, in which the `ids` have `colours`; the rest is `UNLABELLED`."""
    palette = np.tile(np.array(UNLABELLED), (256, 1))
    palette[list(ids)] = colours
    return (palette * 255).round().astype(np.uint8).tobytes()


def voc_palette() -> Palette:
    """Return the palette of Pascal VOC's masks, (256, 3) uint8 by id."""
    # bit k of red, green and blue, from the highest, is bit 3k, 3k + 1 and 3k + 2 of the id
    bits = np.arange(256)[:, None] >> np.arange(9) & 1
    palette: NDArray[Any] = (bits.reshape(256, 3, 3) << np.array([7, 6, 5])[:, None]).sum(axis=1)
    return palette.astype(np.uint8)


def is_clear(name: str) -> bool:
    """Say whether a class is what is left of an image, which is not tinted over photographs."""
    return name.casefold().strip() in _CLEAR


def _natural(name: str) -> str | None:
    """Return the colour that a name means: of a colour word in it, or of its last word; None for none.

    In ``sky-other`` and ``wall-wood``, as COCO has them, the first word counts as well.
    """
    words = [word for word in re.split(r"[^a-z]+", name.casefold()) if word]
    found = [_COLOUR_WORDS[word] for word in words if word in _COLOUR_WORDS]
    heads = words[-1:] if "-" not in name else [word for word in words if word != "other"][::-1] or words
    found += [_NATURAL[form] for word in heads for form in (word, word.removesuffix("s")) if form in _NATURAL]
    return found[0] if found else None


@functools.lru_cache(maxsize=64)
def _chosen(names: tuple[str, ...]) -> Colours:
    free, free_seen = _grid()
    earlier = _seen(np.array([UNLABELLED]))
    # white paper is no earlier class, but near to it nothing shows
    nearest = _distances(free_seen, np.concatenate([earlier, _seen(np.full((1, 3), 0.9))], axis=1))
    chosen = np.empty((len(names), 3))
    for index, name in enumerate(names):
        chosen[index] = free[nearest.argmax()]
        if (anchor := _natural(name)) is not None:
            near, near_seen, cost = _variations(anchor)
            distance = _distances(near_seen, earlier)
            value = np.minimum(distance, _WANTED) / _WANTED - _COST * cost
            best = (value - 5 * np.maximum(0, 1 - distance / _TOO_NEAR)).argmax()
            # of a hundred greys the last ones are no greys
            chosen[index] = near[best] if distance[best] > _SAME else chosen[index]
        seen = _seen(chosen[index : index + 1])
        earlier = np.concatenate([earlier, seen], axis=1)
        nearest = np.minimum(nearest, _distances(free_seen, seen))
    return chosen


@functools.cache
def _grid() -> tuple[Colours, Colours]:
    """Return colours that are neither pale nor dark, grey nor glaring, nor a natural one, and how they are seen."""
    steps = np.linspace(0, 1, 18)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    lightness, *ab = (lab := _oklab(_linear(grid))).T
    chroma = np.hypot(*ab)
    anchors = _oklab(_linear(np.array([_rgb(colour) for colour in sorted(set(_NATURAL.values()))])))
    apart = np.linalg.norm(lab[:, None] - anchors, axis=-1).min(axis=1) > 0.055
    grid = grid[(lightness > 0.42) & (lightness < 0.88) & (chroma > 0.07) & (chroma < 0.2) & apart]
    return grid, _seen(grid)


@functools.cache
def _variations(anchor: str) -> tuple[Colours, Colours, Colours]:
    """Return a natural colour in other lightness, chroma and slightly other hue, how they are seen, and their cost."""
    lightness, a, b = _oklab(_linear(_rgb(anchor)))
    steps = np.linspace(-0.36, 0.36, 37), np.array([1, 0.85, 0.7, 1.2]), np.radians([0, -8, 8, -16, 16])
    lighter, purer, turned = (values.ravel() for values in np.meshgrid(*steps, indexing="ij"))
    chroma, hue = np.hypot(a, b) * purer, np.arctan2(b, a) + turned
    lab = np.stack([lightness + lighter, chroma * np.cos(hue), chroma * np.sin(hue)], axis=-1)
    linear = (lab @ np.linalg.inv(_LAB).T) ** 3 @ np.linalg.inv(_CONES).T
    cost = np.abs(lighter) + 0.25 * np.abs(purer - 1) + 0.5 * np.abs(turned)
    exists = ((linear > -0.002) & (linear < 1.002)).all(axis=1) & (lab[:, 0] > 0.25) & (lab[:, 0] < 0.97)
    exists |= cost < 1e-9
    linear = linear[exists].clip(0, 1)
    near = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    near = (near * 255).round() / 255
    return near, _seen(near), cost[exists]


def _rgb(colour: str) -> Colours:
    return np.array([*bytes.fromhex(colour)]) / 255


def _linear(rgb: Colours) -> Colours:
    return np.asarray(np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4))


def _oklab(linear: Colours) -> Colours:
    return np.asarray(np.cbrt(np.maximum(linear, 0) @ _CONES.T) @ _LAB.T)


def _seen(rgb: Colours) -> Colours:
    """Return how colours (n, 3) are seen by each of three kinds of eyes, OKLab (3, n, 3)."""
    return _oklab(_linear(rgb) @ _EYES.transpose(0, 2, 1))


def _distances(one: Colours, others: Colours) -> Colours:
    """Return how far each colour is from the nearest of others, for the eyes that see it nearest: (n,)."""
    squares = (one**2).sum(-1)[:, :, None] + (others**2).sum(-1)[:, None, :] - 2 * one @ others.transpose(0, 2, 1)
    return np.asarray(np.sqrt(np.maximum(squares, 0).min(axis=(0, 2))))
