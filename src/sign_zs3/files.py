"""Text files are read whatever editor wrote them; files are written beside their place and renamed."""

import codecs
import json
import os
import re
import unicodedata
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_DEPTH, MAX_JSON_VALUES, MAX_LEVELS, MAX_NAME, MAX_TEXT, MAX_VALUES, MAX_YAML

# a line of a list of classes: id, a tab or colon, name
CLASS_LINE = re.compile(r"(\d+)\s*[\t:]\s*(\S.*)")
# half a character, which JSON and YAML can write, but UTF-8 cannot hold
_SURROGATE = re.compile("[\ud800-\udfff]")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a hidden path beside `path`, whose folder is made; what is written there replaces `path` without an error.

    Raises:
        UserError: `path` is a folder, its own folder cannot be made or written to, or the disk is full.
    """
    check_writable(path)
    make_folder(path.parent)
    beside = path.with_name(f".{path.name}.part")
    try:
        # what an interrupted run left there may be a link to another place
        with suppress(OSError):
            beside.unlink(missing_ok=True)
        yield beside
        beside.replace(path)
    except OSError as error:
        reason = error.strerror or line_of(error)
        raise UserError(f"{path}: cannot be written ({reason}); make room, or name another place") from error
    finally:
        # a name that is too long cannot be looked for either
        with suppress(OSError):
            beside.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write plain data as JSON, see `replacing`; a number that JSON does not have is a ValueError."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def other_format(found: object, known: int, otherwise: str, writer: object = None) -> str:
    """Return what an error says of a file whose format number, None without one, is not the `known` one.

    It says what to do `otherwise`, where no other version can be had, and which version the file names as its `writer`.
    """
    if type(found) is not int or not 0 <= found < 1_000_000:
        shown = f"{found!r:.40}" if isinstance(found, str) else f"a {type(found).__name__}"
        what = "no format number" if found is None else f"{shown} as format number"
        return f"found {what}, expected {known}: {otherwise}"
    writer = f" ({' '.join(writer.split())[:40]})" if isinstance(writer, str) else ""
    install = f"install the {'newer' if found > known else 'older'} sign-zs3 that wrote it{writer}"
    return f"found format {found}, this version reads {known}: {install}, or {otherwise}"


def from_home(path: str | Path) -> str:
    """Return a path with the home folder in place of a ``~`` at its start; of nobody's home, as it is."""
    return os.path.expanduser(path)  # noqa: PTH111


def make_folder(path: Path) -> None:
    """Make a folder and those that it lies in, where they are missing; a UserError where that fails."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or line_of(error)
        raise UserError(f"{path}: this folder cannot be made ({reason}); name another place") from error


def check_writable(path: str | Path, *suffixes: str) -> None:
    """Refuse a file before the work that it is to hold: a folder, one in a closed folder, or of none of the suffixes.

    Without suffixes its name may end in anything.
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
    """Yield the files in a folder and its subfolders, but for hidden ones, pipes, sockets and devices.

    Linked folders, which `Path.rglob` would leave out, are walked, each once. `closed` is called with each folder that
    cannot be opened, and why; without it, the first one is a UserError.
    """

    def report(error: OSError) -> None:
        problem = UserError(
            f"{error.filename}: this folder cannot be opened ({error.strerror}), expected one to search for files; "
            "give yourself the right to read it"
        )
        if closed is None:
            raise problem from error
        closed(str(error.filename), problem)

    entered: set[tuple[int, int]] = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=report):
        status = Path(parent).stat()
        if (status.st_dev, status.st_ino) in entered:
            # a link to a folder that was walked: its files would be there twice, or without end
            folders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        visible = (Path(parent, name) for name in files if not name.startswith("."))
        yield from (file for file in visible if not _is_special(file))


def refuse_special(path: Path, expected: str) -> None:
    """Refuse a pipe, socket or device, from which reading may wait for ever."""
    if _is_special(path):
        raise UserError(f"{path}: is a pipe or device, expected {expected}; put a file there")


