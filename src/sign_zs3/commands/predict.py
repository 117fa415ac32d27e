"""The verb predict for images of one's own; over the test images of a data module it is in `commands.training`."""

from __future__ import annotations

import argparse
import errno
import math
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_zs3.errors import UserError

if TYPE_CHECKING:
    import torch

    from sign_zs3.models import Segmenter

DESCRIPTION = """\
Label images: per image a palette PNG of the data set's own ids at the image's own size and an overlay with a legend,
and one predictions.json with the pixels and the mean confidence of each class."""
EPILOG = """\
The test images of a data set, whose paths and sizes a configuration knows, are labelled by the other form: `sign-zs3
predict --config FILE --ckpt_path PATH`; `sign-zs3 predict --config FILE --help` lists its options."""
CKPT_HELP = "The trained model: a .ckpt file, or a folder that save_pretrained wrote."
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
_OWN_OPTIONS = {"--output", "--overwrite", "--window", "--overlap", "--max_pixels", "--device"}
# no other image fares better
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


def takes(args: Sequence[str]) -> bool:
    """Say whether a command line after ``predict`` is for this module: it names images, and no data module."""
    names = {arg.partition("=")[0] for arg in args if arg.startswith("-")}
    if names & _OWN_OPTIONS:
        return True
    return not names & _DATA_OPTIONS and ("--data.images" in names or names <= {"--ckpt_path", "--help", "-h"})


def run(args: list[str]) -> int:
    """Label images, going on past those that cannot be read.

    Args:
        args: The command line after the verb.

    Returns:
        0; 1 where an image could not be labelled.

    Raises:
        UserError: No image is found, the output would replace files, or the model or an option cannot be used.
    """
    options = _parser().parse_args(args)
    output = Path(options.output)
    failed: list[dict[str, str]] = []

    def fail(path: str | Path, error: object) -> None:
        failed.append({"file": str(path), "error": " ".join(str(error).split())})

    images = find_images([Path(given) for given in options.images], output, closed=fail)
    _check_output(output, options.overwrite, images)

    from tqdm import tqdm

    from sign_zs3.images import read_image
    from sign_zs3.reports.predictions import closing_line, write_prediction, write_report

    device = _device(options.device)
    segmenter, method, reading = _load(Path(options.ckpt_path))
    segmenter.to(device)
    assert segmenter.config is not None
    given = {"flip": options.flip, "scales": options.scales, "seen_penalty": options.seen_penalty}
    reading |= {name: value for name, value in given.items() if value is not None}
    windows = check_windows(segmenter, options)

    labelled: list[dict[str, Any]] = []
    complete = False
    with _ended_by_sigterm():
        try:
            with tqdm(images.items(), "predict", unit="image", file=sys.stderr, dynamic_ncols=True) as bar:
                for name, path in bar:
                    try:
                        image, _ = read_image(path, max_pixels=options.max_pixels)
                        found = segmenter.segment(image, **reading, **windows)
                        labelled.append(
                            write_prediction(output, name, str(path), image, found, segmenter.config.protocol)
                        )
                    except UserError as error:
                        fail(path, error)
                        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM:
                            raise
                    except (MemoryError, RuntimeError) as error:
                        if not _is_memory(error):
                            raise
                        fail(path, f"{path}: not enough memory, expected room for image and window; lower --window")
            complete = True
        finally:
            for failure in failed:
                print(f"failed: {failure['error']}", file=sys.stderr)
            facts = {"checkpoint": options.ckpt_path, "method": method, "options": reading | windows}
            write_report(output, segmenter.config.protocol, labelled, failed, complete, **facts)
    print(closing_line(output, len(labelled)))
    if failed:
        total = len(labelled) + len(failed)
        print(f"error: {len(failed)} of {total} images failed; they are named above", file=sys.stderr)
    return 1 if failed else 0


def _is_memory(error: Exception) -> bool:
    """Say whether memory ran out; on the CPU torch has no class of its own for that."""
    import torch

    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "allocate memory" in str(error)


# -- the command line ----------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sign-zs3 predict", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    add = parser.add_argument
    add("--ckpt_path", required=True, metavar="PATH", help=CKPT_HELP)
    add("--data.images", dest="images", required=True, nargs="+", type=_named, metavar="PATH", help=IMAGES_HELP)
    add("--output", default="predictions", type=_named, metavar="FOLDER", help=OUTPUT_HELP)
    add("--overwrite", action="store_true", help=OVERWRITE_HELP)
    add_windows(parser)
    # the other form's names do as well
    add("--flip", "--model.flip", type=_boolean, nargs="?", const=True, metavar="BOOL", help=FLIP_HELP)
    add("--scales", "--model.scales", type=_scales, metavar="LIST", help=SCALES_HELP)
    add("--seen_penalty", "--model.seen_penalty", type=_finite, metavar="NUMBER", help=PENALTY_HELP)
    add("--device", default="auto", metavar="DEVICE", help=DEVICE_HELP)
    return parser


def add_windows(parser: argparse.ArgumentParser) -> None:
    """Add the options for large images."""
    add = parser.add_argument
    add("--window", type=at_least(0), metavar="PIXELS", help=WINDOW_HELP)
    add("--overlap", type=at_least(0), metavar="PIXELS", help=OVERLAP_HELP)
    add("--max_pixels", type=at_least(1), default=100_000_000, metavar="N", help=PIXELS_HELP)


