"""Tables of results as Markdown, from the CSV files that `sign-zs3 results` writes and the files of the experiments."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks import device, gpu

from docs.options import escape, table
from sign_zs3.files import read_yaml
from sign_zs3.tasks import METHODS

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"
SIDES = ("seen", "unseen", "harmonic")
Line = Mapping[str, str]


def read_lines(path: Path) -> list[dict[str, str]]:
    """Read a CSV file as a dict per line."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def scores_table(path: Path) -> str:
    """Return the table of a ``table.csv``: mIoU in %, mean and standard deviation, the best mean of each column bold.

    A column that is 0 in all rows, as unseen classes are before the transfer step, is left out.
    """
    lines = read_lines(path)
    sides = [side for side in SIDES if any(float(line[f"{side}_mean"] or 0) for line in lines)]
    with_paper = any(line[f"paper_{side}"] for line in lines for side in SIDES)
    rows = [[escape(line["method"]), line["seeds"], *(_score(line, side, lines) for side in sides)] for line in lines]
    if with_paper:
        rows = [[*row, _paper(line)] for row, line in zip(rows, lines, strict=True)]
    return table(["method", "seeds", *sides, *(["the paper"] if with_paper else [])], rows)


def _score(line: Line, side: str, lines: Iterable[Line] = ()) -> str:
    mean, deviation = line[f"{side}_mean"], line[f"{side}_sd"]
    if not float(mean or 0):
        return "-"
    cell = f"{100 * float(mean):.2f}" + (f"\u00a0±\u00a0{100 * float(deviation):.2f}" if deviation else "")
    best = max((float(other[f"{side}_mean"] or 0) for other in lines), default=None)
    return f"**{cell}**" if best == float(mean) else cell


def _paper(line: Line) -> str:
    return _numbers([100 * float(number) if (number := line[f"paper_{side}"]) else None for side in SIDES])


def _numbers(numbers: Iterable[float | None]) -> str:
    return " / ".join("-" if number is None else f"{number:.2f}" for number in numbers)


def experiments_tables() -> dict[str, str]:
    """Return a row for each experiment's file, in two tables: ``here`` of those with a stored score, and ``paper``."""
    measured = _measured()
    rows: dict[str, list[list[str]]] = {"here": [], "paper": []}
    folders = ("*.yaml", "table*/*.yaml", "clip/*.yaml", "released/*.yaml")
    for path in itertools.chain(*(sorted(EXPERIMENTS.glob(folder)) for folder in folders)):
        comment, settings = _comment(path), _settings(path)
        what = f"`{path.relative_to(EXPERIMENTS)}`<br>{escape(re.split(r'[.](?: |$)', comment)[0])}"
        # the weights of released files, and CLIP's, are tested as they are
        untrained = path.parent.name == "released" or path.stem.endswith("maskclip")
        row = [what, "" if untrained else _length(settings)]
        line = measured.get((path.parent.name, *Path(settings["trainer"]["default_root_dir"]).parts[-2:]))
        paper = re.search(r"The paper: (.+?)\.(?: |$)", comment)
        if line:
            rows["here"].append([*row, *(_score(line, side) for side in SIDES), line["seeds"]])
        else:
            rows["paper"].append(
                [*row, re.sub(r"^seen (.+), unseen (.+), harmonic", r"\1 / \2 /", paper[1]) if paper else ""]
            )
    start = ["file, and what it is", "iterations"]
    return {
        "here": table([*start, *SIDES, "seeds"], rows["here"]),
        "paper": table([*start, "the paper: seen / unseen / harmonic"], rows["paper"]),
    }


def _comment(path: Path) -> str:
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return " ".join(line.removeprefix("#").strip() for line in lines)


def _settings(path: Path) -> dict[str, dict[str, Any]]:
    """Return model and trainer of a configuration with those that it includes, the method among the model's."""
    content = read_yaml(path, "a configuration")
    include = content.pop("include", [])
    merged: dict[str, dict[str, Any]] = {"model": {}, "trainer": {}}
    for other in [include] if isinstance(include, str) else include:
        for section, values in _settings(path.parent / other).items():
            merged[section] |= values
    for section in merged:
        merged[section] |= content.get(section, {})
    if "method" in content:
        merged["model"]["method"] = content["method"]
    return merged


