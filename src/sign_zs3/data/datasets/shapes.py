"""The built-in data set: drawn scenes of coloured shapes, with compositional names and stuff known by position.

Specification (fixed: results are comparable only while it stays as it is). Lengths are in pixels of a 64 x 64 scene and
scale with ``size``; what is random is uniform on the interval given.

* **Classes.** Colours red, green, blue, yellow, purple; shapes circle, square, triangle, star; the twenty pairs
  ``"<colour> <shape>"`` have ids ``1 + 4 * colour + shape`` (1..20), the stuff classes are ``sky`` (21) and ``sea``
  (22). Id 0 is unnamed background: no class, ignored in training and testing; 255 is not used. Unseen by default: red
  square, green triangle, blue star, yellow circle.
* **Background.** Smooth grey: a 6 x 6 grid of brightness, 0.30-0.70, enlarged bilinearly, with a tint of at most 0.04
  per channel.
* **Stuff.** A band along the top (sky) and one along the bottom (sea), each with probability 0.5, 10-20 high, its edge
  a sum of two sine waves. Both have the same distribution of looks (hue 0.48-0.56, saturation 0.25-0.45, brightness
  0.60-0.90, streaks of +-0.08), so that only the position tells sky from sea; scenes are never flipped upside down.
* **Things.** One to four per scene, of any of the twenty pairs in every split (training images hold unseen pairs too;
  their labels are hidden). Radius 7-12 of the circle; the other shapes have a circumradius 1.15 (square), 1.30
  (triangle) or 1.25 (star, inner radius 0.45 of the outer) times that, so that they look equally large. Any rotation;
  centre at least 6 from the border; hue within 0.025 of the colour's, saturation 0.70-1, brightness 0.60-1. Later
  things hide earlier ones.
* **Distractors.** Twice, with probability 0.5: a grey circle, square, triangle, star or cross (saturation at most 0.10,
  brightness 0.20-0.95, radius 5-11) with id 0, above the stuff and below the things.
* **Noise.** Gaussian, standard deviation 0.035 of the range, on every pixel and channel. Edges are smoothed by 2 x 2
  supersampling; the mask is crisp (the upper drawing that covers at least half of the pixel).
* **Seeds.** A scene is a function of (seed, split, index): numpy's PCG64 seeded with ``SeedSequence([seed, split,
  index])``; train, val and test are separate streams.
"""

import colorsys
import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Image, SegmentationDataset
from sign_zs3.errors import UserError, check_at_least, check_choice
from sign_zs3.protocol import IGNORE_INDEX, Protocol

COLOURS: tuple[str, ...] = ("red", "green", "blue", "yellow", "purple")
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "star")
SPLITS: tuple[str, ...] = ("train", "val", "test")
SKY, SEA = 21, 22
NAMES: dict[int, str] = {
    **{1 + 4 * c + s: f"{colour} {shape}" for c, colour in enumerate(COLOURS) for s, shape in enumerate(SHAPES)},
    SKY: "sky",
    SEA: "sea",
}
UNSEEN: tuple[str, ...] = ("red square", "green triangle", "blue star", "yellow circle")

_HUES = (0.0, 0.33, 0.62, 0.155, 0.79)
# (corners, circumradius, inner radius over circumradius); a circle has no corners
_OUTLINES = {
    "circle": (0, 1.0, 1.0),
    "square": (4, 1.15, math.cos(math.pi / 4)),
    "triangle": (3, 1.30, 0.5),
    "star": (5, 1.25, 0.45),
}

_Float = NDArray[np.float32]


def shapes_protocol(unseen: Sequence[str] | None = None, ignored_classes: Sequence[str] = ()) -> Protocol:
    """Return the class split of the built-in data; a name that is none of its classes is a `UserError`.

    Args:
        unseen: Names of the unseen classes; None means the default four pairs.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
    """
    split = "default" if unseen is None and not ignored_classes else "custom"
    unseen = UNSEEN if unseen is None else unseen
    return Protocol.build("shapes", split, NAMES, unseen, (0, IGNORE_INDEX), ignored_classes)


