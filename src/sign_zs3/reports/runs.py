"""Runs read from their folders, finished or not."""

import csv
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sign_zs3.compat import current_options
from sign_zs3.errors import UserError
from sign_zs3.files import other_format, read_json, read_yaml, refusing
from sign_zs3.reports.run import FORMAT, SUMMARY, UNTRAINED, Scores

KINDS = ("train", "generator", "transfer", "self_training")
SELF_TRAINING = {"annealed": "+ AST", "probability": "+ PST", "top_fraction": "+ ST"}
# what a run read and wrote, or how fast; and what its final phase or the name of its split says already
_NOT_DISTINGUISHING = {
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
        results: The content of ``results.json``; empty for a run that did not finish.
    """

    path: Path
    method: str
    seed: int | None
    options: Mapping[str, Any] | None
    surroundings: Mapping[str, Any] | None
    results: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run wrote."""
        return self.path.parent if self.results else self.path

    @property
    def final(self) -> str:
        """The last phase: the one whose scores count, or of a run that did not finish the one it was to reach."""
        if self.results:
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
        if self.final == UNTRAINED:
            return {"value": "MaskCLIP", "correlative": "SCLIP"}.get((self.options or {}).get("dense", ""), UNTRAINED)
        usual = "train" if self.method == "SPNet" else "transfer"
        return self.method if self.final in ("", usual) else f"{self.method}, after {self.final}"

    @property
    def of_clip(self) -> bool:
        """Whether its encoder is that of a CLIP."""
        return str((self.options or {}).get("backbone")).startswith("clip/")

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, seen ones first; none for a run that did not finish."""
        return tuple(self.results["test"]["per_class"]) if self.results else ()

    @property
    def split(self) -> str:
        """The class split, without the seed that a development split is drawn by; empty for one that did not finish."""
        return re.sub(r"-development(\d+)-\d+$", r"-development\1", self.results.get("split", ""))

    @property
    def is_development(self) -> bool:
        """Whether its scores are of validation images, with seen classes that play unseen ones."""
        return bool(self.split != self.results.get("split", ""))

    @cached_property
    def distinguishing(self) -> tuple[Mapping[str, str] | None, Mapping[str, str] | None]:
        """What may distinguish it from others of its row, as strings: hyperparameters; options of data and trainer."""
        left_out = set(_NOT_DISTINGUISHING)
        if not self.final.startswith("self_training"):
            left_out |= _OF_SELF_TRAINING
        rule = (self.options or {}).get("self_training")
        left_out |= {
            name for name, used in (("temperature", "annealed"), ("top_fraction", "top_fraction")) if rule != used
        }
        # null, of a run that did not finish: those that its backbone has
        left_out |= {name for name in ("image_mean", "image_std") if (self.options or {}).get(name) is None}
        first, second = (
            None if known is None else {k: _text(v) for k, v in known.items() if k not in left_out}
            for known in (self.options, self.surroundings)
        )
        return first, second

    def scores(self, phase: str | None = None) -> Scores | None:
        """Return the scores after a phase, None for the final one; None where the run has none."""
        found: Scores | None = self.results.get("test") if phase is None else self.results.get("phases", {}).get(phase)
        if found is not None and found["harmonic_miou"] == 0 and None in (found["seen_miou"], found["unseen_miou"]):
            # as older files have it
            found = {**found, "harmonic_miou": None}
        return found


def collect(paths: Iterable[str | Path]) -> list[Run]:
    """Read runs, each once, from files ``results.json``, folders of runs, or folders above them.

    A folder with ``config.yaml`` or ``checkpoints`` and no ``results.json`` is a run that did not finish, unless it is
    one of `validate`, `test` or `predict`.

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
    return Run(path, found["method"], found["seed"], options and current_options(options), _surroundings(config), found)


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
        # without checkpoints, the config.yaml of something else
        return Run(folder, str(folder), None, None, None, {}) if (folder / "checkpoints").is_dir() else None
    if "verbose" in config or "return_predictions" in config:
        return None  # `validate`, `test` and `predict` have these options, `fit` does not
    method, given = str(config.get("method") or "SIGN"), config.get("seed_everything")
    seed = given if type(given) is int else None
    return Run(folder, method, seed, current_options(config["model"]), _surroundings(config), {})


def read_losses(run: Run) -> dict[str, list[tuple[float, float]]]:
    """Read the training losses of a run: name -> (iteration, value, NaN where it has none); {} without metrics.csv."""
    path = run.folder / "metrics.csv"
    if not path.is_file():
        return {}
    losses: dict[str, list[tuple[float, float]]] = {}
    before: dict[str, str] = {}
    with refusing(f"{path}: cannot be read", ", expected the metrics.csv of a run; remove or mend it"):
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
    return losses


def _text(value: Any) -> str:
    """Write an option as a string; equal values give equal strings, and paths count by their last part."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, (int, float)):
        return repr(float(value)).removesuffix(".0")
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{k}: {_text(v)}' for k, v in value.items())}}}"
    return " ".join(re.split(r"[/\\]", str(value).rstrip("/\\"))[-1].split())
