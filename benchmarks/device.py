"""What one process measures on a GPU, for `benchmarks.gpu`: its use, losses, inference, and what it is.

.venv/bin/python -m benchmarks.device busy
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.overrides import TorchFunctionMode

from benchmarks import estimate, parts, step
from benchmarks.data import write_folder
from benchmarks.figures import synchronize
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
LOSSES_AT = ("--backbone=resnet18", "--crop=65", "--batch=2", "--matmul_precision=highest", "--warm_up=0")


def arguments(size: Size, device: str, way: Sequence[str]) -> list[str]:
    """Of `benchmarks.step`."""
    of_size = [f"--{name}={getattr(size, name)}" for name in ("backbone", "crop", "batch", "warm_up", "iterations")]
    return [*of_size, f"--device={device}", *way]


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


def one(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure what the arguments name."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("what", choices=("about", "busy", "inference", "losses"))
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    made.add_argument("--kind", default="train", help="of iteration, for the losses")
    made.add_argument("--tiny", action="store_true", help="as little as can be, for the tests")
    options = made.parse_args(arguments)
    size = TINY if options.tiny else FULL
    if options.what == "losses":
        return losses(options.kind, size, options.device)
    if options.what == "inference":
        ratio = parts.inference_ratio(size.backbone, size.image, options.device, bf16=True, rounds=size.turns)
        return {"ratio": ratio}
    return {"about": about, "busy": busy}[options.what](size, options.device)


if __name__ == "__main__":
    step.quiet()
    print(json.dumps(one()))
