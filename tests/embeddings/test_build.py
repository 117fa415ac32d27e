"""Reading text vectors, and tables made from them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sign_zs3.embeddings import WordVectors, build_table, canonical, read_vectors, resolve, words_of
from sign_zs3.embeddings.spelling import near_spellings
from sign_zs3.embeddings.stream import Vector
from sign_zs3.errors import UserError

GLOVE = "the 0.1 0.2 0.3\ndog 1 2 3\ncat -1 -2.5 1e-3\nat name 7 8 9\ndog 4 5 6\n"


def floats(values: list[float]) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def text_of(path: Path, words: list[str]) -> Mapping[str, Vector]:
    return read_vectors(path, words).entries


class TestReading:
    def test_glove_text(self, tmp_path: Path) -> None:
        found = text_of(write(tmp_path / "glove.txt", GLOVE), ["dog", "cat", "zebra", "at name"])
        assert {word: vector.tolist() for word, vector in found.items()} == {
            "dog": [1, 2, 3],
            "cat": floats([-1, -2.5, 1e-3]).tolist(),
            "at name": [7, 8, 9],
        }
        assert all(vector.dtype == np.float32 for vector in found.values())

    def test_word2vec_text_has_a_header(self, tmp_path: Path) -> None:
        plain = text_of(write(tmp_path / "glove.txt", GLOVE), ["dog", "cat"])
        headed = text_of(write(tmp_path / "vectors.vec", f"5 3\n{GLOVE}"), ["dog", "cat"])
        assert {k: v.tolist() for k, v in headed.items()} == {k: v.tolist() for k, v in plain.items()}

    def test_trailing_space_and_windows_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "vectors.vec"
        path.write_bytes(b"2 2\r\ndog 1 2 \r\nna\xefve 3 4 \r\n")
        assert text_of(path, ["dog"])["dog"].tolist() == [1, 2]

    def test_all_of_the_file_is_checked(self, tmp_path: Path) -> None:
        path = write(tmp_path / "glove.txt", "dog 1 2\ncat 3 4\nbroken\n")
        with pytest.raises(UserError, match=r"glove\.txt: line 3 has 0 values, expected 2"):
            text_of(path, ["dog"])

    @pytest.mark.parametrize("value", ["x", "nan", "inf"])
    def test_a_value_that_is_no_number(self, value: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="line 2 has a value that is no finite number"):
            text_of(write(tmp_path / "glove.txt", f"cat 1 2\ndog 1 {value}\n"), ["dog"])

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            text_of(tmp_path / "none.txt", ["dog"])
        with pytest.raises(UserError, match="is empty"):
            text_of(write(tmp_path / "glove.txt", ""), ["dog"])


class TestBuilding:
    def test_rows_are_raw_means_found_in_each_source_by_itself(self) -> None:
        whole = {"dog": floats([2, 0]), "wall-wood": floats([8, 8])}
        words = {"dog": floats([1]), "wall": floats([2]), "wood": floats([4])}
        table = build_table({"word2vec": whole, "glove": words}, ["wall-wood", "dog"])
        assert table.names == ("wall-wood", "dog")
        assert table.sources["word2vec"].tolist() == [[8, 8], [2, 0]]
        assert table.sources["glove"].tolist() == [[3], [1]]

    def test_all_missing_names_are_listed(self) -> None:
        with pytest.raises(UserError, match=r"source 'glove': no vector for 2 of 3 names: 'dgo', close: dog; 'zebra'"):
            build_table({"glove": {"dog": floats([1])}}, ["dog", "dgo", "zebra"])

    def test_words_of_is_enough_to_find_the_names(self, tmp_path: Path) -> None:
        names = ["pottedplant", "wall-wood", "aeroplane", "Dog"]
        assert {"potted", "plant", "wall", "wood", "airplane", "aeroplane", "dog"} <= set(words_of(names))
        text = "potted 1 2\nplant 3 4\nwall 5 6\nwood 7 8\nairplane 9 1\ndog 2 3\n"
        vectors = text_of(write(tmp_path / "glove.txt", text), words_of(names))
        assert build_table({"glove": vectors}, names).sources["glove"].tolist() == [[2, 3], [6, 7], [9, 1], [2, 3]]

    def test_names_that_one_source_alone_lacks(self, caplog: pytest.LogCaptureFixture) -> None:
        sources = {
            "fasttext": WordVectors({"dog": floats([1, 2]), "cow": floats([3, 4])}, origin="a.vec"),
            "word2vec": WordVectors({"dog": floats([5]), "sky": floats([0])}, near=["cows"], origin="b.bin"),
        }
        message = (
            r"^source 'fasttext' \(a.vec\): no vector for 1 of 3 names: 'sky', nothing close. "
            r"source 'word2vec' \(b.bin\): no vector for 2 of 3 names: 'cow', close: cows; 'sky' \(its vector is "
            r"zero\). "
            r"Rename these classes, or leave them out"
        )
        with pytest.raises(UserError, match=message):
            build_table(sources, ["dog", "cow", "sky"])
        table = build_table(sources, ["dog", "cow", "sky"], missing="drop")
        assert table.names == ("dog",)
        assert [matrix.tolist() for matrix in table.sources.values()] == [[[1, 2]], [[5]]]
        assert [record.message.split(":")[0] for record in caplog.records] == ["left out", "left out"]
        with pytest.raises(UserError, match="no vector for 1 of 1 names: 'cow'"):
            build_table(sources, ["cow"], missing="drop")


class TestResolving:
    VECTORS = WordVectors(
        {
            "hot": floats([1, 0]),
            "dog": floats([0, 2]),
            "hot_dog": floats([9, 9]),
            "dining_table": floats([5, 5]),
            "table": floats([4, 4]),
            "airplane": floats([3, 3]),
            "Sky": floats([1, 1]),
            "wall-wood": floats([7, 8]),
            "nothing": floats([0, 0]),
            "eyeglasses": floats([6, 6]),
            "eye": floats([1, 0]),
            "glasses": floats([0, 1]),
        },
        subwords={"dining": floats([2, 0]), "tvmonitors": floats([1, 3])},
        near=["zebras"],
    )

    @pytest.mark.parametrize(
        ("name", "kind", "entries", "subwords", "vector", "words"),
        [
            ("dog", "exact", ["dog"], [], [0, 2], "dog"),
            ("wall-wood", "exact", ["wall-wood"], [], [7, 8], "wall-wood"),
            ("hot_dog", "exact", ["hot_dog"], [], [9, 9], "hot_dog"),
            ("sky", "spelling", ["Sky"], [], [1, 1], "Sky"),
            ("aeroplane", "spelling", ["airplane"], [], [3, 3], "airplane"),
            # the mean of the words before the phrase
            ("hot dog", "words", ["hot", "dog"], [], [0.5, 1], "mean of hot, dog"),
            # the name's own words before another spelling
            ("eye glasses", "words", ["eye", "glasses"], [], [0.5, 0.5], "mean of eye, glasses"),
            # the phrase before subwords
            ("diningtable", "spelling", ["dining_table"], [], [5, 5], "dining_table"),
            ("tvmonitors", "subwords", [], ["tvmonitors"], [1, 3], "tvmonitors (by subwords)"),
            ("dining dog", "subwords", ["dog"], ["dining"], [1, 1], "mean of dog, dining (by subwords)"),
            ("table-dining-Dog", "subwords", ["table", "dog"], ["dining"], [2, 2],
             "mean of table, dog, dining (by subwords)"),
        ],
    )  # fmt: skip
    def test_kinds(
        self, name: str, kind: str, entries: list[str], subwords: list[str], vector: list[float], words: str
    ) -> None:
        (found,) = resolve(self.VECTORS, [name])
        assert (found.name, found.kind, list(found.entries), list(found.subwords)) == (name, kind, entries, subwords)
        assert str(found) == words
        row = build_table({"source": self.VECTORS}, [name]).sources["source"][0]
        np.testing.assert_allclose(row, vector, rtol=1e-6)

    @pytest.mark.parametrize(
        ("name", "hint"),
        [
            ("zebra", "'zebra', close: zebras"),
            ("hot zebra", "'hot zebra' (no zebra), close: zebras"),
            ("nothing", "'nothing' (its vector is zero)"),
        ],
    )
    def test_missing(self, name: str, hint: str) -> None:
        (found,) = resolve(self.VECTORS, [name])
        assert (found.kind, found.hint, str(found)) == ("missing", hint, "missing")

    def test_phrases_are_looked_for(self) -> None:
        assert {"dining_table", "potted_plant", "hot_dog", "hot dog"} <= set(
            words_of(["diningtable", "pottedplant", "hot dog"])
        )


def test_near_spellings_are_one_slip_away() -> None:
    near = near_spellings(["zebra", "tv"])
    assert {"zebr", "zebras", "zbera", "zabra", "xzebra", "zebbra"} <= near
    assert not {"zebrass", "zbear", "tvs"} & near


def test_canonical() -> None:
    assert canonical("Wall_Brick-other  x") == "wall brick other x"
