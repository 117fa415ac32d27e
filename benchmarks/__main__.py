"""All figures beside their goals and the stored baseline: `make bench`.

    .venv/bin/python -m benchmarks                              # an hour on two cores
    .venv/bin/python -m benchmarks --store benchmarks/baseline.json

Ratios are of medians measured in turns in this run; they hold for the machine that they were measured on.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks import data, parts, step, threads
from benchmarks.clip import clip
from benchmarks.figures import ROOT, Figure, in_a_process, show, write


def processes(backbone: str, crop: int) -> list[Figure]:
    """Images per second of two processes of one thread each, over those of one process of two threads."""
    shared = ["--one", "train", "--iterations", "2", f"--backbone={backbone}", f"--crop={crop}", "--batch=2"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    program = ["-m", "benchmarks.step", *shared, "--devices", "2"]
    alone: list[float] = []
    together: list[float] = []
    for _ in range(2):
        alone += in_a_process("step", *shared)["seconds"]
        done = subprocess.run(
            [*launch, *program], capture_output=True, text=True, check=True, cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        together += step.seconds_in(done.stdout)
    ratio = 2 * statistics.median(alone) / statistics.median(together)
    name = f"two DDP processes / one of two threads, images per second ({backbone}, crop {crop})"
    return [Figure(name, ratio, 0.95, least=True)]


def loading(backbone: str, crop: int) -> list[Figure]:
    """Seconds in which two workers read a batch, over those of the train iteration that it feeds."""
    iteration = statistics.median(in_a_process("step", "--one", "train", "--iterations", "2", f"--backbone={backbone}",
                                               f"--crop={crop}", "--batch=2")["seconds"])  # fmt: skip
    reading = 2 * data.slowest_pipeline(workers=2)
    name = f"reading a batch with two workers / train iteration ({backbone}, crop {crop})"
    return [Figure(name, reading / iteration, 1.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet101")
    parser.add_argument("--crop", type=int, default=321)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", type=Path, help="write the figures to this file, as JSON")
    options = parser.parse_args()
    step.quiet()
    size = ["--backbone", options.backbone, "--crop", str(options.crop), "--rounds", str(options.rounds)]
    print(f"{'':74s} {'ratio':>8s} {'baseline':>8s}   goal", flush=True)
    figures = []
    for group in (*parts.GROUPS.values(), clip):
        found = group()
        show(found)
        figures += found
    figures += step.measure(step.parser().parse_args([*size, "--memory"]))
    small = ["--backbone", "resnet50", "--crop", "161", "--rounds", "2"]
    figures += step.measure(step.parser().parse_args([*small, "--kinds", "train", "channels_last", "compile"]))
    # processors without bfloat16 instructions emulate them
    smallest = ["--backbone", "resnet18", "--crop", "65", "--rounds", "2"]
    figures += step.measure(step.parser().parse_args([*smallest, "--kinds", "train", "bf16"]))
    for more in (processes, loading):
        found = more(options.backbone, options.crop)
        show(found)
        figures += found
    found = threads.measure()
    show(found)
    figures += found
    if options.store is not None:
        about = {
            "processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads(),
            "torch": torch.__version__, "cuda": torch.cuda.is_available(),
        }  # fmt: skip
        write(figures, options.store, **about)
    missed = [figure.name for figure in figures if figure.met is False]
    print(f"{len(missed)} of {sum(figure.goal is not None for figure in figures)} goals missed")


if __name__ == "__main__":
    main()
