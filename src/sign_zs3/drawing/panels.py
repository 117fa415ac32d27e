"""Pictures of predictions, in whose legend unseen classes are marked, of scores, and of the scores of many runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sign_zs3.data.datasets.base import Sample, SegmentationDataset
from sign_zs3.drawing.colours import UNLABELLED, class_colours
from sign_zs3.files import replacing
from sign_zs3.protocol import IGNORE_INDEX, Protocol

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from sign_zs3.reports.results import Row
    from sign_zs3.tasks import ZeroShotTask

EXAMINED = 60
DIMMED = 0.35
DIM_NOTE = "★ unseen in training; where nothing is labelled, predictions are dim and not scored"


def choose_examples(dataset: SegmentationDataset, count: int = 6, indices: Sequence[int] | None = None) -> list[int]:
    """Choose images to show, the same ones every time.

    Args:
        dataset: Test set with unseen classes labelled, or another set.
        count: How many.
        indices: Which images to choose from; None: all.

    Returns:
        Indices, ascending: of 60 images spread over the set, those that show each unseen class as often as can be, or
        each seen class where unseen ones are hidden.
    """
    wanted = set(dataset.protocol.seen if dataset.hide_unseen else dataset.protocol.unseen)
    indices = range(len(dataset)) if indices is None else indices
    spread = indices[:: max(1, len(indices) // EXAMINED)]
    held = {index: wanted & set(torch.unique(dataset[index]["mask"]).tolist()) for index in spread}
    shown = dict.fromkeys(wanted, 0)
    chosen: list[int] = []
    for _ in range(min(count, len(held))):
        # a class counts for less the more often it is there already; the first of equals is taken
        best = max((i for i in held if i not in chosen), key=lambda i: (sum(1 / (1 + shown[k]) for k in held[i]), -i))
        chosen.append(best)
        for label in held[best]:
            shown[label] += 1
    return sorted(chosen)


def prediction_panel(
    images: Sequence[Tensor], truths: Sequence[Tensor], predictions: Sequence[Tensor], protocol: Protocol,
    title: str = "", confidences: Sequence[Tensor] | None = None,
) -> Figure:  # fmt: skip
    """Draw a column per image: the image, its truth, the prediction, dim where nothing is labelled; one legend below.

    Args:
        images: (3, H, W) uint8.
        truths: (H, W) int64 class indices, 255 unlabelled (drawn black).
        predictions: (H, W) int64 class indices.
        protocol: The classes; unseen ones carry a star in the legend.
        title: Of the figure.
        confidences: (H, W) float in [0, 1], drawn as heat maps in a fourth row; None: no such row.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    colours = class_colours(protocol.num_classes)
    dimmed = []
    for truth, prediction in zip(truths, predictions, strict=True):
        dimmed.append(colours[prediction.numpy()])
        dimmed[-1][truth.numpy() == IGNORE_INDEX] *= DIMMED
    rows = {
        "image": [image.permute(1, 2, 0).numpy() for image in images],
        "truth": [colours[truth.numpy()] for truth in truths],
        "prediction": dimmed,
    }
    if confidences is not None:
        rows["confidence"] = [confidence.numpy() for confidence in confidences]
    return _stack(rows, _classes_in(*truths, *predictions), protocol, DIM_NOTE, title)


