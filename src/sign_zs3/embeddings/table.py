"""Tables of class vectors (semantic word embeddings): names, and one matrix per source."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sign_zs3.embeddings.spelling import WHOLE, Vocabulary
from sign_zs3.embeddings.storage import Matrix, read_table, write_table
from sign_zs3.errors import UserError, check_at_least
from sign_zs3.files import from_home

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

    from sign_zs3.protocol import Protocol

log = logging.getLogger(__name__)


@dataclass(frozen=True, repr=False)
class ClassTable:
    """Class or word names with one matrix of vectors per source.

    Files: `.npz` with an array `names` and one (n, d) array per source; `.safetensors` with one (n, d) tensor per
    source and the names as a JSON list under `names` in the metadata. Neither holds pickles. Sources are kept in
    alphabetical order, in which `vectors` concatenates them. One whose name begins with ``whole:`` has vectors of whole
    names in sentences, as those of CLIP; means over words would be wrong there, and are not made.

    Args:
        names: n different names of classes or single words.
        sources: Source name -> (n, d) float32, raw or normalised; rows may be zero as long as nobody asks for them.
        origin: Where the table comes from, for error messages.

    Raises:
        UserError: Names are empty or occur twice, a matrix has another shape, or values are not finite.
    """

    names: tuple[str, ...]
    sources: Mapping[str, Matrix]
    origin: str = "class vectors"

    def __post_init__(self) -> None:
        names = tuple(self.names)
        if not names or not all(isinstance(n, str) and n.strip() for n in names):
            raise UserError(f"{self.origin}: expected names, none of them empty; write them again")
        if len(set(names)) < len(names):
            twice = sorted(name for name, count in Counter(names).items() if count > 1)[:10]
            raise UserError(f"{self.origin}: names occur twice: {_listed(twice)}; keep one row for each")
        if not self.sources:
            raise UserError(f"{self.origin}: no source: expected a matrix of ({len(names)}, d) beside names")
        checked = {key: self._checked(key, self.sources[key], len(names)) for key in sorted(self.sources)}
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "sources", checked)

    def _checked(self, source: str, matrix: Any, count: int) -> Matrix:
        array = np.asarray(matrix)
        if array.dtype.kind != "f" or array.ndim != 2 or array.shape[0] != count or array.shape[1] < 1:
            raise UserError(
                f"{self.origin}: source '{source}' is {array.dtype} of shape {array.shape}: expected a float "
                f"matrix of ({count}, d), one row per name"
            )
        with np.errstate(over="ignore"):
            array = np.array(array, dtype=np.float32, order="C")
        bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
        if bad.size:
            raise UserError(
                f"{self.origin}: source '{source}' has NaN or infinite values in the rows of "
                f"{_listed([self.names[i] for i in bad.tolist()])}; build the table again"
            )
        return array

    def __repr__(self) -> str:
        widths = ", ".join(f"{key}: {matrix.shape[1]}" for key, matrix in self.sources.items())
        return f"ClassTable({len(self.names)} names, {widths})"

    @classmethod
    def load(cls, path: str | Path) -> ClassTable:
        """Read a `.npz` or `.safetensors` table; nothing in it is ever unpickled.

        Memory: at most four times what the file holds unpacked, and that is refused above `MAX_TABLE`, 1 GiB.

        Raises:
            UserError: The file is missing, damaged, too large or of another kind, or the class refuses its content.
        """
        return cls(*read_table(Path(from_home(path))), str(path))

    @classmethod
    def from_keyed_vectors(cls, vectors: Any, source: str = "word2vec") -> ClassTable:
        """Return a table of all words of gensim's ``KeyedVectors``, such as those of ``gensim.downloader.load``.

        Args:
            vectors: What has `index_to_key`, n words, and `vectors`, (n, d) real numbers; they are copied.
            source: Name of the source; `vectors` of a table joins several in alphabetical order.

        Raises:
            UserError: It is something else, or the class refuses its content.
        """
        # a whole model holds its vectors as `wv`
        vectors = getattr(vectors, "wv", vectors)
        names, matrix = getattr(vectors, "index_to_key", None), getattr(vectors, "vectors", None)
        if names is None or matrix is None:
            raise UserError(f"word vectors: found a {type(vectors).__name__}, expected gensim's KeyedVectors")
        return cls(tuple(names), {source: matrix}, "gensim's KeyedVectors")

    @classmethod
    def bundled(cls) -> ClassTable:
        """Return the table inside the package: raw GloVe vectors, public domain, one row per word.

        It covers every word of the class names of the data sets that the library knows. It is small and old:
        for a reproduction give the 600-d fastText and word2vec vectors of the paper instead.

        >>> ClassTable.bundled()
        ClassTable(6857 names, glove100: 100, glove50: 50)
        """
        with resources.as_file(resources.files("sign_zs3.embeddings") / "glove.safetensors") as path:
            return cls(*read_table(path), "the bundled GloVe table")

    def save(self, path: str | Path) -> None:
        """Write a `.npz` or `.safetensors` file, by the suffix; the same table gives the same bytes.

        Raises:
            UserError: Unknown suffix, or the file cannot be written.
        """
        write_table(Path(path), self.names, self.sources)

    def vectors(
        self,
        class_names: Sequence[str],
        sources: Sequence[str] | None = None,
        center: bool = False,
        center_on: Sequence[str] | None = None,
    ) -> Tensor:
        """Return a unit vector per class: rows looked up by name, normalised per source, concatenated, normalised.

        A name's raw vector is the row of the exact name; else of its canonical form (lower case, `_` and `-` as
        spaces); else the mean of the rows of its words, COCO-Stuff's `other` and `stuff` included; else the same for
        another spelling (aeroplane and airplane, pottedplant and potted plant, ...).

        Args:
            class_names: C names.
            sources: Which sources, in this order; None: all, alphabetically.
            center: Subtract the mean over `class_names`, per source, before normalising: all share a large part.
            center_on: Names to take that mean over instead, so that a class added later gets its vector among them.

        Returns:
            (C, sum of d) float32, rows of length 1.

        Raises:
            UserError: Names without a vector (all named, with close ones), or none; an unknown source; a zero vector.

        >>> table = ClassTable(("sky", "sea"), {"glove": np.eye(2)})
        >>> table.vectors(["sea", "sea sky"])
        tensor([[0.0000, 1.0000],
                [0.7071, 0.7071]])
        >>> table.vectors(["sea", "sky"], center=True)
        tensor([[-0.7071,  0.7071],
                [ 0.7071, -0.7071]])
        """
        if isinstance(class_names, str) or not class_names:
            raise UserError(f"{self.origin}: expected a list of class names, got {class_names!r}")
        chosen = list(self.sources if sources is None else sources)
        unknown = [s for s in chosen if s not in self.sources]
        if unknown or not chosen:
            raise UserError(f"{self.origin}: no source {_listed(unknown)}: choose from {_listed(list(self.sources))}")
        # building a table does without it, in a fraction of its memory and time
        import torch

        parts = []
        for source in chosen:
            matrix, whole = self.sources[source], source.startswith(WHOLE)
            rows = self._rows(class_names, whole)
            reference = rows if center_on is None else self._rows(center_on, whole)
            part = np.stack([matrix[indices].mean(axis=0, dtype=np.float64) for indices in rows])
            rounding = np.zeros(len(part))
            if center:
                mean = np.stack([matrix[i].mean(axis=0, dtype=np.float64) for i in reference]).mean(axis=0)
                # centring equal vectors leaves rounding, not a direction
                rounding = 1e-6 * np.maximum(np.abs(part).max(axis=1), np.abs(mean).max())
                part = part - mean
            norms = np.linalg.norm(part, axis=1, keepdims=True)
            zero = np.flatnonzero(norms[:, 0] <= rounding)
            if zero.size:
                raise UserError(
                    f"{self.origin}: source '{source}' has a zero vector{' after centring' if center else ''} "
                    f"for {_listed([class_names[i] for i in zero.tolist()])}; leave that source out"
                )
            parts.append(part / norms)
        joined = np.concatenate(parts, axis=1)
        joined /= np.linalg.norm(joined, axis=1, keepdims=True)
        return torch.from_numpy(joined.astype(np.float32))

    def has(self, name: str) -> bool:
        """Return whether `vectors` finds a vector for a name.

        >>> [ClassTable.bundled().has(name) for name in ("hot dog", "aeroplane", "drainer")]
        [True, True, False]
        """
        return Vocabulary(self.names).find(name, any(source.startswith(WHOLE) for source in self.sources)) is not None

    def plot(
        self,
        class_names: Sequence[str],
        unseen: Sequence[str] = (),
        sources: Sequence[str] | None = None,
        center: bool = False,
        ax: Axes | None = None,
    ) -> tuple[Figure, Axes]:
        """Draw class vectors in two dimensions, the first principal components of what `vectors` gives.

        Args:
            class_names: C names.
            unseen: Those of them that are unseen, drawn in another colour.
            sources: As in `vectors`.
            center: As in `vectors`; the picture is centred either way.
            ax: Where to draw; None: a new figure.

        Raises:
            UserError: As `vectors`, or an unseen name is not among `class_names`.
        """
        if unknown := [name for name in unseen if name not in class_names]:
            expected = f"names that are among the {len(class_names)} drawn"
            raise UserError(f"unseen: found {_listed(unknown)}, expected {expected}")
        from sign_zs3.drawing.charts import draw_vectors

        return draw_vectors(self.vectors(class_names, sources, center), class_names, unseen, ax)

    def _rows(self, class_names: Sequence[str], whole: bool) -> list[list[int]]:
        row_of = {name: row for row, name in enumerate(self.names)}
        vocabulary = Vocabulary(self.names)
        found = {name: vocabulary.find(name, whole) for name in class_names}
        if missing := [name for name, entries in found.items() if entries is None]:
            raise UserError(
                f"{self.origin}: no vector for {len(missing)} of {len(found)} class names: "
                f"{'; '.join(vocabulary.hint(name) for name in missing)}. "
                "Rename these classes, or give a table that has the words"
            )
        return [[row_of[entry] for entry in found[name] or ()] for name in class_names]


def class_vectors(vectors: str, class_names: Sequence[str], center_vectors: bool) -> Tensor:
    """Return (C, W) float32 class vectors, rows of length 1, as a task's options ask; equal ones are named in the log.

    Args:
        vectors: `bundled`, or the path of a table.
        class_names: C names.
        center_vectors: As `center` of `ClassTable.vectors`.

    Raises:
        UserError: As `ClassTable.load` and `ClassTable.vectors`.
    """
    if vectors == "bundled":
        table = ClassTable.bundled()
        log.info("class vectors: the bundled GloVe table (%s)", ", ".join(table.sources))
    else:
        table = ClassTable.load(vectors)
    found = table.vectors(class_names, center=center_vectors)
    equal = (found @ found.T).triu(diagonal=1) > 1 - 1e-6
    for pair in equal.nonzero()[:5].tolist():
        log.warning(
            "class vectors: '%s' and '%s' have the same class vector, so that nothing tells them apart but masks of "
            "both: give other names or another table",
            *(class_names[index] for index in pair),
        )
    return found


def nearest(vectors: Tensor, protocol: Protocol, count: int = 5) -> dict[str, list[tuple[str, float]]]:
    """Return the seen classes whose vectors are nearest to that of each unseen class.

    Args:
        vectors: (C, W) class vectors in the order of `protocol.classes`, of any length but 0.
        protocol: The classes and their split.
        count: How many seen classes; fewer where there are not so many.

    Returns:
        Unseen class -> (seen class, cosine), the nearest first; of equal ones the first in the protocol.

    Raises:
        UserError: No class is unseen, `count` is below 1, or there is not one vector per class.
    """
    import torch

    check_at_least(1, **{"--nearest": count})
    if not protocol.unseen:
        raise UserError(f"{protocol.dataset}/{protocol.split}: found no unseen class, expected one at least; name some")
    if vectors.shape[0] != protocol.num_classes:
        raise UserError(
            f"class vectors: found {vectors.shape[0]} rows, expected one for each of the {protocol.num_classes} "
            f"classes of {protocol.dataset}/{protocol.split}; look them up in its order"
        )
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    seen, unseen = protocol.classes[: protocol.num_seen], protocol.classes[protocol.num_seen :]
    cosines, order = (unit[len(seen) :] @ unit[: len(seen)].T).sort(dim=1, descending=True, stable=True)
    rows = zip(unseen, order[:, :count].tolist(), cosines[:, :count].tolist(), strict=True)
    return {name: [(seen[i], cosine) for i, cosine in zip(*row, strict=True)] for name, *row in rows}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
