"""A model in memory as a checkpoint, and as a model of other classes."""

import copy
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_zs3.files import replacing
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, write_checkpoint
from sign_zs3.tasks.loading import task_of
from sign_zs3.tasks.matching import is_by_class


def save_model(model: ZeroShotTask, path: str | Path) -> None:
    """Write a built model as a checkpoint that `test`, `predict` and `load_task` read, and runs start from."""
    with replacing(Path(path)) as beside:
        write_checkpoint(as_checkpoint(model), beside)


def as_checkpoint(model: ZeroShotTask) -> dict[str, Any]:
    """Return what a checkpoint of a model holds, without the state of a training."""
    checkpoint: dict[str, Any] = {
        "state_dict": {key: value for key, value in model.state_dict().items() if not key.startswith("teacher.")},
        "hyper_parameters": dict(model.hparams),
        "pytorch-lightning_version": version("pytorch-lightning"),
        "epoch": 0,
        "global_step": 0,
    }
    model.on_save_checkpoint(checkpoint)
    checkpoint[CHECKPOINT_KEY]["gradients"] = {}
    return checkpoint


def rebuild(
    old: ZeroShotTask, protocol: Protocol, rows: Sequence[int], names: Sequence[str] = (), vectors: Tensor | None = None
) -> ZeroShotTask:
    """Make a model, on the CPU, of other classes from a model, which is not changed.

    For each class of `protocol`, `rows` has its number in the old model, whose C classes are followed by new ones:
    `names`, with class vectors (len(names), W), which are not `known` and have zero rows in C.
    """
    checkpoint = copy.deepcopy(as_checkpoint(old))
    state, own = checkpoint["state_dict"], checkpoint[CHECKPOINT_KEY]
    for key in filter(is_by_class, list(state)):
        added = state[key].new_zeros(len(names), *state[key].shape[1:])
        if vectors is not None and key in ("class_vectors", "segmenter.classifier.vectors"):
            added.copy_(vectors)
        state[key] = torch.cat([state[key], added])[list(rows)]
    if "segmenter.classifier.vectors" in state:
        # a C that is made of class vectors knows every class
        state["segmenter.known"].fill_(True)
    own["protocol"] = protocol.as_dict()
    own["looked_up"] = [[*old.progress.looked_up, *names][row] for row in rows]
    return task_of(checkpoint, "the model")
