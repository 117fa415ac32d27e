"""GPU hours and batches at the scale of the papers, on paper: from operations and bytes, nothing is run.

    .venv/bin/python -m benchmarks.estimate --tflops 40

Operations are counted by torch's `FlopCounterMode` on the meta device, and bytes by the tensors that autograd saves in
a forward pass on the CPU: a step of ResNet-101, D = 600, multi-head SIM on one crop of 369. A count of operations is
no time: the option `--tflops` is the speed that a card is taken to reach, and all hours scale with it.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from sign_zs3.models import Classifier, Discriminator, Encoder, Generator, SpatialInformationModule
from sign_zs3.models.spatial.build import build_spatial

DIM, CROP, LABELLED = 600, 369, 0.75
"""D; side of the crop; share of its pixels with a seen label."""

# iterations of each phase at batch 8, as experiments/ has them, and classes
RUNS = {
    "Pascal VOC": (40_000, 6_000, 6_000, 20),
    "Pascal Context (33)": (40_000, 10_000, 7_000, 33),
    "COCO-Stuff": (100_000, 6_000, 4_000, 171),
}
BATCH = 8
CARDS = (16, 24, 80)
RESERVED = 1.5
"""GB that CUDA's context, cuDNN's workspaces and fragments are taken to need."""
BF16 = 0.55
"""Of the bytes that float32 keeps: bf16 has half of nearly all maps."""


@dataclass(frozen=True)
class Cost:
    """Floating-point operations of each phase on one crop."""

    plain: float
    train: float
    transfer: float
    self_training: float


def _count(run: Any) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return float(counter.get_total_flops())


def kept(classes: int, plain: bool) -> float:
    """Bytes that autograd keeps of a training step's forward pass on one crop."""
    storages: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    encoder, classifier = Encoder("resnet101"), Classifier(DIM, classes)
    spatial = nn.Identity() if plain else SpatialInformationModule(DIM)
    with saved_tensors_hooks(note, lambda tensor: tensor):
        found = spatial(encoder(torch.zeros(1, 3, CROP, CROP)))
        logits = classifier(found if plain else found.features)
        logits = F.interpolate(logits, (CROP, CROP), mode="bilinear", align_corners=False)
        F.cross_entropy(logits, torch.zeros(1, CROP, CROP, dtype=torch.long))
    return float(sum(tensor.untyped_storage().nbytes() for tensor in storages.values()))


def mmd_operations(pixels: float) -> float:
    """Of one class of all labelled pixels: the most there can be. Three products of (n, D) forward, two backward."""
    return 5 * 2 * pixels**2 * DIM


def cost(classes: int, released: str | None = None) -> Cost:
    """Of SIGN as it is here, or with the networks of the released one, whose spatial part has that number."""
    with torch.device("meta"):
        if released is None:
            encoder, classifier = Encoder("resnet101"), Classifier(DIM, classes)
            spatial = build_spatial("sim", DIM)
        else:
            encoder, classifier = Encoder("resnet101_caffe"), Classifier(DIM, classes, width=1024)
            spatial = build_spatial("released", DIM, encoding=released)
        generator, discriminator = Generator(DIM, DIM, DIM), Discriminator(DIM)
        image = torch.zeros(1, 3, CROP, CROP)
        mask = torch.zeros(1, CROP, CROP, dtype=torch.long)
        side = -(-CROP // 8)
        pixels = int(LABELLED * side**2)
        vectors, latent = torch.zeros(1, DIM, pixels, 1), torch.zeros(1, DIM, pixels, 1)

        def loss(features: Tensor) -> Tensor:
            logits = F.interpolate(classifier(features), mask.shape[-2:], mode="bilinear", align_corners=False)
            return F.cross_entropy(logits, mask)

        def plain() -> None:
            torch.autograd.backward(loss(encoder(image)))

        def segmenter() -> None:
            torch.autograd.backward(loss(spatial(encoder(image)).features))

        @torch.no_grad()
        def label() -> None:
            loss(spatial(encoder(image)).features)

        def adversaries() -> None:
            with torch.no_grad():
                generator(vectors, latent)
            torch.autograd.backward(discriminator(vectors).sum() + discriminator(latent).sum())
            torch.autograd.backward(discriminator(generator(vectors, latent)).sum())

        def transfer() -> None:
            with torch.no_grad():
                features = spatial(encoder(image)).features
                synthetic = generator(torch.zeros(1, DIM, side, side), torch.zeros(1, DIM, side, side))
            torch.autograd.backward(loss(features) + loss(synthetic))

        generative = _count(adversaries) + mmd_operations(pixels)
        train = _count(segmenter) + generative
        return Cost(
            plain=_count(plain),
            train=train,
            transfer=_count(transfer),
            self_training=train + _count(label),
        )


def inference(classes: int, size: int) -> float:
    """Operations of labelling an image, over those of a plain DeepLab-v2."""
    with torch.device("meta"), torch.no_grad():
        encoder, spatial, classifier = Encoder("resnet101"), SpatialInformationModule(DIM), Classifier(DIM, classes)
        image = torch.zeros(1, 3, size, size)
        plain = _count(lambda: classifier(encoder(image)))
        return _count(lambda: classifier(spatial(encoder(image), sample=False).features)) / plain


def static_bytes(teacher: bool = True) -> float:
    """Weights, gradients and the optimisers' states, and the teacher's weights."""
    with torch.device("meta"):
        by_sgd = sum(p.numel() for m in (Encoder("resnet101"), SpatialInformationModule(DIM)) for p in m.parameters())
        by_adam = sum(p.numel() for m in (Generator(DIM, DIM, DIM), Discriminator(DIM)) for p in m.parameters())
    return 4.0 * (3 * by_sgd + 4 * by_adam + (by_sgd if teacher else 0))


def peak(classes: int, batch: int) -> float:
    """Bytes that training takes of a card in bf16."""
    return RESERVED * 1e9 + static_bytes(teacher=False) + batch * BF16 * kept(classes, plain=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=40.0, help="10^12 operations per second that a card reaches")
    parser.add_argument("--scaling", type=float, default=0.9, help="share of eight cards' speed that is reached")
    options = parser.parse_args()
    print("| data | operations of a step per crop, 10^9: train, transfer, self-training (plain) "
          "| hours on one card | on eight |\n|---|---|---:|---:|")  # fmt: skip
    for name, (train, transfer, self_training, classes) in RUNS.items():
        c = cost(classes)
        total = BATCH * (train * c.train + transfer * c.transfer + self_training * c.self_training)
        hours = total / (options.tflops * 1e12) / 3600
        each = ", ".join(f"{value / 1e9:,.0f}" for value in (c.train, c.transfer, c.self_training))
        print(f"| {name} | {each} ({c.plain / 1e9:,.0f}) | {hours:.1f} | {hours / 8 / options.scaling:.1f} |")
    static = static_bytes()
    print(f"\nweights, gradients, optimisers and teacher: {static / 1e9:.2f} GB")
    heads = "".join(f"| batch in {card} GB, float32 / bf16 " for card in CARDS)
    print(f"| classes | kept per crop, GB: SIGN (plain) {heads}|\n|---|---|{'---|' * len(CARDS)}")
    for classes in (20, 33, 171):
        ours, plain = kept(classes, plain=False), kept(classes, plain=True)
        fits = [(card - RESERVED) * 1e9 - static for card in CARDS]
        cells = "".join(f"| {int(fit / ours)} / {int(fit / (BF16 * ours))} " for fit in fits)
        print(f"| {classes} | {ours / 1e9:.2f} ({plain / 1e9:.2f}) {cells}|")


if __name__ == "__main__":
    main()
