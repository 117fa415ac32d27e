"""Word vectors as people have them: tabs, zip archives, gensim's collections and its KeyedVectors."""

from __future__ import annotations

import gzip
import zipfile
from pathlib import Path

import numpy as np
import pytest
from gensim.models import KeyedVectors, Word2Vec

from sign_zs3 import ClassTable
from sign_zs3.cli import main
from sign_zs3.embeddings import read_vectors
from sign_zs3.errors import UserError

WORDS = ("cow", "hot", "dog", "horse")
VALUES = np.random.default_rng(0).normal(size=(4, 5)).round(3).astype(np.float32)


def text(separator: str, header: bool = False) -> str:
    lines = [separator.join([word, *(f"{value:g}" for value in row)]) for word, row in zip(WORDS, VALUES, strict=True)]
    return "\n".join([*([separator.join(("4", "5"))] if header else []), *lines]) + "\n"


def keyed() -> KeyedVectors:
    vectors = KeyedVectors(5)
    vectors.add_vectors(list(WORDS), VALUES)
    return vectors


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_tabs(header: bool, packed: bool, tmp_path: Path) -> None:
    path = tmp_path / "vectors.txt"
    content = text("\t", header).encode()
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read_vectors(path, ["hot dog", "cow"])
    assert np.array_equal(found.entries["cow"], VALUES[0]) and np.array_equal(found.entries["dog"], VALUES[2])


def test_a_zip_archive_says_what_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "glove.6B.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("glove.6B.50d.txt", text(" "))
        archive.writestr("glove.6B.300d.txt", text(" "))
    with pytest.raises(UserError, match=r"is an archive of glove\.6B\.50d\.txt, glove\.6B\.300d\.txt: .*; unzip it"):
        read_vectors(path, ["cow"])


def test_keyed_vectors_are_a_table() -> None:
    table = ClassTable.from_keyed_vectors(keyed())
    assert table.names == WORDS and list(table.sources) == ["word2vec"]
    assert np.array_equal(table.sources["word2vec"], VALUES)
    expected = VALUES[1:3].mean(axis=0)
    found = table.vectors(["cow", "hot dog"], center=False)
    assert np.allclose(found[1], expected / np.linalg.norm(expected), atol=1e-6)


def test_a_gensim_model_is_its_vectors() -> None:
    model = Word2Vec([["cow", "horse"], ["dog", "cow"]], vector_size=4, min_count=1, seed=0, workers=1)
    table = ClassTable.from_keyed_vectors(model, "mine")
    assert set(table.names) == {"cow", "horse", "dog"} and table.sources["mine"].shape == (3, 4)


def test_other_objects_are_no_keyed_vectors() -> None:
    with pytest.raises(UserError, match="found a dict, expected gensim's KeyedVectors"):
        ClassTable.from_keyed_vectors({"cow": VALUES[0]})


@pytest.fixture
def collections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder as gensim's downloader leaves it."""
    folder = tmp_path / "gensim-data"
    for name, packed in (("word2vec-google-news-300", True), ("fasttext-wiki-news-subwords-300", False)):
        (folder / name).mkdir(parents=True)
        keyed().save_word2vec_format(str(tmp_path / "plain"), binary=packed)
        (folder / name / f"{name}.gz").write_bytes(gzip.compress((tmp_path / "plain").read_bytes()))
        # run by gensim's own load; never here
        (folder / name / "__init__.py").write_text("raise SystemExit('run')\n")
    monkeypatch.setattr("gensim.downloader.base_dir", str(folder))
    return folder


def test_both_sources_of_the_paper_in_one_command(collections: Path, tmp_path: Path) -> None:
    sources = ["word2vec-google-news-300", "fasttext-wiki-news-subwords-300"]
    given = [part for name in sources for part in ("--source", f"gensim:{name}")]
    assert main(["embed", "--classes", "cow,horse", *given, "--output", str(tmp_path / "table.npz")]) == 0
    table = ClassTable.load(tmp_path / "table.npz")
    assert list(table.sources) == ["fasttext", "word2vec"]
    assert all(np.allclose(matrix, VALUES[[0, 3]], atol=1e-6) for matrix in table.sources.values())


@pytest.mark.parametrize("name", ["../word2vec", "", ".hidden", "a/b"])
def test_a_collection_is_a_name(
    name: str, collections: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["embed", "--classes", "cow,", "--source", f"gensim:{name}", "--output", str(tmp_path / "t.npz")]) == 1
    assert "expected gensim: and a name such as word2vec-google-news-300" in capsys.readouterr().err


def test_without_a_network_a_download_is_one_line(
    collections: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr("gensim.downloader.load", fail)
    given = ["embed", "--classes", "cow,", "--source", "gensim:glove-twitter-25", "--output", str(tmp_path / "t.npz")]
    assert main(given) == 1
    err = capsys.readouterr().err
    assert "gensim:glove-twitter-25 cannot be fetched (no network)" in err and err.count("\n") == 1
