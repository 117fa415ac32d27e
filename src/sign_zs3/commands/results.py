"""The verb results: tables and pictures of many runs, beside the paper's numbers."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sign_zs3.commands.parsing import VerbParser
from sign_zs3.errors import UserError
from sign_zs3.files import replacing
from sign_zs3.reports.formats import as_csv, as_latex, as_markdown, print_rows, runs_as_csv
from sign_zs3.reports.run import SUMMARY
from sign_zs3.reports.runs import Run, collect, read_losses
from sign_zs3.reports.table import Row, references, tabulate, temperature_curves

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


def run(args: list[str]) -> int:
    """Write tables and pictures of runs; a UserError where runs or the output cannot be used, or do not go together."""
    parser = VerbParser("results", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("runs", nargs="+", metavar="RUNS", help=RUNS_HELP)
    parser.add_argument("--output", default="results", metavar="FOLDER", help=OUTPUT_HELP)
    parser.add_argument("--phase", metavar="PHASE", help=PHASE_HELP)
    parser.add_argument("--panels", type=int, metavar="N", help=PANELS_HELP)
    options = parser.parse_args(args)
    output, phase = Path(options.output), options.phase
    if output.exists() and not output.is_dir():
        raise UserError(f"--output: found the file {output}, expected a folder, made where it is missing; name another")
    if options.panels is not None and options.panels < 1:
        raise UserError(f"--panels: found {options.panels}, expected at least 1; raise it")
    rows = tabulate(collect(options.runs), phase)
    first = next(run for row in rows for run in row.runs)
    if options.panels and first.is_development:
        found = "found runs on validation images (development), expected runs on test images"
        raise UserError(f"--panels: {found}; leave it out")
    title = f"{first.results['dataset']}, split {first.split}"
    title += " (scores of validation images)" if first.is_development else ""
    title += f", after phase {phase}" if phase else ""

    suffix = f"-{phase}" if phase else ""
    shown = [*rows, *([] if phase else references(rows))]
    tables = {
        "table.md": as_markdown(shown, title),
        "table.csv": as_csv(shown),
        "table.tex": as_latex(shown),
        "runs.csv": runs_as_csv(rows, phase),
    }
    for name, text in tables.items():
        with replacing(output / name.replace(".", f"{suffix}.")) as beside:
            beside.write_text(text, encoding="utf-8")
    print_rows(shown, title)
    print(f"tables:   {output / f'table{suffix}.md'}, .csv, .tex; {output / f'runs{suffix}.csv'}")

    from sign_zs3.drawing.figures import save_figure

    figures = draw_figures(rows, title)
    for name, figure in figures.items():
        save_figure(figure, output / f"{name}{suffix}.png")
    if options.panels:
        figures["panels"] = _panels(rows, phase, options.panels, title)
        save_figure(figures["panels"], output / f"panels{suffix}.png")
    print(f"pictures: {', '.join(str(output / f'{name}{suffix}.png') for name in figures)}")
    return 0


def draw_figures(rows: Sequence[Row], title: str) -> dict[str, Figure]:
    """Return the figures of a table by name: ``bars``, and where possible ``per_class``, ``temperature``, ``curves``.

    Rows without scores are left out; a ``metrics.csv`` that cannot be read is a UserError.
    """
    from sign_zs3.drawing.charts import draw_bars, draw_curves, draw_per_class, draw_temperature

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


def _panels(rows: Sequence[Row], phase: str | None, count: int, title: str) -> Figure:
    """Label the same test images with a model per row."""
    import torch

    from sign_zs3.commands.configured import ConfiguredCLI
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
    data = ConfiguredCLI(["--config", str(configs[0])], DESCRIPTION).datamodule
    data.setup("test")
    assert data.test_set is not None
    samples = [data.test_set[index] for index in choose_examples(data.test_set, count)]
    images, truths = ([sample[part] for sample in samples] for part in ("image", "mask"))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    predictions = {}
    for label, (_, path) in chosen.items():
        model = load_task(path).to(device)
        check_classes(model.protocol, data.protocol, f"the data of {configs[0]}")
        predictions[label] = [model.label_image(image) for image in images]
    return comparison_panel(images, truths, predictions, data.protocol, title)
