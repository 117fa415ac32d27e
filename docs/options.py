"""The reference of commands and configuration keys as Markdown, read from the program's parsers."""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal
from unittest import mock

from jsonargparse import ArgumentParser
from pytorch_lightning import Trainer

from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.commands.configuration import TRAINING, VERBS
from sign_zs3.commands.help import EXAMPLES
from sign_zs3.commands.training import TRAINER_DEFAULTS
from sign_zs3.data import datamodules
from sign_zs3.tasks import METHODS

DATA_MODULES = ("FolderDataModule", "VOCDataModule", "PascalContextDataModule", "COCOStuffDataModule",
                "ShapesDataModule")  # fmt: skip
CONFIGURED = {
    "config": "A YAML file. Given more than once, later files change what earlier ones say; each may `include` others.",
    "print_config": "Print the whole configuration that the other options make, and exit.",
    "method": f"Which method's keys `model` has: {', '.join(f'`{name}`' for name in METHODS)}. Default: that of the "
    "checkpoint, else `SIGN`.",
    "seed_everything": "The seed of model, data and training. Default: `0`.",
    "ckpt_path": "A checkpoint; `last` is the newest below `trainer.default_root_dir`. `fit` goes on with its run, the "
    "others score it or label with it.",
    "weights_only": "Left alone: checkpoints are always read as plain types and tensors.",
    "debug": "Show the traceback of an error.",
}
"""What the options mean that all verbs with a configuration have."""
_PLAIN = {int: "whole number", float: "number", bool: "true or false", str: "text", type(None): "null"}


def verbs_page() -> str:
    """Return a section for each verb of the program, with its options."""
    shared = [[f"`--{name}`", what] for name, what in CONFIGURED.items()]
    return "\n".join([
        "(options-of-configured)=", "## Options of every verb that takes a configuration", "",
        "`fit`, `validate`, `test`, `predict --config`, `data check`, `data show` and `embed show` take these, and "
        "each [key of a configuration](options.md) as an option: `--model.lr 0.01`, `--data.root DATA`.", "",
        table(["option", "what it does"], shared), "",
        *(_verb(name) for name in (*TRAINING, *VERBS)),
    ])  # fmt: skip


def help_of(*verb: str) -> tuple[argparse.ArgumentParser | None, str]:
    """Ask the program for the help of a verb; return the parser that was to print it, and what was printed without."""
    found: list[argparse.ArgumentParser] = []

    def keep(parser: argparse.ArgumentParser, file: Any = None) -> None:
        found.append(parser)

    printed = io.StringIO()
    with (
        mock.patch.object(argparse.ArgumentParser, "print_help", keep),
        mock.patch.object(sys, "argv", ["sign-zs3"]),
        mock.patch.dict(os.environ, {"COLUMNS": "100"}),
        contextlib.redirect_stdout(printed),
        contextlib.suppress(SystemExit),
    ):
        main([*verb, "--help"])
    return (found[0] if found else None), printed.getvalue()


def _verb(*verb: str) -> str:
    parser, text = help_of(*verb)
    name = " ".join(verb)
    lines = [f"{'#' * (len(verb) + 1)} {name}", ""]
    if parser is None:
        lines += ["```text", text.rstrip(), "```", ""]
    else:
        rows = [_option(action) for action in parser._actions if _is_shown(action)]
        usage = parser.format_usage().removeprefix("usage: ").rstrip()
        lines += [
            escape(parser.description or ""),
            "",
            "```text",
            usage,
            "```",
            "",
            table(["option", "what it does"], rows),
        ]
        lines += ["", escape(parser.epilog or ""), "", "```bash", *EXAMPLES.get(name, ()), "```", ""]
        text = f"{parser.description} {parser.epilog}"
    # verbs of a verb are named in its help
    within = dict.fromkeys(re.findall(rf"sign-zs3 {verb[0]} ([a-z]+)", text)) if len(verb) == 1 else ()
    return "\n".join([*lines, *(_verb(*verb, word) for word in within)])


def _is_shown(action: argparse.Action) -> bool:
    hidden = action.help == argparse.SUPPRESS or action.dest == "help"
    return not hidden and "." not in action.dest


def _option(action: argparse.Action) -> list[str]:
    name = ", ".join(f"`{option}`" for option in action.option_strings) or f"`{action.metavar or action.dest}`"
    what = escape(_help(action))
    if action.choices:
        what += f" One of {', '.join(f'`{choice}`' for choice in action.choices)}."
    default = action.default
    if "default" not in what.lower() and default not in (None, False, argparse.SUPPRESS) and action.option_strings:
        what += f" Default: `{default}`."
    return [name, what]


