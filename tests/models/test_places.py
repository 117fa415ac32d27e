"""Where cells look: by mirror images, by gradients, and by padding."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet

from sign_zs3 import UserError
from sign_zs3.functional.geometry import Axis, Places, resize_scores
from sign_zs3.models import Encoder
from sign_zs3.models.backbones import Backbone, build_backbone
from sign_zs3.models.backbones.places import _by_gradients, _random_weights, measure_places

NETWORKS: dict[str, tuple[str, int, Places]] = {
    "built-in": ("small", 4, Places((Axis(4),), 4, 1)),
    "ResNet-50, stride 8": ("resnet50", 8, Places((Axis(4), *3 * (Axis(8),)), 8, 1)),
    "ResNet-50, stride 16": ("resnet50", 16, Places((Axis(4), Axis(8), *2 * (Axis(16),)), 16, 1)),
    "EfficientNet-Lite": ("timm/tf_efficientnet_lite0", 32, Places((Axis(4), Axis(8), Axis(16), Axis(32)), 32, 1)),
    "ConvNeXt": ("timm/convnext_atto", 32, Places((Axis(4, 1.5), Axis(8, 3.5), Axis(16, 7.5), Axis(32, 15.5)), 32, 0)),
}
SIZES = [(321, 321), (375, 500), (480, 640), (47, 61)]


@pytest.fixture(params=NETWORKS)
def built(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[Encoder, Places]:
    """An encoder, and the places that its kind has; ResNets are narrow ones."""
    monkeypatch.setattr(
        "torchvision.models.get_model", lambda *_, **__: ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=8)
    )
    name, stride, places = NETWORKS[request.param]
    torch.manual_seed(0)
    return Encoder(name, 8, stride, dilations=(1,)).eval(), places


def symmetric(network: nn.Module) -> None:
    """Make each kernel its own mirror image: then only the places of cells tell left from right."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.detach()
            for dim in (-1, -2):
                weight = (weight + weight.flip(dim)) / 2
            module.weight.data = weight


def test_places_are_measured(built: tuple[Encoder, Places]) -> None:
    encoder, places = built
    assert encoder.places == places
    for size in SIZES:
        padded = [places.padded(side) for side in size]
        assert all(0 <= more - side < places.step for more, side in zip(padded, size, strict=True))
        assert all((side - places.extra) % places.step == 0 for side in padded)


@pytest.mark.parametrize("size", SIZES)
def test_scores_of_the_mirror_image_are_the_mirrored_scores(
    built: tuple[Encoder, Places], size: tuple[int, int]
) -> None:
    """A wrong place would move the two apart by twice its error, at every pixel."""
    encoder, places = built
    symmetric(encoder)
    height, width = (places.padded(side) for side in size)
    image = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))

    def at_pixels(view: Tensor) -> Tensor:
        return resize_scores(encoder(view), (height, width), encoder.cells((height, width)))

    with torch.no_grad():
        found, mirrored = at_pixels(image), at_pixels(image.flip((-2, -1))).flip((-2, -1))
        assert encoder(image).shape[-2:] == encoder.map_size((height, width))
    assert float((found - mirrored).abs().max()) < 1e-3 * float(found.abs().max())
    # two pixels further on they would not agree
    assert float((found[..., 2:] - mirrored[..., :-2]).abs().max()) > 0.02 * float(found.abs().max())


@pytest.mark.parametrize("size", SIZES)
def test_an_image_is_read_as_padded_with_the_mean_colour(built: tuple[Encoder, Places], size: tuple[int, int]) -> None:
    encoder, places = built
    image = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(0))
    padded = torch.zeros(1, 3, *(places.padded(side) for side in size))
    padded[..., : size[0], : size[1]] = image
    with torch.no_grad():
        assert torch.equal(encoder(image), encoder(padded))
    assert encoder.cells(size) == encoder.cells((padded.shape[-2], padded.shape[-1]))


@pytest.mark.parametrize("size", [(321, 321), (375, 500)])
def test_the_gradient_of_a_pixels_score_is_centred_there(built: tuple[Encoder, Places], size: tuple[int, int]) -> None:
    encoder, places = built
    if places.step > 8:
        pytest.skip("one pixel's gradient spreads too far to tell; the mirror images do")
    symmetric(encoder)
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *size, generator=generator, requires_grad=True)
    maps = (torch.randn(8, 1, 1, generator=generator) * encoder(image)).sum(dim=1, keepdim=True)
    scores = resize_scores(maps, size, encoder.cells(size))[0, 0]
    apart = torch.zeros(2, dtype=torch.float64)
    pixels = torch.rand(8, 2, generator=generator) * 0.4 + 0.3
    for pixel in (pixels * torch.tensor(size)).long().tolist():
        (gradient,) = torch.autograd.grad(scores[tuple(pixel)], image, retain_graph=True)
        energy = gradient[0].double().square().sum(dim=0)
        for dim, side in enumerate(size):
            apart[dim] += (energy.sum(dim=1 - dim) @ torch.arange(side).double()) / energy.sum() - pixel[dim]
    assert float((apart / len(pixels)).abs().max()) < 0.5


