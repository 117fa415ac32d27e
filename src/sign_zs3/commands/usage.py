"""What is wrong with a command line, in one line: jsonargparse tells it in ten, with the names of Python's types."""

import dataclasses
import inspect
import re
import sys
from collections.abc import Iterable
from types import ModuleType
from typing import Any, NoReturn

from pytorch_lightning import Trainer, callbacks, loggers

from sign_zs3.commands import parsing
from sign_zs3.commands.configuration import TRAINING, VERBS
from sign_zs3.commands.parsing import unknown
from sign_zs3.data import datamodules
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.tasks import METHODS
from sign_zs3.tasks.options import TaskOptions
from sign_zs3.tasks.trainer import REFUSED, check_callback

_KINDS = {
    "<class 'float'>": "a number", "<class 'int'>": "a whole number", "<class 'bool'>": "true or false",
    "<class 'str'>": "text", "<class 'NoneType'>": "null", "<class 'dict'>": "a mapping",
}  # fmt: skip
_LITERALS = r"'([^']*)'|\b(\d+)\b"
# callbacks that do not serve, and those that others are made from
_NOT_OFFERED = {*REFUSED, "Timer", "Callback", "Checkpoint", "ProgressBar", "BasePredictionWriter"}


def _classes_of(module: ModuleType) -> dict[str, type[Any]]:
    found = inspect.getmembers(module, lambda value: inspect.isclass(value) and not inspect.isabstract(value))
    return {name: kind for name, kind in found if name not in _NOT_OFFERED}


_DATA = _classes_of(datamodules)
_CLASSES: dict[str, dict[str, type[Any]]] = {
    "--data": _DATA,
    "--trainer.callbacks": _classes_of(callbacks),
    "--trainer.logger": _classes_of(loggers),
}
"""Options that take classes, with those that they know by name."""
_NO_CLASS = (
    r"Expected a dot import path string: (\S+)|Problem with given class_path '([\w.]+)':\s+(?:module '|No module)"
    r"|Expected an instantiatable class, but ([\w.]*) ?is abstract"
    r"|Import path does not correspond to a subclass|Not a valid subclass of \w+(?:\. Got value: (.*))?"
)
"""What jsonargparse says of what is no class, or none that serves, with the groups that may hold the value."""
_TOLD = {
    r"File does not exist: '?([^']+)'?": "--config: {} is not there, expected a YAML file; correct the path",
    r"Unexpected config: (.*)": "--config: found {!r:.50}, expected a file, or lines such as 'option: value'",
    r"Unable to load config '([^'\n]*)'": "{option}: found {!r:.50}, expected a YAML file of its options; or give "
    "these one by one, as {option}.NAME",
    r"expected \"subcommand\"": f"found no verb, expected one of {', '.join((*TRAINING, *VERBS))}",
    r"Linked \"([\w.]+)\" must be given via \"([\w.]+)\"": "--{}: is set by --{}: give that one",
    r"\((\w+)\) --> ([\w.]+): (?:invalid|.* is not callable)": "--{1}: is set by --{0}; leave it out",
    r"Call to compute_fn .* failed: (.*)": "{}",
    r"is abstract[\s\S]*Given value: \{(?!'class_path')": "{option}: found options without a class, expected "
    "class_path: FolderDataModule, or another class, with the options below init_args",
    r"object has no attribute 'keys'": "{option}.init_args: found no options, expected lines such as 'option: value'",
}
"""What jsonargparse says -> what is printed, with the groups of the pattern and the option."""
_EXPECTED = {
    "--trainer.precision": "32-true, 64-true or bf16-mixed",
    "--seed_everything": "a whole number from 0 to 4294967295",
}
"""What is expected of options of which Lightning knows more values than serve here."""


def options_of(kind: type[Any]) -> dict[str, str]:
    """Return the options of a class, and of those that it hands further ones on to, with their types as text."""
    found: dict[str, str] = {}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            parameters = list(inspect.signature(vars(base)["__init__"]).parameters.values())[1:]
            # what a base cannot do without, the class gives it
            needed = [p for p in parameters if base is kind and p.kind is p.POSITIONAL_OR_KEYWORD]
            found |= {p.name: str(p.annotation) for p in parameters if p in needed or p.default is not p.empty}
            if not any(p.kind is p.VAR_KEYWORD for p in parameters):
                break
    return found


def options_of_method(kind: type[Any]) -> dict[str, str]:
    """Return the options of a task with their types as text."""
    return {field.name: str(field.type) for field in dataclasses.fields(TaskOptions)} | options_of(kind)


