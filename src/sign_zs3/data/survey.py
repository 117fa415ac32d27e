"""A folder of one's own before its first training: where images and masks lie, what the masks hold, what is missing."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sign_zs3.data.datasets.files import read_classes, read_index_mask
from sign_zs3.data.datasets.pairing import Side, find_endings, find_side, why_none
from sign_zs3.errors import UserError
from sign_zs3.files import CLASS_LINE, read_json, read_lines, replacing
from sign_zs3.protocol import IGNORE_INDEX

IMAGES = ("images", "image", "JPEGImages", "imgs", "img", "leftImg8bit", "rgb")
MASKS = ("masks", "mask", "SegmentationClass", "labels", "label", "annotations", "gtFine", "gt")
PLACEHOLDER = "class "
"""What the names of classes begin with that nobody has named yet; their ids follow."""
_PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
_NAMES = ("labels.txt", "class_names.txt", "classes.json", "labels.json")


class Mask(NamedTuple):
    """What a mask holds: its size in pixels, (height, width), and its pixels per id, int64 (256,)."""

    size: tuple[int, int]
    pixels: NDArray[np.int64]


def find_layout(
    root: Path, images: str | None = None, masks: str | None = None
) -> tuple[dict[str, str], dict[str, Path]]:
    """Find the folders of images and masks below `root`, or take those that are named.

    Usual names are looked for in `root`, then in its folder of training images. Return the options of
    `FolderDataModule` that say where they lie and what their names end in, and the mask of each image that has one, by
    the name that the two share. A `UserError` where there is no such folder, or no image has a mask.
    """
    if not root.is_dir():
        raise UserError(f"{root}: not found, expected a folder of images and masks; correct the path")
    places = [
        Path(),
        *(Path(name) for name in sorted(entry.name for entry in root.iterdir()) if _PARTS.get(name.lower()) == "train"),
    ]
    for place in places:
        folders = {entry.name.lower(): entry.name for entry in (root / place).iterdir() if entry.is_dir()}
        found = [
            next((str(place / folders[name.lower()]) for name in names if name.lower() in folders), None)
            for names in (IMAGES, MASKS)
        ]
        images_here, masks_here = images or found[0], masks or found[1]
        if images_here and masks_here:
            break
    else:
        raise UserError(
            f"{root}: found no folder of images beside one of masks (such as images and masks, JPEGImages and "
            "SegmentationClass, img and label), expected both; name them with --images and --masks, below that folder"
        )

    here = root / images_here, root / masks_here

    def find(ends: tuple[str | None, str | None]) -> tuple[Side, Side]:
        return find_side(here[0], "images", ends[0], None), find_side(here[1], "masks", ends[1], None)

    sides = find((None, None))
    ends = None if sides[0].files.keys() & sides[1].files.keys() else find_endings(*sides)
    sides = sides if ends is None else find(ends)
    both = sorted(sides[0].files.keys() & sides[1].files.keys())
    if not both:
        raise UserError(f"{here[0]}: {why_none(*sides)}")
    options = {"images": Path(images_here).as_posix(), "masks": Path(masks_here).as_posix()}
    options |= {} if ends is None else {"image_suffix": ends[0], "mask_suffix": ends[1]}
    return options, {name: sides[1].files[name] for name in both}


def read_masks(paths: Sequence[Path], progress: bool = True) -> dict[Path, Mask]:
    """Read masks and count their pixels; a `UserError` names the first one that cannot be read.

    Colour-coded masks are such an error, whose line says how they are converted.
    """

    def read(path: Path) -> Mask:
        try:
            mask = read_index_mask(path)
        except UserError as error:
            if "a RGB" not in str(error):
                raise
            raise UserError(f"{error} with sign-zs3 data convert FOLDER --colours FILE --output NEW") from error
        if mask.dtype != np.uint8:
            raise UserError(f"{path}: found the id {mask.max()}, expected 0 to {IGNORE_INDEX}; renumber the masks")
        return Mask((mask.shape[0], mask.shape[1]), np.bincount(mask.ravel(), minlength=256))

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        bar = tqdm(pool.map(read, paths), total=len(paths), unit="mask", disable=not progress or None)
        return dict(zip(paths, bar, strict=True))


def split_by_folder(names: Sequence[str]) -> dict[str, list[str]]:
    """Return the names of each part where all lie in folders such as ``train`` and ``val``; of ``val`` alone, as test.

    Empty where they lie otherwise, or nothing would be left to train or to test on.
    """
    parts: dict[str, list[str]] = {}
    for name in names:
        parts.setdefault(_PARTS.get(name.partition("/")[0].lower(), ""), []).append(name)
    if "test" not in parts and "val" in parts:
        parts["test"] = parts.pop("val")
    return parts if {"train", "test"} <= parts.keys() and "" not in parts else {}


def find_names(root: Path, ids: Sequence[int]) -> tuple[dict[int, str], str]:
    """Return a name for each id of the masks but 0 and 255, and the file that has them; without one, placeholders.

    Read are lists ``id<TAB>name`` or ``id: name``; names a line, numbered from -1 (LabelMe's), 0 or 1, as the highest
    id tells; and JSON: a list of names, or names by id.
    """
    labelled = [number for number in ids if number not in (0, IGNORE_INDEX)]
    for file in (root / name for name in _NAMES):
        if file.is_file():
            with suppress(UserError):
                names = _read_names(file, max(labelled, default=0))
                if {*labelled} <= names.keys():
                    return names, file.name
    return {number: f"{PLACEHOLDER}{number}" for number in labelled}, ""


def _read_names(file: Path, highest: int) -> dict[int, str]:
    if file.suffix == ".json":
        found = read_json(file, "class names")
        if isinstance(found, dict):
            return {int(number): str(name) for number, name in found.items() if number.isdigit()}
        names = [str(name) for name in found] if isinstance(found, list) else []
    else:
        names = [line for _, line in read_lines(file, "class", "a name a line")]
        if all(CLASS_LINE.fullmatch(name) for name in names):
            return read_classes(file)
    first = -1 if names[:1] == ["__ignore__"] else highest - len(names) + 1
    if first not in (-1, 0, 1):
        return {}
    return {i: name for i, name in enumerate(names, first) if i >= 0 and name != "_background_"}


def write_list(path: Path, lines: Sequence[str]) -> None:
    """Write a list, a line each, see `replacing`."""
    with replacing(path) as beside:
        beside.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
