"""Which operations each phase's iteration spends its time in, by torch.profiler.

.venv/bin/python -m benchmarks.phases --backbone resnet101 --crop 321
"""

from __future__ import annotations

import argparse
from typing import Any

import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.step import GOALS, fit, parser, quiet, skipped

TOP = 8


class Profile(pl.Callback):
    """The operations of the last of a few iterations."""

    def __init__(self, last: int, shapes: bool) -> None:
        self.last = last
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
        self.profile = profile(activities=activities, record_shapes=shapes)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, index: int) -> None:
        if index == self.last:
            self.profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, index: int
    ) -> None:
        if index == self.last:
            self.profile.stop()


def top(kind: str, options: argparse.Namespace) -> list[tuple[str, float, int]]:
    """The operations with the most time of their own: name, share of the iteration, calls."""
    watch = Profile(skipped(kind, options) + options.iterations - 1, options.shapes)
    fit(kind, options, watch)
    events = watch.profile.key_averages(group_by_input_shape=options.shapes)
    own = "self_cpu_time_total" if options.device == "cpu" else "self_device_time_total"
    total = sum(getattr(event, own) for event in events)
    ordered = sorted(events, key=lambda event: -getattr(event, own))
    return [
        (f"{event.key} {event.input_shapes}" if options.shapes else event.key, getattr(event, own) / total, event.count)
        for event in ordered[:TOP]
    ]


def main() -> None:
    made: argparse.ArgumentParser = parser()
    made.description = __doc__
    made.set_defaults(kinds=[*GOALS, "generator"])
    made.add_argument("--shapes", action="store_true", help="tell operations apart by the shapes of their inputs")
    options = made.parse_args()
    quiet()
    for kind in options.kinds:
        print(f"\n| {kind} | share of the time | calls |\n|---|---:|---:|")
        for name, share, calls in top(kind, options):
            print(f"| `{name}` | {100 * share:.1f} % | {calls} |")


if __name__ == "__main__":
    main()
