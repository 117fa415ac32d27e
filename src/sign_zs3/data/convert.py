"""Masks of ids from what annotation tools write: colour-coded images, COCO's JSON and LabelMe's."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.outlines import area_of, segment, shape_of
from sign_zs3.data.splits import VOC_CLASSES
from sign_zs3.drawing.colours import voc_palette
from sign_zs3.errors import UserError
from sign_zs3.files import composed, is_name, read_content, read_lines, refusing, visible_files
from sign_zs3.images import FORMATS, SUFFIXES, decoding
from sign_zs3.limits import MAX_ANNOTATIONS, MAX_NAME, MAX_PATH, MAX_PIXELS
from sign_zs3.protocol import IGNORE_INDEX

Mask: TypeAlias = NDArray[np.uint8]
Colour: TypeAlias = tuple[int, int, int]

_COLOUR = r"(?:#(?P<hex>[0-9a-fA-F]{6})|(?P<r>\d{1,3})[ ,]+(?P<g>\d{1,3})[ ,]+(?P<b>\d{1,3}))"
# id, name and colour; or, as CVAT's labelmap.txt has it, name:r,g,b:parts:actions
_LINES = (
    re.compile(rf"(?P<id>\d+)\s*[\t:]\s*(?P<name>\S.*?)\s*[\t:]\s*{_COLOUR}"),
    re.compile(rf"(?P<name>[^:\t]+?)\s*[:\t]\s*{_COLOUR}(?::.*)?"),
)
_NO_LABEL = ("__ignore__", "_background_")


@dataclass
class Converted:
    """What a conversion makes.

    Attributes:
        classes: Id -> name, of ``classes.txt``.
        masks: Yields the name of each mask, with subfolders and no suffix, and the mask, uint8 (H, W).
        notes: What is to be said at the end; it grows while `masks` is read.
    """

    classes: dict[int, str]
    masks: Iterator[tuple[str, Mask]]
    notes: list[str] = field(default_factory=list)


def convert(source: Path, colours: str | None = None, classes: Mapping[int, str] | None = None) -> Converted:
    """Convert annotations, whose kind their content tells.

    Args:
        source: COCO's JSON file; a folder of LabelMe's JSON files; or, with `colours`, a folder of colour-coded images.
        colours: ``voc`` for VOC's palette, or a file of colours, see `read_colours`.
        classes: Ids of LabelMe's names; None numbers them from 1, in alphabetical order.

    Raises:
        UserError: It is none of these, or (while the masks are read) a file cannot be read.
    """
    if not os.path.exists(source):  # noqa: PTH110  (a name that is too long is not there either)
        raise UserError(f"{source} is not there, expected annotations; correct the path")
    if classes is not None and (colours is not None or source.is_file()):
        raise UserError("--classes: found without LabelMe's files, whose labels alone have no ids; leave it out")
    if colours is not None and source.is_file():
        raise UserError(f"{source}: found a file beside --colours, expected a folder of colour-coded masks; give that")
    if colours is not None:
        made = _from_colours(source, *(voc_colours() if colours == "voc" else read_colours(Path(colours))))
    elif source.is_file():
        made = _from_coco(source)
    elif files := _files(source, [".json"]):
        made = _from_labelme(source, files, classes)
    else:
        raise UserError(
            f"{source}: found no annotations, expected a COCO JSON file, a folder of LabelMe JSON files, or, with "
            "--colours, a folder of colour-coded masks"
        )
    if not made.classes:
        raise UserError(f"{colours or source}: found no class, expected the name of one at least; annotate something")
    return made


def _files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    files = sorted(visible_files(folder)) if folder.is_dir() else []
    return [file for file in files if file.suffix.lower() in suffixes]


# -- colours -------------------------------------------------------------------------------------------------------


def voc_colours() -> tuple[dict[Colour, int], dict[int, str]]:
    """Return the colours of VOC's masks -> id, and the names of the 20 classes; the border's is 255."""
    numbers = {*range(len(VOC_CLASSES) + 1), IGNORE_INDEX}
    colours = {(r, g, b): number for number, (r, g, b) in enumerate(voc_palette().tolist()) if number in numbers}
    return colours, dict(enumerate(VOC_CLASSES, 1))


def read_colours(path: Path) -> tuple[dict[Colour, int], dict[int, str]]:
    """Read a table of colours: ``id<TAB>name<TAB>r g b`` or ``#rrggbb`` a line, or CVAT's ``labelmap.txt``.

    Without ids the lines are numbered from 0. Id 255 is no class, and several colours may have one id.

    Raises:
        UserError: The file cannot be read, a line has another form, or a colour occurs twice.
    """
    expected = "a class a line, as id<TAB>name<TAB>r g b, or CVAT's labelmap.txt"
    colours: dict[Colour, int] = {}
    names: dict[int, str] = {}
    lines = [(number, line) for number, line in read_lines(path, "colour", expected) if not line.startswith("# ")]
    has_ids: bool | None = None
    for index, (number, line) in enumerate(lines):
        match = next((match for form in _LINES if (match := form.fullmatch(line))), None)
        if match is None:
            raise UserError(f"{path}: found {line!r:.100} in line {number}, expected {expected}; correct the line")
        parts = match.groupdict()
        has_ids = parts.get("id") is not None if has_ids is None else has_ids
        red, green, blue = bytes.fromhex(parts["hex"]) if parts["hex"] else (int(parts[c]) for c in "rgb")
        own_id = int(parts["id"][:9]) if parts.get("id") else index
        if (parts.get("id") is not None) != has_ids:
            raise UserError(f"{path}: found lines with ids and without, expected one kind; correct line {number}")
        if parts["name"] in names.values() and names.get(own_id) != parts["name"]:
            raise UserError(f"{path}: found the name {parts['name']!r:.50} of two ids; correct line {number}")
        if names.get(own_id, parts["name"]) != parts["name"]:
            raise UserError(f"{path}: found two names of the id {own_id}, expected one; correct line {number}")
        if max(red, green, blue, own_id) > IGNORE_INDEX or not is_name(parts["name"]):
            limits = f"numbers up to 255 and at most {MAX_NAME} letters"
            raise UserError(f"{path}: found {line!r:.100} in line {number}, expected {limits}; correct the line")
        if (red, green, blue) in colours:
            raise UserError(f"{path}: found the colour {red} {green} {blue} twice, in line {number}; remove one")
        colours[red, green, blue] = own_id
        if own_id != IGNORE_INDEX:
            names.setdefault(own_id, parts["name"])
    return colours, names


def _from_colours(folder: Path, colours: Mapping[Colour, int], classes: dict[int, str]) -> Converted:
    if not (files := _files(folder, SUFFIXES)):
        raise UserError(f"{folder}: found no image, expected a folder of colour-coded masks")
    table = {(r << 16) | (g << 8) | b: own_id for (r, g, b), own_id in colours.items()}

    def masks() -> Iterator[tuple[str, Mask]]:
        for file in files:
            with decoding(file, "a colour-coded mask"), Image.open(file, formats=FORMATS) as image:
                if image.mode[0] in "IF" or getattr(image, "n_frames", 1) > 1:
                    raise ValueError("more than 8 bits or several pages")
                channels = np.asarray(image.convert("RGB"), np.int64)
            colour_of = (channels[..., 0] << 16) | (channels[..., 1] << 8) | channels[..., 2]
            found, places = np.unique(colour_of, return_inverse=True)
            if (colour := next((colour for colour in found.tolist() if colour not in table), None)) is not None:
                pixels = np.count_nonzero(colour_of == colour)
                raise UserError(
                    f"{file}: found the colour {colour >> 16} {colour >> 8 & 255} {colour & 255} in {pixels} pixels, "
                    f"expected one of the {len(table)} in the table; add it, or write masks unsmoothed, not as JPEG"
                )
            with _whole(file, "a colour-coded mask"):
                name = _name(file.relative_to(folder).as_posix())
            ids = np.array([table[colour] for colour in found.tolist()], np.uint8)
            yield name, ids[places].reshape(colour_of.shape)

    return Converted(classes, masks())


# -- COCO ----------------------------------------------------------------------------------------------------------


def _from_coco(path: Path) -> Converted:
    expected = "COCO's annotations"
    content = _json(path, expected)
    with _whole(path, expected):
        categories, images, annotations = (_entries(content, key) for key in ("categories", "images", "annotations"))
        if not categories or not images:
            raise ValueError(f"no {'images' if categories else 'categories'}")
        categories_by_id = _by_id(categories, _whole_number)
        of_image: dict[int | str, list[dict[str, Any]]] = {key: [] for key in _by_id(images, _image_id)}
        images = sorted(images, key=lambda image: str(image["file_name"]))
    for annotation in annotations:
        with _whole(f"{path}: annotation {annotation.get('id')!r:.40}", expected):
            if (number := _whole_number(annotation["category_id"])) not in categories_by_id:
                raise ValueError(f"category {number}, which is not in the list")
            if (key := _image_id(annotation["image_id"])) not in of_image:
                raise ValueError(f"image {key}, which is not in the list")
            of_image[key].append(annotation)
    with _whole(path, expected):
        names = {number: composed(_text(category["name"])) for number, category in categories_by_id.items()}
        if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
            raise ValueError(f"two categories of the name {twice[0]!r:.50}")
    # Roboflow has a category 0 above the others; by its name alone, so that all files of a data set number the same
    others = [category.get("supercategory") for number, category in categories_by_id.items() if number]
    above = 0 in names and names[0] in others
    if above and any(_whole_number(annotation["category_id"]) == 0 for annotation in annotations):
        found = f"{path}: found annotations of category 0, {names[0]!r:.50}, which is the supercategory of others"
        raise UserError(f"{found} and would be left out; give these another supercategory")
    ids = sorted(names.keys() - ({0} if above else set()))
    renumbered = not all(0 < number < IGNORE_INDEX for number in ids)
    new = {number: place if renumbered else number for place, number in enumerate(ids, 1)}
    if len(new) >= IGNORE_INDEX:
        raise UserError(f"{path}: found {len(new)} categories, expected at most 254; leave some out")
    notes: list[str] = []
    if above:
        notes.append(f"category 0, {names[0]!r}, is left out: it is the supercategory of others")
    if renumbered:
        notes.append(f"categories {ids[0]} to {ids[-1]} are renumbered from 1")

    def masks() -> Iterator[tuple[str, Mask]]:
        empty, held = 0, Counter[bool]()
        for image in images:
            with _whole(f"{path}: image {image['file_name']!r:.100}", expected):
                size = _size(image["height"], image["width"])
                found = of_image[_image_id(image["id"])]
                name = _name(image["file_name"])
            parts: list[tuple[float, Any, int]] = []
            for annotation in found:
                with _whole(f"{path}: annotation {annotation.get('id')!r:.40}", expected):
                    segmentation = annotation.get("segmentation") or []
                    parts.append((area_of(segmentation), annotation, new[_whole_number(annotation["category_id"])]))
            mask = np.zeros(size, np.uint8)
            # smaller ones lie on larger ones
            for _, annotation, number in sorted(parts, key=lambda part: -part[0]):
                with _whole(f"{path}: annotation {annotation.get('id')!r:.40}", expected):
                    where = segment(annotation.get("segmentation") or [], size)
                held[bool(where.any())] += 1
                mask[where] = number
            empty += not found
            yield name, mask
        _note_left_out(notes, path, "annotations", held)
        if empty:
            notes.append(f"images without annotations: {empty}, whose masks are all 0, no label")

    return Converted({new[number]: names[number] for number in ids}, masks(), notes)


def _entries(content: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    """Return a list of mappings."""
    found = content[key]
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise ValueError(f"{key} that are no list of entries")
    return found


def _note_left_out(notes: list[str], source: Path, what: str, held: Counter[bool]) -> None:
    """Note how many annotations hold no pixel (`held` counts either kind); a UserError where none at all holds one."""
    why = "boxes, key points, lines, or outlines outside of the image or smaller than a pixel"
    if held[False] and not held[True]:
        found = f"found no pixel in any of its {held[False]} {what} ({why})"
        raise UserError(f"{source}: {found}; export polygons or masks")
    if held[False]:
        notes.append(f"{what} left out: {held[False]}, which hold no pixel ({why})")


def _by_id(entries: Any, id_of: Callable[[Any], Any]) -> dict[Any, Any]:
    """Return entries by their ids, each of which may occur once."""
    found = {id_of(entry["id"]): entry for entry in entries}
    if len(found) < len(entries):
        raise ValueError("an id twice among images or categories")
    return found


def _image_id(value: Any) -> int | str:
    return value if isinstance(value, str) and not value.isdecimal() else _whole_number(value)


def _whole_number(value: Any) -> int:
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        return int(value)
    if type(value) not in (int, float) or value != int(value):
        raise ValueError(f"{value!r:.40} in place of a whole number")
    return int(value)


def _text(value: Any) -> str:
    if not is_name(value) or len(value.splitlines()) != 1 or not value.strip():
        raise ValueError(f"{value!r:.40} in place of a name")
    return str(value).strip()


# -- LabelMe -------------------------------------------------------------------------------------------------------


def _from_labelme(folder: Path, files: Sequence[Path], classes: Mapping[int, str] | None) -> Converted:
    expected = "LabelMe's annotations"
    names: set[str] = set()
    # twice, since the names of all files come first, and their images may fill the memory
    for file in files:
        content = _json(file, expected)
        if "annotations" in content and "shapes" not in content:
            raise UserError(f"{file}: found COCO's annotations, expected LabelMe's; give the file, not its folder")
        with _whole(file, expected):
            names |= {composed(_text(shape["label"])) for shape in content["shapes"]}
    names -= set(_NO_LABEL)
    if classes is not None and (own := sorted(set(_NO_LABEL) & set(classes.values()))):
        raise UserError(f"--classes: found {own[0]!r}, which is no class: its pixels have no label; take it out")
    classes = dict(enumerate(sorted(names), 1)) if classes is None else dict(classes)
    number = {name: own_id for own_id, name in classes.items()}
    if classes.get(0) in names - {"background"}:
        found = f"--classes: found {classes[0]!r} with the id 0, which pixels without annotation have too"
        raise UserError(f"{found}; number the classes from 1")
    if unknown := sorted(names - number.keys()):
        raise UserError(f"{folder}: found the label {unknown[0]!r:.100}, expected one of --classes; add it there")
    if len(classes) >= IGNORE_INDEX:
        raise UserError(f"{folder}: found {len(classes)} labels, expected at most 254; give fewer by --classes")
    number |= {"__ignore__": IGNORE_INDEX, "_background_": 0}
    notes: list[str] = []

    def masks() -> Iterator[tuple[str, Mask]]:
        held = Counter[bool]()
        for file in files:
            content = _json(file, expected)
            with _whole(file, expected):
                size = _size(content["imageHeight"], content["imageWidth"])
                mask = np.zeros(size, np.uint8)
                for shape in content["shapes"]:
                    where = shape_of(shape, size)
                    held[bool(where.any())] += 1
                    mask[where] = number[composed(_text(shape["label"]))]
                name = _name(file.relative_to(folder).as_posix())
            yield name, mask
        _note_left_out(notes, folder, "shapes", held)

    return Converted(classes, masks(), notes)


# -- files ---------------------------------------------------------------------------------------------------------


def _json(path: Path, expected: str) -> dict[str, Any]:
    content = read_content(path, MAX_ANNOTATIONS, expected)
    with refusing(f"{path}: cannot be read", f", expected {expected}; write it again"):
        found = json.loads(content.decode("utf-8-sig"))
        if not isinstance(found, dict):
            raise ValueError(f"found a {type(found).__name__}")
        return found


def _whole(what: object, expected: str) -> Any:
    """Make a line of what an entry that is missing, or of another kind, raises in the block."""
    return refusing(f"{what}: cannot be used", f", expected {expected}; export it again")


def _size(*sides: Any) -> tuple[int, int]:
    """Return height and width of a mask to be made."""
    height, width = map(_whole_number, sides)
    if min(height, width) < 1 or height * width > MAX_PIXELS:
        raise ValueError(f"an image of {width} x {height} pixels, not of 1 to {MAX_PIXELS:,}")
    return height, width


def _name(place: Any) -> str:
    """Return the name of a mask for a file's path, which must not leave the folder; a ValueError for others."""
    path = PurePosixPath(composed(str(place).replace("\\", "/")))
    elsewhere = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:|\w+://", str(place))
    if not isinstance(place, str) or not path.parts or elsewhere or "\0" in place:
        raise ValueError("a name that is no path below the folder of images")
    if any(part.startswith(".") for part in path.parts):
        raise ValueError("a hidden file, which would be passed over")
    if not all(is_name(part) and len(part.encode()) <= MAX_NAME for part in path.parts) or len(place) > MAX_PATH:
        raise ValueError(f"a name of more than {MAX_PATH} letters or {MAX_NAME} bytes between slashes, or not of UTF-8")
    # what follows a dot is no suffix where it is a number, as in frame_0.5
    return (path.with_suffix("") if re.fullmatch(r"\.[A-Za-z]\w*", path.suffix) else path).as_posix()
