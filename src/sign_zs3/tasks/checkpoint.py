"""What this library adds to a Lightning checkpoint, and how it is read back: plain types and tensors only.

The library's own part lies under `CHECKPOINT_KEY`: format, version, method, protocol, schedule, counts, the parts that
were trained, where class vectors came from, and the gradient of an iteration that is not complete.
"""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from sign_zs3.compat import RETIRED, current_options
from sign_zs3.errors import UserError
from sign_zs3.files import check_archive, line_of, not_plain, other_format
from sign_zs3.models.weights import check_finite, difference, kinds_of
from sign_zs3.protocol import Protocol

CHECKPOINT_KEY = "sign_zs3"
CHECKPOINT_FORMAT = 1
"""Raised where an earlier version would misread a checkpoint; what is new and may be missing needs no other number."""
MAX_PICKLE = 1 << 23
"""Bytes of all that is no tensor, at most: torch takes ten seconds for as many, and a ResNet-152 needs a tenth."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this library, opening its file once and never running code in it.

    Memory: at most three times what the file has, since nothing in it is packed and no tensor is larger than it.

    Raises:
        UserError: Not there, not readable as plain types and tensors, not of this library, or a weight is not finite.
    """
    if path.is_dir():
        raise UserError(
            f"checkpoint: {path} is a folder, expected a file, which holds all that training made: give a .ckpt file "
            "that `fit` wrote, from the checkpoints/ of its run"
        )
    if not path.is_file():
        raise UserError(f"checkpoint: {path} is not there: give the path of a .ckpt file that `fit` wrote")
    try:
        with path.open("rb") as file:
            # whatever else torch.load takes is a bare pickle
            if not zipfile.is_zipfile(file):
                raise UserError(
                    f"checkpoint: {path} is damaged or no checkpoint (found {path.stat().st_size} bytes, expected a "
                    "zip archive): give a .ckpt file that `fit` wrote"
                )
            check_archive(file)
            with zipfile.ZipFile(file) as archive:
                if any(p.filename.endswith(".pkl") and p.file_size > MAX_PICKLE for p in archive.infolist()):
                    raise ValueError(f"found more than {MAX_PICKLE:,} bytes beside the tensors")
                # torch does not compare a part with its checksum
                if (part := archive.testzip()) is not None:
                    raise UserError(
                        f"checkpoint: {path} is damaged (found another checksum than its own in {part}): give a .ckpt "
                        "file that `fit` wrote"
                    )
            file.seek(0)
            checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own advice is to let the file run its code
        raise UserError(
            f"checkpoint: {path} holds more than tensors and plain values, and code in files is never run: give a "
            ".ckpt file that `fit` wrote"
        ) from error
    except Exception as error:  # a broken file makes readers raise almost anything
        raise UserError(
            f"checkpoint: {path} cannot be read ({line_of(error)}): give a .ckpt file that `fit` wrote"
        ) from error
    check_checkpoint(checkpoint, f"checkpoint: {path}", path.stat().st_size)
    return checkpoint


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint, down to the disk: a name must not be given to what a machine that goes down would lose.

    Raises:
        OSError: It cannot be written; of this torch itself says nothing.
    """
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


class CheckpointFiles(TorchCheckpointIO):
    """How a trainer writes and reads checkpoints: whole files, without a copy in memory, running nothing in them.

    What a command has read already is handed over once instead of being read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read: tuple[Path, dict[str, Any]] | None = None

    def hold(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Keep a checkpoint for the one time that the trainer asks for it."""
        self._read = path, checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file, down to the disk."""
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a checkpoint, plain types and tensors alone."""
        held, self._read = self._read, None
        return held[1] if held is not None and held[0] == Path(path) else read_checkpoint(Path(path))


def check_checkpoint(checkpoint: Any, what: str, size: int | None = None) -> dict[str, Any]:
    """Return the library's own part of a checkpoint, once all of the checkpoint that this library reads is checked.

    Args:
        checkpoint: What `torch.load` gave.
        what: Names the checkpoint in errors.
        size: Bytes of its file, where they are known.

    Raises:
        UserError: It is not of this library, of another format, damaged, or a weight is not finite.
    """
    stored = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(stored, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise UserError(f"{what} is not of sign-zs3: give a .ckpt file that `fit` wrote")
    if (found := stored.get("format")) != CHECKPOINT_FORMAT:
        otherwise = "give a .ckpt file that `fit` of this version wrote"
        raise UserError(f"{what}: {other_format(found, CHECKPOINT_FORMAT, otherwise, stored.get('version'))}")
    parts = (stored.get("protocol"), stored.get("schedule"), checkpoint.get("hyper_parameters"))
    if not all(isinstance(part, dict) for part in parts) or not isinstance(stored.get("method"), str):
        raise UserError(
            f"{what} is damaged (found no method, options and classes in it): give a .ckpt file that `fit` wrote"
        )
    try:
        _check_plain(checkpoint)
        _check_tensors(checkpoint["state_dict"], size)
        vectors = checkpoint["state_dict"].get("class_vectors")
        count = stored_protocol(checkpoint).num_classes
        if len(stored.get("looked_up", range(count))) != count:
            raise UserError("looked_up: found another number of names than classes")
        if vectors is None or vectors.ndim != 2 or len(vectors) != count or not vectors.is_floating_point():
            found = "none" if vectors is None else f"{vectors.dtype} {tuple(vectors.shape)}"
            raise UserError(f"found class vectors {found} for {count} classes")
    except (UserError, TypeError) as error:
        raise UserError(f"{what} is damaged ({line_of(error)[:300]}): give a .ckpt file that `fit` wrote") from error
    check_finite(checkpoint["state_dict"], what)
    return stored


def _check_plain(checkpoint: Mapping[str, Any]) -> None:
    """Refuse what is of another type than `ZeroShotTask.on_save_checkpoint` writes."""
    stored = checkpoint[CHECKPOINT_KEY]
    plain = {key: value for key, value in stored.items() if key != "gradients"}
    plain |= {"options": checkpoint["hyper_parameters"]}
    for name, value in plain.items():
        if fault := not_plain(value):
            raise UserError(f"{name!s:.50}: found {fault}")
    stored = {"tallies": {}, **stored}  # the first checkpoints had none
    for name, kind in {"schedule": dict, "skipped": int, "tallies": dict, "gradients": dict}.items():
        if not isinstance(stored.get(name), kind):
            raise UserError(f"{name}: found {type(stored.get(name)).__name__}, expected {kind.__name__}")
    schedule = stored["schedule"]
    if not {"phases", "accumulate", "batches"} <= schedule.keys() or type(schedule["batches"]) is not int:
        raise UserError("schedule: found no phases, batches and accumulate")
    if not 0 <= schedule["batches"] < 2**53:
        raise UserError(f"schedule: found {schedule['batches']} batches")
    if not all(type(count) is int for count in stored["tallies"].values()):
        raise UserError("tallies: found other than whole numbers")
    for name in ("looked_up", "centered_on", "trained_parts"):
        value = stored.get(name, [])
        if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
            raise UserError(f"{name}: found other than a list of names")
    _check_tensors(stored["gradients"])


def _check_tensors(tensors: Mapping[Any, Any], size: int | None = None) -> None:
    """Refuse other than named dense tensors that have all their numbers in the file."""
    total = 0
    for name, value in tensors.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise UserError(f"found {name!r:.100} of {type(value).__name__} where named tensors belong")
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_nested:
            raise UserError(f"{name:.100}: found a sparse, quantised or nested tensor, or one without numbers")
        needed = value.numel() * value.element_size()
        total += needed
        if needed > value.untyped_storage().nbytes() or (size is not None and total > size):
            raise UserError(f"{name:.100}: found a tensor of {tuple(value.shape)}, larger than what is stored")


def stored_protocol(checkpoint: Mapping[str, Any]) -> Protocol:
    """Return the classes and split of a checkpoint."""
    return Protocol.from_dict(checkpoint[CHECKPOINT_KEY]["protocol"])


def stored_options(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a checkpoint as this version has them, see `compat`.

    Classes are apart, and options of each run alone are left out: a folder that a file from elsewhere names is not
    written to.
    """
    options = current_options(checkpoint["hyper_parameters"])
    return {name: value for name, value in options.items() if name not in ("protocol", "feature_cache")}


@contextmanager
def damage_named(what: str) -> Iterator[None]:
    """Turn whatever a network makes of values that `fit` did not write into one line that names the checkpoint."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{what}: {line_of(error)}") from error
    except Exception as error:
        raise UserError(
            f"{what} is damaged ({type(error).__name__}: {line_of(error)[:200]}): give a .ckpt file that `fit` wrote"
        ) from error


def has_teacher(state: Mapping[str, Any]) -> bool:
    """Tell whether a state was stored during self-training, with the teacher beside the student."""
    return any(key.startswith("teacher.") for key in state)


def check_fits(checkpoint: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose state is not that of a model.

    Raises:
        UserError: A name or a shape differs.
    """
    if fault := difference(kinds_of(checkpoint["state_dict"]), kinds_of(wanted)):
        version = checkpoint[CHECKPOINT_KEY].get("version")
        writer = f" ({version:.40})" if isinstance(version, str) else ""
        raise UserError(
            f"the checkpoint does not fit this model ({fault}): use the options and version of sign-zs3{writer} that "
            "it was trained with"
        )


def check_resumable(checkpoint: Mapping[str, Any]) -> None:
    """Refuse to go on with a training that this version cannot continue.

    Raises:
        UserError: The checkpoint has no state of a training, or was trained with an option that is gone.
    """
    if "optimizer_states" not in checkpoint:
        raise UserError(
            "ckpt_path: found a checkpoint without the state of a training, as extend, rename and remove write it: "
            "start from it with --model.init_from instead"
        )
    for name, value in stored_options(checkpoint).items():
        if name in RETIRED:
            raise UserError(
                f"ckpt_path: found {name} {value!r:.50}, which this version has not (it is always {RETIRED[name]!r}): "
                "go on with the version that wrote the checkpoint, or start from its weights with --model.init_from"
            )


# -- classes in another order ----------------------------------------------------------------------------------------


def is_by_class(key: str) -> bool:
    """Tell whether an entry of a task's state has a row per class."""
    return key == "class_vectors" or key.endswith(".known") or ".classifier." in key


def order_from(old: Protocol, new: Protocol) -> list[int] | None:
    """Return the number in `old` of each class of `new`; None: they do not have the same seen and unseen classes."""
    halves = [(set(p.classes[: p.num_seen]), set(p.classes[p.num_seen :])) for p in (old, new)]
    return [old.classes.index(name) for name in new.classes] if halves[0] == halves[1] else None


def in_order(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Return a task's state with its classes in the order of `order_from`."""
    return {key: value[list(rows)] if is_by_class(key) else value for key, value in state.items()}


def reorder(checkpoint: dict[str, Any], protocol: Protocol) -> None:
    """Put the classes of a checkpoint in the order of a protocol, where both have the same ones.

    A class that was taught by its name alone has its number from then, and data that come later have their own. A
    checkpoint in the middle of a training stays as it is, since its optimisers' state is in its own order.
    """
    rows = order_from(stored_protocol(checkpoint), protocol)
    if rows is None or "optimizer_states" in checkpoint:
        return
    own = checkpoint[CHECKPOINT_KEY]
    checkpoint["state_dict"] = in_order(checkpoint["state_dict"], rows)
    if "looked_up" in own:
        own["looked_up"] = [own["looked_up"][row] for row in rows]
    own["protocol"] = protocol.as_dict()
