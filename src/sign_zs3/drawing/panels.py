"""Images beside their label maps: of the data, of predictions, of pseudo-labels and of several models.

Images are (3, H, W) uint8; truths, labels and predictions (H, W) int64 class indices, 255 where there is none (drawn
dark grey). The legend of each figure names the classes that are drawn, with a star where one is unseen.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from sign_zs3.drawing.colours import UNLABELLED, Colours, protocol_colours
from sign_zs3.drawing.figures import literal, new_figure, pixels, wrapped
from sign_zs3.protocol import IGNORE_INDEX, Protocol

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

Maps: TypeAlias = Sequence[Tensor]
"""A tensor per image."""

DIMMED = 0.35
DIM_NOTE = "★ unseen in training; where nothing is labelled, predictions are dim and not scored"
LEGEND_ROWS = 14


def prediction_panel(
    images: Maps, truths: Maps, predictions: Maps, protocol: Protocol, title: str = "", confidences: Maps | None = None,
) -> Figure:  # fmt: skip
    """Draw a column per image: the image, its truth, the prediction, dim where nothing is labelled.

    `confidences`, (H, W) float in [0, 1], are heat maps in a fourth row.
    """
    colours = protocol_colours(protocol)
    rows = {
        "image": [pixels(image) for image in images],
        "truth": [colours[truth.numpy()] for truth in truths],
        "prediction": [_dimmed(*pair, colours) for pair in zip(predictions, truths, strict=True)],
    }
    if confidences is not None:
        rows["confidence"] = [confidence.numpy() for confidence in confidences]
    return _stack(rows, _classes_in(*truths, *predictions), protocol, colours, DIM_NOTE, title)


def pseudo_label_panel(
    images: Maps, truths: Maps, pseudo_labels: Maps, weights: Maps, protocol: Protocol, title: str = "",
) -> Figure:  # fmt: skip
    """Draw a column per image: the image, its labels, the pseudo-labels and their weights.

    `weights`, (H, W) float in [0, 1], are those of eq. 17 or say what is kept; NaN where there is no pseudo-label.
    """
    colours = protocol_colours(protocol)
    rows = {
        "image": [pixels(image) for image in images],
        "labels": [colours[truth.numpy()] for truth in truths],
        "pseudo-labels": [colours[labels.numpy()] for labels in pseudo_labels],
        "weight": [weight.numpy() for weight in weights],
    }
    return _stack(rows, _classes_in(*truths, *pseudo_labels), protocol, colours, "★ unseen in training", title)


def comparison_panel(
    images: Maps, truths: Maps, predictions: Mapping[str, Maps], protocol: Protocol, title: str = "",
) -> Figure:  # fmt: skip
    """Draw a row per image, as the paper's Figures 3 and 4: image, truth and a column per model, headed by its name."""
    colours = protocol_colours(protocol)
    shown = _classes_in(*truths, *(labels for model in predictions.values() for labels in model))
    headings = ["image", "truth", *(wrapped(label, 20) for label in predictions)]
    # wide enough for the legend
    figure = _panel((max(7.0, 1.9 * len(headings)), 1.6 * len(images) + 1.4), shown, protocol, colours, DIM_NOTE, title)
    axes = figure.subplots(len(images), len(headings), squeeze=False)
    for cells, image, truth, *labels in zip(axes, images, truths, *predictions.values(), strict=True):
        pictures = [pixels(image), colours[truth.numpy()], *(_dimmed(one, truth, colours) for one in labels)]
        for cell, picture in zip(cells, pictures, strict=True):
            cell.imshow(picture, interpolation="nearest")
            cell.set_axis_off()
    for cell, heading in zip(axes[0], headings, strict=True):
        cell.set_title(heading, fontsize=8)
    return figure


