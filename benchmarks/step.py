"""What SIGN's iterations cost in time and memory, as ratios to a plain DeepLab-v2 iteration on the same images.

    .venv/bin/python -m benchmarks.step --backbone resnet101 --crop 321

"Plain" is the encoder with a 1x1 classifier, cross-entropy at label resolution and SGD. Every labelled pixel takes
part in every loss. The kinds run in turns and the medians are compared; memory is what a fresh process of each kind
needs beyond the imported libraries. On a GPU, which works while the program goes on, only whole stretches of iterations
can be timed: there means are compared, and memory is the GPU's.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import statistics
import time
import warnings
from collections.abc import Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from benchmarks.figures import Figure, PeakMemory, in_a_process, show, synchronize
from sign_zs3 import SIGNModule, VOCDataModule
from sign_zs3.functional import pixel_cross_entropy
from sign_zs3.functional.devices import matmul_precision
from sign_zs3.models import Classifier, Encoder

GOALS_AT = ("resnet101", 321)
GOALS = {"train": 1.30, "self_training": 1.70, "transfer": 0.40}
MEMORY_GOALS = {"train": 1.25}
COMPARED = ("channels_last", "compile", "bf16")
"""Ways to run a train iteration, which are compared with a train iteration."""
VARIANTS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    # name: kind, options of the model, options of the Trainer
    "channels_last": ("train", {"channels_last": True}, {}),
    "compile": ("train", {"compile": True}, {}),
    "bf16": ("train", {}, {"precision": "bf16-mixed"}),
    "generator": ("generator", {}, {}),
    "released": ("train", {"encoding": "released_4", "position": "endpoints", "classifier_hidden": 1024}, {}),
}


def one_batch(size: int, crop: int) -> dict[str, Any]:
    """Random images, one half in blocks of six seen classes, the other unlabelled."""
    generator = torch.Generator().manual_seed(0)
    mask = F.interpolate(torch.randint(0, 6, (size, 1, 4, 4), generator=generator).float(), (crop, crop))[:, 0].long()
    mask[:, : crop // 2] = 255
    return {
        "image": torch.randint(0, 256, (size, 3, crop, crop), dtype=torch.uint8, generator=generator),
        "mask": mask,
        "valid": torch.ones_like(mask, dtype=torch.bool),
        "hidden": torch.zeros(size, dtype=torch.long),
        "id": ["random"] * size,
    }


class SameBatch(VOCDataModule):
    """VOC's classes, and one batch over and over."""

    def setup(self, stage: str | None = None) -> None:
        self.batch = one_batch(self.batch_size, self.crop_size)

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader([self.batch] * 1000, batch_size=None)  # type: ignore[arg-type]

    def val_dataloader(self) -> Any:
        return []


class Clock(pl.Callback):
    """Seconds of each iteration of a stretch; the device is waited for at its two ends alone."""

    def __init__(self, skipped: int, iterations: int, device: str) -> None:
        self.first, self.last, self.device = skipped, skipped + iterations, device
        self.ended = 0
        self.marks: list[float] = []

    def on_train_batch_end(self, *args: Any) -> None:
        self.ended += 1
        if self.ended in (self.first, self.last):
            synchronize(self.device)
        if self.first <= self.ended <= self.last:
            self.marks.append(time.perf_counter())

    @property
    def seconds(self) -> list[float]:
        """Of an iteration on a GPU, only their sum has a meaning."""
        return [end - start for start, end in itertools.pairwise(self.marks)]


