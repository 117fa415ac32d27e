"""The verb results: tables and pictures of many runs, beside the paper's numbers."""

from __future__ import annotations

import argparse
import csv
import io
import logging
import math
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sign_zs3.errors import UserError
from sign_zs3.files import line_of, replacing
from sign_zs3.reports.results import SUMMARY, Mean, Row, Run, collect, is_development, tabulate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


log = logging.getLogger(__name__)

DESCRIPTION = """\
Gather the scores of runs: a row per method and options, mean and standard deviation over seeds, the paper's numbers
beside; as Markdown, CSV and LaTeX, with pictures."""
RUNS_HELP = """\
Files results.json, folders of runs (version_0), or folders above them. All must be of one data set and class split."""
OUTPUT_HELP = "Folder to write into (default: results). Former tables and pictures in it are replaced."
PHASE_HELP = "Take the scores after this phase (train, transfer, self_training_2 ...) instead of each run's last."
PANELS_HELP = "Also draw N test images, labelled by the first seed of each row from its checkpoint, side by side."
EPILOG = """\
Writes table.md, table.csv, table.tex, runs.csv (a line per run), bars.png and per_class.png; temperature.png where rows
differ in T, curves.png (training losses) where runs have a metrics.csv, panels.png with --panels. With --phase, the
phase joins the names. CSV files hold fractions, tables and pictures percent."""
CAPTION = "mIoU in %: mean ± standard deviation (n - 1) over seeds; the best mean of each column is bold."
PAPER_CAPTION = "Paper: seen / unseen / harmonic."
_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "★": r"$\star$",
}  # fmt: skip


