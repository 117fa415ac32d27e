"""Reading word2vec, fastText and GloVe files: gensim reads the same vectors; damaged files get one line."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import struct
from pathlib import Path
from typing import Any

import gensim
import numpy as np
import pytest
from gensim.models import KeyedVectors
from gensim.models.fasttext import FastText, load_facebook_vectors, save_facebook_model

from sign_zs3.embeddings import read_vectors
from sign_zs3.embeddings.readers import read_binary, read_text
from sign_zs3.embeddings.stream import Vector, open_vectors
from sign_zs3.errors import UserError

GENSIM = Path(gensim.__file__).parent / "test" / "test_data"
NEVER = "zzzneverzzz"


def small_model() -> KeyedVectors:
    model = KeyedVectors(5)
    words = ["dog", "cat", "naïve", "hot_dog", "traffic", "light", "Straße", "犬", "other"]
    values = np.random.default_rng(0).normal(size=(len(words), 5)).astype(np.float32)
    model.add_vectors(words, values)
    return model


def assert_equal(found: dict[str, Vector], model: Any, tolerance: float = 0.0) -> None:
    assert found.keys() == model.key_to_index.keys()
    for word, vector in found.items():
        assert vector.dtype == np.float32
        np.testing.assert_allclose(vector, model[word], atol=tolerance, rtol=0)


def binary_of(path: Path, words: list[str]) -> dict[str, Vector]:
    with open_vectors(path) as file:
        return read_binary(file, words)[0]


def text_of(path: Path, words: list[str]) -> dict[str, Vector]:
    with open_vectors(path) as file:
        return read_text(file, words)[0]


def one_line(path: Path, names: list[str] | None = None) -> str:
    with pytest.raises(UserError) as refusal:
        read_vectors(path, names or ["dog", NEVER])
    message = str(refusal.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message


class TestWord2vecBinary:
    @pytest.mark.parametrize("name", ["euclidean_vectors.bin", "poincare_vectors.bin", "high_precision.kv.bin"])
    def test_gensim_reads_the_same_from_its_own_files(self, name: str) -> None:
        model = KeyedVectors.load_word2vec_format(GENSIM / name, binary=True)
        assert_equal(binary_of(GENSIM / name, [*model.index_to_key, NEVER]), model)

    def test_gensim_writes_what_is_read(self, tmp_path: Path) -> None:
        model = small_model()
        model.save_word2vec_format(tmp_path / "model.bin", binary=True)
        assert_equal(binary_of(tmp_path / "model.bin", [*model.index_to_key, NEVER]), model)
        found = read_vectors(tmp_path / "model.bin", ["Hot Dog", "traffic light", "wall-other"])
        assert set(found.entries) == {"hot_dog", "dog", "traffic", "light", "other"}
        assert found.kind == "word2vec"

    def test_the_newlines_of_the_original_program(self, tmp_path: Path) -> None:
        model = small_model()
        entries = [word.encode() + b" " + model[word].tobytes() + b"\n" for word in model.index_to_key]
        (tmp_path / "model.bin").write_bytes(b"9 5\n" + b"".join(entries))
        assert_equal(binary_of(tmp_path / "model.bin", model.index_to_key), model)

    def test_entries_across_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        model = small_model()
        model.save_word2vec_format(tmp_path / "model.bin", binary=True)
        for block in (1, 7, 20, 23, 64):
            monkeypatch.setattr("sign_zs3.embeddings.stream.BLOCK", block)
            assert_equal(binary_of(tmp_path / "model.bin", [*model.index_to_key, NEVER]), model)

    def test_the_first_of_two_counts(self, tmp_path: Path) -> None:
        entries = [b"dog " + struct.pack("<f", value) for value in (1.0, 2.0)]
        (tmp_path / "model.bin").write_bytes(b"2 1\n" + b"".join(entries))
        assert binary_of(tmp_path / "model.bin", ["dog"])["dog"].tolist() == [1.0]

    def test_every_cut_is_noticed(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.bin"
        small_model().save_word2vec_format(tmp_path / "model.bin", binary=True)
        content = (tmp_path / "model.bin").read_bytes()
        for length in range(1, len(content)):
            path.write_bytes(content[:length])
            one_line(path)
            path.write_bytes(gzip.compress(content[:length], 1))
            one_line(path)

    def test_what_an_error_says(self, tmp_path: Path) -> None:
        path = tmp_path / "model.bin"
        entries = [word + b" " + struct.pack("<2f", 1.0, -2.0) for word in (b"dog", b"cat", b"elephants")]
        path.write_bytes(b"3 2\n" + b"".join(entries)[:-1])
        assert "ends in entry 3 of 3: the file is cut short" in one_line(path)
        path.write_bytes(b"3 2\n" + entries[0] + b"cat " + struct.pack("<2f", 1.0, np.nan) + entries[2])
        assert "entry 2, 'cat', has a value that is no finite number" in one_line(path, ["cat"])

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            (b"1000000000 300", "which need 1,201,000,000,000 bytes, but the file has"),
            (b"3 1000000000", "the header says 3 vectors of 1000000000 numbers: expected at least one vector of 1 to"),
            (b"99999999999999999999 3", "the header says 99999999999999999999 vectors"),
            (b"0 2", "the header says 0 vectors of 2"),
            (b"2 0", "the header says 2 vectors of 0"),
            (b"2 2", "goes on after the 2 vectors of 2 numbers that its header says"),
            (b"3 1", "goes on after"),
            (b"3 3", "the file is cut short"),
        ],
    )
    @pytest.mark.parametrize("compressed", [False, True])
    def test_a_header_that_lies(self, tmp_path: Path, header: bytes, message: str, compressed: bool) -> None:
        path = tmp_path / "model.bin"
        entries = [word + b" " + struct.pack("<2f", 1.1, -2.1) for word in (b"dog", b"cat", b"cow")]
        content = header + b"\n" + b"".join(entries)
        path.write_bytes(gzip.compress(content) if compressed else content)
        assert message in one_line(path)


class TestText:
    @pytest.mark.parametrize(
        "name", ["lee_fasttext.vec", "crime-and-punishment.vec", "toy-model.vec", "word2vec_pre_kv_c"]
    )
    def test_gensim_reads_the_same_from_its_own_files(self, name: str) -> None:
        model = KeyedVectors.load_word2vec_format(GENSIM / name)
        assert_equal(text_of(GENSIM / name, [*model.index_to_key, NEVER]), model)

    # gensim leaves the file open
    @pytest.mark.filterwarnings("ignore:.*Exception ignored.*:pytest.PytestUnraisableExceptionWarning")
    @pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
    def test_glove(self, tmp_path: Path) -> None:
        model = KeyedVectors.load_word2vec_format(GENSIM / "test_glove.txt", no_header=True)
        assert_equal(text_of(GENSIM / "test_glove.txt", [*model.index_to_key, NEVER]), model)
        assert read_vectors(GENSIM / "test_glove.txt", ["the"]).kind == "glove"

    def test_gensim_writes_what_is_read(self, tmp_path: Path) -> None:
        model = small_model()
        model.save_word2vec_format(tmp_path / "model.txt", binary=False)
        content = (tmp_path / "model.txt").read_bytes()
        for variant in (
            content,
            b"\xef\xbb\xbf" + content,
            content.replace(b"\n", b"\r\n"),
            content + b"\n",
            content.rstrip(b"\n"),
            content.split(b"\n", 1)[1],
            gzip.compress(content),
        ):
            (tmp_path / "variant").write_bytes(variant)
            assert_equal(text_of(tmp_path / "variant", [*model.index_to_key, NEVER]), model, 1e-7)

    def test_words_with_spaces_and_exotic_characters(self, tmp_path: Path) -> None:
        path = tmp_path / "glove.txt"
        path.write_bytes(b"na\xefve 0.3 0.4\n. . 0.1 0.2\nat\xc2\xa0x 0.5 0.6\ndog\x0b 0.7 0.8\ndog 0.9 1.0\n")
        assert text_of(path, ["dog", ". ."])["dog"].tolist() == pytest.approx([0.9, 1.0])

    def test_cuts_are_noticed_where_a_header_says_how_much_there_is(self, tmp_path: Path) -> None:
        path = tmp_path / "cut.vec"
        small_model().save_word2vec_format(tmp_path / "model.txt", binary=False)
        content = (tmp_path / "model.txt").read_bytes()
        # a number cut in the last line is a number still
        for length in range(1, content.rindex(b" ") + 2):
            path.write_bytes(content[:length])
            one_line(path)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"dog 0.1 0.2\ncat 0.1\n", "line 2 has 1 values, expected 2"),
            (b"dog 0.1 0.2\ncat 0.1 0.2 0.3\n", "line 2 has 3 values, expected 2 as before"),
            (b"2 2\ndog 0.1 0.2\ncat 0.1\n", "line 3 has 1 values, expected 2"),
            (b"3 2\ndog 0.1 0.2\ncat 0.1 0.2\n", "holds 2 of the 3 vectors that its first line says"),
            (b"1 2\ndog 0.1 0.2\ncat 0.1 0.2\n", "holds 2 vectors, more than the 1 that its first line says"),
            (b"2 3\ndog 0.1 0.2\ncat 0.1 0.2\n", "the file is cut short or damaged"),
            (b"2 2\ndog 0.1 x\ncat 0.1 0.2\n", "line 2 has a value that is no finite number"),
            (b"dog 0.1 1e60\n", "line 1 has a value that is no finite number"),
            (b"1000000000 300\ndog" + 300 * b" 0.1" + b"\n", "line 1 says 1000000000 vectors of 300 numbers"),
            (b"1 1000000000\ndog 0.1 0.2\n", "1000000000 numbers"),
        ],
    )
    def test_damage(self, tmp_path: Path, content: bytes, message: str) -> None:
        path = tmp_path / "vectors.txt"
        path.write_bytes(content)
        assert message in one_line(path)

    def test_one_line_that_never_ends(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sign_zs3.embeddings.readers.BLOCK", 1000)
        monkeypatch.setattr("sign_zs3.embeddings.stream.VectorFile.lines.__defaults__", (1000,))
        path = tmp_path / "vectors.txt"
        path.write_bytes(b"dog 0.1 0.2\n" + 2000 * b"1")
        assert "line 2 is longer than 1000 bytes" in one_line(path)


class TestFastTextModel:
    FILES = ("lee_fasttext.bin", "lee_fasttext_new.bin", "crime-and-punishment.bin", "non_ascii_fasttext.bin",
             "cp852_fasttext.bin", "toy-model.bin", "toy-model-pretrained.bin")  # fmt: skip
    LACKING = ("landlordism", "giraffe", "naïvety", "непонимание", "x", "tvmonitor")

    @pytest.mark.parametrize("name", FILES)
    @pytest.mark.parametrize("compressed", [False, True])
    def test_gensim_reads_the_same(self, name: str, compressed: bool, tmp_path: Path) -> None:
        model = load_facebook_vectors(str(GENSIM / name))
        path = GENSIM / name
        if compressed:
            path = tmp_path / f"{name}.gz"
            path.write_bytes(gzip.compress((GENSIM / name).read_bytes(), 1))
        words = [word for word in model.index_to_key if word != "</s>" and word == word.lower().strip("_-") != ""]
        # one file is not UTF-8: gensim escapes its bytes
        words = [word for word in words if not set(word) & set("_-\\")]
        found = read_vectors(path, [*words, *self.LACKING])
        assert len(words) > 10
        assert set(words) <= set(found.entries)
        for word in words:
            np.testing.assert_allclose(found.entries[word], model[word], atol=1e-6)
        lacking = [word for word in self.LACKING if word not in model.key_to_index]
        for word in lacking:
            expected = model[word]
            if expected.any():
                np.testing.assert_allclose(found.subwords[word], expected, atol=1e-6)
        assert set(found.subwords) == {word for word in lacking if model[word].any()}
        assert found.kind == "fasttext"

    def test_fasttext_reads_the_same(self, tmp_path: Path) -> None:
        fasttext = pytest.importorskip("fasttext", reason="the fasttext package, which compiles from source")
        for name in ("lee_fasttext_new.bin", "crime-and-punishment.bin", "toy-model.bin"):
            self.check_against(fasttext.load_model(str(GENSIM / name)), GENSIM / name)
        letters = random.Random(0)
        text = [["".join(letters.choices("abcdeéß犬", k=letters.randint(1, 8))) for _ in range(10)] for _ in range(20)]
        path = tmp_path / "model.bin"
        for shortest, longest, buckets in ((1, 3, 50), (0, 0, 0), (5, 5, 50), (2, 6, 1000)):
            trained = FastText(
                text, vector_size=7, min_count=1, min_n=shortest, max_n=longest, bucket=buckets, epochs=1, workers=1
            )
            save_facebook_model(trained, str(path))
            self.check_against(fasttext.load_model(str(path)), path)

    def check_against(self, model: Any, path: Path) -> None:
        words = [word for word in model.get_words() if word != "</s>" and word == word.lower()]
        words = [word for word in words if "-" not in word and "_" not in word]
        found = read_vectors(path, [*words, *self.LACKING])
        assert len(words) > 10
        for word in words:
            np.testing.assert_allclose(found.entries[word], model.get_word_vector(word), atol=1e-6)
        known = set(model.get_words())
        for word in self.LACKING:
            if word not in known and (expected := model.get_word_vector(word)).any():
                np.testing.assert_allclose(found.subwords[word], expected, atol=1e-6)

    def test_supervised_models_are_refused_before_anything_is_loaded(self) -> None:
        message = one_line(GENSIM / "pang_lee_polarity_fasttext.bin")
        assert "is a supervised fastText model (a classifier of texts): expected word vectors" in message

    @pytest.mark.parametrize("name", ["crime-and-punishment.bin", "lee_fasttext.bin"])
    def test_cuts_are_noticed(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "cut.bin"
        content = (GENSIM / name).read_bytes()
        for length in (*range(1, 200), *range(200, len(content), 997), len(content) - 1):
            path.write_bytes(content[:length])
            one_line(path)

    @pytest.mark.parametrize("name", ["crime-and-punishment.bin", "lee_fasttext.bin"])
    def test_a_damaged_header_never_does_worse_than_one_line(self, name: str, tmp_path: Path) -> None:
        path = tmp_path / "damaged.bin"
        content = (GENSIM / name).read_bytes()
        refused = 0
        for place in range(100):
            for value in (0x00, 0x7F, 0xFF):
                for compress in (False, True) if place % 10 == 0 else (False,):
                    damaged = content[:place] + bytes([value]) + content[place + 1 :]
                    path.write_bytes(gzip.compress(damaged, 1) if compress else damaged)
                    # some values are free, such as the window
                    with contextlib.suppress(UserError):
                        refused += 1
                        read_vectors(path, ["dog", NEVER])
                        refused -= 1
        assert refused > 50

    def test_quantised(self, tmp_path: Path) -> None:
        content = bytearray((GENSIM / "crime-and-punishment.bin").read_bytes())
        # the byte before the shape of the first matrix
        place = content.index(struct.pack("<2q", 391, 5)) - 1
        assert content[place] == 0
        content[place] = 1
        path = tmp_path / "model.ftz"
        path.write_bytes(content)
        assert "is a quantised fastText model" in one_line(path)


class TestAnyFile:
    def test_missing_directory_and_empty(self, tmp_path: Path) -> None:
        assert "no such file" in one_line(tmp_path / "none.bin")
        assert "is a directory: expected a file of word vectors" in one_line(tmp_path)
        os.mkfifo(tmp_path / "pipe")
        assert "is a pipe or device" in one_line(tmp_path / "pipe")
        (tmp_path / "empty.vec").touch()
        assert "is empty" in one_line(tmp_path / "empty.vec")
        (tmp_path / "empty.vec.gz").write_bytes(gzip.compress(b""))
        assert "is of an unknown kind" in one_line(tmp_path / "empty.vec.gz")

    @pytest.mark.parametrize("name", ["lee_fasttext", "word2vec_3.3", "ft_kv_3.6.0.model.gz", "w2v-lee-v0.12.0"])
    def test_pickles_are_never_opened(self, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("a pickle was opened"))
        monkeypatch.setattr("pickle.loads", lambda *_, **__: pytest.fail("a pickle was opened"))
        assert "is a pickle (such as gensim's own .model)" in one_line(GENSIM / name)

    @pytest.mark.parametrize(
        "content", [b"\x89PNG\r\n\x1a\n" + bytes(50), b"just some words\nof a text\n", b"\0" * 200, b"a", b"\n\n"]
    )
    def test_other_kinds(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "some.file").write_bytes(content)
        assert "is of an unknown kind: expected word vectors of word2vec" in one_line(tmp_path / "some.file")

    def test_a_ready_table(self, tmp_path: Path) -> None:
        np.savez(tmp_path / "table.npz", names=np.array(["dog"]), word=np.ones((1, 2), dtype=np.float32))
        assert "is an archive such as .npz" in one_line(tmp_path / "table.npz")

    def test_damaged_gzip(self, tmp_path: Path) -> None:
        content = gzip.compress((GENSIM / "lee_fasttext.vec").read_bytes())
        path = tmp_path / "vectors.vec.gz"
        for damaged in (content[: len(content) // 2], content[:-4] + b"\0\0\0\0", content[:300] + b"\xff" * 300):
            path.write_bytes(damaged)
            assert "cannot be read (" in one_line(path)

    @pytest.mark.parametrize(
        ("name", "content", "kind"),
        [
            ("glove.6B.txt", b"dog 0.1 0.2\n", "glove"),
            ("mine.txt", b"dog 0.1 0.2\n", "glove"),
            ("mine.txt", b"1 2\ndog 0.1 0.2\n", "word2vec"),
            ("crawl-300d-2M.vec", b"1 2\ndog 0.1 0.2\n", "fasttext"),
            ("names.word2vec.vec", b"1 2\ndog 0.1 0.2\n", "word2vec"),
            ("GoogleNews-vectors-negative300.bin", b"1 2\ndog " + struct.pack("<2f", 0.1, 0.2), "word2vec"),
        ],
    )
    def test_kinds(self, name: str, content: bytes, kind: str, tmp_path: Path) -> None:
        (tmp_path / name).write_bytes(content)
        found = read_vectors(tmp_path / name, ["dog"])
        assert found.kind == kind
        assert found.entries["dog"].tolist() == pytest.approx([0.1, 0.2])

    def test_entries_a_slip_of_the_pen_away_are_noticed(self, tmp_path: Path) -> None:
        (tmp_path / "glove.txt").write_bytes(b"girafe 0.1\ngiraffe 0.2\nzebra 0.3\ndog 0.4\n")
        found = read_vectors(tmp_path / "glove.txt", ["giraffee", "dogs"])
        assert found.near == ["giraffe", "dog"]
        assert not found.entries

    @pytest.mark.parametrize("name", ["lee_fasttext.vec", "lee_fasttext.bin", "euclidean_vectors.bin"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_progress_ends_at_the_size_of_the_file(self, name: str, compressed: bool, tmp_path: Path) -> None:
        content = (GENSIM / name).read_bytes()
        path = tmp_path / name
        path.write_bytes(gzip.compress(content) if compressed else content)
        told: list[int] = []
        read_vectors(path, ["the", NEVER], told.append)
        assert min(told) >= 0
        assert sum(told) <= path.stat().st_size
        if name != "lee_fasttext.bin":
            assert sum(told) == path.stat().st_size
