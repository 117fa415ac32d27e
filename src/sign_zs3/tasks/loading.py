"""Models from files, whatever method they were trained with."""

from pathlib import Path
from typing import Any

from sign_zs3.errors import UserError
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.cagnet import CaGNetModule
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, read_checkpoint
from sign_zs3.tasks.sign import SIGNModule
from sign_zs3.tasks.spnet import SPNetModule
from sign_zs3.tasks.zs3 import ZS3Module

METHODS: dict[str, type[ZeroShotTask]] = {
    "SPNet": SPNetModule,
    "ZS3": ZS3Module,
    "CaGNet": CaGNetModule,
    "SIGN": SIGNModule,
}


def stored_method(checkpoint: dict[str, Any], what: str = "checkpoint") -> str:
    """Return the method of a checkpoint, a key of `METHODS`, or refuse another; `what` names it in errors."""
    stored = str(checkpoint[CHECKPOINT_KEY]["method"]).removesuffix("Module")
    if stored not in METHODS:
        raise UserError(f"{what}: found the method {stored}, expected one of {', '.join(METHODS)}")
    return stored


def load_task(path: str | Path) -> ZeroShotTask:
    """Load the whole model of a checkpoint: segmenter, class vectors and, where there is one, the generator.

    `path` is a ``.ckpt`` file that `fit` or `extend` wrote; the model is on the CPU, in evaluation mode.

    Raises:
        UserError: Not there, damaged, or not of this library.
    """
    return task_of(read_checkpoint(Path(path)), f"checkpoint: {path}")


def task_of(checkpoint: dict[str, Any], what: str) -> ZeroShotTask:
    """Build the model that a checkpoint in memory holds; `what` names it in errors."""
    return METHODS[stored_method(checkpoint, what)].restored(checkpoint, what)


def load_segmenter(path: str | Path) -> Segmenter:
    """Load what inference needs from a ``.ckpt`` file, or from a folder that `Segmenter.save_pretrained` wrote.

    The segmenter is on the CPU, in evaluation mode; its `config` names the classes. Errors are those of `load_task`.
    """
    return Segmenter.from_pretrained(Path(path)) if Path(path).is_dir() else load_task(path).segmenter