def test_gradients_tell_the_same_places_as_mirror_images(built: tuple[Encoder, Places]) -> None:
    """They are asked where no size is symmetric, as with HRNet."""
    encoder, places = built
    generator = torch.Generator().manual_seed(0)
    weights = _random_weights(encoder.backbone, generator)
    found = _by_gradients(encoder.backbone, weights, 4 * max(16, places.step) + places.extra, generator)
    for axis, want in zip(found, places.axes, strict=True):
        assert axis.stride == want.stride and abs(axis.offset - want.offset) <= 0.5


def test_a_network_between_the_two_kinds() -> None:
    """DenseNet's stem is padded symmetrically, and then means of two cells halve the map."""
    found = measure_places(build_backbone("timm/densenet121", 32))
    assert found == Places((Axis(4), Axis(8, 2), Axis(16, 6), Axis(32, 14)), 32, -3)
    assert (found.padded(93), found.padded(94), found.cells(94, 8)) == (93, 125, 16)


def test_a_network_that_takes_multiples_of_its_stride_alone_is_padded() -> None:
    torch.manual_seed(0)
    encoder = Encoder("timm/hrnet_w18_small", 8, 32, head="fcn").eval()
    assert (encoder.places.step, encoder.places.extra) == (32, 0)
    # nearest up-sampling inside shifts its finest map most
    assert [axis.offset for axis in encoder.places.axes] == [-4, -3, -2, 0]
    with torch.no_grad():
        assert encoder(torch.randn(1, 3, 47, 61)).shape == (1, 8, 8, 8)


class Shrinking(Backbone):
    """Without padding, there are too few cells at every size."""

    channels, strides = (3,), (4,)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (nn.functional.avg_pool2d(images, 9, 4),)


def test_a_network_without_a_cell_per_stride_is_refused() -> None:
    with pytest.raises(UserError, match=r"backbone: gives no cell per stride at any size .*take another network"):
        measure_places(Shrinking())


def test_strides_that_are_no_powers_of_two() -> None:
    patches = nn.Conv2d(3, 1, 14, 14, bias=False)
    patches.weight.data.fill_(1 / 588)
    encoder = Encoder((patches, 1), 1, dilations=(1,))
    assert encoder.places == Places((Axis(14, 6.5),), 14, 0)
    image = torch.zeros(1, 3, 448, 448)
    image[..., 300:] = 1
    with torch.no_grad():
        edge = resize_scores(encoder.maps(image)[0], (448, 448), encoder.cells((448, 448)))[0, 0, 200]
    assert abs(int((edge > 0.5).float().argmax()) - 300) <= 1
    assert Encoder((nn.Conv2d(3, 6, 3, 3, 1), 6), 1, dilations=(1,)).places == Places((Axis(3),), 3, 1)
    assert Encoder((nn.Conv2d(3, 6, 13, 12, 6), 6), 1, dilations=(1,)).places == Places((Axis(12),), 12, 1)


def test_a_stride_of_14_of_timm() -> None:
    try:
        assert Encoder("timm/convmixer_1024_20_ks9_p14", 8, 32).strides == (14,)
    except UserError as error:
        if "not implemented" not in str(error):
            raise
        pytest.skip("this version of timm cannot read a ConvMixer as a pyramid")


def test_gradients_of_maxima_and_ceilings() -> None:
    """Its pools are 3 x 3, of stride 2, without padding and rounded up: the levels lie at 0, 4, 12 and 28."""
    found = measure_places(build_backbone("timm/ese_vovnet19b_slim_dw", 32))
    for axis, offset in zip(found.axes, (0, 4, 12, 28), strict=True):
        assert abs(axis.offset - offset) <= 0.5


class AsList(nn.Module):
    def forward(self, images: Tensor) -> list[Tensor]:
        return [images]


@pytest.mark.parametrize(
    ("module", "channels", "message"),
    [
        (nn.Upsample(scale_factor=2), 3, r"64 x 512 pixels give \[\(1, 3, 128, 1024\)\], expected maps"),
        (nn.Conv2d(3, 6, 128, 128), 6, "cannot be read .*Kernel size"),
        (nn.Conv2d(3, 6, 3, 4, 1).double(), 6, "cannot be read .*dtype|cannot be read .*type"),
        (AsList(), 3, r"64 x 512 pixels give \['list'\], expected maps"),
        (nn.Conv2d(3, 6, 3, 4, 1), 7, "found 6 channels in its map, expected 7"),
        (nn.Conv2d(3, 6, 16, 8), 6, "gives no cell per stride at any size"),
        (nn.Sequential(nn.Conv2d(3, 3, (1, 8), (1, 8)), nn.Conv2d(3, 3, (3, 1), (8, 1), (1, 0))), 3,
         "look at pixel -?0.0 of the rows and 3.5 of the columns"),
    ],
)  # fmt: skip
def test_modules_that_are_refused(module: nn.Module, channels: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Encoder((module, channels), 1, dilations=(1,))
