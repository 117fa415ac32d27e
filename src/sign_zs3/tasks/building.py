"""What a model is built from, and whether a checkpoint suits it: the same classes, in whatever order, and weights."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from inspect import isabstract
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sign_zs3.compat import RETIRED
from sign_zs3.embeddings.table import class_vectors
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.models.backbones.build import CLIP
from sign_zs3.models.config import SegmenterConfig
from sign_zs3.models.weights import difference, kinds_of, on_meta
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, has_teacher, read_checkpoint, stored_options, stored_protocol

log = logging.getLogger(__name__)


def check_resumable(checkpoint: Mapping[str, Any]) -> None:
    """Refuse a checkpoint without optimisers' state, or with an option that is no longer one."""
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


def check_classes(mine: Protocol, other: Protocol, where: str) -> None:
    """Refuse data or a checkpoint whose names, order or split of classes are not a model's; `where` names them."""
    if (mine.classes, mine.num_seen) == (other.classes, other.num_seen):
        return
    odd = sorted({*mine.classes} ^ {*other.classes})
    fault = f"classes in one alone: {', '.join(odd[:5])}" if odd else "the same names, split or ordered otherwise"
    raise UserError(
        f"classes: {where} has {other.num_seen} seen and {len(other.unseen)} unseen, the model {mine.num_seen} and "
        f"{len(mine.unseen)} ({fault}): use the data and split that the checkpoint was trained with"
    )


