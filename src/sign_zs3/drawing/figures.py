"""What pictures share: the colours of classes, and figures, which belong to no window and are written as a whole."""

from __future__ import annotations

import functools
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

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


def new_figure(size: tuple[float, float], title: str = "", dpi: int = 110) -> Figure:
    """Return an empty figure of `size` inches, width and height, with a title above everything."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, beside its place first; a file that cannot be written is a UserError."""
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def render(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure into an array, uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def pixels(image: Tensor) -> NDArray[np.uint8]:
    """Return an image (3, H, W) uint8 as Matplotlib wants it, (H, W, 3)."""
    return np.asarray(image.permute(1, 2, 0))


def literal(text: str) -> str:
    """Return a name for Matplotlib, which would take what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def starred(classes: Sequence[str], num_seen: int) -> list[str]:
    """Return the class names, those of unseen classes with a star."""
    return [name + (" ★" if label >= num_seen else "") for label, name in enumerate(classes)]


def wrapped(label: str, width: int) -> str:
    """Break a label into lines, but not within ``T = 2``."""
    return "\n".join(textwrap.wrap(literal(label).replace(" = ", "\u00a0=\u00a0"), width))
