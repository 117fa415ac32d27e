"""New classes for a trained model, by their names alone."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.embeddings import ClassTable
from sign_zs3.errors import UserError
from sign_zs3.models.classifier import Classifier
from sign_zs3.protocol import IGNORE_INDEX, Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.generative import GenerativeTask
from sign_zs3.tasks.loading import load_task
from sign_zs3.tasks.schedule import counted_randomness
from sign_zs3.vocabulary.editing import check_new, rebuild
from sign_zs3.vocabulary.teaching import real_features, teach_rows


@torch.inference_mode(False)
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
    transfer step (eq. 10) is done again on C's new rows alone, with real features of seen classes beside them where
    there are data. C's rows of the old classes stay as they are, bit by bit, so that old classes can lose pixels to
    new ones, but not to each other; and the new ones' biases are lowered until they take no more than
    `teaching.MAX_TAKEN` of the features of old classes. SPNet's C is made of class vectors: its new classes need no
    training.

    Args:
        model: A trained model, or its checkpoint; it is not changed.
        classes: Names of the new classes, which count as unseen.
        vectors: Class vectors as the option of that name; None: the table of the training. It must hold the new
            classes, and some class of the training, which shows that it is the same table.
        data: Data with masks of the seen classes, such as those of the training.
        images: How many training images of `data` to read; None: as many as have `teaching.REAL_FEATURES` features.
        odds: How much likelier an unseen class is drawn than a seen one; None: the model's `unseen_odds`.
        seed: Random seed of the features that are drawn.

    Returns:
        A new model in evaluation mode, its unseen classes in the order of their ids.

    Raises:
        UserError: A name is there already or has no vector, the table is not that of the training, the model has no
            trained generator, an option is out of range, or `data` are of other classes or have no labelled pixel.
    """
    if images is not None and images < 1:
        raise UserError(f"images: found {images}, expected at least 1; raise it")
    if odds is not None and not 0 < odds < math.inf:
        raise UserError(f"odds: found {odds}, expected a number above 0, or none for the model's")
    old = model if isinstance(model, ZeroShotTask) else load_task(model)
    names = _new_names(old, classes)
    check_teachable(old)
    added = _added_vectors(old, names, vectors)
    protocol = _extended_protocol(old.protocol, names, None if data is None else data.protocol)
    before = [*old.protocol.classes, *names]
    new = rebuild(old, protocol, [before.index(name) for name in protocol.classes], names, added)
    if isinstance(new, GenerativeTask):
        rows = (~new.segmenter.known).nonzero()[:, 0].tolist()
        with counted_randomness(torch.device("cpu"), seed, "extension"):
            teach_rows(new, rows, None if data is None else real_features(new, data, images), odds)
        new.segmenter.known.fill_(True)
    return new.eval()


def check_teachable(model: ZeroShotTask) -> None:
    """Raise a `UserError` where a model has no generator to learn classes by name, or one that was never trained."""
    if not isinstance(model.segmenter.classifier, Classifier):
        return
    can = "it can predict, be exported, and have classes renamed or removed"
    if not isinstance(model, GenerativeTask):
        raise UserError(f"extend: found a {type(model).__name__} without a generator: {can}")
    if "generator" not in model.progress.trained_parts:
        advice = "take a checkpoint of the generator phase or a later one"
        raise UserError(f"extend: found a generator that was never trained: {can}; {advice}")


def _new_names(model: ZeroShotTask, classes: Sequence[str]) -> list[str]:
    names = [] if isinstance(classes, str) else [" ".join(name.split()) for name in classes]
    if not names or not all(names):
        what = f"the text {classes!r:.100}" if isinstance(classes, str) else "an empty name"
        raise UserError(f"classes: found {what}, expected a list of names of new classes, such as zebra and giraffe")
    for number, name in enumerate(names):
        check_new(name, model.protocol.classes)
        check_new(name, names[:number], "which is given twice")
    return names


def _added_vectors(model: ZeroShotTask, names: Sequence[str], vectors: str | ClassTable | None) -> Tensor:
    """Look the new classes up in the table of the training; the old ones' vectors show whether it is that table."""
    source = model.hparams["vectors"] if vectors is None else vectors
    if isinstance(source, ClassTable):
        table = source
    elif source == "bundled":
        table = ClassTable.bundled()
    elif Path(source).is_file():
        table = ClassTable.load(source)
    else:
        raise UserError(
            f"vectors: {source} is not there, expected the table of class vectors that the model was trained with; "
            "give its place as --vectors, or the word vectors that it was built from as --source"
        )
    # a class that was added from another table need not be in this one
    old = zip(model.progress.looked_up, model.class_vectors.cpu(), strict=True)
    compared = {name: vector for name, vector in old if table.has(name)}
    if not compared:
        raise UserError(
            f"vectors: found no class of the model in {table.origin}, which would show that it is the table of the "
            "training: give one that has them, too"
        )
    center = bool(model.hparams["center_vectors"])
    try:
        found = table.vectors([*compared, *names], center=center, center_on=model.progress.centered_on)
    except UserError as error:
        if vectors is not None:
            raise
        hint = "here by --vectors, or word vectors by --source"
        raise UserError(f"{str(error).removesuffix(' that has the words')} {hint}") from error
    for (name, before), vector in zip(compared.items(), found, strict=False):
        odd = None
        if vector.shape != before.shape:
            odd = f"{len(vector)} numbers per class in {table.origin}, expected the {len(before)} that"
        elif not torch.allclose(vector, before, atol=1e-5):
            odd = f"another vector for {name!r} in {table.origin} than"
        if odd is not None:
            raise UserError(f"vectors: found {odd} the model was trained with: give the table of the training")
    return found[len(compared) :]


def _extended_protocol(old: Protocol, names: Sequence[str], data: Protocol | None) -> Protocol:
    """Give ids to new classes: those of the data, or the next after the highest."""
    if data is not None and data.classes[: data.num_seen] != old.classes[: old.num_seen]:
        raise UserError(
            f"data: found {data.num_seen} seen classes of {data.dataset}, expected the {old.num_seen} of the model in "
            "the same order: give the data and split of its training"
        )
    known = {} if data is None else dict(zip(data.classes, data.ids, strict=True))
    ids = {name: known[name] for name in names if name in known}
    taken = {*old.ids, *ids.values(), *old.ignored_ids} - {IGNORE_INDEX}
    for name in names:
        if name not in ids:
            candidates = [*range(max(taken) + 1, IGNORE_INDEX), *range(IGNORE_INDEX)]
            free = next((number for number in candidates if number not in taken), None)
            if free is None:
                raise UserError(f"classes: found no free id for {name!r}, expected at most 255 classes; remove some")
            ids[name] = free
            taken.add(free)
    unseen = dict(zip(old.unseen_classes, old.ids[old.num_seen :], strict=True)) | ids
    # the order of `Protocol.build`, so that data with these classes fit
    ordered = sorted(unseen, key=unseen.__getitem__)
    return replace(
        old,
        classes=(*old.classes[: old.num_seen], *ordered),
        ids=(*old.ids[: old.num_seen], *(unseen[name] for name in ordered)),
        ignored_ids=tuple(number for number in old.ignored_ids if number not in ids.values()),
    )
