"""The bundled GloVe table covers the class names that the library knows; published tables load."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import torch

from sign_zs3.embeddings import ClassTable


def listed(text: str) -> list[str]:
    return text.split()


VOC = listed(
    "aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person pottedplant "
    "sheep sofa train tvmonitor"
)
CONTEXT_33 = VOC + listed("sky grass ground road building tree water mountain wall floor track keyboard ceiling")
CONTEXT_59 = VOC + listed(
    "bag bed bench book building cabinet ceiling clothes computer cup curtain door fence floor flower food grass "
    "ground keyboard light mountain mouse plate platform road rock shelves sidewalk sign sky snow bedclothes "
    "track tree truck wall water window wood"
)
MSRC = listed(
    "building grass tree cow horse sheep sky mountain aeroplane water face car bicycle flower sign bird book chair "
    "road cat dog body boat"
)
SHAPES = [
    f"{colour} {shape}"
    for colour in ("red", "green", "blue", "yellow", "purple", "orange")
    for shape in ("circle", "square", "triangle", "star", "cross", "ring", "diamond")
] + listed("sky sea lake water grass sand ceiling floor")
COCO_STUFF_UNSEEN = listed(
    "cow giraffe suitcase frisbee skateboard carrot scissors cardboard clouds grass playingfield river road tree "
    "wall-concrete"
)


@pytest.fixture(scope="module")
def bundled() -> ClassTable:
    return ClassTable.bundled()


@pytest.mark.parametrize("names", [VOC, CONTEXT_33, CONTEXT_59, MSRC, SHAPES, COCO_STUFF_UNSEEN])
def test_every_class_has_a_vector_of_its_own(names: list[str], bundled: ClassTable) -> None:
    vectors = bundled.vectors(names)
    assert vectors.shape == (len(names), 150)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(names)))
    similarity = vectors @ vectors.T - torch.eye(len(names))
    assert similarity.max() < 0.99


def test_coco_stuff(bundled: ClassTable, shared_data: Path) -> None:
    lines = (shared_data / "coco-stuff" / "labels.txt").read_text().splitlines()
    names = [line.split("\t")[1].strip() for line in lines][1:]
    assert len(names) == 182
    similarity = bundled.vectors(names) @ bundled.vectors(names).T - torch.eye(182)
    assert similarity.max() < 0.99


def test_the_sources_are_raw_words(bundled: ClassTable) -> None:
    assert {key: matrix.shape[1] for key, matrix in bundled.sources.items()} == {"glove100": 100, "glove50": 50}
    assert all(name == name.lower() and " " not in name for name in bundled.names)
    # the first figures of "dog" in glove.6B.50d and glove.6B.100d, as published
    row = bundled.names.index("dog")
    np.testing.assert_array_equal(bundled.sources["glove50"][row, :2], np.array([0.11008, -0.38781], dtype=np.float32))
    np.testing.assert_array_equal(bundled.sources["glove100"][row, :2], np.array([0.30817, 0.30938], dtype=np.float32))


def test_meaning_survives(bundled: ClassTable) -> None:
    cow, sheep, bus = bundled.vectors(["cow", "sheep", "bus"])
    assert cow @ sheep > cow @ bus + 0.2


def test_things_that_no_data_set_here_names_have_vectors(bundled: ClassTable) -> None:
    polar_bear, grizzly, kayak, canoe = bundled.vectors(["polar bear", "grizzly", "kayak", "canoe"])
    assert polar_bear @ grizzly > polar_bear @ kayak + 0.2
    assert kayak @ canoe > kayak @ grizzly + 0.2


def test_it_is_small() -> None:
    path = resources.files("sign_zs3.embeddings") / "glove.safetensors"
    assert len(path.read_bytes()) < 5_000_000


@pytest.fixture(scope="module")
def shared_data() -> Path:
    path = Path(__file__).parents[3] / "shared" / "data"
    if not path.is_dir():
        pytest.skip("the published class-vector tables (../shared/data beside the project) are not here")
    return path


class TestPublishedTables:
    def test_voc(self, shared_data: Path) -> None:
        table = ClassTable.load(shared_data / "embeddings" / "voc.npz")
        vectors = table.vectors(VOC)
        assert vectors.shape == (20, 600)
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(20))
        # Rows of unit length per source: the joined vector is fastText then word2vec, over the root of 2.
        joined = np.concatenate([table.sources["fasttext"][1:], table.sources["word2vec"][1:]], axis=1) / np.sqrt(2)
        np.testing.assert_allclose(vectors.numpy(), joined, atol=1e-6)

    def test_context_is_raw_and_normalised_here(self, shared_data: Path) -> None:
        table = ClassTable.load(shared_data / "embeddings" / "context33.npz")
        assert table.vectors(CONTEXT_33).shape == (33, 600)
        voc = ClassTable.load(shared_data / "embeddings" / "voc.npz")
        similarity = (table.vectors(["cow", "sofa"]) * voc.vectors(["cow", "sofa"])).sum(dim=1)
        torch.testing.assert_close(similarity, torch.ones(2), atol=1e-4, rtol=0)

    def test_coco_stuff_and_the_spellings_of_voc(self, shared_data: Path) -> None:
        table = ClassTable.load(shared_data / "embeddings" / "coco_stuff.npz")
        assert table.vectors([*table.names, "aeroplane", "motorbike", "tvmonitor", "diningtable"]).shape == (186, 600)
