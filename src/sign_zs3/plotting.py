"""Pictures of predictions, in whose legend unseen classes are marked, and of the scores of many runs."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from sign_zs3.data.datasets.base import UNLABELLED, Sample, SegmentationDataset, class_colours
from sign_zs3.data.protocol import IGNORE_INDEX, Protocol
from sign_zs3.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sign_zs3.results import Row
    from sign_zs3.tasks import ZeroShotTask

EXAMINED = 60
DIMMED = 0.35
DIM_NOTE = "★ unseen in training; where nothing is labelled, predictions are dim and not scored"


def choose_examples(dataset: SegmentationDataset, count: int = 6) -> list[int]:
    """Choose test images to show, the same ones every time.

    Args:
        dataset: Test set, unseen classes labelled.
        count: How many.

    Returns:
        Indices, ascending: of 60 images spread over the set, those that show each unseen class as often as can be.
    """
    unseen = set(dataset.protocol.unseen)
    spread = range(0, len(dataset), max(1, len(dataset) // EXAMINED))
    held = {index: unseen & set(torch.unique(dataset[index]["mask"]).tolist()) for index in spread}
    shown = dict.fromkeys(unseen, 0)
    chosen: list[int] = []
    for _ in range(min(count, len(held))):
        # an unseen class counts for less the more often it is there already; the first of equals is taken
        best = max((i for i in held if i not in chosen), key=lambda i: (sum(1 / (1 + shown[k]) for k in held[i]), -i))
        chosen.append(best)
        for label in held[best]:
            shown[label] += 1
    return sorted(chosen)


def prediction_panel(
    images: Sequence[Tensor], truths: Sequence[Tensor], predictions: Sequence[Tensor], protocol: Protocol,
    title: str = "",
) -> Figure:  # fmt: skip
    """Draw a column per image: the image, its truth, the prediction, dim where nothing is labelled; one legend below.

    Args:
        images: (3, H, W) uint8.
        truths: (H, W) int64 class indices, 255 unlabelled (drawn black).
        predictions: (H, W) int64 class indices.
        protocol: The classes; unseen ones carry a star in the legend.
        title: Of the figure.

    Returns:
        A Matplotlib figure that belongs to no global state.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = sorted({int(c) for m in (*truths, *predictions) for c in torch.unique(m) if c != 255})
    legend_rows = -(-len(shown) // 6)
    columns = len(images)
    figure = Figure(figsize=(1.7 * columns + 0.6, 5.4 + 0.24 * legend_rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(3, columns, squeeze=False)
    colours = class_colours(protocol.num_classes)
    for column, (image, truth, prediction) in enumerate(zip(images, truths, predictions, strict=True)):
        predicted = colours[prediction.numpy()]
        predicted[truth.numpy() == IGNORE_INDEX] *= DIMMED
        pictures = [image.permute(1, 2, 0).numpy(), colours[truth.numpy()], predicted]
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture, interpolation="nearest")
            axes[row, column].set_xticks([])
            axes[row, column].set_yticks([])
    for row, label in enumerate(("image", "truth", "prediction")):
        axes[row, 0].set_ylabel(label)
    _add_legend(figure, shown, protocol, DIM_NOTE)
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
        [label_image(model, sample["image"]) for sample in samples],
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


@torch.no_grad()
def label_image(model: ZeroShotTask, image: Tensor) -> Tensor:
    """Label one image with the model's options of evaluation.

    Args:
        model: A built task.
        image: (3, H, W) in [0, 255].

    Returns:
        (H, W) int64 class indices, on the CPU.
    """
    was_training = model.training
    model.eval()
    labels = model.label(image.unsqueeze(0).to(model.device), (image.shape[-2], image.shape[-1]))
    model.train(was_training)
    return labels[0].cpu()


def literal(text: str) -> str:
    """Return a name for Matplotlib, which would take what stands between two dollar signs for a formula."""
    return text.replace("$", r"\$")


def _add_legend(figure: Figure, shown: Sequence[int], protocol: Protocol, title: str) -> None:
    from matplotlib.patches import Patch

    colours = class_colours(protocol.num_classes)
    patches = [
        Patch(color=colours[c].tolist(), label=literal(protocol.classes[c]) + (" ★" if c >= protocol.num_seen else ""))
        for c in shown
    ]
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
        rows: What `sign_zs3.results.tabulate` returned; those without scores are left out.
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
        rows: What `sign_zs3.results.tabulate` returned, all of the same classes; those without scores are left out.
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
        rows: What `sign_zs3.results.tabulate` returned.
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
