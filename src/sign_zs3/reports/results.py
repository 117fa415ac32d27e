"""The GZSL table in the terminal, ``results.json``, and rows over the seeds of many runs."""

from __future__ import annotations

import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from sign_zs3.errors import UserError
from sign_zs3.files import other_format, read_json, read_yaml, replacing
from sign_zs3.reports.paper import ROWS, Published, published

if TYPE_CHECKING:
    from sign_zs3.protocol import Protocol

Scores = Mapping[str, Any]
FORMAT = 1
SUMMARY = {"seen": "seen_miou", "unseen": "unseen_miou", "harmonic": "harmonic_miou"}


def as_results(
    protocol: Protocol, method: str, seed: int, phases: Mapping[str, Scores], unseen_share: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Arrange the scores of a run.

    Args:
        protocol: The data set, its classes and split.
        method: Such as ``SIGN``.
        seed: The run's seed.
        phases: Phase -> what `GZSLMeanIoU.compute` returned after it, in order; fractions in [0, 1].
        unseen_share: Share of the pixels that self-training labelled that are truly of unseen classes.
        options: The run's hyperparameters, plain types; None where they are not known.

    Returns:
        The content of ``results.json``, format 1; a class that is absent has null.
    """
    final = list(phases)[-1]
    plain = {name: _plain(scores) for name, scores in phases.items()}
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


# -- many runs ---------------------------------------------------------------------------------------------------------

KINDS = ("train", "generator", "transfer", "self_training")
SELF_TRAINING = {"annealed": "+ AST", "top_fraction": "+ ST"}
# These say where a run read and wrote, or how fast; the phases are told by the final one, the split by its name.
_UNTOLD = {
    *("seed", "self_training", "phases", "init_from", "feature_cache", "train_size"),
    *(f"data.{name}" for name in ("root", "sbd_root", "download", "split", "unseen", "seed", "num_workers",
                                  "eval_batch_size", "development")),
}  # fmt: skip
_OF_SELF_TRAINING = {
    *("self_training_iterations", "lr_self_training", "rounds", "temperature", "top_fraction", "pseudo_classes"),
    "pseudo_top_p",
}
_OF_TRAINER = ("precision", "limit_train_batches", "limit_test_batches")


@dataclass(frozen=True)
class Run:
    """A run, finished or not.

    Attributes:
        path: Its ``results.json``; the folder of one that did not finish.
        method: Such as ``SIGN``.
        seed: None where it is not known.
        options: Hyperparameters by name; None where they are not known.
        surroundings: Options of data and trainer as ``data.NAME`` and ``trainer.NAME``; None where there is no
            ``config.yaml`` beside.
        results: The content of ``results.json``; None for a run that did not finish.
    """

    path: Path
    method: str
    seed: int | None
    options: Mapping[str, Any] | None
    surroundings: Mapping[str, Any] | None
    results: Mapping[str, Any] | None

    @property
    def folder(self) -> Path:
        """Where the run wrote."""
        return self.path if self.results is None else self.path.parent

    @property
    def final(self) -> str:
        """The last phase: the one whose scores count, or of a run that did not finish the one it was to reach."""
        if self.results is not None:
            return str(self.results["final"])
        options = self.options or {}
        only = options.get("phases") or KINDS
        kinds = [kind for kind in KINDS if options.get(f"{kind}_iterations") and kind in only]
        if options.get("self_training") == "none" and "self_training" in kinds:
            kinds.remove("self_training")
        return kinds[-1] if kinds else ""

    @property
    def base(self) -> str:
        """The row that it belongs to by method and final phase, as in Table 1: ``SIGN + AST``."""
        if self.final.startswith("self_training"):
            kind = (self.options or {}).get("self_training")
            return f"{self.method} {SELF_TRAINING.get(str(kind), '+ self-training')}"
        usual = "train" if self.method == "SPNet" else "transfer"
        return self.method if self.final in ("", usual) else f"{self.method}, after {self.final}"

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, seen ones first; none for a run that did not finish."""
        return () if self.results is None else tuple(self.results["test"]["per_class"])

    @cached_property
    def distinguishing(self) -> tuple[Mapping[str, str] | None, Mapping[str, str] | None]:
        """What may tell it from another run of its row, as text: hyperparameters; options of data and trainer."""
        left_out = set(_UNTOLD)
        if not self.final.startswith("self_training"):
            left_out |= _OF_SELF_TRAINING
        elif self.base.endswith("+ AST"):
            left_out.add("top_fraction")
        elif self.base.endswith("+ ST"):
            left_out.add("temperature")
        first, second = (
            None if known is None else {k: _text(v) for k, v in known.items() if k not in left_out}
            for known in (self.options, self.surroundings)
        )
        return first, second

    def scores(self, phase: str | None = None) -> Scores | None:
        """Return the scores after a phase, None for the final one; None where the run has none."""
        if self.results is None:
            return None
        found: Scores | None = self.results["test"] if phase is None else self.results["phases"].get(phase)
        return found


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
        told: The options in the label, as text.
        runs: Those that have scores, by seed.
        unfinished: Those that do not, but for seeds among `runs`.
        scores: ``seen``, ``unseen`` and ``harmonic`` -> mean IoU over seeds, fractions; None where a run has none.
        per_class: Class -> mean IoU over the seeds that have it, fraction; None where none has.
        paper: The row's numbers in the paper; None where it has no such row.
    """

    label: str
    base: str
    told: Mapping[str, str]
    runs: tuple[Run, ...]
    unfinished: tuple[Run, ...]
    scores: Mapping[str, Mean | None]
    per_class: Mapping[str, float | None]
    paper: Published | None


def collect(paths: Iterable[str | Path]) -> list[Run]:
    """Read runs.

    Args:
        paths: Files ``results.json``, folders of runs, or folders above them.

    Returns:
        Each run once. A folder with ``config.yaml`` or ``checkpoints`` and no ``results.json`` is a run that did not
        finish, unless it is one of `validate`, `test` or `predict`.

    Raises:
        UserError: A path is not there, a file cannot be read or has another format, or nothing is found.
    """
    given = [Path(path) for path in paths]
    files: dict[Path, Path] = {}
    folders: dict[Path, Path] = {}
    for path in given:
        if path.is_file():
            files[path.resolve()] = path
        elif path.is_dir():
            files |= {found.resolve(): found for found in sorted(path.rglob("results.json"))}
            begun = {found.parent for name in ("config.yaml", "checkpoints") for found in path.rglob(name)}
            folders |= {f.resolve(): f for f in sorted(begun) if not (f / "results.json").exists()}
        else:
            raise UserError(f"{path}: is not there, expected a results.json or a folder of runs; correct the path")
    runs = [_read_run(file) for file in files.values()]
    unfinished = [run for folder in folders.values() if (run := _read_unfinished(folder)) is not None]
    if not runs:
        begun_ones = f" but {len(unfinished)} of runs that did not finish" if unfinished else ""
        raise UserError(
            f"{', '.join(map(str, given)) or 'no path'}: found no results.json{begun_ones}, expected one at least; "
            "name the folder that `fit` wrote to (--trainer.default_root_dir), or finish a run with --ckpt_path"
        )
    return runs + unfinished


def tabulate(runs: Sequence[Run], phase: str | None = None) -> list[Row]:
    """Group runs into rows and average them over seeds.

    Args:
        runs: What `collect` returned.
        phase: Whose scores; None: the final phase of each run.

    Returns:
        Rows in the order of the paper's Table 1, then by label. Where runs of one method differ in options, these
        join the label.

    Raises:
        UserError: Runs of other classes, of another split or on validation images are among them; a row has a seed
            twice; or no run has the phase.
    """
    finished = [run for run in runs if run.results is not None]
    _check_same_data(finished)
    if phase is not None and not any(run.scores(phase) for run in finished):
        there = sorted({name for run in finished for name in (run.results or {})["phases"]})
        raise UserError(f"phase: found {phase!r}, which no run has, expected one of {', '.join(there)}; correct it")
    groups: dict[str, list[Run]] = {}
    for run in runs:
        # before self-training, runs of one method are alike however far they went
        alike = phase is not None and not run.final.startswith("self_training")
        groups.setdefault(run.method if alike else run.base, []).append(run)
    rows = []
    for base, members in groups.items():
        varied = _varied(members)
        labelled: dict[str, list[Run]] = {}
        options: dict[str, dict[str, str]] = {}
        for run in members:
            known = {k: v for part in run.distinguishing if part is not None for k, v in part.items()}
            told = {name: known[name] for name in varied if name in known}
            label = ", ".join([base, *(f"T = {v}" if k == "temperature" else f"{k} {v}" for k, v in told.items())])
            labelled.setdefault(label, []).append(run)
            options[label] = told
        rows += [_row(label, base, options[label], some, phase) for label, some in labelled.items()]
    order = {name: place for place, name in enumerate(ROWS)}
    return sorted(rows, key=lambda row: (order.get(row.base, len(order)), row.base, *map(_order, row.told.values())))


def is_development(run: Run) -> bool:
    """Tell whether a run's scores are of validation images, with seen classes that play unseen ones."""
    return run.results is not None and _split(run) != run.results["split"]


def _row(label: str, base: str, told: Mapping[str, str], members: Sequence[Run], phase: str | None) -> Row:
    by_seed: dict[int | None, Run] = {}
    for run in members:
        if run.results is None:
            continue
        if (other := by_seed.get(run.seed)) is not None:
            raise UserError(
                f"{run.path}: found {label} with seed {run.seed} again, as in {other.path}, expected each seed once; "
                "leave one of the two out"
            )
        by_seed[run.seed] = run
    scored = [run for run in by_seed.values() if run.scores(phase)]
    scored.sort(key=lambda run: run.seed or 0)
    found = [run.scores(phase) or {} for run in scored]
    names = dict.fromkeys(name for scores in found for name in scores["per_class"])
    per_class = {name: _present([scores["per_class"].get(name) for scores in found]) for name in names}
    first = next((run.results for run in by_seed.values()), None)
    return Row(
        label=label,
        base=base,
        told=told,
        runs=tuple(scored),
        unfinished=tuple(run for run in members if run.results is None and run.seed not in by_seed),
        scores={name: _mean([scores[key] for scores in found]) for name, key in SUMMARY.items()},
        per_class=per_class,
        paper=published(first["dataset"], first["split"], base, told, phase) if first else None,
    )


def _mean(values: Sequence[float | None]) -> Mean | None:
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) < len(values):
        return None
    return Mean(statistics.fmean(numbers), statistics.stdev(numbers) if len(numbers) > 1 else None)