def _help(action: argparse.Action) -> str:
    text = (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
    return " ".join(text.split())


def options_page() -> str:
    """Return the keys of a configuration, section by section, with types and defaults."""
    return "\n".join([
        "(keys-model)=", "## model", "",
        "What a method learns and how. Which keys there are depends on `method`, SIGN by default.", "",
        *_model_sections(),
        "(keys-data)=", "## data", "",
        "`class_path` names the data module, `init_args` holds its keys. On the command line: `--data VOCDataModule "
        "--data.root DATA`.", "",
        *(section for name in DATA_MODULES for section in _data_section(name)),
        "(keys-checkpoint)=", "## checkpoint", "",
        _keys_table(_keys_of(ScheduleCheckpoint)), "",
        "(keys-trainer)=", "## trainer", "",
        "Lightning's Trainer. [What each option does here](../trainer.md), and which are refused, has a page of its "
        "own; these are the types and defaults.", "",
        table(["key", "type", "default"], [row[:3] for row in _rows(_trainer_keys())]), "",
    ])  # fmt: skip


def _model_sections() -> Iterable[str]:
    keys = {name: _keys_of(kind) for name, kind in METHODS.items()}
    owners: dict[str, tuple[str, ...]] = {}
    for key in dict.fromkeys(key for found in keys.values() for key in found):
        owners[key] = tuple(name for name, found in keys.items() if key in found)
    for methods in sorted(set(owners.values()), key=lambda names: (-len(names), names)):
        title = "Keys of all methods" if len(methods) == len(METHODS) else f"Keys of {', '.join(methods)}"
        yield from (f"### {title}", "")
        rows = []
        for key in sorted(key for key, names in owners.items() if names == methods):
            defaults = {name: keys[name][key].default for name in methods}
            meanings = {name: escape(_help(keys[name][key])) for name in methods}
            meanings = {name: text for name, text in meanings.items() if not text.startswith("As in `")}
            (row,) = _rows({key: keys[methods[0]][key]})
            row[2] = _by_method({name: _value(value) for name, value in defaults.items()})
            row[3] = _by_method(meanings)
            rows.append(row)
        yield from (table(["key", "type", "default", "meaning"], rows), "")


def _by_method(cells: Mapping[str, str]) -> str:
    if len(set(cells.values())) == 1:
        return next(iter(cells.values()))
    return "; ".join(f"{name}: {text.rstrip('.')}" for name, text in cells.items())


def _data_section(name: str) -> list[str]:
    kind = getattr(datamodules, name)
    about = escape((kind.__doc__ or "").strip().partition("\n\n")[0])
    return [f"### {name}", "", " ".join(about.split()), "", _keys_table(_keys_of(kind)), ""]


def _keys_of(kind: type[Any]) -> dict[str, argparse.Action]:
    """Return the options of a class by name, those of its bases too."""
    parser = ArgumentParser()
    parser.add_class_arguments(kind, "of")
    actions = {action.dest.removeprefix("of."): action for action in parser._actions if action.dest.startswith("of.")}
    return {name: action for name, action in actions.items() if not name.endswith(".help")}


def _trainer_keys() -> dict[str, argparse.Action]:
    keys = _keys_of(Trainer)
    for name, value in TRAINER_DEFAULTS.items():
        keys[name].default = value
    return keys


def _keys_table(keys: Mapping[str, argparse.Action]) -> str:
    return table(["key", "type", "default", "meaning"], _rows(keys))


def _rows(keys: Mapping[str, argparse.Action]) -> list[list[str]]:
    """Return key, type, default and first sentences of each option."""
    rows = []
    for name, action in keys.items():
        default = "required" if getattr(action, "required", False) else _value(action.default)
        kind = kind_of(getattr(action, "_typehint", None) or action.type)
        rows.append([f"`{name}`", kind, default, escape(_help(action))])
    return rows


def _value(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return f"`{str(value).lower() if value is not None else 'null'}`"
    return f"`{value}`" if not isinstance(value, (list, tuple)) else f"`[{', '.join(map(str, value))}]`"


def kind_of(hint: Any) -> str:
    """Return a type hint in words.

    >>> kind_of(list[int] | None)
    'list of whole numbers, or null'
    """
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in args)
    if origin in (typing.Union, types.UnionType):
        kinds = list(dict.fromkeys(part for arg in args for part in kind_of(arg).split(", ")))
        return ", or ".join([", ".join(kinds[:-1]), kinds[-1]]) if len(kinds) > 1 else kinds[0]
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Iterable) and origin is not dict):
        within = kind_of(args[0]) if args else ""
        return f"list of {within}s" if within in ("whole number", "number") else f"list of {within}" if args else "list"
    if origin is dict or hint is dict:
        return "mapping"
    return f"`{getattr(hint, '__name__', hint)}`" if hint is not None else "text"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table; cells are Markdown already, in which a bar is escaped."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def escape(text: str) -> str:
    """Return plain text, in which single or double backticks mark code, as Markdown."""
    parts = re.split(r"(``[^`]+``|`[^`\n]+`)", text)
    return "".join(part if place % 2 else re.sub(r"([*_<>\[\]$])", r"\\\1", part) for place, part in enumerate(parts))
