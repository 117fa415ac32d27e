"""The verb new: a configuration for a folder of images and masks, with what was found there and what is proposed."""

import argparse
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.commands.checkpoints import listed
from sign_zs3.commands.encoder import encode_seconds, has_gpu
from sign_zs3.commands.parsing import VerbParser
from sign_zs3.commands.proposal import Plan, propose_unseen
from sign_zs3.commands.recipes import list_recipes
from sign_zs3.data.datamodules.folder import FolderDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.files import read_classes
from sign_zs3.data.survey import PLACEHOLDER, Mask, find_layout, find_names, read_masks, split_by_folder, write_list
from sign_zs3.embeddings.spelling import Vocabulary
from sign_zs3.embeddings.table import ClassTable, nearest
from sign_zs3.errors import UserError, pip_install
from sign_zs3.files import check_writable, from_home, replacing
from sign_zs3.protocol import IGNORE_INDEX

DESCRIPTION = """\
Write a configuration for a folder of your own: images, masks with an id per pixel, and classes.txt, which is
written with names to be replaced where it is missing. Every mask is read once. Nothing that exists is overwritten."""


class _List(argparse.Action):
    """Print the recipes and exit, as ``--help`` does."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        for name, what in list_recipes().items():
            print(f"{name:30} {what}")
        parser.exit()


def run(args: list[str]) -> int:
    """Write a configuration; a UserError where the folder does not serve, or the file is there already."""
    options = _parser().parse_args(args)
    root = Path(from_home(options.folder)).absolute()
    output = Path(options.output or f"{root.name or 'data'}.yaml")
    name = re.sub(r"[^\w.-]+", "_", output.stem)
    check_writable(output, ".yaml", ".yml")
    if output.exists():
        raise UserError(f"--output: found {output}, which exists, expected a new file; name another, or remove it")
    places, paired = find_layout(root, options.images, options.masks)
    print(f"images:   {len(paired)} with masks, in {places['images']} and {places['masks']}")
    masks = read_masks(sorted(set(paired.values())))
    names = _classes(root / "classes.txt", masks)
    _lists(root, list(paired))
    table, vocabulary = ClassTable.bundled(), Vocabulary(ClassTable.bundled().names)
    lacking = [each for each in names.values() if vocabulary.find(each) is None]
    for each in lacking:
        print(f"warning:  no word vector for {vocabulary.hint(each)}: rename it in classes.txt", file=sys.stderr)
    print(f"vectors:  {len(names) - len(lacking)} of {len(names)} classes have one in the bundled table")
    shared: dict[str, Any] = {"root": str(root), **places, "ignored_classes": lacking}
    parts: tuple[Part, Part] = ("train", "test")
    pixels = {str(part): _pixels(FolderDataModule(**shared), part, masks) for part in parts}
    unseen = None if options.unseen is None else listed(options.unseen)
    proposed = unseen is None
    if unseen is None:
        held = {part: {n: int((of[:, i] > 0).sum()) for i, n in names.items()} for part, of in pixels.items()}
        unseen = propose_unseen([n for n in names.values() if n not in lacking], table, held["train"], held["test"])
    protocol = FolderDataModule(**shared, unseen=unseen).protocol
    for each, near in nearest(table.vectors(protocol.classes, center=True), protocol, 1).items() if unseen else ():
        seen, cosine = near[0]
        how = "" if cosine >= 0.3 else ": far from all of them, so that little tells what it looks like"
        print(f"unseen:   {each}{' (proposed)' * proposed}, nearest seen class {seen} (cosine {cosine:.2f}){how}")
    for each in unseen:
        number = next(i for i, n in names.items() if n == each)
        if not pixels["test"][:, number].any():
            print(f"warning:  no test image shows {each}: it will have no score", file=sys.stderr)
    for number, each in names.items():
        if each not in (*unseen, *lacking) and not pixels["train"][:, number].any():
            print(
                f"warning:  no training image shows {each}: it cannot be learnt, see ignored_classes", file=sys.stderr
            )
    counts = {part: len(of) for part, of in pixels.items()}
    plan = Plan.for_masks(masks, counts["train"], gpu=has_gpu())
    with replacing(output) as beside:
        text = plan.text(output, name, shared, unseen, proposed, counts, pip_install("lite"))
        beside.write_text(text, encoding="utf-8")
    print(f"written:  {output}; its comments say what each line does")
    print(f"time:     {_estimate(plan, masks, counts)}")
    file = shlex.quote(str(output))
    print(
        f"next:     sign-zs3 data check --config {file}\n          sign-zs3 fit --config {file}\n"
        f"          sign-zs3 predict --ckpt_path runs/{name}/version_0/checkpoints/last.ckpt --images PHOTOS"
    )
    return 0


def _parser() -> VerbParser:
    parser = VerbParser("new", description=DESCRIPTION)
    parser.add_argument("folder", metavar="FOLDER", help="folder with images/ and masks/, or two of other usual names")
    parser.add_argument("--output", metavar="FILE", help="the YAML file to write (default: the folder's name, here)")
    parser.add_argument("--unseen", metavar="NAMES", help="classes that no training mask shows (default: proposed)")
    parser.add_argument("--images", metavar="SUB", help="folder of the images, below FOLDER")
    parser.add_argument("--masks", metavar="SUB", help="folder of the masks, below FOLDER")
    parser.add_argument("--list", action=_List, nargs=0, help="list the recipes that --config takes by name, and exit")
    return parser


def _classes(path: Path, masks: Mapping[Path, Mask]) -> dict[int, str]:
    """Return the classes of the list; write one where there is none, and stop where its names are placeholders."""
    pixels = sum((mask.pixels for mask in masks.values()), np.zeros(256, np.int64))
    ids = np.flatnonzero(pixels).tolist()
    if not path.exists():
        names, source = find_names(path.parent, ids)
        if not names:
            raise UserError(f"{path}: is not there, and the masks hold no id but 0 and 255; label something")
        write_list(path, [f"{number}\t{each}" for number, each in sorted(names.items())])
        how = f"a proposal from {source}; compare it with the masks" if source else "to be edited"
        print(f"written:  {path}, {how}")
    names = read_classes(path)
    if any(each == f"{PLACEHOLDER}{number}" for number, each in names.items()):
        raise UserError(
            f"{path}: found '{PLACEHOLDER}N' as names, expected what the classes are called, since names are what "
            "unseen classes are learnt from; put the true names there, then give this command again"
        )
    if unknown := [number for number in ids if number not in names and number not in (0, IGNORE_INDEX)]:
        where = next(file for file, mask in masks.items() if mask.pixels[unknown[0]])
        raise UserError(f"{where}: found the id {unknown[0]}, which {path} does not name; add it, or correct the mask")
    print(f"classes:  {len(names)}, {', '.join(names.values())}")
    if 0 not in names and pixels[0]:
        share = pixels[0] / pixels.sum()
        print(
            f"note:     id 0, {share:.0%} of the pixels, means no label; if it is all that is none of the classes, "
            "add the line 0<TAB>background to classes.txt"
        )
    return names


def _lists(root: Path, names: Sequence[str]) -> None:
    """Write the lists of images that lie in folders named train and test, where there are none."""
    if (root / "splits").exists():
        return
    for part, of in split_by_folder(names).items():
        write_list(root / "splits" / f"{part}.txt", of)
        print(f"written:  {root / 'splits' / f'{part}.txt'}, the {len(of)} images in folders of that name")


def _pixels(data: FolderDataModule, part: Part, masks: dict[Path, Mask]) -> NDArray[np.int64]:
    """Return the pixels per own id of each image of a part, int64 (n, 256); masks that lists name are read too."""
    items = data.make_dataset(part, hide_unseen=False, augment=False).items
    masks |= read_masks([item.mask for item in items if item.mask not in masks])
    return np.stack([masks[item.mask].pixels for item in items])


def _estimate(plan: Plan, masks: Mapping[Path, Mask], counts: Mapping[str, int]) -> str:
    """Say how long a training takes, from a few images that are encoded on this machine now."""
    if plan.gpu:
        return "not estimated on a GPU; the bar of fit tells after a minute"
    seconds = encode_seconds(plan.warp)
    if seconds is None:
        return "not estimated: the encoder is not installed"
    area = float(np.mean([mask.size[0] * mask.size[1] for mask in masks.values()]))
    total = plan.seconds(seconds, counts, area)
    return (
        f"about {max(1, round(total / 60))} minutes, estimated from the {1000 * seconds:.0f} ms that an image of "
        f"{plan.warp} x {plan.warp} took now on this machine; other programs that run make it longer"
    )
