"""Whether a checkpoint suits a model: the same classes, in whatever order, and weights of the same names and shapes."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from sign_zs3.compat import RETIRED
from sign_zs3.errors import UserError
from sign_zs3.models.weights import difference, kinds_of
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, stored_options, stored_protocol


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

    A class that was added by name keeps the number that it got then; a data set with that class may number it
    differently. A checkpoint in the middle of a training stays as it is: its optimisers' state is in its own order.
    """
    rows = order_from(stored_protocol(checkpoint), protocol)
    if rows is None or "optimizer_states" in checkpoint:
        return
    own = checkpoint[CHECKPOINT_KEY]
    checkpoint["state_dict"] = in_order(checkpoint["state_dict"], rows)
    if "looked_up" in own:
        own["looked_up"] = [own["looked_up"][row] for row in rows]
    own["protocol"] = protocol.as_dict()
