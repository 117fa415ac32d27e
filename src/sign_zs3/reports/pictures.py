"""What is drawn of many runs: their scores, IoU per class, and training losses."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sign_zs3.drawing.charts import draw_bars, draw_curves, draw_per_class, draw_temperature
from sign_zs3.errors import UserError
from sign_zs3.files import line_of
from sign_zs3.reports.run import SUMMARY
from sign_zs3.reports.runs import Run
from sign_zs3.reports.table import Row, temperature_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_figures(rows: Sequence[Row], title: str) -> dict[str, Figure]:
    """Return the figures of a table by name: ``bars``, and where possible ``per_class``, ``temperature``, ``curves``.

    Rows without scores are left out; a ``metrics.csv`` that cannot be read is a UserError.
    """
    scored = [row for row in rows if row.runs]
    labels = [row.label for row in scored]
    figures = {"bars": draw_bars(labels, {name: [row.scores[name] for row in scored] for name in SUMMARY}, title)}
    runs = [run for row in scored for run in row.runs]
    # under development each seed has other classes
    if len({run.classes for run in runs}) == 1:
        unseen = next((found for run in runs if (found := run.results.get("unseen")) is not None), ())
        per_class = {name: [row.per_class[name] for row in scored] for name in scored[0].per_class}
        figures["per_class"] = draw_per_class(labels, per_class, unseen, title)
    if curves := temperature_curves(rows):
        lines = {row.label: mean.mean for row in rows if row.base.endswith("+ ST") and (mean := row.scores["harmonic"])}
        figures["temperature"] = draw_temperature(curves, lines, title)
    if losses := {row.label: found for row in scored if (found := read_losses(row.runs[0]))}:
        figures["curves"] = draw_curves(losses, title)
    return figures


def read_losses(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Read the training losses of a run: name -> (iteration, value, NaN where it has none); {} without metrics.csv."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return {}
    losses: dict[str, list[tuple[float, float]]] = {}
    before: dict[str, str] = {}
    try:
        accumulate = int((run.options or {}).get("accumulate", 1))
        with path.open(encoding="utf-8", newline="") as lines:
            for line in csv.DictReader(lines):
                for name, value in line.items():
                    if value and name.startswith("train/loss"):
                        iteration = (int(line["step"]) + 1) / accumulate
                        # to the last digit what it was: Lightning repeats what the phase at hand does not compute
                        number = math.nan if before.get(name) == value else float(value)
                        losses.setdefault(name.removeprefix("train/"), []).append((iteration, number))
                        before[name] = value
    except Exception as error:  # a broken file makes the reader raise almost anything
        raise UserError(
            f"{path}: cannot be read ({line_of(error)}), expected the metrics.csv of a run; remove or mend it"
        ) from error
    return losses