def pseudo_label_panel(
    images: Sequence[Tensor], truths: Sequence[Tensor], pseudo_labels: Sequence[Tensor], weights: Sequence[Tensor],
    protocol: Protocol, title: str = "",
) -> Figure:  # fmt: skip
    """Draw a column per image: the image, its labels, the pseudo-labels and their weights; one legend below.

    Args:
        images: (3, H, W) uint8.
        truths: (H, W) int64 class indices, 255 unlabelled.
        pseudo_labels: (H, W) int64 class indices, 255 where there is none.
        weights: (H, W) float in [0, 1], of eq. 17 or of those that are kept; NaN where there is no pseudo-label.
        protocol: The classes; unseen ones carry a star in the legend.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    colours = class_colours(protocol.num_classes)
    rows = {
        "image": [image.permute(1, 2, 0).numpy() for image in images],
        "labels": [colours[truth.numpy()] for truth in truths],
        "pseudo-labels": [colours[labels.numpy()] for labels in pseudo_labels],
        "weight": [weight.numpy() for weight in weights],
    }
    return _stack(rows, _classes_in(*truths, *pseudo_labels), protocol, "★ unseen in training", title)


def _classes_in(*masks: Tensor) -> list[int]:
    return sorted({int(label) for mask in masks for label in torch.unique(mask) if label != IGNORE_INDEX})


def _stack(
    rows: Mapping[str, Sequence[Any]], shown: Sequence[int], protocol: Protocol, note: str, title: str
) -> Figure:
    """Draw named rows of pictures, one column per image; those of two axes are heat maps of numbers from 0 to 1."""
    columns = len(next(iter(rows.values())))
    maps = any(picture.ndim == 2 for pictures in rows.values() for picture in pictures)
    ratio = max(image.shape[0] / image.shape[1] for image in rows["image"])
    # the legend has six columns, and names of some 20 letters
    size = (max(7.4, 1.7 * columns + 0.6 + 0.6 * maps), 0.8 + 1.6 * min(1.0, ratio) * len(rows))
    figure = _new_figure((size[0], size[1] + 0.24 * -(-len(shown) // 6)))
    if maps:
        # with a colour bar beside all rows the layout cuts the rows' names by a few pixels
        figure.set_layout_engine("constrained", rect=(0.01, 0, 0.99, 1))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, pictures) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(label)
        for cell, picture in zip(axes[row], pictures, strict=True):
            heat: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
            drawn = cell.imshow(picture, interpolation="nearest", **heat)
            cell.set_facecolor(UNLABELLED)
            cell.set_xticks([])
            cell.set_yticks([])
        if heat:
            # it takes its room from all rows, so that the columns stay in line
            bar = figure.colorbar(
                drawn, ax=axes, shrink=1 / len(rows), anchor=(0, 1 - row / (len(rows) - 1)), aspect=12
            )
            bar.ax.tick_params(labelsize=7)
    _add_legend(figure, shown, protocol, note)
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def contact_sheet(samples: Sequence[Sample], protocol: Protocol, title: str = "", pairs: int = 3) -> Figure:
    """Draw samples in rows, each image with its mask to the right; one legend below.

    Args:
        samples: From a `SegmentationDataset`.
        protocol: The classes; unseen ones carry a star in the legend.
        title: Of the figure.
        pairs: Samples in a row.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    pairs = min(pairs, len(samples))
    rows = -(-len(samples) // pairs)
    shown = sorted({int(c) for s in samples for c in torch.unique(s["mask"]) if c != IGNORE_INDEX})
    figure = Figure(
        figsize=(4.6 * pairs + 0.2, 2.1 * rows + 0.7 + 0.24 * -(-len(shown) // 6)), dpi=110, layout="constrained"
    )
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, 2 * pairs, squeeze=False)
    colours = class_colours(protocol.num_classes)
    for cell in axes.flat:
        cell.set_axis_off()
    for number, sample in enumerate(samples):
        row, column = divmod(number, pairs)
        image, mask = axes[row, 2 * column], axes[row, 2 * column + 1]
        image.imshow(sample["image"].permute(1, 2, 0).numpy(), interpolation="nearest")
        image.set_title(literal(sample["id"]), fontsize=7, loc="left")
        mask.imshow(colours[sample["mask"].numpy()], interpolation="nearest")
    _add_legend(figure, shown, protocol, "★ unseen class")
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def save_panel(path: Path, model: ZeroShotTask, dataset: SegmentationDataset, count: int = 6) -> None:
    """Label a few test images and write the panel as PNG, beside its place first.

    Args:
        path: The file.
        model: A built task.
        dataset: Test set.
        count: How many images.
    """
    samples = [dataset[index] for index in choose_examples(dataset, count)]
    figure = prediction_panel(
        [sample["image"] for sample in samples],
        [sample["mask"] for sample in samples],
        [model.label_image(sample["image"]) for sample in samples],
        dataset.protocol,
    )
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


def comparison_panel(
    images: Sequence[Tensor], truths: Sequence[Tensor], predictions: Mapping[str, Sequence[Tensor]], protocol: Protocol,
    title: str = "",
) -> Figure:  # fmt: skip
    """Draw a row per image, as the paper's Figures 3 and 4: image, truth and a column per model; one legend below.

    Args:
        images: (3, H, W) uint8.
        truths: (H, W) int64 class indices, 255 unlabelled (drawn black).
        predictions: Label of the model -> (H, W) int64 class indices of each image.
        protocol: The classes; unseen ones carry a star in the legend.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    shown = sorted({int(c) for masks in (truths, *predictions.values()) for m in masks for c in torch.unique(m)
                    if c != IGNORE_INDEX})  # fmt: skip
    headings = ["image", "truth", *(_wrapped(label, 20) for label in predictions)]
    # wide enough for the legend
    size = (max(7.0, 1.9 * len(headings)), 1.6 * len(images) + 1.4 + 0.24 * -(-len(shown) // 6))
    figure = _new_figure(size)
    axes = figure.subplots(len(images), len(headings), squeeze=False)
    colours = class_colours(protocol.num_classes)
    for row, (image, truth) in enumerate(zip(images, truths, strict=True)):
        pictures = [image.permute(1, 2, 0).numpy(), colours[truth.numpy()]]
        for masks in predictions.values():
            predicted = colours[masks[row].numpy()]
            predicted[truth.numpy() == IGNORE_INDEX] *= DIMMED
            pictures.append(predicted)
        for column, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_axis_off()
    for column, heading in enumerate(headings):
        axes[0, column].set_title(heading, fontsize=8)
    _add_legend(figure, shown, protocol, DIM_NOTE)
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def render(figure: Figure) -> NDArray[np.uint8]:
    """Draw a figure into an array, uint8 (H, W, 3)."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def draw_confusion(confusion: Tensor, classes: Sequence[str], num_seen: int, title: str = "") -> Figure:
    """Draw a confusion matrix: a row per true class, as shares of its pixels, and a column per predicted class.

    Args:
        confusion: (C, C) counts, rows = truth.
        classes: C class names, seen ones first.
        num_seen: S; a line parts seen from unseen classes, whose names carry a star.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state; a class without a pixel has an empty row.
    """
    from matplotlib.colors import PowerNorm

    count = len(classes)
    with np.errstate(invalid="ignore"):
        shares = confusion.double().numpy() / confusion.sum(dim=1, keepdim=True).numpy()
    # small type from where numbers no longer fit
    numbered, cell = count <= 40, 0.3 if count <= 40 else 0.15
    size = 7 if count <= 40 else 6
    margin = 0.075 * max(map(len, classes)) + 0.6
    figure = _new_figure((max(5.0, cell * count + margin + 1.0), max(4.0, cell * count + margin)))
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
    axes.set_xlabel("predicted" + ("   (★ unseen in training)" if num_seen < count else ""))
    axes.set_ylabel("truth")
    figure.colorbar(picture, ax=axes, label="share of the true class's pixels", shrink=min(1.0, 4 / (cell * count)))
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def draw_vectors(
    vectors: Tensor, classes: Sequence[str], unseen: Collection[str] = (), ax: Axes | None = None
) -> tuple[Figure, Axes]:
    """Draw class vectors in the plane of their first two principal components, seen and unseen in two colours.

    Args:
        vectors: (C, W) float.
        classes: C class names.
        unseen: Names of the unseen classes.
        ax: Where to draw; None: a new figure.

    Returns:
        The figure and its axes; each axis tells its share of the variance.
    """
    points, shares = _principal_components(vectors)
    if ax is None:
        side = max(6.0, 0.9 * math.sqrt(len(classes)))
        ax = _new_figure((1.25 * side, side)).subplots()
    figure = cast("Figure", ax.figure)
    for wanted, label, colour, marker in (
        (False, "seen", "tab:blue", "o"),
        (True, "unseen", "tab:orange", "*"),
    ):
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


def starred(classes: Sequence[str], num_seen: int) -> list[str]:
    """Return the class names, those of unseen classes with a star."""
    return [name + (" ★" if label >= num_seen else "") for label, name in enumerate(classes)]


def literal(text: str) -> str:
    """Return a name for Matplotlib, which would take what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def _add_legend(figure: Figure, shown: Sequence[int], protocol: Protocol, title: str) -> None:
    from matplotlib.patches import Patch

    colours = class_colours(protocol.num_classes)
    names = starred(protocol.classes, protocol.num_seen)
    patches = [Patch(color=colours[label].tolist(), label=literal(names[label])) for label in shown]
    patches.append(Patch(color=UNLABELLED, label="unlabelled"))
    figure.legend(
        handles=patches,
        loc="outside lower center",
        ncols=min(6, len(patches)),
        fontsize=8,
        title=title,
        title_fontsize=8,
    )


# -- many runs ---------------------------------------------------------------------------------------------------------


def draw_bars(rows: Sequence[Row], title: str = "") -> Figure:
    """Draw seen, unseen and harmonic mIoU of each row in %, with the standard deviation over seeds.

    Args:
        rows: What `sign_zs3.reports.results.tabulate` returned; those without scores are left out.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    rows = [row for row in rows if row.runs]
    figure = _new_figure((max(5.0, 1.5 + 1.1 * len(rows)), 4.2))
    axes = figure.subplots()
    for number, name in enumerate(("seen", "unseen", "harmonic")):
        found = [row.scores[name] for row in rows]
        axes.bar(
            [place + 0.27 * (number - 1) for place in range(len(rows))],
            [0.0 if mean is None else 100 * mean.mean for mean in found],
            0.25,
            yerr=[0.0 if mean is None or mean.sd is None else 100 * mean.sd for mean in found],
            capsize=3,
            label=name,
        )
    labels = [_wrapped(row.label, 16) for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=8)
    axes.set_ylabel("mIoU, %")
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def draw_per_class(rows: Sequence[Row], unseen: Sequence[str] = (), title: str = "") -> Figure:
    """Draw a heat map: a line per class, a column per row of the table, IoU in % as number and colour.

    Args:
        rows: What `tabulate` returned, all of the same classes; those without scores are left out.
        unseen: Names of the unseen classes, which carry a star.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    import numpy as np

    rows = [row for row in rows if row.runs]
    names = list(rows[0].per_class)
    found = [[row.per_class[name] for row in rows] for name in names]
    values = np.array([[math.nan if v is None else 100 * v for v in line] for line in found])
    width = 1.6 + 0.09 * max(map(len, names)) + 0.85 * len(rows)
    figure = _new_figure((max(5.0, width), 1.8 + 0.19 * len(names)))
    axes = figure.subplots()
    picture = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, aspect="auto")
    for (line, column), value in np.ndenumerate(values):
        text, colour = ("-", "black") if math.isnan(value) else (f"{value:.1f}", "black" if value > 60 else "white")
        axes.text(column, line, text, ha="center", va="center", color=colour, fontsize=7)
    starred = [literal(name) + (" ★" if name in unseen else "") for name in names]
    axes.set_yticks(range(len(names)), starred, fontsize=7)
    for tick, name in zip(axes.get_yticklabels(), names, strict=True):
        tick.set_fontweight("bold" if name in unseen else "normal")
    labels = [_wrapped(row.label, 14) for row in rows]
    axes.set_xticks(range(len(rows)), labels, fontsize=7)
    axes.xaxis.tick_top()
    axes.set_xlabel("★ unseen class" if unseen else "")
    figure.colorbar(picture, ax=axes, label="IoU, %", shrink=min(1.0, 4 / (0.19 * len(names))))
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def draw_temperature(rows: Sequence[Row], title: str = "") -> Figure | None:
    """Draw the harmonic mIoU over the temperature T, with the standard deviation over seeds.

    Rows that differ in T alone make a curve; rows of self-training without annealing are lines across.

    Args:
        rows: What `sign_zs3.reports.results.tabulate` returned.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state; None where no two rows differ in T alone.
    """
    curves: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        mean = row.scores["harmonic"]
        if mean is not None and "temperature" in row.told:
            temperature = row.told["temperature"]
            label = row.label.replace(f", T = {temperature}", "")
            curves.setdefault(label, []).append((float(temperature), 100 * mean.mean, 100 * (mean.sd or 0)))
    curves = {label: sorted(points) for label, points in curves.items() if len(points) > 1}
    if not curves:
        return None
    figure = _new_figure((7.5, 4.2))
    axes = figure.subplots()
    for label, points in curves.items():
        temperatures, means, deviations = zip(*points, strict=True)
        axes.errorbar(temperatures, means, yerr=deviations, marker="o", capsize=3, label=literal(label))
    lines = [row for row in rows if row.base.endswith("+ ST") and row.scores["harmonic"] is not None]
    for number, row in enumerate(lines):
        assert row.scores["harmonic"] is not None
        level = 100 * row.scores["harmonic"].mean
        axes.axhline(level, color=f"C{len(curves) + number}", linestyle="--", label=literal(row.label))
    axes.set_xscale("log")
    ticks = sorted({point[0] for points in curves.values() for point in points})
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("temperature T")
    axes.set_ylabel("harmonic mIoU, %")
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8)
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def draw_curves(curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]], title: str = "") -> Figure:
    """Draw training losses over iterations, a frame per loss and a line per run.

    Args:
        curves: Label of the run -> name of the loss -> (iteration, value) in order, NaN where the line breaks; one
            loss at least.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    losses = list(dict.fromkeys(name for run in curves.values() for name in run))
    columns = min(3, len(losses))
    lines = -(-len(losses) // columns)
    figure = _new_figure((3.4 * columns + 0.6, 2.6 * lines + 0.6 + 0.2 * len(curves)))
    axes = figure.subplots(lines, columns, squeeze=False)
    handles: dict[str, Any] = {}
    for cell, loss in zip(axes.flat, losses, strict=False):
        for number, (label, run) in enumerate(curves.items()):
            points = run.get(loss, ())
            if points:
                line = cell.plot(*zip(*points, strict=True), color=f"C{number}", marker=".", markersize=2, linewidth=1)
                handles.setdefault(literal(label), line[0])
        cell.set_title(literal(loss), fontsize=9)
        cell.tick_params(labelsize=7)
        cell.set_xlabel("iteration", fontsize=8)
    for cell in axes.flat[len(losses) :]:
        cell.set_axis_off()
    figure.legend(list(handles.values()), list(handles), loc="outside lower center", ncols=2, fontsize=8)
    if title:
        figure.suptitle(literal(title), fontsize=10)
    return figure


def _wrapped(label: str, width: int) -> str:
    """Break a row's label into lines, but not within ``T = 2``."""
    return "\n".join(textwrap.wrap(literal(label).replace(" = ", "\u00a0=\u00a0"), width))


def _new_figure(size: tuple[float, float]) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
