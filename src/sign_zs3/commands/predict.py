"""The verb predict for one's own images; for the test images of a data module it is in `commands.training`."""

from __future__ import annotations

import argparse
import errno
import math
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_PIXELS, MAX_SCALE

if TYPE_CHECKING:
    import torch

    from sign_zs3.models import Segmenter

DESCRIPTION = """\
Label images: per image a palette PNG of the data set's own ids at the image's own size and an overlay with a legend,
and one predictions.json with the pixels and the mean confidence of each class."""
EPILOG = """\
The test images of a data set, whose paths and sizes a configuration knows, are labelled by the other form: `sign-zs3
predict --config FILE --ckpt_path PATH`; `sign-zs3 predict --config FILE --help` lists its options."""
CKPT_HELP = "The trained model: a .ckpt file, or a folder that `export` wrote."
IMAGES_HELP = "Images, and folders that are searched with their subfolders. EXIF orientation is followed."
OUTPUT_HELP = "Folder to write into (default: predictions). Subfolders of the images' folder are kept."
OVERWRITE_HELP = "Write into a folder that holds files already; those of the same names are replaced."
WINDOW_HELP = """\
An image of more rows or columns is read in windows of this size, which overlap (default: 1024, or 128 cells of the
model's feature map where they are fewer; 0 reads all whole)."""
OVERLAP_HELP = "Pixels that neighbouring windows share at least (default: a quarter of the window)."
PIXELS_HELP = "An image of more pixels is refused (default: 100000000)."
FLIP_HELP = "Also read the mirror image (default: as the checkpoint says)."
SCALES_HELP = "Image scales whose scores are averaged, as in 0.75,1,1.25 (default: as the checkpoint says)."
PENALTY_HELP = "Subtracted from the scores of seen classes (default: as the checkpoint says)."
DEVICE_HELP = "As torch names it: cpu, cuda, cuda:1 (default: auto, a GPU where there is one)."

_DATA_OPTIONS = {"--config", "-c", "--data", "--data.class_path"}
_IMAGES = {"--images", "--data.images"}
_OWN_OPTIONS = {"--output", "--overwrite", "--window", "--overlap", "--max_pixels", "--device"}
# no other image could be written either
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def takes(args: Sequence[str]) -> bool:
    """Say whether a command line after ``predict`` is for this module: it names images, and no data module."""
    names = {arg.partition("=")[0] for arg in args if arg.startswith("-")}
    if names & _OWN_OPTIONS:
        return True
    images = bool(names & _IMAGES) or names <= {"--ckpt_path", "--help", "-h"}
    return images and not names & _DATA_OPTIONS


def run(args: list[str]) -> int:
    """Label images, going on past those that cannot be read; a UserError where nothing can be read or written."""
    options = _parser().parse_args(args)
    output = Path(options.output)
    failed: list[dict[str, str]] = []

    def fail(path: str | Path, error: object) -> None:
        failed.append({"file": str(path), "error": " ".join(str(error).split())})

    images = named_images([Path(given) for given in options.images], output, closed=fail)
    _check_output(output, options.overwrite, images)

    import torch
    from tqdm import tqdm

    from sign_zs3.images import read_image
    from sign_zs3.reports.predictions import closing_line, write_prediction, write_report

    device = _device(options.device)
    segmenter, method = load(Path(options.ckpt_path))
    segmenter.to(device)
    config = segmenter.require_config()
    evaluation: dict[str, Any] = {
        "flip": config.flip,
        "scales": list(config.scales),
        "seen_penalty": config.seen_penalty,
    }
    evaluation |= {name: given for name in evaluation if (given := getattr(options, name)) is not None}
    evaluation |= window_options(segmenter, options)

    labelled: list[dict[str, Any]] = []
    complete = False
    try:
        with tqdm(images.items(), "predict", unit="image", file=sys.stderr, dynamic_ncols=True) as bar:
            for name, path in bar:
                try:
                    image, _ = read_image(path, max_pixels=options.max_pixels)
                    found = segmenter.segment(image, **evaluation)
                    labelled.append(write_prediction(output, name, str(path), image, found, config.protocol))
                except UserError as error:
                    fail(path, error)
                    if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM:
                        raise
                except (MemoryError, RuntimeError) as error:
                    # on the CPU torch has no class of its own for it
                    told = isinstance(error, (MemoryError, torch.OutOfMemoryError))
                    if not told and "allocate memory" not in str(error):
                        raise
                    fail(path, f"{path}: not enough memory, expected room for image and window; lower --window")
        complete = True
    finally:
        for failure in failed:
            print(f"failed: {failure['error']}", file=sys.stderr)
        facts = {"checkpoint": options.ckpt_path, "method": method, "options": evaluation}
        write_report(output, config.protocol, labelled, failed, complete, **facts)
    print(closing_line(output, len(labelled)))
    if failed:
        total = len(labelled) + len(failed)
        print(f"error: {len(failed)} of {total} images failed; they are named above", file=sys.stderr)
    return 1 if failed else 0


