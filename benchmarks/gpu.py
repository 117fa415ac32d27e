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
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.overrides import TorchFunctionMode

from benchmarks import estimate, parts, step
from benchmarks.data import write_folder
from benchmarks.figures import Figure, in_a_process, show, synchronize, write
from sign_zs3 import FolderDataModule
from sign_zs3.data.splits import VOC_CLASSES


@dataclass(frozen=True)
class Size:
    """Of what is measured: iterations, images to label, iterations of which the GPU's use and the losses are taken."""

    backbone: str = "resnet101"
    crop: int = estimate.CROP
    batch: int = estimate.BATCH
    warm_up: int = 5
    iterations: int = 20
    rounds: int = 2
    image: int = 513
    turns: int = 11
    busy: int = 200
    workers: int = 8
    compared: int = 100


FULL = Size()
TINY = Size("resnet18", 33, 2, warm_up=1, iterations=2, rounds=1, image=65, turns=1, busy=2, workers=0, compared=2)
"""For the tests, on the CPU."""

CHANNELS_FIRST = ("--precision=bf16-mixed", "--matmul_precision=high")
PRESET = (*CHANNELS_FIRST, "--channels_last")
"""As experiments/parts/gpu.yaml has it."""
WAYS: dict[str, tuple[str, ...]] = {
    "": PRESET,
    ", compiled": (*PRESET, "--compile=true"),
    ", CUDA graphs": (*PRESET, "--compile=cudagraphs"),
    ", channels first": CHANNELS_FIRST,
    ", TF32": ("--channels_last", "--matmul_precision=high"),
    ", float32": ("--channels_last", "--matmul_precision=highest"),
}
COMPARED = {
    "compiled / not, train iteration": (("train", ", compiled"), ("train", "")),
    "CUDA graphs / not, train iteration": (("train", ", CUDA graphs"), ("train", "")),
    "channels_last / channels first, train iteration": (("train", ""), ("train", ", channels first")),
    "bf16 / float32, train iteration": (("train", ""), ("train", ", float32")),
    "TF32 / float32, train iteration": (("train", ", TF32"), ("train", ", float32")),
    "the released encoding 4 / SIM, train iteration": (("released", ""), ("train", "")),
}
"""Two kinds of iteration, each with the name of its way. In float32 convolutions have TF32 all the same, as by torch's
default; products have it in "TF32" alone."""
LOSSES_AT = ("--backbone=resnet18", "--crop=65", "--batch=2", "--matmul_precision=highest", "--warm_up=0")
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
    for way, kind in itertools.product(
        [", CUDA graphs", ", compiled", ""][::-1], ("train", "self_training", "transfer")
    ):
        own = None if way else f"{kind} / plain iteration (resnet101, crop 321)"
        yield Row(ratio_name(kind, way), None if "CUDA" in way else step.GOALS[kind], processor=own)
    yield from (Row(images_name(way)) for way in ("", ", compiled", ", CUDA graphs"))
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


# -- what a fresh process of its own measures ------------------------------------------------------------------------


