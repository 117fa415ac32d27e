"""The verb data: `data check` reads every file, `data show` draws a contact sheet, `data convert` makes masks."""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np

from sign_zs3.commands import convert
from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.commands.parsing import check_verb
from sign_zs3.data.check import SplitCount, as_report, check_data, shift_of
from sign_zs3.data.datasets.base import Part, Sample
from sign_zs3.errors import UserError, check_at_least
from sign_zs3.files import check_writable, write_json
from sign_zs3.protocol import IGNORE_INDEX, Protocol

USAGE = """usage: sign-zs3 data check --config FILE [options of fit] [--report FILE]
       sign-zs3 data show  --config FILE [options of fit] [--split SPLIT] [--count N] [--output FILE]
       sign-zs3 data convert ANNOTATIONS --output FOLDER [--colours voc|FILE]

check    read every image and mask once; count images and pixels per class and split; list what is missing, broken or
         mismatched, and exit with 1 if anything is
show     draw images, masks and a legend into one PNG
convert  make id masks of colour-coded ones, of COCO's JSON or of LabelMe's

--data CLASS --data.OPTION VALUE does without a file. `sign-zs3 data check --help` shows the options.

Examples:
  sign-zs3 data check --config mine.yaml
  sign-zs3 data show --data FolderDataModule --data.root photos"""

LISTED = 12
"""Absent classes that are named before they are only counted."""
UNEVEN = 4
"""How many times as many images the commonest seen class has as the rarest one, for it to be told."""

SHOWN = 256
"""Height and width in pixels that an image keeps at least in a contact sheet, whose cells are smaller."""


