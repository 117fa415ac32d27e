"""The one error type that means "the input is at fault, not the program", and the checks of options that raise it."""

import math
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib import metadata


class UserError(ValueError):
    """Bad input: a file, an option or a list that cannot be used.

    The message is one line that names the file or option, what was found, what was expected and the next
    step. The command-line program prints it alone and exits with 1; in a notebook it is a `ValueError`.
    """


def close_names(name: str, known: Iterable[str], count: int = 3, least: float = 0.5) -> list[str]:
    """Return the known names that are spelt most like a name, the closest first, at least so alike in [0, 1]."""
    return get_close_matches(name, list(known), count, least)


def did_you_mean(name: str, known: Iterable[str], count: int = 3, otherwise: str = "") -> str:
    """Return the end of an error about a name that is not known.

    >>> did_you_mean("resnet11", ["resnet101", "small"])
    "; did you mean 'resnet101'?"
    """
    near = close_names(name, known, count)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else otherwise


def pip_install(extra: str) -> str:
    """Return the command that installs what an optional extra of this package needs, as its metadata say.

    The packages are named themselves, since no index may have this one.

    >>> pip_install("timm")
    "pip install 'timm>=1.0.17'"
    """
    try:
        lines = metadata.requires("sign-zs3") or []
    except metadata.PackageNotFoundError:
        lines = []
    parts = [re.fullmatch(r"([^;]+);.*extra == .(\S+?).", line.strip()) for line in lines]
    found = [match[1].replace(" ", "") for match in parts if match and match[2] == extra]
    quoted = [f"'{each}'" if re.search("[<>=!~]", each) else each for each in found]
    return f"pip install {' '.join(quoted) or f'what setup.cfg names under {extra}'}"


def check_choice(name: str, found: str, *choices: str) -> None:
    """Refuse a value that is none of the choices."""
    if found not in choices:
        raise UserError(f"{name}: found {found!r}, expected one of {', '.join(choices)}")


def check_range(name: str, value: float, above: float, most: float = math.inf) -> None:
    """Refuse a number that is not above one limit, or above the other, or not finite."""
    if not (above < value <= most and math.isfinite(value)):
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise UserError(f"{name}: found {value}, expected more than {above:g}{limit}")


def check_at_least(least: float, **values: float) -> None:
    """Refuse numbers below a limit; their names are the options'."""
    for name, value in values.items():
        if not value >= least:
            raise UserError(f"{name}: found {value}, expected at least {least:g}; raise it")


def check_positive(**lists: Sequence[float]) -> None:
    """Refuse empty lists and lists with a number that is not above 0; their names are the options'."""
    for name, numbers in lists.items():
        if not numbers or not all(number > 0 for number in numbers):
            raise UserError(f"{name}: found {numbers}, expected at least one number, all above 0")
