"""The program's threads beside other choices, on an idle machine and beside one busy process: seconds and ratios.

    .venv/bin/python -m benchmarks.threads    # a quarter of an hour on two cores, with nothing else running

Whole runs of `sign-zs3 fit`, start-up included: the built-in data with its own network, and ResNet-50 at crop 161.
Goals: idle, within 1.15 of the best choice; beside one busy process, within 2 of the program's own idle time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import ROOT

NAMES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# the second is what OpenMP does by itself
CHOICES: dict[str, dict[str, str]] = {
    "program": {},
    "all threads, spinning": {"GOMP_SPINCOUNT": "300000", "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
    "all threads, passive": {"OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(os.cpu_count() or 1)},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
COMMON = ("fit", "--config", "experiments/quickstart.yaml", "--model.phases", "[train]", "--data.test_size", "20")
CASES: dict[str, tuple[str, ...]] = {
    "built-in": ("--model.train_iterations", "300"),
    "ResNet-50, crop 161": (
        *("--model.train_iterations", "8", "--model.backbone", "resnet50", "--model.dilations", "[6,12,18,24]"),
        *("--data.scene_size", "161", "--data.batch_size", "2", "--data.train_size", "16", "--data.test_size", "2"),
    ),
}


def seconds(case: tuple[str, ...], choice: dict[str, str]) -> float:
    """Run the program once; return the seconds that it took."""
    environment = {name: value for name, value in os.environ.items() if name not in NAMES} | choice
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sign_zs3", *COMMON, *case, "--trainer.default_root_dir", folder],
            check=True, cwd=ROOT, env=environment, capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - start


@contextmanager
def busy(wanted: bool) -> Iterator[None]:
    """Keep one other process busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"]) if wanted else None
    try:
        yield
    finally:
        if other is not None:
            other.kill()
            other.wait()


def main() -> None:
    """Measure all in turns and print a table a case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--choices", nargs="+", choices=list(CHOICES), default=list(CHOICES))
    options = parser.parse_args()
    for case in options.cases:
        found: dict[tuple[str, bool], list[float]] = {}
        for _ in range(options.rounds):
            for beside in (False, True):
                for name in options.choices:
                    with busy(beside):
                        found.setdefault((name, beside), []).append(seconds(CASES[case], CHOICES[name]))
        medians = {key: statistics.median(values) for key, values in found.items()}
        best = min(value for (_, beside), value in medians.items() if not beside)
        print(f"\n| {case} | idle, s | / best | beside one busy process, s | / idle |\n|---|---:|---:|---:|---:|")
        for name in options.choices:
            idle, beside_one = medians[name, False], medians[name, True]
            print(
                f"| {name} | {idle:.1f} | {idle / best:.2f} | {beside_one:.1f} | {beside_one / idle:.2f} |", flush=True
            )


if __name__ == "__main__":
    main()
