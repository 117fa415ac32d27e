"""What the parts cost: SIM by map size, inference, the MMD by classes, evaluation by classes, the metric, start-up.

.venv/bin/python -m benchmarks.parts
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.classification import MulticlassConfusionMatrix

from benchmarks.figures import Figure, PeakMemory, in_a_process, in_turns, show
from sign_zs3 import GZSLMeanIoU
from sign_zs3.functional import class_mmd
from sign_zs3.models import Classifier, Encoder, Segmenter, SegmenterConfig, SpatialInformationModule
from sign_zs3.models.inference import label_scores
from sign_zs3.protocol import Protocol

CELLS = {321: 41, 641: 81, 1281: 161}
"""Side of the feature map by side of the crop, at stride 8."""


def segmenter(classes: int, backbone: str = "resnet101") -> Segmenter:
    names = tuple(f"class {index}" for index in range(classes))
    protocol = Protocol("benchmark", "all seen", names, tuple(range(classes)), classes)
    made = Segmenter.build(SegmenterConfig(protocol, encoder={"backbone": backbone, "feature_dim": 600}))
    return made.eval()


def sim_pass(crop: int, window: int | None = None) -> Callable[[], object]:
    """Forward and backward of SIM on the map of one image."""
    module = SpatialInformationModule(600, window=window)
    x = torch.randn(1, 600, CELLS[crop], CELLS[crop])

    def step() -> None:
        module(x.requires_grad_()).features.sum().backward()

    return step


def spatial() -> list[Figure]:
    pixels = {crop: side**2 for crop, side in CELLS.items()}
    passes = {"321": sim_pass(321), "641": sim_pass(641), "w641": sim_pass(641, 41), "w1281": sim_pass(1281, 41)}
    seconds = in_turns(passes, rounds=3)
    peak = {crop: in_a_process("parts", "--peak", f"sim {crop}")["peak"] for crop in (321, 641)}
    return [
        Figure("SIM per pixel, crop 641 / 321, time", seconds["641"] / seconds["321"] * pixels[321] / pixels[641], 2.5),
        Figure("SIM per pixel, crop 641 / 321, memory", peak[641] / peak[321] * pixels[321] / pixels[641], 1.1),
        Figure(
            "SIM per pixel in windows of 41 cells, crop 1281 / 641, time",
            seconds["w1281"] / seconds["w641"] * pixels[641] / pixels[1281],
            1.1,
        ),
        Figure("SIM in windows of 41 cells / among all pixels, crop 641, time", seconds["w641"] / seconds["641"]),
    ]


@torch.no_grad()
def inference_ratio(
    backbone: str = "resnet101", size: int = 513, device: str = "cpu", bf16: bool = False, rounds: int = 11
) -> float:
    """`Segmenter.segment` against an encoder, a 1x1 convolution, a resize and an arg-max, both to labels on the CPU."""
    image = torch.randint(0, 256, (3, size, size), dtype=torch.uint8)
    layout = torch.contiguous_format if device == "cpu" else torch.channels_last
    ours = segmenter(20, backbone).to(device)
    encoder = Encoder(backbone).eval().to(device).to(memory_format=layout)
    classifier = Classifier(600, 20).eval().to(device)
    ours.encoder.to(memory_format=layout)

    def plain() -> Tensor:
        logits = classifier(encoder(image.to(device)[None] / 255.0))
        return F.interpolate(logits, (size, size), mode="bilinear", align_corners=False).argmax(dim=1).cpu()

    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        kinds = {"ours": lambda: ours.predict(image), "plain": plain}
        seconds = in_turns(kinds, rounds, calls=1 if device == "cpu" else 20, device=device)
    return seconds["ours"] / seconds["plain"]


def inference() -> list[Figure]:
    return [Figure("Segmenter inference / plain, 513 x 513", inference_ratio(), 1.25)]


def mmd_pass(classes: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.rand(4096, 600, generator=generator) for _ in range(2))
    labels = torch.randint(0, classes, (4096,), generator=generator)
    fake.requires_grad_()
    return lambda: torch.autograd.backward(class_mmd(real, fake, labels))


def divergence() -> list[Figure]:
    seconds = in_turns({str(classes): mmd_pass(classes) for classes in (15, 150)})
    return [Figure("class_mmd 4,096 x 600, 150 classes / 15, time", seconds["150"] / seconds["15"], 1.2)]


@torch.no_grad()
def evaluate(classes: int, backbone: str = "resnet101") -> Callable[[], object]:
    """Label an image of VOC's size and count it, as a test step does."""
    model, metric = segmenter(classes, backbone), GZSLMeanIoU([str(i) for i in range(classes)], range(classes), [])
    image = torch.randint(0, 256, (1, 3, 375, 500), dtype=torch.uint8)
    target = torch.randint(0, classes, (1, 375, 500))

    @torch.no_grad()
    def step() -> None:
        metric.update(label_scores(model.scores(image), (375, 500), confidence=False).label, target)

    return step