def draw_scene(index: int, seed: int, split: str = "train", size: int = 64) -> tuple[Image, Image]:
    """Draw one scene, a function of its arguments.

    Args:
        index: Number of the scene in its split, at least 0.
        seed: Seed of the data set, at least 0.
        split: ``"train"``, ``"val"`` or ``"test"``.
        size: Height and width in pixels.

    Returns:
        The image, uint8 (size, size, 3) RGB, and the mask, uint8 (size, size) of the data set's own ids.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, SPLITS.index(split), index])))
    scale = size / 64
    image = _smooth(rng, 6, 6, 0.30, 0.70, size)[:, :, None] + rng.uniform(-0.04, 0.04, 3).astype(np.float32)
    mask = np.zeros((size, size), np.uint8)

    for stuff, distance in ((SKY, np.arange(size)), (SEA, np.arange(size)[::-1])):
        if rng.random() < 0.5:
            look = _rgb(rng.uniform(0.48, 0.56), rng.uniform(0.25, 0.45), rng.uniform(0.60, 0.90))
            streaks = _smooth(rng, 10, 3, -0.08, 0.08, size)
            edge = rng.uniform(10, 20) * scale + _waves(rng, size) * scale
            band = (distance[:, None] + 0.5) < edge[None, :]
            image[band] = (look + streaks[:, :, None])[band]
            mask[band] = stuff

    for _ in range(2):
        if rng.random() < 0.5:
            shape = (*SHAPES, "cross")[rng.integers(5)]
            look = _rgb(rng.random(), rng.uniform(0, 0.10), rng.uniform(0.20, 0.95))
            _paint(image, mask, shape, 0, look, rng.uniform(5, 11) * scale, rng)

    for _ in range(rng.integers(1, 5)):
        colour, number = divmod(int(rng.integers(len(COLOURS) * len(SHAPES))), len(SHAPES))
        hue = (_HUES[colour] + rng.uniform(-0.025, 0.025)) % 1
        look = _rgb(hue, rng.uniform(0.70, 1.0), rng.uniform(0.60, 1.0))
        own_id = 1 + 4 * colour + number
        _paint(image, mask, SHAPES[number], own_id, look, rng.uniform(7, 12) * scale, rng)

    image += 0.035 * rng.standard_normal(image.shape, np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8), mask


class ShapesDataset(SegmentationDataset):
    """Scenes of one split, drawn when first asked for and then kept in memory.

    Args:
        split: ``"train"``, ``"val"`` or ``"test"``: separate streams of scenes.
        length: Number of scenes.
        seed: Seed of the scenes.
        scene_size: Height and width in pixels.
        protocol: The class split; None takes the default one.
        **options: `hide_unseen` and `transform` of `SegmentationDataset`.

    Raises:
        UserError: An unknown split, a length below 1 or a scene size below 16.
    """

    def __init__(
        self,
        split: str,
        length: int,
        seed: int = 0,
        scene_size: int = 64,
        protocol: Protocol | None = None,
        **options: Any,
    ) -> None:
        super().__init__(protocol or shapes_protocol(), **options)
        check_choice("split", split, *SPLITS)
        if length < 1:
            raise UserError(f"{split} size: found {length}, expected at least 1 scene; raise it")
        check_at_least(16, scene_size=scene_size)
        self.split = split
        self.length = length
        self.seed = seed
        self.scene_size = scene_size
        self._scenes: dict[int, tuple[Image, Image]] = {}

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """Return the scene's name, e.g. ``"train-00012"``."""
        return f"{self.split}-{index:05d}"

    def read(self, index: int) -> tuple[Image, Image]:
        """Return copies of image, uint8 (H, W, 3), and mask, uint8 (H, W) of own ids; an IndexError beyond the last."""
        if not 0 <= index < self.length:
            raise IndexError(f"scene {index} of {self.length}")
        if index not in self._scenes:
            self._scenes[index] = draw_scene(index, self.seed, self.split, self.scene_size)
        image, mask = self._scenes[index]
        return image.copy(), mask.copy()


