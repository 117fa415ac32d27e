"""The published data sets, as data: their classes by their own ids, which are unseen, and whether background is one."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from sign_zs3.errors import UserError, check_choice, did_you_mean
from sign_zs3.protocol import IGNORE_INDEX, Protocol

VOC_CLASSES = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog"),
    *("horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"),
)
"""The twenty classes in the order of their ids, 1..20."""

CONTEXT33_CLASSES = (
    *VOC_CLASSES,
    *("sky", "grass", "ground", "road", "building", "tree", "water", "mountain", "wall", "floor", "track"),
    *("keyboard", "ceiling"),
)
"""The 33 classes of CaGNet and SIGN in the order of their ids, 1..33; 0 is unlabelled."""

CONTEXT59_CLASSES = (
    *VOC_CLASSES,
    *("bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "clothes", "computer", "cup", "door"),
    *("fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain"),
    *("platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedcloth", "track"),
    *("tree", "truck", "wall", "water", "window", "wood"),
)
"""The 59 classes in the order of their ids in ``59_context_labels``, 1..59; 0 is background.

Other tools sort these classes by name and write other ids; such masks are not meant here."""

_COCO_STUFF_VALUES = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light"),
    *("fire hydrant", "street sign", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep"),
    *("cow", "elephant", "bear", "zebra", "giraffe", "hat", "backpack", "umbrella", "shoe", "eye glasses", "handbag"),
    *("tie", "suitcase", "frisbee", "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove"),
    *("skateboard", "surfboard", "tennis racket", "bottle", "plate", "wine glass", "cup", "fork", "knife", "spoon"),
    *("bowl", "banana", "apple", "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake"),
    *("chair", "couch", "potted plant", "bed", "mirror", "dining table", "window", "desk", "toilet", "door", "tv"),
    *("laptop", "mouse", "remote", "keyboard", "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator"),
    *("blender", "book", "clock", "vase", "scissors", "teddy bear", "hair drier", "toothbrush", "hair brush"),
    *("banner", "blanket", "branch", "bridge", "building-other", "bush", "cabinet", "cage", "cardboard", "carpet"),
    *("ceiling-other", "ceiling-tile", "cloth", "clothes", "clouds", "counter", "cupboard", "curtain", "desk-stuff"),
    *("dirt", "door-stuff", "fence", "floor-marble", "floor-other", "floor-stone", "floor-tile", "floor-wood"),
    *("flower", "fog", "food-other", "fruit", "furniture-other", "grass", "gravel", "ground-other", "hill", "house"),
    *("leaves", "light", "mat", "metal", "mirror-stuff", "moss", "mountain", "mud", "napkin", "net", "paper"),
    *("pavement", "pillow", "plant-other", "plastic", "platform", "playingfield", "railing", "railroad", "river"),
    *("road", "rock", "roof", "rug", "salad", "sand", "sea", "shelf", "sky-other", "skyscraper", "snow"),
    *("solid-other", "stairs", "stone", "straw", "structural-other", "table", "tent", "textile-other", "towel"),
    *("tree", "vegetable", "wall-brick", "wall-concrete", "wall-other", "wall-panel", "wall-stone", "wall-tile"),
    *("wall-wood", "water-other", "waterdrops", "window-blind", "window-other", "wood"),
)
"""Names of the pixel maps' values, 0..181: things to 90, stuff after."""

NEVER_LABELLED = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)
"""Values that COCO planned and never labelled: a map that holds one is numbered in another way."""

COCO_STUFF_CLASSES = {i: name for i, name in enumerate(_COCO_STUFF_VALUES) if i not in NEVER_LABELLED}
"""The 171 classes: value in the pixel maps -> name."""


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
_CONTEXT_CASCADE = (*("aeroplane", "bed", "bedcloth", "boat", "bottle", "car", "clothes", "cow", "keyboard", "plate"),)
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
        dict(enumerate(CONTEXT59_CLASSES, 1)),
        {
            "default": Split(_CONTEXT),
            **_zs3(_CONTEXT_ZS3),
            "otseg": Split(_CONTEXT_ZS3),
            "cascade_clip": Split(_CONTEXT_CASCADE),
        },
    ),
    "coco_stuff": Published(COCO_STUFF_CLASSES, {"default": Split(_COCO), "spnet": Split(_COCO)}, (IGNORE_INDEX,)),
}
"""``default`` is the SIGN paper's split (59 classes of Pascal Context: its 33-class one); ``spnet`` SPNet's, the same;
``zs3-N`` ZS3Net's nested ones with N unseen classes. Systems on CLIP read Pascal Context with ``zs3-10`` (MaskCLIP+),
with its unseen classes but background ignored (``otseg``), or with ten others (``cascade_clip``)."""


def published_protocol(
    dataset: str,
    unseen: Sequence[str] | None = None,
    split: str = "default",
    ignored_classes: Sequence[str] | None = (),
) -> Protocol:
    """Return a published class split, or one's own by the names of the unseen classes.

    Args:
        dataset: A key of `PUBLISHED`.
        unseen: Names of the unseen classes; None takes those of `split`.
        split: Name of a split; it also says whether id 0 is the seen class ``background`` or ignored.
        ignored_classes: Names of classes to leave out: their pixels are ignored; None for none.

    Raises:
        UserError: There is no such data set or split, a name is no class, or one of the split's unseen classes is
            ignored.
    """
    check_choice("data set", dataset, *PUBLISHED)
    names, splits, ignored_ids = PUBLISHED[dataset]
    if split not in splits:
        hint = did_you_mean(split.lower(), splits, 1, "; or name the classes in unseen")
        raise UserError(f"split: found {split!r}, expected one of {dataset}'s: {', '.join(splits)}{hint}")
    if splits[split].background:
        names = {0: "background", **names}
        ignored_ids = tuple(i for i in ignored_ids if i != 0)
    name = split if unseen is None and not ignored_classes else "custom"
    unseen = splits[split].unseen if unseen is None else unseen
    return Protocol.build(dataset, name, names, unseen, ignored_ids, ignored_classes or ())