class Ready(pl.Callback):
    """A classifier that knows all classes."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.segmenter.known.fill_(True)  # type: ignore[operator, union-attr]


def fit(
    kind: str, options: argparse.Namespace, watch: pl.Callback, data: pl.LightningDataModule | None = None, **more: Any
) -> None:
    """Run warm-up and iterations of a phase, or of one of `VARIANTS`, before an observer; `more` are of the model."""
    phase, of_model, of_trainer = VARIANTS.get(kind, (kind, {}, {}))
    lengths = {f"{phase}_iterations": options.warm_up + options.iterations} | leading(phase)
    way = {name: getattr(options, name) for name in ("channels_last", "compile", "matmul_precision")}
    of_model = {"lr": 1e-6} | way | of_model | lengths | more
    model = SIGNModule(backbone=options.backbone, phases=phases(phase), **of_model)
    trainer = pl.Trainer(
        max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Ready(), watch], devices=options.devices, accelerator=options.device,
        **({"precision": options.precision} | of_trainer),
    )  # fmt: skip
    trainer.fit(model, data or SameBatch(".", batch_size=options.batch, crop_size=options.crop))


def skipped(kind: str, options: argparse.Namespace) -> int:
    """Iterations before those that are measured."""
    return int(options.warm_up) + sum(leading(kind).values())


def sign_seconds(kind: str, options: argparse.Namespace) -> list[float]:
    """Seconds of each iteration of a phase, or of one of `VARIANTS`, after the warm-up."""
    clock = Clock(skipped(kind, options), options.iterations, options.device)
    fit(kind, options, clock)
    return clock.seconds


def phases(kind: str) -> list[str]:
    """Self-training asks for a classifier that knows all classes, so transfer comes first."""
    return ["transfer", kind] if kind == "self_training" else [kind]


def leading(kind: str) -> dict[str, int]:
    """Length of the phase that comes first, if any."""
    return {"transfer_iterations": 1} if kind == "self_training" else {}


def plain_seconds(options: argparse.Namespace) -> list[float]:
    """Seconds of each plain iteration after the warm-up, with the same precision, layout and compilation."""
    encoder, classifier = Encoder(options.backbone).to(options.device), Classifier(600, 15).to(options.device)
    if options.channels_last:
        encoder.to(memory_format=torch.channels_last)
    if options.compile:
        encoder.compile(options={"triton.cudagraphs": options.compile == "cudagraphs"})
    optimizer = torch.optim.SGD([*encoder.parameters(), *classifier.parameters()], lr=1e-6, momentum=0.9)
    batch = one_batch(options.batch, options.crop)
    images, mask = batch["image"].to(options.device) / 255.0, batch["mask"].to(options.device)
    clock = Clock(options.warm_up, options.iterations, options.device)
    with matmul_precision(options.matmul_precision):
        for _ in range(options.warm_up + options.iterations):
            with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16-mixed"):
                logits = classifier(encoder(images))
                logits = F.interpolate(logits, mask.shape[1:], mode="bilinear", align_corners=False)
                loss = pixel_cross_entropy(logits, mask)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            clock.on_train_batch_end()
    return clock.seconds


def run(kind: str, options: argparse.Namespace) -> list[float]:
    return plain_seconds(options) if kind == "plain" else sign_seconds(kind, options)


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of each kind to plain, in time and peak memory."""
    size = f"{options.backbone}, crop {options.crop}"
    seconds: dict[str, list[float]] = {kind: [] for kind in ("plain", *options.kinds)}
    for _ in range(options.rounds):
        for kind, all_rounds in seconds.items():
            all_rounds += run(kind, options)
    typical = statistics.median if options.device == "cpu" else statistics.fmean
    medians = {kind: typical(of_kind) for kind, of_kind in seconds.items()}
    print(f"{size}, batch {options.batch}, {torch.get_num_threads()} threads: plain iteration {medians['plain']:.2f} s")
    figures, there = [], (options.backbone, options.crop) == GOALS_AT
    for kind in options.kinds:
        base = "train" if kind in COMPARED and "train" in medians else "plain"
        goal = GOALS.get(kind) if there else None
        figures.append(Figure(f"{kind} / {base} iteration ({size})", medians[kind] / medians[base], goal))
    show(figures)
    if options.memory:
        figures += memory(size, there, options)
    return figures


def memory(size: str, there: bool, options: argparse.Namespace) -> list[Figure]:
    """Ratios of peak memory to plain."""
    shared = [f"--{name}={getattr(options, name)}" for name in ("backbone", "crop", "batch", "device", "precision")]
    kinds = options.kinds
    peak = {kind: in_a_process("step", "--one", kind, "--iterations", "1", *shared)["peak"]
            for kind in ("plain", *kinds)}  # fmt: skip
    print(f"{size}: peak memory of a plain iteration {peak['plain'] / 2**20:.0f} MiB")
    figures = [
        Figure(f"peak memory, {kind} / plain ({size})", peak[kind] / peak["plain"],
               MEMORY_GOALS.get(kind) if there else None)
        for kind in kinds
    ]  # fmt: skip
    show(figures)
    return figures


def seconds_in(output: str) -> list[float]:
    """Seconds of every process that printed its own as JSON."""
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return [value for line in lines for value in line["seconds"]]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--backbone", default="resnet101")
    made.add_argument("--crop", type=int, default=321)
    made.add_argument("--batch", type=int, default=2)
    made.add_argument("--iterations", type=int, default=2, help="measured iterations per kind and round")
    made.add_argument("--rounds", type=int, default=3)
    made.add_argument("--warm_up", type=int, default=1, help="iterations before those that are measured, at least 1")
    made.add_argument("--kinds", nargs="+", default=list(GOALS), choices=list(GOALS | VARIANTS))
    made.add_argument("--memory", action="store_true", help="also measure peak memory, each kind in a fresh process")
    made.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    made.add_argument("--channels_last", action="store_true")
    made.add_argument("--compile", nargs="?", const=True, default=False, choices=(True, "cudagraphs"))
    made.add_argument("--matmul_precision", choices=("highest", "high"))
    made.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def memory_of_device() -> int:
    """Bytes of the GPU at most: what torch had reserved, and what lies there beside that, such as CUDA's context."""
    free, total = torch.cuda.mem_get_info()
    return torch.cuda.max_memory_reserved() + total - free - torch.cuda.memory_reserved()


def quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def one(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Run the kind of ``--one``; return its seconds and peak memory."""
    options = parser().parse_args(arguments)
    if options.device != "cpu":
        return {"seconds": run(options.one, options), "peak": memory_of_device()}
    with PeakMemory() as peak:
        seconds = run(options.one, options)
    return {"seconds": seconds, "peak": peak.grown}


def main() -> None:
    options = parser().parse_args()
    quiet()
    if options.one is None:
        measure(options)
    else:
        print(json.dumps(one()))


if __name__ == "__main__":
    main()