def list_options() -> set[str]:
    """Return the options, as they stand on a command line, that take lists."""
    options = {f"--data.{name}": kind for of in _DATA.values() for name, kind in options_of(of).items()}
    options |= {f"--model.{n}": kind for of in METHODS.values() for n, kind in options_of_method(of).items()}
    return {option for option, kind in options.items() if re.search(r"\b(list|Sequence|tuple)\[", kind)}


def refuse_nulls(config: Any, method: type[Any]) -> None:
    """Refuse null in a configuration where an option takes none, as a line ``lr:`` without a value has it."""
    data = config.get("data") or {}
    kind = _DATA.get(str(data.get("class_path")).rpartition(".")[2], object)
    for section, given, options in (
        ("model", config["model"], options_of_method(method)),
        ("data", data.get("init_args") or {}, options_of(kind)),
        ("checkpoint", config["checkpoint"], {"every": "int"}),
        ("trainer", config["trainer"], options_of(Trainer)),
    ):
        for name, annotation in options.items():
            if name in given and given[name] is None and not re.search("None|Optional", annotation):
                found = f"{section}.{name}: found no value (null)"
                raise UserError(f"{found}, expected one; give it, or leave the line out for the default")


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
    kinds = re.findall(r"class_path '([\w.]+)'", message)
    kind = kinds[-1].rpartition(".")[2] if kinds else ""
    if match := re.search(r"Option '([^']+)' is not accepted", message):
        own = options_of(_CLASSES[top][kind]) if kind in _CLASSES.get(top, {}) else {}
        return unknown(f"{top}.{match[1]}", [f"{top}.{name}" for name in own])
    if match := re.search(r"arguments are required: ([\w.]+)", message):
        if not kinds and match[1].endswith("data"):
            return "--data: found none, expected a data set: give --config FILE, or --data CLASS with its options"
        if kinds:
            try:
                check_callback(kinds[-1])
            except UserError as error:
                return str(error)
            return f"{top}: found {kind} alone, which needs {match[1]}: give {top}.{match[1]}"
    for pattern, text in _TOLD.items():
        if match := re.search(pattern, message):
            return text.format(*match.groups(), option=option)
    if match := re.search(_NO_CLASS, message):
        value = next(filter(None, [*match.groups(), *re.findall(r"Given value: (.*)", message)]), "")
        known, path = _CLASSES.get(option, {}), "as in package.module.Class"
        hint = did_you_mean(value, known, 1, f"; or give the path of one of your own, {path}" if known else "")
        expected = f"one of {', '.join(known)}" if known else f"the path of what to import, {path}"
        return f"{option}: found {value!r:.100}, expected {expected}{hint}"
    return _of_value(message, option) if keys else parsing.explain(message, options) or " ".join(message.split())[:300]


def _of_value(message: str, option: str) -> str:
    expected = list(dict.fromkeys(re.findall(r"Expected (?:an? )?(.+?)(?:\. Got value:.*)?$", message, re.MULTILINE)))
    values = re.findall(r"(?:Given|Got) value: (?!NestedArg)(.*)", message)
    if not expected or not values:
        return " ".join(message.split())[:300]
    value = values[0].strip()
    if len(expected) > 1:
        # that of the whole data module, which may be null for jsonargparse
        expected = [kind for kind in expected if "NoneType" not in kind] or expected
    if "<class 'float'>" in expected:
        expected = [kind for kind in expected if kind != "<class 'int'>"]
    choices = [choice for kind in expected for choice in re.findall(r"'([^']*)'", kind) if "Literal" in kind]
    wanted = " or ".join(_kind(kind, value) for kind in expected)
    if option in _EXPECTED:
        wanted, choices = _EXPECTED[option], []
    found = "null" if value == "None" else f"{value!r:.100}"
    return f"{option}: found {found}, expected {wanted}{did_you_mean(value, choices) if value != 'None' else ''}"


def _kind(kind: str, value: str) -> str:
    if "Literal" in kind:
        choices = [quoted or number for quoted, number in re.findall(_LITERALS, kind)]
        return choices[0] if len(choices) == 1 else f"one of {', '.join(choices)}"
    if kind in ("<class 'list'>", "<class 'tuple'>") or kind.startswith(("list", "tuple")):
        one = value != "None" and re.fullmatch(r"[^\[\]{}]+", value)
        return f"a list: [{value}]" if one else "a list, as in [a, b]"
    return _KINDS.get(kind, kind)
