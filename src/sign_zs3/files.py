"""Text files are read whatever editor wrote them; files are written beside their place and renamed."""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sign_zs3.errors import UserError

CLASS_LINE = re.compile(r"(\d+)\s*[\t:]\s*(\S.*)")
"""A line of a list of classes: id, a tab or colon, name."""


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a hidden path beside `path`; what is written there takes its place, unless an error comes first.

    Args:
        path: The file; its folder is made where it is missing.

    Raises:
        UserError: `path` is a folder, or its own folder cannot be made or written to.
    """
    check_writable(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.part")
    try:
        yield beside
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in, where they are missing.

    Raises:
        UserError: It cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{path}: this folder cannot be made ({error.strerror or line_of(error)}); name another place"
        ) from error


def check_writable(path: str | Path, *suffixes: str) -> None:
    """Refuse a file to write before the work that it is to hold.

    Args:
        path: The file.
        *suffixes: Those that its name may have; none for any.

    Raises:
        UserError: It is a folder, its own folder is read-only, or its name ends otherwise.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path}: is a folder, expected a file to write; name one in it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        raise UserError(f"{path}: cannot be written, since {parent} is a file; name another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written, since {parent} is read-only; name another place")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: cannot be written, expected a name that ends in {' or '.join(suffixes)}; rename it")


def visible_files(folder: Path) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders but hidden ones; linked folders are walked, each once.

    Args:
        folder: The folder; `Path.rglob` would leave out what it links to.
    """
    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in entered:
            # a link to a folder that was walked: its files would be there twice, or without end
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(parent, name) for name in files if not name.startswith("."))


def read_lines(path: Path, what: str, expected: str) -> list[tuple[int, str]]:
    """Reads a text file: UTF-8 or UTF-16 by its byte order mark, any line ends, blank lines left out.

    Args:
        path: The file.
        what: What a line holds, for the error.
        expected: What the file should be, for the error.

    Returns:
        Number in the file, from 1, and content of each line.

    Raises:
        UserError: The file cannot be read or holds nothing.
    """
    try:
        content = path.read_bytes()
        wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if wide else "utf-8-sig")
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({line_of(error)}), expected {expected}; put the file there"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: cannot be read ({line_of(error)}), expected {expected}; save it as UTF-8") from error
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: found no {what}, expected {expected}; fill the file or fetch it again")
    return lines


def line_of(error: Exception) -> str:
    """Puts an error of another library on one line."""
    return " ".join(str(error).split()) or type(error).__name__
