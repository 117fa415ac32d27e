"""Rows of a table: the runs of one method, averaged over their seeds, beside the paper's numbers."""

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from sign_zs3.errors import UserError
from sign_zs3.reports.paper import CLIP_ERA, ROWS, SPLITS, TRAINING_FREE, Published, published
from sign_zs3.reports.run import SUMMARY
from sign_zs3.reports.runs import Run

log = logging.getLogger(__name__)


class Mean(NamedTuple):
    """Mean over seeds, and standard deviation with n - 1; None for one seed."""

    mean: float
    sd: float | None


@dataclass(frozen=True)
class Row:
    """The runs of one method that differ in their seed alone.

    Attributes:
        label: Such as ``SIGN + AST, T = 0.5``.
        base: The label without options: ``SIGN + AST``.
        options: Those in the label, as text.
        runs: Those that have scores, by seed.
        unfinished: Those that do not, but for seeds among `runs`.
        scores: ``seen``, ``unseen`` and ``harmonic`` -> mean IoU over seeds, fractions; None where a run has none.
        per_class: Class -> mean IoU over the seeds that have it, fraction; None where none has.
        paper: The row's numbers in the paper; None where it has no such row.
    """

    label: str
    base: str
    options: Mapping[str, str]
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...]
    scores: Mapping[str, Mean | None]
    per_class: Mapping[str, float | None]
    paper: Published | None


def tabulate(runs: Sequence[Run], phase: str | None = None) -> list[Row]:
    """Group runs into rows, in the order of the paper's Table 1, then by label, and average them over seeds.

    Where runs of one method differ in options, these join the label. The scores are those after `phase`; None: after
    the final one of each run.

    Raises:
        UserError: Runs are not of the same classes, split and images; a row has a seed twice; no run has the phase.
    """
    finished = [run for run in runs if run.results]
    _check_same_data(finished)
    if phase is not None and not any(run.scores(phase) for run in finished):
        there = sorted({name for run in finished for name in run.results["phases"]})
        raise UserError(f"phase: found {phase!r}, which no run has, expected one of {', '.join(there)}; correct it")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        # before self-training, runs of one method are alike however far they went
        alike = phase is not None and not run.final.startswith("self_training")
        groups.setdefault(run.method if alike else run.base, []).append(run)
    rows = []
    for base, members in groups.items():
        varied = _varied(members)
        labelled: dict[str, tuple[dict[str, str], list[Run]]] = {}
        for run in members:
            known = {k: v for part in run.distinguishing if part is not None for k, v in part.items()}
            options = {name: known[name] for name in varied if name in known}
            label = ", ".join([base, *(f"T = {v}" if k == "temperature" else f"{k} {v}" for k, v in options.items())])
            labelled.setdefault(label, (options, []))[1].append(run)
        rows += [_row(label, base, options, some, phase) for label, (options, some) in labelled.items()]
    order = {name: place for place, name in enumerate(ROWS)}
    return sorted(rows, key=lambda row: (order.get(row.base, len(order)), row.base, *map(_order, row.options.values())))


def temperature_curves(rows: Sequence[Row]) -> dict[str, list[tuple[float, float, float | None]]]:
    """Return the curves of rows that differ in T alone: label -> (T, mean, standard deviation) of the harmonic mIoU."""
    curves: dict[str, list[tuple[float, float, float | None]]] = {}
    for row in rows:
        mean = row.scores["harmonic"]
        if mean is not None and "temperature" in row.options:
            temperature = row.options["temperature"]
            label = row.label.replace(f", T = {temperature}", "")
            curves.setdefault(label, []).append((float(temperature), *mean))
    return {label: sorted(points) for label, points in curves.items() if len(points) > 1}


