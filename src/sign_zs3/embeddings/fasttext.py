"""fastText's models (`.bin`): vectors of words in the vocabulary, and of any other word by its subwords.

Only the rows of wanted words and subwords are read. gensim and the `fasttext` package give the same vectors, but hold
the whole model, several GB, and gensim does not end on a dictionary that is cut short.
"""

import struct
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from sign_zs3.embeddings.stream import Blocks, Vector, VectorFile
from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_WIDTH

MAGIC = 793_712_314
SUPERVISED = 3
# dim, window, epochs, least count, negatives, word n-grams, loss, model, buckets, shortest and longest subword,
# rate update, sampling threshold
ARGUMENTS = struct.Struct("<12id")
SIGNATURE = struct.Struct("<2i")
DICTIONARY = struct.Struct("<3iq")
SHAPE = struct.Struct("<2q")
END_OF_SENTENCE = "</s>"


@dataclass(frozen=True)
class _Header:
    signed: bool
    dim: int
    model: int
    buckets: int
    shortest: int
    longest: int


def is_model(head: bytes) -> bool:
    """Return whether a file starts like a fastText model, of now or of before 2017 (which has no signature)."""
    if len(head) >= SIGNATURE.size and SIGNATURE.unpack_from(head)[0] == MAGIC:
        return True
    if len(head) < ARGUMENTS.size:
        return False
    dim, window, *_, loss, model, buckets, shortest, longest, _, sampling = ARGUMENTS.unpack_from(head)
    return bool(
        1 <= dim <= MAX_WIDTH and 0 <= window <= 1000 and 1 <= loss <= 4 and 1 <= model <= 3
        and buckets >= 0 and 0 <= shortest <= 100 and 0 <= longest <= 100 and 0 <= sampling <= 1
    )  # fmt: skip


def read_model(
    file: VectorFile, entries: Collection[str], words: Collection[str], near: Collection[str] = ()
) -> tuple[dict[str, Vector], dict[str, Vector], list[str]]:
    """Read the vectors of some entries, and of words that are composed from their subwords where they are no entries.

    A word's vector is the mean of its own row, if it is in the vocabulary, and the rows of its subwords.

    Returns:
        Entry -> (d,) float32; word that is no entry -> (d,) float32; and what was met of `near`, frequent ones first.

    Raises:
        UserError: The model is a supervised or quantised one, or the file is cut short or damaged.
    """
    blocks = Blocks(file)
    header = _read_header(file, blocks)
    size, word_count, labels, _ = DICTIONARY.unpack(blocks.take(DICTIONARY.size, "the dictionary's header"))
    if header.model == SUPERVISED or labels:
        raise UserError(
            f"{file.path}: is a supervised fastText model (a classifier of texts): expected word vectors, trained with "
            "skipgram or cbow; give such a model, or vectors as text"
        )
    pruned = struct.unpack("<q", blocks.take(8, "the dictionary's header"))[0] if header.signed else -1
    # per entry at least the zero byte, an int64 and a byte
    if size != word_count or size < 1 or not file.can_hold(10 * size):
        raise file.cut_short(f"says {size} entries and {word_count} words, which do not fit its {file.size:,} bytes")
    wanted = {word.encode(): word for word in {*entries, *words}}
    noticed = {word.encode(): word for word in near}
    index: dict[str, int] = {}
    met = []
    # after the word an int64 count and an int8 type
    for row, (word, _, _) in enumerate(blocks.entries(b"\0", 9, size, "word")):
        if word in wanted:
            index[wanted.pop(word)] = row
        elif word in noticed:
            met.append(noticed.pop(word))
    quantised = header.signed and blocks.take(1, "the vectors") != b"\0"
    if quantised or pruned > 0:
        raise UserError(f"{file.path}: is a quantised fastText model: expected one that is not; give the .bin of it")
    rows, dim = SHAPE.unpack(blocks.take(SHAPE.size, "the vectors"))
    if (rows, dim) != (size + header.buckets, header.dim) or not file.can_hold(blocks.offset + 4 * rows * dim):
        raise file.cut_short(
            f"says {rows} vectors of {dim} numbers for {size} words and {header.buckets} subwords of {header.dim}, in "
            f"{file.size:,} bytes"
        )
    start = blocks.offset
    lacking = sorted(set(words) - set(index))
    pieces = {word: [row, *_subwords(word, size, header)] for word, row in index.items()}
    pieces |= {word: found for word in lacking if (found := _subwords(word, size, header))}
    matrix: dict[int, Vector] = {}
    for row in sorted({row for found in pieces.values() for row in found}):
        blocks.skip_to(start + 4 * dim * row)
        matrix[row] = np.frombuffer(blocks.take(4 * dim, "the vectors"), "<f4")
    _check_end(file, blocks, start + 4 * rows * dim, header.signed)
    means = {word: np.stack([matrix[row] for row in found]).mean(0, np.float64) for word, found in pieces.items()}
    vectors = {word: file.check_finite(mean.astype(np.float32), f"'{word}'") for word, mean in means.items()}
    composed = {word: vectors.pop(word) for word in lacking if word in vectors}
    return vectors, composed, met


def _read_header(file: VectorFile, blocks: Blocks) -> _Header:
    first = blocks.take(SIGNATURE.size, "the header")
    signed = SIGNATURE.unpack(first)[0] == MAGIC
    rest = blocks.take(ARGUMENTS.size - (0 if signed else len(first)), "the header")
    dim, *_, model, buckets, shortest, longest, _, _ = ARGUMENTS.unpack(rest if signed else first + rest)
    if not (1 <= dim <= MAX_WIDTH and 1 <= model <= 3 and buckets >= 0 and shortest >= 0 and longest >= 0):
        raise UserError(
            f"{file.path}: the header says {dim} numbers per vector, model {model}, {buckets} subwords of {shortest} "
            f"to {longest} characters: expected 1 to {MAX_WIDTH} numbers, model 1 to 3 and no negative number; the "
            "file is damaged, fetch it again"
        )
    return _Header(signed, dim, model, buckets, shortest, longest)


def _subwords(word: str, size: int, header: _Header) -> list[int]:
    """Return the rows of a word's subwords, which follow those of the words."""
    if not header.buckets or not header.longest or word == END_OF_SENTENCE:
        return []
    from gensim.models.fasttext import ft_ngram_hashes

    return [size + bucket for bucket in ft_ngram_hashes(word, header.shortest, header.longest, header.buckets)]


def _check_end(file: VectorFile, blocks: Blocks, end: int, signed: bool) -> None:
    """Check that the second matrix is complete: if not, the file was cut short, and who knows where."""
    if file.compressed:
        return  # it would have to be unpacked
    blocks.skip_to(end)
    if signed:
        blocks.take(1, "the output matrix")
    rows, dim = SHAPE.unpack(blocks.take(SHAPE.size, "the output matrix"))
    expected = blocks.offset + 4 * rows * dim
    if rows < 0 or dim < 0 or expected != file.size:
        raise file.cut_short(f"has {file.size:,} bytes, expected {expected:,}")
