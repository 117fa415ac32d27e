"""Images and masks of two folders, found and paired by their names."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from sign_zs3.errors import UserError
from sign_zs3.files import composed, visible_files
from sign_zs3.images import SUFFIXES, warn_of_unread

# no GIF: those who write one renumber its palette, and the ids are lost
MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm", ".pnm")


@dataclass
class Side:
    """The images or the masks of a folder, by the name that pairs them.

    Attributes:
        folder: Where they lie.
        what: ``images`` or ``masks``.
        suffix: End of the files' names that is not part of the name; None: any of `suffixes`.
        suffixes: In lower case.
        files: Name, with subfolders, `composed` -> file.
        others: Visible files that are none of them.
    """

    folder: Path
    what: str
    suffix: str | None
    suffixes: Sequence[str]
    files: dict[str, Path] = field(default_factory=dict)
    others: list[Path] = field(default_factory=list)

    def name(self, place: str) -> str | None:
        """Return the name of a file by its path below the folder; None where it is not of this side."""
        if self.suffix is not None:
            end = len(place) - len(self.suffix)
            return place[:end] if end > 0 and place[end:].lower() == self.suffix.lower() else None
        stem, dot, ending = place.rpartition(".")
        return stem if f"{dot}{ending}".lower() in self.suffixes else None

    def listed(self, place: str) -> str:
        """Return the name that a line of a list gives, with or without the folder and the suffix."""
        place = place.removeprefix(f"{composed(self.folder.name)}/")
        return self.name(place) or place


def find_side(folder: Path, what: str, suffix: str | None, problems: list[str] | None) -> Side:
    """Find the images or masks of a folder and its subfolders.

    `problems` takes files of one name; where it is None, they are a UserError, as is a folder that is not there.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: not found, expected the folder of the {what}; name it in {what}")
    side = Side(folder, what, suffix and composed(suffix), SUFFIXES if what == "images" else MASK_SUFFIXES)
    for path in sorted(visible_files(folder)):
        name = side.name(composed(path.relative_to(folder).as_posix()))
        if name is None:
            side.others.append(path)
        elif name in side.files:
            message = f"{path}: found beside {side.files[name].name}, expected one file of that name; remove one"
            if problems is None:
                raise UserError(message)
            problems.append(message)
        else:
            side.files[name] = path
    if what == "images":
        warn_of_unread(side.others)
    return side


def in_list(line: str, images: Side, masks: Side) -> tuple[str, str]:
    """Return the names of the image and of the mask in a line of a list: one for both, or two with a blank between."""
    name = images.listed(line)
    if name not in images.files:
        for place in (index for index, sign in enumerate(line) if sign.isspace()):
            pair = images.listed(line[:place].strip()), masks.listed(line[place:].strip().removeprefix("./"))
            if pair[0] in images.files and pair[1] in masks.files:
                return pair
    return name, name


def unpaired(mine: Side, other: Side) -> list[str]:
    """Return a line for each file of a side that the other one has none of the same name for."""
    one, lacking = (side.what.removesuffix("s") for side in (mine, other))
    left_out = {composed(path.relative_to(other.folder).with_suffix("").as_posix()): path for path in other.others}
    lines = []
    for name in sorted(mine.files.keys() - other.files.keys()):
        why = f" but {left_out[name].name}, whose format is not read," if name in left_out else ","
        lines.append(
            f"{mine.files[name]}: found no {lacking} of this name{why} expected one; add it or remove the {one}"
        )
    return lines


def why_none(images: Side, masks: Side) -> str:
    """Return what to say where no image has a mask: a name of each side, what was left out, and what would help."""
    shown = [
        str(file.relative_to(side.folder.parent)) for side in (images, masks) for file in [*side.files.values()][:1]
    ]
    such = " and ".join(shown)
    found = f" (such as {such})" if such else ""
    if masks.others:
        kinds = Counter(path.suffix.lower() or "no suffix" for path in masks.others)
        found += f"; left out there: {', '.join(f'{count} {kind}' for kind, count in kinds.most_common(3))}"
    endings = find_endings(images, masks)
    advice = "name the folders in images and masks, or what names end in by image_suffix and mask_suffix"
    if endings is not None:
        advice = f"give image_suffix {endings[0]} and mask_suffix {endings[1]}"
    return f"found no image with a mask in {masks.folder}{found}, expected a mask of the same name per image; {advice}"


def find_endings(images: Side, masks: Side) -> tuple[str, str] | None:
    """Return the ends of names without which at least half of the images would have a mask; None where none would."""
    if not images.files or not masks.files:
        return None
    places = [
        [composed(path.relative_to(side.folder).as_posix()) for path in side.files.values()] for side in (images, masks)
    ]
    first, stem = places[0][0], next(iter(images.files))

    def shared(place: str) -> str:
        return "".join(a for a, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(stem, place)))  # noqa: B905

    best = max(places[1], key=lambda place: (len(shared(place)), "label" in place.lower(), -len(place)))
    common = shared(best).rstrip("_-. ")
    endings = first[len(common) :], best[len(common) :]
    if not common or common.endswith("/"):
        return None
    names = [{p.removesuffix(end) for p in part if p.endswith(end)} for part, end in zip(places, endings, strict=True)]
    return endings if 2 * len(names[0] & names[1]) >= len(images.files) else None
