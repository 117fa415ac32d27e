"""The scores of one run: the table in the terminal, and ``results.json``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from sign_zs3.protocol import Protocol

Scores: TypeAlias = Mapping[str, Any]
"""What `GZSLMeanIoU.compute` returns; read from a file, what has no label to score has None for NaN."""

FORMAT = 1
UNTRAINED = "untrained"
"""The phase of a model that needs no training."""
SUMMARY = {"seen": "seen_miou", "unseen": "unseen_miou", "harmonic": "harmonic_miou"}


def as_results(
    protocol: Protocol,
    method: str,
    seed: int,
    phases: Mapping[str, Scores],
    unseen_share: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Arrange the scores of a run as the content of ``results.json``, format 1; null where no label is to be scored.

    Args:
        protocol: The data set, its classes and split.
        method: Such as ``SIGN``.
        seed: The run's random seed.
        phases: Phase -> scores after it, in order; fractions in [0, 1].
        unseen_share: Share of the pixels that self-training labelled that are truly of unseen classes.
        options: The run's hyperparameters, plain types; None where they are not known.
    """
    plain = {name: _plain(scores) for name, scores in phases.items()}
    final = list(phases)[-1]
    return {
        "format": FORMAT,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "method": method,
        "seed": seed,
        "phases": plain,
        "final": final,
        "test": plain[final],
        "unseen_share": unseen_share,
        "unseen": [protocol.classes[index] for index in protocol.unseen],
        "options": None if options is None else dict(options),
    }


def print_table(protocol: Protocol, phases: Mapping[str, Scores], unseen_share: float | None = None) -> None:
    """Print IoU per class and the GZSL summary, in %, a column per phase."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Column, Table

    when = " after each phase" if len(phases) > 1 else ""
    title = escape(f"{protocol.dataset}, split {protocol.split}: IoU on test images{when}, %")
    # words, which a narrow terminal sets one below the other
    columns = (Column(name.replace("_", " "), justify="right") for name in phases)
    table = Table(Column("class", no_wrap=True), "split", *columns, title=title)
    for index, name in enumerate(protocol.classes):
        split, style = ("unseen", "bold yellow") if index >= protocol.num_seen else ("seen", None)
        values = [_percent(scores["per_class"][name]) for scores in phases.values()]
        ends = index in (protocol.num_seen - 1, protocol.num_classes - 1)
        table.add_row(escape(name), split, *values, style=style, end_section=ends)
    for label, key in SUMMARY.items():
        values = [_percent(scores[key]) for scores in phases.values()]
        table.add_row(f"{label} mIoU", "", *values, style="bold" if label == "harmonic" else None)
    console = Console()
    console.print(table)
    if any(math.isnan(value) for scores in phases.values() for value in scores["per_class"].values()):
        console.print("-: no test pixel has this label; the means leave these classes out.")
    if unseen_share is not None:
        console.print(
            f"Of the pixels that self-training labelled, {100 * unseen_share:.1f} % truly were of an unseen class. "
            "(Near 100 %, it would learn unseen classes from where labels are missing.)"
        )


def _plain(scores: Scores) -> dict[str, Any]:
    plain: dict[str, Any] = {name: or_none(value) for name, value in scores.items() if isinstance(value, float)}
    return plain | {"per_class": {name: or_none(value) for name, value in scores["per_class"].items()}}


def or_none(value: float) -> float | None:
    """Return None for NaN, which JSON does not have."""
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
