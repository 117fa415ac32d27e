"""Pictures: what is in them, rather than how they look."""

from __future__ import annotations

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from sign_zs3 import ClassTable, ShapesDataModule, UserError
from sign_zs3.data.datasets.coco_stuff import coco_stuff_protocol
from sign_zs3.data.examples import choose_examples
from sign_zs3.drawing import charts, panels
from sign_zs3.drawing.colours import class_colours
from sign_zs3.drawing.figures import render
from sign_zs3.drawing.vectors import draw_vectors

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
    colours = class_colours(22)
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


def test_examples_show_seen_classes_where_unseen_ones_are_hidden() -> None:
    data = ShapesDataModule(train_size=12, val_size=30, test_size=4, scene_size=32)
    data.setup("fit")
    assert data.val_set is not None
    chosen = choose_examples(data.val_set, 3, range(10, 30))
    assert len(set(chosen)) == 3 and min(chosen) >= 10

    def shown(indices: list[int]) -> int:
        assert data.val_set is not None
        return len({int(label) for index in indices for label in data.val_set[index]["mask"].unique()} - {255})

    assert shown(chosen) > shown([10, 11, 12])


# -- the confusion matrix --------------------------------------------------------------------------------------------


def test_confusion_shows_shares_of_the_truth() -> None:
    counts = torch.tensor([[6, 2, 0], [0, 0, 0], [1, 0, 3]])
    figure = charts.draw_confusion(counts, ["cat", "$dog$", "cow"], 2, "title")
    axes = figure.axes[0]
    shares = axes.get_images()[0].get_array()
    assert shares is not None
    assert np.allclose(shares[[0, 2]], [[0.75, 0.25, 0], [0.25, 0, 0.75]])
    assert np.ma.getmaskarray(shares)[1].all() or np.isnan(np.ma.getdata(shares)[1]).all()
    assert [text.get_text() for text in axes.texts] == ["75", "25", "25", "75"]
    names = ["cat", r"\$dog\$", "cow ★"]
    assert [text.get_text() for text in axes.get_yticklabels()] == names
    assert [text.get_text() for text in axes.get_xticklabels()] == names
    across, down = axes.get_lines()
    assert np.all(np.asarray(across.get_ydata()) == 1.5) and np.all(np.asarray(down.get_xdata()) == 1.5)


@pytest.mark.parametrize("count", [1, 21, 171])
def test_names_beside_a_confusion_matrix_do_not_meet(count: int) -> None:
    classes = coco_stuff_protocol().classes[:count]
    counts = torch.eye(count, dtype=torch.long)
    figure = charts.draw_confusion(counts, classes, count)
    render(figure)
    axes = figure.axes[0]
    assert not axes.get_lines()
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        boxes = [label.get_window_extent() for label in labels]
        assert len(boxes) == count
        assert not any(one.overlaps(other) for one, other in pairwise(boxes))
        page = figure.bbox
        assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 for box in boxes)


def test_rendered_figures_are_arrays() -> None:
    figure = charts.draw_confusion(torch.eye(3), ["a", "b", "c"], 2)
    pixels = render(figure)
    width, height = (round(side) for side in figure.get_size_inches() * figure.dpi)
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    assert pixels.std() > 0


# -- class vectors ---------------------------------------------------------------------------------------------------


def points_of(figure: Figure) -> Any:
    return np.concatenate([np.asarray(points.get_offsets()) for points in figure.axes[0].collections])


def test_vectors_in_a_plane_keep_their_distances() -> None:
    draw = torch.Generator().manual_seed(0)
    flat = torch.randn(7, 2, generator=draw, dtype=torch.float64)
    turned, _ = torch.linalg.qr(torch.randn(5, 5, generator=draw, dtype=torch.float64))
    vectors = flat @ turned[:2] + 3
    figure, axes = draw_vectors(vectors, list("abcdefg"), "g")
    points = torch.as_tensor(points_of(figure))
    torch.testing.assert_close(torch.cdist(points, points), torch.cdist(flat, flat))
    # the first axis holds most
    assert points[:, 0].var() > points[:, 1].var()
    share = 100 * points[:, 0].var() / points.var(dim=0).sum()
    assert f"({share:.0f} % of" in axes.get_xlabel()
    # an equal table gives an equal picture
    again = torch.as_tensor(points_of(draw_vectors(vectors.clone(), list("abcdefg"), "g")[0]))
    assert torch.equal(again, points)


@pytest.mark.parametrize("vectors", [torch.ones(1, 4), torch.ones(3, 4), torch.tensor([[0.0], [1.0]])])
def test_vectors_without_two_directions(vectors: torch.Tensor) -> None:
    figure, _ = draw_vectors(vectors, ["a", "b", "c"][: len(vectors)])
    assert np.isfinite(points_of(figure)).all()


def test_table_plot_of_real_vectors(tmp_path: Path) -> None:
    names = coco_stuff_protocol().classes
    unseen = names[-15:]
    figure, axes = ClassTable.bundled().plot(names, unseen, center=True)
    figure.savefig(tmp_path / "table.png")
    texts = {text.get_text(): text for text in axes.texts if isinstance(text, Annotation)}
    assert set(texts) == set(names)
    assert {name for name, text in texts.items() if text.get_color() == "tab:orange"} == set(unseen)
    boxes = [text.get_window_extent() for text in texts.values()]
    hidden = [(one, other) for one, other in combinations(boxes, 2) if one.overlaps(other)]
    assert len(hidden) <= 2
    assert len(points_of(figure)) == len(names)
    own = Figure().add_subplot()
    assert ClassTable.bundled().plot(["cat", "dog"], ["dog"], ax=own)[1] is own


def test_table_plot_refuses_what_it_does_not_draw() -> None:
    with pytest.raises(UserError, match=r"unseen: found 'cow', expected names that are among the 2 drawn"):
        ClassTable.bundled().plot(["cat", "dog"], ["cow"])
    with pytest.raises(UserError, match="no vector for 1 of 1"):
        ClassTable.bundled().plot(["qwertzuiop"])


# -- samples ---------------------------------------------------------------------------------------------------------


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
