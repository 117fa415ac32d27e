from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from sign_zs3 import ClassTable, load_task
from sign_zs3.cli import main
from sign_zs3.vocabulary import weigh
from tests.vocabulary.conftest import CLASSES, NEW


def test_the_verbs(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*args: str) -> tuple[int, str]:
        code = main([*args])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    for number in range(2):
        Image.new("RGB", (32, 32), (number, 9, 200)).save(tmp_path / f"{number}.png")
    first, second, third = (str(tmp_path / f"{name}.ckpt") for name in ("first", "second", "third"))
    code, out = run("extend", "--ckpt_path", checkpoint, "--classes", "zebra,giraffe", "--output", first)
    assert code == 0, out
    assert "giraffe" in out and first in out
    assert run("rename", "--ckpt_path", first, "--classes", "zebra=horse", "--output", second)[0] == 0
    assert run("remove", "--ckpt_path", second, "--classes", "sky,giraffe", "--output", third)[0] == 0
    protocol = load_task(third).protocol
    assert protocol.classes[-1] == "horse"
    assert not {"sky", "giraffe", "zebra"} & set(protocol.classes)
    for weight, factors in (("4", {"zebra": 4, "giraffe": 4}), ("giraffe=0.5, sky=2", {"giraffe": 0.5, "sky": 2})):
        more = ["--overwrite", "--weight", weight]
        assert run("extend", "--ckpt_path", checkpoint, "--classes", "zebra,giraffe", "--output", third, *more)[0] == 0
        plain, weighed = load_task(first), load_task(third)
        expected = weigh(plain, factors).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in weighed.state_dict().items())
    assert run("remove", "--ckpt_path", second, "--classes", "sky,giraffe", "--output", third, "--overwrite")[0] == 0
    images = ["--images", str(tmp_path / "0.png"), str(tmp_path / "1.png"), "--self_training_iterations", "1"]
    code, out = run("extend", "--ckpt_path", third, "--classes", "sky", "--output", second, "--overwrite", *images)
    assert code == 0, out

    (tmp_path / "no.ckpt").write_bytes(b"no checkpoint")
    new = str(tmp_path / "new.ckpt")
    zebra = ["--ckpt_path", checkpoint, "--classes", "zebra", "--output"]
    for verb, options, message in (
        ("extend", [*zebra, first], "exists, expected a new file"),
        ("extend", [*zebra, "x.pt"], "name that ends in .ckpt"),
        ("extend", ["--ckpt_path", str(tmp_path / "no.ckpt"), "--classes", "zebra", "--output", new], "no checkpoint"),
        *(
            ("extend", [*zebra, new, "--weight", text], f"--weight: found {text!r}, expected one number for all new")
            for text in ("zebra=much", "zebra=0,5", "zebra=2,zebra=3", "=3", "2,3", "zebra=2,", "")
        ),
        ("extend", [*zebra, new, "--weight", "0"], "weight: found 0.0 for 'zebra', expected a number above 0"),
        ("extend", [*zebra, new, "--weight", "zebr=2"], "found 'zebr', expected one of"),
        ("extend", [*zebra, new, "--vectors", "a", "--source", "b"], "--vectors: found beside --source"),
        ("rename", ["--ckpt_path", checkpoint, "--classes", "sky", "--output", new], "expected OLD=NEW"),
        ("rename", ["--ckpt_path", checkpoint, "--classes", "sky=a,sky=b", "--output", new], "found 'sky' twice"),
        ("remove", ["--ckpt_path", checkpoint, "--classes", "moon", "--output", new], "found 'moon', expected one of"),
        ("extend", [*zebra, new, "--images", str(tmp_path / "none")], "none is not there, or may not be read"),
    ):  # fmt: skip
        code, out = run(verb, *options)
        assert code == 1, out
        assert message in out and len(out.strip().splitlines()) == 1, out
    for wrong in (["--what"], ["--self_training_iterations", "0"]):
        with pytest.raises(SystemExit) as stopped:
            run("extend", *zebra, new, *wrong)
        assert stopped.value.code == 2
    assert not Path(new).exists()


def word_vectors(folder: Path, left_out: str = "") -> list[str]:
    """The bundled table as GloVe's files, as far as the class names need it."""
    table = ClassTable.bundled()
    words = sorted({word for name in [*CLASSES, *NEW] for word in name.split()} - {left_out})
    options = []
    for source, matrix in table.sources.items():
        rows = [" ".join([word, *map(str, matrix[table.names.index(word)].tolist())]) for word in words]
        (folder / f"{source}.txt").write_text("\n".join(rows) + "\n")
        options += ["--source", f"{source}={folder / source}.txt"]
    return options


def test_extend_from_word_vectors(checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["extend", "--ckpt_path", checkpoint, "--classes", NEW[0], "--output"]
    by_table, by_words = tmp_path / "table.ckpt", tmp_path / "words.ckpt"
    assert main([*arguments, str(by_table)]) == 0
    assert main([*arguments, str(by_words), *word_vectors(tmp_path)]) == 0
    expected, found = (torch.load(path, weights_only=True)["state_dict"] for path in (by_table, by_words))
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value)
    capsys.readouterr()
    assert main([*arguments, str(tmp_path / "new.ckpt"), *word_vectors(tmp_path, left_out="triangle")]) == 1
    error = capsys.readouterr().err
    assert "'green triangle'" in error and "; give the files that the table of the training was built from" in error
    assert not (tmp_path / "new.ckpt").exists()


def test_extend_beside_data(checkpoint: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    names = ["--ckpt_path", checkpoint, "--classes", NEW[0], "--output", str(tmp_path / "new.ckpt")]
    sizes = {"train_size": 4, "val_size": 2, "test_size": 2, "scene_size": 32}
    data = [text for key, value in sizes.items() for text in (f"--data.{key}", str(value))]
    assert main(["extend", *names, "--data", "ShapesDataModule", *data]) == 0
    assert f"taught: {NEW[0]}, from real and synthetic ones" in caplog.messages
    protocol = load_task(tmp_path / "new.ckpt").protocol
    assert protocol is not None and protocol.classes[-1] == NEW[0]
