"""What this library adds to a Lightning checkpoint, and how it is read back: plain types and tensors only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from sign_zs3.data.protocol import Protocol
from sign_zs3.errors import UserError

CHECKPOINT_KEY = "sign_zs3"
CHECKPOINT_FORMAT = 1


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint of this library, never running code in it.

    Raises:
        UserError: Not there, not readable as plain types and tensors, or not of this library.
    """
    if not path.is_file():
        raise UserError(f"checkpoint: {path} is not there: give the path of a .ckpt file that `fit` wrote")
    try:
        checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(f"checkpoint: {path} cannot be read ({reason}): give a .ckpt file that `fit` wrote") from error
    stored_part(checkpoint, f"checkpoint: {path}")
    return checkpoint


def stored_part(checkpoint: Any, what: str) -> dict[str, Any]:
    """Return the library's own part of a checkpoint; `what` names the checkpoint in errors.

    Raises:
        UserError: It is not of this library, or of another format.
    """
    stored = checkpoint.get(CHECKPOINT_KEY) if isinstance(checkpoint, dict) else None
    if not isinstance(stored, dict) or "state_dict" not in checkpoint:
        raise UserError(f"{what} is not of sign-zs3: give a .ckpt file that `fit` wrote")
    if stored.get("format") != CHECKPOINT_FORMAT:
        raise UserError(
            f"{what} has format {stored.get('format')}, this version reads {CHECKPOINT_FORMAT}: install the version "
            "that wrote it"
        )
    return stored


def stored_protocol(checkpoint: dict[str, Any]) -> Protocol:
    """Return the classes and split of a checkpoint."""
    fields: Any = checkpoint[CHECKPOINT_KEY]["protocol"]
    plain: Any = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return Protocol(**plain)
