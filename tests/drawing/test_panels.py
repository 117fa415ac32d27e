"""Pictures: what is in them, rather than how they look."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from sign_zs3 import ShapesDataModule
from sign_zs3.drawing import panels
from sign_zs3.drawing.colours import protocol_colours

PROTOCOL = ShapesDataModule().protocol


def example(seed: int = 0) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(seed)
    truth = torch.randint(0, 18, (8, 10), generator=draw)
    truth[:3] = 255
    return {
        "image": torch.randint(0, 256, (3, 8, 10), generator=draw, dtype=torch.uint8),
        "truth": truth,
        "prediction": torch.randint(0, 22, (8, 10), generator=draw),
        "confidence": torch.rand(8, 10, generator=draw),
    }


def rows_of(figure: Figure) -> dict[str, list[Any]]:
    """Return the arrays of each row of pictures, by the row's name."""
    cells = [cell for cell in figure.axes if cell.get_label() != "<colorbar>"]
    # only the first picture of a row has a name
    columns = [bool(cell.get_ylabel()) for cell in cells].count(False) // sum(
        bool(cell.get_ylabel()) for cell in cells
    ) + 1
    return {
        cells[start].get_ylabel(): [cell.get_images()[0].get_array() for cell in cells[start : start + columns]]
        for start in range(0, len(cells), columns)
    }


def test_prediction_panel_with_confidence() -> None:
    samples = [example(seed) for seed in range(3)]
    images, truths, predictions, confidences = (
        [sample[name] for sample in samples] for name in ("image", "truth", "prediction", "confidence")
    )
    plain = rows_of(panels.prediction_panel(images, truths, predictions, PROTOCOL))
    assert list(plain) == ["image", "truth", "prediction"]
    rows = rows_of(panels.prediction_panel(images, truths, predictions, PROTOCOL, "title", confidences))
    assert list(rows) == ["image", "truth", "prediction", "confidence"]
    colours = protocol_colours(PROTOCOL)
    for column, sample in enumerate(samples):
        for name, pictures in plain.items():
            assert np.array_equal(pictures[column], rows[name][column])
        labelled = sample["truth"].numpy() != 255
        predicted = colours[sample["prediction"].numpy()]
        assert np.array_equal(rows["prediction"][column][labelled], predicted[labelled])
        assert np.allclose(rows["prediction"][column][~labelled], predicted[~labelled] * panels.DIMMED)
        assert np.array_equal(rows["confidence"][column], sample["confidence"].numpy())


def test_pseudo_label_panel_leaves_out_what_has_none() -> None:
    sample = example()
    labels = sample["prediction"].clamp(min=18)
    labels[3:] = 255
    weights = sample["confidence"].masked_fill(labels == 255, torch.nan)
    figure = panels.pseudo_label_panel([sample["image"]], [sample["truth"]], [labels], [weights], PROTOCOL)
    rows = rows_of(figure)
    assert list(rows) == ["image", "labels", "pseudo-labels", "weight"]
    shown = rows["weight"][0]
    assert np.array_equal(np.ma.getmaskarray(shown), labels.numpy() == 255)
    assert np.array_equal(shown.compressed(), weights[labels != 255].numpy())
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    there = [PROTOCOL.classes[i] for i in sorted(set(sample["truth"].unique().tolist()) - {255})]
    assert names == [*there, *(f"{PROTOCOL.classes[i]} ★" for i in range(18, 22)), "unlabelled"]


def test_a_sample_with_many_classes_has_room(tmp_path: Path) -> None:
    data = ShapesDataModule(train_size=12, val_size=4, test_size=4)
    data.setup("test")
    assert data.test_set is not None
    sample = data.test_set[0]
    sample["mask"] = torch.arange(22).repeat_interleave(64 * 64 // 22 + 1)[: 64 * 64].reshape(64, 64)
    figure = data.test_set.plot(sample)
    figure.savefig(tmp_path / "sample.png")
    left, right = figure.axes
    legend = right.get_legend()
    assert legend is not None and len(legend.get_texts()) == 23
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1
    # the pictures are as large as beside a short legend
    assert left.get_window_extent().width > 300
