"""The one error type that means "the input is at fault, not the program"."""

from __future__ import annotations


class UserError(ValueError):
    """Bad input: a file, an option or a list that cannot be used.

    The message is one line that names the file or option, what was found, what was expected and the next
    step. The command-line program prints it alone and exits with 1; in a notebook it is a `ValueError`.

    Args:
        message: The line.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
