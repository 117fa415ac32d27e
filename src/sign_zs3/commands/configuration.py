"""What is known of a command line before its parser is built: the verbs, includes, and which options are given."""

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sign_zs3.errors import UserError
from sign_zs3.files import from_home, read_yaml

VERBS = {
    "data": "check a data set file by file, draw a contact sheet of it, or convert annotations",
    "demo": "try a checkpoint in the browser: upload, overlay, classes added by name",
    "embed": "build class vectors from word vectors, or show which classes lie near each other",
    "export": "write a model as ONNX, torch.export, or a folder with a model card",
    "extend": "add classes to a trained checkpoint by their names alone",
    "remove": "take classes out of a checkpoint",
    "rename": "give classes of a checkpoint other names",
    "results": "gather the scores of runs into tables and pictures, beside the paper's numbers",
}
"""The verbs that have a module of their own, with their line in the help."""


SECTIONS = {"model", "trainer", "checkpoint"}
TRAINING = ("fit", "validate", "test", "predict")
"""The verbs that configurations are for."""


def with_includes(args: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Put a ``--config`` before each one of the command line for every file that it includes.

    Raises:
        UserError: An included file is not there, includes itself, or ``include`` is no path.
    """
    expanded: list[str] = []
    settings: dict[str, Any] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        joined = re.fullmatch(r"(?:--config=|-c=?)(.+)", arg)
        if (option := arg.partition("=")[0]) in ("--model.seed", "--data.seed", "--data.init_args.seed"):
            raise UserError(f"{option}: found a seed of its own, expected one for all: use --seed_everything")
        if option == "--include":
            raise UserError("--include: found on the command line, expected in a file: give --config more than once")
        if joined or (arg in ("--config", "-c") and rest):
            given = joined.group(1) if joined else rest.pop(0)
            files: dict[Path, dict[str, Any]] = {}
            _follow(Path(given), (), files)
            for path, content in files.items():
                # as it was typed, since it may be YAML itself
                expanded += ["--config", given if path == Path(given) else str(path)]
                settings |= {key: value for key, value in content.items() if value is not None}
        else:
            expanded.append(arg)
    return expanded, settings


def _follow(path: Path, includers: tuple[Path, ...], files: dict[Path, dict[str, Any]]) -> None:
    """Add a configuration file to `files`, after those that it includes; one that two files include comes once."""
    content: Any = None
    # what is no file may be YAML itself, or is the parser's to refuse
    if os.path.exists(path):  # noqa: PTH110
        content = read_yaml(path, "a configuration as YAML")
        if not isinstance(content, dict):
            found = "nothing" if content is None else f"{content!r:.50}"
            raise UserError(f"{path}: found {found}, expected lines such as 'option: value'; correct it")
        _check_content(path, content)
    content = content or {}
    named = content.get("include") or []
    if not isinstance(named, (str, list)) or not all(isinstance(name, str) for name in named):
        raise UserError(f"{path}: include: found {named!r:.100}, expected the path of a YAML file, or a list of paths")
    includers = (*includers, path)
    for name in [named] if isinstance(named, str) else named:
        # normalised as a string: a link's own folder counts, as for every other path in a file
        included = Path(os.path.normpath(path.parent / name))
        if not os.path.isfile(included):  # noqa: PTH113
            raise UserError(f"{path}: include: {included} is not there: give a path relative to the file that names it")
        if any(included.samefile(includer) for includer in includers):
            chain = " -> ".join(str(step) for step in (*includers, included))
            raise UserError(f"{path}: include: found a circle, {chain}: take one of these lines out")
        if included not in files:
            _follow(included, includers, files)
    files[path] = content


def _check_content(path: Path, content: dict[str, Any]) -> None:
    """Refuse lines of a configuration that would be passed over, or undo those of files before it, without a word."""
    for section in SECTIONS & content.keys():
        if not isinstance(content[section], dict):
            found = f"{content[section]!r:.100}" if content[section] is not None else "no line below it"
            raise UserError(
                f"{path}: {section}: found {found}, expected lines such as 'option: value', indented; or leave it out"
            )
    if nested := [verb for verb in TRAINING if isinstance(content.get(verb), dict)]:
        raise UserError(
            f"{path}: {nested[0]}: found options below the verb, which is given on the command line: take the line "
            "out, and the indentation of those below it"
        )
    data = content.get("data")
    within = data if isinstance(data, dict) else {}
    for name, options in (("model", content.get("model")), ("data", within), ("data", within.get("init_args"))):
        if isinstance(options, dict) and "seed" in options:
            raise UserError(f"{path}: {name}: found a seed of its own, expected one for all: use seed_everything")


def at_home(value: Any) -> Any:
    """Put the home folder in place of the ``~`` that a value, or each string in it, begins with.

    Shells do so only at the start of a word, not in ``--option=~/file``, and in no configuration file.
    """
    if isinstance(value, str):
        option, equals, path = value.partition("=") if value.startswith("-") else ("", "", value)
        return f"{option}{equals}{from_home(path)}" if path.startswith("~") else value
    if isinstance(value, list):
        return [at_home(part) for part in value]
    if isinstance(value, (dict, Namespace)):
        for key, part in vars(value).items() if isinstance(value, Namespace) else value.items():
            value[key] = at_home(part)
    return value


def last_option(args: Sequence[str], option: str) -> str | None:
    """Return the value that an option has where it stands last on a command line."""
    found = None
    for arg, following in zip(args, [*args[1:], None], strict=False):
        name, equals, value = arg.partition("=")
        if name == option:
            found = value if equals else following
    return found


def given_options(args: Sequence[str], prefix: str) -> set[str]:
    """Return the names behind a prefix of the options on a command line."""
    return {arg[len(prefix) :].split("=", 1)[0] for arg in args if arg.startswith(prefix)}
