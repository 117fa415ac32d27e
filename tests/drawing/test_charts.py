"""Charts of scores: what is in them, rather than how they look."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch

from sign_zs3.data.splits import published_protocol
from sign_zs3.drawing import charts
from sign_zs3.drawing.figures import render


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
    classes = published_protocol("coco_stuff").classes[:count]
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


@pytest.mark.parametrize("losses", [1, 2, 6])
@pytest.mark.parametrize("label", ["SIGN", "SIGN + AST, T = 2, relative positional encoding " * 3])
def test_the_legend_of_curves_is_whole(losses: int, label: str) -> None:
    points = {f"loss{number}": [(0, 1.0), (1, 0.5)] for number in range(losses)}
    figure = charts.draw_curves({f"{label} {run}": points for run in range(5)}, "title")
    render(figure)
    box, page = figure.legends[0].get_window_extent(), figure.bbox
    assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0
    assert all(cell.get_window_extent().height > 60 and box.y1 < cell.get_window_extent().y0 for cell in figure.axes)
    assert len(figure.legends[0].get_texts()) == 5


def test_rendered_figures_are_arrays() -> None:
    figure = charts.draw_confusion(torch.eye(3), ["a", "b", "c"], 2)
    pixels = render(figure)
    width, height = (round(side) for side in figure.get_size_inches() * figure.dpi)
    assert pixels.shape == (height, width, 3) and pixels.dtype == np.uint8
    assert pixels.std() > 0
