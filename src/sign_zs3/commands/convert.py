"""`data convert`: a folder of id masks and its list of classes, from what annotation tools write."""

import os
import tempfile
from argparse import Namespace
from collections import Counter
from pathlib import Path

import numpy as np
from PIL import Image

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.data.convert import Converted, convert
from sign_zs3.data.datasets.files import read_classes
from sign_zs3.drawing.colours import class_colours, palette_bytes
from sign_zs3.errors import UserError
from sign_zs3.files import check_writable, line_of, make_folder
from sign_zs3.protocol import IGNORE_INDEX

DESCRIPTION = """\
Make id masks (palette PNG) and classes.txt of colour-coded masks, of COCO's JSON (polygons and run lengths) or of
LabelMe's. Pixels that nothing is annotated on are 0, no label; add the line 0<TAB>background to classes.txt to make
them a class."""
SOURCE_HELP = """\
A COCO JSON file, as Roboflow, CVAT and Label Studio export it; a folder of LabelMe JSON files; or, with --colours, a
folder of colour-coded masks, such as CVAT's SegmentationClass."""
COLOURS_HELP = """\
The colours: voc for VOC's palette; or a file with `id<TAB>name<TAB>r g b` a line (or #rrggbb); or CVAT's
labelmap.txt."""
CLASSES_HELP = "Ids of LabelMe's labels, `id<TAB>name` a line (default: from 1, in alphabetical order)."
OUTPUT_HELP = "A folder that is not there yet or is empty; masks/ and classes.txt are written into it."


def run(args: list[str]) -> int:
    """Convert annotations; a UserError, and no output, where something cannot be read or is there already."""
    parser = VerbParser("data convert", description=DESCRIPTION)
    parser.add_argument("source", metavar="ANNOTATIONS", help=SOURCE_HELP)
    parser.add_argument("--output", required=True, metavar="FOLDER", help=OUTPUT_HELP)
    parser.add_argument("--colours", metavar="voc|FILE", help=COLOURS_HELP)
    parser.add_argument("--classes", metavar="FILE", help=CLASSES_HELP)
    options = parser.parse_args(args)
    if not options.output:
        raise UserError("--output: found '', expected a folder; name one")
    output = Path(os.path.realpath(options.output))  # Path's own raises where a link leads to itself
    try:
        return _convert(options, output)
    except OSError as error:
        reason = error.strerror or line_of(error)
        raise UserError(f"--output: {output} cannot be written ({reason}); make room, or name another") from error


def _convert(options: Namespace, output: Path) -> int:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"--output: found {output} with something in it, expected a folder not there yet; name another")
    classes = None if options.classes is None else read_classes(Path(options.classes))
    check_writable(output / "classes.txt")
    made = convert(Path(options.source), options.colours, classes)
    # where the first folder is that is there, so that an error leaves none
    near = next(folder for folder in (output, *output.parents) if folder.exists())
    with tempfile.TemporaryDirectory(prefix=f".{output.name[:40]}.", dir=near) as beside:
        whole = Path(beside) / "made"
        images, pixels = _write(made, whole)
        if near == output:  # it may be another disk's
            for part in ("classes.txt", "masks"):
                (whole / part).rename(output / part)
        else:
            make_folder(output.parent)
            whole.rename(output)
    _print(made, images, pixels)
    print(f"masks:    {output / 'masks'}\nclasses:  {output / 'classes.txt'}")
    print(f"to train: put the images into {output / 'images'}, and --data FolderDataModule --data.root {output}")
    return 0


def _write(made: Converted, folder: Path) -> tuple[Counter[int], Counter[int]]:
    """Write masks and list of classes; return how many masks hold an id, and its pixels. All masks count as id -1."""
    ids = sorted(made.classes)
    make_folder(folder)
    (folder / "classes.txt").write_text("".join(f"{i}\t{made.classes[i]}\n" for i in ids), encoding="utf-8")
    try:
        same = read_classes(folder / "classes.txt") == made.classes
    except UserError as error:
        found = str(error).partition(": ")[2].rpartition(";")[0]
        raise UserError(f"classes: {found}; rename it where it is annotated") from error
    if not same:
        raise UserError("classes: found a name with a line break or a space at an end, expected none; rename it")
    palette = palette_bytes(ids, class_colours([made.classes[i] for i in ids]))
    images: Counter[int] = Counter()
    pixels: Counter[int] = Counter()
    for name, mask in made.masks:
        path = folder / "masks" / f"{name}.png"
        if path.exists() or any(parent.is_file() for parent in path.parents):
            raise UserError(f"{name}: found as the name of two images, or of an image and a folder; rename one")
        make_folder(path.parent)
        image = Image.fromarray(mask)
        image.putpalette(palette)
        image.save(path)
        counts = np.bincount(mask.ravel(), minlength=256)
        images.update([-1, *np.flatnonzero(counts).tolist()])
        pixels.update({number: int(counts[number]) for number in np.flatnonzero(counts).tolist()})
    return images, pixels


def _print(made: Converted, images: Counter[int], pixels: Counter[int]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    right = [Column(name, justify="right") for name in ("images", "pixels")]
    table = Table(Column("id", justify="right"), "class", *right, title=f"masks: {images[-1]:,}")
    for number in sorted({*made.classes, *pixels}):
        name = made.classes.get(number, "no label" if number in (0, IGNORE_INDEX) else "")
        table.add_row(str(number), escape(name), f"{images[number]:,}", f"{pixels[number]:,}")
    Console().print(table)
    for note in made.notes:
        print(f"note:     {note}")
