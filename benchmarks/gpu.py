"""What SIGN costs on a GPU, beside its goals: `make bench-gpu`.

    .venv/bin/python -m benchmarks.gpu --store benchmarks/gpu.json    # on a machine with a GPU: half an hour
    .venv/bin/python -m benchmarks.gpu --paper benchmarks/paper.json  # what operations and bytes say, on any machine

"Plain" is that of `benchmarks.step`, and runs as SIGN does: in bf16, with channels_last, TF32 for what stays float32,
compiled where SIGN is. Each figure comes from fresh processes, in turns; iterations are timed in stretches, at whose
ends alone the GPU is waited for. Leave the GPU to this program: memory and utilisation are those of all who use it.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks import estimate, step
from benchmarks.device import CHANNELS_FIRST, FULL, PRESET, TINY, Size, arguments
from benchmarks.figures import Figure, in_a_process, show, write

WAYS: dict[str, tuple[str, ...]] = {
    "": PRESET,
    ", compiled": (*PRESET, "--compile"),
    ", CUDA graphs": (*PRESET, "--compile=cudagraphs"),
    ", channels first": CHANNELS_FIRST,
    ", TF32": ("--channels_last", "--matmul_precision=high"),
    ", float32": ("--channels_last", "--matmul_precision=highest"),
}
COMPARED = {
    "compiled / not, train iteration": (("train", ", compiled"), ("train", "")),
    **{
        f"CUDA graphs / compiled without, {kind} iteration": ((kind, ", CUDA graphs"), (kind, ", compiled"))
        for kind in ("train", "transfer")
    },
    "channels_last / channels first, train iteration": (("train", ""), ("train", ", channels first")),
    "bf16 / float32, train iteration": (("train", ""), ("train", ", float32")),
    "TF32 / float32, train iteration": (("train", ", TF32"), ("train", ", float32")),
    "the released encoding 4 / SIM, train iteration": (("released", ""), ("train", "")),
}
"""Two kinds of iteration, each with the name of its way. In float32 convolutions have TF32 all the same, as by torch's
default; products have it in "TF32" alone."""
PHASES = ("train", "generator", "transfer", "self_training")
RELEASED = ("1", "2", "2.1", "3", "4", "5", "6", "7", "8")

INFERENCE, BUSY = "inference / plain, 513 x 513", "GPU at work in 200 train iterations with 8 workers, share"
MEMORY, OFF = "peak memory of a train iteration, GB", "that memory's distance from the estimate, share"
MEMORY_RATIO, READ = "peak memory, train / plain", "images per second in these"
OPERATIONS = {min: "operations of a train iteration, released SIGN / this one, its encoding with the fewest",
              max: "operations of a train iteration, released SIGN / this one, its encoding with the most"}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A figure to be measured, its goal, and the name of its like among those of the processor, `baseline.json`."""

    name: str
    goal: float | None = None
    least: bool = False
    processor: str | None = None
    counted: bool = False
    """Of operations alone, which no GPU is needed for."""


def rows() -> Iterator[Row]:
    """Yield all figures in the order in which they are shown."""
    two = list(WAYS)[:2]
    for way, kind in itertools.product(two, step.GOALS):
        own = None if way else f"{kind} / plain iteration (resnet101, crop 321)"
        yield Row(ratio_name(kind, way), step.GOALS[kind], processor=own)
    yield from (Row(images_name(way)) for way in two)
    own_names = {"compiled": "compile / train iteration (resnet50, crop 161)",
                 "channels_last": "channels_last / train iteration (resnet50, crop 161)",
                 "bf16": "bf16 / train iteration (resnet18, crop 65)"}  # fmt: skip
    yield from (Row(name, processor=own_names.get(name.split(" / ")[0])) for name in COMPARED)
    yield Row(INFERENCE, 1.25, processor="Segmenter inference / plain, 513 x 513")
    yield Row(BUSY, 0.85, least=True)
    yield Row(READ)
    yield Row(MEMORY)
    yield Row(OFF, 0.10)
    yield Row(MEMORY_RATIO, processor="peak memory, train / plain (resnet101, crop 321)")
    yield from (Row(losses_name(kind), 0.01) for kind in PHASES)
    yield from (Row(name, counted=True) for name in OPERATIONS.values())