def _row(label: str, base: str, options: Mapping[str, str], members: Sequence[Run], phase: str | None) -> Row:
    by_seed: dict[int | None, Run] = {}
    for run in (run for run in members if run.results):
        if (other := by_seed.setdefault(run.seed, run)) is not run:
            raise UserError(
                f"{run.path}: found {label} with seed {run.seed} again, as in {other.path}, expected each seed once; "
                "leave one of the two out"
            )
    scored = sorted((run for run in by_seed.values() if run.scores(phase)), key=lambda run: run.seed or 0)
    found = [run.scores(phase) or {} for run in scored]
    of_clip = any(run.of_clip for run in members)
    names = dict.fromkeys(name for scores in found for name in scores["per_class"])
    first = next((run.results for run in by_seed.values()), None)
    return Row(
        label=label,
        base=base,
        options=options,
        runs=tuple(scored),
        unfinished=tuple(run for run in members if not run.results and run.seed not in by_seed),
        scores={name: _mean([scores[key] for scores in found]) for name, key in SUMMARY.items()},
        per_class={name: _mean_of_present([scores["per_class"].get(name) for scores in found]) for name in names},
        paper=published(first["dataset"], first["split"], base, options, phase) if first and not of_clip else None,
    )


def references(rows: Sequence[Row]) -> list[Row]:
    """Return rows of published systems on CLIP, without runs, where rows have its encoder, and their classes.

    For a model without training, the published mIoU over all classes is named in the log, beside the row's own.
    """
    of_clip = [run for row in rows for run in row.runs if run.of_clip]
    if not of_clip:
        return []
    dataset, split = (of_clip[0].results[name] for name in ("dataset", "split"))
    for row in rows:
        known = None if "background" in row.per_class else TRAINING_FREE.get(dataset, {}).get(row.base)
        means = [run.results["test"].get("miou") for run in row.runs]
        if known is not None and means and None not in means:
            mean = 100 * statistics.fmean(means)
            log.info("%s: mIoU over all classes %.2f %%; published, with other windows: %.1f", row.label, mean, known)
    found = CLIP_ERA.get(dataset, {}) if split in SPLITS else {}
    if not found:
        log.warning("%s, split %s: found no published numbers of systems on CLIP with these classes", dataset, split)
    nothing: dict[str, Any] = {"base": "", "options": {}, "runs": (), "unfinished": (), "per_class": {}}
    scores = dict.fromkeys(SUMMARY)
    return [Row(label=f"{name} (published)", scores=scores, paper=paper, **nothing) for name, paper in found.items()]


def _mean(values: Sequence[float | None]) -> Mean | None:
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return Mean(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


def _mean_of_present(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _varied(members: Sequence[Run]) -> list[str]:
    """Return the names of the options in which runs differ; a run whose options are not known differs in none."""
    varied = []
    for part in range(2):
        known = [options for run in members if (options := run.distinguishing[part]) is not None]
        names = dict.fromkeys(name for options in known for name in options)
        # an earlier version does not tell an option that this one has
        varied += [name for name in names if len({options[name] for options in known if name in options}) > 1]
    return varied


def _check_same_data(runs: Sequence[Run]) -> None:
    first = runs[0]
    of_seed: dict[int | None, Run] = {}
    for run in runs:
        if run.is_development != first.is_development:
            on_validation, on_test = (run, first) if run.is_development else (first, run)
            raise UserError(
                f"{on_validation.path}: found scores of validation images (development), but {on_test.path} has those "
                "of test images, expected one kind; make a table of each"
            )
        mine, others = (f"{one.results['dataset']}, split {one.split}" for one in (run, first))
        if mine != others:
            raise UserError(
                f"{run.path}: found {mine}, but {first.path} has {others}, expected the same; make a table of each"
            )
        # Under development each seed draws its own unseen classes.
        other = of_seed.setdefault(run.seed, run) if run.is_development else first
        unseen = [results.get("unseen") for results in (run.results, other.results)]
        if run.classes != other.classes or (None not in unseen and unseen[0] != unseen[1]):
            raise UserError(
                f"{run.path}: found {len(run.classes)} classes that are not those of {other.path} in name, order or "
                "split, expected the same; make a table of each"
            )


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text
