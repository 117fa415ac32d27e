"""Word vectors for class names, from a file whose kind is known by its content.

Text is GloVe's, or that of word2vec and fastText with `count width` in the first line. word2vec's binary format has
such a line too, then per entry the word, a space and float32 numbers. fastText's own models are in `fasttext`.
"""

import math
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from sign_zs3.embeddings.fasttext import is_model, read_model
from sign_zs3.embeddings.spelling import canonical, near_spellings, words_of
from sign_zs3.embeddings.stream import BLOCK, Blocks, Progress, Vector, VectorFile, open_vectors
from sign_zs3.errors import UserError

HEAD = 1 << 18
HEADER_LIMIT = 64
PRINTABLE = re.compile(rb"[\t\r\x20-\x7e]*")
HEADER = re.compile(rb"(\d{1,20})[ \t](\d{1,20})[ \t\r]*\n")
BOM = b"\xef\xbb\xbf"
KINDS = ("fasttext", "glove", "word2vec")


@dataclass(frozen=True)
class WordVectors:
    """What a file of word vectors holds for some class names.

    Args:
        entries: Entry as spelt in the file -> (d,) float32, raw: names, words and other spellings.
        subwords: Word that is no entry -> (d,) float32, composed from its subwords (fastText models alone).
        near: Other entries that are a typing error away from a word, for messages.
        origin: The file that they come from, for messages.
        kind: `fasttext`, `glove` or `word2vec`: what a table calls this source unless it is given another name.
    """

    entries: Mapping[str, Vector]
    subwords: Mapping[str, Vector] = field(default_factory=dict)
    near: Sequence[str] = ()
    origin: str = ""
    kind: str = "word2vec"

    @property
    def where(self) -> str:
        """The file in brackets, for messages; empty where there is none."""
        return f" ({self.origin})" if self.origin else ""


def read_vectors(path: str | Path, names: Sequence[str], progress: Progress | None = None) -> WordVectors:
    """Read from a file of word vectors what some class names need, and hold no more than that.

    It may be word2vec, binary and text; fastText, models (`.bin`, skipgram and cbow) and text (`.vec`); or GloVe's
    text; each also as `.gz`. Its kind is told by its content; nothing is ever unpickled.

    Args:
        path: The file.
        names: Class names.
        progress: Called with the number of bytes read from the disk since its last call.

    Returns:
        The entries that the names may be found under; from a fastText model also vectors of words that it lacks.

    Raises:
        UserError: The file is missing, damaged, cut short or of another kind.
    """
    path = Path(path)
    entries = words_of(names)
    words = {word for name in names for word in canonical(name).split()}
    near = near_spellings(words) - set(entries)
    with open_vectors(path, progress) as file:
        head = file.read(HEAD)
        file.seek(0)
        kind = _format(file, head)
        subwords: dict[str, Vector] = {}
        if kind == "fasttext model":
            vectors, subwords, met = read_model(file, entries, words, near)
        else:
            vectors, met = (read_binary if kind == "word2vec binary" else read_text)(file, entries, near)
    return WordVectors(vectors, subwords, met, str(path), _source(path, kind))


def _format(file: VectorFile, head: bytes) -> str:
    """Tell a file's format from its first bytes."""
    expected = "expected word vectors of word2vec (binary or text), fastText (.bin or .vec) or GloVe (text)"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise UserError(
            f"{file.path}: is a pickle (such as gensim's own .model), which could run any code and is never opened: "
            f"{expected}; write it with gensim's save_word2vec_format"
        )
    if head[:4] == b"PK\x03\x04":
        with suppress(zipfile.BadZipFile, OSError), zipfile.ZipFile(file.path) as archive:
            parts = [name for name in archive.namelist() if name.endswith((".txt", ".vec", ".bin"))]
            if parts:
                inside = ", ".join(parts)[:200]
                raise UserError(f"{file.path}: is an archive of {inside}: {expected}; unzip it, and give the one file")
        raise UserError(f"{file.path}: is an archive such as .npz: {expected}; a ready table goes to --model.vectors")
    if is_model(head):
        return "fasttext model"
    text = head.removeprefix(BOM)
    if header := HEADER.match(text):
        # text if as many fields as the header says follow the first word, all of them in ASCII
        values = text[header.end() :].replace(b"\t", b" ").partition(b" ")[2].partition(b"\n")[0]
        is_text = PRINTABLE.fullmatch(values) and len(values.split()) >= int(header[2]) > 0
        return "headed text" if is_text else "word2vec binary"
    fields = text.partition(b"\n")[0].split()
    if b"\0" in head or len(fields) < 2 or _number(fields[-1]) is None:
        raise UserError(f"{file.path}: is of an unknown kind: {expected}")
    return "text"


def _number(field: bytes) -> float | None:
    with suppress(ValueError):
        return float(field)
    return None


def _source(path: Path, kind: str) -> str:
    """Tell whose vectors these are: by the file's name where it says so, since their text looks the same."""
    named = [name for name in KINDS if name in path.name.lower()]
    if len(named) == 1:
        return named[0]
    if kind == "fasttext model" or (kind == "headed text" and ".vec" in path.suffixes):
        return "fasttext"
    return "glove" if kind == "text" else "word2vec"


def read_text(file: VectorFile, words: Iterable[str], near: Iterable[str] = ()) -> tuple[dict[str, Vector], list[str]]:
    """Read the vectors of some words from a text file, line by line to its end, holding no more than these.

    A line holds an entry, which may itself contain spaces, and its values, separated by spaces or tabs.

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
        line = line.rstrip().replace(b"\t", b" ")
        if number == 1:
            line = line.removeprefix(BOM)
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
    number = _number(field) if b"." in field else None
    return number is not None and math.isfinite(number)


def _numbers(fields: Sequence[bytes]) -> Vector:
    """Return the numbers of a line; NaN where one is none."""
    try:
        with np.errstate(over="ignore"):
            return np.array([float(field) for field in fields], dtype=np.float32)
    except ValueError:
        return np.array([np.nan], dtype=np.float32)


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
        count, width = (int(part) for part in header.removeprefix(BOM).split())
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
