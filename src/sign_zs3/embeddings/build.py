"""Tables from text files of word vectors (GloVe, word2vec and fastText `.vec`)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sign_zs3.embeddings.spelling import Vocabulary
from sign_zs3.embeddings.table import ClassTable
from sign_zs3.errors import UserError

__all__ = ["build_table", "read_text_vectors"]


def read_text_vectors(path: str | Path, words: Iterable[str]) -> dict[str, npt.NDArray[np.float32]]:
    """Read the vectors of some words from a text file, line by line, holding no more than these.

    Args:
        path: One entry per line, values separated by spaces: GloVe's format, or word2vec's with `count
            width` in the first line. An entry may itself contain spaces.
        words: Entries to look for, as spelt in the file; see `words_of` for what class names need.

    Returns:
        Entry -> (d,) float32. Words that the file lacks are absent; of entries that occur twice the first
        counts.

    Raises:
        UserError: The file is missing, a line has too few values, or a wanted value is no finite number.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file: expected word vectors as text, one word per line")
    wanted = set(words)
    found: dict[str, npt.NDArray[np.float32]] = {}
    width: int | None = None
    # Some lists hold broken or exotic characters in entries that nobody asks for.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip().split(" ")
            if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
                width = int(fields[1])
                continue
            if width is None:
                width = len(fields) - 1
            if len(fields) <= width or width < 1:
                raise UserError(
                    f"{path}: line {number} has {len(fields) - 1} values, expected {width}: the file is cut short "
                    "or is not text vectors; fetch it again"
                )
            word = fields[0] if len(fields) == width + 1 else " ".join(fields[:-width])
            if word in wanted and word not in found:
                found[word] = _numbers(fields[-width:], path, number)
                if len(found) == len(wanted):
                    break
    if width is None:
        raise UserError(f"{path}: is empty: expected word vectors as text, one word per line")
    return found


def build_table(sources: Mapping[str, Mapping[str, npt.NDArray[np.float32]]], names: Sequence[str]) -> ClassTable:
    """Make a table with one raw row per name, from word vectors.

    Args:
        sources: Source name -> word -> (d,) vector, as `read_text_vectors` returns.
        names: Class names or words; each gets the vector of its own entry, of another spelling, or the mean
            over its words, found in each source by itself.

    Returns:
        The table, raw values, rows in the order of `names`.

    Raises:
        UserError: A source lacks names; all of them are named.
    """
    matrices = {}
    for source, vectors in sources.items():
        vocabulary = Vocabulary(vectors)
        entries = {name: vocabulary.find(name) for name in names}
        missing = [name for name, words in entries.items() if words is None]
        if missing:
            raise UserError(
                f"source '{source}': no vector for {len(missing)} of {len(entries)} names: "
                f"{'; '.join(vocabulary.hint(name) for name in missing)}. Leave them out or rename them"
            )
        matrices[source] = np.stack(
            [np.mean([vectors[w] for w in entries[name] or ()], axis=0, dtype=np.float64) for name in names]
        ).astype(np.float32)
    return ClassTable(tuple(names), matrices)


def _numbers(fields: Sequence[str], path: Path, line: int) -> npt.NDArray[np.float32]:
    try:
        vector = np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        vector = np.array([np.nan], dtype=np.float32)
    if not np.isfinite(vector).all():
        raise UserError(f"{path}: line {line} has a value that is no finite number; fetch the file again")
    return vector
