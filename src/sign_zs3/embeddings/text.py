"""Word vectors as text: GloVe's format, and that of word2vec and fastText with `count width` in the first line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np

from sign_zs3.embeddings.stream import BLOCK, Vector, VectorFile, open_vectors
from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_WIDTH

__all__ = ["read_text", "read_text_vectors"]


def read_text_vectors(path: str | Path, words: Iterable[str]) -> dict[str, Vector]:
    """Read the vectors of some words from a text file, line by line to its end, holding no more than these.

    Args:
        path: One entry per line, values separated by spaces: GloVe's format, or word2vec's with `count
            width` in the first line. An entry may itself contain spaces.
        words: Entries to look for, as spelt in the file; see `words_of` for what class names need.

    Returns:
        Entry -> (d,) float32. Words that the file lacks are absent; of entries that occur twice the first
        counts.

    Raises:
        UserError: The file is missing or cut short, a line has another number of values than those before it,
            or a wanted value is no finite number.
    """
    with open_vectors(path) as file:
        return read_text(file, set(words))[0]


def read_text(
    file: VectorFile, words: Collection[str], near: Collection[str] = ()
) -> tuple[dict[str, Vector], list[str]]:
    """Read the vectors of some words from an open text file.

    Args:
        file: Open, at its start.
        words: Entries to look for, as spelt in the file.
        near: Entries that are merely noticed.

    Returns:
        As `read_text_vectors`, and the entries of `near` that were met, in the file's order.

    Raises:
        UserError: As `read_text_vectors`.
    """
    path = file.path
    wanted = {word.encode() for word in words}
    noticed = {word.encode() for word in near} - wanted
    found: dict[str, Vector] = {}
    met: dict[str, None] = {}
    width, count, entries = 0, None, 0
    for number, line in enumerate(file.lines(), 1):
        if len(line) == BLOCK:
            raise UserError(f"{path}: line {number} is longer than {BLOCK} bytes: expected word vectors as text")
        line = line.rstrip()
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            count, width = _header(line, file)
            if count is not None:
                continue
        if not line:
            continue
        values = line.count(b" ")
        if values < width or values < 1:
            raise file.cut_short(f"line {number} has {values} values, expected {width or 'one at least'}")
        width = width or values
        word = line[: line.index(b" ")] if values == width else line.rsplit(b" ", width)[0]
        if values > width and _is_fraction(word.rsplit(b" ", 1)[1]):
            raise UserError(
                f"{path}: line {number} has {values} values, expected {width} as before: the file is damaged or made "
                "of several; fetch it again"
            )
        entries += 1
        if word in noticed:
            met[word.decode()] = None
        elif word in wanted:
            text = word.decode()
            if text not in found:
                found[text] = _numbers(line.split(b" ")[-width:], path, number)
    if not entries:
        raise UserError(f"{path}: holds no vectors: expected one word per line; fetch it again")
    if count is not None and count > entries:
        raise file.cut_short(f"holds {entries} of the {count} vectors that its first line says")
    if count is not None and count < entries:
        raise UserError(
            f"{path}: holds {entries} vectors, more than the {count} that its first line says: the file is damaged or "
            "made of several; fetch it again"
        )
    return found, list(met)


def _header(line: bytes, file: VectorFile) -> tuple[int | None, int]:
    """Return count and width where the first line says them, else None and 0."""
    fields = line.split(b" ")
    if len(fields) != 2 or not all(field.isdigit() for field in fields):
        return None, 0
    count, width = (int(field[:20]) for field in fields)
    if not 1 <= width <= MAX_WIDTH or count < 1:
        raise UserError(
            f"{file.path}: line 1 says {count} vectors of {width} numbers: expected at least one vector of 1 to "
            f"{MAX_WIDTH}; the file is damaged, fetch it again"
        )
    # at the least a word of one byte, and per number a space and a digit
    if not file.can_hold(count * (2 + 2 * width)):
        raise file.cut_short(
            f"line 1 says {count} vectors of {width} numbers, which need {count * (2 + 2 * width):,} bytes or more, "
            f"but the file has {file.size:,}"
        )
    return count, width


def _is_fraction(field: bytes) -> bool:
    """Whether it is a number with a decimal point: the end of a word with spaces hardly is, a value mostly is."""
    try:
        return b"." in field and np.isfinite(float(field)).item()
    except ValueError:
        return False


def _numbers(fields: Sequence[bytes], path: Path, line: int) -> Vector:
    try:
        with np.errstate(over="ignore"):
            vector = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{path}: line {line} has a value that is no finite number; fetch the file again")
    return vector
