"""What is known of a command line before its parser is built: the verbs, includes, and which options are given."""

import os
import re
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from sign_zs3.commands.recipes import find_recipe
from sign_zs3.errors import UserError
from sign_zs3.files import from_home, parse_yaml, read_yaml

VERBS = {
    "data": "check a data set file by file, draw a contact sheet of it, or convert annotations",
    "demo": "try a checkpoint in the browser: upload, overlay, classes added by name",
    "embed": "build class vectors from word vectors, or show which classes lie near each other",
    "export": "write a model as ONNX, torch.export, or a folder with a model card",
    "extend": "add classes to a trained checkpoint by their names alone",
    "import": "make a checkpoint of networks that the papers' authors released",
    "new": "write a configuration for a folder of your own images and masks; list the recipes",
    "remove": "take classes out of a checkpoint",
    "rename": "give classes of a checkpoint other names",
    "results": "gather the scores of runs into tables and pictures, beside the paper's numbers",
}
"""The verbs that have a module of their own, with their line in the help."""


SECTIONS = {"model", "trainer", "checkpoint"}
TRAINING = ("fit", "validate", "test", "predict")
"""The verbs that configurations are for."""


def with_includes(args: Sequence[str], nested: bool = False) -> tuple[list[str], dict[str, Any]]:
    """Put a ``--config`` before each one of a command line for every file that it includes.

    With `nested` a verb is among the arguments: files that stand before it have its options below its name. A
    `UserError` where an included file is not there or includes itself, ``include`` is no path, or a line of a file
    would be passed over.
    """
    expanded: list[str] = []
    settings: dict[str, Any] = {}
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        nested = nested and arg not in TRAINING
        option, equals, value = arg.partition("=")
        joined = re.fullmatch(r"(?:--config=|-c=?)(.+)", arg)
        if option in ("--model.seed", "--data.seed", "--data.init_args.seed"):
            raise UserError(f"{option}: found a seed of its own, expected one for all: use --seed_everything")
        if option == "--include":
            raise UserError("--include: found on the command line, expected in a file: give --config more than once")
        if joined or (arg in ("--config", "-c") and rest):
            given = joined.group(1) if joined else rest.pop(0)
            if not given:
                raise UserError("--config: found '', expected a YAML file; give its path")
            given = find_recipe(given)
            files: dict[Path, dict[str, Any]] = {}
            _follow(Path(given), given, nested, (), files)
            for path, content in files.items():
                # as it was typed, since it may be YAML itself
                expanded += ["--config", given if path == Path(given) else str(path)]
                models = {**settings.get("model", {}), **content.get("model", {})}
                settings |= {key: value for key, value in content.items() if value is not None} | {"model": models}
        else:
            if (section := option.removeprefix("--")) in (*SECTIONS, "data") and (equals or rest):
                _check_part(section, value if equals else rest[0])
            expanded.append(arg)
    return expanded, settings


def _follow(path: Path, given: str, nested: bool, includers: tuple[Path, ...], files: dict[Path, Any]) -> None:
    """Add a configuration file to `files`, after those that it includes; one that two files include comes once.

    What is no file may be YAML itself, or is the parser's to refuse.
    """
    content: Any = None
    if os.path.exists(path):  # noqa: PTH110
        content = read_yaml(path, "a configuration as YAML")
        if not isinstance(content, dict):
            found = "no option" if content is None else f"{content!r:.50}"
            raise UserError(f"{path}: found {found}, expected lines such as 'option: value'; correct it")
    elif _is_inline(given):
        content = parse_yaml(given.encode(), "--config", "a configuration as YAML")
    content = content if isinstance(content, dict) else {}
    if nested and (flat := sorted({*SECTIONS, "data"} & content.keys())):
        raise UserError(f"{path}: {flat[0]}: found in a file before the verb; put --config behind the verb")
    for part in [content.get(verb) for verb in TRAINING] if nested else [content]:
        if isinstance(part, dict):
            _check_content(str(path) if includers or Path(given).exists() else "--config", part)
    named = content.get("include") or []
    if not isinstance(named, (str, list)) or not all(isinstance(name, str) for name in named):
        raise UserError(f"{path}: include: found {named!r:.100}, expected the path of a YAML file, or a list of paths")
    includers = (*includers, path)
    for name in [named] if isinstance(named, str) else named:
        # normalised as a string: a link's own folder counts, as for every other path in a file
        included = Path(os.path.normpath(path.parent / name))
        if not os.path.isfile(included):  # noqa: PTH113
            raise UserError(f"{path}: include: {included} is not there: give a path relative to the file that names it")
        if any(includer.exists() and included.samefile(includer) for includer in includers):
            chain = " -> ".join(str(step) for step in (*includers, included))
            raise UserError(f"{path}: include: found a circle, {chain}: take one of these lines out")
        if included not in files:
            _follow(included, name, nested, includers, files)
    files[path] = content


