"""Whether `bf16-mixed` trains as well as float32: paired runs of the built-in data, a seed at a time.

Both runs of a seed start from the same weights and read the same crops. Printed are the scores after each phase, and
whether the means differ by less than the standard deviation over the seeds. Scenes are 32 pixels a side and the
phases short, since a processor without bfloat16 instructions takes some ten times as long (about 10 minutes a seed on
one core without them, 2 with); `--full` is the demo as it is, for a GPU or a processor that has them. What is there is
not run again.

    .venv/bin/python experiments/precision.py --seeds 0 1 2 3 4
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from fitting import fit_unless_done

CONFIG = Path(__file__).parent / "quickstart.yaml"
PRECISIONS = ("32-true", "bf16-mixed")
PHASES = ("train", "transfer", "self_training")
SCORES = ("seen_miou", "unseen_miou", "harmonic_miou")
SHORT = [
    *("--data.scene_size", "32", "--data.test_size", "200", "--model.train_iterations", "600"),
    *("--model.generator_iterations", "100", "--model.transfer_iterations", "100"),
    *("--model.self_training_iterations", "80"),
]


def run(folder: Path, seed: int, precision: str, options: list[str]) -> dict[str, Any]:
    """Fit, or read what an earlier run left."""
    folder = folder / f"{precision}-seed{seed}"
    arguments = ["--config", str(CONFIG), "--seed_everything", str(seed), "--trainer.precision", precision, *options]
    done = fit_unless_done(folder, arguments)
    found: dict[str, Any] = json.loads((done / "results.json").read_text(encoding="utf-8"))["phases"]
    return found


def main() -> None:
    """Run all pairs and print means, spreads and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--folder", type=Path, default=Path("runs/precision"))
    parser.add_argument("--full", action="store_true", help="the demo's own scenes and lengths")
    given = parser.parse_args()
    runs = [
        {precision: run(given.folder, seed, precision, [] if given.full else SHORT) for precision in PRECISIONS}
        for seed in given.seeds
    ]
    print(
        f"\nmean (standard deviation) of {len(runs)} seeds, mIoU in %; difference: mean (standard deviation) of pairs\n"
    )
    print("| after | score | float32 | bf16-mixed | difference | within the spread |\n|---|---|---|---|---|---|")
    for phase in PHASES:
        for score in SCORES:
            if phase == "train" and score != "seen_miou":
                continue
            single, half = ([100 * pair[precision][phase][score] for pair in runs] for precision in PRECISIONS)
            cells = [single, half, [h - s for s, h in zip(single, half, strict=True)]]
            spread = [statistics.stdev(cell) if len(cell) > 1 else 0.0 for cell in cells]
            shown = [f"{statistics.mean(c):.1f} ({s:.1f})" for c, s in zip(cells, spread, strict=True)]
            within = abs(statistics.mean(cells[2])) < min(spread[:2])
            print(f"| {phase} | {score} | {' | '.join(shown)} | {'yes' if within else 'no'} |")


if __name__ == "__main__":
    main()
