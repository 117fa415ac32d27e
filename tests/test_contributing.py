"""What CONTRIBUTING.md names is there: files, names, commands; and every floor of the house is on its map."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.test_house import FLOORS

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "sign_zs3"
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CODE = "\n".join(
    file.read_text(encoding="utf-8")
    for folder in ("src", "tests", "experiments")
    for file in sorted((ROOT / folder).rglob("*"))
    if file.suffix in (".py", ".yaml") and file != Path(__file__)
)
QUOTED = sorted(set(re.findall(r"`([^`]+)`", TEXT)))
FILES = [text for text in QUOTED if re.fullmatch(r"[\w./-]+/[\w./-]*|[\w.-]+\.(?:py|md|yaml|cfg|txt)", text)]
FILES = [text for text in FILES if "NAME" not in text and text != "classes.txt"]


@pytest.mark.parametrize("path", FILES)
def test_files_are_there(path: str) -> None:
    places = [ROOT / path, SOURCE / path]
    # within a row or an item a file may stand for its folder's, as `positional.py` does after `functional/`
    assert any(place.exists() for place in places) or list(SOURCE.rglob(path)), path


@pytest.mark.parametrize("name", [text for text in QUOTED if re.fullmatch(r"[A-Za-z_]\w+", text)])
def test_names_are_there(name: str) -> None:
    assert re.search(rf"\b{name}\b", CODE), name


@pytest.mark.parametrize("command", [text for text in QUOTED if text.startswith(("make ", ".venv/bin/python -m "))])
def test_commands_are_there(command: str) -> None:
    if command.startswith("make "):
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in command.split()[1:])
        return
    words = command.split()
    if words[2] == "pytest":
        assert (ROOT / words[-1]).is_file()
    else:
        place = ROOT.joinpath(*words[2].split("."))
        assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()


def test_every_room_is_on_the_map() -> None:
    the_map = TEXT[TEXT.index("## The map") : TEXT.index("Where to look")]
    there = {path.stem for path in SOURCE.iterdir()}
    rooms = {room for rooms in FLOORS for room in rooms if room in there} - {"__main__", "_version"}
    named = set(re.findall(r"`(?:src/sign_zs3/)?(\w+)(?:/|\.py)", the_map))
    assert rooms <= named