def check_windows(segmenter: Segmenter, options: argparse.Namespace) -> dict[str, Any]:
    """Return the options of `add_windows` as `Segmenter.segment` takes them, with the model's own where none is given.

    Raises:
        UserError: The overlap is too wide for the window.
    """
    window = segmenter.window if options.window is None else options.window
    overlap = window // 4 if options.overlap is None else options.overlap
    if window and not 2 * overlap < window:
        raise UserError(
            f"--overlap: found {overlap}, expected less than half of the window of {window}: lower it, or raise "
            "--window"
        )
    return {"window": window, "overlap": overlap, "max_pixels": options.max_pixels}


def at_least(least: int) -> Callable[[str], int]:
    """Return the type of an option that is a whole number, `least` or more."""

    def whole(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number of at least {least}")
        return int(text)

    return whole


def _named(text: str) -> str:
    if not text.strip():
        # Path("") would be the folder that one is in
        raise argparse.ArgumentTypeError("found an empty name, expected a path")
    return text


def _finite(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a finite number")
    return number


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected true or false")
    return text.lower() == "true"


def _scales(text: str) -> list[float]:
    try:
        scales = [float(part) for part in text.strip("[] ").split(",")]
    except ValueError:
        scales = []
    if not scales or not all(0 < scale <= 10 for scale in scales):
        raise argparse.ArgumentTypeError(f"found {text!r}, expected numbers above 0, at most 10, as in 0.75,1,1.25")
    return scales


# -- images and files ----------------------------------------------------------------------------------------------


def find_images(
    given: Sequence[Path], output: Path, closed: Callable[[str, UserError], None] | None = None
) -> dict[str, Path]:
    """Find the images of folders and files, and name their predictions.

    Args:
        given: Images, and folders to search with their subfolders; hidden files count only where they are named.
        output: Folder that is not searched, where it lies in one that is.
        closed: Told of each folder that cannot be opened, and why; None: that is an error.

    Returns:
        Name -> image, in the order given, sorted within a folder. A name is the path without suffix in the folder,
        that folder's name before it where several are given; with the suffix where two images differ in it alone.

    Raises:
        UserError: A path is not there or may not be looked at, or no image is found.
    """
    from sign_zs3.files import visible_files
    from sign_zs3.images import SUFFIXES

    problems: list[UserError] = []

    def tell(folder: str, error: UserError) -> None:
        problems.append(error)
        if closed is None:
            raise error
        closed(folder, error)

    several = sum(os.path.isdir(path) for path in given) > 1  # noqa: PTH112
    written = output.resolve()
    # by true path: what is given twice is labelled once
    found: dict[Path, tuple[Path, Path]] = {}
    for path in given:
        # Path's own tests raise where one may not look
        if os.path.isdir(path):  # noqa: PTH112
            whole = path.resolve()
            top = Path(whole.name) if several else Path()
            inside = written != whole and written not in whole.parents
            for file in sorted(visible_files(path, tell)):
                if file.suffix.lower() in SUFFIXES and not (inside and _is_in(file, written)):
                    place = file.relative_to(path)
                    found.setdefault(whole / place, (file, top / place))
        elif os.path.isfile(path):  # noqa: PTH113
            found.setdefault(path.parent.resolve() / path.name, (path, Path(path.name)))
        else:
            raise UserError(
                f"--data.images: {path} is not there, or in a closed folder, expected an image or a folder of images; "
                "correct the path"
            )
    if not found:
        if problems:
            raise problems[0]
        raise UserError(
            f"--data.images: found no image in {', '.join(map(str, given))}, expected files that end in "
            f"{', '.join(SUFFIXES)}; name another folder"
        )
    images: dict[str, Path] = {}
    stems = Counter(place.with_suffix("") for place in {place for _, place in found.values()})
    for file, place in found.values():
        stem = place.with_suffix("")
        name = wanted = (place if stems[stem] > 1 else stem).as_posix()
        number = 1
        while name in images:
            number += 1
            name = f"{wanted}-{number}"
        images[name] = file
    return images


def _is_in(path: Path, folder: Path) -> bool:
    return folder in path.resolve().parents


def _check_output(output: Path, overwrite: bool, images: dict[str, Path]) -> None:
    from sign_zs3.files import check_writable
    from sign_zs3.reports.predictions import REPORT, paths_of

    if os.path.isfile(output):  # noqa: PTH113
        raise UserError(f"--output: found the file {output}, expected a folder, made where it is missing; name another")
    check_writable(output / REPORT)
    if not output.exists():
        return
    if not overwrite and any(output.iterdir()):
        raise UserError(f"--output: {output} is not empty: name another folder, or replace files with --overwrite")
    read = {path.resolve() for path in images.values()}
    for name in images:
        for place in paths_of(name):
            if (output / place).resolve() in read:
                raise UserError(
                    f"--output: {output / place} would be replaced, which is one of the images to read: name another "
                    "folder"
                )


# -- the model -----------------------------------------------------------------------------------------------------


def _load(path: Path) -> tuple[Segmenter, str | None, dict[str, Any]]:
    """Return a model, the method it was trained with where that is known, and how it wants images to be read."""
    from sign_zs3.tasks.loading import load_segmenter, load_task

    if path.is_dir():
        segmenter = load_segmenter(path)
        config = segmenter.config
        assert config is not None
        return segmenter, None, {name: config.as_dict()[name] for name in ("flip", "scales", "seen_penalty")}
    task = load_task(path)
    return task.segmenter, type(task).__name__.removesuffix("Module"), task.evaluation


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


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an exception does, so that files are closed and the report is written."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        print("stopped by SIGTERM", file=sys.stderr)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
