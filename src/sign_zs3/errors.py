"""The one error type that means "the input is at fault, not the program"."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: a file, an option or a list that cannot be used.

    The message is one line that names the file or option, what was found, what was expected and the next
    step. The command-line program prints it alone and exits with 1; in a notebook it is a `ValueError`.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)


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
