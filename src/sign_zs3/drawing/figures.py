"""What pictures share: figures, which belong to no window and are written as a whole, and names in them."""

from __future__ import annotations

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
    """Draw a `new_figure` into an array, uint8 (H, W, 3)."""
    canvas: Any = figure.canvas
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
