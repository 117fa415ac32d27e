"""The GZSL table in the terminal and ``results.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sign_zs3.data.protocol import Protocol
from sign_zs3.files import replacing

Scores = Mapping[str, Any]
SUMMARY = {"seen": "seen_miou", "unseen": "unseen_miou", "harmonic": "harmonic_miou"}


def as_results(
    protocol: Protocol, method: str, seed: int, phases: Mapping[str, Scores], unseen_share: float | None = None
) -> dict[str, Any]:
    """Arrange the scores of a run.

    Args:
        protocol: The data set, its classes and split.
        method: Such as ``SIGN``.
        seed: The run's seed.
        phases: Phase -> what `GZSLMeanIoU.compute` returned after it, in order; fractions in [0, 1].
        unseen_share: Share of the pixels that self-training labelled that are truly of unseen classes.

    Returns:
        The content of ``results.json``, format 1; a class that is absent has null.
    """
    final = list(phases)[-1]
    plain = {name: _plain(scores) for name, scores in phases.items()}
    return {
        "format": 1,
        "dataset": protocol.dataset,
        "split": protocol.split,
        "method": method,
        "seed": seed,
        "phases": plain,
        "final": final,
        "test": plain[final],
        "unseen_share": unseen_share,
    }


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write ``results.json`` beside its place and rename it."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def print_table(protocol: Protocol, phases: Mapping[str, Scores], unseen_share: float | None = None) -> None:
    """Print IoU per class and the GZSL summary, in %, a column per phase."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title=escape(f"{protocol.dataset}, split {protocol.split}: IoU on test images after each phase, %"))
    table.add_column("class", no_wrap=True)
    table.add_column("split")
    for name in phases:
        table.add_column(name, justify="right")
    for index, name in enumerate(protocol.classes):
        unseen = index >= protocol.num_seen
        values = [_percent(scores["per_class"][name]) for scores in phases.values()]
        table.add_row(escape(name), "unseen" if unseen else "seen", *values, style="bold yellow" if unseen else None,
                      end_section=index in (protocol.num_seen - 1, protocol.num_classes - 1))  # fmt: skip
    for label, key in SUMMARY.items():
        values = [_percent(scores[key]) for scores in phases.values()]
        table.add_row(f"{label} mIoU", "", *values, style="bold" if label == "harmonic" else None)
    console = Console()
    console.print(table)
    if unseen_share is not None:
        console.print(
            f"Of the pixels that self-training labelled, {100 * unseen_share:.1f} % were truly of an unseen class "
            "(near 100 %, their place alone would give them away)."
        )


def _plain(scores: Scores) -> dict[str, Any]:
    plain: dict[str, Any] = {k: v for k, v in scores.items() if isinstance(v, float)}
    plain = {k: None if math.isnan(v) else v for k, v in plain.items()}
    plain["per_class"] = {k: None if math.isnan(v) else v for k, v in scores["per_class"].items()}
    return plain


def _percent(value: float) -> str:
    return "-" if math.isnan(value) else f"{100 * value:.1f}"
