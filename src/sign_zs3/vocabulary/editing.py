"""Classes of a trained model renamed, removed and weighed, by way of its checkpoint in memory; nothing is trained."""

import copy
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_zs3.embeddings.spelling import canonical
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import replacing
from sign_zs3.models.classifier import Classifier
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.building import is_by_class
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, write_checkpoint
from sign_zs3.tasks.loading import task_of


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
    `names`, with class vectors (len(names), W), which are not `known` and have zero rows in C, or with
    `unit_features` their vectors.
    """
    checkpoint = copy.deepcopy(as_checkpoint(old))
    state, own = checkpoint["state_dict"], checkpoint[CHECKPOINT_KEY]
    for key in filter(is_by_class, list(state)):
        added = state[key].new_zeros(len(names), *state[key].shape[1:])
        if vectors is not None and key in ("class_vectors", "segmenter.classifier.vectors"):
            added.copy_(vectors)
        if vectors is not None and old.hparams["unit_features"] and key.endswith("classifier.projection.weight"):
            added.copy_(vectors[:, :, None, None])
        state[key] = torch.cat([state[key], added])[list(rows)]
    if "segmenter.classifier.vectors" in state:
        # a C that is made of class vectors knows every class
        state["segmenter.known"].fill_(True)
    own["protocol"] = protocol.as_dict()
    own["looked_up"] = [[*old.progress.looked_up, *names][row] for row in rows]
    return task_of(checkpoint, "the model")


def rename(model: ZeroShotTask, names: Mapping[str, str]) -> ZeroShotTask:
    """Return a new model with other names (old -> new) for its classes, and the same weights and class vectors.

    Raises:
        UserError: A class is not there, or two would have one name.
    """
    protocol = model.protocol
    _check_known(protocol.classes, names)
    given = {old: " ".join(new.split()) for old, new in names.items()}
    if not all(given.values()):
        raise UserError("rename: found an empty name, expected OLD=NEW: give a name")
    others = [name for name in protocol.classes if name not in given]
    for name in given.values():
        check_new(name, others)
        others.append(name)
    renamed = replace(protocol, classes=tuple(given.get(name, name) for name in protocol.classes))
    return rebuild(model, renamed, range(protocol.num_classes))


def remove(model: ZeroShotTask, classes: Sequence[str]) -> ZeroShotTask:
    """Return a new model without some of its classes, given by name; their ids become ignored ones.

    Raises:
        UserError: A class is not there, or no seen class is left.
    """
    protocol = model.protocol
    _check_known(protocol.classes, classes)
    kept = [row for row, name in enumerate(protocol.classes) if name not in classes]
    num_seen = sum(row < protocol.num_seen for row in kept)
    if not num_seen:
        found = f"all {protocol.num_seen} seen classes in the list"
        raise UserError(f"remove: found {found}, expected that one is left: shorten it")
    names = tuple(protocol.classes[row] for row in kept)
    ids = tuple(protocol.ids[row] for row in kept)
    ignored = tuple(sorted({*protocol.ignored_ids, *protocol.ids}.difference(ids)))
    return rebuild(model, replace(protocol, classes=names, ids=ids, num_seen=num_seen, ignored_ids=ignored), kept)


def weigh(model: ZeroShotTask, weights: Mapping[str, float]) -> ZeroShotTask:
    """Return a new model in which the odds of some classes, given by name, are multiplied at every pixel.

    With 2 a class is twice as likely as before against any other. The logarithm is added to its bias in C.

    Raises:
        UserError: A class is not there, a weight is not a number above 0, or C has no biases, as SPNet's.
    """
    check_weights(model, weights, model.protocol.classes)
    new = rebuild(model, model.protocol, range(model.protocol.num_classes))
    rows = {model.protocol.classes.index(name): math.log(weight) for name, weight in weights.items()}
    new.segmenter = with_bonuses(new.segmenter, rows)
    return new.eval()


def check_weights(model: ZeroShotTask, weights: Mapping[str, float], classes: Sequence[str]) -> None:
    """Refuse weights that `weigh` cannot give to a model that knows these classes."""
    _check_known(classes, weights)
    for name, weight in weights.items():
        if not isinstance(weight, int | float) or not 0 < weight < math.inf:
            raise UserError(f"weight: found {weight!r} for {name!r}, expected a number above 0, as 2 for double odds")
    if weights and not isinstance(model.segmenter.classifier, Classifier):
        raise UserError("weight: found SPNet's classifier, which has no biases, expected another one: leave it out")


@torch.no_grad()
def with_bonuses(segmenter: Segmenter, bonuses: Mapping[int, float]) -> Segmenter:
    """Return a segmenter that adds bonuses to the logits of some classes; it shares all parts but C."""
    twin, classifier = copy.copy(segmenter), copy.deepcopy(segmenter.classifier)
    for row, bonus in bonuses.items():
        assert isinstance(classifier, Classifier) and classifier.projection.bias is not None
        classifier.projection.bias[row] += bonus
    twin._modules = {**segmenter._modules, "classifier": classifier}
    return twin


def check_new(name: str, others: Sequence[str], what: str = "which the model has already") -> None:
    """Refuse a name whose class vector would be that of another class, since it differs in spelling alone."""
    for other in others:
        if canonical(name) == canonical(other):
            also = "" if name == other else f" as {other!r}"
            raise UserError(f"classes: found {name!r}, {what}{also}, expected another class; leave it out")


def _check_known(classes: Sequence[str], names: Iterable[str]) -> None:
    for name in names:
        if name not in classes:
            hint = did_you_mean(name, classes, otherwise="; correct the name")
            expected = f"one of the model's {len(classes)} classes, {', '.join(classes)}"
            raise UserError(
                f"classes: found {name!r}, expected {textwrap.shorten(expected, 400, placeholder=' ...')}{hint}"
            )
