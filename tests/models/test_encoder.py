from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision.models import get_model

from sign_zs3 import UserError
from sign_zs3.models import Encoder, build_backbone


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16])
def test_dilated_backbone_on_the_coarse_grid_is_the_strided_one(name: str, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    strided = get_model(name, weights=None).eval()
    torch.save(strided.state_dict(), tmp_path / "r.pth")
    dilated, channels = build_backbone(name, stride, str(tmp_path / "r.pth"))
    images = torch.randn(1, 3, 97, 65)
    with torch.no_grad():
        want = images
        for part in list(strided.children())[:-2]:
            want = part(want)
        got = dilated.eval()(images)
    assert got.shape == (1, channels, -(-97 // stride), -(-65 // stride))
    step = 32 // stride
    torch.testing.assert_close(got[..., ::step, ::step], want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_head_is_the_sum_of_its_branches() -> None:
    torch.manual_seed(0)
    encoder = Encoder((nn.Identity(), 3), feature_dim=4, dilations=(1, 2))
    images = torch.randn(2, 3, 9, 7)
    first, second = encoder.head
    torch.testing.assert_close(encoder(images), first(images) + second(images))


def test_published_head_has_biased_3x3_convolutions_of_four_dilations() -> None:
    head = Encoder((nn.Identity(), 2048), feature_dim=600).head
    assert [c.dilation[0] for c in head if isinstance(c, nn.Conv2d)] == [6, 12, 18, 24]
    assert sum(p.numel() for p in head.parameters()) == 4 * (2048 * 600 * 9 + 600)


def test_input_scales_take_the_maximum() -> None:
    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=8, dilations=(1,)).eval()
    images = torch.randn(1, 3, 32, 32)
    single = encoder(images)
    encoder.input_scales = (1.0, 0.5)
    both = encoder(images)
    assert both.shape == single.shape
    assert bool((both >= single).all())
    assert bool((both > single).any())


@pytest.mark.parametrize(("frozen", "unchanged"), [(True, True), (False, False), (None, False)])
def test_frozen_batch_norm_keeps_its_statistics(frozen: bool | None, unchanged: bool) -> None:
    encoder = Encoder("small", feature_dim=8, dilations=(1,), freeze_batch_norm=frozen).train()
    norm = next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))
    before = norm.running_mean.clone()  # type: ignore[union-attr]
    encoder(torch.randn(2, 3, 16, 16) + 3)
    assert torch.equal(norm.running_mean, before) is unchanged  # type: ignore[arg-type]
    assert norm.weight.requires_grad is not unchanged


def test_weights_from_files(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None).state_dict()
    save_file(state, tmp_path / "r.safetensors")
    backbone, _ = build_backbone("resnet18", 8, str(tmp_path / "r.safetensors"))
    torch.testing.assert_close(next(backbone.parameters()), state["conv1.weight"])


def test_bad_weights_are_named(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("a pickle was executed",))

    torch.save({"x": Evil()}, tmp_path / "evil.pth")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"evil\.pth cannot be read"):
        build_backbone("resnet18", 8, str(tmp_path / "evil.pth"))
    with pytest.raises(UserError, match=r"other\.pth does not fit .* entries missing"):
        build_backbone("resnet18", 8, str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match=r"none\.pth is not there"):
        build_backbone("resnet18", 8, str(tmp_path / "none.pth"))
    with pytest.raises(UserError, match="expected null, one of IMAGENET1K_V1"):
        build_backbone("resnet18", 8, "IMAGENET")
    with pytest.raises(UserError, match="did you mean 'resnet101'"):
        build_backbone("resnet10", 8)
    with pytest.raises(UserError, match="expected 8 or 16"):
        build_backbone("resnet18", 32)