def run(args: list[str]) -> int:
    """Run `data check`, `data show` or `data convert`."""
    verbs = {"check": _check, "show": _show, "convert": convert.run}
    asked = args[:1] in (["--help"], ["-h"])
    if asked or not args:
        print(USAGE, file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    check_verb(args, verbs)
    return verbs[args[0]](args[1:])


def _check(args: list[str]) -> int:
    cli = ConfiguredCLI(
        args,
        "Read every image and mask of a data set once, count, and list what is missing, broken or mismatched.",
        lambda parser: parser.add_argument("--report", type=str, default=None, help="write the counts as JSON, too"),
    )
    protocol = cli.datamodule.protocol
    if path := cli.config["report"]:
        check_writable(path)
    counts, faults = check_data(cli.datamodule)
    report = as_report(protocol, counts, faults)
    if counts:
        _print(protocol, counts, report)
    shift = shift_of(protocol, counts)
    if shift is not None and not any(str(shift) in fault for fault in faults):
        print(f"warning: {shift}; if so, renumber them", file=sys.stderr)
    # before the report: where that cannot be written, what took long to find is not lost
    for fault in faults:
        print(f"fault: {fault}", file=sys.stderr)
    if path:
        write_json(Path(path), report)
        print(f"report: {path}")
    if faults:
        number = f"{len(faults)} fault{'s' if len(faults) > 1 else ''}"
        print(f"error: {number}; correct or remove the files above", file=sys.stderr)
    return 1 if faults else 0


def _print(protocol: Protocol, counts: dict[Part, SplitCount], report: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    title = f"{protocol.dataset}, split {protocol.split}: images and pixels that hold a class"
    numbers = [Column(f"{part} {what}", justify="right") for part in counts for what in ("images", "pixels")]
    table = Table(Column("id", justify="right"), "class", *numbers, title=escape(title))
    for index, entry in enumerate(report["classes"]):
        if index == protocol.num_seen:
            table.add_section()
        name = entry["name"] if entry["seen"] else f"{entry['name']} (unseen)"
        cells = [f"{entry[what][part]:,}" for part in counts for what in ("images", "pixels")]
        table.add_row(str(entry["id"]), escape(name), *cells)
    table.add_section()
    ignored = [n for part in counts.values() for n in (part.holding[IGNORE_INDEX], part.pixels[IGNORE_INDEX])]
    table.add_row("", "ignored", *(f"{n:,}" for n in ignored))
    table.add_row("", "all", *(f"{n:,}" for part in counts.values() for n in (part.images, part.pixels.sum())))
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    training = report["training"]
    if "train" in counts:
        share = training["unseen_share_of_unlabelled"]
        pixels = "no pixel is" if share is None else f"{share:.1%} of the pixels without a label that training sees are"
        print(
            f"training: {training['images_with_unseen']} of {counts['train'].images} images hold an unseen class "
            f"(unseen_pixels=drop leaves these out); {pixels} truly unseen"
        )
        shown = sorted(
            (e["images"]["train"], e["name"]) for e in report["classes"] if e["seen"] and e["images"]["train"]
        )
        if shown and shown[-1][0] >= UNEVEN * shown[0][0]:
            print(
                f"training: {shown[0][1]} is in {shown[0][0]} images, {shown[-1][1]} in {shown[-1][0]}; with "
                "--data.repeat_threshold images of rare seen classes come more often"
            )
    if unknown := report["unknown_ids"]:
        named = (f"{i} ({n} mask{'s' * (n > 1)})" for i, n in list(unknown.items())[:LISTED])
        print(f"ids that are neither a class nor ignored: {', '.join(named)}{', ...' * (len(unknown) > LISTED)}")
    for part in counts:
        if absent := [f"{e['name']} ({e['id']})" for e in report["classes"] if not e["images"][part]]:
            print(f"{part}: no pixel of {', '.join(absent) if len(absent) <= LISTED else f'{len(absent)} classes'}")


def _show(args: list[str]) -> int:
    from sign_zs3.drawing.figures import save_figure
    from sign_zs3.drawing.panels import contact_sheet

    def add(parser: Any) -> None:
        parser.add_argument("--split", type=Literal["train", "val", "test"], default="test", help="which images")
        parser.add_argument("--count", type=int, default=12, help="how many, evenly over the split")
        parser.add_argument("--output", type=str, default="contact_sheet.png", help="the PNG file to write")
        parser.add_argument(
            "--as_trained", type=bool, default=False, help="as training sees them: cropped, flipped, unseen hidden"
        )

    cli = ConfiguredCLI(args, "Draw images of a data set, their masks and a legend into one PNG.", add)
    data, config = cli.datamodule, cli.config
    part, count = config["split"], config["count"]
    check_writable(config["output"], ".png")
    check_at_least(1, **{"--count": count})
    if part == "val" and not data.own_validation:
        data.setup("fit")
        dataset, pool = data.val_set, data.val_indices
        assert dataset is not None
        dataset.hide_unseen = False
    else:
        augment = bool(config["as_trained"])
        dataset = data.make_dataset(part, hide_unseen=augment, augment=augment)
        pool = range(len(dataset))
    if not pool:
        raise UserError(f"--split: found no image in {part}, expected some; choose another split")
    chosen = sorted({pool[i] for i in np.linspace(0, len(pool) - 1, min(count, len(pool))).round().astype(int)})
    samples = [_thinned(dataset[index]) for index in chosen]
    images, masks, names = ([sample[key] for sample in samples] for key in ("image", "mask", "id"))
    title = f"{dataset.protocol.dataset}, {part}"
    sheet = contact_sheet(images, masks, names, dataset.protocol, title)
    save_figure(sheet, Path(config["output"]))
    print(f"contact sheet of {len(chosen)} of {len(pool)} images: {config['output']}")
    return 0


def _thinned(sample: Sample) -> Sample:
    """Keep every n-th row and column of a large image, a dozen of which would fill the memory."""
    step = max(1, min(sample["mask"].shape) // SHOWN)
    small = {key: sample[key][..., ::step, ::step].clone() for key in ("image", "mask", "valid")}
    return {**sample, **small}
