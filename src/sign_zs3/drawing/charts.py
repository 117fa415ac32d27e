"""Charts as Matplotlib figures: scores of one model and of tables over many runs, and class vectors.

Unseen classes carry a star.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sign_zs3.drawing.figures import literal, new_figure, starred, wrapped

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def draw_confusion(confusion: Tensor, classes: Sequence[str], num_seen: int, title: str = "") -> Figure:
    """Draw a confusion matrix (C, C) of counts: a row per true class, as shares of its pixels, a column per prediction.

    A class without a pixel has an empty row. The first `num_seen` of the C classes are seen; a line parts them from the
    unseen ones.
    """
    from matplotlib.colors import PowerNorm

    count = len(classes)
    with np.errstate(invalid="ignore"):
        shares = confusion.double().numpy() / confusion.sum(dim=1, keepdim=True).numpy()
    # small type from where numbers no longer fit
    numbered = count <= 40
    cell, size = (0.3, 7) if numbered else (0.15, 6)
    margin = 0.075 * max(map(len, classes)) + 0.6
    figure = new_figure((max(5.0, cell * count + margin + 1.0), max(4.0, cell * count + margin)), title)
    axes = figure.subplots()
    # the root, since what a class is confused with is a few per cent each
    picture = axes.imshow(shares, cmap="viridis", norm=PowerNorm(0.5, vmin=0, vmax=1), interpolation="nearest")
    axes.set_facecolor("lightgrey")
    if numbered:
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                colour = "black" if share > 0.4 else "white"
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", color=colour, fontsize=6)
    names = [literal(name) for name in starred(classes, num_seen)]
    axes.set_xticks(range(count), names, rotation=90, fontsize=size)
    axes.set_yticks(range(count), names, fontsize=size)
    if 0 < num_seen < count:
        axes.axhline(num_seen - 0.5, color="tab:red", linewidth=1.5)
        axes.axvline(num_seen - 0.5, color="tab:red", linewidth=1.5)
    axes.set(xlabel="predicted" + ("   (★ unseen in training)" if num_seen < count else ""), ylabel="truth")
    figure.colorbar(picture, ax=axes, label="share of the true class's pixels", shrink=min(1.0, 4 / (cell * count)))
    return figure


def draw_iou(
    per_class: Mapping[str, float], seen: Sequence[int], unseen: Sequence[int], title: str, ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Draw the IoU of each class as a bar, seen and unseen ones in two colours, into `ax` or a new figure.

    `per_class` maps classes to IoUs in [0, 1], by contiguous id, NaN where a class is absent.
    """
    names, values = list(per_class), list(per_class.values())
    ax = ax or new_figure((6.0, 1.5 + 0.22 * len(names)), dpi=100).add_subplot()
    for ids, label, colour in ((seen, "seen", "tab:blue"), (unseen, "unseen", "tab:orange")):
        found = [values[i] for i in ids]
        bars = ax.barh(list(ids), np.nan_to_num(found), color=colour, label=label)
        ax.bar_label(bars, ["absent" if math.isnan(v) else f"{v:.2f}" for v in found], padding=2, fontsize=8)
    ax.set_yticks(range(len(names)), [literal(name) for name in names])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1.1), xlabel="IoU", title=title)
    ax.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return cast("Figure", ax.figure), ax


# -- many runs ---------------------------------------------------------------------------------------------------------


def draw_bars(
    labels: Sequence[str], scores: Mapping[str, Sequence[tuple[float, float | None] | None]], title: str = ""
) -> Figure:
    """Draw scores of each row of a table in %, with the standard deviation over seeds.

    `scores` maps such as ``seen`` to the mean and standard deviation of each row, fractions; None where there is none.
    """
    figure = new_figure((max(5.0, 1.5 + 1.1 * len(labels)), 4.2), title)
    axes = figure.subplots()
    for number, (name, found) in enumerate(scores.items()):
        means, deviations = np.array([score or (0.0, None) for score in found], float).T
        places = np.arange(len(labels)) + 0.27 * (number - 1)
        axes.bar(places, 100 * means, 0.25, yerr=100 * np.nan_to_num(deviations), capsize=3, label=name)
    axes.set_xticks(range(len(labels)), [wrapped(label, 16) for label in labels], fontsize=8)
    axes.set_ylabel("mIoU, %")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return figure


