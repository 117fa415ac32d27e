"""CLIP and other vision transformers as backbones."""

from __future__ import annotations

import copy
import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sign_zs3 import UserError
from sign_zs3.functional.geometry import Axis
from sign_zs3.models import Encoder, build_backbone
from sign_zs3.models.backbones.places import measure_places
from sign_zs3.tasks.options import TaskOptions
from tests.clip import EMBED, FILE, HEADS, NAME, PATCH, QUICK_NAME, SIDE, tiny_clip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    tiny_clip(path)
    return path


def backbone(folder: Path, **options: Any) -> Any:
    return build_backbone(NAME, weights=str(folder / FILE), **options).eval()


@pytest.mark.parametrize("quick", [False, True])
def test_the_network_is_open_clips_with_the_same_weights(quick: bool, tmp_path: Path) -> None:
    theirs = tiny_clip(tmp_path, quick)
    ours: Any = build_backbone(QUICK_NAME if quick else NAME, weights=str(tmp_path / FILE)).eval()
    images = torch.randn(3, 3, SIDE, SIDE)
    with torch.no_grad():
        torch.testing.assert_close(ours.network(images), theirs.encode_image(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("layout", ["timm", "openai", "prefixed"])
def test_all_layouts_give_the_same_maps(layout: str, folder: Path, tmp_path: Path) -> None:
    want, state = backbone(folder), load_file(folder / FILE)
    other = {
        "timm": {key: value.contiguous() for key, value in want.network.state_dict().items()},
        "openai": state | {"input_resolution": torch.tensor(SIDE), "context_length": torch.tensor(77)},
        "prefixed": {f"module.{key}": value for key, value in state.items()},
    }[layout]
    name = QUICK_NAME if layout == "openai" else NAME
    torch.save({"state_dict": other}, tmp_path / "w.pt")
    got = build_backbone(name, weights=str(tmp_path / "w.pt")).eval()
    for mine, theirs in zip(got.state_dict().values(), want.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("dense", ["value", "correlative", "last"])
def test_dense_maps_are_those_of_a_written_out_last_block(dense: str, folder: Path) -> None:
    """Mix tokens with the matrix A that the docs name, one head at a time."""
    ours = backbone(folder, dense=dense)
    network, images = ours.network, torch.randn(2, 3, 24, 40)
    block, attention = network.blocks[-1], network.blocks[-1].attn
    before: dict[str, Tensor] = {}
    hook = block.register_forward_pre_hook(lambda module, args: before.update(x=args[0]))
    with torch.no_grad():
        network(images)
        hook.remove()
        (got,) = ours(images)
        x = before["x"]
        q, k, v = attention.qkv(block.norm1(x)).chunk(3, dim=2)
        mixed, width = [], q.shape[2] // HEADS
        for head in range(HEADS):
            one = slice(head * width, (head + 1) * width)
            scores = {name: a[:, :, one] @ b[:, :, one].mT / width**0.5 for name, a, b in
                      (("qq", q, q), ("kk", k, k), ("qk", q, k))}  # fmt: skip
            a = {
                "value": torch.eye(x.shape[1]).expand(2, -1, -1),
                "correlative": scores["qq"].softmax(2) + scores["kk"].softmax(2),
                "last": scores["qk"].softmax(2),
            }[dense]
            mixed.append(a @ v[:, :, one])
        y = x + attention.proj(torch.cat(mixed, dim=2))
        y = y + block.mlp(block.norm2(y))
        want = network.head(network.norm(y))[:, 1:].mT.reshape(2, EMBED, 3, 5)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5)


def test_position_embeddings_at_their_own_size_are_as_they_were(folder: Path) -> None:
    want = load_file(folder / FILE)["visual.positional_embedding"]
    network = backbone(folder).network
    assert torch.equal(network.pos_embed[0], want)
    empty = torch.zeros(1, SIDE // PATCH, SIDE // PATCH, want.shape[1])
    with torch.no_grad():
        tokens = network._pos_embed(empty)[0]
    assert torch.equal(tokens[1:], want[1:])


def test_cells_look_at_the_middles_of_patches_as_measured_on_the_patches_convolution(folder: Path) -> None:
    ours = backbone(folder)

    class Patches(type(ours).__mro__[1]):  # type: ignore[misc]
        channels, strides, places = (32,), (PATCH,), None

        def __init__(self) -> None:
            super().__init__()
            self.convolution = ours.network.patch_embed.proj

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return (self.convolution(images),)

    assert ours.places.axes == (Axis(PATCH, (PATCH - 1) / 2),)
    assert measure_places(Patches()) == ours.places


@pytest.mark.parametrize("size", [(1, 1), (7, 30), (32, 32), (33, 65)])
def test_images_of_any_size_and_smaller_than_a_patch(size: tuple[int, int], folder: Path) -> None:
    encoder = Encoder(NAME, EMBED, weights=str(folder / FILE), head="identity", freeze=True).eval()
    with torch.no_grad():
        found = encoder(torch.randn(2, 3, *size))
    assert found.shape == (2, EMBED, -(-size[0] // PATCH), -(-size[1] // PATCH))
    assert found.isfinite().all()
    assert encoder.map_size(size) == tuple(found.shape[2:])


@pytest.mark.parametrize(
    ("name", "patch", "width"),
    [("vit_tiny_patch16_224", 16, 192), ("deit_tiny_patch16_224", 16, 192),
     ("vit_small_patch14_dinov2", 14, 384), ("vit_small_patch16_dinov3", 16, 384),
     ("vit_base_patch16_siglip_224", 16, 768)],
)  # fmt: skip
def test_other_transformers_give_their_last_block_normalised(name: str, patch: int, width: int) -> None:
    ours: Any = build_backbone(f"timm/{name}").eval()
    assert (ours.strides, ours.channels) == ((patch,), (width,))
    images = torch.randn(1, 3, 2 * patch, 3 * patch)
    with torch.no_grad():
        (got,) = ours(images)
        tokens = ours.network.fc_norm(ours.network.forward_features(images))
    torch.testing.assert_close(got.flatten(2).mT, tokens[:, ours.network.num_prefix_tokens :], rtol=1e-4, atol=1e-5)


def test_several_blocks_are_levels_and_heads_read_them() -> None:
    encoder = Encoder("timm/vit_tiny_patch16_224", 8, head="fcn", backbone_levels=["blocks.3", "blocks.11"])
    assert encoder.strides == (16, 16)
    assert encoder(torch.randn(2, 3, 48, 32)).shape == (2, 8, 3, 2)


def test_layer_decay_lowers_the_rates_of_lower_blocks(folder: Path) -> None:
    ours = backbone(folder)
    groups = ours.parameter_groups(0.5)
    rates = {id(p): group["multiplier"] for group in groups for p in group["params"]}
    named = dict(ours.network.named_parameters())
    assert set(rates) == {id(p) for p in named.values()}
    of = {
        key: rates[id(named[f"{key}.weight"])]
        for key in ("head", "blocks.2.mlp.fc1", "blocks.1.mlp.fc1", "patch_embed.proj")
    }
    assert of["head"] == 1
    assert of["blocks.1.mlp.fc1"] == of["blocks.2.mlp.fc1"] / 2
    assert of["patch_embed.proj"] < of["blocks.1.mlp.fc1"]
    with pytest.raises(UserError, match=r"layer_decay: found 0\.5, expected 1"):
        build_backbone("small").parameter_groups(0.5)


def test_colours_are_the_models_own_unless_they_are_given() -> None:
    openai = [0.48145466, 0.4578275, 0.40821073]
    assert TaskOptions(backbone="clip/vit_base_patch16_clip_quickgelu_224").image_mean == openai
    assert TaskOptions(backbone="clip/vit_large_patch14_clip_224.laion2b").image_mean == [0.5, 0.5, 0.5]
    assert TaskOptions(backbone="timm/vit_small_patch14_dinov2").image_mean == [0.485, 0.456, 0.406]
    assert TaskOptions().image_std == [0.229, 0.224, 0.225]
    given = TaskOptions(backbone="clip/vit_base_patch16_clip_224", image_mean=[0.1, 0.2, 0.3])
    assert given.image_mean == [0.1, 0.2, 0.3]
    assert given.image_std != TaskOptions().image_std


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "clip/vit_base_patch16_224"}, "expected a CLIP of timm with its projection"),
        ({"name": "clip/resnet50_clip"}, "expected a CLIP of timm with its projection"),
        ({"name": "clip/vit_base_patch16_clip_384"}, "expected a CLIP of timm with its projection"),
        ({"name": "clip/vit_base_patch16_clip_224.laion2b_ft_in1k"}, "expected a CLIP of timm with its projection"),
        (
            {"name": "clip/vit_base_patch16_clip_999"},
            "does not have: try 'clip/vit_base_patch16_clip_384', 'clip/vit_base_patch16_clip_224'",
        ),
        ({"name": "clip/vit_large_patch14_clip_224"}, "different colours, expected one of .*laion2b"),
        ({"name": "clip/vit_base_patch16_clip_224.nothing"}, "expected one of .*datacompxl"),
        ({"name": NAME, "levels": ["blocks.1"]}, "backbone_levels: .* expected null"),
        ({"name": NAME, "dense": "key"}, "dense: found 'key', expected one of value, correlative, last"),
        ({"name": "timm/vit_tiny_patch16_224", "levels": ["blocks.12"]}, "try blocks"),
        ({"name": "timm/vit_tiny_patch16_224", "levels": ["blocks.3", "blocks.1"]}, "from the first to the last"),
    ],
)
def test_networks_that_cannot_serve_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        build_backbone(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("vision", "message"),
    [({"patch_size": 4}, "patches of 4 pixels, expected the 8"), ({"width": 64, "head_width": 32}, "of another shape")],
)
def test_weights_of_another_width_or_patch_are_refused(vision: dict[str, Any], message: str, tmp_path: Path) -> None:
    tiny_clip(tmp_path, False, **vision)
    with pytest.raises(UserError, match=message):
        build_backbone(NAME, weights=str(tmp_path / FILE))


def test_weights_of_the_other_activation_are_refused_and_unmarked_ones_named(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tiny_clip(tmp_path / "quick", quick=True)
    with pytest.raises(
        UserError, match=f"trained with QuickGELU, which {NAME} does not have: give backbone {QUICK_NAME}"
    ):
        build_backbone(NAME, weights=str(tmp_path / "quick" / FILE))
    with pytest.raises(UserError, match=f"trained with GELU, .* give backbone {NAME}$"):
        build_backbone(QUICK_NAME, weights=str(folder / FILE))
    state = load_file(folder / FILE)
    save_file(state, tmp_path / "bare.safetensors")
    with caplog.at_level(logging.WARNING):
        build_backbone(NAME, weights=str(tmp_path / "bare.safetensors"))
    assert "does not say whether it was trained with QuickGELU" in caplog.text
    save_file({"input_resolution": torch.tensor(32)}, tmp_path / "openai.safetensors")
    for name in (NAME, "timm/vit_xsmall_patch16_clip_224"):
        with pytest.raises(UserError, match="trained with QuickGELU"):
            build_backbone(name, weights=str(tmp_path / "openai.safetensors"))


def test_a_torchscript_archive_is_refused_in_one_line(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "openai.pt"))  # type: ignore[no-untyped-call]
    with pytest.raises(UserError, match=r"TorchScript.*safetensors") as caught:
        build_backbone(NAME, weights=str(tmp_path / "openai.pt"))
    assert "\n" not in str(caught.value)


def test_another_networks_file_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pth")
    with pytest.raises(UserError, match="does not fit the backbone"):
        build_backbone(NAME, weights=str(tmp_path / "linear.pth"))


def test_a_copy_is_as_good_as_the_original(folder: Path) -> None:
    ours = backbone(folder)
    images = torch.randn(1, 3, 24, 24)
    with torch.no_grad():
        assert torch.equal(copy.deepcopy(ours)(images)[0], ours(images)[0])
