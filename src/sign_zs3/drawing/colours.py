"""The colours of classes."""

import functools

import numpy as np
from numpy.typing import NDArray

UNLABELLED = (0.15, 0.15, 0.15)
"""RGB of pixels without a label."""


def class_colours(num_classes: int) -> NDArray[np.float64]:
    """Return (256, 3) RGB in [0, 1]: a colour for each of 0 to 255 classes, dark grey for all other values."""
    colours = np.tile(np.array(UNLABELLED), (256, 1))
    colours[:num_classes] = _distinct()[:num_classes]
    return colours


@functools.cache
def _distinct() -> NDArray[np.float64]:
    """Choose 255 colours, each as far as a grid allows from those before it, from greys, black and white."""
    steps = np.linspace(0, 1, 9)
    grid = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    # the eye separates greens best and blues worst
    scale = np.sqrt([0.30, 0.59, 0.25])
    greys = np.repeat(np.append(steps, UNLABELLED[0])[:, None], 3, axis=1)
    nearest = np.linalg.norm((grid[:, None] - greys) * scale, axis=-1).min(axis=1)
    chosen = np.empty((255, 3))
    for index in range(len(chosen)):
        chosen[index] = grid[nearest.argmax()]
        nearest = np.minimum(nearest, np.linalg.norm((grid - chosen[index]) * scale, axis=-1))
    return chosen
