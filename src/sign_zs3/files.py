"""Text files are read whatever editor wrote them; files are written beside their place and renamed."""

from __future__ import annotations

import codecs
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
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
        UserError: `path` is a folder, its own folder cannot be made or written to, or the disk is full; an `OSError`
            is its cause where there was one.
    """
    check_writable(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.part")
    try:
        try:
            yield beside
            beside.replace(path)
        finally:
            # a name that is too long cannot be looked for either
            with suppress(OSError):
                beside.unlink(missing_ok=True)
    except OSError as error:
        reason = error.strerror or line_of(error)
        raise UserError(f"{path}: cannot be written ({reason}); make room, or name another place") from error


def other_format(found: object, known: int, otherwise: str, writer: object = None) -> str:
    """Say what to do about a file of another format than the one that is read.

    Args:
        found: What stands in the file as its format number; None: nothing.
        known: The format that this version reads.
        otherwise: What to do where no other version can be had.
        writer: The version of sign-zs3 that the file names as its writer.
    """
    if type(found) is not int:
        what = "no format number" if found is None else f"{found!r:.40} as format number"
        return f"found {what}, expected {known}: {otherwise}"
    age = "newer" if found > known else "older"
    named = f" ({writer:.40})" if isinstance(writer, str) else ""
    return (
        f"found format {found}, this version reads {known}: install the {age} sign-zs3 that wrote it{named}, or "
        f"{otherwise}"
    )


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
    # Path's own tests raise where one may not look, or a name is too long
    if os.path.isdir(path):  # noqa: PTH112
        raise UserError(f"{path}: is a folder, expected a file to write; name one in it")
    # what lies in a closed folder is not seen, and the folder is then the one that is found closed below
    parent = next(parent for parent in path.absolute().parents if os.path.lexists(parent))
    if not os.path.exists(parent):  # noqa: PTH110
        raise UserError(f"{path}: cannot be written, since {parent} links to what is not there; name another place")
    if not parent.is_dir():
        raise UserError(f"{path}: cannot be written, since {parent} is a file; name another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise UserError(f"{path}: cannot be written, since {parent} is read-only; name another place")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{path}: cannot be written, expected a name that ends in {' or '.join(suffixes)}; rename it")


def visible_files(folder: Path, closed: Callable[[str, UserError], None] | None = None) -> Iterator[Path]:
    """Yields the files in a folder and its subfolders; linked folders are walked, each once.

    Hidden files, pipes, sockets and devices are left out.

    Args:
        folder: The folder; `Path.rglob` would leave out what it links to.
        closed: Told of each folder that cannot be opened, which is left out then, and why; None: that is an error.

    Raises:
        UserError: A folder cannot be opened.
    """

    def tell(error: OSError) -> None:
        problem = UserError(
            f"{error.filename}: this folder cannot be opened ({error.strerror}), expected one to search for files; "
            "give yourself the right to read it"
        )
        if closed is None:
            raise problem from error
        closed(str(error.filename), problem)

    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=tell):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in entered:
            # a link to a folder that was walked: its files would be there twice, or without end
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(parent, name) for name in files if not name.startswith("."))
        yield from (file for file in visible if not _is_special(file))


def _is_special(path: Path) -> bool:
    """Say whether a path is a pipe, socket or device, from which reading may wait for ever."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


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
