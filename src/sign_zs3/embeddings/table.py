"""Tables of class vectors (semantic word embeddings): names, and one matrix per source."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from sign_zs3.embeddings.spelling import Vocabulary
from sign_zs3.errors import UserError
from sign_zs3.files import check_archive, line_of, replacing
from sign_zs3.limits import MAX_TABLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

__all__ = ["ClassTable", "class_vectors"]

log = logging.getLogger(__name__)

Matrix = npt.NDArray[np.float32]


@dataclass(frozen=True, repr=False)
class ClassTable:
    """Class or word names with one matrix of vectors per source.

    Files: `.npz` with an array `names` and one (n, d) array per source; `.safetensors` with one (n, d)
    tensor per source and the names as a JSON list under `names` in the metadata. Neither holds pickles.
    Sources are kept in alphabetical order, which is the order in which `vectors` concatenates them.

    Args:
        names: n different names of classes or single words.
        sources: Source name -> (n, d) float32, raw or normalised; rows may be zero as long as nobody asks
            for them.
        origin: Where the table comes from, for error messages.

    Raises:
        UserError: Names are empty or occur twice, a matrix has another shape, or values are not finite.
    """

    names: tuple[str, ...]
    sources: Mapping[str, Matrix]
    origin: str = "class vectors"

    def __post_init__(self) -> None:
        """Check everything once, so that nothing later has to."""
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
        """Sizes, not values."""
        widths = ", ".join(f"{key}: {matrix.shape[1]}" for key, matrix in self.sources.items())
        return f"ClassTable({len(self.names)} names, {widths})"

    @classmethod
    def load(cls, path: str | Path) -> ClassTable:
        """Read a `.npz` or `.safetensors` table; nothing in it is ever unpickled.

        Memory: at most four times what the file holds unpacked, and that is refused above `MAX_TABLE`, 1 GiB.

        Args:
            path: The file.

        Returns:
            The table.

        Raises:
            UserError: The file is missing, damaged, too large, of another kind, or its content is refused (see
                the class).
        """
        path = Path(path)
        if not path.is_file():
            raise UserError(
                f"{path}: no such file: expected a .npz or .safetensors table of class vectors; build it with "
                "`sign-zs3 embed`, or take --model.vectors bundled"
            )
        readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
        if path.suffix not in readers:
            raise UserError(
                f"{path}: unknown kind of table '{path.suffix}': expected .npz or .safetensors; "
                "word vectors become one by `sign-zs3 embed`"
            )
        if path.stat().st_size > MAX_TABLE:
            raise UserError(f"{path}: has more than {MAX_TABLE:,} bytes: expected a table of class vectors")
        names, sources = readers[path.suffix](path)
        return cls(names, sources, str(path))

    @classmethod
    def bundled(cls) -> ClassTable:
        """Return the table inside the package: public-domain GloVe vectors, one row per word.

        It covers every word of the class names of the data sets that the library knows. It is small and old:
        for a reproduction give the 600-d fastText and word2vec vectors of the paper instead.

        Returns:
            The table, sources `glove100` and `glove50`, raw values.
        """
        with resources.as_file(resources.files("sign_zs3.embeddings") / "glove.safetensors") as path:
            names, sources = _read_safetensors(path)
        return cls(names, sources, "the bundled GloVe table")

    def save(self, path: str | Path) -> None:
        """Write a `.npz` or `.safetensors` file, beside its place first and then renamed.

        Args:
            path: The file; its suffix decides the kind. The same table gives the same bytes.

        Raises:
            UserError: Unknown suffix, or the file cannot be written.
        """
        path = Path(path)
        if path.suffix not in (".npz", ".safetensors"):
            raise UserError(f"{path}: unknown kind of table '{path.suffix}': expected .npz or .safetensors")
        if path.suffix == ".npz" and "names" in self.sources:
            raise UserError(f"{path}: a source cannot be called 'names' in a .npz file; rename it")
        try:
            with replacing(path) as beside:
                if path.suffix == ".npz":
                    # `allow_pickle`, without which numpy 2's types take no mapping, is one more array to numpy 1
                    arrays: dict[str, Any] = {"names": np.array(self.names), **self.sources}
                    with beside.open("wb") as file:
                        np.savez(file, **arrays)
                else:
                    # One key only: the writer does not keep the order of several.
                    names = json.dumps(self.names, ensure_ascii=False)
                    beside.write_bytes(save(dict(self.sources), metadata={"names": names}))
        except (OSError, SafetensorError) as error:
            raise UserError(f"{path}: cannot be written ({line_of(error)}); choose another folder") from None

    def vectors(
        self,
        class_names: Sequence[str],
        sources: Sequence[str] | None = None,
        center: bool = False,
        center_on: Sequence[str] | None = None,
    ) -> Tensor:
        """One unit vector per class: rows looked up by name, normalised per source, concatenated, normalised.

        A name's raw vector is the row of the exact name; else of its canonical form (lower case, `_` and `-`
        as spaces); else the mean of the rows of its words, `other` and `stuff` of COCO-Stuff's suffixes
        included; else the same for another spelling (aeroplane and airplane, pottedplant and potted plant, ...).

        Args:
            class_names: C names.
            sources: Which sources, in this order; None: all, alphabetically.
            center: Subtract the mean over `class_names`, per source, before normalising: word vectors share
                a large common part that tells no class from another.
            center_on: Names to take that mean over instead, so that a class added later gets the vector that it would
                have got among them.

        Returns:
            (C, sum of d) float32, rows of length 1.

        Raises:
            UserError: Names without a vector (all of them are named, with close matches), an unknown source,
                a zero vector, or no name at all.

        >>> table = ClassTable(("sky", "sea"), {"glove": np.eye(2, dtype=np.float32)})
        >>> table.vectors(["sea", "sea sky"])
        tensor([[0.0000, 1.0000],
                [0.7071, 0.7071]])
        """
        if isinstance(class_names, str) or not class_names:
            raise UserError(f"{self.origin}: expected a list of class names, got {class_names!r}")
        chosen = list(self.sources) if sources is None else list(sources)
        unknown = [s for s in chosen if s not in self.sources]
        if unknown or not chosen:
            raise UserError(f"{self.origin}: no source {_listed(unknown)}: choose from {_listed(list(self.sources))}")
        # building a table does without it, in a fraction of its memory and time
        import torch

        rows = self._rows(class_names)
        reference = rows if center_on is None else self._rows(center_on)
        parts = []
        for source in chosen:
            matrix = self.sources[source]
            part = np.stack([matrix[indices].mean(axis=0, dtype=np.float64) for indices in rows])
            rounding = np.zeros(len(part))
            if center:
                mean = np.stack([matrix[i].mean(axis=0, dtype=np.float64) for i in reference]).mean(axis=0)
                # Centring equal vectors leaves rounding, not a direction.
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
        """Say whether `vectors` finds a vector for a name."""
        return Vocabulary(self.names).find(name) is not None

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

        Returns:
            The figure and its axes.

        Raises:
            UserError: As `vectors`, or an unseen name is not among `class_names`.
        """
        unknown = [name for name in unseen if name not in class_names]
        if unknown:
            raise UserError(
                f"unseen: found {_listed(unknown)}, expected names that are among the {len(class_names)} drawn"
            )
        from sign_zs3.drawing.vectors import draw_vectors

        return draw_vectors(self.vectors(class_names, sources, center), class_names, unseen, ax)

    def _rows(self, class_names: Sequence[str]) -> list[list[int]]:
        row_of = {name: row for row, name in enumerate(self.names)}
        vocabulary = Vocabulary(self.names)
        found = {name: vocabulary.find(name) for name in class_names}
        missing = [name for name, entries in found.items() if entries is None]
        if missing:
            raise UserError(
                f"{self.origin}: no vector for {len(missing)} of {len(found)} class names: "
                f"{'; '.join(vocabulary.hint(name) for name in missing)}. "
                "Rename these classes, or give a table that has the words"
            )
        return [[row_of[entry] for entry in found[name] or ()] for name in class_names]


