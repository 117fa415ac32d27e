"""Files with the names, shapes and wrappers of released ones, and what their networks compute, in plain arithmetic.

Names, shapes and formulas are those of the published code of SIGN, CaGNet, SPNet and ZS3Net (facts, not their text).
The ResNet-101 is whole; the feature dimension is 24 instead of 600.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.splits import PUBLISHED

D = 24
WORDS = 20
HIDDEN = 16
BLOCKS = (3, 4, 23, 3)
SCALED = {64: 8, 128: 8, 512: 24, 256: 10}  # widths at D = 24
CLASSES = {"voc": 20, "context": 33, "coco_stuff": 182}
TYPES = ("1", "2", "2.1", "3", "4", "5", "6", "7", "8")


class Drawn(dict[str, Tensor]):
    """Random entries, by name; those that are `thin` have a number per output channel and take no room in files."""

    def __init__(self, seed: int, thin: bool = False) -> None:
        super().__init__()
        self.generator, self.thin = torch.Generator().manual_seed(seed), thin

    def conv(
        self, name: str, out: int, channels: int, size: int = 1, bias: bool = False, gain: float = 2.0**0.5
    ) -> None:
        sides = (1, 1, 1) if self.thin else (channels, size, size)
        weight = torch.randn(out, *sides, generator=self.generator) * gain / (channels * size * size) ** 0.5
        self[f"{name}.weight"] = weight.expand(out, channels, size, size)
        if bias:
            self[f"{name}.bias"] = torch.randn(out, generator=self.generator) * 0.1

    def norm(self, name: str, channels: int, gain: float = 1.0) -> None:
        self[f"{name}.weight"] = gain * (1 + 0.1 * torch.randn(channels, generator=self.generator))
        self[f"{name}.bias"] = 0.1 * torch.randn(channels, generator=self.generator)
        self[f"{name}.running_mean"] = 0.1 * torch.randn(channels, generator=self.generator)
        self[f"{name}.running_var"] = 1 + 0.1 * torch.rand(channels, generator=self.generator)


def caffe_resnet(drawn: Drawn, prefix: str, shortcut: str = "proj") -> None:
    """The encoder of deeplab-pytorch and of what is built on it."""
    drawn.conv(f"{prefix}layer1.conv1.conv", 64, 3, 7)
    drawn.norm(f"{prefix}layer1.conv1.bn", 64)
    before = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(1, blocks + 1):
            place = f"{prefix}layer{stage + 2}.block{block}."
            sizes = [("reduce", width, before, 1), ("conv3x3", width, width, 3), ("increase", 4 * width, width, 1)]
            if block == 1:
                sizes.append((shortcut, 4 * width, before, 1))
            for name, out, channels, size in sizes:
                drawn.conv(f"{place}{name}.conv", out, channels, size)
                # residuals that do not grow over 33 blocks
                drawn.norm(f"{place}{name}.bn", out, 0.2 if name == "increase" else 1.0)
            before = 4 * width


def chain(drawn: Drawn, names: tuple[str, str, str, str, str], channels: int, width: int, out: int) -> None:
    for index, name in enumerate(names[:3]):
        drawn.conv(f"back.scale.{name}.conv", width, channels if index == 0 else width, 3)
    drawn.conv(f"back.scale.{names[3]}.conv", 3, 3 * width, 3)
    drawn.conv(f"back.scale.{names[4]}.conv", out, 3 * width)


CONTEXT = ("contextual1", "contextual2", "contextual3", "fc_1", "contextualpool")
POSITIONS = ("positional1", "positional2", "positional3", "fc_2", "positionalpool")


def spatial_part(drawn: Drawn, network_type: str | None) -> None:
    """CaGNet's contextual part and, with a type, SIGN's encoding before it."""
    chain(drawn, CONTEXT, D, SCALED[256], D)
    for name in ("mu", "sigma"):
        drawn.conv(f"back.scale.contextuallocal{name}.conv", D, D, 3)
    if network_type in ("1", "2", "2.1"):
        out = 5 if network_type == "2" else D
        chain(drawn, POSITIONS, 2 * D, SCALED[256], out)
        for name in ("mu", "sigma") if network_type != "1" else ():
            drawn.conv(f"back.scale.positionallocal{name}.conv", D, out, 3)
    elif network_type is not None:
        first = 2 * D
        if network_type not in ("3", "4"):
            drawn.conv("back.scale.positional_conv1.conv", D, 2 * D)
            first = D
        multihead = network_type in ("4", "6")
        width = SCALED[512 if multihead else 64 if network_type == "3" else 128]
        for index, (channels, out) in enumerate(((first, width), (width, width), (width, D))):
            drawn.conv(f"back.scale.positional_feedforward{index}.conv", out, channels)
        for number in (1, 2):
            place = f"back.scale.positional_self_att{number}."
            if multihead:
                for name, rows in (("in_proj", 3 * width), ("out_proj", width)):
                    drawn.conv("part", rows, width, bias=True)
                    dot = "_" if name == "in_proj" else "."
                    drawn[f"{place}{name}{dot}weight"] = drawn.pop("part.weight")[:, :, 0, 0]
                    drawn[f"{place}{name}{dot}bias"] = drawn.pop("part.bias")
            else:
                for name in ("f", "g", "h", "out_conv"):
                    drawn.conv(f"{place}{name}", width, width, bias=True)


def generative_part(drawn: Drawn, classes: int, seen: int) -> None:
    widths = [2 * D - D + WORDS, *(max(1, w * D // 600) for w in (1024, 960, 864, 784, 720)), D]
    for index in range(6):
        drawn.conv(f"gen.mlp.{index}" + (".conv" if index < 5 else ""), widths[index + 1], widths[index], bias=True)
    drawn.conv("dis.fc.conv", HIDDEN, D, bias=True)
    drawn.conv("dis.pred", 1, HIDDEN, bias=True)
    drawn.conv("dis.cls", classes + 1, HIDDEN, bias=True)
    vectors = torch.randn(classes, WORDS, generator=drawn.generator)
    drawn["Em_all.weight"] = F.normalize(vectors, dim=1)
    drawn["Em_vis.weight"] = torch.zeros(256, WORDS)
    drawn["Em_vis.weight"][:seen] = drawn["Em_all.weight"][:seen]


def aspp(drawn: Drawn, prefix: str, out: int) -> None:
    for index in range(4):
        drawn.conv(f"{prefix}c{index}", out, 2048, 3, bias=True, gain=0.4)


SEEN = {"voc": 15, "context": 29, "coco_stuff": 167}


def sign_entries(network_type: str | None, dataset: str = "voc", thin: bool = False) -> Drawn:
    """SIGN's entries, or without a type CaGNet's."""
    drawn = Drawn(0, thin)
    caffe_resnet(drawn, "back.scale.")
    aspp(drawn, "back.scale.aspp.stages.", D)
    spatial_part(drawn, network_type)
    generative_part(drawn, CLASSES[dataset], SEEN[dataset])
    return drawn


def spnet_entries(thin: bool = False) -> Drawn:
    drawn = Drawn(0, thin)
    caffe_resnet(drawn, "module.scale.")
    aspp(drawn, "module.scale.aspp.stages.", WORDS)
    return drawn


def zs3_entries(thin: bool = False) -> Drawn:
    drawn = Drawn(0, thin)
    drawn.conv("backbone.conv1", 64, 3, 7)
    drawn.norm("backbone.bn1", 64)
    before = 64
    for stage, blocks in enumerate(BLOCKS):
        width = 64 * 2**stage
        for block in range(blocks):
            place = f"backbone.layer{stage + 1}.{block}."
            for number, out, channels, size in ((1, width, before, 1), (2, width, width, 3), (3, 4 * width, width, 1)):
                drawn.conv(f"{place}conv{number}", out, channels, size)
                drawn.norm(f"{place}bn{number}", out, 0.2 if number == 3 else 1.0)
            if block == 0:
                drawn.conv(f"{place}downsample.0", 4 * width, before)
                drawn.norm(f"{place}downsample.1", 4 * width)
            before = 4 * width
    for number, size in ((1, 1), (2, 3), (3, 3), (4, 3)):
        drawn.conv(f"aspp.aspp{number}.atrous_conv", 256, 2048, size)
        drawn.norm(f"aspp.aspp{number}.bn", 256)
    for conv, norm, out, channels, size in (
        ("aspp.global_avg_pool.1", "aspp.global_avg_pool.2", 256, 2048, 1),
        ("aspp.conv1", "aspp.bn1", 256, 1280, 1),
        ("decoder.conv1", "decoder.bn1", 48, 256, 1),
        ("decoder.last_conv.0", "decoder.last_conv.1", 256, 304, 3),
        ("decoder.last_conv.4", "decoder.last_conv.5", 256, 256, 3),
    ):
        drawn.conv(conv, out, channels, size)
        drawn.norm(norm, out)
    drawn.conv("decoder.pred_conv", 21, 256, bias=True)
    return drawn


def wrapped(entries: dict[str, Tensor], kind: str) -> dict[str, Any]:
    """What the authors' trainings saved around the weights."""
    moved = {"state": {0: {"momentum_buffer": torch.zeros(3)}}, "param_groups": [{"lr": 2.5e-4, "params": [0]}]}
    state = dict(entries)
    files: dict[str, dict[str, Any]] = {
        "sign": {"iteration": 6000, "state_dict": state, "back_opt": moved, "dis_opt": moved, "gen_opt": moved},
        "cagnet": {"iteration": 6000, "state_dict": state},
        "spnet": {"iteration": 20000, "state_dict": state, "optimizer": moved},
        "zs3": {"epoch": 9, "state_dict": state, "optimizer": moved, "best_pred": np.float64(0.5)},
        "deeplab": state,
    }
    return files[kind]


