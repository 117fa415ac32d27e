"""Word vectors for class names, from a file whose kind is known by its content."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sign_zs3.embeddings.spelling import canonical, near_spellings, words_of
from sign_zs3.embeddings.stream import Progress, Vector, VectorFile, open_vectors
from sign_zs3.errors import UserError

__all__ = ["WordVectors", "read_vectors"]

HEAD = 1 << 18
PRINTABLE = re.compile(rb"[\t\r\x20-\x7e]*")
HEADER = re.compile(rb"(\d{1,20}) (\d{1,20})[ \t\r]*\n")
BOM = b"\xef\xbb\xbf"
KINDS = ("fasttext", "glove", "word2vec")


@dataclass(frozen=True)
class WordVectors:
    """What a file of word vectors holds for some class names.

    Args:
        entries: Entry as spelt in the file -> (d,) float32, raw: names, words and other spellings.
        subwords: Word that is no entry -> (d,) float32, composed from its subwords (fastText models alone).
        near: Other entries that lie within a slip of the pen of a word, for messages.
        origin: The file that they come from, for messages.
        kind: `fasttext`, `glove` or `word2vec`: what a table calls this source unless told otherwise.
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

    Read are: word2vec, binary and text; fastText, models (`.bin`, skipgram and cbow) and text (`.vec`); GloVe's
    text. All of them also as `.gz`. What a file is is told by its content; nothing is ever unpickled.

    Args:
        path: The file.
        names: Class names.
        progress: Told of bytes read from the disk.

    Returns:
        The entries that the names may be found under; from a fastText model also vectors of words that it lacks.

    Raises:
        UserError: The file is missing, damaged, cut short or of another kind.
    """
    entries = words_of(names)
    words = {word for name in names for word in canonical(name).split()}
    near = near_spellings(words) - set(entries)
    with open_vectors(path, progress) as file:
        head = file.read(HEAD)
        file.seek(0)
        format = _format(file, head)
        subwords: dict[str, Vector] = {}
        if format == "fasttext model":
            from sign_zs3.embeddings.fasttext import read_model

            vectors, subwords, close = read_model(file, entries, words, near)
        elif format == "word2vec binary":
            from sign_zs3.embeddings.word2vec import read_binary

            vectors, close = read_binary(file, entries, near)
        else:
            from sign_zs3.embeddings.text import read_text

            vectors, close = read_text(file, entries, near)
    return WordVectors(vectors, subwords, close, str(path), _kind(Path(path), format))


def _format(file: VectorFile, head: bytes) -> str:
    """Tell a file's format from its first bytes."""
    from sign_zs3.embeddings.fasttext import is_model

    expected = "expected word vectors of word2vec (binary or text), fastText (.bin or .vec) or GloVe (text)"
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise UserError(
            f"{file.path}: is a pickle (such as gensim's own .model), which could run any code and is never opened: "
            f"{expected}; write it with gensim's save_word2vec_format"
        )
    if head[:4] == b"PK\x03\x04":
        raise UserError(f"{file.path}: is an archive such as .npz: {expected}; a ready table goes to --model.vectors")
    if is_model(head):
        return "fasttext model"
    text = head.removeprefix(BOM)
    if header := HEADER.match(text):
        # Text if what follows the first word are as many fields as the header says, all of them in ASCII.
        _, _, values = text[header.end() :].partition(b" ")
        first = PRINTABLE.match(values)
        complete = first is not None and len(first[0].split()) >= int(header[2]) > 0
        line = values.partition(b"\n")[0]
        return "headed text" if complete and first is not None and first[0] == line else "word2vec binary"
    fields = text.partition(b"\n")[0].split()
    if b"\0" in head or len(fields) < 2 or not _is_number(fields[-1]):
        raise UserError(f"{file.path}: is of an unknown kind: {expected}")
    return "text"


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _kind(path: Path, format: str) -> str:
    """Tell whose vectors these are: by the file's name where it says so, since their text looks the same."""
    named = [kind for kind in KINDS if kind in path.name.lower()]
    if len(named) == 1:
        return named[0]
    if format == "fasttext model" or (format == "headed text" and ".vec" in path.suffixes):
        return "fasttext"
    return "glove" if format == "text" else "word2vec"
