"""Images decoded to RGB, whatever their file holds."""

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Lock
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageOps

from sign_zs3.errors import UserError
from sign_zs3.files import from_home, line_of, read_json, refuse_special, visible_files

log = logging.getLogger(__name__)

# (height, width) in pixels
Size: TypeAlias = tuple[int, int]
# of the files that count as images in a folder
SUFFIXES = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".tif", ".tiff", ".webp", ".gif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)
# images as well, which nothing here reads
_UNREAD = (
    *(".heic", ".heif", ".avif", ".jxl", ".jp2", ".j2k", ".psd", ".svg", ".tga", ".exr", ".hdr", ".eps"),
    *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2"),
)
# Pillow's readers that are asked, whatever a file's name is: among the others is one that starts Ghostscript (EPS)
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "TIFF", "WEBP", "GIF", "PPM")
REPORT = "predictions.json"
"""What is written beside predictions: their list, the pixels of each class, and how they were made."""
_ORIENTATION = 0x0112
# of 256: with more than 14 of 16 bits in use, colours are dark, but there
_DARK = 64
# EXIF orientations that swap height and width
_TURNED = (5, 6, 7, 8)
_OPENING = Lock()


def read_image(
    path: Path,
    mask_size: Size | None = None,
    needed_size: Callable[[int, int], Size] | None = None,
    max_pixels: int | None = None,
    follow_exif: bool = True,
) -> tuple[NDArray[np.uint8], Size]:
    """Decode an image to RGB: grey, palette, CMYK, alpha and 16-bit images are converted (`as_rgb`), EXIF is followed.

    Where following EXIF would not meet the mask's size and the stored pixels do, the stored pixels count: the
    mask was drawn on them. Without `max_pixels`, Pillow warns of images above 89 million pixels and refuses those
    above 179 million. Memory: at most 16 bytes per pixel of the header's size; most images take 4 or 7.

    Args:
        path: The image.
        mask_size: Height and width of its mask.
        needed_size: From the image's height and width to those that are needed: a JPEG is then decoded at 1/2, 1/4
            or 1/8 of its size, rounded up, where that is not below; but not one that EXIF turns, unless both sides are
            multiples of 8: the rest of a side would lie at its other end.
        max_pixels: Refuse an image of more pixels before it is decoded.
        follow_exif: Turn and mirror the image as its EXIF says; False takes the pixels as they are stored.

    Returns:
        uint8 (h, w, 3), and the image's full size (H, W).

    Raises:
        UserError: The file cannot be decoded, or is too large.
    """
    with decoding(path, "an image"):
        refuse_special(path, "an image")
        with _opened(path, max_pixels) as file:
            rawmode = raw_mode(file)  # before the EXIF of a PNG, for which Pillow decodes all of it
            stored = (file.height, file.width)
            if max_pixels is not None:
                check_pixels(path, *stored, max_pixels)
            orientation = file.getexif().get(_ORIENTATION, 1) if follow_exif else 1
            turned = orientation in _TURNED
            if turned and mask_size == stored != stored[::-1]:
                orientation, turned = 1, False
            size = stored[::-1] if turned else stored
            if needed_size is not None and (orientation == 1 or not any(side % 8 for side in stored)):
                needed = needed_size(*size)
                # formats that cannot be reduced do nothing here
                file.draft(None, needed if turned else needed[::-1])
            # not in training, which reads each file many times
            if needed_size is None and (pages := _pages(file)) is not None:
                log.warning("%s: found %s, of which the first is read", path, pages)
            # without a need to turn, it would copy
            pixels = as_rgb(file if orientation == 1 else ImageOps.exif_transpose(file))
            # Pillow reads the upper eight bits of each colour
            if ";16" in rawmode and file.mode == "RGB" and pixels.size and pixels.max() < _DARK:
                raise ValueError("16-bit colours of which hardly any bits are in use, so that it would be black")
            return pixels, size


def warn_of_unread(files: Sequence[Path]) -> None:
    """Warn of those files that are images by their suffix and are not read."""
    if unread := [file for file in files if file.suffix.lower() in _UNREAD]:
        number = f" ({len(unread)} such files)" if len(unread) > 1 else ""
        log.warning("%s: left out, since this format is not read%s; convert it to PNG or JPEG", unread[0], number)


def _predictions_among(files: Sequence[Path]) -> set[Path]:
    """Return the index maps and overlays that reports of predictions among some files name."""
    written: set[Path] = set()
    for report in (file for file in files if file.name == REPORT):
        with suppress(UserError, KeyError, TypeError, AttributeError):
            for entry in read_json(report, "a report of predictions")["images"]:
                written |= {report.parent / entry["index"], report.parent / entry["overlay"]}
    if found := written.intersection(files):
        log.info("%s: %d files in this folder are predictions, and left out", min(found).parent, len(found))
    return written


def _opened(path: Path, max_pixels: int | None) -> Pillow.Image:
    """Open an image; the caller's limit stands in for Pillow's own, which warns at half of the size that it refuses.

    Pillow's limit is a global: it is off while an image is opened, no longer, and in one thread at a time.
    """
    with _OPENING:
        before = Pillow.MAX_IMAGE_PIXELS
        if max_pixels is not None:
            Pillow.MAX_IMAGE_PIXELS = None
        try:
            return Pillow.open(path, formats=FORMATS)
        finally:
            Pillow.MAX_IMAGE_PIXELS = before


