"""The rule without a setting and the rows' annealing on ten sets of unseen classes of MSRC-21 that nobody tuned on.

    .venv/bin/python experiments/sets.py --data.root data/msrc

The sets are drawn by a generator with seed 0: four of the 21 classes each, so that some are easy and some hopeless.
Both kinds of self-training start from the transferred model of their set. The rule is also scored with images read
mirrored and at three scales, and with a larger encoder and larger images; both were chosen on cuts of the training
images. Further options are those of `fit`. A run that is there is not made again.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fitting import finished_run, scores_of
from jobs import HERE, Job, run_all

CLASSES = (
    "building", "grass", "tree", "cow", "sheep", "sky", "aeroplane", "water", "face", "car", "bicycle", "flower",
    "sign", "bird", "book", "chair", "road", "cat", "dog", "body", "boat",
)  # fmt: skip
RULES = {"annealed": ("--model.temperature", "0.3"), "probability": ()}
LARGER = ("--model.backbone", "timm/tf_efficientnet_lite2", "--data.warp_size", "384", "--data.crop_size", "224")
VIEWS: dict[str, Any] = {"flip": True, "scales": [0.75, 1.0, 1.5]}
SCORES = ("seen_miou", "unseen_miou", "harmonic_miou")


def drawn_sets(count: int = 10) -> list[list[str]]:
    """Return the sets of unseen classes."""
    rng = np.random.default_rng(0)
    return [[CLASSES[i] for i in sorted(rng.choice(len(CLASSES), 4, replace=False))] for _ in range(count)]


def jobs_of(sets: list[list[str]]) -> dict[str, Job]:
    """Return a run up to the transfer step for each set, and one for each rule."""
    jobs = {}
    for number, names in enumerate(sets):
        unseen, base = ("--data.unseen", f"[{','.join(names)}]"), f"{number}_transfer"
        jobs[base] = Job(base, "table1/msrc_sign.yaml", None, unseen)
        for rule, options in RULES.items():
            given = (*unseen, "--model.self_training", rule, *options)
            jobs[f"{number}_{rule}"] = Job(f"{number}_{rule}", "table1/msrc_sign_ast.yaml", base, given)
        larger = (*unseen, "--model.self_training", "probability", *LARGER)
        jobs[f"{number}_larger"] = Job(f"{number}_larger", "table1/msrc_sign_ast.yaml", None, larger)
    return jobs


def table(sets: list[list[str]], runs: Path) -> str:
    """Return the scores of each set, seen / unseen / harmonic mIoU in %, and the gains over annealing."""
    lines = [
        "| unseen | transfer | annealed | PST | gain, harmonic | PST, all views | gain | PST, Lite2, 384 | gain |",
        "|---|---|---|---|---:|---|---:|---|---:|",
    ]
    gains: list[list[float]] = []
    for number, names in enumerate(sets):
        found = []
        for kind in ("transfer", *RULES, "larger"):
            run = finished_run(runs / f"{number}_{kind}" / "seed0")
            if run is None:
                raise FileNotFoundError(f"{number}_{kind} is not there")
            scores = json.loads((run / "results.json").read_text(encoding="utf-8"))["test"]
            found.append([100 * scores[key] for key in SCORES])
            if kind == "probability":
                found.append(scores_of(run, **VIEWS))
        gains.append([row[2] - found[1][2] for row in found[2:]])
        cells = [" / ".join(f"{score:.1f}" for score in row) for row in found]
        pairs = (f"{cell} | {gain:+.1f}" for cell, gain in zip(cells[2:], gains[-1], strict=True))
        lines.append(f"| {' | '.join([', '.join(names), *cells[:2], *pairs])} |")
        print(lines[-1], flush=True)
    means = (f"{statistics.fmean(each):+.1f} ({statistics.stdev(each):.1f})" for each in zip(*gains, strict=True))
    return "\n".join([*lines, f"| mean (standard deviation) | | | | {' | | '.join(means)} |"]) + "\n"


def main() -> int:
    """Run what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs/sets"))
    parser.add_argument("--output", type=Path, default=HERE.parent / "docs" / "results" / "msrc" / "sets.md")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each")
    options, extra = parser.parse_known_args()
    sets = drawn_sets()
    errors = run_all(jobs_of(sets), [0], options.runs, extra, options.jobs)
    if errors:
        return 1
    text = table(sets, options.runs)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(text, encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