def class_vectors(vectors: str, class_names: Sequence[str], center_vectors: bool) -> Tensor:
    """Give the vectors that the options of a task mean.

    Args:
        vectors: `bundled`, or the path of a table.
        class_names: C names.
        center_vectors: As `center` of `ClassTable.vectors`.

    Returns:
        (C, W) float32, rows of length 1. Classes with the same vector are named in the log.

    Raises:
        UserError: As `ClassTable.load` and `ClassTable.vectors`.
    """
    if vectors == "bundled":
        table = ClassTable.bundled()
        log.info("class vectors: the bundled GloVe table (%s)", ", ".join(table.sources))
    else:
        table = ClassTable.load(vectors)
    found = table.vectors(class_names, center=center_vectors)
    for first, second in _equal_pairs(found)[:5]:
        log.warning(
            "class vectors: '%s' and '%s' have the same class vector, so that nothing tells them apart but masks of "
            "both: give other names or another table",
            class_names[first],
            class_names[second],
        )
    return found


def _equal_pairs(vectors: Tensor) -> list[tuple[int, int]]:
    """Return the pairs of rows that point into the same direction."""
    cosines = (vectors @ vectors.T).triu(diagonal=1)
    return [(int(first), int(second)) for first, second in (cosines > 1 - 1e-6).nonzero()]


def _read_npz(path: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        with path.open("rb") as file:
            is_array = file.read(6) == b"\x93NUMPY"
        if is_array:
            raise UserError(f"{path}: is no .npz archive: expected 'names' and one matrix per source")
        check_archive(path, MAX_TABLE)
        # Given a path, np.load leaves the file open when the archive turns out to be damaged.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    except UserError:
        raise
    except Exception as error:  # a broken file makes the reader raise almost anything
        raise UserError(
            f"{path}: cannot be read ({line_of(error)[:200]}): expected a whole .npz file without pickled "
            "objects; fetch or build it again"
        ) from None
    names = arrays.pop("names", None)
    # empty strings take no bytes, however many there are
    if not isinstance(names, np.ndarray) or names.ndim != 1 or names.dtype.kind != "U" or not names.dtype.itemsize:
        found = f"'names' of {names.dtype}, shape {names.shape}" if isinstance(names, np.ndarray) else "no 'names'"
        raise UserError(f"{path}: {found}: expected a one-dimensional array 'names' of strings")
    codes = np.frombuffer(names.tobytes(), np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        # NumPy would make strings of them that Python ends on
        raise UserError(f"{path}: found characters in 'names' that Unicode does not have: build the table again")
    return tuple(names.tolist()), arrays


def _read_safetensors(path: Path) -> tuple[tuple[str, ...], dict[str, Any]]:
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        names = json.loads(metadata.get("names", "null"))
    except Exception as error:  # a broken file makes the reader raise almost anything
        raise UserError(
            f"{path}: cannot be read ({line_of(error)[:200]}): expected a whole .safetensors file; fetch it again"
        ) from None
    if not isinstance(names, list):
        raise UserError(f"{path}: no names: expected a JSON list under 'names' in the metadata")
    return tuple(names), arrays


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
