"""Pictures of class vectors: in a plane, and each unseen class beside its nearest seen ones."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sign_zs3.drawing.figures import literal, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_vectors(
    vectors: Tensor, classes: Sequence[str], unseen: Collection[str] = (), ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Draw class vectors in the plane of their first two principal components, seen and unseen in two colours.

    Return the figure and its axes, `ax` or new ones, each of which names its share of the variance. Of the vectors,
    (C, W) float, those of the classes in `unseen` are drawn as stars.
    """
    points, shares = _principal_components(vectors)
    if ax is None:
        side = max(6.0, 0.9 * math.sqrt(len(classes)))
        ax = new_figure((1.25 * side, side)).subplots()
    figure = cast("Figure", ax.figure)
    for wanted, label, colour, marker in ((False, "seen", "tab:blue", "o"), (True, "unseen", "tab:orange", "*")):
        chosen = [index for index, name in enumerate(classes) if (name in unseen) is wanted]
        if chosen:
            x, y = points[chosen].T
            ax.scatter(x, y, c=colour, marker=marker, s=80 if wanted else 18, label=label, zorder=2)
    ax.set_xlabel(f"first principal component ({100 * shares[0]:.0f} % of the variance)")
    ax.set_ylabel(f"second ({100 * shares[1]:.0f} %)")
    ax.margins(0.12)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _place_names(ax, points, classes, unseen)
    return figure, ax


def _principal_components(vectors: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (C, 2) coordinates and (2,) shares of the variance; each axis's largest entry is made positive."""
    centred = vectors.double().numpy()
    centred = np.pad(centred - centred.mean(axis=0), ((0, 0), (0, max(0, 2 - centred.shape[1]))))
    _, lengths, axes = np.linalg.svd(centred, full_matrices=True)
    axes = axes[:2]
    axes *= np.sign(axes[np.arange(2), np.abs(axes).argmax(axis=1)])[:, None]
    variances = np.pad(lengths, (0, 2))[:2] ** 2
    return centred @ axes.T, variances / max(float((lengths**2).sum()), np.finfo(float).tiny)


def _place_names(ax: Axes, points: NDArray[np.float64], classes: Sequence[str], unseen: Collection[str]) -> None:
    """Write each name beside its point, in the first place near it where it hides no other name and no point."""
    figure = cast("Figure", ax.figure)
    # places are in pixels, which stand once the layout is done
    figure.draw_without_rendering()
    at = ax.transData.transform(points)
    pixel = figure.dpi / 72
    inside = ax.get_window_extent()
    radius = 3 * pixel
    # (C + names placed, 4): left, bottom, right, top
    taken = np.concatenate([at - radius, at + radius], axis=1)
    # unseen ones first: they are what one looks for
    for index in sorted(range(len(classes)), key=lambda index: classes[index] not in unseen):
        name = classes[index]
        text = ax.annotate(
            literal(name), points[index], (0, 0), textcoords="offset points",
            fontsize=8 if len(classes) <= 60 else 6, color="tab:orange" if name in unseen else "black",
            fontweight="bold" if name in unseen else "normal",
        )  # fmt: skip
        # the layout has been made; names may not move it
        text.set_in_layout(False)
        extent = text.get_window_extent()
        others = np.delete(taken, index, axis=0)
        best, least = np.zeros(4), math.inf
        for distance in (7.0 if name in unseen else 5.0, 10.0, 16.0, 24.0, 34.0):
            for turn in range(16):
                dx, dy = math.cos(math.pi * turn / 8), math.sin(math.pi * turn / 8)
                # the name's near corner, or the middle of its near side, stands on the ray
                left = at[index, 0] + distance * pixel * dx + extent.width * (dx - 1) / 2
                bottom = at[index, 1] + distance * pixel * dy + extent.height * (dy - 1) / 2
                box = np.array([left, bottom, left + extent.width, bottom + extent.height])
                overlap = _overlap(box, others).sum() + extent.width * extent.height
                overlap -= _overlap(box, np.array([inside.extents]))[0]
                if overlap < least - 1e-6:
                    best, least = box, overlap
            if least <= 1e-6:
                break
        text.set_position(((best[0] - at[index, 0]) / pixel, (best[1] - at[index, 1]) / pixel))
        taken = np.concatenate([taken, best[None]])
        near = np.clip(at[index], best[:2], best[2:])
        if np.linalg.norm(near - at[index]) > 8 * pixel:
            ends = ax.transData.inverted().transform([at[index], near])
            ax.plot(*ends.T, color="grey", linewidth=0.5, zorder=1, scalex=False, scaley=False)


def _overlap(box: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the areas that a box (4,) shares with others (n, 4), each left, bottom, right, top."""
    sides = np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2])
    return np.asarray(sides.clip(min=0).prod(axis=1))


def draw_nearest(neighbours: Mapping[str, Sequence[tuple[str, float]]], title: str = "") -> Figure:
    """Draw a row per unseen class: its nearest seen classes and their cosines, the nearest first."""
    cosines = np.array([[cosine for _, cosine in row] for row in neighbours.values()])
    rows, columns = cosines.shape
    longest = max(len(name) for row in neighbours.values() for name, _ in row)
    column_width = max(1.0, 0.085 * longest + 0.2)
    label_width = 0.1 * max(map(len, neighbours)) + 0.3
    # wide enough for the title over a single column
    size = (max(6.5, label_width + column_width * columns + 1.0), 1.5 + 0.44 * rows)
    figure = new_figure(size, title, dpi=130)
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
    return figure
