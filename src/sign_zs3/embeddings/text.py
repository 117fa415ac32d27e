"""Word vectors as text: GloVe's format, and that of word2vec and fastText with `count width` in the first line."""

from collections.abc import Iterable, Sequence

import numpy as np

from sign_zs3.embeddings.stream import BLOCK, Vector, VectorFile
from sign_zs3.errors import UserError


def read_text(file: VectorFile, words: Iterable[str], near: Iterable[str] = ()) -> tuple[dict[str, Vector], list[str]]:
    """Read the vectors of some words from a text file, line by line to its end, holding no more than these.

    A line holds an entry, which may itself contain spaces, and its values, separated by spaces.

    Returns:
        Entry -> (d,) float32 (of those that occur twice the first), and the entries of `near` that were met, in order.

    Raises:
        UserError: The file is cut short, a line has more or fewer values than before, or a wanted one is not finite.
    """
    # those that were found are taken out: of two entries with one name the first counts
    wanted = {word.encode(): word for word in words}
    noticed = {word.encode(): word for word in near}
    found: dict[str, Vector] = {}
    met: list[str] = []
    width, count, entries = 0, None, 0
    for number, line in enumerate(file.lines(), 1):
        if len(line) == BLOCK:
            raise UserError(f"{file.path}: line {number} is longer than {BLOCK} bytes: expected word vectors as text")
        line = line.rstrip()
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
            fields = line.split(b" ")
            if len(fields) == 2 and all(field.isdigit() for field in fields):
                count, width = (int(field[:20]) for field in fields)
                # at the least a word of one byte, and per number a space and a digit
                file.check_header("line 1", count, width, 2 + 2 * width)
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
                f"{file.path}: line {number} has {values} values, expected {width} as before: the file is damaged or "
                "made of several; fetch it again"
            )
        entries += 1
        if word in wanted:
            found[wanted.pop(word)] = file.check_finite(_numbers(line.split(b" ")[-width:]), f"line {number}")
        elif word in noticed:
            met.append(noticed.pop(word))
    if not entries:
        raise UserError(f"{file.path}: holds no vectors: expected one word per line; fetch it again")
    if count is not None and count > entries:
        raise file.cut_short(f"holds {entries} of the {count} vectors that its first line says")
    if count is not None and count < entries:
        raise UserError(
            f"{file.path}: holds {entries} vectors, more than the {count} that its first line says: the file is "
            "damaged or made of several; fetch it again"
        )
    return found, met


def _is_fraction(field: bytes) -> bool:
    """Return whether a field has a decimal point: the end of a word with spaces hardly has, a value mostly has."""
    try:
        return b"." in field and np.isfinite(float(field)).item()
    except ValueError:
        return False


def _numbers(fields: Sequence[bytes]) -> Vector:
    """Return the numbers of a line; NaN where one is none."""
    try:
        with np.errstate(over="ignore"):
            return np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        return np.array([np.nan], dtype=np.float32)
