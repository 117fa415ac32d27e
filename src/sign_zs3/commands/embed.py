"""The verb embed: a table of class vectors from word vectors, and `embed show`, which classes lie near each other."""

import logging
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.data.splits import COCO_STUFF_CLASSES, CONTEXT33_CLASSES, CONTEXT59_CLASSES, VOC_CLASSES
from sign_zs3.embeddings import (
    ClassTable,
    Resolution,
    WordVectors,
    build_table,
    class_vectors,
    nearest,
    read_vectors,
    resolve,
)
from sign_zs3.embeddings.sentences import CLIP, SENTENCE, read_sentences
from sign_zs3.embeddings.spelling import WHOLE
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import CLASS_LINE, check_writable, read_lines, refusing, write_json

log = logging.getLogger(__name__)

DESCRIPTION = """\
Build a table of class vectors from word vectors. `sign-zs3 embed show` shows which classes of a data set lie near each
other; `sign-zs3 embed show --help` has its options."""
CLASSES_HELP = """\
The class names: a list separated by commas (`cow,traffic light`; a single name ends in a comma); or a text file with
one per line, as `name`, `id<TAB>name` or `id: name`; or a data set: voc, pascal_context_33, pascal_context_59 (these
three with `background`, which some splits count as seen), coco_stuff or shapes."""
SOURCE_HELP = """\
A file of word vectors, known by its content: word2vec (.bin or text), fastText (.bin of skipgram or cbow, .vec) or
GloVe (text), each also as .gz. Or gensim:NAME, one of gensim.downloader's collections, such as
gensim:word2vec-google-news-300: it is read from gensim's folder (GENSIM_DATA_DIR, or gensim-data in your home), and
downloaded once where it is not there. Or a text encoder, which reads whole names in sentences: clip:FOLDER, clip: and
open_clip's MODEL/PRETRAINED, or sentence: and a folder or name of sentence-transformers. Give the option several times
for several sources: `fit` joins them in the alphabetical order of their NAMEs (fasttext before word2vec, as in the
paper). NAME defaults to the kind, such as fasttext."""
OUTPUT_HELP = "The table, .npz or .safetensors, with raw values; `fit` takes it as --model.vectors."
MISSING_HELP = "A name that a source has no vector for is an error (the default), or is left out of the table (drop)."
TEMPLATES_HELP = """\
Sentences for clip: and sentence: sources, their mean counts: one with {} where the name goes, a file with one per line,
or imagenet, the 80 that CLIP was published with (the default for clip:)."""
REPORT_HELP = "A JSON file that says how each name was found in each source."
GENSIM = "gensim:"
EPILOG = """\
A name's vector is that of the exact entry, or of another form or spelling (aeroplane, airplane), or the raw mean over
its words; fastText models also compose words that they lack."""
DATASETS = {
    "voc": ["background", *VOC_CLASSES],
    "pascal_context_33": ["background", *CONTEXT33_CLASSES],
    "pascal_context_59": ["background", *CONTEXT59_CLASSES],
    "coco_stuff": list(COCO_STUFF_CLASSES.values()),
}
KIND_STYLES = {"exact": "", "spelling": "cyan", "words": "yellow", "subwords": "magenta", "missing": "bold red"}


def run(args: list[str]) -> int:
    """Build a table, or show neighbours; a UserError where a name, a source or the output cannot be used."""
    if args[:1] == ["show"]:
        return _show(args[1:])
    options = _parser().parse_args(args)
    names = _class_names(options.classes)
    output = Path(options.output)
    # before gigabytes are read
    check_writable(output, ".npz", ".safetensors")
    if output.exists() and not options.overwrite:
        raise UserError(
            f"--output: found {output}, which exists, expected a new file: name another, or give --overwrite"
        )
    if options.report:
        check_writable(options.report)
    sources = read_sources(options.source, names, options.templates)
    if options.classes in DATASETS:
        names = _without_background(names, sources)
    table = build_table(sources, names, options.missing)
    resolutions = {name: resolve(sources[name], names) for name in sorted(sources)}
    table.save(output)
    if options.report:
        write_json(Path(options.report), _report(sources, resolutions, table))
    _print_resolutions(resolutions, names)
    widths = ", ".join(f"{name} {matrix.shape[1]}" for name, matrix in table.sources.items())
    print(f"table:    {output} ({len(table.names)} names; {widths})")
    if options.report:
        print(f"report:   {options.report}")
    return 0


