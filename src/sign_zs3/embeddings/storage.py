"""Files of tables: `.npz` and `.safetensors`, neither with pickles."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from sign_zs3.errors import UserError
from sign_zs3.files import check_archive, refusing, replacing
from sign_zs3.limits import MAX_TABLE

Matrix = npt.NDArray[np.float32]
Content = tuple[tuple[str, ...], dict[str, Any]]
"""Names and source -> array, as they stand in a file: `ClassTable` checks them."""


def read_table(path: Path) -> Content:
    """Read the file of a table; see `ClassTable.load`."""
    if not path.is_file():
        raise UserError(
            f"{path}: no such file: expected a .npz or .safetensors table of class vectors; build it with "
            "`sign-zs3 embed`, or take --model.vectors bundled"
        )
    readers = {".npz": _read_npz, ".safetensors": _read_safetensors}
    if path.suffix not in readers:
        what = f"unknown kind of table '{path.suffix}': expected .npz or .safetensors"
        raise UserError(f"{path}: {what}; word vectors become one by `sign-zs3 embed`")
    if path.stat().st_size > MAX_TABLE:
        raise UserError(f"{path}: has more than {MAX_TABLE:,} bytes: expected a table of class vectors")
    return readers[path.suffix](path)


def _read_npz(path: Path) -> Content:
    expected = "expected a whole .npz file without pickled objects"
    with refusing(f"{path}: cannot be read", f": {expected}; fetch or build it again"):
        with path.open("rb") as file:
            if file.read(6) == b"\x93NUMPY":
                raise UserError(f"{path}: is no .npz archive: expected 'names' and one matrix per source")
        check_archive(path, MAX_TABLE)
        # given a path, np.load leaves the file open when the archive turns out to be damaged
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in archive.files}
    names = arrays.pop("names", None)
    # empty strings take no bytes, however many there are
    if not isinstance(names, np.ndarray) or names.ndim != 1 or names.dtype.kind != "U" or not names.dtype.itemsize:
        found = f"'names' of {names.dtype}, shape {names.shape}" if isinstance(names, np.ndarray) else "no 'names'"
        raise UserError(f"{path}: {found}: expected a one-dimensional array 'names' of strings")
    codes = np.frombuffer(names.tobytes(), np.dtype(np.uint32).newbyteorder(names.dtype.byteorder))
    if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
        # NumPy would make strings of them that Python crashes on
        raise UserError(f"{path}: found characters in 'names' that Unicode does not have: build the table again")
    return tuple(names.tolist()), arrays


def _read_safetensors(path: Path) -> Content:
    with refusing(f"{path}: cannot be read", ": expected a whole .safetensors file; fetch it again"):
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
        names = json.loads(metadata.get("names", "null"))
    if not isinstance(names, list):
        raise UserError(f"{path}: no names: expected a JSON list under 'names' in the metadata")
    return tuple(names), arrays


def write_table(path: Path, names: tuple[str, ...], sources: Mapping[str, Matrix]) -> None:
    """Write the file of a table; see `ClassTable.save`."""
    if path.suffix not in (".npz", ".safetensors"):
        raise UserError(f"{path}: unknown kind of table '{path.suffix}': expected .npz or .safetensors")
    if path.suffix == ".npz" and "names" in sources:
        raise UserError(f"{path}: a source cannot be called 'names' in a .npz file; rename it")
    with refusing(f"{path}: cannot be written", "; choose another folder"), replacing(path) as beside:
        if path.suffix == ".npz":
            # `allow_pickle`, without which numpy 2's types take no mapping, is one more array to numpy 1
            arrays: dict[str, Any] = {"names": np.array(names), **sources}
            with beside.open("wb") as file:
                np.savez(file, **arrays)
        else:
            # one key only: the writer does not keep the order of several
            metadata = {"names": json.dumps(names, ensure_ascii=False)}
            beside.write_bytes(save(dict(sources), metadata=metadata))
