"""The published class splits, as data: which classes are unseen, and whether background is a class."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sign_zs3.data.names import COCO_STUFF_CLASSES, CONTEXT33_CLASSES, CONTEXT59_CLASSES, NEVER_LABELLED, VOC_CLASSES
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.protocol import IGNORE_INDEX, Protocol


class Split(NamedTuple):
    """The names of the unseen classes, and whether id 0 is the seen class ``background`` (else it is ignored)."""

    unseen: tuple[str, ...]
    background: bool = False


class Published(NamedTuple):
    """A data set's classes (own id -> name, without background), its published splits, and its ids without a label."""

    names: Mapping[int, str]
    splits: Mapping[str, Split]
    ignored_ids: tuple[int, ...] = (0, IGNORE_INDEX)


_VOC = ("pottedplant", "sheep", "sofa", "train", "tvmonitor")
_VOC_ZS3 = ("cow", "motorbike", "aeroplane", "sofa", "cat", "tvmonitor", "train", "bottle", "chair", "pottedplant")
_CONTEXT = ("cow", "motorbike", "sofa", "cat")
_CONTEXT_ZS3 = (*_CONTEXT, "boat", "fence", "bird", "tvmonitor", "keyboard", "aeroplane")
_COCO = (
    *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass"),
    *("playingfield", "river", "road", "tree", "wall-concrete"),
)


def _zs3(unseen: Sequence[str]) -> dict[str, Split]:
    """Return ZS3's splits: each has two more unseen classes than the one before, and background is seen."""
    return {f"zs3-{n}": Split(tuple(unseen[:n]), background=True) for n in range(2, len(unseen) + 1, 2)}


PUBLISHED: Mapping[str, Published] = {
    "voc": Published(dict(enumerate(VOC_CLASSES, 1)), {"default": Split(_VOC), "spnet": Split(_VOC), **_zs3(_VOC_ZS3)}),
    "pascal_context_33": Published(dict(enumerate(CONTEXT33_CLASSES, 1)), {"default": Split(_CONTEXT)}),
    "pascal_context_59": Published(
        dict(enumerate(CONTEXT59_CLASSES, 1)), {"default": Split(_CONTEXT), **_zs3(_CONTEXT_ZS3)}
    ),
    "coco_stuff": Published(
        COCO_STUFF_CLASSES, {"default": Split(_COCO), "spnet": Split(_COCO)}, (*NEVER_LABELLED, IGNORE_INDEX)
    ),
}
"""``default`` is the SIGN paper's split (59 classes of Pascal Context: its 33-class one); ``spnet`` SPNet's, the same;
``zs3-N`` ZS3Net's nested ones with N unseen classes."""


def published_protocol(dataset: str, unseen: Sequence[str] | None = None, split: str = "default") -> Protocol:
    """Return a published class split, or one's own by the names of the unseen classes.

    Args:
        dataset: A key of `PUBLISHED`.
        unseen: Names of the unseen classes; None takes those of `split`.
        split: Name of a split; it also says whether id 0 is the seen class ``background`` or ignored.

    Raises:
        UserError: There is no such data set or split, or a name is no class.
    """
    if dataset not in PUBLISHED:
        raise UserError(f"data set: found {dataset!r}, expected one of {', '.join(PUBLISHED)}")
    names, splits, ignored_ids = PUBLISHED[dataset]
    if split not in splits:
        hint = did_you_mean(split.lower(), splits, 1, "; or name the classes in unseen")
        raise UserError(f"split: found {split!r}, expected one of {dataset}'s: {', '.join(splits)}{hint}")
    if splits[split].background:
        names = {0: "background", **names}
        ignored_ids = tuple(i for i in ignored_ids if i != 0)
    if unseen is not None:
        return Protocol.build(dataset, "custom", names, unseen, ignored_ids)
    return Protocol.build(dataset, split, names, splits[split].unseen, ignored_ids)
