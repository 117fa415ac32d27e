"""Anyone's own images and masks: two folders, a list of classes, and lists of images or a fraction."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.files import read_classes, read_list
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.datasets.pairing import MASK_SUFFIXES, Side, find_side, in_list, unpaired, why_none
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import composed
from sign_zs3.images import SUFFIXES
from sign_zs3.protocol import IGNORE_INDEX, Protocol

log = logging.getLogger(__name__)

_PARTS = {"train", "val", "test"}
_NO_LABEL = ("unlabeled", "unlabelled", "void", "ignore", "ignored")


def folder_protocol(
    root: str | Path,
    unseen: Sequence[str] | None = None,
    classes: str = "classes.txt",
    ignored_classes: Sequence[str] = (),
    ignored_ids: Sequence[int] = (0, IGNORE_INDEX),
) -> Protocol:
    """Return the class split of a folder, named after the folder; the arguments are options of `FolderDataModule`.

    Raises:
        UserError: The list cannot be read, or a name is not in it.
    """
    path = Path(root) / classes
    names = read_classes(path)
    ignored_classes = [composed(name) for name in ignored_classes]
    for name in ignored_classes:
        if name not in names.values():
            hint = did_you_mean(name, names.values(), 1, "; correct the name, or root where it is another folder")
            raise UserError(f"ignored_classes: found {name!r}, expected a class of {path}{hint}")
    for i, name in names.items():
        if name.lower() in _NO_LABEL and name not in ignored_classes:
            log.warning("%s: %r (id %d) is a class; name it in ignored_classes if it means no label", path, name, i)
    ignored = {*ignored_ids, IGNORE_INDEX} - names.keys()
    return Protocol.build(Path(root).resolve().name, "custom", names, unseen or (), ignored, ignored_classes)


class FolderDataset(ListedDataset):
    """Images and masks with the same names in two folders, subfolders included.

    Without lists, all images that have a mask are split: those whose names come first by their SHA-256 are test images,
    so that the split is the same everywhere and new images move few old ones.

    Args:
        root: The folder.
        split: ``"train"``, ``"val"`` (only with a list) or ``"test"``.
        protocol: The class split, from `folder_protocol`.
        images, masks, test_fraction, image_suffix, mask_suffix: As of `FolderDataModule`.
        list_file: List of image names below `root`, with or without folder and suffix, a mask's after a blank where it
            has another name; None splits by `test_fraction`.
        check: Refuse faults of the lists and missing files; False leaves them to `sign-zs3 data check`.
        **options: `hide_unseen` and `transform` of `ListedDataset`.

    Raises:
        UserError: A folder, a list, or an image or mask of a list is missing; two images have one name.
    """

    follow_exif = True

    def __init__(
        self,
        root: str | Path,
        split: Part,
        protocol: Protocol,
        images: str = "images",
        masks: str = "masks",
        list_file: str | Path | None = None,
        test_fraction: float = 0.2,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        check: bool = True,
        **options: Any,
    ) -> None:
        problems: list[str] | None = None if check else []
        folders = Path(root) / images, Path(root) / masks
        if folders[0].resolve() == folders[1].resolve():
            raise UserError(
                f"{folders[0]}: found as the folder of images and of masks, expected two; move the masks to one of "
                "their own and name it in masks"
            )
        pictures = find_side(folders[0], "images", image_suffix, problems)
        labels = find_side(folders[1], "masks", mask_suffix, problems)
        if list_file is None:
            both = pictures.files.keys() & labels.files.keys()
            pairs = [(name, name) for name in _part(sorted(both), test_fraction, split)]
            for alone in (unpaired(pictures, labels), unpaired(labels, pictures)):
                if problems is not None:
                    problems += alone
                elif alone and both:
                    log.warning("%s (%d are left out)", alone[0], len(alone))
            if apart := sorted({name.split("/")[0] for name in pictures.files if "/" in name} & _PARTS):
                raise UserError(
                    f"{folders[0]}: found the folders {', '.join(apart)} but no lists, which would mix them; write the "
                    f"names of their images into splits/train.txt and splits/test.txt, as in {apart[0]}/NAME"
                )
            if not both:
                raise UserError(f"{folders[0]}: {why_none(pictures, labels)}")
            if not pairs:
                raise UserError(
                    f"{folders[0]}: found {len(both)} images with a mask, none of them for {split}, expected one at "
                    "least; change test_fraction, or write lists"
                )
        else:
            pairs = sorted(_listed(Path(root) / list_file, pictures, labels, problems).items())
        items = []
        for name, of_mask in pairs:
            image = pictures.files.get(name, folders[0] / f"{name}{image_suffix or SUFFIXES[0]}")
            mask = labels.files.get(of_mask, folders[1] / f"{of_mask}{mask_suffix or MASK_SUFFIXES[0]}")
            items.append(Item(name, image, mask))
        if list_file is not None and not problems and not any(item.mask.exists() for item in items):
            raise UserError(f"{Path(root) / list_file}: {why_none(pictures, labels)}")
        super().__init__(items, protocol, problems or (), check=check, **options)


def _listed(path: Path, pictures: Side, labels: Side, problems: list[str] | None) -> dict[str, str]:
    """Return the image -> mask of each line of a list; an image may stand there once, however it is spelt."""
    pairs: dict[str, str] = {}
    for line in read_list(path, problems):
        name, of_mask = in_list(line, pictures, labels)
        if name in pairs:
            message = f"{path}: found the image {name!r:.100} twice, once as {line!r:.100}; remove one of the lines"
            if problems is None:
                raise UserError(message)
            problems.append(message)
        pairs.setdefault(name, of_mask)
    return pairs


def _part(names: Sequence[str], test_fraction: float, split: str) -> list[str]:
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = round(len(names) * test_fraction)
    return sorted(ranked[:count] if split == "test" else ranked[count:])
