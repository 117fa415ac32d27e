"""Class vectors in a plane."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from sign_zs3 import ClassTable, UserError
from sign_zs3.data.splits import published_protocol
from sign_zs3.drawing.charts import draw_vectors


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
    names = published_protocol("coco_stuff").classes
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
