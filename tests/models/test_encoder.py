from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from sign_zs3 import UserError
from sign_zs3.functional.geometry import Axis, Places
from sign_zs3.models import (
    Backbone,
    Classifier,
    Encoder,
    Segmenter,
    SpatialInformationModule,
)
from sign_zs3.models.heads import DeepLabHead


def test_head_is_the_sum_of_its_branches() -> None:
    torch.manual_seed(0)
    encoder = Encoder((nn.Identity(), 3), feature_dim=4, dilations=(1, 2))
    images = torch.randn(2, 3, 9, 7)
    assert isinstance(encoder.head, DeepLabHead)
    first, second = encoder.head
    torch.testing.assert_close(encoder(images), first(images) + second(images))


def test_published_head_has_biased_3x3_convolutions_of_four_dilations() -> None:
    head = Encoder((nn.Conv2d(3, 2048, 1), 2048), feature_dim=600).head
    assert isinstance(head, DeepLabHead)
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


def test_frozen_backbone_is_a_function_of_the_image_alone() -> None:
    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=8, head="fcn", freeze=True).train()
    images = torch.randn(2, 3, 16, 16)
    before = {key: value.clone() for key, value in encoder.backbone.state_dict().items()}
    optimizer = torch.optim.SGD(encoder.parameters(), lr=1.0, weight_decay=0.1)
    encoder(images).square().mean().backward()
    optimizer.step()
    assert not any(p.requires_grad for p in encoder.backbone.parameters())
    assert all(p.grad is not None for p in encoder.head.parameters())
    for key, value in encoder.backbone.state_dict().items():
        assert torch.equal(value, before[key]), key
    assert not any(level.requires_grad for level in encoder.maps(images.requires_grad_()))
    assert torch.equal(encoder.maps(images)[0], encoder.eval().maps(images)[0])
    encoder.train()
    assert encoder.head.training
    assert not any(m.training for m in encoder.backbone.modules())


@pytest.mark.parametrize(("freeze", "freeze_batch_norm"), [(True, False), (False, True), (False, False)])
def test_own_parameters_are_those_that_may_be_trained(freeze: bool, freeze_batch_norm: bool) -> None:
    encoder = Encoder("small", feature_dim=8, head="unet", freeze=freeze, freeze_batch_norm=freeze_batch_norm)
    own = {id(parameter) for parameter in encoder.own_parameters()}
    assert own == {id(parameter) for parameter in encoder.parameters() if parameter.requires_grad}
    # the head is always trained, its batch norms too
    assert own >= {id(parameter) for parameter in encoder.head.parameters()}
    assert (len(own) == len(list(encoder.parameters()))) is not (freeze or freeze_batch_norm)


@pytest.mark.parametrize("head", ["deeplab", "fcn", "fcn16", "unet"])
def test_maps_stand_for_images(head: str) -> None:
    torch.manual_seed(0)
    encoder = Encoder("resnet18", feature_dim=8, output_stride=32, head=head, freeze=True).eval()
    images = torch.randn(1, 3, 64, 96)
    maps = encoder.maps(images)
    assert encoder.strides == {"deeplab": (32,), "fcn": (8, 16, 32), "fcn16": (16, 32), "unet": (4, 8, 16, 32)}[head]
    assert [tuple(level.shape[-2:]) for level in maps] == [(64 // s + 1, 96 // s + 1) for s in encoder.strides]
    want = encoder(images)
    assert want.shape == (1, 8, *encoder.map_size((64, 96))) == (1, 8, *maps[0].shape[-2:])
    torch.testing.assert_close(encoder(list(maps)), want, rtol=0, atol=0)
    half = encoder([level.half() for level in maps])
    assert half.dtype == torch.float32
    assert torch.equal(half, encoder([level.half().float() for level in maps]))
    with pytest.raises(ValueError, match="found 5, expected"):
        encoder([maps[0]] * 5)


def test_several_input_scales_need_images() -> None:
    encoder = Encoder("small", feature_dim=8, input_scales=(1.0, 0.5))
    maps = encoder.maps(torch.randn(1, 3, 16, 16))
    with pytest.raises(ValueError, match=r"input_scales: found \(1.0, 0.5\) beside maps"):
        encoder(maps)


def test_a_backbone_of_ones_own() -> None:
    class Halves(Backbone):
        channels = (3, 3)
        strides = (8, 16)

        def forward(self, images: Tensor) -> tuple[Tensor, ...]:
            return images[..., ::8, ::8], images[..., ::16, ::16]

    encoder = Encoder(Halves(), feature_dim=5, head="fcn")
    assert encoder.strides == (8, 16)
    assert encoder(torch.randn(2, 3, 32, 32)).shape == (2, 5, 5, 5)
    assert encoder.places == Places((Axis(8), Axis(16)), 16, 1)


def test_unknown_head_is_named() -> None:
    with pytest.raises(UserError, match="head: found 'fpn', expected one of deeplab, fcn, fcn16, unet"):
        Encoder("small", head="fpn")


def test_segmenter_reads_maps_for_images() -> None:
    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=8, head="fcn", freeze=True)
    segmenter = Segmenter(encoder, SpatialInformationModule(8), Classifier(8, 5), num_seen=4).eval()
    images = torch.randint(0, 256, (2, 3, 32, 40), dtype=torch.uint8)
    maps = segmenter.maps(images)
    want = segmenter(images, seen_penalty=0.3)
    assert bool(want[:, :4].isfinite().all())
    assert torch.equal(segmenter(maps, seen_penalty=0.3), want)
    assert torch.equal(
        segmenter.features(list(maps), sample=False).features, segmenter.features(images, False).features
    )
    found, want_scores = segmenter.scores(maps, size=(32, 40)), segmenter.scores(images)
    assert torch.equal(found.views[0].values, want_scores.views[0].values)
    assert found[1:] == want_scores[1:] and found.views[0].cells == want_scores.views[0].cells
    with pytest.raises(UserError, match=r"flip True.*feature cache"):
        segmenter.scores(maps, flip=True, size=(32, 40))
    with pytest.raises(UserError, match=r"scales \[1.0, 2.0\].*feature cache"):
        segmenter.scores(maps, scales=(1.0, 2.0), size=(32, 40))
