"""Word vectors for class names, from a file whose kind is known by its content."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sign_zs3.embeddings.fasttext import is_model, read_model
from sign_zs3.embeddings.spelling import canonical, near_spellings, words_of
from sign_zs3.embeddings.stream import Progress, Vector, VectorFile, open_vectors
from sign_zs3.embeddings.text import read_text
from sign_zs3.embeddings.word2vec import read_binary
from sign_zs3.errors import UserError

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
        raise UserError(f"{file.path}: is an archive such as .npz: {expected}; a ready table goes to --model.vectors")
    if is_model(head):
        return "fasttext model"
    text = head.removeprefix(BOM)
    if header := HEADER.match(text):
        # text if as many fields as the header says follow the first word, all of them in ASCII
        values = text[header.end() :].partition(b" ")[2].partition(b"\n")[0]
        is_text = PRINTABLE.fullmatch(values) and len(values.split()) >= int(header[2]) > 0
        return "headed text" if is_text else "word2vec binary"
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


def _source(path: Path, kind: str) -> str:
    """Tell whose vectors these are: by the file's name where it says so, since their text looks the same."""
    named = [name for name in KINDS if name in path.name.lower()]
    if len(named) == 1:
        return named[0]
    if kind == "fasttext model" or (kind == "headed text" and ".vec" in path.suffixes):
        return "fasttext"
    return "glove" if kind == "text" else "word2vec"
