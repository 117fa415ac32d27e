"""Which seen classes lie nearest to each unseen one: what a generator has to go by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from sign_zs3.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

    from sign_zs3.protocol import Protocol

__all__ = ["draw_nearest", "nearest"]

Neighbours = Mapping[str, Sequence[tuple[str, float]]]
"""Unseen class -> (seen class, cosine), the nearest first."""


def nearest(vectors: Tensor, protocol: Protocol, count: int = 5) -> dict[str, list[tuple[str, float]]]:
    """Find the seen classes whose vectors lie nearest to each unseen class's.

    Args:
        vectors: (C, W) class vectors in the order of `protocol.classes`, of any length but 0.
        protocol: The classes and their split.
        count: How many seen classes; fewer where there are not so many.

    Returns:
        Unseen class -> (seen class, cosine), the nearest first; of equal ones the first in the protocol.

    Raises:
        UserError: No class is unseen, `count` is below 1, or there is not one vector per class.
    """
    import torch

    if count < 1:
        raise UserError(f"--nearest: found {count}, expected at least 1; raise it")
    if not protocol.unseen:
        raise UserError(f"{protocol.dataset}/{protocol.split}: found no unseen class, expected one at least; name some")
    if vectors.shape[0] != protocol.num_classes:
        raise UserError(
            f"class vectors: found {vectors.shape[0]} rows, expected one for each of the {protocol.num_classes} "
            f"classes of {protocol.dataset}/{protocol.split}; look them up in its order"
        )
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    cosines = unit[protocol.num_seen :] @ unit[: protocol.num_seen].T
    values, order = torch.sort(cosines, dim=1, descending=True, stable=True)
    return {
        protocol.classes[protocol.num_seen + row]: [
            (protocol.classes[seen], cosine)
            for seen, cosine in zip(order[row, :count].tolist(), values[row, :count].tolist(), strict=True)
        ]
        for row in range(len(protocol.unseen))
    }


def draw_nearest(neighbours: Neighbours, title: str = "") -> Figure:
    """Draw a row per unseen class: its nearest seen classes from left to right, coloured by cosine.

    Args:
        neighbours: What `nearest` returns.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    import numpy as np
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from sign_zs3.drawing.panels import literal

    cosines = np.array([[cosine for _, cosine in row] for row in neighbours.values()])
    rows, columns = cosines.shape
    longest = max(len(name) for row in neighbours.values() for name, _ in row)
    column_width = max(1.0, 0.085 * longest + 0.2)
    label_width = 0.1 * max(map(len, neighbours)) + 0.3
    # wide enough for the title over a single column
    size = (max(6.5, label_width + column_width * columns + 1.0), 1.5 + 0.44 * rows)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    # from 0, so that the colour means the same in every picture
    image = axes.imshow(cosines, cmap="viridis", vmin=min(0.0, cosines.min()), vmax=1.0, aspect="auto")
    for row, seen in enumerate(neighbours.values()):
        for column, (name, cosine) in enumerate(seen):
            colour = "black" if cosine > 0.6 else "white"
            axes.text(column, row, f"{literal(name)}\n{cosine:.2f}", ha="center", va="center", color=colour, fontsize=8)
    axes.set_xticks(range(columns), [f"{rank + 1}" for rank in range(columns)])
    axes.set_yticks(range(rows), [f"{literal(name)} ★" for name in neighbours])
    axes.set_xlabel("seen classes, the nearest first")
    axes.set_ylabel("★ unseen class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # white lines between the cells
    axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, label="cosine", shrink=min(1.0, 3 / (0.44 * rows)))
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure
