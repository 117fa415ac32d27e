"""The paper's tables at the scale of a laptop, on MSRC-21 or thirteen classes of VOC, run and collected.

    .venv/bin/python experiments/tables.py table1 --data data/msrc
    .venv/bin/python experiments/tables.py table1 --dataset voc13 --data data --model.vectors vectors/voc.npz
    .venv/bin/python experiments/tables.py ablations --data data/msrc

and `ablations` with the options of the second line.

Each run is a row's YAML and a seed, in a process of its own with one thread, two at a time. Rows with self-training
start from the transferred model of their method and seed, so that they are paired. What is there is not run again:
delete its folder after a change of the settings.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from jobs import HERE, ROWS, Job, run_all, table_1
from paired import paired

from sign_zs3.commands.results import run as collect

ENCODINGS = ("conv", "attention", "self_attention")
POSITIONS = ("none", "absolute", "interpolated")
WHOLE = ("none", "absolute")
TEMPERATURES = ("0.1", "1", "2", "8")
DATASETS = {"msrc": "splits/train.txt", "voc13": "VOCdevkit/VOC2012/SegmentationClassAug"}
"""Each with what its folder holds."""


def jobs_of(table: str, dataset: str = "msrc") -> dict[str, Job]:
    """Return the rows that a table needs, those first that others start from."""
    row, rows = f"table1/{dataset}_", table_1(dataset)
    # on VOC, rules and temperatures are compared on cuts: `rules.py`
    with_rules = table == "table1" or dataset == "msrc"
    jobs = [job for job in rows.values() if table == "table1" or job.name == "sign"]
    if table == "ablations" and with_rules:
        jobs += [rows["sign_ast"]]
    if with_rules:
        # annealing is to be judged against every pseudo-label at weight 1, and the rule without a setting
        uniform = ("--model.self_training", "top_fraction", "--model.top_fraction", "1")
        jobs += [Job("sign_uniform", f"{row}sign_st.yaml", "sign", uniform)]
        jobs += [Job("sign_pst", f"{row}sign_ast.yaml", "sign", ("--model.self_training", "probability"))]
    if table == "ablations":
        # what makes a row of MSRC-21 one of VOC
        part = ("--config", str(HERE / "parts" / "voc13.yaml")) if dataset == "voc13" else ()
        jobs += [Job(name, f"table2/msrc_{name}.yaml", None, part) for name in ENCODINGS]
        sizes = {"interpolated": ("--model.train_size", "[13,13]")} if dataset == "voc13" else {}  # crops of 192
        jobs += [
            Job(f"position_{name}", f"table3/msrc_{name}.yaml", None, (*part, *sizes.get(name, ())))
            for name in POSITIONS
        ]
        jobs += [Job("without", "table4/msrc_without.yaml", None, part)]
    if table == "ablations" and with_rules:
        temperature = "--model.temperature"
        jobs += [Job(f"temperature_{t}", f"{row}sign_ast.yaml", "sign", (temperature, t)) for t in TEMPERATURES]
        # positions once more, where training, like testing, is on whole images, so that interpolated ones are absolute
        whole = ("--data.crop_size", "256")
        jobs += [Job("whole_relative", f"{row}sign.yaml", None, whole)]
        jobs += [Job(f"whole_{name}", f"table3/msrc_{name}.yaml", None, whole) for name in WHOLE]
    return {job.name: job for job in jobs}


def main() -> int:
    """Run a table and collect it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=["table1", "ablations"])
    parser.add_argument("--dataset", choices=[*DATASETS], default="msrc")
    parser.add_argument("--data", type=Path, help="the folder of MSRC v2, or the one that holds VOCdevkit")
    parser.add_argument("--runs", type=Path, help="default: runs/DATASET")
    parser.add_argument("--output", type=Path, help="default: docs/results/DATASET")
    parser.add_argument("--seeds", type=int, nargs="+", help="default: 0 1 2 for Table 1, 0 to 4 for the others")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each")
    options, extra = parser.parse_known_args()
    options.seeds = options.seeds or list(range(3 if options.table == "table1" else 5))
    options.data = options.data or Path("data", *(["msrc"] if options.dataset == "msrc" else []))
    options.runs = options.runs or Path("runs") / options.dataset
    options.output = options.output or Path("docs", "results") / options.dataset
    if not (inside := options.data / DATASETS[options.dataset]).exists():
        print(f"error: {inside}: not found, expected the data of {options.dataset}: see --data", file=sys.stderr)
        return 1
    extra = ["--data.root", str(options.data), *extra]
    errors = run_all(jobs_of(options.table, options.dataset), options.seeds, options.runs, extra, options.jobs)

    def table(name: str, reference: str, rows: Sequence[str], *more: str) -> None:
        # only the seeds that were asked for, so that rows are compared seed by seed
        folders = [options.runs / row / f"seed{seed}" for row in rows for seed in options.seeds]
        output = options.output / name
        collect([*map(str, filter(Path.is_dir, folders)), "--output", str(output), *more])
        text = paired(output / ("runs-train.csv" if "--phase" in more else "runs.csv"), reference)
        (output / "paired.md").write_text(text, encoding="utf-8")
        print(text)

    if options.table == "table1":
        table("table1", "SIGN + AST", [*ROWS, "sign_uniform", "sign_pst"], "--panels", "6")
    else:
        table("table2", "SIGN, encoding multihead", ["sign", *ENCODINGS])
        table("table3", "SIGN, position relative", ["sign", *(f"position_{name}" for name in POSITIONS)])
        without = ["sign", "without", *ENCODINGS]
        table("table4", "SIGN, feature_dim 128, encoding multihead", without, "--phase", "train")
    if options.table == "ablations" and options.dataset == "msrc":
        table("whole", "SIGN, position relative", ["whole_relative", *(f"whole_{name}" for name in WHOLE)])
        temperatures = [f"temperature_{t}" for t in TEMPERATURES]
        table("figure5", "SIGN + AST, T = 0.3", ["sign_ast", "sign_uniform", *temperatures])
        table("rules", "SIGN + PST", ["sign", "sign_uniform", "sign_ast", "sign_pst"])
    return int(len(errors) > 0)


if __name__ == "__main__":
    sys.exit(main())