def options_from(checkpoint: Mapping[str, Any], task: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a task's class, the classes included, that a checkpoint holds; `given` ones come first."""
    if isabstract(task):
        raise UserError(f"{task.__name__}: found no method, expected one such as SIGNModule: use it, or load_task")
    if (stored := checkpoint[CHECKPOINT_KEY]["method"]) not in {kind.__name__ for kind in task.__mro__}:
        raise UserError(f"found a model of {stored:.50}, expected one of {task.__name__}: use load_task")
    known = task.defaults().keys() - {"protocol"}
    if odd := [name for name in given if name not in known]:
        raise UserError(f"{odd[0]}: found no such option of {task.__name__}{did_you_mean(odd[0], known)}")
    options = {name: value for name, value in stored_options(checkpoint).items() if name in known}
    return options | dict(given) | {"protocol": stored_protocol(checkpoint).as_dict()}


def expected_state(task: Any, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state, without numbers, of the networks that a task's options make, and run them on a small image."""

    def make() -> Any:
        twin = type(task)(**{name: task.hparams[name] for name in task.defaults()})
        twin.class_vectors = torch.zeros(state["class_vectors"].shape)
        twin.build_networks(state["class_vectors"].shape[1], None)
        twin.set_teacher(has_teacher(state))
        return twin

    state_without_numbers: dict[str, Tensor] = on_meta(make, lambda twin: twin.segmenter).state_dict()
    return state_without_numbers


def check_fits(checkpoint: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Refuse a checkpoint whose state differs from that of a model in a name or a shape."""
    if fault := difference(kinds_of(checkpoint["state_dict"]), kinds_of(wanted)):
        version = checkpoint[CHECKPOINT_KEY].get("version")
        writer = f" ({version:.40})" if isinstance(version, str) else ""
        raise UserError(
            f"the checkpoint does not fit this model ({fault}): use the options and version of sign-zs3{writer} that "
            "it was trained with"
        )


def is_by_class(key: str) -> bool:
    """Tell whether an entry of a task's state has a row per class."""
    of_c = ".classifier." in key and ".classifier.hidden." not in key
    return key == "class_vectors" or key.endswith(".known") or of_c


def order_from(old: Protocol, new: Protocol) -> list[int] | None:
    """Return the number in `old` of each class of `new`; None: they do not have the same seen and unseen classes."""
    halves = [(set(p.classes[: p.num_seen]), set(p.classes[p.num_seen :])) for p in (old, new)]
    return [old.classes.index(name) for name in new.classes] if halves[0] == halves[1] else None


def in_order(state: Mapping[str, Tensor], rows: Sequence[int]) -> dict[str, Tensor]:
    """Return a task's state with its classes in the order of `order_from`."""
    return {key: value[list(rows)] if is_by_class(key) else value for key, value in state.items()}


def reorder(checkpoint: dict[str, Any], protocol: Protocol, where: str) -> None:
    """Put the classes of a checkpoint in the order of a protocol, or refuse them; `where` names the checkpoint.

    A class that was added by name keeps the number that it got then; a data set with that class may number it
    differently. A checkpoint in the middle of a training stays as it is: its optimisers' state is in its own order.
    """
    rows = order_from(stored_protocol(checkpoint), protocol)
    if rows is not None and "optimizer_states" not in checkpoint:
        own = checkpoint[CHECKPOINT_KEY]
        checkpoint["state_dict"] = in_order(checkpoint["state_dict"], rows)
        if "looked_up" in own:
            own["looked_up"] = [own["looked_up"][row] for row in rows]
        own["protocol"] = protocol.as_dict()
    check_classes(protocol, stored_protocol(checkpoint), where)


def segmenter_config(
    hparams: Mapping[str, Any],
    protocol: Protocol,
    feature_dim: int,
    spatial: dict[str, Any],
    classifier: dict[str, Any],
) -> SegmenterConfig:
    """Return what a task's segmenter is built from, see `ZeroShotTask.spatial_options` and `classifier_options`."""
    same = ("backbone", "backbone_levels", "output_stride", "dilations", "head", "input_scales")
    # left out where they are not used, so that earlier versions read the folder
    dense = ["dense"] if hparams["backbone"].startswith(CLIP) else []
    given = [*same, *(["maximum"] if hparams.get("maximum") == "logits" else []), *dense]
    encoder = {name: hparams[name] for name in given} | {
        "feature_dim": feature_dim,
        "freeze": hparams["freeze_encoder"],
    }
    # statistics of a pretrained backbone are kept; those of a new one are learnt
    encoder["freeze_batch_norm"] = hparams["weights"] is not None
    spatial = spatial | ({"unit": True} if hparams["unit_features"] else {})
    rest = {name: hparams[name] for name in ("image_mean", "image_std", "seen_penalty", "flip", "scales")}
    return SegmenterConfig(protocol, encoder, spatial, classifier, **rest)


class Sources(NamedTuple):
    """What a new model is made from.

    Attributes:
        class_vectors: (C, W) float32.
        weights: Of the backbone, see `build_backbone`; None where a checkpoint brings them, or there are none.
        checkpoint: The one that `init_from` names, its classes in the order of the model's; None without `init_from`.
        path: Its file.
    """

    class_vectors: Tensor
    weights: str | None = None
    checkpoint: dict[str, Any] | None = None
    path: str = ""

    @classmethod
    def read(
        cls, hparams: Mapping[str, Any], protocol: Protocol, method: str, defaults: Mapping[str, Any],
        architecture: Collection[str],
    ) -> Sources:  # fmt: skip
        """Read the class vectors or, with all that it has, the checkpoint to start from.

        `method` is the name of the model's class, whose options have `defaults`; see `ZeroShotTask.architecture`. A
        `UserError` where a file cannot be read, or the checkpoint is of other classes, class vectors or networks.
        """
        if not protocol.unseen:
            log.warning("no unseen classes: there will be no unseen and no harmonic score")
        path, center = hparams["init_from"], hparams["center_vectors"]
        if not path and hparams["vectors"] == "checkpoint":
            raise UserError("vectors: found checkpoint without init_from, which has them: give that, or a table")
        if not path:
            return cls(class_vectors(hparams["vectors"], protocol.classes, center), hparams["weights"])
        checkpoint = read_checkpoint(Path(path))
        reorder(checkpoint, protocol, f"the checkpoint {path}")
        vectors: Tensor = checkpoint["state_dict"]["class_vectors"].clone()
        own, classes = checkpoint[CHECKPOINT_KEY], list(protocol.classes)
        # where classes were added or renamed, the vectors are those that the checkpoint holds
        looked_up, centered_on = (list(own.get(name, classes)) for name in ("looked_up", "centered_on"))
        if hparams["vectors"] != "checkpoint" and looked_up == classes and {*centered_on} == {*classes}:
            table = class_vectors(hparams["vectors"], protocol.classes, center)
            if table.shape != vectors.shape or not torch.allclose(table, vectors, atol=1e-6):
                raise UserError(
                    f"vectors: those of {path} are others than {hparams['vectors']!r} gives (center_vectors: "
                    f"{center}): use the file and the option that it was trained with"
                )
            vectors = table
        # A checkpoint older than an option was trained as the option's default says.
        options = {**(defaults if own["method"] == method else {}), **stored_options(checkpoint)}
        for name in architecture:
            if name in options and options[name] != hparams[name]:
                raise UserError(
                    f"{name}: found {hparams[name]}, but {path} was trained with {options[name]}: give the same"
                )
        if "weights" in options and (options["weights"] is None) != (hparams["weights"] is None):
            log.warning(
                "weights: found %s, but %s was trained with %s, which decides whether the backbone's batch norm is "
                "frozen: give the same to keep it as it was", hparams["weights"], path, options["weights"],
            )  # fmt: skip
        return cls(vectors, None, checkpoint, path)

    def state_for(self, wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the checkpoint's state for a model whose state is `wanted`, without parts that it has not.

        A `UserError` where it does not fit, or holds a part of E, the spatial module or C without a place in the model.
        """
        found = {} if self.checkpoint is None else self.checkpoint["state_dict"]
        state = {key: value for key, value in found.items() if key in wanted}
        if fault := difference(kinds_of(state), kinds_of(wanted)):
            raise UserError(
                f"init_from: {self.path} does not fit this model ({fault}): use the vectors, backbone, widths and "
                "version of sign-zs3 that it was trained with"
            )
        if left := [key for key in found if key.startswith("segmenter.") and key not in wanted]:
            raise UserError(
                f"init_from: {self.path} holds {left[0]}, for which this model has no place: use the method and the "
                "options that it was trained with"
            )
        return state