def evaluation() -> list[Figure]:
    steps = {str(classes): evaluate(classes) for classes in (20, 171)}
    seconds = in_turns(steps, rounds=3)
    peak = {classes: in_a_process("parts", "--peak", f"evaluate {classes}")["peak"] for classes in (20, 171)}
    return [
        Figure("evaluating 171 classes / 20 at label resolution, time", seconds["171"] / seconds["20"], 2.0),
        Figure("evaluating 171 classes / 20 at label resolution, memory", peak[171] / peak[20], 1.3),
    ]


def metric() -> list[Figure]:
    classes = 171
    generator = torch.Generator().manual_seed(0)
    preds, target = (torch.randint(0, classes, (8, 512, 512), generator=generator) for _ in range(2))
    target[torch.rand(target.shape, generator=generator) < 0.1] = 255
    ours = GZSLMeanIoU([str(i) for i in range(classes)], range(150), range(150, classes))
    theirs = MulticlassConfusionMatrix(classes, ignore_index=255)
    unchecked = MulticlassConfusionMatrix(classes, ignore_index=255, validate_args=False)
    seconds = in_turns(
        {
            "ours": lambda: ours.update(preds, target),
            "theirs": lambda: theirs.update(preds, target),
            "unchecked": lambda: unchecked.update(preds, target),
        }
    )
    name = "GZSLMeanIoU.update / MulticlassConfusionMatrix, 8 x 512 x 512, 171 classes"
    return [
        Figure(name, seconds["ours"] / seconds["theirs"], 1.0),
        Figure(f"{name}, that without its checks", seconds["ours"] / seconds["unchecked"]),
    ]


def start() -> list[Figure]:
    def python(code: str) -> Callable[[], object]:
        return lambda: subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

    program = "import sys; from sign_zs3.cli import main; main(['--help'])"
    public = "import sign_zs3; [getattr(sign_zs3, name) for name in sign_zs3.__all__]"
    seconds = in_turns(
        {
            "torch": python("import torch"),
            "sign_zs3": python("import sign_zs3"),
            "names": python(public),
            "lightning": python("import pytorch_lightning"),
            "help": python(f"try:\n {program}\nexcept SystemExit: pass"),
        },
        rounds=3,
    )
    return [
        Figure("import sign_zs3 / import torch", seconds["sign_zs3"] / seconds["torch"], 1.5),
        Figure("sign-zs3 --help / import pytorch_lightning", seconds["help"] / seconds["lightning"], 1.5),
        Figure("all names of sign_zs3 / import pytorch_lightning", seconds["names"] / seconds["lightning"]),
    ]


GROUPS: dict[str, Callable[[], list[Figure]]] = {
    "spatial": spatial, "inference": inference, "divergence": divergence, "evaluation": evaluation, "metric": metric,
    "start": start,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--groups", nargs="+", choices=GROUPS, default=list(GROUPS))
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        kind, _, size = options.peak.partition(" ")
        # made before the count, so that weights do not
        step = sim_pass(int(size)) if kind == "sim" else evaluate(int(size))
        with PeakMemory() as peak:
            step()
        print(json.dumps({"peak": peak.grown}))
        return
    for name in options.groups:
        show(GROUPS[name]())


if __name__ == "__main__":
    main()
