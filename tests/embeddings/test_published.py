"""The published class vectors come out of words by our rule: look up, mean of raw words, unit length.

Most published rows have unit length, so a mean of words can be checked only where the raw words are known too:
from the raw tables of Context, or, for a word that is no class (`other`), as the one vector that explains all rows
but the one that is then predicted.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from sign_zs3.embeddings import ClassTable, build_table, canonical, read_vectors, resolve
from sign_zs3.embeddings.stream import Vector

EMBEDDINGS = Path(__file__).parents[3] / "shared" / "data" / "embeddings"
pytestmark = pytest.mark.skipif(
    not EMBEDDINGS.is_dir(), reason="the published class vectors (../shared/data beside the project) are not here"
)
FILES = {"fasttext": "class_names.fasttext.300d.vec", "word2vec": "class_names.word2vec-googlenews.300d.vec"}
Raw = npt.NDArray[np.floating[Any]]


def rows(table: str, source: str) -> dict[str, Vector]:
    loaded = ClassTable.load(EMBEDDINGS / f"{table}.npz")
    return dict(zip(loaded.names, loaded.sources[source], strict=True))


def raw_words(source: str) -> dict[str, Vector]:
    found = rows("context33", source)
    return found if source == "fasttext" else rows("context59", source) | found


def cosine(first: npt.ArrayLike, second: npt.ArrayLike) -> float:
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


@pytest.mark.parametrize("table", ["voc", "coco_stuff"])
def test_word_lists_give_the_published_tables(table: str) -> None:
    published = ClassTable.load(EMBEDDINGS / f"{table}.npz")
    names = [name for name in published.names if name != "__background__"]
    built = build_table({key: read_vectors(EMBEDDINGS / "vectors" / file, names) for key, file in FILES.items()}, names)
    assert built.names == tuple(names)
    for source in FILES:
        index = [published.names.index(name) for name in names]
        cosines = [cosine(a, b) for a, b in zip(built.sources[source], published.sources[source][index], strict=True)]
        assert min(cosines) > 1 - 1e-9  # six digits are written
    torch.testing.assert_close(built.vectors(names), published.vectors(names), atol=2e-6, rtol=0)


def test_how_the_names_of_coco_stuff_are_found() -> None:
    names = ClassTable.load(EMBEDDINGS / "coco_stuff.npz").names
    for file in FILES.values():
        kinds = [found.kind for found in resolve(read_vectors(EMBEDDINGS / "vectors" / file, names), names)]
        # the lists join the words of 18 names by `_`, and lack a word of each
        assert {kind: kinds.count(kind) for kind in set(kinds)} == {"exact": 164, "spelling": 18}


def compose(words: dict[str, Vector], name: str) -> Vector:
    """Build one name with the library."""
    found: Vector = build_table({"source": words}, [name]).vectors([name])[0].numpy()
    return found


class TestMeansOfWords:
    @pytest.mark.parametrize("name", ["floor-wood", "wall-wood"])
    def test_from_raw_rows(self, name: str) -> None:
        words = {word: vector for word, vector in raw_words("word2vec").items() if word in ("floor", "wall", "wood")}
        assert cosine(compose(words, name), rows("coco_stuff", "word2vec")[name]) > 1 - 1e-9

    @pytest.mark.parametrize("source", ["fasttext", "word2vec"])
    def test_all_names_whose_words_are_rows_lie_between_these(self, source: str) -> None:
        published = rows("coco_stuff", source)
        known = published | raw_words(source)
        several = [name for name in published if len(canonical(name).split()) > 1]
        composable = [name for name in several if all(word in known for word in canonical(name).split())]
        assert len(several) == 47
        assert composable == ["floor-stone", "floor-wood", "wall-stone", "wall-wood"]
        for name in composable:
            words = np.stack([known[word] for word in canonical(name).split()], axis=1).astype(np.float64)
            weights: Raw = np.linalg.lstsq(words, published[name].astype(np.float64), rcond=None)[0]
            assert np.linalg.norm(words @ weights - published[name]) < 1e-6
            assert (weights > 0).all()

    @pytest.mark.parametrize(
        ("source", "last", "count"),
        [("word2vec", "other", 9), ("fasttext", "other", 7), ("word2vec", "tile", 3), ("fasttext", "tile", 3)],
    )
    def test_each_name_is_predicted_by_the_others_that_share_its_last_word(
        self, source: str, last: str, count: int
    ) -> None:
        published, raw = rows("coco_stuff", source), raw_words(source)
        names = [n for n in published if n.endswith(f"-{last}") and n.split("-")[0] in raw]
        assert len(names) == count
        for held_out in names:
            word = self.explain([n for n in names if n != held_out], published, raw)
            words = {held_out.split("-")[0]: raw[held_out.split("-")[0]], last: word.astype(np.float32)}
            assert cosine(compose(words, held_out), published[held_out]) > 1 - 1e-9

    @pytest.mark.parametrize(("source", "last"), [("word2vec", "stone"), ("fasttext", "stone"), ("fasttext", "wood")])
    def test_the_length_of_a_word_found_in_one_name_fits_another(self, source: str, last: str) -> None:
        published, raw = rows("coco_stuff", source), raw_words(source)
        words = np.stack([raw["floor"], published[last]], axis=1).astype(np.float64)
        weights: Raw = np.linalg.lstsq(words, published[f"floor-{last}"].astype(np.float64), rcond=None)[0]
        sized = published[last] * np.float32(weights[1] / weights[0])
        name = f"wall-{last}"
        assert cosine(compose({"wall": raw["wall"], last: sized}, name), published[name]) > 1 - 1e-9

    def explain(self, names: list[str], published: dict[str, Vector], raw: dict[str, Vector]) -> Raw:
        """Return the word w that solves length * row = head + w for all names, lengths unknown."""
        size = len(next(iter(raw.values())))
        left = np.zeros((len(names) * size, len(names) + size))
        right = np.zeros(len(names) * size)
        for number, name in enumerate(names):
            place = slice(number * size, (number + 1) * size)
            left[place, number] = published[name]
            left[place, len(names) :] = -np.eye(size)
            right[place] = raw[name.split("-")[0]]
        solution: Raw = np.linalg.lstsq(left, right, rcond=None)[0]
        return solution[len(names) :]


def test_phrases_are_no_rows_of_their_own() -> None:
    """A mean keeps close to its words; GoogleNews' own entry `hot_dog` would not be that near to `dog`."""
    for source in FILES:
        published = rows("coco_stuff", source)
        for phrase, word in (("hot dog", "dog"), ("traffic light", "light"), ("dining table", "table"),
                             ("teddy bear", "bear")):  # fmt: skip
            assert cosine(published[phrase], published[word]) > 0.7