def contact_sheet(images: Maps, masks: Maps, names: Sequence[str], protocol: Protocol, title: str = "") -> Figure:
    """Draw three images in a row, each below its name, with its mask to the right."""
    colours = protocol_colours(protocol)
    pairs = min(3, len(images))
    rows = -(-len(images) // pairs)
    size = (4.6 * pairs + 0.2, 2.1 * rows + 0.7)
    figure = _panel(size, _classes_in(*masks), protocol, colours, "★ unseen class", title)
    cells = figure.subplots(rows, 2 * pairs, squeeze=False).flat
    for cell in cells:
        cell.set_axis_off()
    for number, (image, mask, name) in enumerate(zip(images, masks, names, strict=True)):
        left, right = cells[2 * number : 2 * number + 2]
        left.imshow(pixels(image), interpolation="nearest")
        left.set_title(literal(name), fontsize=7, loc="left")
        right.imshow(colours[mask.numpy()], interpolation="nearest")
    return figure


def sample_panel(image: Tensor, mask: Tensor, name: str, protocol: Protocol) -> Figure:
    """Draw an image, below its name, beside its mask, with a legend to the right that calls unseen classes so."""
    colours = protocol_colours(protocol)
    patches = _patches(_classes_in(mask), protocol, colours, " (unseen)", "ignored")
    legend_columns = -(-len(patches) // LEGEND_ROWS)
    figure = new_figure((7 + 2.2 * legend_columns, 4))
    # the layout may put a legend beside its axes a few pixels too far out
    figure.set_layout_engine("constrained", rect=(0, 0, 0.99, 1))
    left, right = figure.subplots(1, 2)
    left.imshow(pixels(image))
    left.set_title(literal(name))
    # without "nearest", thin parts of a large mask mix with what is around them
    right.imshow(colours[mask.numpy()], interpolation="nearest")
    right.legend(handles=patches, loc="upper left", bbox_to_anchor=(1.02, 1.0), fontsize="small", ncols=legend_columns)
    for axes in (left, right):
        axes.set_axis_off()
    return figure


def _stack(
    rows: Mapping[str, Sequence[Any]], shown: Sequence[int], protocol: Protocol, colours: Colours, note: str, title: str
) -> Figure:
    """Draw named rows of pictures, one column per image; those of two axes are heat maps of numbers from 0 to 1."""
    columns = len(next(iter(rows.values())))
    maps = any(picture.ndim == 2 for pictures in rows.values() for picture in pictures)
    ratio = max(image.shape[0] / image.shape[1] for image in rows["image"])
    # the legend has six columns, and names of some 20 characters
    size = (max(7.4, 1.7 * columns + 0.6 + 0.6 * maps), 0.8 + 1.6 * min(1.0, ratio) * len(rows))
    figure = _panel(size, shown, protocol, colours, note, title)
    if maps:
        # with a colour bar beside all rows the layout cuts the rows' names by a few pixels
        figure.set_layout_engine("constrained", rect=(0.01, 0, 0.99, 1))
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (label, pictures) in enumerate(rows.items()):
        axes[row, 0].set_ylabel(label)
        for cell, picture in zip(axes[row], pictures, strict=True):
            heat: dict[str, Any] = {"cmap": "inferno", "vmin": 0, "vmax": 1} if picture.ndim == 2 else {}
            drawn = cell.imshow(picture, interpolation="nearest", **heat)
            cell.set(facecolor=UNLABELLED, xticks=[], yticks=[])
        if heat:
            # it takes its room from all rows, so that the columns stay in line
            place = (0, 1 - row / (len(rows) - 1))
            bar = figure.colorbar(drawn, ax=axes, shrink=1 / len(rows), anchor=place, aspect=12)
            bar.ax.tick_params(labelsize=7)
    return figure


def _panel(
    size: tuple[float, float], shown: Sequence[int], protocol: Protocol, colours: Colours, note: str, title: str
) -> Figure:
    """Return a figure with a legend below of the classes that are shown, for which it is made higher."""
    figure = new_figure((size[0], size[1] + 0.24 * -(-len(shown) // 6)), title)
    patches = _patches(shown, protocol, colours, " ★", "unlabelled")
    columns = min(6, len(patches))
    figure.legend(handles=patches, loc="outside lower center", ncols=columns, fontsize=8, title=note, title_fontsize=8)
    return figure


def _patches(shown: Sequence[int], protocol: Protocol, colours: Colours, mark: str, rest: str) -> list[Patch]:
    """Return a legend's patches: of the classes that are shown, unseen ones with a mark, and of the rest."""
    from matplotlib.patches import Patch

    names = [literal(name) + (mark if i >= protocol.num_seen else "") for i, name in enumerate(protocol.classes)]
    patches = [Patch(color=colours[label], label=names[label]) for label in shown]
    return [*patches, Patch(color=UNLABELLED, label=rest)]


def _dimmed(labels: Tensor, truth: Tensor, colours: Colours) -> Colours:
    """Return the colours of predicted labels (H, W), dim where the truth is unlabelled."""
    picture: Colours = colours[labels.numpy()]
    picture[truth.numpy() == IGNORE_INDEX] *= DIMMED
    return picture


def _classes_in(*maps: Tensor) -> list[int]:
    return sorted({int(label) for labels in maps for label in torch.unique(labels)} - {IGNORE_INDEX})
