from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.functional.geometry import Axis
from sign_zs3.models.heads import DeepLabHead, FCNHead, UNetHead, build_head

CHANNELS, STRIDES = (5, 6, 7, 8), (4, 8, 16, 32)
AXES = tuple(Axis(stride) for stride in STRIDES)
PATCHES = tuple(Axis(stride, (stride - 1) / 2) for stride in STRIDES)


def pyramid(extra: int = 1) -> list[Tensor]:
    """Return the levels of an image of 96 x 64 pixels, and `extra` more."""
    torch.manual_seed(0)
    return [torch.randn(2, c, 96 // s + extra, 64 // s + extra) for c, s in zip(CHANNELS, STRIDES, strict=True)]


@pytest.mark.parametrize("patches", [False, True])
def test_fcn_is_a_1x1_convolution_on_the_hypercolumn(patches: bool) -> None:
    torch.manual_seed(1)
    head = FCNHead(CHANNELS, PATCHES if patches else AXES, 9).double()
    projections = [p for p in head.projections if isinstance(p, nn.Conv2d) and p.bias is not None]
    for projection in projections:
        nn.init.normal_(projection.bias)  # type: ignore[arg-type]
    maps = [level.double() * 3 + 1 for level in pyramid(0 if patches else 1)[1:]]
    column = torch.cat(
        [
            F.interpolate(
                (level - level.mean((0, 2, 3), keepdim=True))
                / (level.var((0, 2, 3), unbiased=False, keepdim=True) + 1e-5).sqrt(),
                maps[0].shape[-2:],
                mode="bilinear",
                align_corners=not patches,
            )
            for level in maps
        ],
        dim=1,
    )
    weight = torch.cat([p.weight for p in projections], dim=1)
    bias = torch.stack([p.bias for p in projections if p.bias is not None]).sum(0)
    torch.testing.assert_close(head(maps), F.conv2d(column, weight, bias))


def test_fcn_has_unit_scale_whatever_the_scale_of_the_levels() -> None:
    torch.manual_seed(0)
    head = FCNHead((40, 112, 320), (Axis(8),) * 3, 300)
    maps = [scale * torch.randn(2, c, 16, 16) for c, scale in ((40, 0.01), (112, 1.0), (320, 100.0))]
    assert float(head(maps).detach().std()) == pytest.approx(1, abs=0.1)


def test_unet_begins_at_unit_scale_and_uses_every_level() -> None:
    head = UNetHead(CHANNELS, AXES, 64)
    maps = [level.requires_grad_() for level in pyramid()]
    features = head(maps)
    assert features.shape == (2, 64, 25, 17)
    assert float(features.detach().std()) == pytest.approx(1, abs=0.3)
    features[0, 0, 12, 8].backward()
    for level in maps:
        assert level.grad is not None
        assert bool(level.grad[0].abs().sum() > 0)


def test_heads_read_the_levels_that_they_name() -> None:
    assert DeepLabHead(CHANNELS, 4).levels == (3,)
    assert FCNHead(CHANNELS, AXES, 4).levels == (1, 2, 3)
    assert FCNHead((64,), (Axis(4),), 4).levels == (0,)
    assert build_head("fcn", CHANNELS, AXES, 4, ()).levels == (1, 2, 3)
    assert build_head("fcn16", CHANNELS, AXES, 4, ()).levels == (2, 3)
    assert UNetHead(CHANNELS, AXES, 4).levels == (0, 1, 2, 3)


@pytest.mark.parametrize("name", ["deeplab", "fcn", "fcn16", "unet"])
def test_heads_are_determined_by_the_seed_and_train_every_parameter(name: str) -> None:
    outputs = []
    for _ in range(2):
        torch.manual_seed(3)
        head = build_head(name, CHANNELS, AXES, 16, (1, 2))
        maps = pyramid()
        outputs.append(head([maps[i] for i in head.levels]))
    assert torch.equal(*outputs)
    outputs[1].square().mean().backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in head.parameters())
