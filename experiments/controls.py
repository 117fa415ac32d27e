"""The demo over several seeds, with its controls.

    .venv/bin/python experiments/controls.py --seeds 0 1 2

Beside the demo itself, from the same transferred model: annealing at the paper's temperature, and self-training on
the most confident 25, 75 and 100 % of the pseudo-labels instead of annealing (100 % is every ignored pixel with weight
1); and, from the same trained encoder, all later phases with the class vectors dealt out to the wrong classes, which
leaves unseen classes to chance. What is there is not run again.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from fitting import fit_unless_done

from sign_zs3 import ClassTable, Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY

CONFIG = Path(__file__).parent / "quickstart.yaml"
SCORES = ("seen_miou", "unseen_miou", "harmonic_miou")


def run(folder: Path, seed: int, *options: str) -> dict[str, Any]:
    """Fit with these options, or read what an earlier run left."""
    done = fit_unless_done(folder, ["--config", str(CONFIG), "--seed_everything", str(seed), *options])
    found: dict[str, Any] = json.loads((done / "results.json").read_text(encoding="utf-8"))
    return found


def shuffled(train: Path, folder: Path, seed: int) -> list[str]:
    """Write the trained model with its class vectors dealt to other classes, and the table that says so."""
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = torch.load(train, map_location="cpu", weights_only=True)
    protocol: dict[str, Any] = checkpoint[CHECKPOINT_KEY]["protocol"]
    names = Protocol(**protocol).classes
    order = torch.randperm(len(names), generator=torch.Generator().manual_seed(seed))
    vectors = checkpoint["state_dict"]["class_vectors"][order]
    checkpoint["state_dict"]["class_vectors"] = vectors
    torch.save(checkpoint, folder / "train.ckpt")
    ClassTable(names, {"shuffled": vectors.numpy()}).save(folder / "shuffled.safetensors")
    return [
        *("--model.vectors", str(folder / "shuffled.safetensors"), "--model.center_vectors", "false"),
        *("--model.init_from", str(folder / "train.ckpt"), "--model.phases", "[generator,transfer,self_training]"),
    ]


def main() -> None:
    """Run all seeds and print the means."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--folder", type=Path, default=Path("runs/controls"))
    options = parser.parse_args()
    rows: dict[str, list[dict[str, float]]] = {}
    for seed in options.seeds:
        root = options.folder / f"seed{seed}"
        demo = run(root / "demo", seed)
        rows.setdefault("after training", []).append(demo["phases"]["train"])
        rows.setdefault("after transfer", []).append(demo["phases"]["transfer"])
        rows.setdefault("annealed, T = 0.2", []).append(demo["test"])
        checkpoints = fit_unless_done(root / "demo", []) / "checkpoints"
        again = ["--model.init_from", str(checkpoints / "transfer.ckpt"), "--model.phases", "[self_training]"]
        paper = run(root / "T2", seed, *again, "--model.temperature", "2")
        rows.setdefault("annealed, T = 2 (the paper's)", []).append(paper["test"])
        for fraction in ("0.25", "0.75", "1.0"):
            top = run(
                root / f"top{fraction}", seed, *again,
                *("--model.self_training", "top_fraction", "--model.top_fraction", fraction),
            )  # fmt: skip
            rows.setdefault(f"top fraction {fraction}", []).append(top["test"])
        wrong = run(root / "shuffled", seed, *shuffled(checkpoints / "train.ckpt", root / "shuffled", seed))
        rows.setdefault("shuffled vectors, after transfer", []).append(wrong["phases"]["transfer"])
        rows.setdefault("shuffled vectors, annealed", []).append(wrong["test"])
    print(f"\n| mean (standard deviation) of {len(options.seeds)} seeds, % | seen | unseen | harmonic |")
    print("|---|---|---|---|")
    for name, scores in rows.items():
        columns = [[100 * score[key] for score in scores] for key in SCORES]
        cells = [f"{statistics.mean(c):.1f} ({statistics.stdev(c) if len(c) > 1 else 0:.1f})" for c in columns]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
