"""How much to take from the scores of seen classes (calibrated stacking): chosen on cuts, then looked at on a test.

    .venv/bin/python experiments/calibration.py runs/rules/msrc/probability/seed*/version_0 \
        --then runs/msrc/sign_pst/seed*/version_0

The first runs are those of `rules.py`: each scores the images of its cut with each penalty, and the one with the best
mean of the harmonic mIoU is chosen. Those after ``--then``, of the same row, are scored with it and with none, on their
test images.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from fitting import scores_of

PENALTIES = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)


def score(run: Path, penalties: Sequence[float], checkpoint: str) -> torch.Tensor:
    """Return seen, unseen and harmonic mIoU in % at each penalty, (penalties, 3)."""
    return torch.tensor([scores_of(run, checkpoint, seen_penalty=penalty) for penalty in penalties])


def main() -> None:
    """Print the table of the cuts, and what the penalty that they choose does elsewhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--then", type=Path, nargs="+", default=[])
    parser.add_argument("--penalties", type=float, nargs="+", default=PENALTIES)
    parser.add_argument("--checkpoint", default="last", help="of the phase whose end is looked at (default: last)")
    options = parser.parse_args()
    found = torch.stack([score(run, options.penalties, options.checkpoint) for run in options.runs]).mean(0)
    if not bool(found.isfinite().all()):
        raise SystemExit("found a run whose images show no seen or no unseen class, expected both in each")
    print("| penalty | seen | unseen | harmonic |\n|---:|---:|---:|---:|")
    for penalty, row in zip(options.penalties, found.tolist(), strict=True):
        print(f"| {penalty:g} | {' | '.join(f'{x:.1f}' for x in row)} |")
    chosen = options.penalties[int(found[:, 2].argmax())]
    edge = " (at the edge of what was tried)" if chosen in (min(options.penalties), max(options.penalties)) else ""
    print(f"chosen: {chosen:g}{edge}")
    if options.then:
        both = torch.stack([score(run, (0.0, chosen), options.checkpoint) for run in options.then])
        for name, row in zip(("without", f"with {chosen:g}"), both.mean(0).tolist(), strict=True):
            print(f"{name}: {' / '.join(f'{x:.1f}' for x in row)}")
        gain = both[:, 1, 2] - both[:, 0, 2]
        print(f"gain of each run, harmonic: {', '.join(f'{x:+.1f}' for x in gain.tolist())}")


if __name__ == "__main__":
    main()
