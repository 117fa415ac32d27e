"""Anyone's own images and masks: two folders, a list of classes, and lists of images or a fraction."""

import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.files import read_classes, read_list
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import visible_files
from sign_zs3.images import SUFFIXES
from sign_zs3.protocol import IGNORE_INDEX, Protocol

log = logging.getLogger(__name__)

_PARTS = {"train", "val", "test"}
_NO_LABEL = ("unlabeled", "unlabelled", "void", "ignore", "ignored")
# no GIF: those who write one renumber its palette, and the ids are lost
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")


def folder_protocol(
    root: str | Path,
    unseen: Sequence[str] | None = None,
    classes: str = "classes.txt",
    ignored_classes: Sequence[str] = (),
    ignored_ids: Sequence[int] = (0, IGNORE_INDEX),
) -> Protocol:
    """Return the class split of a folder, named after the folder.

    Args:
        root: The folder.
        unseen: Names of the unseen classes; None for none.
        classes: List of classes below `root`, ``id<TAB>name`` a line.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        ignored_ids: Ids that mean "no label", unless the list names them.

    Raises:
        UserError: The list cannot be read, or a name is not in it.
    """
    path = Path(root) / classes
    names = read_classes(path)
    for name in ignored_classes:
        if name not in names.values():
            hint = did_you_mean(name, names.values(), 1, "; correct the name")
            raise UserError(f"ignored_classes: found {name!r}, expected a class of {path}{hint}")
        if name in (unseen or ()):
            raise UserError(f"unseen: found {name!r}, which is in ignored_classes too; remove it from one of them")
    for i, name in names.items():
        if name.lower() in _NO_LABEL and name not in ignored_classes:
            log.warning("%s: %r (id %d) is a class; name it in ignored_classes if it means no label", path, name, i)
    kept = {i: name for i, name in names.items() if name not in ignored_classes}
    ignored = (names.keys() - kept.keys()) | ({*ignored_ids, IGNORE_INDEX} - names.keys())
    return Protocol.build(Path(root).resolve().name, "custom", kept, unseen or (), ignored)


class FolderDataset(ListedDataset):
    """Images and masks with the same names in two folders, subfolders included.

    Without lists, all images that have a mask are split: those whose names come first by their SHA-256 are test images,
    so that the split is the same everywhere and new images move few old ones.

    Args:
        root: The folder.
        split: ``"train"``, ``"val"`` (only with a list) or ``"test"``.
        protocol: The class split, from `folder_protocol`.
        images: Folder of the images below `root`.
        masks: Folder of the masks below `root`: 8-bit palette or grey images, an id per pixel.
        list_file: List of image names below `root`, with or without suffix; None splits by `test_fraction`.
        test_fraction: Share of test images where there are no lists.
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
        pictures = _by_name(folders[0], SUFFIXES, "images", problems)
        labels = _by_name(folders[1], MASK_SUFFIXES, "masks", problems)
        if list_file is None:
            names = _part(sorted(pictures.keys() & labels.keys()), test_fraction, split)
            for mine, others, what, other in ((pictures, labels, "image", "mask"), (labels, pictures, "mask", "image")):
                alone = [mine[name] for name in sorted(mine.keys() - others.keys())]
                if alone and problems is None:
                    log.warning("%s: found no %s of this name (%d are left out)", alone[0], other, len(alone))
                elif problems is not None:
                    end = f"found no {other} of this name, expected one; add it or remove the {what}"
                    problems += [f"{path}: {end}" for path in alone]
            if apart := sorted({name.split("/")[0] for name in pictures if "/" in name} & _PARTS):
                raise UserError(
                    f"{folders[0]}: found the folders {', '.join(apart)} but no lists, which would mix them; write the "
                    f"names of their images into splits/train.txt and splits/test.txt, as in {apart[0]}/NAME"
                )
            if not names:
                raise UserError(
                    f"{folders[0]}: found no {split} image with a mask in {folders[1]}, expected a mask of the same "
                    "name per image; name the folders in images and masks, or change test_fraction"
                )
        else:
            listed = read_list(Path(root) / list_file, problems)
            names = sorted({_stem(name.removeprefix(f"{images}/")) for name in listed})
        items = []
        for name in names:
            image = pictures.get(name, folders[0] / f"{name}{SUFFIXES[0]}")
            items.append(Item(name, image, labels.get(name, folders[1] / f"{name}{MASK_SUFFIXES[0]}")))
        super().__init__(items, protocol, problems or (), check=check, **options)


def _stem(name: str) -> str:
    suffix = Path(name).suffix
    return name.removesuffix(suffix) if suffix.lower() in SUFFIXES else name


def _by_name(folder: Path, suffixes: Sequence[str], what: str, problems: list[str] | None) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: not found, expected the folder of the {what}; name it in {what}")
    found: dict[str, Path] = {}
    for path in sorted(visible_files(folder)):
        if path.suffix.lower() not in suffixes:
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name in found:
            message = f"{path}: found beside {found[name].name}, expected one file of that name; remove one"
            if problems is None:
                raise UserError(message)
            problems.append(message)
        else:
            found[name] = path
    return found


def _part(names: Sequence[str], test_fraction: float, split: str) -> list[str]:
    ranked = sorted(names, key=lambda name: hashlib.sha256(name.encode()).digest())
    count = round(len(names) * test_fraction)
    return sorted(ranked[:count] if split == "test" else ranked[count:])
