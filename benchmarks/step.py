"""What SIGN's iterations cost in time and memory, as ratios to a plain DeepLab-v2 iteration on the same images.

    .venv/bin/python -m benchmarks.step --backbone resnet101 --crop 321

"Plain" is the encoder with a 1x1 classifier, cross-entropy at label resolution and SGD. Every labelled pixel takes
part in every loss. The kinds run in turns and the medians are compared; memory is what a fresh process of each kind
needs beyond the imported libraries.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from benchmarks.figures import Figure, PeakMemory, in_a_process, show
from sign_zs3 import SIGNModule, VOCDataModule
from sign_zs3.functional import pixel_cross_entropy
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
    """Seconds of each iteration."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_batch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


class Ready(pl.Callback):
    """A classifier that knows all classes."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.segmenter.known.fill_(True)  # type: ignore[operator, union-attr]


def fit(kind: str, options: argparse.Namespace, watch: pl.Callback) -> None:
    """Run one iteration more than `options` say of a phase, or of one of `VARIANTS`, before an observer."""
    phase, of_model, of_trainer = VARIANTS.get(kind, (kind, {}, {}))
    lengths = {f"{phase}_iterations": options.iterations + 1} | leading(phase)
    model = SIGNModule(backbone=options.backbone, phases=phases(phase), lr=1e-6, **of_model, **lengths)
    trainer = pl.Trainer(
        max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Ready(), watch], devices=options.devices, **of_trainer,
    )  # fmt: skip
    trainer.fit(model, SameBatch(".", batch_size=options.batch, crop_size=options.crop))


def sign_seconds(kind: str, options: argparse.Namespace) -> list[float]:
    """Seconds of each iteration but the first of a phase, or of one of `VARIANTS`."""
    clock = Clock()
    fit(kind, options, clock)
    return clock.seconds[-options.iterations :]


def phases(kind: str) -> list[str]:
    """Self-training asks for a classifier that knows all classes, so transfer comes first."""
    return ["transfer", kind] if kind == "self_training" else [kind]


def leading(kind: str) -> dict[str, int]:
    """Length of the phase that comes first, if any."""
    return {"transfer_iterations": 1} if kind == "self_training" else {}


def plain_seconds(options: argparse.Namespace) -> list[float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, classifier = Encoder(options.backbone).to(device), Classifier(600, 15).to(device)
    optimizer = torch.optim.SGD([*encoder.parameters(), *classifier.parameters()], lr=1e-6, momentum=0.9)
    batch = one_batch(options.batch, options.crop)
    images, mask = batch["image"].to(device) / 255.0, batch["mask"].to(device)
    seconds = []
    for _ in range(options.iterations + 1):
        start = time.perf_counter()
        logits = F.interpolate(classifier(encoder(images)), mask.shape[1:], mode="bilinear", align_corners=False)
        pixel_cross_entropy(logits, mask).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def run(kind: str, options: argparse.Namespace) -> list[float]:
    return plain_seconds(options) if kind == "plain" else sign_seconds(kind, options)


def measure(options: argparse.Namespace) -> list[Figure]:
    """Ratios of each kind to plain, in time and peak memory."""
    size = f"{options.backbone}, crop {options.crop}"
    seconds: dict[str, list[float]] = {kind: [] for kind in ("plain", *options.kinds)}
    for _ in range(options.rounds):
        for kind, all_rounds in seconds.items():
            all_rounds += run(kind, options)
    medians = {kind: statistics.median(of_kind) for kind, of_kind in seconds.items()}
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
    shared = [f"--{name}={getattr(options, name)}" for name in ("backbone", "crop", "batch")]
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
    made.add_argument("--kinds", nargs="+", default=list(GOALS), choices=list(GOALS | VARIANTS))
    made.add_argument("--memory", action="store_true", help="also measure peak memory, each kind in a fresh process")
    made.add_argument("--devices", type=int, default=1, help=argparse.SUPPRESS)
    made.add_argument("--one", help=argparse.SUPPRESS)
    return made


def quiet() -> None:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def main() -> None:
    options = parser().parse_args()
    quiet()
    if options.one is None:
        measure(options)
        return
    with PeakMemory() as peak:
        seconds = run(options.one, options)
    print(json.dumps({"seconds": seconds, "peak": peak.grown}))


if __name__ == "__main__":
    main()