def _length(settings: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the lengths of the phases, such as ``300 + 300 + 150 + 2 x 150``."""
    kind = METHODS[settings["model"].get("method", "SIGN")]
    options = {**kind.defaults(), **settings["model"]}
    lengths = [options.get(f"{phase}_iterations", 0) for phase in ("train", "generator", "transfer")]
    parts = [f"{length:,}" for length in lengths if length]
    if options["self_training"] != "none":
        rounds = f"{options['rounds']} x " if options["rounds"] > 1 else ""
        parts.append(f"{rounds}{options['self_training_iterations']:,}")
    return " + ".join(parts)


def _measured() -> dict[tuple[str, ...], Line]:
    """Return the lines of the stored tables by folder of experiments and of runs; Table 1's for experiments of none."""
    found: dict[tuple[str, ...], Line] = {}
    for path in sorted((ROOT / "docs" / "results").rglob("runs*.csv")):
        scores = {line["method"]: line for line in read_lines(path.with_name(path.name.replace("runs", "table")))}
        for run in read_lines(path):
            for place in [path.parent.name, *(["experiments"] if path.parent.name == "table1" else [])]:
                found[(place, *Path(run["path"]).parts[-5:-3])] = scores[run["method"]]
    return found


def figures_table(path: Path) -> str:
    """Return the figures of a stored benchmark beside their goals; a line where it never ran."""
    if not path.exists():
        return "Not measured: no GPU was there.\n"
    rows = []
    for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]:
        goal: Any = figure["goal"]
        rows.append([escape(figure["name"]), _short(figure["value"]),
                     "" if goal is None else f"{'at least' if figure['least'] else 'at most'} {goal:g}"])  # fmt: skip
    return table(["figure", "measured", "goal"], rows)


def devices_table(folder: Path) -> str:
    """Return the figures of `benchmarks.gpu` by device, from the files in the folder of benchmarks.

    What was measured on a processor, on a GPU and what was counted stand in columns of their own.

    Raises:
        ValueError: ``gpu.json`` was not measured on a GPU, or not at full size.
    """
    stored = {name: json.loads(path.read_text(encoding="utf-8")) if (path := folder / f"{name}.json").exists() else None
              for name in ("baseline", "gpu", "paper")}  # fmt: skip
    about = stored["gpu"]["about"] if stored["gpu"] else None
    full = {"device": "cuda", "backbone": device.FULL.backbone, "crop": device.FULL.crop, "batch": device.FULL.batch}
    if about and (of := {name: {**about, **about["size"]}[name] for name in full}) != full:
        raise ValueError(f"{folder / 'gpu.json'}: found a run of {of}, expected {full}: run make bench-gpu on a GPU")
    values = {name: {figure["name"]: figure["value"] for figure in content["figures"]} if content else {}
              for name, content in stored.items()}  # fmt: skip
    rows = []
    for row in gpu.rows():
        of_processor = _cell(values["baseline"], row.processor)
        if row.processor in values["baseline"] and (size := re.search(r"\((.+)\)$", row.processor or "")):
            of_processor += f" ({size[1]})"
        measured = "" if row.counted else _cell(values["gpu"], row.name, "not measured")
        goal = "" if row.goal is None else f"{'at least' if row.least else 'at most'} {row.goal:g}"
        rows.append([escape(row.name), escape(of_processor), measured, _cell(values["paper"], row.name), goal])
    on = f"{about['name']}, driver {about['driver']}, torch {about['torch']}" if about else "`make bench-gpu`"
    return table(["figure", "processor", f"GPU, measured: {on}", "GPU, on paper", "goal on a GPU"], rows)


def _cell(values: Mapping[str, float], name: str | None, instead: str = "") -> str:
    return instead if name is None or name not in values else _short(values[name])


def _short(value: float) -> str:
    return f"{value:.2f}" if value >= 0.1 else f"{value:.1g}"