def run(args: list[str]) -> int:
    """Write the tables and pictures, and print the table.

    Args:
        args: The command line after the verb.

    Returns:
        0.

    Raises:
        UserError: A run cannot be read, runs do not belong into one table, or the output is no folder.
    """
    options = _parser().parse_args(args)
    output, phase = Path(options.output), options.phase
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: found the file {output}, expected a folder, made where it is missing; name another")
    if options.panels is not None and options.panels < 1:
        raise UserError(f"--panels: found {options.panels}, expected at least 1; raise it")
    rows = tabulate(collect(options.runs), phase)
    first = next(run for row in rows for run in row.runs)
    development = is_development(first)
    if options.panels and development:
        raise UserError(
            "--panels: found runs on validation images (development), expected runs on test images; leave it out"
        )
    assert first.results is not None
    title = f"{first.results['dataset']}, split {first.results['split']}"
    if development:
        title = re.sub(r"-\d+$", "", title) + " (scores of validation images)"
    title += f", after phase {phase}" if phase else ""

    suffix = f"-{phase}" if phase else ""
    for name, text in {"table.md": as_markdown(rows, title), "table.csv": as_csv(rows), "table.tex": as_latex(rows),
                       "runs.csv": runs_as_csv(rows, phase)}.items():  # fmt: skip
        stem, _, ending = name.partition(".")
        with replacing(output / f"{stem}{suffix}.{ending}") as beside:
            beside.write_text(text, encoding="utf-8")
    _print_table(rows, title)
    print(f"tables:   {output / f'table{suffix}.md'}, .csv, .tex; {output / f'runs{suffix}.csv'}")

    from sign_zs3.drawing.figures import save_figure

    figures = _figures(rows, title)
    pictures = {output / f"{name}{suffix}.png": figure for name, figure in figures.items()}
    for path, figure in pictures.items():
        save_figure(figure, path)
    if options.panels:
        path = output / f"panels{suffix}.png"
        pictures[path] = _panels(rows, phase, options.panels, title)
        save_figure(pictures[path], path)
    print(f"pictures: {', '.join(map(str, pictures))}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("sign-zs3 results", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help=RUNS_HELP)
    parser.add_argument("--output", default="results", metavar="FOLDER", help=OUTPUT_HELP)
    parser.add_argument("--phase", metavar="PHASE", help=PHASE_HELP)
    parser.add_argument("--panels", type=int, metavar="N", help=PANELS_HELP)
    return parser


# -- tables --------------------------------------------------------------------------------------------------------


def as_markdown(rows: Sequence[Row], title: str) -> str:
    """Return the table as Markdown, in %."""
    header, *lines = _cells(rows)
    text = [f"**{title}**", "", f"| {' | '.join(header)} |", f"|---|---|{'---:|' * (len(header) - 2)}"]
    for line in lines:
        cells = [cell.removeprefix("*").replace("|", r"\|") for cell in line]
        bold = [f"**{cell}**" if given.startswith("*") else cell for cell, given in zip(cells, line, strict=True)]
        text.append(f"| {' | '.join(bold)} |")
    return "\n".join([*text, "", _caption(rows)]) + "\n"


def as_latex(rows: Sequence[Row]) -> str:
    """Return the table as a LaTeX ``tabular`` with the rules of booktabs, in %."""
    header, *lines = _cells(rows)
    text = [f"% needs \\usepackage{{booktabs}}; {_caption(rows)}", f"\\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}"]
    text += [r"\toprule", f"{' & '.join(map(_escape, header))} \\\\", r"\midrule"]
    for line in lines:
        cells = [f"\\textbf{{{_escape(cell[1:])}}}" if cell.startswith("*") else _escape(cell) for cell in line]
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
            share = (one.results or {}).get("unseen_share")
            numbers = [scores[key] for key in SUMMARY.values()]
            lines.append([row.label, one.seed, phase or one.final, *numbers, share, one.path])
    return _write_csv(lines)


def _write_csv(lines: Sequence[Sequence[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def _caption(rows: Sequence[Row]) -> str:
    return f"{CAPTION} {PAPER_CAPTION}" if any(row.paper for row in rows) else CAPTION


def _escape(text: str) -> str:
    return "".join(_LATEX.get(sign, sign) for sign in text)


def _cells(rows: Sequence[Row]) -> list[list[str]]:
    """Return the table's lines, the header first; the best mean of a column starts with a star."""
    with_paper = any(row.paper for row in rows)
    lines = [["method", "seeds", *SUMMARY, *(["paper"] if with_paper else [])]]
    best: dict[str, float] = {}
    for name in SUMMARY:
        means = [mean.mean for row in rows if (mean := row.scores[name]) is not None]
        if len(set(means)) > 1:
            best[name] = max(means)
    for row in rows:
        means_of_row = [_percent(row.scores[name], best.get(name)) for name in SUMMARY]
        printed = ["-" if value is None else f"{value:.2f}" for value in row.paper or ()]
        paper = [" / ".join(printed)] if with_paper else []
        lines.append([row.label, _seeds(row), *means_of_row, *paper])
    return lines


def _percent(mean: Mean | None, best: float | None) -> str:
    if mean is None:
        return "–"
    spread = "" if mean.sd is None else f" ± {100 * mean.sd:.2f}"
    return f"{'*' if mean.mean == best else ''}{100 * mean.mean:.2f}{spread}"


def _seeds(row: Row) -> str:
    count = str(len(row.runs)) if row.runs or not row.unfinished else ""
    if not row.unfinished:
        return count
    seeds = [str(seed) for seed in sorted({run.seed for run in row.unfinished if run.seed is not None})]
    unfinished = f"unfinished: seed {', '.join(seeds)}" if seeds else "unfinished"
    return f"{count} ({unfinished})" if count else unfinished


def _print_table(rows: Sequence[Row], title: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    header, *lines = _cells(rows)
    table = Table(title=Text(title), caption=Text(_caption(rows)))
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number > 1)
    for line in lines:
        table.add_row(*(Text(cell.removeprefix("*"), "bold" if cell.startswith("*") else "") for cell in line))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


# -- pictures ------------------------------------------------------------------------------------------------------


def _figures(rows: Sequence[Row], title: str) -> dict[str, Figure]:
    from sign_zs3.drawing.charts import draw_bars, draw_curves, draw_per_class, draw_temperature

    scored = [row for row in rows if row.runs]
    labels = [row.label for row in scored]
    figures = {"bars": draw_bars(labels, {name: [row.scores[name] for row in scored] for name in SUMMARY}, title)}
    runs = [run for row in rows for run in row.runs]
    # under development each seed has other classes
    if len({run.classes for run in runs}) == 1:
        unseen = next((found for run in runs if (found := (run.results or {}).get("unseen")) is not None), ())
        per_class = {name: [row.per_class[name] for row in scored] for name in scored[0].per_class}
        figures["per_class"] = draw_per_class(labels, per_class, unseen, title)
    if curves_of_temperature := temperature_curves(rows):
        lines = {row.label: mean.mean for row in rows if row.base.endswith("+ ST") and (mean := row.scores["harmonic"])}
        figures["temperature"] = draw_temperature(curves_of_temperature, lines, title)
    curves = {row.label: _losses(row.runs[0]) for row in scored}
    if any(curves.values()):
        figures["curves"] = draw_curves({label: found for label, found in curves.items() if found}, title)
    return figures


def temperature_curves(rows: Sequence[Row]) -> dict[str, list[tuple[float, float, float | None]]]:
    """Return the curves of rows that differ in T alone: label -> (T, mean, standard deviation) of the harmonic mIoU."""
    curves: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in rows:
        mean = row.scores["harmonic"]
        if mean is not None and "temperature" in row.told:
            temperature = row.told["temperature"]
            label = row.label.replace(f", T = {temperature}", "")
            curves.setdefault(label, []).append((float(temperature), *mean))
    return {label: sorted(points) for label, points in curves.items() if len(points) > 1}


def _losses(run: Run) -> dict[str, list[tuple[float, float]]]:
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


def _panels(rows: Sequence[Row], phase: str | None, count: int, title: str) -> Figure:
    """Label the same test images with a model per row."""
    import torch

    from sign_zs3.commands.training import ConfiguredCLI
    from sign_zs3.data.examples import choose_examples
    from sign_zs3.drawing.panels import comparison_panel
    from sign_zs3.tasks.building import check_classes
    from sign_zs3.tasks.loading import load_task

    chosen: dict[str, tuple[Run, Path]] = {}
    for row in rows:
        for run in row.runs[:1]:
            path = run.folder / "checkpoints" / f"{phase or run.final}.ckpt"
            if path.is_file():
                chosen[row.label] = run, path
            else:
                log.warning("--panels: %s is not there; %s is left out", path, row.label)
    configs = [config for run, _ in chosen.values() if (config := run.folder / "config.yaml").is_file()]
    if not configs:
        raise UserError(
            "--panels: found no run with checkpoints/ and config.yaml beside its results.json, expected one at least; "
            "name the folders that `fit` wrote"
        )
    data = ConfiguredCLI(["--config", str(configs[0])], DESCRIPTION, lambda parser: None).datamodule
    data.setup("test")
    assert data.test_set is not None
    samples = [data.test_set[index] for index in choose_examples(data.test_set, count)]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictions: Mapping[str, list[Any]] = {label: [] for label in chosen}
    for label, (_, path) in chosen.items():
        model = load_task(path).to(device)
        check_classes(model.protocol, data.protocol, f"the data of {configs[0]}")
        predictions[label].extend(model.label_image(sample["image"]) for sample in samples)
    images, truths = ([sample[part] for sample in samples] for part in ("image", "mask"))
    return comparison_panel(images, truths, predictions, data.protocol, title)