def _parser() -> VerbParser:
    parser = VerbParser("embed", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--classes", required=True, metavar="WHAT", help=CLASSES_HELP)
    parser.add_argument("--source", required=True, action="append", metavar="[NAME=]SOURCE", help=SOURCE_HELP)
    parser.add_argument("--templates", metavar="TEXT", help=TEMPLATES_HELP)
    parser.add_argument("--output", required=True, metavar="PATH", help=OUTPUT_HELP)
    parser.add_argument("--overwrite", action="store_true", help="Replace the output where it exists.")
    parser.add_argument("--missing", choices=("error", "drop"), default="error", help=MISSING_HELP)
    parser.add_argument("--report", metavar="PATH", help=REPORT_HELP)
    return parser


def _class_names(what: str) -> list[str]:
    """Return the names of a data set, of a file, or of a list separated by commas."""
    if what == "shapes":  # whose module loads torch
        from sign_zs3.data.datasets.shapes import NAMES

        return list(NAMES.values())
    if what in DATASETS:
        names = DATASETS[what]
    elif os.path.isfile(what):  # noqa: PTH113 (a list may be longer than the name of a file)
        names = _listed_names(Path(what))
    elif "," in what:
        names = [" ".join(name.split()) for name in what.split(",") if name.strip()]
    else:
        raise UserError(
            f"--classes: found '{what}', which is no file and no data set: expected one of {', '.join(DATASETS)}, or a "
            "file with one name per line, or names separated by commas"
            + did_you_mean(what, DATASETS, 1, f"; for the one class of this name write '{what},'")
        )
    if not names:
        raise UserError(f"--classes: found no name in '{what}', expected one at least; add some")
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--classes: found '{twice[0]}' twice in '{what}', expected each name once; remove one")
    return names


def _listed_names(path: Path) -> list[str]:
    names = []
    for number, line in read_lines(path, "class name", "a class a line, as `name`, `id<TAB>name` or `id: name`"):
        listed = CLASS_LINE.fullmatch(line)
        if listed is None and re.match(r"\d+\s", line):
            raise UserError(
                f"{path}: found {line!r:.100} in line {number}, expected `name`, `id<TAB>name` or `id: name`; put a "
                "tab or colon between the id and the name"
            )
        names.append(" ".join((listed[2] if listed else line).split()))
    return names


def _without_background(names: list[str], sources: Mapping[str, WordVectors]) -> list[str]:
    """Leave out a data set's background where a source lacks it: few splits have this class."""
    if "background" not in names or all(resolve(s, ["background"])[0].kind != "missing" for s in sources.values()):
        return names
    log.warning("left out: background, which a source lacks; only splits that count it as seen (zs3-N) need it")
    return [name for name in names if name != "background"]


def read_sources(files: Sequence[str], names: Sequence[str], templates: str | None = None) -> dict[str, WordVectors]:
    """Read what class names need from sources, given as SOURCE or NAME=SOURCE, two with different names."""
    if templates is not None and not any(_split_source(given)[1].startswith((CLIP, SENTENCE)) for given in files):
        raise UserError("--templates: found without a clip: or sentence: source, expected one; leave it out")
    sources: dict[str, WordVectors] = {}
    for given in files:
        name, path = _split_source(given)
        of_sentences = path.startswith((CLIP, SENTENCE))
        vectors = read_sentences(path, names, templates) if of_sentences else _read(_source_file(path), names)
        name = (WHOLE if of_sentences else "") + (name or vectors.kind)
        if name in sources:
            raise UserError(
                f"--source: found two called '{name}', {sources[name].origin} and {path}: expected different names; "
                f"give them as NAME={path}"
            )
        sources[name] = vectors
    return sources


def _split_source(given: str) -> tuple[str | None, str]:
    name, equals, path = given.partition("=")
    if not equals or Path(given).exists() or not re.fullmatch(r"[\w.-]+", name):
        return None, given
    if name == "names":
        raise UserError("--source: found the name 'names', which a table has for its list of names; choose another")
    return name, path


def _source_file(given: str) -> Path:
    """Return the file of a source; one of gensim's collections that is not there is downloaded."""
    if not given.startswith(GENSIM):
        return Path(given)
    name = given.removeprefix(GENSIM)
    if not re.fullmatch(r"[\w.-]+", name) or name.startswith("."):
        raise UserError(f"--source: found {given!r:.100}, expected gensim: and a name such as word2vec-google-news-300")
    with refusing(
        f"--source: {given} cannot be fetched",
        ", expected one of gensim.downloader's collections; or download a file of word vectors and give its path",
    ):
        from gensim import downloader

        # gensim itself asks the network for a list first, even for what is there
        local = Path(downloader.base_dir) / name / f"{name}.gz"
        return local if local.is_file() else Path(downloader.load(name, return_path=True))


def _read(path: Path, names: Sequence[str]) -> WordVectors:
    from tqdm import tqdm

    size = path.stat().st_size if path.is_file() else None
    # disable=None: no bar where stderr is no terminal
    with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, disable=None, leave=False, file=sys.stderr) as bar:
        return read_vectors(path, names, bar.update)


