"""The search behind the hyperparameters of the MSRC-21 rows, which looks at no test image and at no unseen class.

    .venv/bin/python experiments/search.py --data data/msrc

Each candidate is run on a cut of the *training* images: two thirds to train, one third to score, with four of the seen
classes in the unseen ones' place (each has a near relative among those that stay seen) and the true unseen classes
left out of the vocabulary, their pixels ignored. Every row has as many candidates, before and in self-training.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from fitting import finished_run
from jobs import Job, run_all

CUTS = {"a": ("tree", "bird", "chair", "car")}
IGNORED = "[horse,mountain,cow,dog,boat,bicycle]"
CANDIDATES: dict[str, list[tuple[str, str]]] = {
    "spnet": [("logit_scale", "4"), ("logit_scale", "8"), ("logit_scale", "16")],
    "zs3": [("unseen_odds", "5"), ("unseen_odds", "20"), ("unseen_odds", "60")],
    "cagnet": [("unseen_odds", "5"), ("unseen_odds", "20"), ("unseen_odds", "60")],
    "sign": [("unseen_odds", "5"), ("unseen_odds", "20"), ("unseen_odds", "60")],
}
"""Options of the runs that end with transfer (SPNet: with training)."""
SELF_TRAINING: dict[str, list[tuple[str, str]]] = {
    "spnet": [("seen_penalty", "0.25"), ("seen_penalty", "0.5"), ("seen_penalty", "1")],
    "zs3_st": [("top_fraction", "0.25"), ("top_fraction", "0.5"), ("top_fraction", "0.75")],
    "cagnet_st": [("pseudo_top_p", "1"), ("pseudo_top_p", "2"), ("pseudo_top_p", "4")],
    "sign_st": [("top_fraction", "0.25"), ("top_fraction", "0.5"), ("top_fraction", "0.75")],
    "sign_ast": [("temperature", "0.1"), ("temperature", "0.3"), ("temperature", "1")],
}
"""Options of self-training, from the transferred model with the odds of the rows; of SPNet, which the paper has without
it, of its calibration."""


def jobs() -> dict[str, Job]:
    """Return the candidates, those first from which self-training starts."""
    found = []
    for methods, base in ((CANDIDATES, None), (SELF_TRAINING, "")):
        for row, options in methods.items():
            for option, value in options:
                start = None if base is None or row == "spnet" else f"{row.split('_')[0]}-unseen_odds-20"
                job = Job(f"{row}-{option}-{value}", f"table1/msrc_{row}.yaml", start, (f"--model.{option}", value))
                found.append(job)
    return {job.name: job for job in found}


def scores(folder: Path) -> dict[str, float]:
    """Return the last scores of a run."""
    run = finished_run(folder)
    assert run is not None
    results: dict[str, Any] = json.loads((run / "results.json").read_text(encoding="utf-8"))
    return {name: 100 * results["test"][f"{name}_miou"] for name in ("seen", "unseen", "harmonic")}


def main() -> int:
    """Run all candidates and print their means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/msrc"), help="the folder of MSRC v2")
    parser.add_argument("--runs", type=Path, default=Path("runs/msrc_search"))
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time, a core each")
    options, extra = parser.parse_known_args()
    names = (options.data / "splits" / "train.txt").read_text(encoding="utf-8").split()
    order = np.random.default_rng(0).permutation(len(names)).tolist()
    options.runs.mkdir(parents=True, exist_ok=True)
    parts = {"train": order[: 2 * len(names) // 3], "cut": order[2 * len(names) // 3 :]}
    lists = {part: (options.runs / f"{part}.txt").resolve() for part in parts}
    for part, places in parts.items():
        lists[part].write_text("\n".join(names[i] for i in sorted(places)) + "\n", encoding="utf-8")
    failed = []
    for cut, unseen in CUTS.items():
        data = ["--data.root", str(options.data), "--data.unseen", f"[{','.join(unseen)}]"]
        data += ["--data.ignored_classes", IGNORED]
        data += ["--data.train_list", str(lists["train"]), "--data.test_list", str(lists["cut"])]
        failed += run_all(jobs(), [0], options.runs / cut, [*data, *extra], options.jobs)
    if failed:
        return 1
    print("\n| candidate | " + " | ".join(f"{', '.join(unseen)}" for unseen in CUTS.values()) + " | mean harmonic |")
    print("|---|" + "---|" * (len(CUTS) + 1))
    for job in jobs().values():
        found = [scores(options.runs / cut / job.name / "seed0") for cut in CUTS]
        cells = [f"{s['seen']:.1f} / {s['unseen']:.1f} / {s['harmonic']:.1f}" for s in found]
        mean = float(np.mean([s["harmonic"] for s in found]))
        print(f"| {job.name.replace('-', ' ')} | {' | '.join(cells)} | {mean:.1f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
