"""word2vec's binary format: a line `count width`, then per entry the word, a space and float32 numbers."""

from collections.abc import Iterable

import numpy as np

from sign_zs3.embeddings.stream import Blocks, Vector, VectorFile
from sign_zs3.errors import UserError

HEADER_LIMIT = 64


def read_binary(
    file: VectorFile, words: Iterable[str], near: Iterable[str] = ()
) -> tuple[dict[str, Vector], list[str]]:
    """Read the vectors of some words as `read_text` does, a block at a time: 3,000,000 x 300 numbers need a few MB.

    Raises:
        UserError: The file is cut short, its header fits neither size nor content, or a wanted value is not finite.
    """
    # an entry is its word, a space and the numbers; some writers add a newline, which then starts the next word
    header = next(file.lines(HEADER_LIMIT), b"")
    try:
        count, width = (int(part) for part in header.removeprefix(b"\xef\xbb\xbf").split())
    except ValueError:
        raise UserError(f"{file.path}: line 1 is {header[:40]!r}: expected the count and width of vectors") from None
    size = 4 * width
    file.check_header("the header", count, width, size + 1, len(header))
    file.seek(len(header))
    blocks = Blocks(file, len(header))
    # those that were found are taken out: of two entries with one name the first counts
    wanted = {word.encode(): word for word in words}
    noticed = {word.encode(): word for word in near}
    found: dict[str, Vector] = {}
    met: list[str] = []
    for number, (word, block, start) in enumerate(blocks.entries(b" ", size, count, "entry"), 1):
        word = word.lstrip(b"\n")
        if word in wanted:
            text = wanted.pop(word)
            vector = np.frombuffer(block, "<f4", width, start).astype(np.float32)
            found[text] = file.check_finite(vector, f"entry {number}, '{text}',")
        elif word in noticed:
            met.append(noticed.pop(word))
    if blocks.rest().strip():
        raise UserError(
            f"{file.path}: goes on after the {count} vectors of {width} numbers that its header says: expected no "
            "more; the header is wrong or the file damaged, fetch it again"
        )
    return found, met
