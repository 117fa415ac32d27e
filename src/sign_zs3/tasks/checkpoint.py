"""What this library adds to a Lightning checkpoint, and how it is read back: plain types and tensors only.

The library's own part lies under `CHECKPOINT_KEY`: format, version, method, protocol, schedule, counts, the parts that
were trained, where class vectors came from, and the gradient of an iteration that is not complete (`Progress.stored`).
"""

import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO
from torch import Tensor

from sign_zs3.compat import current_options
from sign_zs3.errors import UserError
from sign_zs3.files import check_archive, from_home, line_of, make_folder, not_plain, other_format
from sign_zs3.limits import MAX_PICKLE
from sign_zs3.models.weights import check_finite
from sign_zs3.protocol import Protocol

CHECKPOINT_KEY = "sign_zs3"
CHECKPOINT_FORMAT = 1
"""Raise it when an older version would misread the file; a new optional entry needs no new number."""
GIVE = "give a .ckpt file that `fit` or `extend` wrote"


def refusal(fault: str) -> UserError:
    """Return the error for a file that is no checkpoint to use."""
    return UserError(f"{fault}: {GIVE}")


# -- files ---------------------------------------------------------------------------------------------------------


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this library, opening its file once and never running code in it.

    Memory: at most three times what the file has, since nothing in it is packed and no tensor is larger than it.

    A `UserError` where it is not there, not plain types and tensors, not of this library, or a weight is not finite.
    """
    path = Path(from_home(path))
    what = f"checkpoint: {path}"
    if path.is_dir():
        fault = f"is a folder, expected a file, which holds all that training made: {GIVE}"
        raise UserError(f"{what} {fault}, from the checkpoints/ of its run")
    if not path.is_file():
        raise refusal(f"{what} is not there")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            # whatever else torch.load takes is a bare pickle
            if not zipfile.is_zipfile(file):
                raise refusal(f"{what} is damaged or no checkpoint (found {size} bytes, expected a zip archive)")
            check_archive(file)
            with zipfile.ZipFile(file) as archive:
                if any(p.filename.endswith(".pkl") and p.file_size > MAX_PICKLE for p in archive.infolist()):
                    raise ValueError(f"found more than {MAX_PICKLE:,} bytes beside the tensors")
                # torch does not compare a part with its checksum
                if (part := archive.testzip()) is not None:
                    raise refusal(f"{what} is damaged (found another checksum than its own in {part})")
            file.seek(0)
            checkpoint: dict[str, Any] = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own advice is to let the file run its code
        raise refusal(f"{what} holds more than tensors and plain values, and code in files is never run") from error
    except Exception as error:  # a broken file makes readers raise almost anything
        raise refusal(f"{what} cannot be read ({line_of(error)})") from error
    check_checkpoint(checkpoint, what, size)
    return checkpoint


def write_checkpoint(checkpoint: dict[str, Any], path: Path) -> None:
    """Write a checkpoint and fsync it, so that a crash cannot leave a renamed but empty file, or raise an `OSError`."""
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # of which torch itself says nothing
                raise error.__context__ from None
            raise
        file.flush()
        os.fsync(file.fileno())


class CheckpointFiles(TorchCheckpointIO):
    """How a trainer writes and reads checkpoints: whole files, no copy in memory, nothing in them run.

    What a command has read already (`hold`) is handed over once instead of being read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._read: tuple[Path, dict[str, Any]] | None = None

    def hold(self, path: Path, checkpoint: dict[str, Any]) -> None:
        """Keep a checkpoint for the one time that the trainer asks for it."""
        self._read = path, checkpoint

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write one file, down to the disk, and make its folder."""
        make_folder(Path(path).parent)
        write_checkpoint(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """Return a checkpoint, plain types and tensors alone."""
        held, self._read = self._read, None
        return held[1] if held is not None and held[0] == Path(path) else read_checkpoint(Path(path))


# -- what is stored ------------------------------------------------------------------------------------------------


def check_checkpoint(checkpoint: Any, what: str, size: int | None = None) -> None:
    """Refuse what `torch.load` gave where it is not of this library and format, damaged, or a weight is not finite.

    `what` names it in errors; `size` are the bytes of its file, where they are known.
    """
    own = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(own, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise refusal(f"{what} is not of sign-zs3")
    if (found := own.get("format")) != CHECKPOINT_FORMAT:
        otherwise = "give a .ckpt file that `fit` of this version wrote"
        raise UserError(f"{what}: {other_format(found, CHECKPOINT_FORMAT, otherwise, own.get('version'))}")
    parts = (own.get("protocol"), own.get("schedule"), checkpoint.get("hyper_parameters"))
    if not all(isinstance(part, dict) for part in parts) or not isinstance(own.get("method"), str):
        raise refusal(f"{what} is damaged (found no method, options and classes in it)")
    try:
        _check_plain(own, checkpoint["hyper_parameters"])
        _check_tensors(checkpoint["state_dict"], size)
        vectors, count = checkpoint["state_dict"].get("class_vectors"), stored_protocol(checkpoint).num_classes
        if len(own.get("looked_up", range(count))) != count:
            raise UserError("looked_up: found another number of names than classes")
        if vectors is None or vectors.ndim != 2 or len(vectors) != count or not vectors.is_floating_point():
            told = "none" if vectors is None else f"{vectors.dtype} {tuple(vectors.shape)}"
            raise UserError(f"found class vectors {told} for {count} classes")
    except (UserError, TypeError) as error:
        raise refusal(f"{what} is damaged ({line_of(error)})") from error
    check_finite(checkpoint["state_dict"], what)


def _check_plain(own: Mapping[str, Any], options: Mapping[str, Any]) -> None:
    """Refuse what is of another type than `Progress.stored` writes."""
    for name, value in {**own, "options": options, "gradients": None}.items():
        if fault := not_plain(value):
            raise UserError(f"{name!s:.50}: found {fault}")
    own = {"tallies": {}, "nonfinite": 0, **own}  # the first checkpoints had none
    kinds = {"schedule": dict, "skipped": int, "nonfinite": int, "tallies": dict, "gradients": dict}
    for name, kind in kinds.items():
        if not isinstance(own.get(name), kind):
            raise UserError(f"{name}: found {type(own.get(name)).__name__}, expected {kind.__name__}")
    schedule = own["schedule"]
    if not {"phases", "accumulate", "batches"} <= schedule.keys() or type(schedule["batches"]) is not int:
        raise UserError("schedule: found no phases, batches and accumulate")
    if not 0 <= schedule["batches"] < 2**53:
        raise UserError(f"schedule: found {schedule['batches']} batches")
    phases = schedule["phases"] if isinstance(schedule["phases"], list) else [()]
    if type(schedule["accumulate"]) is not int or schedule["accumulate"] < 1 or not phases or not all(
        isinstance(phase, (list, tuple)) and [type(x) for x in phase] == [str, str, int] for phase in phases
    ):  # fmt: skip
        raise UserError("schedule: found other than phases of a name, a kind and iterations, or accumulate below 1")
    if not all(type(count) is int for count in own["tallies"].values()):
        raise UserError("tallies: found other than whole numbers")
    for name in ("looked_up", "centered_on", "trained_parts"):
        value = own.get(name, [])
        if not isinstance(value, (list, tuple)) or not all(isinstance(text, str) for text in value):
            raise UserError(f"{name}: found other than a list of names")
    _check_tensors(own["gradients"])


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
    """Return the hyperparameters of a checkpoint as this version has them, see `compat`; classes are apart.

    A folder that a file from elsewhere names is not written to.
    """
    options = current_options(checkpoint["hyper_parameters"])
    return {name: value for name, value in options.items() if name not in ("protocol", "feature_cache")}


def has_teacher(state: Mapping[str, Any]) -> bool:
    """Tell whether a state was stored during self-training, with the teacher beside the student."""
    return any(key.startswith("teacher.") for key in state)
