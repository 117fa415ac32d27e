"""Differences of a table's rows from one of them, paired by seed, with 95 % confidence intervals.

    .venv/bin/python experiments/paired.py docs/results/msrc/figure5/runs.csv --reference "SIGN + AST, T = 0.3"

Reads the `runs.csv` of `sign-zs3 results`. Intervals are Student's t of the differences, each for itself: of twenty,
one leaves out the true difference by chance.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from pathlib import Path

from scipy.stats import t

SCORES = ("seen", "unseen", "harmonic")


def paired(path: Path, reference: str) -> str:
    """Return the table as Markdown: of each other row the mean difference in points, and its interval.

    Args:
        path: A `runs.csv`.
        reference: The row that the others are compared with, by its name in the column ``method``.

    Raises:
        ValueError: There is no such row.
    """
    rows: dict[str, dict[str, dict[str, str]]] = {}
    with path.open(encoding="utf-8", newline="") as lines:
        for line in csv.DictReader(lines):
            rows.setdefault(line["method"], {})[line["seed"]] = line
    if reference not in rows:
        raise ValueError(f"{path}: found no row {reference!r}, expected one of {', '.join(map(repr, rows))}")
    text = [f"| minus {reference}, points | seeds | {' | '.join(SCORES)} |", "|---|---|---:|---:|---:|"]
    for name, runs in rows.items():
        seeds = sorted(runs.keys() & rows[reference].keys())
        if name == reference or len(seeds) < 2:
            continue
        cells = []
        for score in SCORES:
            differences = [100 * (float(runs[seed][score]) - float(rows[reference][seed][score])) for seed in seeds]
            mean, error = statistics.mean(differences), statistics.stdev(differences) / len(seeds) ** 0.5
            half = t.ppf(0.975, len(seeds) - 1) * error
            cells.append(f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})")
        text.append(f"| {name} | {len(seeds)} | {' | '.join(cells)} |")
    return "\n".join(text) + "\n"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="a runs.csv")
    parser.add_argument("--reference", required=True, help="the row to compare with")
    options = parser.parse_args()
    print(paired(options.runs, options.reference))


if __name__ == "__main__":
    main()
