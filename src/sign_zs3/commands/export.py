"""The command `export`: a trained model as an ONNX file, a torch.export archive, or a folder with a model card."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.commands.predict import load
from sign_zs3.errors import UserError, pip_install
from sign_zs3.files import check_writable, line_of, read_json

if TYPE_CHECKING:
    from sign_zs3.protocol import Protocol

log = logging.getLogger(__name__)

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2", "pretrained": ""}
"""Format -> how the name of its file ends."""

DESCRIPTION = """\
Write a trained model for use elsewhere. Preprocessing is part of what is written: it takes RGB images, uint8."""
CKPT_HELP = "Checkpoint that `fit` or `extend` wrote, or a folder that this command wrote."
FORMAT_HELP = """\
onnx: a file for onnxruntime and others; torch: an archive of torch.export; pretrained: a folder with config.json,
model.safetensors and a model card, as Segmenter.from_pretrained and --ckpt_path read it. Left out: by the name of the
output, .onnx, .pt2 or a folder."""
OVERWRITE_HELP = "Replace what is there; of a folder only the files of these names."
EPILOG = """\
ONNX and torch.export files take images uint8 (N, 3, H, W) of any number and size (torch.export: more pixels a side than
the network's stride), and give labels (indices into the classes in their metadata) and confidence at that size. They
read an image whole and once, without windows, flip and scales; the memory of attention grows with the square of the
number of cells, of `stride` pixels a side. Each file is compared with the model before it is kept, ONNX where
onnxruntime is installed."""


def run(args: list[str]) -> int:
    """Write a model for use elsewhere; a UserError where a file cannot be used, or what it holds is not the model."""
    parser = VerbParser("export", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--ckpt_path", required=True, metavar="PATH", help=CKPT_HELP)
    parser.add_argument("--output", required=True, metavar="PATH", help="File or folder to write.")
    parser.add_argument("--format", choices=tuple(SUFFIXES), help=FORMAT_HELP)
    parser.add_argument("--overwrite", action="store_true", help=OVERWRITE_HELP)
    options = parser.parse_args(args)
    output = Path(options.output)
    kind = _format(output, options.format)
    _check_output(output, kind, options.overwrite)
    if kind == "onnx":
        from sign_zs3.models.export import check_onnx

        check_onnx()
    source = Path(options.ckpt_path)
    segmenter, method = load(source)
    config = segmenter.require_config()
    taught = zip(config.protocol.classes, segmenter.known.tolist(), strict=True)
    if unknown := [name for name, known in taught if not known]:
        log.info("not taught yet, so never among the labels: %s; the transfer step teaches them", ", ".join(unknown))
    if kind == "pretrained":
        from sign_zs3.models.pretrained import read_card

        card = read_card(source) if method is None else {"method": method, **_scores(source, config.protocol)}
        segmenter.save_pretrained(output, model_card_kwargs=card)
        size = sum(file.stat().st_size for file in output.iterdir() if file.is_file())
        scores = "without scores" if card.get("scores") is None else f"scores after phase {card['phase']}"
        print(f"folder:   {output} ({size / 1e6:.1f} MB; model card: {scores})")
        return 0
    if config.flip or tuple(config.scales) != (1.0,):
        left_out = config.flip, list(config.scales)
        log.info("not part of the file, which reads an image once: flip %s, scales %s", *left_out)
    from sign_zs3.models.export import write_onnx, write_program

    agreement = (write_onnx if kind == "onnx" else write_program)(segmenter, output)
    print(f"model:    {output} ({output.stat().st_size / 1e6:.1f} MB, {segmenter.num_classes} classes)")
    if math.isnan(agreement):
        print(f"compared: no, onnxruntime is not installed ({pip_install('onnx')})")
    else:
        share = f"{100 * agreement:.2f} %"
        print(f"compared: {share} of the pixels of drawn images have the label that the model gives them")
    return 0


def _format(output: Path, given: str | None) -> str:
    """Return the format to write, a key of `SUFFIXES`."""
    by_suffix = {suffix: name for name, suffix in SUFFIXES.items()}
    guessed = by_suffix.get(output.suffix.lower(), "pretrained" if output.is_dir() else None)
    if given is None and guessed is None:
        raise UserError(
            f"--output: found {output}, expected a name that ends in .onnx or .pt2, or one without a suffix for a "
            "folder; rename it, or say --format pretrained"
        )
    if given not in (None, "pretrained", guessed):
        raise UserError(
            f"--output: found {output} with --format {given}, expected a name that ends in {SUFFIXES[str(given)]}"
        )
    return given or str(guessed)


def _check_output(output: Path, kind: str, overwrite: bool) -> None:
    if kind != "pretrained" or not os.path.isfile(output):  # noqa: PTH113
        check_writable(output if kind != "pretrained" else output / "config.json")
    if not output.exists():
        return
    if kind == "pretrained" and not output.is_dir():
        raise UserError(f"--output: found the file {output}, expected a folder, made where it is missing; name another")
    if not overwrite and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"--output: {output} is there already; name another, or replace it with --overwrite")


def _scores(checkpoint: Path, protocol: Protocol) -> dict[str, Any]:
    """Return the scores of a checkpoint and their phase from the run that it lies in; {} where there are none."""
    from sign_zs3.models.config import plain_scores

    path = checkpoint.resolve().parent.parent / "results.json"
    if checkpoint.resolve().parent.name != "checkpoints" or not path.is_file():
        return {}
    try:
        results = read_json(path, "the scores of a run")
        if (results["dataset"], results["split"]) != (protocol.dataset, protocol.split):
            return {}
        phase = results["final"] if checkpoint.stem == "last" else checkpoint.stem
        scores = plain_scores(results["phases"].get(phase))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        log.warning("%s: cannot be read (%s), so the model card has no scores", path, line_of(error))
        return {}
    # classes may have been added to or removed from the checkpoint since
    if scores is None or set(scores["per_class"]) != set(protocol.classes):
        return {}
    return {"scores": scores, "phase": phase}
