"""The home folder's ``~`` in any path, wherever it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from sign_zs3.cli import main
from sign_zs3.commands.configuration import at_home
from tests.inputs.conftest import Folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder) -> Path:
    """A home folder that holds ``mine``; the program runs in another one."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def check(home: Path) -> None:
    """Nothing is called ``~``, anywhere."""
    assert not list(home.rglob("~*"))


@pytest.mark.parametrize("form", ["--data.root=~/mine", "--data.root ~/mine"])
def test_on_the_command_line(form: str, home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", "--data", "FolderDataModule", *form.split(), "--report=~/counts.json"]) == 0
    assert (home / "counts.json").is_file()
    check(home)


def test_in_a_configuration(home: Path) -> None:
    (home / "mine.yaml").write_text(
        "data: {class_path: FolderDataModule, init_args: {root: ~/mine, unseen: [cow], crop_size: 32, batch_size: 2}}\n"
        "trainer: {default_root_dir: ~/runs}\n"
        "model: {backbone: small, phases: [train], train_iterations: 1, feature_dim: 16, spatial_heads: 2}\n"
    )
    assert main(["fit", "--config=~/mine.yaml"]) == 0
    assert list((home / "runs").rglob("results.json"))
    check(home)


def test_only_where_a_string_begins() -> None:
    assert at_home("a~/b") == "a~/b" and at_home("--x=a~") == "--x=a~" and at_home(["~/a", 1])[1] == 1
    assert at_home("~/a") == str(Path.home() / "a") and at_home("--x=~/a") == f"--x={Path.home() / 'a'}"
    assert at_home("~no such user/a") == "~no such user/a"
