"""Reading text vectors, and tables made from them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from sign_zs3.embeddings import build_table, canonical, read_text_vectors, words_of
from sign_zs3.errors import UserError

GLOVE = "the 0.1 0.2 0.3\ndog 1 2 3\ncat -1 -2.5 1e-3\nat name 7 8 9\ndog 4 5 6\n"


def floats(values: list[float]) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


class TestReading:
    def test_glove_text(self, tmp_path: Path) -> None:
        found = read_text_vectors(write(tmp_path / "glove.txt", GLOVE), ["dog", "cat", "zebra", "at name"])
        assert {word: vector.tolist() for word, vector in found.items()} == {
            "dog": [1, 2, 3],
            "cat": floats([-1, -2.5, 1e-3]).tolist(),
            "at name": [7, 8, 9],
        }
        assert all(vector.dtype == np.float32 for vector in found.values())

    def test_word2vec_text_has_a_header(self, tmp_path: Path) -> None:
        plain = read_text_vectors(write(tmp_path / "glove.txt", GLOVE), ["dog", "cat"])
        headed = read_text_vectors(write(tmp_path / "vectors.vec", f"5 3\n{GLOVE}"), ["dog", "cat"])
        assert {k: v.tolist() for k, v in headed.items()} == {k: v.tolist() for k, v in plain.items()}

    def test_trailing_space_and_windows_lines(self, tmp_path: Path) -> None:
        path = tmp_path / "vectors.vec"
        path.write_bytes(b"2 2\r\ndog 1 2 \r\nna\xefve 3 4 \r\n")
        assert read_text_vectors(path, ["dog"])["dog"].tolist() == [1, 2]

    def test_reading_stops_when_all_is_found(self, tmp_path: Path) -> None:
        path = write(tmp_path / "glove.txt", "dog 1 2\ncat 3 4\nbroken\n")
        assert set(read_text_vectors(path, ["dog", "cat"])) == {"dog", "cat"}
        with pytest.raises(UserError, match=r"glove\.txt: line 3 has 0 values, expected 2"):
            read_text_vectors(path, ["zebra"])

    @pytest.mark.parametrize("value", ["x", "nan", "inf"])
    def test_a_value_that_is_no_number(self, value: str, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="line 2 has a value that is no finite number"):
            read_text_vectors(write(tmp_path / "glove.txt", f"cat 1 2\ndog 1 {value}\n"), ["dog"])

    def test_missing_and_empty(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no such file"):
            read_text_vectors(tmp_path / "none.txt", ["dog"])
        with pytest.raises(UserError, match="is empty"):
            read_text_vectors(write(tmp_path / "glove.txt", ""), ["dog"])


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
        vectors = read_text_vectors(write(tmp_path / "glove.txt", text), words_of(names))
        assert build_table({"glove": vectors}, names).sources["glove"].tolist() == [[2, 3], [6, 7], [9, 1], [2, 3]]


def test_canonical() -> None:
    assert canonical("Wall_Brick-other  x") == "wall brick other x"
