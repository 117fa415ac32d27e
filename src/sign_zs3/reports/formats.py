"""Tables of many runs as Markdown, LaTeX and CSV, and in the terminal."""

import csv
import io
import sys
from collections.abc import Sequence
from typing import Any

from sign_zs3.reports.run import SUMMARY
from sign_zs3.reports.table import Mean, Row

CAPTION = "mIoU in %: mean ± standard deviation (n - 1) over seeds; the best mean of each column is bold."
PAPER_CAPTION = "Paper: seen / unseen / harmonic."
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "★": r"$\star$",
}  # fmt: skip


def as_markdown(rows: Sequence[Row], title: str) -> str:
    """Return the table as Markdown, in %."""
    header, lines = _cells(rows)
    text = [f"**{title}**", "", f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    for line in lines:
        cells = [f"**{cell}**" if best else cell.replace("|", r"\|") for cell, best in line]
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join([*text, "", _caption(rows)]) + "\n"


def as_latex(rows: Sequence[Row]) -> str:
    """Return the table as a LaTeX ``tabular`` with the rules of booktabs, in %."""
    header, lines = _cells(rows)
    text = [f"% needs \\usepackage{{booktabs}}; {_caption(rows)}", f"\\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}"]
    text += [r"\toprule", f"{' & '.join(map(_escape, header))} \\\\", r"\midrule"]
    for line in lines:
        cells = [f"\\textbf{{{_escape(cell)}}}" if best else _escape(cell) for cell, best in line]
        text.append(f"{' & '.join(cells)} \\\\")
    return "\n".join([*text, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(rows: Sequence[Row]) -> str:
    """Return the table as CSV: fractions at full precision, empty where there is no number."""
    header = ["method", "seeds", "unfinished"]
    header += [f"{name}_{what}" for name in SUMMARY for what in ("mean", "sd")] + [f"paper_{name}" for name in SUMMARY]
    lines: list[list[Any]] = [header]
    for row in rows:
        means = [value for name in SUMMARY for value in (row.scores[name] or (None, None))]
        paper = [None if value is None else round(value / 100, 4) for value in row.paper or (None,) * 3]
        lines.append([row.label, len(row.runs), len(row.unfinished), *means, *paper])
    return _write_csv(lines)


def runs_as_csv(rows: Sequence[Row], phase: str | None) -> str:
    """Return a CSV line per finished run: fractions at full precision."""
    lines: list[list[Any]] = [["method", "seed", "phase", *SUMMARY, "unseen_share", "path"]]
    for row in rows:
        for one in row.runs:
            scores = one.scores(phase) or {}
            numbers = [*(scores[key] for key in SUMMARY.values()), one.results.get("unseen_share")]
            lines.append([row.label, one.seed, phase or one.final, *numbers, one.path])
    return _write_csv(lines)


def print_rows(rows: Sequence[Row], title: str) -> None:
    """Print the table, in %."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    header, lines = _cells(rows)
    columns = (Column(name, justify="right", no_wrap=True) for name in header[2:])
    table = Table(*header[:2], *columns, title=Text(title), caption=Text(_caption(rows)))
    for line in lines:
        table.add_row(*(Text(cell, "bold" if best else "") for cell, best in line))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def _write_csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _caption(rows: Sequence[Row]) -> str:
    return f"{CAPTION} {PAPER_CAPTION}" if any(row.paper for row in rows) else CAPTION


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _cells(rows: Sequence[Row]) -> tuple[list[str], list[list[tuple[str, bool]]]]:
    """Return the table's header, and of each line its cells, with whether each is the best mean of its column."""
    means = {name: {mean.mean for row in rows if (mean := row.scores[name])} for name in SUMMARY}
    best = {name: max(values) for name, values in means.items() if len(values) > 1}
    with_paper = any(row.paper for row in rows)
    lines = []
    for row in rows:
        line = [(row.label, False), (_seeds(row), False)]
        for name in SUMMARY:
            mean = row.scores[name]
            line.append((_percent(mean), mean is not None and mean.mean == best.get(name)))
        if with_paper:
            line.append((" / ".join("-" if value is None else f"{value:.2f}" for value in row.paper or ()), False))
        lines.append(line)
    return ["method", "seeds", *SUMMARY, *(["paper"] if with_paper else [])], lines


def _percent(mean: Mean | None) -> str:
    if mean is None:
        return "–"
    return f"{100 * mean.mean:.2f}" + ("" if mean.sd is None else f" ± {100 * mean.sd:.2f}")


def _seeds(row: Row) -> str:
    if not row.unfinished:
        return str(len(row.runs) or "")
    seeds = [str(seed) for seed in sorted({run.seed for run in row.unfinished if run.seed is not None})]
    unfinished = f"unfinished: seed {', '.join(seeds)}" if seeds else "unfinished"
    return f"{len(row.runs)} ({unfinished})" if row.runs else unfinished
