from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sign_zs3 import UserError
from sign_zs3.functional import resize_map, resize_scores
from sign_zs3.functional.geometry import Axis, Cells
from sign_zs3.models import (
    Classifier,
    Discriminator,
    Encoder,
    Generator,
    Scores,
    Segmenter,
    SpatialInformationModule,
    label_scores,
)
from sign_zs3.models.classifier import ProjectionClassifier
from sign_zs3.models.inference import View


@pytest.fixture
def segmenter() -> Segmenter:
    torch.manual_seed(0)
    encoder = Encoder("small", feature_dim=16, dilations=(1, 2))
    return Segmenter(encoder, SpatialInformationModule(16, heads=2), Classifier(16, 5), num_seen=3).eval()


def test_published_generator() -> None:
    generator = Generator()
    assert sum(p.numel() for p in generator.parameters()) == 4_720_088
    rates = [m.p for m in generator.modules() if isinstance(m, torch.nn.Dropout)]
    assert rates == [0.1, 0.1, 0.3, 0.5, 0.5]


def test_generator_treats_each_pixel_alone() -> None:
    torch.manual_seed(0)
    generator = Generator(6, 4, 8).eval()
    vectors, latent = torch.randn(2, 6, 3, 5), torch.randn(2, 4, 3, 5)
    out = generator(vectors, latent)
    assert out.shape == (2, 8, 3, 5)
    assert bool(((out > 0) & (out < 1)).all())
    torch.testing.assert_close(out[1:, :, 2:, 3:4], generator(vectors[1:, :, 2:, 3:4], latent[1:, :, 2:, 3:4]))


def test_generator_refuses_rates_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="2 rates for 1 hidden layers"):
        Generator(6, 4, 8, hidden=[10], dropout=[0.1, 0.2])


def test_discriminator_gives_one_logit_a_pixel() -> None:
    assert Discriminator(8, 16)(torch.rand(2, 8, 3, 5)).shape == (2, 1, 3, 5)


def test_projection_classifier_is_the_inner_product_with_vectors_it_keeps() -> None:
    torch.manual_seed(0)
    vectors, features = torch.randn(5, 8), torch.randn(2, 8, 3, 4)
    classifier = ProjectionClassifier(vectors, scale=0.5)
    want = 0.5 * (vectors @ features.flatten(2)).view(2, 5, 3, 4)
    torch.testing.assert_close(classifier(features), want)
    vectors.zero_()
    torch.testing.assert_close(classifier(features), want)
    assert not list(classifier.parameters())
    assert classifier.num_classes == Classifier(8, 5).num_classes == 5


def test_classes_not_taught_are_never_predicted(segmenter: Segmenter) -> None:
    images = torch.randint(0, 256, (2, 3, 16, 20), dtype=torch.uint8)
    logits = segmenter(images)
    assert logits.shape == (2, 5, 5, 6)
    assert bool((logits[:, 3:] == -math.inf).all())
    resized = resize_scores(logits, (16, 20), segmenter.encoder.cells((16, 20)))
    assert not bool(resized.isnan().any())
    assert int(resized.argmax(1).max()) < 3
    segmenter.known.fill_(True)
    assert bool(segmenter(images).isfinite().all())


