"""What SIGN's iterations cost, as ratios to a plain DeepLab-v2 iteration on the same images.

    .venv/bin/python benchmarks/step.py --backbone resnet101 --crop 321

"Plain" is the encoder with a 1x1 classifier, cross-entropy at label resolution and SGD. The kinds are run in turns and
the medians compared, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from typing import Any

import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from sign_zs3 import SIGNModule, VOCDataModule
from sign_zs3.models import Classifier, Encoder
from sign_zs3.tasks.self_training import pixel_cross_entropy

KINDS = ("train", "transfer", "self_training")


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
    """Seconds of each iteration but the first."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.segmenter.known.fill_(True)  # type: ignore[operator, union-attr]

    def on_train_batch_start(self, *args: Any) -> None:
        self.start = time.perf_counter()

    def on_train_batch_end(self, *args: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


def sign_seconds(kind: str, options: argparse.Namespace) -> list[float]:
    clock = Clock()
    lengths: dict[str, Any] = {f"{name}_iterations": options.iterations + 1 for name in KINDS}
    model = SIGNModule(backbone=options.backbone, phases=[kind], lr=1e-6, **lengths)
    trainer = pl.Trainer(
        max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[clock],
    )  # fmt: skip
    trainer.fit(model, SameBatch(".", batch_size=options.batch, crop_size=options.crop))
    return clock.seconds[1:]


def plain_seconds(options: argparse.Namespace) -> list[float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    encoder, classifier = Encoder(options.backbone).to(device), Classifier(600, 15).to(device)
    optimizer = torch.optim.SGD([*encoder.parameters(), *classifier.parameters()], lr=1e-6, momentum=0.9)
    batch = one_batch(options.batch, options.crop)
    images, mask = batch["image"].to(device) / 255.0, batch["mask"].to(device)
    seconds = []
    for _ in range(options.iterations + 1):
        start = time.perf_counter()
        pixel_cross_entropy(classifier(encoder(images)), mask).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--crop", type=int, default=161)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--iterations", type=int, default=3, help="measured iterations per kind and round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    seconds: dict[str, list[float]] = {kind: [] for kind in ("plain", *KINDS)}
    for _ in range(options.rounds):
        seconds["plain"] += plain_seconds(options)
        for kind in KINDS:
            seconds[kind] += sign_seconds(kind, options)
    plain = statistics.median(seconds["plain"])
    print(f"{options.backbone}, D = 600, crop {options.crop}, batch {options.batch}, {torch.get_num_threads()} threads")
    print(f"plain iteration: {plain:.2f} s (median of {len(seconds['plain'])})")
    for kind in KINDS:
        print(f"{kind} / plain: {statistics.median(seconds[kind]) / plain:.2f}")


if __name__ == "__main__":
    main()