def draw_per_class(
    labels: Sequence[str], per_class: Mapping[str, Sequence[float | None]], unseen: Sequence[str] = (), title: str = ""
) -> Figure:
    """Draw a heat map: a line per class, a column per row of a table, IoU in % as number and colour.

    `per_class` maps a class to its IoU in each row, a fraction; None where there is none.
    """
    values = 100 * np.array(list(per_class.values()), float)
    width = 1.6 + 0.09 * max(map(len, per_class)) + 0.85 * len(labels)
    figure = new_figure((max(5.0, width), 1.8 + 0.19 * len(per_class)), title)
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        text, colour = ("-", "black") if math.isnan(value) else (f"{value:.1f}", "black" if value > 60 else "white")
        axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=7)
    names = [literal(name) + (" ★" if name in unseen else "") for name in per_class]
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for tick, name in zip(axes.get_yticklabels(), per_class, strict=True):
        tick.set_fontweight("bold" if name in unseen else "normal")
    axes.set_xticks(range(len(labels)), [wrapped(label, 14) for label in labels], fontsize=7)
    axes.xaxis.tick_top()
    axes.set_xlabel("★ unseen class" if unseen else "")
    figure.colorbar(picture, ax=axes, label="IoU, %", shrink=min(1.0, 4 / (0.19 * len(names))))
    return figure


def draw_temperature(
    curves: Mapping[str, Sequence[tuple[float, float, float | None]]], lines: Mapping[str, float], title: str = ""
) -> Figure:
    """Draw the harmonic mIoU over the temperature T, with the standard deviation over seeds.

    `curves` maps labels to (T, mean, standard deviation or None) in order of T; `lines` maps labels to means without
    annealing, drawn as lines across. All are fractions.
    """
    figure = new_figure((7.5, 4.2), title)
    axes = figure.subplots()
    for label, points in curves.items():
        temperatures, means, deviations = np.array(points, float).T
        deviations = 100 * np.nan_to_num(deviations)
        axes.errorbar(temperatures, 100 * means, yerr=deviations, marker="o", capsize=3, label=literal(label))
    for number, (label, level) in enumerate(lines.items(), len(curves)):
        axes.axhline(100 * level, color=f"C{number}", linestyle="--", label=literal(label))
    axes.set_xscale("log")
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set(xlabel="temperature T", ylabel="harmonic mIoU, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    return figure


def draw_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str = "") -> Figure:
    """Draw training losses over iterations, a frame per loss and a line per run.

    `curves` maps a run's label to a loss's name to (iteration, value) in order, NaN where the line breaks.
    """
    losses = list(dict.fromkeys(name for run in curves.values() for name in run))
    columns = min(3, len(losses))
    lines = -(-len(losses) // columns)
    width = 3.4 * columns + 0.6
    # inches of a character and of the line before it
    room, longest = int((width - 0.8) / 0.075), max(map(len, curves))
    across = 2 if 2 * longest <= room - 10 else 1
    named = {label: wrapped(label, room) for label in curves}
    below = sum(text.count("\n") + 1 for text in named.values()) / across
    figure = new_figure((width, 2.6 * lines + 0.6 + 0.2 * below), title)
    axes = figure.subplots(lines, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for cell, loss in zip(axes.flat, losses, strict=False):
        for number, (label, run) in enumerate(curves.items()):
            points = run.get(loss, ())
            if points:
                line = cell.plot(*zip(*points, strict=True), color=f"C{number}", marker=".", markersize=2, linewidth=1)
                handles.setdefault(named[label], line[0])
        cell.set_title(literal(loss), fontsize=9)
        cell.tick_params(labelsize=7)
        cell.set_xlabel("iteration", fontsize=8)
    for cell in axes.flat[len(losses) :]:
        cell.set_axis_off()
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=across, fontsize=8)
    return figure


# -- class vectors -----------------------------------------------------------------------------------------------------


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
    axes.set(xlabel="seen classes, the nearest first", ylabel="★ unseen class")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    # white lines between the cells
    axes.set_xticks(np.arange(columns - 1) + 0.5, minor=True)
    axes.set_yticks(np.arange(rows - 1) + 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    figure.colorbar(image, ax=axes, label="cosine", shrink=min(1.0, 3 / (0.44 * rows)))
    return figure
