"""Pascal Context with 33 or 59 classes, from label PNGs or from the original label maps of 459 classes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datasets.files import find_folder, read_classes, read_index_mask, read_list, read_mat
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.splits import PUBLISHED, published_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol

# names that the 459 classes spell otherwise
_IN_459 = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}
_IMAGE_PLACES = ("VOCdevkit/VOC2010", "VOC2010", "VOCdevkit/VOC2012", "VOC2012", ".")
_PAGE = "cs.stanford.edu/~roozbeh/pascal-context"
_NAME_LISTS = ("labels.txt", "classes-400.txt", "pascal_context_classes-400.txt")
_ID_LISTS = {"train": ("train.txt", "pascal_context_train.txt"), "test": ("val.txt", "pascal_context_val.txt")}


class PascalContextDataset(ListedDataset):
    """Images of VOC 2010 with the labels of Pascal Context.

    Labels are read from ``33_context_labels`` or ``59_context_labels`` (PNG) where that folder is there, else from
    ``trainval`` (MATLAB files with ``LabelMap``, ids 1..459, named by ``labels.txt``); ids of that map that are none of
    the 33 or 59 classes become 0.

    Args:
        root, labels, num_classes: As of `PascalContextDataModule`.
        split: ``"train"`` (4,998 images in the published list) or ``"test"`` (5,105).
        list_file: List of image ids, `train_list` or `test_list` of that class.
        protocol: The class split; None takes the default one.
        **options: `hide_unseen`, `transform` and `check` of `ListedDataset`.

    Raises:
        UserError: A folder, a list, or an image or mask of a list is missing.
    """

    def __init__(
        self,
        root: str | Path,
        split: Literal["train", "test"],
        labels: str | Path | None = None,
        list_file: str | Path | None = None,
        num_classes: Literal[33, 59] = 33,
        protocol: Protocol | None = None,
        **options: Any,
    ) -> None:
        voc = find_folder(root, _IMAGE_PLACES, "JPEGImages")
        if voc is None:
            raise UserError(
                f"root: found no JPEGImages at {root}, expected the folder that holds VOCdevkit/VOC2010; unpack "
                "VOCtrainval_03-May-2010.tar (host.robots.ox.ac.uk/pascal/VOC/voc2010) there"
            )
        places = [Path(root), voc] if labels is None else [Path(labels)]
        masks, self._lookup = _find_labels(places, num_classes)
        listed = Path(list_file) if list_file is not None else _find_list([*places, voc], split)
        problems: list[str] = []
        names = sorted(read_list(listed, problems))
        suffix = ".png" if self._lookup is None else ".mat"
        items = [Item(name, voc / "JPEGImages" / f"{name}.jpg", masks / f"{name}{suffix}") for name in names]
        super().__init__(items, protocol or published_protocol(f"pascal_context_{num_classes}"), problems, **options)

    def read_mask(self, index: int) -> NDArray[Any]:
        """Read a mask alone, (H, W) of ids 0..33 or 0..59.

        A file that cannot be decoded, or has an id that the list of names lacks, is a `UserError`.
        """
        path = self.items[index].mask
        if self._lookup is None:
            return read_index_mask(path)
        raw = read_mat(path, "LabelMap")
        outside = (raw < 0) | (raw >= len(self._lookup))
        if outside.any():
            raise UserError(
                f"{path}: found the id {raw[outside].flat[0]}, expected 0 to {len(self._lookup) - 1}, the ids of the "
                "list of names; fetch map and list again"
            )
        return np.take(self._lookup, raw)


def _find_labels(places: Sequence[Path], num_classes: int) -> tuple[Path, NDArray[np.uint8] | None]:
    """Return the folder of the masks and, for MATLAB files, the table from their ids to ours."""
    pngs = f"{num_classes}_context_labels"
    for place in places:
        if (place / pngs).is_dir():
            return place / pngs, None
    for place in places:
        if (place / "trainval").is_dir():
            if lists := [place / name for name in _NAME_LISTS if (place / name).is_file()]:
                return place / "trainval", _lookup(lists[0], num_classes)
            raise UserError(
                f"{place / 'trainval'}: found label maps without names, expected {place / _NAME_LISTS[0]} with their "
                f"459 classes as `id: name`; fetch it from {_PAGE}"
            )
    raise UserError(
        f"labels: found neither {pngs} nor trainval in {' or '.join(map(str, dict.fromkeys(places)))}, expected the "
        f"label PNGs or the MATLAB label maps; unpack {pngs}.tar.gz or trainval.tar.gz ({_PAGE}) there, or name in "
        "labels the folder that holds one of them"
    )


def _lookup(names: Path, num_classes: int) -> NDArray[np.uint8]:
    ids = {name.replace(" ", ""): i for i, name in read_classes(names, largest=65535).items()}
    table = np.zeros(max(ids.values()) + 1, np.uint8)
    for own_id, name in PUBLISHED[f"pascal_context_{num_classes}"].names.items():
        theirs = _IN_459.get(name, name)
        if theirs not in ids:
            what = f"{names}: found no class {theirs!r}, expected the 459 class names of Pascal Context"
            raise UserError(f"{what}; fetch the list from {_PAGE}")
        table[ids[theirs]] = own_id
    return table


def _find_list(places: Sequence[Path], split: Literal["train", "test"]) -> Path:
    # SBD as torchvision unpacks it puts other lists of these names in the root
    folders = [*(place / "ImageSets" / "SegmentationContext" for place in places), *places]
    for folder in folders:
        for name in _ID_LISTS[split]:
            if (folder / name).is_file():
                return folder / name
    number = "4,998" if split == "train" else "5,105"
    raise UserError(
        f"{split}_list: found no {_ID_LISTS[split][0]} in {' or '.join(map(str, dict.fromkeys(folders)))}, expected "
        f"the published list of {number} image ids, one a line; put it there or name the file"
    )
