"""How the program's threads wait, beside other ways: on an idle machine, and beside one busy process.

    .venv/bin/python -m benchmarks.threads    # twenty minutes on two cores, with nothing else running

Whole runs of `sign-zs3 fit`, start-up included: the built-in data with its own network, and ResNet-50 at crop 161.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.figures import ROOT, Figure, show

WAYS: dict[str, dict[str, str]] = {
    "spinning, as OpenMP has it": {"GOMP_SPINCOUNT": "300000"},
    "asleep at once": {"OMP_WAIT_POLICY": "PASSIVE"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
"""Environments beside that of the program, which has none of these variables."""
COMMON = ("fit", "--config", "experiments/quickstart.yaml", "--model.phases", "[train]", "--data.test_size", "20")
CASES: dict[str, tuple[str, ...]] = {
    "built-in data": ("--model.train_iterations", "300"),
    "ResNet-50, crop 161": (
        *("--model.train_iterations", "8", "--model.backbone", "resnet50", "--model.dilations", "[6,12,18,24]"),
        *("--data.scene_size", "161", "--data.batch_size", "2", "--data.train_size", "16", "--data.test_size", "2"),
    ),
}


def seconds(case: tuple[str, ...], way: dict[str, str]) -> float:
    """Run the program once; return the seconds that it took."""
    ours = {"OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    environment = {name: value for name, value in os.environ.items() if name not in ours} | way
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "sign_zs3", *COMMON, *case, "--trainer.default_root_dir", folder],
            check=True, cwd=ROOT, env=environment, capture_output=True,
        )  # fmt: skip
        return time.perf_counter() - start


@contextmanager
def one_busy_process() -> Iterator[None]:
    """Keep a core busy."""
    other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        other.kill()
        other.wait()


def measure() -> list[Figure]:
    """Return the four figures: for each case the idle time over the best way's, and the time beside a busy process."""
    figures = []
    for case, options in CASES.items():
        idle = seconds(options, {})
        print(f"{case}: {idle:.0f} s", flush=True)
        others = {}
        for name, way in WAYS.items():
            others[name] = seconds(options, way)
            print(f"{case}, {name}: {others[name]:.0f} s", flush=True)
        with one_busy_process():
            beside = seconds(options, {})
        figures += [
            Figure(f"threads: program / the best way ({case})", idle / min(idle, *others.values()), 1.15),
            Figure(f"threads: beside one busy process / idle ({case})", beside / idle, 2.0),
        ]
    return figures


if __name__ == "__main__":
    show(measure())
