"""Pictures of predictions: image, truth, prediction and a legend in which unseen classes are marked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sign_zs3.data.datasets.base import UNLABELLED, Sample, SegmentationDataset, class_colours
from sign_zs3.data.protocol import IGNORE_INDEX, Protocol
from sign_zs3.files import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from sign_zs3.tasks import ZeroShotTask

EXAMINED = 60
DIMMED = 0.35


def choose_examples(dataset: SegmentationDataset, count: int = 6) -> list[int]:
    """Choose test images to show, the same ones every time.

    Args:
        dataset: Test set, unseen classes labelled.
        count: How many.

    Returns:
        Indices: among the first 60 images, those with the most different unseen classes first.
    """
    unseen = set(dataset.protocol.unseen)
    ranked = []
    for index in range(min(len(dataset), EXAMINED)):
        labels = set(torch.unique(dataset[index]["mask"]).tolist())
        ranked.append((-len(labels & unseen), index))
    return sorted(index for _, index in sorted(ranked)[:count])


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
    _add_legend(
        figure, shown, protocol, "★ unseen in training; where nothing is labelled, predictions are dim and not scored"
    )
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
        [_predict(model, sample["image"]) for sample in samples],
        dataset.protocol,
    )
    with replacing(path) as beside:
        figure.savefig(beside, format="png")


@torch.no_grad()
def _predict(model: ZeroShotTask, image: Tensor) -> Tensor:
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
