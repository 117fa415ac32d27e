"""What SIGN adds to CLIP: inference beside the encoder alone, an iteration on its kept maps, operations and bytes.

    .venv/bin/python -m benchmarks.clip

ViT-B/16 with random weights, images of 320 x 320, VOC's 20 classes, SIGN as in experiments/clip/voc_sign.yaml.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.figures import Figure, in_turns, show
from benchmarks.step import Clock, SameBatch, quiet
from sign_zs3 import SIGNModule
from sign_zs3.files import read_yaml

SIDE, CELLS, DIM = 320, 20, 512
PARTS = Path(__file__).resolve().parents[1] / "experiments" / "parts"


class SameMaps(SameBatch):
    """One batch of kept maps over and over."""

    def setup(self, stage: str | None = None) -> None:
        super().setup(stage)
        self.batch["maps"] = (torch.randn(self.batch_size, DIM, CELLS, CELLS),)


def sign(folder: Path, classes: tuple[str, ...], **options: Any) -> SIGNModule:
    """Return SIGN as the rows on CLIP have it, with random weights and class vectors."""
    table = folder / "texts.safetensors"
    save_file({"whole:clip": torch.randn(len(classes), DIM)}, table, metadata={"names": json.dumps(classes)})
    for name in ("clip_sign.yaml", "clip.yaml"):
        options = read_yaml(PARTS / name, "options")["model"] | options
    return SIGNModule(**{**options, "weights": None, "feature_cache": None, "vectors": str(table)})


def clip(batch: int = 1, iterations: int = 10) -> list[Figure]:
    """Ratio of inference, and seconds of a train and a transfer iteration (a goal of the first alone)."""
    data = SameMaps(".", batch_size=batch, crop_size=SIDE)
    with tempfile.TemporaryDirectory() as folder:
        figures = []
        for phase in ("train", "transfer"):
            clock, lengths = Clock(1, iterations, "cpu"), {f"{phase}_iterations": iterations + 1}
            model = sign(Path(folder), data.protocol.classes, phases=[phase], **lengths)
            trainer = pl.Trainer(
                max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                enable_model_summary=False, callbacks=[clock], accelerator="cpu",
            )  # fmt: skip
            trainer.fit(model, data)
            goal = 0.1 if (phase, batch) == ("train", 1) else None
            seconds = statistics.median(clock.seconds)
            figures.append(
                Figure(f"{phase} iteration on kept maps of CLIP, {SIDE} x {SIDE}, batch {batch}, s", seconds, goal)
            )
    segmenter = model.segmenter.eval()
    segmenter.known.fill_(True)
    image = torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8)
    normalised = segmenter.normalise(image[None])
    with torch.inference_mode():
        seconds_of = in_turns(
            {"ours": lambda: segmenter.predict(image), "encoder": lambda: segmenter.encoder(normalised)}, rounds=7
        )
        counts = []
        for run in (lambda: segmenter(image[None]), lambda: segmenter.encoder(normalised)):
            with FlopCounterMode(display=False) as counter:
                run()  # type: ignore[no-untyped-call]
            counts.append(counter.get_total_flops())
    ratio = seconds_of["ours"] / seconds_of["encoder"]
    parameters = sum(p.numel() for p in segmenter.encoder.parameters())
    print(
        f"an image: {counts[1] / 1e9:.1f} G operations of the encoder, {(counts[0] - counts[1]) / 1e9:.2f} G that SIGN "
        f"adds, {2 * DIM * CELLS**2 / 1e6:.2f} MB of kept maps; the encoder's weights: {4 * parameters / 1e6:.0f} MB"
    )
    return [Figure(f"SIGN's inference / CLIP's encoder alone, {SIDE} x {SIDE}", ratio, 1.15), *figures]


if __name__ == "__main__":
    quiet()
    show([*clip(), *clip(batch=8)[1:]])