def _parser() -> VerbParser:
    parser = VerbParser("predict", description=DESCRIPTION, epilog=EPILOG)
    add = parser.add_argument
    add("--ckpt_path", required=True, metavar="PATH", help=CKPT_HELP)
    add("--images", "--data.images", required=True, nargs="+", type=PATH, metavar="PATH", help=IMAGES_HELP)
    add("--output", default="predictions", type=PATH, metavar="FOLDER", help=OUTPUT_HELP)
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add_windows(parser)
    # the other form's names do as well
    add("--flip", "--model.flip", type=BOOLEAN, nargs="?", const=True, metavar="BOOL", help=FLIP_HELP)
    add("--scales", "--model.scales", type=SCALES, metavar="LIST", help=SCALES_HELP)
    add("--seen_penalty", "--model.seen_penalty", type=FINITE, metavar="NUMBER", help=PENALTY_HELP)
    add("--device", default="auto", metavar="DEVICE", help=DEVICE_HELP)
    return parser


def add_windows(parser: VerbParser) -> None:
    """Add the options for large images."""
    add = parser.add_argument
    add("--window", type=at_least(0), metavar="PIXELS", help=WINDOW_HELP)
    add("--overlap", type=at_least(0), metavar="PIXELS", help=OVERLAP_HELP)
    add("--max_pixels", type=at_least(1), default=MAX_PIXELS, metavar="N", help=PIXELS_HELP)


def window_options(segmenter: Segmenter, options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_windows` as `Segmenter.segment` takes them, or refuse an overlap that is too wide."""
    from sign_zs3.models.inference import window_sides

    window, overlap = window_sides(options.window, options.overlap, segmenter.window)
    return {"window": window, "overlap": overlap, "max_pixels": options.max_pixels}


def option(expected: str, parse: Callable[[str], Any], accepts: Callable[[Any], bool]) -> Callable[[str], Any]:
    """Return the type of an option: what `parse` makes of its text, where that is accepted."""

    def read(text: str) -> Any:
        with suppress(ValueError):
            if accepts(value := parse(text)):
                return value
        raise argparse.ArgumentTypeError(f"found {text!r}, expected {expected}")

    return read


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number, `least` or more."""
    expected = f"a whole number of at least {least}"
    return option(expected, lambda text: int(text) if text.isdecimal() else -1, lambda number: bool(number >= least))


# Path("") would be the folder that one is in
PATH = option("a path", str, lambda text: bool(text.strip()))
FINITE = option("a finite number", float, math.isfinite)
BOOLEAN = option("true or false", lambda text: ["false", "true"].index(text.lower()) == 1, lambda _: True)
SCALES = option(
    f"numbers above 0, at most {MAX_SCALE:g}, as in 0.75,1,1.25",
    lambda text: [float(part) for part in text.strip("[] ").split(",")],
    lambda scales: all(0 < scale <= MAX_SCALE for scale in scales),
)


def named_images(
    given: Sequence[Path], output: Path, closed: Callable[[str, UserError], None] | None = None
) -> dict[str, Path]:
    """Find images as `images.find_images` does; return the names of their predictions, with the images.

    A name is the image's path below its folder, with the suffix only where two images differ in it alone.
    """
    from sign_zs3.images import find_images

    found = find_images(given, "--images", output, closed)
    images: dict[str, Path] = {}
    stems = Counter(place.with_suffix("") for place in set(found.values()))
    for file, place in found.items():
        stem = place.with_suffix("")
        name = wanted = (place if stems[stem] > 1 else stem).as_posix()
        number = 1
        while name in images:
            number += 1
            name = f"{wanted}-{number}"
        images[name] = file
    return images


def _check_output(output: Path, overwrite: bool, images: dict[str, Path]) -> None:
    from sign_zs3.files import check_writable
    from sign_zs3.images import REPORT
    from sign_zs3.reports.predictions import paths_of

    if os.path.isfile(output):  # noqa: PTH113
        raise UserError(f"--output: found the file {output}, expected a folder, made where it is missing; name another")
    check_writable(output / REPORT)
    if not output.exists():
        return
    if not overwrite and any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty: name another folder, or replace files with --overwrite")
    read = {path.resolve() for path in images.values()}
    for place in (output / place for name in images for place in paths_of(name)):
        if place.resolve() in read:
            replaced = f"{place} would be replaced, which is one of the images to read"
            raise UserError(f"--output: {replaced}: name another folder")


def load(path: Path) -> tuple[Segmenter, str | None]:
    """Return a model and the method it was trained with, where that is known."""
    from sign_zs3.tasks.loading import load_segmenter, load_task

    if path.is_dir():
        return load_segmenter(path), None
    task = load_task(path)
    return task.segmenter, type(task).__name__.removesuffix("Module")


def _device(name: str) -> torch.device:
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f"--device: found {name}, which torch cannot use here ({str(error).splitlines()[0]}), expected cpu, or "
            "cuda with a GPU and torch built for it; leave it out"
        ) from error
    return device
