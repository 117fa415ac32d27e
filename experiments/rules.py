"""Rules for pseudo-labels compared without a test image or an unseen class, on cuts of the training images.

    .venv/bin/python experiments/rules.py shapes
    .venv/bin/python experiments/rules.py msrc --data.root data/msrc
    .venv/bin/python experiments/rules.py voc13 --data.root data --model.vectors vectors/voc.npz

A seed is a cut: a third of the training images to score, and some seen classes, drawn by it, in the unseen ones' place
(``--data.development``). Each rule starts from the transferred model of its cut. Further options are those of `fit`.
What is there is not run again.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from jobs import Job, run_all
from paired import paired

from sign_zs3.commands.results import run as collect

ROWS = {"shapes": "quickstart.yaml", "msrc": "table1/msrc_sign_ast.yaml", "voc13": "table1/voc13_sign_ast.yaml"}
UNSEEN = {"shapes": 4, "msrc": 4, "voc13": 2}
CUT = {
    "shapes": ("--data.val_size", "500", "--model.feature_cache", "null"),
    "msrc": ("--data.val_fraction", "0.33"),
    "voc13": ("--data.val_fraction", "0.33"),
}
TEMPERATURES = ("0.1", "0.3", "1", "2")
FRACTIONS = ("0.25", "0.5", "0.75", "1")


def jobs_of(dataset: str) -> dict[str, Job]:
    """Return the run up to the transfer step, and one for each rule."""
    config = ROWS[dataset]
    base = Job("transfer", config, None, ("--model.phases", "[train,generator,transfer]"))
    rules: dict[str, tuple[str, ...]] = {"probability": ("--model.self_training", "probability")}
    for t in TEMPERATURES:
        rules[f"annealed_{t}"] = ("--model.self_training", "annealed", "--model.temperature", t)
    for share in FRACTIONS:
        rules[f"top_{share}"] = ("--model.self_training", "top_fraction", "--model.top_fraction", share)
    return {
        job.name: job for job in [base, *(Job(name, config, "transfer", options) for name, options in rules.items())]
    }


def main() -> int:
    """Run the rules on a data set, and print their means and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*ROWS])
    parser.add_argument("--runs", type=Path, default=Path("runs/rules"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/rules"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(5)), help="one cut each")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each")
    options, extra = parser.parse_known_args()
    runs, output = options.runs / options.dataset, options.output / options.dataset
    jobs = jobs_of(options.dataset)
    extra = ["--data.development", str(UNSEEN[options.dataset]), *CUT[options.dataset], *extra]
    errors = run_all(jobs, options.seeds, runs, extra, options.jobs)
    folders = [runs / name / f"seed{seed}" for name in jobs for seed in options.seeds]
    collect([*map(str, filter(Path.is_dir, folders)), "--output", str(output)])
    text = paired(output / "runs.csv", "SIGN + PST")
    (output / "paired.md").write_text(text, encoding="utf-8")
    print(text)
    return int(len(errors) > 0)


if __name__ == "__main__":
    sys.exit(main())