@pytest.mark.parametrize("numbers", [1, 2 * 9 * 11 * 3, 1 << 22])
def test_classes_in_slices_are_labelled_as_at_once(numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sign_zs3.models.inference.SLICE", numbers)
    scores = 5 * torch.randn(2, 8, 3, 4, generator=torch.Generator().manual_seed(0))
    scores[:, [2, 7]] = -math.inf
    cells = Cells(Axis(4), Axis(3, 1))
    whole = resize_scores(scores, (9, 11), cells)
    logits = Scores((View(scores, cells),), (9, 11), are_logits=True)
    labels, confidence = label_scores(logits, (9, 11))
    assert confidence is not None
    assert torch.equal(labels, whole.argmax(dim=1))
    torch.testing.assert_close(confidence, whole.softmax(dim=1).amax(dim=1))
    labels, best = label_scores(logits._replace(are_logits=False), (9, 11))
    assert best is not None
    assert torch.equal(labels, whole.argmax(dim=1))
    torch.testing.assert_close(best, whole.amax(dim=1))
    for size, truth in (((9, 11), whole), (None, scores)):
        alone = label_scores(logits, size, confidence=False)
        assert torch.equal(alone.label, truth.argmax(dim=1)) and alone.confidence is None


def test_normalisation_is_that_of_torchvision(segmenter: Segmenter) -> None:
    from torchvision.transforms.functional import normalize

    images = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    want = normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(segmenter.normalise(images), want)


def test_seen_penalty_moves_seen_logits_alone(segmenter: Segmenter) -> None:
    segmenter.known.fill_(True)
    images = torch.randint(0, 256, (1, 3, 16, 16), dtype=torch.uint8)
    difference = segmenter(images) - segmenter(images, seen_penalty=0.5)
    torch.testing.assert_close(difference[:, :3], torch.full_like(difference[:, :3], 0.5))
    torch.testing.assert_close(difference[:, 3:], torch.zeros_like(difference[:, 3:]))


@pytest.mark.parametrize("size", [(16, 16), (17, 21), (18, 23)])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 1.3)])
def test_flipped_labels_of_the_mirror_image_are_the_mirrored_labels(
    segmenter: Segmenter, size: tuple[int, int], scales: tuple[float, ...]
) -> None:
    segmenter.known.fill_(True)
    images = torch.randint(0, 256, (1, 3, *size), dtype=torch.uint8)
    found, mirrored = (
        label_scores(segmenter.scores(x, flip=True, scales=scales), size) for x in (images, images.flip(-1))
    )
    assert torch.equal(mirrored.label, found.label.flip(-1))
    assert found.confidence is not None and mirrored.confidence is not None
    torch.testing.assert_close(mirrored.confidence, found.confidence.flip(-1))


def test_views_are_averaged_at_the_pixels(segmenter: Segmenter) -> None:
    segmenter.known.fill_(True)
    images = torch.randint(0, 256, (1, 3, 18, 22), dtype=torch.uint8)
    scores = segmenter.scores(images, scales=(1.0, 2.0))
    assert not scores.are_logits
    want = []
    for view, scale in zip(scores.views, (1, 2), strict=True):
        torch.testing.assert_close(view.values.sum(1), torch.ones_like(view.values[:, 0]))
        alone = segmenter.scores(resize_map(images.float(), (18 * scale, 22 * scale)))
        torch.testing.assert_close(alone.views[0].values.softmax(1), view.values)
        # the same cells, seen in the resized image
        resized = resize_scores(view.values, (18 * scale, 22 * scale), alone.views[0].cells)
        want.append(resized if scale == 1 else resize_map(resized, (18, 22)))
    mean = scores.read(slice(None), (18, 22))
    # between pixels of the larger image lies one of the smaller
    torch.testing.assert_close(mean, sum(want) / 2, atol=1e-5, rtol=0)


def test_predict_takes_path_picture_array_and_tensor(segmenter: Segmenter, tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 256, (13, 18, 3), dtype=np.uint8)
    Image.fromarray(array).save(tmp_path / "x.png")
    segmenter.train()
    maps = [
        segmenter.predict(image)
        for image in (str(tmp_path / "x.png"), Image.fromarray(array), array, torch.from_numpy(array).permute(2, 0, 1))
    ]
    assert segmenter.training
    assert maps[0].shape == (13, 18)
    assert all(torch.equal(m, maps[0]) for m in maps)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"bad\.png: cannot be decoded"):
        segmenter.predict(tmp_path / "bad.png")
    with pytest.raises(UserError, match=r"expected \(H, W, 3\) of uint8"):
        segmenter.predict(array[..., 0])
