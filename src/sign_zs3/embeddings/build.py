"""From word vectors to tables: which entries stand for a class name, and their mean."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sign_zs3.embeddings.readers import WordVectors
from sign_zs3.embeddings.spelling import Vocabulary, canonical
from sign_zs3.embeddings.stream import Vector
from sign_zs3.embeddings.table import ClassTable
from sign_zs3.errors import UserError

log = logging.getLogger(__name__)

Source = WordVectors | Mapping[str, Vector]
Kind = Literal["exact", "spelling", "words", "subwords", "missing"]


@dataclass(frozen=True)
class Resolution:
    """How a source stands for a class name.

    Args:
        name: The class name.
        kind: `exact`: an entry of this very name; `spelling`: one entry of another form or spelling; `words`: the mean
            of the entries of its words; `subwords`: the same with words that fastText composed; `missing`: not at all.
        entries: Entries whose mean it is, as spelt in the source.
        subwords: Words composed from their subwords that join this mean.
        hint: Where it is missing: what is lacking, and what is spelt like it.
    """

    name: str
    kind: Kind
    entries: tuple[str, ...] = ()
    subwords: tuple[str, ...] = ()
    hint: str = ""

    def __str__(self) -> str:
        if self.kind == "missing":
            return "missing"
        parts = [*self.entries, *(f"{word} (by subwords)" for word in self.subwords)]
        return f"mean of {', '.join(parts)}" if len(parts) > 1 else parts[0]


def resolve(source: Source, names: Sequence[str]) -> tuple[Resolution, ...]:
    """Find out which entries of a source stand for class names.

    Tried are, in this order: the exact name; its canonical form; its words, each by itself; the phrase whose words are
    joined by `_`; the same for its other spellings; its words again, those that are lacking by fastText's subwords.

    Args:
        source: What `read_vectors` returns, or plain word -> (d,) vector.
        names: Class names.

    Returns:
        One resolution per name, in order; a name whose vector is zero is missing.
    """
    vectors = source if isinstance(source, WordVectors) else WordVectors(source)
    vocabulary = Vocabulary(vectors.entries, phrases=True)
    for_hints = Vocabulary(dict.fromkeys((*vectors.entries, *vectors.near)))

    def one(name: str) -> Resolution:
        if found := vocabulary.find(name):
            kind: Kind = "exact" if found == [name] else "spelling" if len(found) == 1 else "words"
            result = Resolution(name, kind, tuple(found))
        else:
            by_word = {word: vocabulary.find(word) for word in canonical(name).split()}
            lacking = [word for word, entries in by_word.items() if entries is None]
            if any(word not in vectors.subwords for word in lacking):
                return Resolution(name, "missing", hint=for_hints.hint(name))
            known = tuple(entry for entries in by_word.values() for entry in entries or ())
            result = Resolution(name, "subwords", known, tuple(lacking))
        if not _mean(result, vectors).any():
            return Resolution(name, "missing", hint=f"'{name}' (its vector is zero)")
        return result

    return tuple(one(name) for name in names)


def build_table(
    sources: Mapping[str, Source], names: Sequence[str], missing: Literal["error", "drop"] = "error"
) -> ClassTable:
    """Make a table with one raw row per name, from word vectors.

    Args:
        sources: Source name -> what `read_vectors` returns, or plain word -> (d,) vector.
        names: Class names or words; each gets the mean that `resolve` finds, in each source by itself.
        missing: What happens to names that a source lacks: an error, or a warning and a table without them.

    Returns:
        The table, raw values, rows in the order of `names`.

    Raises:
        UserError: A source lacks names (all of them are named, for all sources), or no name is left.

    >>> table = build_table({"toy": {"hot": np.array([1.0, 0.0]), "dog": np.array([0.0, 1.0])}}, ["dog", "hot dog"])
    >>> table.sources["toy"].tolist()
    [[0.0, 1.0], [0.5, 0.5]]
    """
    vectors = {key: s if isinstance(s, WordVectors) else WordVectors(s) for key, s in sources.items()}
    found = {key: resolve(source, names) for key, source in vectors.items()}
    lacking = {key: [r for r in result if r.kind == "missing"] for key, result in found.items()}
    lines = [
        f"source '{key}'{vectors[key].where}: no vector for {len(gone)} of {len(names)} names: "
        + "; ".join(r.hint for r in gone)
        for key, gone in lacking.items()
        if gone
    ]
    dropped = {r.name for gone in lacking.values() for r in gone}
    kept = [name for name in names if name not in dropped]
    if lines and not (kept and missing == "drop"):
        raise UserError(f"{'. '.join(lines)}. Rename these classes, or leave them out (--missing drop)")
    for line in lines:
        log.warning("left out: %s", line)
    rows = {key: [_mean(r, vectors[key]) for r in result if r.name not in dropped] for key, result in found.items()}
    return ClassTable(tuple(kept), {key: np.stack(means) for key, means in rows.items()})


def _mean(resolution: Resolution, vectors: WordVectors) -> Vector:
    rows = [*(vectors.entries[e] for e in resolution.entries), *(vectors.subwords[w] for w in resolution.subwords)]
    mean: Vector = np.stack(rows).mean(axis=0, dtype=np.float64).astype(np.float32)
    return mean