def _is_special(path: Path) -> bool:
    # Path's own tests raise where one may not look
    return not os.path.isfile(path) and os.path.exists(path) and not os.path.isdir(path)  # noqa: PTH110, PTH112, PTH113


def read_lines(path: Path, what: str, expected: str) -> list[tuple[int, str]]:
    """Return the lines of a text file that are not blank, `composed`, each with its number in the file, from 1.

    The file is UTF-8, or UTF-16 by its byte order mark. One that cannot be read, has more than `MAX_TEXT` bytes or
    holds nothing is a UserError, which says what the file was `expected` to be and `what` its lines.
    """
    content = read_content(path, MAX_TEXT, expected)
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    with refusing(f"{path}: cannot be read", f", expected {expected}; save it as UTF-8"):
        text = content.decode("utf-16" if wide else "utf-8-sig")
    lines = [(number, composed(line.strip())) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise UserError(f"{path}: found no {what}, expected {expected}; fill the file or fetch it again")
    return lines


def composed(text: str) -> str:
    """Return a text with accents joined to their letters (NFC): macOS writes file names with the two apart (NFD)."""
    return unicodedata.normalize("NFC", text)


def read_content(path: Path, limit: int, expected: str) -> bytes:
    """Read a file of at most `limit` bytes, and no pipe or device; a UserError says what was `expected`."""
    refuse_special(path, expected)
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except (OSError, ValueError) as error:
        reason = line_of(error)
        raise UserError(f"{path}: cannot be read ({reason}), expected {expected}; put the file there") from error
    if len(content) > limit:
        raise UserError(f"{path}: found more than {limit:,} bytes, expected {expected}, which needs less; shorten it")
    return content


def read_json(path: Path, expected: str) -> Any:
    """Read a JSON file of at most `MAX_TEXT` bytes and `MAX_JSON_VALUES` plain values; else a UserError."""
    content = read_content(path, MAX_TEXT, expected)
    with refusing(f"{path}: cannot be read", f", expected {expected}; write it again"):
        found = json.loads(content.decode("utf-8"))
        if fault := not_plain(found, MAX_JSON_VALUES):
            raise ValueError(f"found {fault}")
        return found


def read_yaml(path: Path, expected: str) -> Any:
    """Read a YAML file of at most `MAX_YAML` bytes; tags that would make Python objects are UserErrors.

    Memory: some 100 MB, since a file may stand for at most `MAX_VALUES` by its aliases.
    """
    return parse_yaml(read_content(path, MAX_YAML, expected), str(path), expected)


def parse_yaml(content: bytes, where: str, expected: str) -> Any:
    """Return what YAML stands for, see `read_yaml`; errors begin with `where` it is from."""
    import yaml

    with refusing(f"{where}: cannot be read", f", expected {expected}; mend it"):
        # libyaml's, where it is there, is ten times as fast
        kind = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        text = content.decode("utf-8-sig")
        # before nodes are made, since that recurses in C, which may end the process
        steps = (
            isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            for event in yaml.parse(text, kind)
        )
        if any(depth > MAX_DEPTH for depth in accumulate(steps)):
            raise ValueError(f"found lists within lists, more than {MAX_DEPTH} deep")
        loader = kind(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if (again := _key_twice(node)) is not None:
            raise ValueError(f"found the key {again.value!r:.50} a second time in line {again.start_mark.line + 1}")
        # before values are made, since a merge key copies what it names
        if _expanded(node, {}) > MAX_VALUES:
            raise ValueError(f"found aliases that stand for more than {MAX_VALUES:,} values")
        return loader.construct_document(node)


def _key_twice(root: Any) -> Any:
    """Return the node of a key that a mapping has a second time, of which YAML would drop the first; None if none."""
    rest, met = [root], set[int]()
    while rest:
        node = rest.pop()
        if id(node) in met or not isinstance(node.value, list):
            continue
        met.add(id(node))
        keys: set[tuple[str, str]] = set()
        for item in node.value:
            key, value = item if isinstance(item, tuple) else (None, item)
            # two merges are merged
            if key is not None and isinstance(key.value, str) and not key.tag.endswith(":merge"):
                if (key.tag, key.value) in keys:
                    return key
                keys.add((key.tag, key.value))
            rest.append(value)
    return None


def _expanded(node: Any, known: dict[int, int]) -> int:
    """Count the values that a YAML node stands for, those behind an alias each time."""
    if id(node) not in known:
        # met again before it is counted: it holds itself
        known[id(node)] = 1 << 40
        inside = node.value if isinstance(node.value, list) else []
        parts = [part for item in inside for part in (item if isinstance(item, tuple) else (item,))]
        known[id(node)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(node)]


def not_plain(value: Any, most: int = MAX_VALUES) -> str | None:
    """Return what keeps a value from being plain: numbers, strings and None, in lists and mappings by name.

    `most` of all of these are allowed, where each 100 characters of a string count as one. What a list or mapping holds
    twice counts twice, as it does for all that walks or prints it.

    Returns:
        Such as ``"more than 10,000 values"``; None where nothing is wrong.
    """
    rest, count = [(value, 0)], 0
    while rest:
        found, level = rest.pop()
        inside: list[Any] = []
        if level > MAX_LEVELS:
            return f"more than {MAX_LEVELS} lists or mappings in each other"
        if isinstance(found, dict):
            if not all(isinstance(key, str) for key in found):
                return "a mapping whose keys are no strings"
            inside = [*found, *found.values()]
        elif isinstance(found, (list, tuple)):
            inside = list(found)
        elif isinstance(found, str):
            if _SURROGATE.search(found):
                return "a string with half a character"
            count += len(found) // 100
        elif type(found) is int and found.bit_length() > 63:
            return "a whole number of more than 63 bits"
        elif not isinstance(found, (bool, int, float, type(None))):
            return f"a {type(found).__name__}"
        count += len(inside)
        if count > most:
            return f"more than {most:,} values"
        rest += [(part, level + 1) for part in inside]
    return None


def is_name(value: Any) -> bool:
    """Return whether a value can name a class: a string of at most `MAX_NAME` characters that UTF-8 can hold."""
    return isinstance(value, str) and len(value) <= MAX_NAME and not _SURROGATE.search(value)


def check_archive(file: Path | IO[bytes], limit: int | None = None) -> None:
    """Look at the parts of a zip archive before anything is unpacked, which may take `limit` bytes.

    Without a limit they must be stored as they are, which takes no more than the file does.

    Raises:
        ValueError: The parts are packed, unpack to more, or lie in each other.
        zipfile.BadZipFile, OSError: It is no zip archive, or cannot be read.
    """
    with zipfile.ZipFile(file) as archive:
        parts = archive.infolist()
    size = file.stat().st_size if isinstance(file, Path) else file.seek(0, os.SEEK_END)
    allowed = (zipfile.ZIP_STORED,) if limit is None else (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if odd := [part.filename for part in parts if part.compress_type not in allowed]:
        raise ValueError(f"found {odd[0]!r:.100} packed in a way that this library never writes")
    most, total = size if limit is None else limit, sum(part.file_size for part in parts)
    if total > most:
        raise ValueError(f"found parts of {total:,} bytes, expected at most {most:,}")


@contextmanager
def refusing(found: str, then: str) -> Iterator[None]:
    """Make of an error in the block, which may be any where a file is broken, a UserError: `found (reason)then`."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = f"no {error}" if isinstance(error, KeyError) else line_of(error)
        raise UserError(f"{found} ({reason}){then}") from error


def line_of(error: Exception) -> str:
    """Return an error of another library on one line of at most 300 characters: some quote what they read."""
    return " ".join(str(error).split())[:300] or type(error).__name__
