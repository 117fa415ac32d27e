"""How well classes are taught by name: `extend` against having them in the vocabulary from the start.

On the built-in data, per seed: one run with six unseen classes, and one in which two of these are left out of the
vocabulary altogether (their pixels are ignored). Both stop after the transfer step. The second is then extended by the
two names, with and without the training images, and both are tested on the same scenes. About five minutes a seed on
two cores:

    python experiments/teach.py --seeds 0 1 2 --output runs/teach
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from sign_zs3 import GZSLMeanIoU, Protocol, ShapesDataModule, ZeroShotTask, load_task
from sign_zs3.files import replacing
from sign_zs3.functional import gzsl_scores
from sign_zs3.tasks.extension import extend

UNSEEN = ["red square", "green triangle", "blue star", "yellow circle"]
TAUGHT = ["purple triangle", "blue square"]
VOCABULARIES = {"full": ["--data.unseen", f"[{','.join(UNSEEN + TAUGHT)}]"],
                "left_out": ["--data.ignored_classes", f"[{','.join(TAUGHT)}]"]}  # fmt: skip


def train(name: str, seed: int, output: Path) -> Path:
    """Run the training unless it is there; return its transferred checkpoint."""
    folder = output / name / f"seed{seed}"
    found = sorted(folder.glob("version_*/results.json"))
    if not found:
        options = ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder), *VOCABULARIES[name]]
        config = str(Path(__file__).parent / "quickstart.yaml")
        phases = ["--model.phases", "[train,generator,transfer]"]
        subprocess.run([sys.executable, "-m", "sign_zs3", "fit", "--config", config, *phases, *options], check=True)
        found = sorted(folder.glob("version_*/results.json"))
    return found[-1].parent / "checkpoints" / "transfer.ckpt"


@torch.no_grad()
def measure(model: ZeroShotTask) -> dict[str, Any]:
    """Score a model on scenes whose truth holds all classes, and the seen ones where the taught ones are ignored."""
    data = ShapesDataModule(unseen=UNSEEN + TAUGHT)
    data.setup("test")
    truth, mine = data.protocol, model.protocol
    assert mine is not None
    to_truth = torch.tensor([truth.classes.index(name) for name in mine.classes])
    metric = GZSLMeanIoU(truth.classes, truth.seen, truth.unseen)
    for batch in data.test_dataloader():
        metric.update(to_truth[model.label(batch["image"], (64, 64))], batch["mask"].long())
    scores = metric.compute()
    return {
        "seen": scores["seen_miou"],
        "seen_where_taught_is_ignored": seen_without(metric.confusion, truth),
        "taught": {name: scores["per_class"][name] for name in TAUGHT},
    }


def seen_without(confusion: torch.Tensor, protocol: Protocol) -> float:
    """Return the seen mIoU where pixels of the taught classes do not count."""
    kept = confusion.clone()
    kept[[protocol.classes.index(name) for name in TAUGHT]] = 0
    return gzsl_scores(kept, protocol.seen, protocol.unseen)["seen_miou"]


def main(args: Sequence[str] | None = None) -> None:
    """Train what is missing, extend, measure, and write ``teach.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/teach"))
    options = parser.parse_args(args)
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        full, left_out = (load_task(train(name, seed, options.output)) for name in VOCABULARIES)
        models = {"in the vocabulary from the start": (full, 0.0), "before extend": (left_out, 0.0)}
        for name, data in (("extend", None), ("extend with data", ShapesDataModule(unseen=UNSEEN + TAUGHT))):
            start = time.perf_counter()
            models[name] = (extend(left_out, TAUGHT, data=data), time.perf_counter() - start)
        for name, (model, seconds) in models.items():
            rows.setdefault(name, []).append({"seed": seed, "seconds": seconds, **measure(model)})
    with replacing(options.output / "teach.json") as beside:
        beside.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    print(f"{'mean of seeds ' + ' '.join(map(str, options.seeds)):34} {'taught':>7} {'seen':>6} {'seen*':>6} {'s':>5}")
    for name, found in rows.items():
        means = [statistics.fmean(statistics.fmean(row["taught"].values()) for row in found)]
        means += [statistics.fmean(row[key] for row in found) for key in ("seen", "seen_where_taught_is_ignored")]
        each = " ".join(f"{100 * statistics.fmean(row['taught'].values()):.1f}" for row in found)
        numbers = "{:7.1f} {:6.1f} {:6.1f}".format(*(100 * mean for mean in means))
        print(f"{name:34} {numbers} {statistics.fmean(row['seconds'] for row in found):5.1f}   taught, by seed: {each}")
    print("seen*: pixels of the taught classes do not count. Figures: mIoU in %.")


if __name__ == "__main__":
    main()
