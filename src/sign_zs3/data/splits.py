"""The published class splits, as data: which classes are unseen, and whether background is a class."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.protocol import IGNORE_INDEX, Protocol


@dataclass(frozen=True)
class Split:
    """A published split of a data set's classes.

    Args:
        unseen: Names of the unseen classes.
        background: Id 0 is the seen class ``background``; else it is ignored.
    """

    unseen: tuple[str, ...]
    background: bool = False


_VOC = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
_CONTEXT = ("cow", "motorbike", "sofa", "cat")
_COCO = (
    *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass"),
    *("playingfield", "river", "road", "tree", "wall-concrete"),
)


def _nested(*unseen: str) -> dict[str, Split]:
    """ZS3's splits: each has two more unseen classes than the one before, and background is seen."""
    return {f"zs3-{n}": Split(unseen[:n], background=True) for n in range(2, len(unseen) + 1, 2)}


SPLITS: Mapping[str, Mapping[str, Split]] = {
    "voc": {
        "default": Split(_VOC),
        "spnet": Split(_VOC),
        **_nested(
            *("cow", "motorbike", "aeroplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair", "pottedplant")
        ),
    },
    "pascal_context_33": {"default": Split(_CONTEXT)},
    "pascal_context_59": {
        "default": Split(_CONTEXT),
        **_nested(*("cow", "motorbike", "sofa", "cat", "boat", "fence", "bird", "tvmonitor", "keyboard", "aeroplane")),
    },
    "coco_stuff": {"default": Split(_COCO), "spnet": Split(_COCO)},
}
"""Data set -> name -> split. ``default`` is the SIGN paper's (59 classes of Pascal Context: its 33-class one);
``spnet`` SPNet's, the same; ``zs3-N`` ZS3Net's nested ones with N unseen classes."""


def published_protocol(
    dataset: str,
    names: Mapping[int, str],
    split: str = "default",
    unseen: Sequence[str] | None = None,
    ignored_ids: Sequence[int] = (0, IGNORE_INDEX),
) -> Protocol:
    """Return a published class split, or one's own by the names of the unseen classes.

    Args:
        dataset: A key of `SPLITS`.
        names: Own id -> class name, without background.
        split: A key of the data set's splits; it also says whether id 0 is the seen class ``background``.
        unseen: Names of the unseen classes instead of the split's.
        ignored_ids: Own ids that mean "no label".

    Raises:
        UserError: The data set has no such split, or a name is no class.
    """
    splits = SPLITS[dataset]
    if split not in splits:
        hint = did_you_mean(split.lower(), splits, 1, "; or name the classes in unseen")
        raise UserError(f"split: found {split!r}, expected one of {dataset}'s: {', '.join(splits)}{hint}")
    chosen = splits[split]
    if chosen.background:
        names = {0: "background", **names}
        ignored_ids = [i for i in ignored_ids if i != 0]
    if unseen is not None:
        return Protocol.build(dataset, "custom", names, unseen, ignored_ids)
    return Protocol.build(dataset, split, names, chosen.unseen, ignored_ids)
