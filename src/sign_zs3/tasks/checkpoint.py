"""What this library adds to a Lightning checkpoint, and how it is read back: plain types and tensors only."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_zs3.data.protocol import Protocol
from sign_zs3.errors import UserError
from sign_zs3.files import other_format

CHECKPOINT_KEY = "sign_zs3"
CHECKPOINT_FORMAT = 1
"""Raised where an earlier version would misread a checkpoint; what is new and may be missing needs no other number."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this library, never running code in it.

    Raises:
        UserError: Not there, not readable as plain types and tensors, or not of this library.
    """
    if path.is_dir():
        raise UserError(
            f"checkpoint: {path} is a folder, expected a file, which holds all that training made: give a .ckpt file "
            "that `fit` wrote, from the checkpoints/ of its run"
        )
    if not path.is_file():
        raise UserError(f"checkpoint: {path} is not there: give the path of a .ckpt file that `fit` wrote")
    # what else torch.load takes are bare pickles
    if not zipfile.is_zipfile(path):
        raise UserError(
            f"checkpoint: {path} is damaged or no checkpoint (found {path.stat().st_size} bytes, expected a zip "
            "archive): give a .ckpt file that `fit` wrote"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            # torch does not compare a part with its checksum
            if (part := archive.testzip()) is not None:
                raise UserError(
                    f"checkpoint: {path} is damaged (found another checksum than its own in {part}): give a .ckpt file "
                    "that `fit` wrote"
                )
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except pickle.UnpicklingError as error:
        # torch's own advice is to let the file run its code
        raise UserError(
            f"checkpoint: {path} holds more than tensors and plain values, and code in files is never run: give a "
            ".ckpt file that `fit` wrote"
        ) from error
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint: {path} cannot be read ({reason}): give a .ckpt file that `fit` wrote") from error
    stored_part(checkpoint, f"checkpoint: {path}")
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


def stored_part(checkpoint: Any, what: str) -> dict[str, Any]:
    """Return the library's own part of a checkpoint; `what` names the checkpoint in errors.

    Raises:
        UserError: It is not of this library, or of another format.
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
    return stored


def stored_protocol(checkpoint: dict[str, Any]) -> Protocol:
    """Return the classes and split of a checkpoint."""
    fields: Any = checkpoint[CHECKPOINT_KEY]["protocol"]
    plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Protocol(**plain)


def as_plain(protocol: Protocol) -> dict[str, Any]:
    """Return a protocol as plain types, for `stored_protocol`."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(protocol).items()}


def misfit(state: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> str | None:
    """Say what a checkpoint's state holds in place of what a model expects; None: it is of such a model."""
    for key in sorted(state.keys() | wanted.keys()):
        found, expected = (
            tuple(s[key].shape) if isinstance(s.get(key), Tensor) else "nothing" for s in (state, wanted)
        )
        if found != expected:
            return f"{found} for {key}, this model expects {expected}"
    return None


def is_by_class(key: str) -> bool:
    """Say whether an entry of a task's state has a row per class."""
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
    own["protocol"] = as_plain(protocol)
