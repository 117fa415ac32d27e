"""What is wrong with a command line, in one line: jsonargparse tells it in ten, with the names of Python's types."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable
from typing import Any, NoReturn

from pytorch_lightning import callbacks, loggers

from sign_zs3.commands import parsing
from sign_zs3.commands.parsing import unknown
from sign_zs3.data import datamodules
from sign_zs3.errors import did_you_mean
from sign_zs3.tasks import METHODS
from sign_zs3.tasks.options import TaskOptions

_KINDS = {
    "<class 'float'>": "a number", "<class 'int'>": "a whole number", "<class 'bool'>": "true or false",
    "<class 'str'>": "text", "<class 'NoneType'>": "null", "<class 'dict'>": "a mapping",
}  # fmt: skip
_LITERALS = r"'([^']*)'|\b(\d+)\b"
_DATA = {
    name: kind
    for name, kind in inspect.getmembers(datamodules, inspect.isclass)
    if issubclass(kind, datamodules.ZeroShotDataModule) and not inspect.isabstract(kind)
}
_CLASSES: dict[str, dict[str, type[Any]]] = {
    "--data": _DATA,
    "--trainer.callbacks": dict(inspect.getmembers(callbacks, inspect.isclass)),
    "--trainer.logger": dict(inspect.getmembers(loggers, inspect.isclass)),
}
"""Options that take classes, with those that they know by name."""


def options_of(kind: type[Any]) -> dict[str, str]:
    """Return the options of a class, and of those that it hands further ones on to, with their types as text."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            found |= {p.name: str(p.annotation) for p in parameters if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def list_options() -> set[str]:
    """Return the options, as they stand on a command line, that take lists."""
    options = {f"--data.{name}": kind for of in _DATA.values() for name, kind in options_of(of).items()}
    common = {field.name: str(field.type) for field in dataclasses.fields(TaskOptions)}
    options |= {f"--model.{name}": kind for of in METHODS.values() for name, kind in (options_of(of) | common).items()}
    return {option for option, kind in options.items() if re.search(r"\b(list|Sequence|tuple)\[", kind)}


def with_brackets(args: Iterable[str]) -> list[str]:
    """Put brackets around the values of options that take lists, where these have commas and none: ``cow,dog``."""
    lists, result, before = list_options(), list[str](), ""
    for arg in args:
        option, equals, value = arg.partition("=")
        if equals and option in lists and _is_bare(value):
            arg = f"{option}=[{value}]"
        elif before in lists and _is_bare(arg):
            arg = f"[{arg}]"
        result.append(arg)
        before = arg
    return result


def _is_bare(value: str) -> bool:
    return "," in value and not value.lstrip().startswith(("[", "{", "-", '"', "'"))


def refuse(parser: Any, message: str, error: Exception | None = None) -> NoReturn:
    """Stand in for a parser's ``error``: print one line, and exit with 2."""
    print(f"error: {explain(message, _options(parser))}", file=sys.stderr)
    raise SystemExit(2)


def _options(parser: Any) -> list[str]:
    """Return the options of a parser and of its verbs."""
    found: list[str] = []
    for action in parser._actions:
        found += [option for option in action.option_strings if option.startswith("--")]
        choices = getattr(action, "choices", None)
        for verb in choices.values() if isinstance(choices, dict) else ():
            found += _options(verb)
    return list(dict.fromkeys(found))


def explain(message: str, options: Iterable[str] = ()) -> str:
    """Return one line: the option, what was found, what was expected, and what to do."""
    if match := re.search(r"does not accept option '([^']+)'", message):  # of a configuration
        return unknown(f"--{match[1]}", options)
    keys = list(dict.fromkeys(re.findall(r'Parser key "([\w.]+)"', message)))
    top, option = f"--{keys[0]}" if keys else "--data", f"--{'.'.join(keys)}" if keys else "--data"
    kinds = re.findall(r"class_path '(?:[\w.]+\.)?(\w+)'", message)
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        own = options_of(_CLASSES[top][kinds[-1]]) if kinds and kinds[-1] in _CLASSES.get(top, {}) else {}
        return unknown(f"{top}.{match[1]}", [f"{top}.{name}" for name in own])
    if match := re.search(r"arguments are required: ([\w.]+)", message):
        if not kinds and match[1].endswith("data"):
            return "--data: found none, expected a data set: give --config FILE, or --data CLASS with its options"
        if kinds:
            return f"{top}: found {kinds[-1]} alone, which needs {match[1]}: give {top}.{match[1]}"
    if match := re.search(r"Expected a dot import path string: (\S+)", message):
        known, path = _CLASSES.get(option, {}), "as in package.module.Class"
        hint = did_you_mean(match[1], known, 1, f"; or give the path of one of your own, {path}" if known else "")
        expected = f"one of {', '.join(known)}" if known else f"the path of what to import, {path}"
        return f"{option}: found {match[1]!r}, expected {expected}{hint}"
    if match := re.search(r"File does not exist: '?([^']+)'?", message):
        return f"--config: {match[1]} is not there, expected a configuration as YAML; correct the path"
    return _of_value(message, option) if keys else parsing.explain(message, options) or " ".join(message.split())[:300]


def _of_value(message: str, option: str) -> str:
    expected = list(dict.fromkeys(re.findall(r"Expected an? (.+?)(?:\. Got value:.*)?$", message, re.MULTILINE)))
    values = re.findall(r"(?:Given|Got) value: (?!NestedArg)(.*)", message)
    if not expected or not values:
        return " ".join(message.split())[:300]
    value = values[0].strip()
    if len(expected) > 1:
        # that of the whole data module, which may be null for jsonargparse
        expected = [kind for kind in expected if "NoneType" not in kind] or expected
    kinds = [_kind(kind, value) for kind in expected]
    choices = [choice for kind in expected for choice in re.findall(r"'([^']*)'", kind) if "Literal" in kind]
    return f"{option}: found {value!r:.100}, expected {' or '.join(kinds)}{did_you_mean(value, choices)}"


def _kind(kind: str, value: str) -> str:
    if "Literal" in kind:
        return f"one of {', '.join(quoted or number for quoted, number in re.findall(_LITERALS, kind))}"
    if kind in ("<class 'list'>", "<class 'tuple'>") or kind.startswith(("list", "tuple")):
        return f"a list: [{value}]" if re.fullmatch(r"[^\[\]{}]+", value) else "a list, as in [a, b]"
    return _KINDS.get(kind, kind)
