"""What the verbs share that read a checkpoint and write another."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.errors import UserError
from sign_zs3.files import check_writable

if TYPE_CHECKING:
    from sign_zs3.tasks import ZeroShotTask

log = logging.getLogger(__name__)


def parser(verb: str, description: str, classes: str) -> VerbParser:
    """Make the parser of a verb with the options that all of them have."""
    made = VerbParser(verb, description=description)
    made.add_argument("--ckpt_path", required=True, metavar="FILE", help="checkpoint of a trained model")
    made.add_argument("--classes", required=True, help=classes)
    made.add_argument("--output", required=True, metavar="FILE", help="checkpoint to write")
    made.add_argument("--overwrite", action="store_true", help="replace the output where it exists")
    return made


def listed(text: str) -> list[str]:
    """Split names at commas, with brackets or quotes as lists of other options have them, or without."""
    bare = text.strip()
    bare = bare[1:-1] if bare.startswith("[") and bare.endswith("]") else bare
    return [name.strip().strip("\"'") for name in bare.split(",")]


def check_output(path: str, overwrite: bool, suffix: str = ".ckpt") -> Path:
    """Return the path of an output; a UserError where it exists and is not to be overwritten, or ends otherwise."""
    check_writable(path, suffix)
    if Path(path).exists() and not overwrite:
        raise UserError(f"--output: found {path}, which exists, expected a new file: name another, or give --overwrite")
    return Path(path)


def save(model: ZeroShotTask, output: Path) -> None:
    """Write the checkpoint, and say what it knows."""
    from sign_zs3.vocabulary import save_model

    save_model(model, output)
    if not model.schedule.done:
        log.info("the training is not complete, and cannot go on from this file: start from it with --model.init_from")
    protocol = model.protocol
    print(f"seen:     {', '.join(protocol.classes[: protocol.num_seen])}")
    print(f"unseen:   {', '.join(protocol.unseen_classes) or '-'}")
    print(f"written:  {output}")