def find_images(
    paths: Sequence[str | Path],
    option: str = "images",
    output: Path | None = None,
    closed: Callable[[str, UserError], None] | None = None,
) -> dict[Path, Path]:
    """Find image files.

    Args:
        paths: Files, whatever their names, and folders, whose visible files that end in one of `SUFFIXES` count, with
            those of their subfolders; but not what a report there names as written by this program.
        option: What gave the paths, for errors.
        output: Folder that is not searched, where it lies in one that is.
        closed: Called with each folder that cannot be opened, and why; None: that is an error, as is a folder without
            an image.

    Returns:
        Image -> its path below the folder that was given, with that folder's name before it where several are given;
        each image once, in the order given, those of a folder sorted.

    Raises:
        UserError: A path is not there or may not be looked at, or no image is found.
    """
    problems: list[UserError] = []

    def report(folder: str, error: UserError) -> None:
        if closed is None:
            raise error
        problems.append(error)
        closed(folder, error)

    several = sum(os.path.isdir(path) for path in paths) > 1  # noqa: PTH112
    written = None if output is None else output.resolve()
    empty = []
    # by true path: what is given twice is found once
    found: dict[Path, tuple[Path, Path]] = {}
    for path in map(Path, map(from_home, paths)):
        # Path's own tests raise where one may not look
        if os.path.isdir(path):  # noqa: PTH112
            whole = path.resolve()
            visible = sorted(visible_files(path, report))
            warn_of_unread(visible)
            earlier = _predictions_among(visible)
            files = [file for file in visible if file.suffix.lower() in SUFFIXES and file not in earlier]
            if written is not None and written not in (whole, *whole.parents):
                files = [file for file in files if written not in file.resolve().parents]
            empty += [] if files else [str(path)]
            for file in files:
                place = file.relative_to(path)
                found.setdefault(whole / place, (file, Path(whole.name if several else "") / place))
        elif os.path.isfile(path):  # noqa: PTH113
            found.setdefault(path.parent.resolve() / path.name, (path, Path(path.name)))
        else:
            raise UserError(
                f"{option}: {path} is not there, or may not be read, expected an image or a folder of images; "
                "correct the path"
            )
    if problems and not found:
        raise problems[0]
    if not found or (empty and closed is None):
        raise UserError(
            f"{option}: found no image in {', '.join(empty) or 'no path'}, expected files that end in "
            f"{', '.join(SUFFIXES)}; name another folder"
        )
    return dict(found.values())


def raw_mode(file: Pillow.Image) -> str:
    """Return how an opened image's pixels lie in its file, in Pillow's words; empty where that is not known."""
    tiles = getattr(file, "tile", None)
    return str(tiles[0][3]) if tiles else ""


def _pages(file: Pillow.Image) -> str | None:
    """Say that an opened image has several pages or frames, which only a TIFF can count undecoded; None for one."""
    if file.format == "TIFF":
        pages = int(getattr(file, "n_frames", 1))
        return f"{pages} pages" if pages > 1 else None
    return "several frames" if getattr(file, "is_animated", False) else None


def check_pixels(what: object, height: int, width: int, max_pixels: int) -> None:
    """Refuse an image, `what` names it, of more than so many pixels."""
    if height * width > max_pixels:
        raise UserError(
            f"{what}: found {width} x {height} = {height * width} pixels, expected at most {max_pixels}: reduce it, or "
            "raise max_pixels"
        )


def as_rgb(image: Pillow.Image) -> NDArray[np.uint8]:
    """Convert a decoded image to uint8 (H, W, 3) RGB; of grey of more bits, the upper eight of those that are in use.

    The bits in use are the fewest of 8, 10, 12, 14 and 16 that hold the image's largest number: cameras and scanners
    write 12 bits into 16. Real numbers, negative ones and those of more than 16 bits are a ValueError.
    """
    if image.mode == "F":
        raise ValueError("real numbers of unknown range, not 8 or 16 bits")
    if image.mode.startswith("I"):
        # Pillow would cut 16 bits off at 255
        values = np.asarray(image)
        low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
        if low < 0 or high >= 1 << 16:
            raise ValueError(f"whole numbers from {low} to {high}, not 8 or 16 bits")
        bits = next(bits for bits in (8, 10, 12, 14, 16) if high < 1 << bits)
        grey = (values >> (bits - 8)).astype(np.uint8)
        return np.repeat(grey[:, :, None], 3, axis=2)
    # a palette's transparency is not asked for, and Pillow warns that it would be lost
    image.info.pop("transparency", None)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


@contextmanager
def decoding(path: Path, expected: str) -> Iterator[None]:
    """Make a line about a file of what its decoder raises in the block, almost anything where the file is broken."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except FileNotFoundError as error:
        raise UserError(f"{path}: not found, expected {expected}; put the file there") from error
    except Exception as error:
        empty = path.is_file() and not path.stat().st_size
        reason, advice = ("it is empty", "") if empty else (line_of(error), "convert it, or ")
        raise UserError(
            f"{path}: cannot be decoded ({reason}), expected {expected}; {advice}fetch the file again"
        ) from error