def _report(
    sources: Mapping[str, WordVectors], resolutions: Mapping[str, Sequence[Resolution]], table: ClassTable
) -> dict[str, Any]:
    kept = set(table.names)
    found = {
        source: {
            "path": sources[source].origin,
            "width": table.sources[source].shape[1],
            "names": {r.name: {"kind": r.kind, "entries": r.entries, "subwords": r.subwords} for r in result},
        }
        for source, result in resolutions.items()
    }
    dropped = [name for name in next(iter(found.values()))["names"] if name not in kept]
    return {"format": 1, "sources": found, "dropped": dropped}


def _print_resolutions(resolutions: Mapping[str, Sequence[Resolution]], names: Sequence[str]) -> None:
    """Print how each name was found in each source, and how many in which way."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("class", *resolutions, title="class names and the entries of each source that stand for them")
    for name, *found in zip(names, *resolutions.values(), strict=True):
        table.add_row(Text(name), *(Text(str(resolution), KIND_STYLES[resolution.kind]) for resolution in found))
    table.add_section()
    for kind, style in KIND_STYLES.items():
        counts = [sum(r.kind == kind for r in result) for result in resolutions.values()]
        if any(counts):
            table.add_row(Text(f"{kind}:", "bold"), *(Text(str(count), style) for count in counts))
    Console().print(table)


def _show(args: list[str]) -> int:
    from jsonargparse import ArgumentParser

    from sign_zs3.commands.configured import ConfiguredCLI

    def add(parser: ArgumentParser) -> None:
        parser.add_argument("--nearest", type=int, default=5, help="How many seen classes to show per unseen class.")
        parser.add_argument("--output", type=str, default="nearest.png", help="Picture to write, as PNG.")
        parser.add_argument("--json", type=str | None, default=None, help="JSON file to write, with the cosines.")

    cli = ConfiguredCLI(
        args,
        "Show the class vectors that `fit` would use with these options: the seen classes nearest to each unseen one, "
        "by cosine (-1 to 1).",
        add,
    )
    protocol, options = cli.datamodule.protocol, cli.config
    model = options["model"]
    picture = Path(options["output"])
    check_writable(picture, ".png")
    if options["json"]:
        check_writable(options["json"])
    vectors = class_vectors(model["vectors"], protocol.classes, model["center_vectors"])
    neighbours = nearest(vectors, protocol, options["nearest"])
    title = (
        f"{protocol.dataset}, split {protocol.split}: seen classes nearest to each unseen one, cosine\n"
        f"{Path(model['vectors']).name} vectors{', centred' if model['center_vectors'] else ''}, "
        f"{protocol.num_seen} seen classes"
    )
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    from sign_zs3.drawing.charts import draw_nearest
    from sign_zs3.drawing.figures import save_figure

    unseen = Column("unseen class", style="bold yellow", no_wrap=True)
    table = Table(unseen, "seen classes, the nearest first", title=escape(title))
    for name, seen in neighbours.items():
        table.add_row(escape(name), escape(", ".join(f"{near} {cosine:.2f}" for near, cosine in seen)))
    Console().print(table)
    save_figure(draw_nearest(neighbours, title), picture)
    print(f"picture:  {picture}")
    if path := options["json"]:
        content = {
            "format": 1,
            "dataset": protocol.dataset,
            "split": protocol.split,
            "vectors": model["vectors"],
            "center_vectors": model["center_vectors"],
            "nearest": {
                name: [{"class": near, "cosine": cosine} for near, cosine in seen] for name, seen in neighbours.items()
            },
        }
        write_json(Path(path), content)
        print(f"cosines:  {path}")
    return 0