def smi(query: str, device: str) -> str:
    """A value that nvidia-smi has of the GPU."""
    which = ["-i", f"GPU-{torch.cuda.get_device_properties(0).uuid}"] if device == "cuda" else []
    command = ["nvidia-smi", *which, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def about(size: Size, device: str) -> dict[str, Any]:
    """What is measured on, and how much."""
    found: dict[str, Any] = {"device": device, "torch": torch.__version__, "cuda": torch.version.cuda}
    if device == "cuda":
        found |= {"name": torch.cuda.get_device_name(), "driver": None}
        with suppress(OSError, subprocess.CalledProcessError):
            found["driver"] = smi("driver_version", device)
    return found | {"size": asdict(size)}


class Busy(pl.Callback):
    """Shares of the last moments in which the GPU had work, asked for several times a second in a stretch."""

    def __init__(self, first: int, last: int, device: str) -> None:
        self.first, self.last, self.device = first, last, device
        self.ended, self.samples, self.done = 0, [float(smi("utilization.gpu", device)) / 100], threading.Event()

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1
        if self.ended == self.first:
            synchronize(self.device)
            self.samples.clear()  # it was asked for before, to be refused before the work
            self.start = time.perf_counter()
            self.thread = threading.Thread(target=self._watch)
            self.thread.start()
        if self.ended == self.last:
            synchronize(self.device)
            self.seconds = time.perf_counter() - self.start
            self.done.set()
            self.thread.join()

    def _watch(self) -> None:
        over = False
        while not over:
            over = self.done.wait(0.25)
            self.samples.append(float(smi("utilization.gpu", self.device)) / 100)


def busy(size: Size, device: str) -> dict[str, Any]:
    """The GPU's use while worker processes read drawn images of VOC's size, and images per second."""
    options = step.parser().parse_args([*arguments(size, device, PRESET), f"--iterations={size.busy}"])
    watch = Busy(size.warm_up, size.warm_up + size.busy, device)
    with tempfile.TemporaryDirectory() as folder:
        write_folder(Path(folder), 375, 500, 3 * size.batch, VOC_CLASSES)
        data = FolderDataModule(folder, unseen=list(VOC_CLASSES[15:]), batch_size=size.batch, crop_size=size.crop,
                                num_workers=size.workers, val_fraction=0.0)  # fmt: skip
        step.fit("train", options, watch, data)
    return {"share": statistics.fmean(watch.samples), "images": size.busy * size.batch / watch.seconds}


class DrawnOnHost(TorchFunctionMode):
    """Noise drawn on the CPU wherever it is asked for, so that all devices have the same."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if function is torch.randn and "device" in kwargs:
            return torch.randn(*args, **kwargs | {"device": "cpu"}).to(kwargs["device"])
        return function(*args, **kwargs)


class Losses(pl.Callback):
    """All losses of each iteration."""

    def __init__(self) -> None:
        self.values: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        metrics = trainer.callback_metrics.items()
        self.values.append({name: float(value) for name, value in metrics if name.startswith("train/loss")})


def losses(kind: str, size: Size, device: str) -> dict[str, Any]:
    """The losses of a phase in float32, at the published rates; G without dropout, which each device draws itself."""
    at = [*LOSSES_AT, f"--iterations={size.compared}", f"--device={device}"]
    watch = Losses()
    with DrawnOnHost(), torch.backends.cudnn.flags(allow_tf32=False):
        step.fit(kind, step.parser().parse_args(at), watch, lr=2.5e-4, generator_dropout=0.0)
    return {"losses": watch.values[-size.compared :]}


def one(arguments: Sequence[str]) -> dict[str, Any]:
    """Run what ``--one`` names and return what it found."""
    options = parser().parse_args(arguments)
    size, (what, *more) = size_of(options), options.one.split()
    if what == "losses":
        return losses(more[0], size, more[1])
    if what == "inference":
        ratio = parts.inference_ratio(size.backbone, size.image, options.device, bf16=True, rounds=size.turns)
        return {"ratio": ratio}
    return {"about": about, "busy": busy}[what](size, options.device)


# -- the figures -----------------------------------------------------------------------------------------------------


def arguments(size: Size, device: str, way: Sequence[str]) -> list[str]:
    """Of `benchmarks.step`."""
    of_size = [f"--{name}={getattr(size, name)}" for name in ("backbone", "crop", "batch", "warm_up", "iterations")]
    return [*of_size, f"--device={device}", *way]


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
        except (RuntimeError, OSError, ValueError, subprocess.CalledProcessError) as error:
            self.failed.append(f"{name}: {str(error).strip().splitlines()[-1]}")
            print(f"not measured, {self.failed[-1]}", flush=True)
            return {}

    def iterations(self) -> dict[str, float]:
        """Seconds and memory of each kind in each way, which run one after the other in each round."""
        three = list(WAYS)[:3]
        every = [*itertools.product(("plain", *step.GOALS), three), *itertools.chain(*COMPARED.values())]
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
        found = {images_name(way): self.size.batch / took["train", way] for way in three if ("train", way) in took}
        pairs = {
            ratio_name(kind, way): ((kind, way), ("plain", way)) for kind in step.GOALS for way in three
        } | COMPARED
        found |= {name: took[a] / took[b] for name, (a, b) in pairs.items() if a in took and b in took}
        if ("train", "") in peak:
            found[MEMORY] = peak["train", ""] / 1e9
            found[OFF] = abs(found[MEMORY] / paper()[MEMORY] - 1)
            found[MEMORY_RATIO] = peak["train", ""] / peak["plain", ""]
        return found

    def inference(self) -> dict[str, float]:
        return {INFERENCE: self.run("gpu", "--one", "inference", *self.own)["ratio"]}

    def busy(self) -> dict[str, float]:
        found = self.run("gpu", "--one", "busy", *self.own)
        return {BUSY: found["share"], READ: found["images"]}

    def losses(self, kind: str) -> dict[str, float]:
        there, here = (
            self.run("gpu", "--one", f"losses {kind} {device}", *self.own)["losses"] for device in (self.device, "cpu")
        )
        return {losses_name(kind): apart(there, here)}


def apart(ours: Sequence[Mapping[str, float]], others: Sequence[Mapping[str, float]]) -> float:
    """The mean difference of a loss, as a share of its mean: of the loss for which that is largest."""
    shares = []
    for name in others[-1]:
        pairs = [(a[name], b[name]) for a, b in zip(ours, others, strict=True)]
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


def size_of(options: argparse.Namespace) -> Size:
    return TINY if options.tiny else FULL


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--store", type=Path, help="write the figures to this file, as JSON")
    made.add_argument("--paper", type=Path, help="only write the figures on paper to this file; needs no GPU")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu is for tests of this program")
    made.add_argument("--tiny", action="store_true", help="as little as can be, for tests of this program")
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def measure(options: argparse.Namespace, run: Callable[..., dict[str, Any]] = in_a_process) -> int:
    """Measure, print and store everything; return how many parts failed."""
    if options.device == "cuda" and not torch.cuda.is_available():
        needs = f"with a driver for CUDA {torch.version.cuda}" if torch.version.cuda else "and a torch built for CUDA"
        raise SystemExit(f"bench-gpu: found no GPU that torch {torch.__version__} can use, expected one of NVIDIA's "
                         f"{needs}: run make bench-gpu on a machine that has one; make bench needs none")  # fmt: skip
    measurement = Measurement(size_of(options), options.device, run)
    on = run("gpu", "--one", "about", *measurement.own)
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
    elif options.one is not None:
        print(json.dumps(one(sys.argv[1:])))
    elif measure(options):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