def _present(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return statistics.fmean(numbers) if numbers else None


def _varied(members: Sequence[Run]) -> list[str]:
    """Return the names of the options in which runs differ; a run whose options are not known differs in none."""
    varied = []
    for part in range(2):
        known = [options for run in members if (options := run.distinguishing[part]) is not None]
        names = dict.fromkeys(name for options in known for name in options)
        varied += [name for name in names if len({options.get(name) for options in known}) > 1]
    return varied


def _check_same_data(runs: Sequence[Run]) -> None:
    first = runs[0]
    assert first.results is not None
    of_seed: dict[int | None, Run] = {}
    for run in runs:
        assert run.results is not None
        if is_development(run) != is_development(first):
            on_validation, on_test = (run, first) if is_development(run) else (first, run)
            raise UserError(
                f"{on_validation.path}: found scores of validation images (development), but {on_test.path} has those "
                "of test images, expected one kind; make a table of each"
            )
        mine, others = ((r["dataset"], _split(owner)) for r, owner in ((run.results, run), (first.results, first)))
        if mine != others:
            raise UserError(
                f"{run.path}: found {mine[0]}, split {mine[1]}, but {first.path} has {others[0]}, split {others[1]}, "
                "expected the same; make a table of each"
            )
        # Under development each seed draws its own unseen classes.
        other = of_seed.setdefault(run.seed, run) if is_development(run) else first
        assert other.results is not None
        unseen = [r.get("unseen") for r in (run.results, other.results)]
        if run.classes != other.classes or (None not in unseen and unseen[0] != unseen[1]):
            raise UserError(
                f"{run.path}: found {len(run.classes)} classes that are not those of {other.path} in name, order or "
                "split, expected the same; make a table of each"
            )


def _split(run: Run) -> str:
    """Return the class split without the seed that a development split is drawn by."""
    return re.sub(r"-development(\d+)-\d+$", r"-development\1", (run.results or {}).get("split", ""))


def _text(value: Any) -> str:
    """Write an option; equal values give equal texts, and paths count by their last part."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return repr(float(value)).removesuffix(".0")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_text(v)}' for k, v in value.items())}}}"
    return " ".join(re.split(r"[/\\]", str(value).rstrip("/\\"))[-1].split())


def _order(text: str) -> tuple[float, str]:
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


# -- reading -----------------------------------------------------------------------------------------------------------


def _read_run(path: Path) -> Run:
    expected = "the results.json that `fit` or `test` writes"
    found = read_json(path, f"{expected}, which `sign-zs3 test` can do")
    if not isinstance(found, dict) or "format" not in found:
        raise UserError(f"{path}: found no format number, expected {expected}; leave the file out")
    if found["format"] != FORMAT:
        raise UserError(f"{path}: {other_format(found['format'], FORMAT, 'leave the file out')}")
    if fault := _fault(found):
        raise UserError(f"{path}: found {fault}, expected {expected}; write it again with `sign-zs3 test`")
    config = _read_config(path.parent)
    options = found.get("options") or (config or {}).get("model")
    return Run(path, found["method"], found["seed"], options, _surroundings(config), found)


def _fault(found: Mapping[str, Any]) -> str | None:
    """Say what is wrong with the content of a results.json."""
    for name, kind in {"dataset": str, "split": str, "method": str, "seed": int, "phases": dict, "final": str,
                       "test": dict}.items():  # fmt: skip
        if not isinstance(found.get(name), kind):
            return f"{json.dumps(found.get(name))[:40]} as {name}"
    if not isinstance(found.get("options"), (dict, type(None))):
        return "options that are no mapping"
    if not isinstance(found.get("unseen"), (list, type(None))):
        return "unseen that is no list"
    if odd := [name for name in (*found["phases"], found["final"]) if not re.fullmatch(r"\w{1,100}", name)]:
        return f"{odd[0]!r:.100} as the name of a phase"
    for where, scores in {**found["phases"], "test": found["test"]}.items():
        if not isinstance(scores, dict) or not isinstance(scores.get("per_class"), dict):
            return f"no per_class in {where}"
        numbers = {key: scores.get(key, "nothing") for key in SUMMARY.values()} | scores["per_class"]
        for name, value in numbers.items():
            if value is not None and not (isinstance(value, (int, float)) and 0 <= value <= 1):
                return f"{value!r:.100} as {name:.100} of {where} where a fraction from 0 to 1 belongs"
    return None


def _read_config(folder: Path) -> dict[str, Any] | None:
    """Read the ``config.yaml`` of a run; None where there is none of this program."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    found = read_yaml(path, "the config.yaml of a run")
    if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in ("model", "data")):
        return None
    return found


def _surroundings(config: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if config is None:
        return None
    data, trainer = config["data"].get("init_args") or {}, config.get("trainer") or {}
    return {f"data.{k}": v for k, v in data.items()} | {f"trainer.{k}": trainer.get(k) for k in _OF_TRAINER}


def _read_unfinished(folder: Path) -> Run | None:
    config = _read_config(folder)
    if config is None:
        if not (folder / "checkpoints").is_dir():
            return None  # the config.yaml of something else
        return Run(folder, str(folder), None, None, None, None)
    if "verbose" in config or "return_predictions" in config:
        return None  # `validate`, `test` and `predict` have these options, `fit` does not
    seed = config.get("seed_everything")
    seed = seed if isinstance(seed, int) and not isinstance(seed, bool) else None
    return Run(folder, str(config.get("method") or "SIGN"), seed, config["model"], _surroundings(config), None)
