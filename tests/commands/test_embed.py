"""The verb embed: tables from word vectors, refusals in one line, and the neighbours that `embed show` prints."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gensim
import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sign_zs3.cli import main
from sign_zs3.commands.embed import _class_names
from sign_zs3.embeddings import ClassTable

GENSIM = Path(gensim.__file__).parent / "test" / "test_data"
SHARED = Path(__file__).parents[3] / "shared" / "data" / "embeddings"
Words = Mapping[str, tuple[float, ...]]
WORDS: Words = {"dog": (1.0, 0.0, 2.0), "hot": (0.0, 1.0, 0.0), "airplane": (-1.0, 0.5, 0.25), "cow": (3.0, 4.0, 0.0)}


def text_vectors(path: Path, words: Words = WORDS) -> str:
    lines = [f"{word} {' '.join(map(str, values))}\n" for word, values in words.items()]
    path.write_text(f"{len(words)} {len(next(iter(words.values())))}\n{''.join(lines)}", encoding="utf-8")
    return str(path)


def binary_vectors(path: Path, words: Words = WORDS) -> str:
    entries = [word.encode() + b" " + struct.pack(f"<{len(values)}f", *values) for word, values in words.items()]
    path.write_bytes(f"{len(words)} {len(next(iter(words.values())))}\n".encode() + b"".join(entries))
    return str(path)


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what must be refused; return the one line of the error."""
    assert main(["embed", *arguments]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    lines = err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize("output", ["table.npz", "table.safetensors"])
def test_a_table_of_two_sources(tmp_path: Path, capsys: pytest.CaptureFixture[str], output: str) -> None:
    word2vec = binary_vectors(tmp_path / "vectors.bin")
    fasttext = text_vectors(tmp_path / "vectors.vec", {"dog": (1.0,), "hot": (2.0,), "aeroplane": (3.0,)})
    path, report = tmp_path / output, tmp_path / "reports" / "report.json"
    arguments = ["--classes", "aeroplane, hot  dog", "--source", word2vec, "--source", fasttext]
    assert main(["embed", *arguments, "--output", str(path), "--report", str(report)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "airplane" in out
    assert "mean of hot, dog" in out
    assert f"{path} (2 names; fasttext 1, word2vec 3)" in out.replace("\n", "")
    table = ClassTable.load(path)
    assert table.names == ("aeroplane", "hot dog")
    assert list(table.sources) == ["fasttext", "word2vec"]
    np.testing.assert_array_equal(table.sources["fasttext"], [[3], [1.5]])
    np.testing.assert_array_equal(table.sources["word2vec"], [[-1, 0.5, 0.25], [0.5, 0.5, 1]])
    found = json.loads(report.read_text())
    assert found["format"] == 1
    assert found["dropped"] == []
    assert found["sources"]["fasttext"]["width"] == 1
    assert found["sources"]["word2vec"] == {
        "path": word2vec,
        "width": 3,
        "names": {
            "aeroplane": {"kind": "spelling", "entries": ["airplane"], "subwords": []},
            "hot dog": {"kind": "words", "entries": ["hot", "dog"], "subwords": []},
        },
    }
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(["reports", output, "vectors.bin", "vectors.vec"])
    first = path.read_bytes()
    assert main(["embed", *arguments, "--output", str(path), "--overwrite"]) == 0
    assert path.read_bytes() == first


def test_a_fasttext_model_composes_what_it_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = str(GENSIM / "lee_fasttext_new.bin")
    output = str(tmp_path / "table.npz")
    assert main(["embed", "--classes", "tree,zebroid tree", "--source", model, "--output", output]) == 0
    assert "zebroid (by subwords)" in " ".join(capsys.readouterr().out.replace("│", " ").split())
    expected = gensim.models.fasttext.load_facebook_vectors(model)
    mean = (expected["tree"] + expected["zebroid"]) / 2
    np.testing.assert_allclose(ClassTable.load(output).sources["fasttext"], [expected["tree"], mean], atol=1e-6)


def test_names_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    source = text_vectors(tmp_path / "vectors.txt")
    output, report = tmp_path / "table.npz", tmp_path / "report.json"
    arguments = ["--classes", "dog,zebra,cow", "--source", source, "--output", str(output)]
    line = refused(capsys, *arguments)
    assert f"source 'word2vec' ({source}): no vector for 1 of 3 names: 'zebra', nothing close" in line
    assert not output.exists()
    assert main(["embed", *arguments, "--missing", "drop", "--report", str(report)]) == 0
    assert any(record.message.startswith("left out: source 'word2vec'") for record in caplog.records)
    assert ClassTable.load(output).names == ("dog", "cow")
    found = json.loads(report.read_text())
    assert found["dropped"] == ["zebra"]
    assert found["sources"]["word2vec"]["names"]["zebra"]["kind"] == "missing"


@pytest.mark.parametrize(
    "content",
    [
        b"dog\nhot dog\n",
        b"\xef\xbb\xbfdog\r\n\r\nhot dog\r\n",
        b"1\tdog\n2\thot dog\n",
        b"0: dog\n 17: hot dog\n",
        b"0 : dog\n17 : hot dog\n",
        "1\tdog\n2\thot dog\n".encode("utf-16"),
        b"dog\nhot   dog",
    ],
)
def test_class_lists(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    assert _class_names(str(tmp_path / "classes.txt")) == ["dog", "hot dog"]


def test_class_names_on_the_command_line() -> None:
    assert _class_names("dog,") == ["dog"]
    assert _class_names("dog, hot dog,wall-wood") == ["dog", "hot dog", "wall-wood"]


@pytest.mark.parametrize(
    ("dataset", "count", "first", "last"),
    [
        ("voc", 21, "background", "tvmonitor"),
        ("pascal_context_33", 34, "background", "ceiling"),
        ("pascal_context_59", 60, "background", "wood"),
        ("coco_stuff", 171, "person", "wood"),
    ],
)
def test_data_sets(dataset: str, count: int, first: str, last: str, tmp_path: Path) -> None:
    names = _class_names(dataset)
    assert (len(names), names[0], names[-1]) == (count, first, last)
    # every name has a vector among the words of the bundled table, written as text
    bundled = ClassTable.bundled()
    words = {n: tuple(v) for n, v in zip(bundled.names, bundled.sources["glove50"].tolist(), strict=True)}
    source = text_vectors(tmp_path / "glove.txt", words)
    output = str(tmp_path / "table.npz")
    assert main(["embed", "--classes", dataset, "--source", source, "--output", output]) == 0
    torch.testing.assert_close(ClassTable.load(output).vectors(names), bundled.vectors(names, ["glove50"]))


def test_the_published_vectors_of_voc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if not SHARED.is_dir():
        pytest.skip("the published class vectors (../shared/data beside the project) are not here")
    sources = [
        *("--source", f"fasttext={SHARED / 'vectors' / 'class_names.fasttext.300d.vec'}"),
        *("--source", str(SHARED / "vectors" / "class_names.word2vec-googlenews.300d.vec")),
    ]
    output = str(tmp_path / "voc.safetensors")
    assert main(["embed", "--classes", "voc", *sources, "--output", output]) == 0
    assert "left out: background" in caplog.text
    table, published = ClassTable.load(output), ClassTable.load(SHARED / "voc.npz")
    assert table.names == published.names[1:]
    torch.testing.assert_close(table.vectors(table.names), published.vectors(table.names), atol=2e-6, rtol=0)


class TestRefusals:
    def embed(self, capsys: pytest.CaptureFixture[str], folder: Path, *source: str, classes: str = "dog,") -> str:
        given = [part for path in source for part in ("--source", path)]
        line = refused(capsys, "--classes", classes, *given, "--output", str(folder / "table.npz"))
        assert not (folder / "table.npz").exists()
        return line

    @pytest.mark.parametrize(
        ("name", "content", "message"),
        [
            ("a.bin", b"2 2\ndog " + struct.pack("<3f", 1, -2, 3), "says 2 vectors of 2 numbers, which need 18 bytes"),
            ("a.bin", b"2 2\ndog " + struct.pack("<4f", 1, -2, 3, 4), "ends in entry 2 of 2"),
            ("a.bin", b"1000000000 300\ndog " + bytes(2000), "says 1000000000 vectors of 300 numbers"),
            ("a.bin", b"1 1000000000\ndog " + bytes(2000), "says 1 vectors of 1000000000 numbers"),
            ("a.txt", b"2 2\ndog 1 2\n", "holds 1 of the 2 vectors that its first line says"),
            ("a.txt", b"dog 0.1 0.2\ncow 0.1\n", "line 2 has 1 values, expected 2"),
            ("a.txt", b"cow 0.1 0.2\ncow 0.1 0.2 0.3\n", "line 2 has 3 values, expected 2 as before"),
            ("a.txt", b"dog 0 0\n", "its vector is zero"),
            ("a.txt", b"dog 0.1 nan\n", "line 1 has a value that is no finite number"),
            ("a.txt", b"giraffe 0.1 0.2\n", "no vector for 1 of 1 names: 'dog', nothing close"),
            ("a.txt", b"dogs 0.1 0.2\n", "no vector for 1 of 1 names: 'dog', nothing close"),
            ("a.txt", b"", "is empty"),
            ("a.gz", gzip.compress(b"dog 0.1 0.2\n" * 50, mtime=0)[:-10], "cannot be read (Compressed file ended"),
            ("a.model", b"\x80\x04\x95", "is a pickle (such as gensim's own .model)"),
            ("a.bin", struct.pack("<2i", 793712314, 12), "ends in the header"),
        ],
    )
    def test_files(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: bytes, message: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        line = self.embed(capsys, tmp_path, str(tmp_path / name))
        assert message in line
        assert str(tmp_path / name) in line

    def test_files_that_are_none(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert f"{tmp_path / 'none.bin'}: no such file" in self.embed(capsys, tmp_path, str(tmp_path / "none.bin"))
        assert f"{tmp_path}: is a directory" in self.embed(capsys, tmp_path, str(tmp_path))
        supervised = str(GENSIM / "pang_lee_polarity_fasttext.bin")
        assert "is a supervised fastText model" in self.embed(capsys, tmp_path, supervised)
        assert "is a pickle" in self.embed(capsys, tmp_path, str(GENSIM / "lee_fasttext"))

    def test_two_sources_of_one_name(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        first, second = text_vectors(tmp_path / "a.txt"), text_vectors(tmp_path / "b.txt")
        line = self.embed(capsys, tmp_path, first, second)
        assert f"--source: found two called 'word2vec', {first} and {second}" in line
        assert f"give them as NAME={second}" in line
        assert "found two called 'a'" in self.embed(capsys, tmp_path, f"a={first}", f"a={second}")
        assert "the name 'names'" in self.embed(capsys, tmp_path, f"names={first}")

    @pytest.mark.parametrize(
        ("classes", "message"),
        [
            ("vco", "--classes: found 'vco', which is no file and no data set: expected one of voc, pascal_context_33"),
            ("vco", "did you mean 'voc'?"),
            ("coco-stuff", "did you mean 'coco_stuff'?"),
            ("dog", "for the one class of this name write 'dog,'"),
            (",", "found no name in ','"),
            ("dog,cow,dog", "found 'dog' twice in 'dog,cow,dog', expected each name once"),
        ],
    )
    def test_classes(self, tmp_path: Path, capsys: pytest.CaptureFixture[str], classes: str, message: str) -> None:
        assert message in self.embed(capsys, tmp_path, text_vectors(tmp_path / "a.txt"), classes=classes)

    def test_class_lists(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        source, path = text_vectors(tmp_path / "a.txt"), tmp_path / "classes.txt"
        for content, message in (
            (b"\n", "found no class name"),
            (b"caf\xe9\n", "save it as UTF-8"),
            (b"\n1\tdog\n\n2 cat\n", "found '2 cat' in line 4"),
        ):
            path.write_bytes(content)
            line = self.embed(capsys, tmp_path, source, classes=str(path))
            assert message in line
            assert str(path) in line

    def test_outputs_are_checked_before_anything_is_read(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        arguments = ["--classes", "dog,", "--source", "nowhere.bin", "--output"]
        assert "expected a name that ends in .npz or .safetensors" in refused(capsys, *arguments, "table.txt")
        assert "is a folder" in refused(capsys, *arguments, "table.npz", "--report", str(tmp_path))

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ([], "--classes, --source, --output: found none, expected a value"),
            (["--classes", "dog,"], "--source, --output: found none, expected a value"),
            (["--classes", "dog,", "--sorce", "a"], "--sorce: is no option here; did you mean '--source'?"),
            (
                ["--classes", "dog,", "--source", "a", "--output", "b", "--missing", "x"],
                "--missing: found 'x', expected one of error, drop",
            ),
        ],
    )
    def test_usage_errors_exit_with_2(
        self, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["embed", *arguments])
        assert stopped.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}")


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["embed", "--help"])
    assert stopped.value.code == 0
    out = " ".join(capsys.readouterr().out.split())
    for text in ("embed show", "id<TAB>name", "coco_stuff", "[NAME=]SOURCE", ".safetensors", "skipgram"):
        assert text in out


class TestShow:
    @pytest.fixture
    def config(self, tmp_path: Path) -> str:
        content: dict[str, Any] = {
            "trainer": {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu"},
            "data": {"class_path": "ShapesDataModule", "init_args": {"scene_size": 32}},
            "model": {"center_vectors": False},
        }
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
        return str(tmp_path / "tiny.yaml")

    def test_table_json_and_picture(self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        picture, cosines = tmp_path / "out" / "nearest.png", tmp_path / "nearest.json"
        arguments = ["--output", str(picture), "--json", str(cosines), "--nearest", "3"]
        assert main(["embed", "show", "--config", config, *arguments]) == 0
        out = capsys.readouterr().out
        assert "red square" in out
        assert "18 seen classes" in out
        found = json.loads(cosines.read_text())
        assert (found["dataset"], found["vectors"], found["center_vectors"]) == ("shapes", "bundled", False)
        assert {len(seen) for seen in found["nearest"].values()} == {3}
        vectors = ClassTable.bundled().vectors
        for unseen, seen in found["nearest"].items():
            for neighbour in seen:
                a, b = vectors([unseen])[0], vectors([neighbour["class"]])[0]
                assert neighbour["cosine"] == pytest.approx(float(a @ b), abs=1e-5)
        with Image.open(picture) as image:
            assert (image.format, image.width > 600) == ("PNG", True)
        assert not list(tmp_path.glob("**/*.part"))
        assert not (tmp_path / "runs").exists()

    def test_the_options_of_fit(
        self, config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)  # where the picture goes unless told otherwise
        table = tmp_path / "table.npz"
        ClassTable.bundled().save(table)
        options = ["--model.vectors", str(table), "--model.center_vectors", "true", "--data.unseen", "[red circle]"]
        cosines = tmp_path / "nearest.json"
        assert main(["embed", "show", "--config", config, *options, "--json", str(cosines)]) == 0
        found = json.loads(cosines.read_text())
        assert list(found["nearest"]) == ["red circle"]
        assert found["center_vectors"] is True
        assert len(found["nearest"]["red circle"]) == 5
        assert "table.npz vectors, centred" in capsys.readouterr().out
        assert (tmp_path / "nearest.png").is_file()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--nearest", "0"], "--nearest: found 0, expected at least 1"),
            (["--model.vectors", "none.npz"], "none.npz: no such file"),
            (["--data.unseen", "[blue rung]"], "unseen: found 'blue rung'"),
            (["--output", "nearest.pdf"], "nearest.pdf: cannot be written, expected a name that ends in .png"),
        ],
    )
    def test_refusals(self, config: str, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
        assert main(["embed", "show", "--config", config, *options]) == 1
        out, err = capsys.readouterr()
        assert message in err.strip().splitlines()[-1]
        assert "Traceback" not in out + err

    def test_usage_errors_exit_with_2(self, config: str) -> None:
        with pytest.raises(SystemExit) as stopped:
            main(["embed", "show", "--config", config, "--neerest", "3"])
        assert stopped.value.code == 2


def test_a_table_that_is_there_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, table = tmp_path / "words.txt", tmp_path / "table.npz"
    source.write_text("cow 1 0\ndog 0 1\n")
    command = ["embed", "--classes", "cow,dog", "--source", str(source), "--output", str(table)]
    assert main(command) == 0
    first = table.read_bytes()
    source.write_text("cow 1 2\ndog 0 1\n")
    capsys.readouterr()
    assert main(command) == 1
    assert "expected a new file" in capsys.readouterr().err and table.read_bytes() == first
    assert main([*command, "--overwrite"]) == 0
    assert table.read_bytes() != first
