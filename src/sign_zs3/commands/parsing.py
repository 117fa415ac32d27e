"""The parser of the verbs that have options of their own: what is wrong with a command line, in one line."""

import argparse
import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from sign_zs3.commands.help import EXAMPLES, examples
from sign_zs3.errors import did_you_mean

QUOTE = "'"
_TYPES = {"int": "a whole number", "float": "a number"}


class VerbParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` for ``sign-zs3 VERB``, whose errors are one line on stderr and the exit status 2."""

    def __init__(self, verb: str, **options: Any) -> None:
        super().__init__(f"sign-zs3 {verb}", allow_abbrev=False, **options)
        self.examples = EXAMPLES.get(verb, ())

    def format_help(self) -> str:
        """Return the help, with examples as they are to be typed."""
        return f"{super().format_help()}\n{examples(*self.examples)}\n"

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, but name an option that is none before what is missing for that reason."""
        for arg in args or ():
            name = arg.partition("=")[0]
            if name.startswith("--") and len(name) > 2 and name not in self._option_string_actions:
                self.error(f"unrecognized arguments: {name}")
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Print one line, and exit with 2."""
        text = explain(message, self._option_string_actions) or message
        print(f"error: {text}{'' if '; ' in text else f'; see {self.prog} --help'}", file=sys.stderr)
        raise SystemExit(2)


def explain(message: str, options: Iterable[str]) -> str | None:
    """Return an error of argparse in this library's words; None for others."""
    if match := re.search(r"[Uu]nrecognized arguments: (-[^\s=]+|.*)", message):
        if match[1].startswith("-"):
            return unknown(match[1], options)
        return (
            f"found {match[1]!r:.100}, which belongs to no option; write each value behind its option, lists as [a, b]"
        )
    if match := re.search(r"arguments are required: (.*)", message):
        return f"{match[1]}: found none, expected a value"
    where = re.match(r"argument (?:-\w/)?([^:]+): ", message)
    option = f"{where[1]}: " if where and where[1] != "subcommand" else ""
    if match := re.search(r"invalid choice: '([^']*)' \(choose from (.*)\)", message):
        choices = re.findall(r"[\w-]+", match[2])
        return f"{option}found {match[1]!r}, expected one of {', '.join(choices)}{did_you_mean(match[1], choices)}"
    if match := re.search(r"invalid (\w+) value: (.*)", message):
        return f"{option}found {match[2]}, expected {_TYPES.get(match[1], match[1])}"
    if (option and "expected one argument" in message) or "expected at least one argument" in message:
        return f"{option}found none, expected a value"
    return f"{option}{message[where.end() :]}" if where else None


def unknown(option: str, known: Iterable[str], otherwise: str = "; --help lists those that are") -> str:
    """Return the error about an option that is none, with the one that was probably meant.

    What options of one group begin with, as in ``--data.``, makes them no more alike.
    """
    # that of another verb may have its name
    group, names = option.rpartition(".")[0], [name for name in known if name != option]
    within = [name for name in names if group and name.rpartition(".")[0] == group]
    start = f"{group}." if within else "--"
    near = did_you_mean(option.removeprefix(start), [name.removeprefix(start) for name in within or names], 1)
    return f"{option}: is no option here{near.replace(QUOTE, QUOTE + start, 1) or otherwise}"


def check_verb(args: Sequence[str], verbs: Iterable[str]) -> None:
    """Exit with one line and 2 where the first argument is none of the verbs."""
    if args and args[0] not in verbs:
        choices = ", ".join(map(repr, verbs))
        print(f"error: {explain(f'invalid choice: {args[0]!r} (choose from {choices})', ())}", file=sys.stderr)
        raise SystemExit(2)
