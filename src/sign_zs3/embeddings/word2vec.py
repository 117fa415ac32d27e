"""word2vec's binary format: a line `count width`, then per entry the word, a space and float32 numbers."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from sign_zs3.embeddings.stream import Blocks, Vector, VectorFile
from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_WIDTH

__all__ = ["read_binary"]

HEADER_LIMIT = 64


def read_binary(
    file: VectorFile, words: Collection[str], near: Collection[str] = ()
) -> tuple[dict[str, Vector], list[str]]:
    """Read the vectors of some words, a block at a time: 3,000,000 x 300 numbers need a few MB.

    Args:
        file: Open, at its start.
        words: Entries to look for, as spelt in the file.
        near: Entries that are merely noticed.

    Returns:
        Entry -> (d,) float32 (words that the file lacks are absent; of entries that occur twice the first
        counts), and the entries of `near` that were met, in the file's order.

    Raises:
        UserError: The file is cut short, its header does not fit its size or content, or a wanted value is no
            finite number.
    """
    # an entry is its word, a space and the numbers; some writers add a newline, which then starts the next word
    header = next(file.lines(HEADER_LIMIT), b"")
    try:
        count, width = (int(part) for part in header.removeprefix(b"\xef\xbb\xbf").split())
    except ValueError:
        raise UserError(f"{file.path}: line 1 is {header[:40]!r}: expected the count and width of vectors") from None
    if not (count >= 1 and 1 <= width <= MAX_WIDTH):
        raise UserError(
            f"{file.path}: the header says {count} vectors of {width} numbers: expected at least one vector of 1 to "
            f"{MAX_WIDTH}; the file is damaged, fetch it again"
        )
    size = 4 * width
    if not file.can_hold(len(header) + count * (size + 1)):
        raise file.cut_short(
            f"the header says {count} vectors of {width} numbers, which need {count * (size + 1):,} bytes, but the "
            f"file has {file.size:,}"
        )
    file.seek(len(header))
    blocks = Blocks(file, len(header))
    wanted = {word.encode() for word in words}
    noticed = {word.encode() for word in near} - wanted
    either = wanted | noticed
    found: dict[str, Vector] = {}
    met: dict[str, None] = {}
    for number, (word, block, start) in enumerate(blocks.entries(b" ", size, count, "entry"), 1):
        if word[:1] == b"\n":
            word = word.lstrip(b"\n")
        if word not in either:
            continue
        text = word.decode()
        if word in noticed:
            met[text] = None
        elif text not in found:
            vector = np.frombuffer(block, "<f4", width, start).astype(np.float32)
            if not np.isfinite(vector).all():
                raise UserError(
                    f"{file.path}: entry {number}, '{text}', has a value that is no finite number; fetch the file again"
                )
            found[text] = vector
    if blocks.rest().strip():
        raise UserError(
            f"{file.path}: goes on after the {count} vectors of {width} numbers that its header says: expected no "
            "more; the header is wrong or the file damaged, fetch it again"
        )
    return found, list(met)