def _rgb(hue: float, saturation: float, value: float) -> _Float:
    return np.array(colorsys.hsv_to_rgb(hue, saturation, value), np.float32)


@functools.cache
def _enlarge(coarse: int, size: int) -> _Float:
    """Bilinear interpolation from ``coarse`` knots, the outer ones on the borders, as a (size, coarse) matrix."""
    place = np.linspace(0, coarse - 1, size)
    return np.asarray(np.maximum(0, 1 - np.abs(place[:, None] - np.arange(coarse)[None, :])), np.float32)


def _smooth(rng: np.random.Generator, rows: int, columns: int, low: float, high: float, size: int) -> _Float:
    knots = rng.uniform(low, high, (rows, columns)).astype(np.float32)
    return np.asarray(_enlarge(rows, size) @ knots @ _enlarge(columns, size).T, np.float32)


def _waves(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    across = np.arange(size) * (2 * math.pi / size)
    waves = np.zeros(size)
    for cycles in (rng.uniform(0.5, 1.5), rng.uniform(2, 4)):
        waves += rng.uniform(0.5, 1.5) * np.sin(cycles * across + rng.uniform(0, 2 * math.pi))
    return waves


def _paint(
    image: _Float, mask: Image, shape: str, own_id: int, look: _Float, radius: float, rng: np.random.Generator
) -> None:
    """Paint one shape at a random place and rotation into image and mask."""
    size = mask.shape[0]
    scale = size / 64
    row, column = rng.uniform(6 * scale, size - 6 * scale, 2)
    angle = rng.uniform(0, 2 * math.pi)
    reach = 1.42 * radius
    top, left = max(0, int(row - reach)), max(0, int(column - reach))
    bottom, right = min(size, int(row + reach) + 2), min(size, int(column + reach) + 2)
    # two samples per pixel and direction, at a quarter and three quarters
    y = (np.arange(2 * top, 2 * bottom) * 0.5 + 0.25 - row)[:, None]
    x = (np.arange(2 * left, 2 * right) * 0.5 + 0.25 - column)[None, :]
    inside = _inside(shape, x, y, angle, radius)
    coverage = inside.reshape(bottom - top, 2, right - left, 2).mean((1, 3), dtype=np.float32)[:, :, None]
    window = image[top:bottom, left:right]
    window += coverage * (look - window)
    mask[top:bottom, left:right][coverage[:, :, 0] >= 0.5] = own_id


def _inside(
    shape: str, x: NDArray[np.float64], y: NDArray[np.float64], angle: float, radius: float
) -> NDArray[np.bool_]:
    """Tell which points, relative to the centre, lie in the shape."""
    if shape == "cross":
        along = np.abs(x * math.cos(angle) + y * math.sin(angle))
        across = np.abs(y * math.cos(angle) - x * math.sin(angle))
        return np.asarray((np.minimum(along, across) < 0.3 * radius) & (np.maximum(along, across) < radius))
    corners, stretch, inner = _OUTLINES[shape]
    outer = stretch * radius
    distance = np.hypot(x, y)
    if corners == 0:
        return np.asarray(distance < outer)
    # all corners fold onto one half sector: from a tip at angle 0 to a notch at pi / corners
    half = math.pi / corners
    folded = half - np.abs((np.arctan2(y, x) - angle) % (2 * half) - half)
    notch_x, notch_y = inner * outer * math.cos(half), inner * outer * math.sin(half)
    # the side of the line from the tip (outer, 0) to the notch on which the centre lies
    return np.asarray((notch_x - outer) * distance * np.sin(folded) - notch_y * (distance * np.cos(folded) - outer) > 0)
