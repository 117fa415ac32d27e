"""Readers of masks and lists; each error is one line that names the file."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from sign_zs3.data.datasets.matlab import unpacked
from sign_zs3.errors import UserError
from sign_zs3.files import CLASS_LINE, read_lines, refuse_special
from sign_zs3.images import FORMATS, decoding, raw_mode
from sign_zs3.limits import MAX_NAME
from sign_zs3.protocol import IGNORE_INDEX

# Pillow spreads grey of 2 and 4 bits over 0 to 255
_SPREAD = {"L;2": 85, "L;4": 17}
_MASK_FORMATS = ("PNG", "BMP", "DIB", "TIFF", "PPM")
# of TIFF, as Pillow names them
_LOSSY = ("jpeg", "tiff_jpeg", "webp", "tiff_sgilog", "tiff_sgilog24")


def read_list(
    path: Path, problems: list[str] | None = None, clean: Callable[[str], str] = lambda line: line
) -> list[str]:
    """Read a list of image ids, one a line, in the file's order; a `UserError` where it cannot be read or is empty.

    `problems` takes ids that occur twice or leave the folder of the images; where it is None, they are errors too.
    `clean` makes an id of a line.
    """
    ids: dict[str, None] = {}
    for number, line in read_lines(path, "image id", "a list of image ids, one a line"):
        line = clean(line)
        line = PurePosixPath(line).as_posix()  # one spelling of a//b and ./a
        if line.startswith("/") or ".." in PurePosixPath(line).parts or "\\" in line or "\0" in line:
            problem = f", expected a name below the folder of images; correct line {number}"
        elif line in ids:
            problem = f" twice, expected it once; remove line {number}"
        else:
            ids[line] = None
            continue
        problem = f"{path}: found the id {line!r:.100}{problem}"
        if problems is None:
            raise UserError(problem)
        problems.append(problem)
    return list(ids)


def read_classes(path: Path, largest: int = 254) -> dict[int, str]:
    """Read a list of classes, ``id<TAB>name`` or ``id: name`` a line: id (at most `largest`) -> name, in its order.

    Raises:
        UserError: The file cannot be read, a line has another form, or an id or a name occurs twice.
    """
    expected = "a class a line, as id<TAB>name"
    classes: dict[int, str] = {}
    names: set[str] = set()
    for number, line in read_lines(path, "class", expected):
        match = CLASS_LINE.fullmatch(line)
        if match is None:
            advice = "put a tab between id and name, not spaces" if re.match(r"\d+ ", line) else "correct the line"
            raise UserError(f"{path}: found {line!r:.100} in line {number}, expected {expected}; {advice}")
        digits, name = match.groups()
        if len(name) > MAX_NAME:
            what = f"{path}: found a name of {len(name)} characters in line {number}"
            raise UserError(f"{what}, expected at most {MAX_NAME}; shorten it")
        # Python turns no more than some thousand digits into a number
        if len(digits) > 9 or int(digits) > largest:
            found = f"found the id {digits:.9}{'...' * (len(digits) > 9)} in line {number}"
            advice = "; renumber classes and masks"
            if digits == str(IGNORE_INDEX):
                advice = ", since 255 always means no label; delete the line"
            raise UserError(f"{path}: {found}, expected 0 to {largest}{advice}")
        if int(digits) in classes or name in names:
            what = f"the id {int(digits)}" if int(digits) in classes else f"the name {name!r}"
            raise UserError(f"{path}: found {what} twice, expected it once; correct line {number}")
        classes[int(digits)] = name
        names.add(name)
    return classes


def read_index_mask(path: Path) -> NDArray[Any]:
    """Decode a mask, whole numbers (H, W): the indices of a palette PNG, or the values of a grey one.

    What the file is decides, not its name: PNG, BMP, PNM or TIFF of 2 to 32 bits, which keep ids as they are. Numbers
    of more than eight bits that all fit are uint8 too.

    Raises:
        UserError: The file cannot be decoded, is of another kind (colours, or a format that changes ids as JPEG and
            GIF do), or has several pages. Memory: at most 12 bytes per pixel that the header tells of, and 179 million
            of them, above which Pillow refuses.
    """
    expected = "a mask with one id per pixel (palette or grey PNG)"
    with decoding(path, "a palette or grey PNG"):
        refuse_special(path, "a palette or grey PNG")
        with Pillow.open(path, formats=FORMATS) as file:
            rawmode = raw_mode(file)
            if (found := _changes_ids(file, rawmode)) is not None:
                raise UserError(f"{path}: found {found}, expected {expected}; write it anew from its source")
            if (mode := file.mode) not in ("L", "P") and mode[0] != "I":
                kind = "real numbers" if mode == "F" else "a 1-bit image" if mode == "1" else f"a {mode} image"
                raise UserError(f"{path}: found {kind}, expected {expected}; convert it")
            mask = np.asarray(file)
    if mask.dtype != np.uint8 and mask.size and mask.min() >= 0 and mask.max() <= IGNORE_INDEX:
        mask = mask.astype(np.uint8)
    spread = _SPREAD.get(rawmode, 1)
    return mask if spread == 1 else mask // np.uint8(spread)


def read_palette(path: Path) -> NDArray[np.uint8] | None:
    """Return the palette of a mask, (256, 3) RGB, black where it is shorter; None where a file has or gives none."""
    with suppress(UserError), decoding(path, "a palette PNG"):
        refuse_special(path, "a palette PNG")
        with Pillow.open(path, formats=FORMATS) as file:
            if file.mode == "P" and (colours := file.getpalette("RGB")):
                found = np.array([*colours, *(0,) * 768][:768], np.uint8)
                return found.reshape(256, 3)
    return None


def _changes_ids(file: Pillow.Image, rawmode: str) -> str | None:
    """Name what makes an opened image unfit to hold ids; None where nothing does."""
    if file.format not in _MASK_FORMATS:
        return f"{file.format} data, which do not keep ids as they are"
    if (pages := int(getattr(file, "n_frames", 1))) > 1:
        return f"{pages} pages, of which one could be read"
    if (compression := file.info.get("compression")) in _LOSSY:
        return f"a TIFF compressed as {compression}, which changes ids"
    # Pillow turns these over, so that 0 becomes 255
    return "a TIFF in which 0 is white" if "L;I" in rawmode else None


def read_mat(path: Path, *fields: str) -> NDArray[Any]:
    """Read a label map, whole numbers (H, W), from a MATLAB file, in which nothing is run.

    `fields` names the variable, then the field of its struct. A file without them, or one that cannot be decoded, is a
    `UserError`. Memory: at most 20 times what the file holds unpacked, which is refused above `MAX_MATLAB` bytes.
    """
    from scipy.io import loadmat

    expected = f"a MATLAB file with the label map {'.'.join(fields)}"
    with decoding(path, expected):
        refuse_special(path, expected)
        try:
            value = loadmat(unpacked(path, fields[0]), variable_names=fields[:1])
        except NotImplementedError as error:
            raise UserError(
                f"{path}: found a MATLAB file of version 7.3, expected one of version 7 or older; save it again by "
                "MATLAB's save(..., '-v7')"
            ) from error
        found = ", ".join(sorted(key for key in value if not key.startswith("__"))) or "no such variable"
        for field in fields:
            names = value.dtype.names if isinstance(value, np.ndarray) else value
            if names is None or field not in names:
                raise UserError(f"{path}: found {found}, expected {expected}; fetch the file again")
            value = value[field]
            # a struct is an array of one
            value = value[0, 0] if value.dtype == object and value.shape == (1, 1) else value
            found = f"{field} with {', '.join(value.dtype.names)}" if value.dtype.names else field
    mask = np.asarray(value)
    if mask.ndim != 2 or not np.issubdtype(mask.dtype, np.integer):
        raise UserError(
            f"{path}: found {'.'.join(fields)} of {mask.dtype} and shape {mask.shape}, expected whole numbers of "
            "shape (height, width); fetch the file again"
        )
    return mask


def missing_files(paths: Sequence[Path]) -> list[Path]:
    """Return the files that are not there; asking for 20,000 one by one would take minutes on a network disk."""
    present = {folder: names_in(folder) for folder in {path.parent for path in paths}}
    return [path for path in paths if path.name not in present[path.parent]]


def names_in(folder: Path) -> set[str]:
    """Return the names of a folder's files; none where it is not there."""
    return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()


def find_folder(root: str | Path, places: Sequence[str], mark: str) -> Path | None:
    """Return the first of `places` below `root` that holds `mark`, a file or folder."""
    return next((folder for folder in (Path(root) / place for place in places) if (folder / mark).exists()), None)