def ratio_name(kind: str, way: str) -> str:
    return f"{kind} / plain iteration{way}"


def images_name(way: str) -> str:
    return f"images per second, train iteration{way}"


def losses_name(kind: str) -> str:
    return f"losses of 100 {kind} iterations, GPU and processor apart by, share"


def figures(values: Mapping[str, float]) -> list[Figure]:
    """What was found, each beside its goal."""
    return [Figure(row.name, values[row.name], row.goal, row.least) for row in rows() if row.name in values]


# -- the figures -----------------------------------------------------------------------------------------------------


class Measurement:
    """Figures found so far, by name, and what failed.

    Args:
        size: Of what is measured.
        device: ``cuda``, or for tests ``cpu``.
        run: Runs a benchmark with its arguments and returns what it printed, as `in_a_process` does.
    """

    def __init__(self, size: Size, device: str, run: Callable[..., dict[str, Any]] = in_a_process) -> None:
        self.size, self.device, self.run = size, device, run
        self.values: dict[str, float] = {}
        self.failed: list[str] = []
        self.own = ["--device", device, *(["--tiny"] if size == TINY else [])]

    def all(self) -> Iterator[list[Figure]]:
        """Yield the figures of each part once they are found; a part that fails is told, and left out."""
        parts_of_it: list[tuple[str, Callable[[], dict[str, float]]]] = [
            ("iterations", self.iterations), ("inference", self.inference), ("busy", self.busy),
            *((f"losses of {kind}", partial(self.losses, kind)) for kind in PHASES),
        ]  # fmt: skip
        for name, part in parts_of_it:
            if found := self.attempt(name, part):
                self.values |= found
                yield figures(found)

    def attempt(self, name: str, part: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return part()
        except (RuntimeError, OSError, ValueError) as error:
            self.failed.append(f"{name}: {(str(error).strip() or repr(error)).splitlines()[-1]}")
            print(f"not measured, {self.failed[-1]}", flush=True)
            return {}

    def iterations(self) -> dict[str, float]:
        """Seconds and memory of each kind in each way, which run one after the other in each round."""
        two = list(WAYS)[:2]
        every = [*itertools.product(("plain", *step.GOALS), two), *itertools.chain(*COMPARED.values())]
        seconds: dict[tuple[str, str], list[float]] = {}
        peak: dict[tuple[str, str], float] = {}
        for number in range(self.size.rounds):
            for kind, way in dict.fromkeys(every):
                argv = ["--one", kind, *arguments(self.size, self.device, WAYS[way])]
                print(f"round {number + 1} of {self.size.rounds}: {kind}{way}", flush=True)
                if found := self.attempt(f"{kind}{way}", partial(self.run, "step", *argv)):
                    seconds.setdefault((kind, way), []).append(statistics.fmean(found["seconds"]))
                    peak[kind, way] = found["peak"]
        took = {each: statistics.median(of_each) for each, of_each in seconds.items()}
        found = {images_name(way): self.size.batch / took["train", way] for way in two if ("train", way) in took}
        pairs = {ratio_name(kind, way): ((kind, way), ("plain", way)) for kind in step.GOALS for way in two} | COMPARED
        found |= {name: took[a] / took[b] for name, (a, b) in pairs.items() if a in took and b in took}
        if ("train", "") in peak:
            found[MEMORY] = peak["train", ""] / 1e9
            found[OFF] = abs(found[MEMORY] / paper()[MEMORY] - 1)
            if ("plain", "") in peak:
                found[MEMORY_RATIO] = peak["train", ""] / peak["plain", ""]
        return found

    def inference(self) -> dict[str, float]:
        return {INFERENCE: self.run("device", "inference", *self.own)["ratio"]}

    def busy(self) -> dict[str, float]:
        found = self.run("device", "busy", *self.own)
        return {BUSY: found["share"], READ: found["images"]}

    def losses(self, kind: str) -> dict[str, float]:
        there, here = (
            self.run("device", "losses", *self.own, "--kind", kind, "--device", device)["losses"]
            for device in (self.device, "cpu")
        )
        return {losses_name(kind): apart(there, here)}


def apart(ours: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> float:
    """The mean difference of a loss, as a share of its mean: of the loss for which that is largest."""
    shares = []
    for name in others[-1]:
        pairs = [(a[name], b[name]) for a, b in zip(ours, others, strict=True)]
        if not all(map(math.isfinite, itertools.chain(*pairs))):
            raise ValueError(f"{name}: found a loss that is no finite number")
        if size := sum(abs(b) for _, b in pairs):
            shares.append(sum(abs(a - b) for a, b in pairs) / size)
    return max(shares, default=0.0)


# -- on paper --------------------------------------------------------------------------------------------------------

PAPER, TFLOPS = Path(__file__).with_name("paper.json"), 40.0


def count_paper() -> dict[str, float]:
    """Figures by operations and bytes: VOC's 20 classes, on a card that reaches `TFLOPS`."""
    here = estimate.cost(20)
    released = {number: estimate.cost(20, number).train / here.train for number in RELEASED}
    ratios = {kind: getattr(here, kind) / here.plain for kind in step.GOALS}
    return {
        **{ratio_name(kind, ""): ratio for kind, ratio in ratios.items()},
        images_name(""): TFLOPS * 1e12 / here.train,
        "the released encoding 4 / SIM, train iteration": released["4"],
        INFERENCE: estimate.inference(20, FULL.image),
        MEMORY: estimate.peak(20, FULL.batch) / 1e9,
        **{name: choose(released.values()) for choose, name in OPERATIONS.items()},
    }


def paper() -> dict[str, float]:
    """The stored figures on paper, by name."""
    return {figure["name"]: figure["value"] for figure in json.loads(PAPER.read_text())["figures"]}


# -- the program -----------------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--store", type=Path, help="write the figures to this file, as JSON")
    made.add_argument("--paper", type=Path, help="only write the figures on paper to this file; needs no GPU")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for tests of this program")
    made.add_argument("--tiny", action="store_true", help="as little as can be, for tests of this program")
    return made


def measure(options: argparse.Namespace, run: Callable[..., dict[str, Any]] = in_a_process) -> int:
    """Measure, print and store everything; return how many parts failed."""
    if options.device == "cuda" and not torch.cuda.is_available():
        needs = f"with a driver for CUDA {torch.version.cuda}" if torch.version.cuda else "and a torch built for CUDA"
        raise SystemExit(f"bench-gpu: found no GPU that torch {torch.__version__} can use, expected one of NVIDIA's "
                         f"{needs}: run make bench-gpu on a machine that has one; make bench needs none")  # fmt: skip
    measurement = Measurement(TINY if options.tiny else FULL, options.device, run)
    on = run("device", "about", *measurement.own)
    print(", ".join(f"{name} {value}" for name, value in on.items() if name != "size"), flush=True)
    for found in measurement.all():
        show(found)
        if options.store is not None:
            write(figures(measurement.values), options.store, **on)
    missed = [figure for figure in figures(measurement.values) if figure.met is False]
    print(f"{len(missed)} goals missed, {len(measurement.failed)} parts not measured")
    return len(measurement.failed)


def main() -> None:
    options = parser().parse_args()
    step.quiet()
    if options.paper is not None:
        write(figures(count_paper()), options.paper, tflops=TFLOPS)
    elif measure(options):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
