"""Checks of options, each an error of one line."""

import math
from collections.abc import Sequence

from sign_zs3.errors import UserError


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
