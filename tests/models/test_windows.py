from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from sign_zs3 import UserError
from sign_zs3.models import Classifier, Encoder, Segmenter, SegmenterConfig, SpatialInformationModule
from sign_zs3.models.inference import Place, Scores, View, windows
from sign_zs3.models.spatial import SpatialFeatures
from sign_zs3.models.spatial.build import PlainFeatures
from sign_zs3.protocol import Protocol


def known(segmenter: Segmenter) -> Segmenter:
    segmenter.known.fill_(True)
    return segmenter.eval()


@pytest.fixture
def local() -> Segmenter:
    """A segmenter whose label depends on a pixel's surroundings and its position, and on nothing far away."""
    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=16, dilations=(1, 2))
    spatial = SpatialInformationModule(16, encoding="conv", width=8)
    segmenter = Segmenter(encoder, spatial, Classifier(16, 5), num_seen=3)
    for parameter in segmenter.parameters():
        parameter.data.normal_(std=0.3)
    return known(segmenter)


@pytest.mark.parametrize("height", [1, 31, 64, 65, 100, 333])
@pytest.mark.parametrize(
    ("size", "overlap", "stride"),
    [(64, 16, 8), (64, 0, 32), (50, 20, 8), (8, 2, 32), (64, 31, 1), (40, 10, 32), (40, 19, 16), (1, 0, 4)],
)
def test_cores_cover_the_image_once(height: int, size: int, overlap: int, stride: int) -> None:
    width = 201
    count = torch.zeros(height, width, dtype=torch.long)
    found = list(windows(height, width, size, overlap, stride))
    for (rows, columns), _, target in found:
        count[target] += 1
        assert rows.start % stride == 0
        assert columns.start % stride == 0
        assert 0 < rows.stop - rows.start <= max(size, stride + -(-overlap // stride) * stride)
        assert rows.stop <= height
    assert bool((count == 1).all())
    for (first, _, _), (second, _, _) in itertools.pairwise(found):
        if first[0] == second[0]:
            assert first[1].stop - second[1].start >= overlap
    if max(height, width) <= size:
        assert [area for area, _, _ in found] == [(slice(0, height), slice(0, width))]


def test_windows_give_the_labels_of_the_whole_image(local: Segmenter) -> None:
    image = torch.randint(0, 256, (3, 160, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    whole = local.segment(image, window=0, confidence_map=True)
    assert int((whole.pixels > 100).sum()) > 2
    for options in ({}, {"flip": True}, {"scales": (1.0, 0.5)}):
        want = local.segment(image, window=0, confidence_map=True, **options)
        found = local.segment(image, window=128, overlap=63, confidence_map=True, **options)
        # an overlap narrower than the network's field of view: a few pixels between the cores turn
        assert (found.labels == want.labels).float().mean() > (0.95 if "scales" in options else 0.99)
        assert found.confidence_map is not None and want.confidence_map is not None
        assert (found.confidence_map - want.confidence_map).abs().mean() < 0.01


# where a resized side is rounded, a window and the whole image are resized by different ratios: those widths are 4 k
@pytest.mark.parametrize("window", [284, 288])
@pytest.mark.parametrize(
    ("width", "input_scales", "options"),
    [
        (401, (1.0,), {}), (400, (1.0,), {"flip": True}), (401, (1.0,), {"flip": True}), (430, (1.0,), {"flip": True}),
        (400, (1.0, 0.5), {}), (400, (1.0, 0.75), {"flip": True}), (400, (1.0,), {"scales": (0.5, 1.0)}),
        (400, (0.75,), {"scales": (1.0, 1.5), "flip": True}),
    ],
)  # fmt: skip
def test_the_interior_of_windows_is_that_of_the_whole_image(
    window: int, width: int, input_scales: tuple[float, ...], options: dict[str, object]
) -> None:
    torch.manual_seed(0)
    encoder = Encoder("small", 16, dilations=(1,), input_scales=input_scales)
    segmenter = known(Segmenter(encoder, PlainFeatures(16), Classifier(16, 5), num_seen=3))
    coarse = torch.rand(1, 3, 46, 24, generator=torch.Generator().manual_seed(3)) * 255
    image = torch.nn.functional.interpolate(coarse, (200, width), mode="bilinear")[0]
    want = segmenter.segment(image, window=0, confidence_map=True, **options)  # type: ignore[arg-type]
    found = segmenter.segment(image, window=window, overlap=140, confidence_map=True, **options)  # type: ignore[arg-type]
    # at least 64 pixels from the borders of the windows, and of the image
    inside = (slice(80, 120), slice(150, 250))
    assert found.confidence_map is not None and want.confidence_map is not None
    torch.testing.assert_close(found.confidence_map[inside], want.confidence_map[inside], atol=1e-3, rtol=0)


@pytest.mark.parametrize("scales", [(1.0, 0.5), (0.77, 0.91), (0.3, 3.0)])
@pytest.mark.parametrize(("window", "overlap"), [(16, 0), (9, 4)])
def test_small_windows_and_odd_scales_are_read(scales: tuple[float, ...], window: int, overlap: int) -> None:
    encoder = Encoder("small", 8, dilations=(1,), input_scales=scales[::-1])
    segmenter = known(Segmenter(encoder, PlainFeatures(8), Classifier(8, 3), num_seen=2))
    found = segmenter.segment(torch.zeros(3, 30, 37), window=window, overlap=overlap, flip=True, scales=scales)
    assert found.labels.shape == (30, 37)


def test_arrays_that_run_backwards_are_read(local: Segmenter) -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    assert torch.equal(local.predict(array[..., ::-1]), local.predict(np.ascontiguousarray(array[..., ::-1])))
    assert torch.equal(local.predict(array[:, ::-1]), local.predict(np.ascontiguousarray(array[:, ::-1])))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scales": 1.0}, "scales: found 1.0, expected"),
        ({"scales": np.ones(2)}, "scales: found array"),
        ({"scales": ["1"]}, "scales: found"),
        ({"scales": [1e6]}, "scales: found"),
        ({"scales": []}, "scales: found"),
        ({"window": 16.5, "overlap": 2}, "window and overlap: found 16.5 and 2, expected whole numbers"),
        ({"window": 2, "overlap": 0.5}, "window and overlap: found 2 and 0.5, expected whole numbers"),
        ({"window": -1}, "window and overlap: found -1"),
        ({"seen_penalty": float("nan")}, "seen_penalty: found nan, expected a number"),
        ({"seen_penalty": float("inf")}, "seen_penalty: found inf, expected a number"),
    ],
)
def test_options_that_are_refused(local: Segmenter, options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        local.segment(torch.zeros(3, 8, 8), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("input_scale", [1.0, 0.5, 0.75, 2.0])
def test_a_window_keeps_its_true_position(input_scale: float) -> None:
    class ByPosition(torch.nn.Module):
        """F is the position alone."""

        def forward(
            self, x: Tensor, sample: bool | None = None, origin: tuple[int, int] = (0, 0),
            full_size: tuple[int, int] | None = None,
        ) -> SpatialFeatures:  # fmt: skip
            sim = SpatialInformationModule(16)
            position = sim.position_map(x.shape[-2], x.shape[-1], origin, full_size).expand(len(x), -1, -1, -1)
            return SpatialFeatures(position, position, position, position)

    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=16, dilations=(1,), input_scales=(input_scale,))
    segmenter = known(Segmenter(encoder, ByPosition(), Classifier(16, 5), 3))
    image = torch.zeros(3, 192, 160, dtype=torch.uint8)
    want = segmenter.segment(image, window=0).labels
    assert len(np.unique(want)) > 1
    assert (segmenter.segment(image, window=64, overlap=16).labels == want).float().mean() > 0.97
    # the same windows, each taken for a whole image, would label otherwise
    alone = segmenter.segment(image[:, :64, :64], window=0).labels
    assert (alone == want[:64, :64]).float().mean() < 0.97


def test_places_in_cells() -> None:
    assert Place(64, 32, 100, 203).in_cells(8, (5, 8), (14, 27)) == {"origin": (8, 4), "full_size": (14, 27)}
    assert Place(64, 32, 100, 203).in_cells(8, (7, 8), (14, 27))["full_size"] == (15, 27)
    assert Place(64, 32, 100, 203).mirrored(96) == Place(64, 75, 100, 203)
    assert Place(64, 32, 100, 200).scaled(0.5) == Place(32, 16, 50, 100)


def test_a_segmentation_counts_pixels_and_confidence(local: Segmenter) -> None:
    image = torch.randint(0, 256, (3, 70, 90), dtype=torch.uint8)
    found = local.segment(image, window=0, confidence_map=True, seen_penalty=0.1)
    with torch.no_grad():
        logits = local(image[None], 0.1)
    # sides of 4 k + 1, cells at their ends
    logits = torch.nn.functional.interpolate(logits, (73, 93), mode="bilinear", align_corners=True)[..., :70, :90]
    best, label = logits.softmax(1).max(1)
    assert found.confidence_map is not None
    assert torch.equal(found.labels.long(), label[0])
    assert torch.equal(local.predict(image, seen_penalty=0.1), label[0])
    torch.testing.assert_close(found.confidence_map, best[0])
    assert found.pixels.tolist() == [int((label == c).sum()) for c in range(5)]
    for c in range(5):
        if found.pixels[c]:
            assert float(found.confidence[c]) == pytest.approx(float(best[label == c].mean()), abs=1e-6)
        else:
            assert found.confidence[c].isnan()
    assert local.segment(image, window=0).confidence_map is None


def test_one_window_is_in_memory_at_a_time(local: Segmenter, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[tuple[int, ...]] = []
    scores = Segmenter.scores

    def spy(self: Segmenter, images: Tensor, *args: object, **options: object) -> Scores:
        read.append(tuple(images.shape))
        return scores(self, images, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "scores", spy)
    local.segment(torch.zeros(3, 300, 500, dtype=torch.uint8), window=128, overlap=32)
    assert len(read) == 3 * 5
    assert all(shape[0] == 1 and max(shape[2:]) <= 128 for shape in read)


def test_a_backbone_of_unknown_stride_reads_images_whole() -> None:
    encoder = Encoder((torch.nn.Conv2d(3, 4, 3, stride=3), 4), feature_dim=4, dilations=(1,))
    segmenter = known(Segmenter(encoder, PlainFeatures(4), Classifier(4, 3), num_seen=2))
    image = torch.randint(0, 256, (3, 90, 80), dtype=torch.uint8)
    assert torch.equal(segmenter.predict(image, window=32, overlap=8), segmenter.predict(image, window=0))


@pytest.mark.parametrize("backbone", ["small", "resnet18", "timm/tf_efficientnet_lite0"])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (7, 3)])
def test_tiny_images_are_labelled(backbone: str, size: tuple[int, int]) -> None:
    segmenter = known(Segmenter.build(config(encoder={"backbone": backbone, "feature_dim": 16})))
    assert segmenter.predict(torch.zeros(3, *size, dtype=torch.uint8)).shape == size


def config(**options: object) -> SegmenterConfig:
    return SegmenterConfig(Protocol("", "", ("a", "b", "c"), (0, 1, 2), 2), **options)  # type: ignore[arg-type]


def test_images_that_are_refused(local: Segmenter, tmp_path: Path) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / "large.png")
    (tmp_path / "empty.jpg").touch()
    for image in (tmp_path / "large.png", Image.new("RGB", (40, 30)), np.zeros((30, 40, 3), np.uint8),
                  torch.zeros(3, 30, 40)):  # fmt: skip
        assert local.segment(image, max_pixels=1200).labels.shape == (30, 40)
        with pytest.raises(UserError, match=r"found 40 x 30 = 1200 pixels, expected at most 1199: reduce it, or raise"):
            local.segment(image, max_pixels=1199)
    with pytest.raises(UserError, match=r"empty\.jpg: cannot be decoded .* expected an image"):
        local.segment(tmp_path / "empty.jpg")
    with pytest.raises(UserError, match=r"not\.jpg: not found"):
        local.segment(str(tmp_path / "not.jpg"))
    with pytest.raises(UserError, match=r"found a tensor of shape \(3, 0, 4\)"):
        local.segment(torch.zeros(3, 0, 4))
    with pytest.raises(UserError, match="overlap: found 32, expected 0 or more and less than half of window = 64"):
        local.segment(torch.zeros(3, 4, 4), window=64, overlap=32)


def test_exif_is_followed(local: Segmenter, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn clockwise makes it upright
    Image.fromarray(array).save(tmp_path / "turned.png", exif=exif)
    want = local.predict(np.ascontiguousarray(np.rot90(array, -1)))
    assert want.shape == (40, 24)
    assert torch.equal(local.predict(tmp_path / "turned.png"), want)
    with Image.open(tmp_path / "turned.png") as opened:
        assert torch.equal(local.predict(opened), want)


def test_config_survives_json_and_builds_the_same_networks() -> None:
    import json

    first = config(encoder={"backbone": "small", "feature_dim": 16, "dilations": (1, 2)}, scales=(0.5, 1.0))
    again = SegmenterConfig.from_dict(json.loads(json.dumps(first.as_dict())))
    assert again == first
    assert again.protocol.unseen_classes == ("c",)
    torch.manual_seed(0)
    one = Segmenter.build(first)
    torch.manual_seed(0)
    two = Segmenter.build(again)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True))
    for wrong in ({"ids": (1, 2)}, {"num_seen": 0}, {"num_seen": 4}):
        with pytest.raises(UserError, match="config: class split"):
            SegmenterConfig.from_dict({**first.as_dict(), **wrong})
    for part, message in (("spatial", "sim, contextual, released, plain"), ("classifier", "linear, projection")):
        with pytest.raises(UserError, match=f"{part}: found 'x', expected .*{message}"):
            Segmenter.build(config(encoder={"backbone": "small"}, **{part: {"name": "x"}}))


@pytest.mark.parametrize(
    ("backbone", "side"), [("small", 512), ("resnet18", 1024), ("timm/tf_efficientnet_lite0", 1024)]
)
def test_the_window_of_a_model_has_at_most_128_cells_a_side(
    backbone: str, side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = Encoder(backbone, feature_dim=4, dilations=(1,))
    segmenter = known(Segmenter(encoder, PlainFeatures(4), Classifier(4, 3), num_seen=2))
    assert segmenter.window == side
    assert side // encoder.strides[0] <= 128
    read: list[int] = []

    def spy(self: Segmenter, images: Tensor, **_: object) -> Scores:
        read.append(images.shape[-1])
        cells = encoder.cells((images.shape[-2], images.shape[-1]))
        return Scores((View(torch.zeros(1, 3, 4, 4), cells),), (8, side), are_logits=True)

    monkeypatch.setattr(Segmenter, "scores", spy)
    segmenter.segment(torch.zeros(3, 8, side, dtype=torch.uint8))
    segmenter.segment(torch.zeros(3, 8, 2 * side, dtype=torch.uint8))
    # a quarter of the window is shared
    assert read[:2] == [side, side] and len(read) == 4
