"""Classes of a trained model: added by name alone, renamed, removed."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.embeddings import ClassTable
from sign_zs3.embeddings.spelling import canonical
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import replacing
from sign_zs3.models.classifier import Classifier
from sign_zs3.protocol import IGNORE_INDEX, Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, is_by_class, write_checkpoint
from sign_zs3.tasks.generative import GenerativeTask
from sign_zs3.tasks.loading import load_task, task_of
from sign_zs3.tasks.schedule import counted_randomness
from sign_zs3.vocabulary.teaching import real_features, teach_rows

log = logging.getLogger(__name__)


def extend(
    model: ZeroShotTask | str | Path,
    classes: Sequence[str],
    *,
    vectors: str | ClassTable | None = None,
    data: ZeroShotDataModule | None = None,
    images: int | None = None,
    odds: float | None = None,
    seed: int = 0,
) -> ZeroShotTask:
    """Teach a trained model classes by their names alone.

    The generator that the model was trained with makes features of all classes from their class vectors, and the
    transfer step (eq. 10) is done again on C's new rows alone, where there are data with real features of seen classes
    as well, as many of each class at most. C's rows of the old classes stay as they are, bit by bit, so that old
    classes can lose pixels to new ones, but not to each other; and the new ones' biases are lowered until they take
    no more than `teaching.TAKEN` of the features of old classes. SPNet's C is made of class vectors: its new classes
    need no training.

    Args:
        model: A trained model, or its checkpoint; it is not changed.
        classes: Names of the new classes, which count as unseen.
        vectors: Class vectors as the option of that name; None: the table that the model was trained with. It must
            hold the new classes, and some class of the training, by which it is told that it is the same table.
        data: Data with masks of the seen classes, such as those of the training.
        images: How many training images of `data` to read; None: as many as have `teaching.REAL` features together.
        odds: How much likelier an unseen class is drawn than a seen one; None: the model's
            `unseen_odds`.
        seed: Decides which features are drawn.

    Returns:
        A new model in evaluation mode, the new classes last among its unseen ones.

    Raises:
        UserError: A name is there already or has no vector, the table is another one than that of the training, the
            model has no generator that was trained, an option is out of range, or `data` are of other classes or
            have no labelled pixel.
    """
    if images is not None and images < 1:
        raise UserError(f"images: found {images}, expected at least 1; raise it")
    if odds is not None and not 0 < odds < math.inf:
        raise UserError(f"odds: found {odds}, expected a number above 0, or none for the model's")
    old = model if isinstance(model, ZeroShotTask) else load_task(model)
    names = _new_names(old, classes)
    check_teachable(old)
    added = _added_vectors(old, names, vectors)
    protocol = _extended_protocol(old, names, data)
    kept = {name: row for row, name in enumerate(old.protocol.classes)}
    new_rows = dict(zip(names, added, strict=True))
    model = rebuild(old, protocol, [kept.get(name) for name in protocol.classes], new_rows)
    if isinstance(model, GenerativeTask):
        rows = [row for row, name in enumerate(protocol.classes) if not bool(model.segmenter.known[row])]
        with counted_randomness(torch.device("cpu"), seed, "extension"):
            teach_rows(model, rows, None if data is None else real_features(model, data, images), odds)
        model.segmenter.known.fill_(True)
    return model.eval()


def rename(model: ZeroShotTask, names: Mapping[str, str]) -> ZeroShotTask:
    """Give classes other names; weights and class vectors stay.

    Args:
        model: A trained model; it is not changed.
        names: Old name -> new name.

    Raises:
        UserError: A class is not there, or two would have one name.
    """
    protocol = model.protocol
    for name in names:
        _check_known(protocol, name)
    given = {old: " ".join(new.split()) for old, new in names.items()}
    if not all(given.values()):
        raise UserError("rename: found an empty name, expected OLD=NEW: give a name")
    kept = [name for name in protocol.classes if name not in given]
    for number, name in enumerate(given.values()):
        _check_new(name, [*kept, *list(given.values())[:number]])
    renamed = replace(protocol, classes=tuple(given.get(name, name) for name in protocol.classes))
    return rebuild(model, renamed, list(range(protocol.num_classes)))


def remove(model: ZeroShotTask, classes: Sequence[str]) -> ZeroShotTask:
    """Take classes out of the vocabulary; their own ids become ignored ones.

    Args:
        model: A trained model; it is not changed.
        classes: Their names.

    Raises:
        UserError: A class is not there, or no seen class is left.
    """
    protocol = model.protocol
    for name in classes:
        _check_known(protocol, name)
    kept = [row for row, name in enumerate(protocol.classes) if name not in classes]
    num_seen = sum(row < protocol.num_seen for row in kept)
    if not num_seen:
        raise UserError(
            f"remove: found all {protocol.num_seen} seen classes in the list, expected that one is left: shorten it"
        )
    left = replace(
        protocol,
        classes=tuple(protocol.classes[row] for row in kept),
        ids=tuple(protocol.ids[row] for row in kept),
        num_seen=num_seen,
        ignored_ids=tuple(sorted({*protocol.ignored_ids, *(set(protocol.ids) - {protocol.ids[row] for row in kept})})),
    )
    return rebuild(model, left, kept)


def save_model(model: ZeroShotTask, path: str | Path) -> None:
    """Write a model as a checkpoint that `test`, `predict` and `load_task` read, and runs start from (`init_from`).

    Args:
        model: A built model, of a training or not.
        path: The file, written beside its place first.
    """
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


def check_teachable(model: ZeroShotTask) -> None:
    """Refuse a model that cannot learn classes by name.

    Raises:
        UserError: It has no generator, or one that was never trained.
    """
    if not isinstance(model.segmenter.classifier, Classifier):
        return
    can = "it can predict, be exported, and have classes renamed or removed"
    if not isinstance(model, GenerativeTask):
        raise UserError(f"extend: found a {type(model).__name__} without a generator: {can}")
    if "generator" not in model.progress.trained_parts:
        raise UserError(
            f"extend: found a generator that was never trained: {can}; take a checkpoint of the generator phase or a "
            "later one"
        )


# -- the same model with other classes -------------------------------------------------------------------------------


def rebuild(
    old: ZeroShotTask, protocol: Protocol, rows: Sequence[int | None], vectors: Mapping[str, Tensor] | None = None
) -> ZeroShotTask:
    """Make a model of other classes from a model.

    Args:
        old: The model; it is not changed.
        protocol: The new classes.
        rows: For each of them its number in the old model; None for a class that it does not have.
        vectors: Name -> (W,) class vector of the latter.

    Returns:
        The model; what it does not know is not `known`, with zero rows in C.
    """
    checkpoint = copy.deepcopy(as_checkpoint(old))
    state = checkpoint["state_dict"]
    for key in filter(is_by_class, list(state)):
        before = state[key]
        after = before.new_zeros(len(rows), *before.shape[1:])
        for row, number in enumerate(rows):
            if number is not None:
                after[row] = before[number]
            elif key in ("class_vectors", "segmenter.classifier.vectors"):
                after[row] = (vectors or {})[protocol.classes[row]]
        state[key] = after
    if "segmenter.classifier.vectors" in state:
        state["segmenter.known"].fill_(True)
    checkpoint[CHECKPOINT_KEY]["protocol"] = protocol.as_dict()
    looked_up = old.progress.looked_up
    checkpoint[CHECKPOINT_KEY]["looked_up"] = [
        protocol.classes[row] if number is None else looked_up[number] for row, number in enumerate(rows)
    ]
    return task_of(checkpoint, "the model")


def _check_known(protocol: Protocol, name: str) -> None:
    if name not in protocol.classes:
        hint = did_you_mean(name, protocol.classes, otherwise="; correct the name")
        raise UserError(f"classes: found {name!r}, expected one of {', '.join(protocol.classes)}{hint}")


def _new_names(model: ZeroShotTask, classes: Sequence[str]) -> list[str]:
    names = [] if isinstance(classes, str) else [" ".join(name.split()) for name in classes]
    if not names or not all(names):
        what = f"the text {classes!r:.100}" if isinstance(classes, str) else "an empty name"
        raise UserError(f"classes: found {what}, expected a list of names of new classes, such as zebra and giraffe")
    for number, name in enumerate(names):
        _check_new(name, model.protocol.classes)
        _check_new(name, names[:number], "which is given twice")
    return names


def _check_new(name: str, others: Sequence[str], what: str = "which the model has already") -> None:
    """Refuse a name whose class vector would be that of another class, since it differs in spelling alone."""
    for other in others:
        if canonical(name) == canonical(other):
            also = "" if name == other else f" as {other!r}"
            raise UserError(f"classes: found {name!r}, {what}{also}, expected another class; leave it out")


def _added_vectors(model: ZeroShotTask, names: Sequence[str], vectors: str | ClassTable | None) -> Tensor:
    """Look the new classes up in the table of the training, and see by the old ones that it is that table."""
    source = model.hparams["vectors"] if vectors is None else vectors
    if isinstance(source, ClassTable):
        table = source
    elif source != "bundled" and not Path(source).is_file():
        raise UserError(
            f"vectors: {source} is not there, expected the table of class vectors that the model was trained with; "
            "give its place as --vectors, or the word vectors that it was built from as --source"
        )
    else:
        table = ClassTable.bundled() if source == "bundled" else ClassTable.load(source)
    # classes that were added from elsewhere since need not be in it
    compared = {name: before for name, before in zip(model.progress.looked_up, model.class_vectors.cpu(), strict=True)
                if table.has(name)}  # fmt: skip
    if not compared:
        raise UserError(
            f"vectors: found no class of the model in {table.origin}, by which to tell that it is the table of the "
            "training: give one that has them, too"
        )
    try:
        found = table.vectors(
            [*compared, *names], center=bool(model.hparams["center_vectors"]), center_on=model.progress.centered_on
        )
    except UserError as error:
        if vectors is not None:
            raise
        hint = "here by --vectors, or word vectors by --source"
        raise UserError(f"{str(error).removesuffix(' that has the words')} {hint}") from error
    for (name, before), row in zip(compared.items(), found, strict=False):
        if row.shape != before.shape:
            raise UserError(
                f"vectors: found {len(row)} numbers per class in {table.origin}, expected the {len(before)} that the "
                "model was trained with: give the table of the training"
            )
        if not torch.allclose(row, before, atol=1e-5):
            raise UserError(
                f"vectors: found another vector for {name!r} in {table.origin} than the model was trained with: give "
                "the table of the training"
            )
    return found[len(compared) :]


def _extended_protocol(model: ZeroShotTask, names: Sequence[str], data: ZeroShotDataModule | None) -> Protocol:
    """Number the new classes as the data do, or on from the highest id."""
    old = model.protocol
    known = {} if data is None else dict(zip(data.protocol.classes, data.protocol.ids, strict=True))
    if data is not None and data.protocol.classes[: data.protocol.num_seen] != old.classes[: old.num_seen]:
        raise UserError(
            f"data: found {data.protocol.num_seen} seen classes of {data.protocol.dataset}, expected the "
            f"{old.num_seen} of the model in the same order: give the data and split of its training"
        )
    ids = {name: known[name] for name in names if name in known}
    taken = {*old.ids, *ids.values(), *(i for i in old.ignored_ids if i != IGNORE_INDEX)}
    for name in names:
        if name not in ids:
            free = next(
                (i for i in [*range(max(taken) + 1, IGNORE_INDEX), *range(IGNORE_INDEX)] if i not in taken), None
            )
            if free is None:
                raise UserError(f"classes: found no free id for {name!r}, expected at most 255 classes; remove some")
            ids[name] = free
            taken.add(free)
    unseen = dict(zip(old.classes[old.num_seen :], old.ids[old.num_seen :], strict=True)) | ids
    # the order of `Protocol.build`, so that data with these classes fit
    ordered = sorted(unseen, key=lambda name: unseen[name])
    return replace(
        old,
        classes=(*old.classes[: old.num_seen], *ordered),
        ids=(*old.ids[: old.num_seen], *(unseen[name] for name in ordered)),
        ignored_ids=tuple(i for i in old.ignored_ids if i not in ids.values()),
    )


# -- self-training on images without masks ---------------------------------------------------------------------------


def self_train(
    model: ZeroShotTask,
    images: Sequence[str | Path],
    *,
    iterations: int = 200,
    batch_size: int = 8,
    crop_size: int | None = None,
    accelerator: str = "auto",
    progress: bool = False,
) -> ZeroShotTask:
    """Train a model further on images without masks, by its own self-training over all classes.

    Every pixel gets the teacher's best class, weighed by eq. 17 or cut as the model's options say. G is not trained: no
    label tells it what a feature belongs to.

    Args:
        model: A model that knows all its classes, such as `extend` returns; it is not changed.
        images: Image files, or folders of them.
        iterations: Length.
        batch_size: Crops per iteration.
        crop_size: Side of the crops in pixels; None: 321, or less where no image is larger.
        accelerator: As Lightning's Trainer has it.
        progress: Show a progress bar.

    Returns:
        A new model in evaluation mode.

    Raises:
        UserError: No image is found, one cannot be read, or the model cannot be self-trained.
    """
    import pytorch_lightning as pl

    from sign_zs3.callbacks import ScheduleProgressBar
    from sign_zs3.data.datamodules.unlabelled import UnlabelledDataModule

    if iterations < 1:
        raise UserError(f"iterations: found {iterations}, expected at least 1; raise it")
    if not bool(model.segmenter.known.all()):
        raise UserError("self_train: found classes that C was never taught: transfer or extend the model first")
    data = UnlabelledDataModule(
        model.protocol, images, crop_size=crop_size, batch_size=batch_size, seed=int(model.hparams["seed"])
    )
    options = dict(model.hparams) | {
        "phases": ["self_training"], "self_training_iterations": iterations, "pseudo_classes": "all", "rounds": 1,
        "feature_cache": None, "init_from": None, "accumulate": 1, "resolution": "label",
    }  # fmt: skip
    if options["self_training"] == "none":
        options["self_training"] = "annealed"
    checkpoint = copy.deepcopy(as_checkpoint(model))
    student = type(model)(**options)
    checkpoint[CHECKPOINT_KEY]["schedule"] = student.schedule.state_dict() | {"batches": 0}
    checkpoint["hyper_parameters"] = options
    student = task_of(checkpoint, "the model")
    trainer = pl.Trainer(
        max_epochs=-1, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, enable_progress_bar=progress,
        callbacks=[ScheduleProgressBar()] if progress else [],
    )  # fmt: skip
    trainer.fit(student, data)
    trained = as_checkpoint(model)
    trained["state_dict"] = {k: v for k, v in student.cpu().state_dict().items() if not k.startswith("teacher.")}
    return task_of(copy.deepcopy(trained), "the model")