def written(path: Path, entries: dict[str, Tensor], kind: str, older: bool = False) -> Path:
    torch.save(wrapped(entries, kind), path, _use_new_zipfile_serialization=not older)
    return path


def table(path: Path, dataset: str = "voc", vectors: Tensor | None = None) -> Path:
    """A table of class vectors, WORDS numbers each, in the order of the data set's ids."""
    names = list(PUBLISHED[dataset].names.values())
    drawn = np.random.default_rng(0).normal(size=(len(names), WORDS)) if vectors is None else vectors.numpy()
    np.savez(path, names=np.array(names), words=drawn.astype(np.float32))
    return path


# -- what they compute ---------------------------------------------------------------------------------------------


class Oracle:
    """The released networks' formulas on their own entries, in float64; images are RGB in [0, 255]."""

    def __init__(self, entries: dict[str, Tensor]) -> None:
        self.of = {key: value.double() for key, value in entries.items()}

    def conv(self, x: Tensor, name: str, stride: int = 1, padding: int = 0, dilation: int = 1) -> Tensor:
        weight, bias = self.of[f"{name}.weight"], self.of.get(f"{name}.bias")
        return F.conv2d(x, weight, bias, stride, padding, dilation)

    def norm(self, x: Tensor, name: str) -> Tensor:
        mean, var, weight, bias = (
            self.of[f"{name}.{part}"].view(1, -1, 1, 1) for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    def caffe_features(self, images: Tensor, prefix: str, head: str) -> Tensor:
        """E(x): BGR less the mean; each block's stride in its first 1x1; layers 4 and 5 dilated whole."""
        mean = torch.tensor([104.008, 116.669, 122.675], dtype=torch.float64).view(1, 3, 1, 1)
        x = images.double().flip(1) - mean
        x = self.norm(self.conv(x, f"{prefix}layer1.conv1.conv", 2, 3), f"{prefix}layer1.conv1.bn").relu()
        x = F.max_pool2d(x, 3, 2, 1, ceil_mode=True)
        for layer, (blocks, stride, dilation) in enumerate(zip(BLOCKS, (1, 2, 1, 1), (1, 1, 2, 4), strict=True), 2):
            for block in range(1, blocks + 1):
                place, step = f"{prefix}layer{layer}.block{block}.", stride if block == 1 else 1
                y = self.norm(self.conv(x, f"{place}reduce.conv", step), f"{place}reduce.bn").relu()
                y = self.conv(y, f"{place}conv3x3.conv", 1, dilation, dilation)
                y = self.norm(y, f"{place}conv3x3.bn").relu()
                y = self.norm(self.conv(y, f"{place}increase.conv"), f"{place}increase.bn")
                if block == 1:
                    x = self.norm(self.conv(x, f"{place}proj.conv", step), f"{place}proj.bn")
                x = (x + y).relu()
        return torch.stack([self.conv(x, f"{head}c{i}", 1, d, d) for i, d in enumerate((6, 12, 18, 24))]).sum(0)

    def chained(self, x: Tensor, names: tuple[str, ...]) -> Tensor:
        """Three dilated convolutions, each weighed by its gate, and a 1x1; a ReLU after each."""
        maps = []
        for name, dilation in zip(names[:3], (1, 2, 5), strict=True):
            x = self.conv(x, f"back.scale.{name}.conv", 1, dilation, dilation).relu()
            maps.append(x)
        gate = f"back.scale.{names[3]}.conv"
        gates = self.conv(torch.cat(maps, 1), gate, padding=1).relu().sigmoid()
        weighed = torch.cat([gates[:, i : i + 1] * m for i, m in enumerate(maps)], 1)
        return self.conv(weighed, f"back.scale.{names[4]}.conv").relu()

    def spatial(self, a: Tensor, network_type: str | None, across_batch: bool = False) -> dict[str, Tensor]:
        h = a if network_type is None else self.encoded(a, network_type, across_batch)
        context = self.chained(h.sigmoid(), CONTEXT)
        mu = self.conv(context, "back.scale.contextuallocalmu.conv", padding=1)
        logvar = self.conv(context, "back.scale.contextuallocalsigma.conv", padding=1).relu()
        return {"features": (h + h * mu.sigmoid()).sigmoid(), "mu": mu, "logvar": logvar}

    def encoded(self, a: Tensor, network_type: str, across_batch: bool) -> Tensor:
        u = torch.cat([a.sigmoid(), positions(a)], 1)
        if network_type in ("1", "2", "2.1"):
            p = self.chained(u, POSITIONS)
            if network_type == "1":
                return a + p
            return a + a * self.conv(p, "back.scale.positionallocalmu.conv", padding=1).sigmoid()

        def ff(x: Tensor, number: int) -> Tensor:
            return self.conv(x, f"back.scale.positional_feedforward{number}.conv").relu()

        def attend(x: Tensor, number: int) -> Tensor:
            place = f"back.scale.positional_self_att{number}."
            if network_type in ("4", "6"):
                return self.multihead(x, place, across_batch)
            return self.dot(x, place)

        if network_type in ("3", "4"):
            return ff(attend(ff(attend(ff(u, 0), 1), 1), 2), 2)
        h = self.conv(u, "back.scale.positional_conv1.conv").relu()
        if network_type in ("5", "6"):
            return h + ff(attend(ff(attend(ff(h, 0), 1), 1), 2), 2)
        r = ff(h, 0)
        r = attend(r, 1) + r
        r = ff(r, 1) + r
        r = attend(r, 2) + r
        return ff(r, 2)

    def dot(self, x: Tensor, place: str) -> Tensor:
        f, g, h = (self.conv(x, f"{place}{name}").flatten(2) for name in "fgh")
        shares = torch.einsum("nci,ncj->nij", f, g).softmax(2)
        return self.conv(torch.einsum("nij,ncj->nci", shares, h).view_as(x), f"{place}out_conv") + x

    def multihead(self, x: Tensor, place: str, across_batch: bool) -> Tensor:
        """Attention of 8 heads; across the batch, the cells take turns, and the images are the sequence."""
        n, width, rows, columns = x.shape
        tokens = x.flatten(2).permute(0, 2, 1)  # (n, cells, width)
        if across_batch:
            tokens = tokens.transpose(0, 1)
        qkv = tokens @ self.of[f"{place}in_proj_weight"].T + self.of[f"{place}in_proj_bias"]
        mixed = []
        for head in range(8):
            size = width // 8
            q, k, v = (qkv[..., part * width + head * size :][..., :size] for part in range(3))
            mixed.append((q @ k.transpose(1, 2) / math.sqrt(size)).softmax(2) @ v)
        out = torch.cat(mixed, 2) @ self.of[f"{place}out_proj.weight"].T + self.of[f"{place}out_proj.bias"]
        out = out.transpose(0, 1) if across_batch else out
        return out.permute(0, 2, 1).reshape(n, width, rows, columns)

    def classified(self, features: Tensor) -> Tensor:
        """Logits of the released order, the background last."""
        return self.conv(self.conv(features, "dis.fc.conv").relu(), "dis.cls")

    def discriminated(self, features: Tensor) -> Tensor:
        return self.conv(self.conv(features, "dis.fc.conv").relu(), "dis.pred")

    def generated(self, words: Tensor, latent: Tensor) -> Tensor:
        x = torch.cat([words, latent], 1)
        for index in range(5):
            x = F.leaky_relu(self.conv(x, f"gen.mlp.{index}.conv"), 0.2)
        return self.conv(x, "gen.mlp.5").sigmoid()

    def zs3_features(self, images: Tensor) -> Tensor:
        """DeepLab-v3+ of output stride 16 and multi-grid (1, 2, 4), up to its last 1x1 convolution."""
        mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)
        x = (images.double() / 255 - mean) / std
        x = self.norm(self.conv(x, "backbone.conv1", 2, 3), "backbone.bn1").relu()
        x, low = F.max_pool2d(x, 3, 2, 1), torch.empty(0)
        for stage, (blocks, stride) in enumerate(zip(BLOCKS, (1, 2, 2, 1), strict=True), 1):
            for block in range(blocks):
                place, step = f"backbone.layer{stage}.{block}.", stride if block == 0 else 1
                dilation = 2 * (1, 2, 4)[block] if stage == 4 else 1
                y = self.norm(self.conv(x, f"{place}conv1"), f"{place}bn1").relu()
                y = self.norm(self.conv(y, f"{place}conv2", step, dilation, dilation), f"{place}bn2").relu()
                y = self.norm(self.conv(y, f"{place}conv3"), f"{place}bn3")
                if block == 0:
                    x = self.norm(self.conv(x, f"{place}downsample.0", step), f"{place}downsample.1")
                x = (x + y).relu()
            low = x if stage == 1 else low
        branches = [
            self.norm(self.conv(x, f"aspp.aspp{i}.atrous_conv", 1, d if i > 1 else 0, d), f"aspp.aspp{i}.bn").relu()
            for i, d in enumerate((1, 6, 12, 18), 1)
        ]
        pooled = self.conv(x.mean((2, 3), keepdim=True), "aspp.global_avg_pool.1")
        pooled = self.norm(pooled, "aspp.global_avg_pool.2").relu().expand_as(branches[0])
        x = self.norm(self.conv(torch.cat([*branches, pooled], 1), "aspp.conv1"), "aspp.bn1").relu()
        low = self.norm(self.conv(low, "decoder.conv1"), "decoder.bn1").relu()
        x = F.interpolate(x, low.shape[-2:], mode="bilinear", align_corners=True)
        x = torch.cat([x, low], 1)
        for conv, norm in ((0, 1), (4, 5)):
            x = self.norm(self.conv(x, f"decoder.last_conv.{conv}", padding=1), f"decoder.last_conv.{norm}").relu()
        return x


def positions(like: Tensor) -> Tensor:
    """Sine and cosine of linspace(0, 511, n) over 10000^(2k / (D / 2)): columns first, then rows."""
    _, dim, rows, columns = like.shape
    halves = []
    for count, axis in ((columns, 1), (rows, 0)):
        at = torch.linspace(0, 511, count, dtype=torch.float64)
        channels = [
            wave(at / 10000 ** (2 * k / (dim // 2))) for k in range(dim // 4) for wave in (torch.sin, torch.cos)
        ]
        half = torch.stack(channels)
        halves.append(half[:, None, :].expand(-1, rows, -1) if axis else half[:, :, None].expand(-1, -1, columns))
    return torch.cat(halves).expand(len(like), -1, -1, -1)