def _check_content(where: str, content: dict[str, Any]) -> None:
    """Refuse lines of a configuration that would be passed over, or undo those of files before it, without a word."""
    for section in SECTIONS & content.keys() | ({"data"} if content.get("data", "") is None else set()):
        if not isinstance(content[section], dict):
            found = f"{content[section]!r:.100}" if content[section] is not None else "no line below it"
            raise UserError(
                f"{where}: {section}: found {found}, expected lines such as 'option: value', indented; or leave it out"
            )
    if below := [verb for verb in TRAINING if isinstance(content.get(verb), dict)]:
        raise UserError(
            f"{where}: {below[0]}: found options below the verb, which is given on the command line: take the line "
            "out, and the indentation of those below it"
        )
    if odd := [key for key in content if not isinstance(key, str)]:
        raise UserError(f"{where}: found {odd[0]!r:.50} as the name of an option, expected text; correct it")
    data = content.get("data")
    if isinstance(data, str):
        _check_part("data", data)
    within = data if isinstance(data, dict) else {}
    for name, options in (("model", content.get("model")), ("data", within), ("data", within.get("init_args"))):
        if isinstance(options, dict) and "seed" in options:
            raise UserError(f"{where}: {name}: found a seed of its own, expected one for all: use seed_everything")


def _check_part(section: str, given: str) -> None:
    """Check a file, or YAML, that is given as a whole section, as in ``--model FILE``."""
    if os.path.isfile(given):  # noqa: PTH113
        _check_content(given, {section: read_yaml(Path(given), "options as YAML")})
    elif _is_inline(given):
        _check_content(f"--{section}", {section: parse_yaml(given.encode(), f"--{section}", "options as YAML")})


def _is_inline(given: str) -> bool:
    """Return whether a value that names no file is YAML itself."""
    return re.search(r"^\s*\{|:\s", given) is not None


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


def given_to_model(args: Sequence[str], settings: dict[str, Any]) -> set[str]:
    """Return the names of the model's options in the arguments and settings of `with_includes`.

    A whole section, as in ``--model FILE``, is taken to name the backbone.
    """
    nested = settings.get("fit")
    sections = [settings.get("model", {}), nested.get("model", {}) if isinstance(nested, dict) else {}]
    whole = {"backbone"} if last_option(args, "--model") is not None else set[str]()
    return given_options(args, "--model.") | whole | {name for section in sections for name in section}


def load_recipe(name: str) -> dict[str, Any]:
    """Return the options of a recipe such as ``quickstart``, or of a configuration file, with those that it includes.

    ``SIGNModule(**load_recipe("quickstart")["model"])`` makes its model in a notebook.

    Raises:
        UserError: There is no such recipe or file, or it cannot be read.
    """
    options: dict[str, Any] = {}
    for path in with_includes(["--config", name])[0][1::2]:
        _put_over(options, read_yaml(Path(path), "a configuration as YAML"))
    options.pop("include", None)
    return options


def _put_over(options: dict[str, Any], others: dict[str, Any]) -> None:
    for key, value in others.items():
        below = options.get(key)
        if isinstance(below, dict) and isinstance(value, dict):
            _put_over(below, value)
        else:
            options[key] = value
