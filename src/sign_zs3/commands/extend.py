"""The verb extend: new classes for a checkpoint, by their names alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sign_zs3.commands.checkpoints import check_output, listed, parser, save
from sign_zs3.commands.parsing import VerbParser
from sign_zs3.commands.predict import at_least
from sign_zs3.errors import UserError
from sign_zs3.images import find_images

if TYPE_CHECKING:
    from sign_zs3.embeddings import ClassTable
    from sign_zs3.tasks import ZeroShotTask

log = logging.getLogger(__name__)

DESCRIPTION = """\
Add classes to a trained checkpoint by name alone: its generator makes features of them from their class vectors, and
the classifier learns these. Old classes keep their weights."""
EPILOG = """\
With --config FILE (and other options of `fit` for the data, as --data.root) the new classes are set against real
features of some training images as well."""
IMAGES_HELP = "unlabelled images, or folders of them, to self-train on afterwards"


def run(args: list[str]) -> int:
    """Write a checkpoint with more classes; a UserError where a name, the checkpoint or a file cannot be used."""
    made = _parser()
    options, rest = made.parse_known_args(args)
    if rest and not any(arg == "-c" or arg.startswith(("--config", "--data")) for arg in rest):
        made.error(f"unrecognized arguments: {' '.join(rest)}")
    output = check_output(options.output, options.overwrite)
    if options.vectors and options.source:
        raise UserError("--vectors: found beside --source, expected one of them: leave one out")
    if options.images:
        find_images(options.images, "--images")
    data = None
    if rest:
        from sign_zs3.commands.configured import ConfiguredCLI

        data = ConfiguredCLI(rest, "Options of the data.").datamodule
    from sign_zs3.tasks import load_task
    from sign_zs3.vocabulary import extend, self_train, weigh
    from sign_zs3.vocabulary.editing import check_weights
    from sign_zs3.vocabulary.extension import check_teachable

    model = load_task(options.ckpt_path)
    check_teachable(model)
    names = [" ".join(name.split()) for name in listed(options.classes)]
    weights = {} if options.weight is None else _weights(options.weight, names)
    check_weights(model, weights, [*model.protocol.classes, *names])
    vectors = _built(model, names, options.source, options.templates) if options.source else options.vectors
    model = extend(model, names, vectors=vectors, data=data, seed=options.seed)
    if weights:
        model = weigh(model, weights)
    kinds = "synthetic features" if data is None else "real and synthetic ones"
    log.info("taught: %s, from %s", ", ".join(names), kinds)
    if options.images:
        log.info("self-training on unlabelled images")
        model = self_train(model, options.images, iterations=options.self_training_iterations, progress=True)
    save(model, output)
    return 0


def _parser() -> VerbParser:
    made = parser("extend", DESCRIPTION, "names of the new classes, by commas")
    made.epilog = EPILOG
    add = made.add_argument
    add("--vectors", metavar="TABLE", help="table of class vectors (default: the one that the model was trained with)")
    add("--source", action="append", metavar="[NAME=]FILE", help="words or texts, as for `embed`; repeatable")
    add("--templates", metavar="TEXT", help="sentences of clip: and sentence: sources, as for `embed`")
    add("--images", nargs="+", metavar="PATH", help=IMAGES_HELP)
    add("--self_training_iterations", type=at_least(1), default=100, metavar="N", help="length of that (default: 100)")
    add("--weight", metavar="[NAME=]NUMBER", help="multiplies the odds of classes; several by commas")
    add("--seed", type=int, default=0, help="random seed of the features that are drawn (default: 0)")
    return made


def _weights(text: str, names: Sequence[str]) -> dict[str, float]:
    """Read one weight for all new classes, or those of some as NAME=NUMBER."""
    weights: dict[str, float] = {}
    parts = listed(text)
    for part in parts:
        name, equals, number = (piece.strip(" \"'") for piece in part.rpartition("="))
        try:
            given = dict.fromkeys([name] if equals else names, float(number))
        except ValueError:
            given = {}
        if not given or not all(given) or weights.keys() & given.keys() or (len(parts) > 1 and not equals):
            expected = "one number for all new classes, as 4, or one for each of some, as zebra=4,horse=2"
            raise UserError(f"--weight: found {text!r}, expected {expected}; correct it")
        weights |= given
    return weights


def _built(model: ZeroShotTask, names: Sequence[str], files: Sequence[str], templates: str | None) -> ClassTable:
    """Read vectors of old and new classes from word vectors; the old ones show whether these are the right files."""
    from sign_zs3.commands.embed import read_sources
    from sign_zs3.embeddings.build import build_table

    wanted = list(dict.fromkeys([*model.progress.looked_up, *model.progress.centered_on, *names]))
    try:
        return build_table(read_sources(files, wanted, templates), wanted)
    except UserError as error:
        # `embed` could leave them out
        advice = "; give the files that the table of the training was built from"
        raise UserError(str(error).replace(", or leave them out (--missing drop)", advice)) from error
