from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import nn

from sign_zs3.models import SpatialInformationModule
from sign_zs3.models.spatial.base import Position
from sign_zs3.models.spatial.build import ContextualModule, Encoding, PlainFeatures
from sign_zs3.models.spatial.encodings import SelfAttention, attend_in_windows


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("encoding", "published"),
    [("conv", 5.25e6), ("attention", 5.24e6), ("self_attention", 4.60e6), ("multihead", 4.86e6)],
)
def test_parameter_counts_of_table_2(encoding: Encoding, published: float) -> None:
    module = SpatialInformationModule(600, encoding)
    own = count(module.encoding)
    if encoding == "attention":
        own += count(module.mu) + count(module.logvar)
    assert own == pytest.approx(published, rel=0.01)


@pytest.mark.parametrize("encoding", get_args(Encoding))
@pytest.mark.parametrize("position", get_args(Position))
@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_any_size_and_range(encoding: Encoding, position: Position, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = SpatialInformationModule(24, encoding, position, train_size=(4, 4), heads=4)
    out = module(torch.randn(2, 24, *size), sample=False)
    assert all(x.shape == (2, 24, *size) for x in out)
    assert bool(((out.features > 0) & (out.features < 1)).all())
    torch.testing.assert_close(out.latent, out.mu)


@pytest.mark.parametrize("encoding", get_args(Encoding))
def test_zeroed_last_projection_is_the_identity_branch(encoding: Encoding) -> None:
    torch.manual_seed(0)
    module = SpatialInformationModule(24, encoding, heads=4)
    nn.init.zeros_(module.encoding.last.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(2, 24, 3, 4)
    features = module(x, sample=False).features
    # z = mu = 0 at the start, so the gate is sigmoid(0) = 1/2.
    torch.testing.assert_close(features, torch.sigmoid(1.5 * x))


@pytest.mark.parametrize(
    ("height", "width", "side", "shift"), [(8, 12, 4, 0), (7, 9, 4, 2), (3, 11, 5, 2), (6, 6, 6, 3)]
)
def test_windowed_attention_is_that_of_each_window_cut_out(height: int, width: int, side: int, shift: int) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(8, heads=2)
    grid = torch.randn(2, height, width, 8)
    found = attend_in_windows(attention, grid, side, shift)
    expected = torch.full_like(grid, torch.nan)
    for top in range(-shift, height, side):
        for left in range(-shift, width, side):
            part = (slice(None), slice(max(top, 0), top + side), slice(max(left, 0), left + side))
            expected[part] = attention(grid[part].flatten(1, 2)).view_as(grid[part])
    torch.testing.assert_close(found, expected)


def test_one_window_is_attention_among_all_pixels() -> None:
    torch.manual_seed(0)
    whole = SpatialInformationModule(24, heads=4)
    windowed = SpatialInformationModule(24, heads=4, window=6)
    windowed.load_state_dict(whole.state_dict())
    x = torch.randn(2, 24, 5, 6)
    assert torch.equal(windowed(x, sample=False).features, whole(x, sample=False).features)
    x = torch.randn(2, 24, 5, 7)
    assert not torch.allclose(windowed(x, sample=False).features, whole(x, sample=False).features)


def test_shifted_windows_let_neighbours_meet() -> None:
    torch.manual_seed(0)
    module = SpatialInformationModule(24, heads=4, window=4)
    x = torch.randn(1, 24, 8, 8)
    moved = x.clone()
    moved[..., 0, 0] += 1
    changed = (module(moved, sample=False).features != module(x, sample=False).features).any(dim=1)[0]
    # the first and third blocks' windows end at 4, the second's at 2 and 6
    assert bool(changed.all())


@pytest.mark.parametrize("encoding", ["multihead", "self_attention"])
def test_attention_stays_within_an_image(encoding: Encoding) -> None:
    torch.manual_seed(0)
    module = SpatialInformationModule(24, encoding, heads=4).eval()
    x = torch.randn(3, 24, 4, 5)
    torch.testing.assert_close(module(x).features[1:2], module(x[1:2]).features)
    moved = x.clone()
    moved[0] += 1
    torch.testing.assert_close(module(moved).features[1:], module(x).features[1:])


@pytest.mark.parametrize("encoding", ["multihead", "self_attention"])
def test_attention_without_positions_permutes_with_its_pixels(encoding: Encoding) -> None:
    torch.manual_seed(0)
    bare = SpatialInformationModule(24, encoding, "none", heads=4).eval()
    x = torch.randn(1, 24, 4, 4)
    torch.testing.assert_close(bare(x.flip(-1)).features, bare(x).features.flip(-1))
    placed = SpatialInformationModule(24, encoding, "relative", heads=4).eval()
    assert not torch.allclose(placed(x.flip(-1)).features, placed(x).features.flip(-1))


def test_heads_are_those_of_torch() -> None:
    torch.manual_seed(0)
    encoding: Any = SpatialInformationModule(24, "multihead", heads=4).encoding
    attention = encoding.attentions[0]
    width = attention.project_in.in_features
    oracle = nn.MultiheadAttention(width, 4, batch_first=True)
    oracle.in_proj_weight.data, oracle.in_proj_bias.data = attention.project_in.weight, attention.project_in.bias
    oracle.out_proj.weight.data, oracle.out_proj.bias.data = attention.project_out.weight, attention.project_out.bias
    x = torch.randn(2, 6, width)
    torch.testing.assert_close(attention(x), oracle(x, x, x, need_weights=False)[0])


def test_sampled_latent_has_the_mean_and_deviation_it_says() -> None:
    torch.manual_seed(0)
    module = SpatialInformationModule(8, "conv")
    nn.init.constant_(module.mu.bias, 2.0)  # type: ignore[arg-type]
    nn.init.constant_(module.logvar.bias, -1.0)  # type: ignore[arg-type]
    latent = module(torch.randn(4, 8, 40, 40), sample=True).latent.detach()
    assert float(latent.mean()) == pytest.approx(2.0, abs=0.02)
    assert float(latent.std()) == pytest.approx(0.6065, abs=0.02)


def test_window_sees_its_place_in_the_whole() -> None:
    module = SpatialInformationModule(24, "conv")
    whole = module.position_map(8, 10)
    torch.testing.assert_close(module.position_map(3, 4, (2, 5), (8, 10)), whole[:, 2:5, 5:9])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoding": "dense"}, "expected multihead"),
        ({"position": "polar"}, "expected one of relative"),
        ({"position": "interpolated"}, "needs train_size"),
        ({"feature_dim": 26}, "multiple of 4"),
        ({"width": 30, "heads": 8}, "multiple of heads"),
        ({"window": 1}, "whole number of 2 to"),
        ({"window": 8, "encoding": "conv"}, "no attention"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SpatialInformationModule(**({"feature_dim": 24} | options))  # type: ignore[arg-type]


def test_contextual_module_has_cagnets_layers() -> None:
    module = ContextualModule(600)
    want = (
        9 * 600 * 256 + 2 * 9 * 256 * 256  # 3x3 at dilations 1, 2 and 5
        + 9 * 768 * 3  # gate
        + 768 * 600  # 1x1
        + 2 * (9 * 600 * 600 + 600)  # mu and logvar
    )  # fmt: skip
    assert count(module) == want
    assert [c.dilation for c in module.context.scales if isinstance(c, nn.Conv2d)] == [(1, 1), (2, 2), (5, 5)]


@pytest.mark.parametrize("size", [(1, 1), (5, 9)])
def test_contextual_module_starts_from_pure_noise(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module = ContextualModule(24)
    x = torch.randn(2, 24, *size)
    mean, drawn = module(x, sample=False), module(x)
    for out in (mean, drawn):
        assert not out.mu.any()
        assert not out.logvar.any()
        torch.testing.assert_close(out.features, torch.sigmoid(x + x * torch.sigmoid(out.latent)))
    assert not mean.latent.any()
    assert drawn.latent.all()
    assert not module.eval()(x).latent.any()


def test_contextual_module_sees_its_dilations_and_no_position() -> None:
    torch.manual_seed(0)
    module = ContextualModule(8, width=4).eval()
    nn.init.normal_(module.mu.weight)
    x = torch.randn(1, 8, 1, 40)
    moved = x.clone()
    moved[..., 20] += 1
    changed = (module(moved).mu != module(x).mu).any(dim=1)[0, 0].nonzero().flatten()
    # dilations 1 + 2 + 5, the gate's 3x3 on top of them, and mu's 3x3
    assert changed.tolist() == list(range(20 - 10, 20 + 10 + 1))
    window = module(x, origin=(0, 3), full_size=(1, 80))
    assert torch.equal(window.features, module(x).features)


@pytest.mark.parametrize("sigmoid", [True, False])
def test_plain_features_are_the_encoders(sigmoid: bool) -> None:
    torch.manual_seed(0)
    module = PlainFeatures(8, sigmoid)
    x = torch.randn(4, 8, 40, 40)
    drawn, mean = module(x), module(x, sample=False)
    for out in (drawn, mean):
        assert torch.equal(out.features, x.sigmoid() if sigmoid else x)
        assert not out.mu.any()
        assert not out.logvar.any()
    assert mean.latent.shape == x.shape
    assert not mean.latent.any()
    assert float(drawn.latent.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(drawn.latent.std()) == pytest.approx(1.0, abs=0.02)
    assert not module.eval()(x).latent.any()
    assert module(x, sample=True).latent.any()
    assert not module.state_dict()
