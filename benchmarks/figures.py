"""What the benchmarks share: medians in turns, peak memory of a fresh process, figures beside their goals."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BASELINE = Path(__file__).with_name("baseline.json")


@dataclass(frozen=True)
class Figure:
    """A ratio, or a number in the unit of its name, and what it shall be: at most the goal, with `least` at least."""

    name: str
    value: float
    goal: float | None = None
    least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None where there is none."""
        if self.goal is None:
            return None
        return self.value >= self.goal if self.least else self.value <= self.goal


def synchronize(device: str) -> None:
    """Wait until a device has done all that it was asked for."""
    if device != "cpu":
        import torch

        torch.accelerator.synchronize()


def in_turns(
    kinds: Mapping[str, Callable[[], object]], rounds: int = 7, calls: int = 1, device: str = "cpu"
) -> dict[str, float]:
    """Median seconds of each kind: they run one after the other in each round, so that a slow minute falls on all.

    A turn is of so many calls, after which the device is waited for.
    """
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(rounds + 1):
        for kind, run in kinds.items():
            start = time.perf_counter()
            for _ in range(calls):
                run()
            synchronize(device)
            seconds[kind].append((time.perf_counter() - start) / calls)
    return {kind: statistics.median(of_kind[1:]) for kind, of_kind in seconds.items()}  # the first round warms up


class PeakMemory:
    """Bytes by which the resident memory of this process grows within a ``with`` block, looked at every millisecond."""

    def __enter__(self) -> PeakMemory:
        self._before = self._peak = _resident()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self._peak = max(self._peak, _resident())

    def __exit__(self, *error: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def grown(self) -> int:
        return self._peak - self._before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def in_a_process(module: str, *options: str) -> dict[str, Any]:
    """Run a benchmark in a process of its own and return the JSON of its last line."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def show(figures: Iterable[Figure]) -> None:
    """Print figures beside their goals and the baseline's."""
    stored = json.loads(BASELINE.read_text())["figures"] if BASELINE.is_file() else []
    before = {entry["name"]: entry["value"] for entry in stored}
    for figure in figures:
        goal = "" if figure.goal is None else f"{'>=' if figure.least else '<='} {figure.goal:.2f}"
        word = {True: "met", False: "MISSED", None: ""}[figure.met]
        base = f"{before[figure.name]:8.3f}" if figure.name in before else "       -"
        print(f"{figure.name:74s} {figure.value:8.3f} {base}   {goal:8s} {word}", flush=True)


def write(figures: Iterable[Figure], path: Path, **about: Any) -> None:
    """Write figures as JSON, with what was measured on."""
    path.write_text(json.dumps({"about": about, "figures": [asdict(figure) for figure in figures]}, indent=2) + "\n")
