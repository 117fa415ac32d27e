"""Nearest seen classes: cosines from an independent computation, ties, refusals and the picture."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sign_zs3.drawing.charts import draw_nearest
from sign_zs3.embeddings import ClassTable, class_vectors, nearest
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol

PROTOCOL = Protocol("toy", "default", ("cat", "dog", "bus", "car", "cow", "train"), (1, 2, 3, 4, 5, 6), num_seen=4)


def test_cosines_in_order() -> None:
    vectors = torch.from_numpy(np.random.default_rng(0).normal(size=(6, 9)))
    found = nearest(vectors, PROTOCOL, 3)
    assert list(found) == ["cow", "train"]
    for unseen, row in (("cow", 4), ("train", 5)):
        expected = {
            name: float(torch.nn.functional.cosine_similarity(vectors[row], vectors[seen], dim=0))
            for seen, name in enumerate(PROTOCOL.classes[:4])
        }
        ranked = sorted(expected.items(), key=lambda pair: -pair[1])[:3]
        assert [name for name, _ in found[unseen]] == [name for name, _ in ranked]
        assert [cosine for _, cosine in found[unseen]] == pytest.approx([cosine for _, cosine in ranked])


def test_equal_ones_keep_their_order_and_length_does_not_matter() -> None:
    vectors = torch.tensor([[1.0, 0], [2, 0], [0, 3], [0, 1], [5, 0], [0, -1]])
    assert nearest(vectors, PROTOCOL, 9) == {
        "cow": [("cat", 1), ("dog", 1), ("bus", 0), ("car", 0)],
        "train": [("cat", 0), ("dog", 0), ("bus", -1), ("car", -1)],
    }


def test_what_the_bundled_vectors_mean() -> None:
    found = nearest(class_vectors("bundled", PROTOCOL.classes, True), PROTOCOL, 1)
    assert [found["cow"][0][0], found["train"][0][0]] == ["cat", "bus"]


def test_refusals() -> None:
    vectors = torch.ones(6, 2)
    with pytest.raises(UserError, match="--nearest: found 0, expected at least 1"):
        nearest(vectors, PROTOCOL, 0)
    with pytest.raises(UserError, match="toy/default: found no unseen class"):
        nearest(vectors, dataclasses.replace(PROTOCOL, num_seen=6))
    with pytest.raises(UserError, match="found 5 rows, expected one for each of the 6 classes"):
        nearest(vectors[:5], PROTOCOL)


def test_class_vectors_are_those_of_the_table(tmp_path: Path) -> None:
    names = ["cat", "dog", "bus"]
    table = ClassTable.bundled()
    assert torch.equal(class_vectors("bundled", names, True), table.vectors(names, center=True))
    path = tmp_path / "table.safetensors"
    table.save(path)
    assert torch.equal(class_vectors(str(path), names, False), table.vectors(names))


@pytest.mark.parametrize(("unseen", "count"), [(4, 5), (15, 5), (1, 1)])
def test_the_picture_has_a_cell_per_pair(unseen: int, count: int) -> None:
    neighbours = {f"unseen{u}": [(f"seen {s}", 0.9 - 0.3 * s) for s in range(count)] for u in range(unseen)}
    figure = draw_nearest(neighbours, "a title that is longer than a single column of a chart is wide")
    axes = figure.axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert len(shown) == unseen * count
    assert shown[0] == "seen 0\n0.90"
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"unseen{u} ★" for u in range(unseen)]
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    with Image.open(buffer) as picture:
        assert picture.width > 600
