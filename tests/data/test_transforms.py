from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from sign_zs3.data.datasets.base import Transform
from sign_zs3.data.transforms import evaluation_preset, training_preset
from sign_zs3.errors import UserError

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A
from albumentations.pytorch import ToTensorV2

Array = NDArray[np.uint8]
FILL = (9, 200, 77)
# OpenCV 4 rounds positions to 1/32 pixel
LEVELS = 1 if int(cv2.__version__.split(".")[0]) >= 5 else 12
SEEDS = [0, 1, 2, 3, 2**63 + 5]


def coded(height: int, width: int) -> tuple[Array, Array]:
    """An image of four flat quarters whose colour is ten times its label: geometry can be read off both."""
    mask = np.zeros((height, width), np.uint8)
    mask[: height // 2, width // 2 :] = 5
    mask[height // 2 :, : width // 2] = 10
    mask[height // 2 :, width // 2 :] = 20
    image = np.repeat(mask[:, :, None] * np.uint8(10), 3, axis=2)
    return image, mask


def noise(height: int, width: int) -> tuple[Array, Array]:
    rng = np.random.default_rng([height, width])
    return rng.integers(0, 256, (height, width, 3), np.uint8), rng.integers(0, 21, (height, width), np.uint8)


def smooth(height: int, width: int) -> Array:
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 40 + y / 90), np.cos(y / 50), np.sin(x / 60) * np.cos(y / 70)]
    return (128 + 100 * np.stack(waves, -1)).astype(np.uint8)


def same(first: tuple[Any, ...], second: tuple[Any, ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


@pytest.mark.parametrize("warp", [None, 60])
@pytest.mark.parametrize("scale", [(0.2, 0.5), (0.5, 1.5), (2.0, 3.7)])
@pytest.mark.parametrize("size", [(50, 80), (131, 97), (20, 24), (7, 300), (400, 3), (1, 1)])
def test_a_crop_is_resize_then_crop_then_flip(
    size: tuple[int, int], scale: tuple[float, float], warp: int | None
) -> None:
    image, mask = noise(*size)
    preset, crop = training_preset(warp, scale, crop=48, fill=FILL), 48
    for seed in range(12):
        # the oracle shares nothing but the draws
        draw = random.Random(seed)
        factor = draw.uniform(*scale)
        height, width = (max(1, round(factor * side)) for side in (size if warp is None else (warp, warp)))
        top, left = (int(draw.random() * (max(side, crop) - crop + 1)) for side in (height, width))
        whole = np.full((max(height, crop), max(width, crop), 3), FILL, np.uint8)
        whole[:height, :width] = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        labels = np.full(whole.shape[:2], 255, np.uint8)
        # the pixel under each centre; OpenCV's own nearest mode rounds the ratio to 16 bits
        rows, columns = (
            np.floor((np.arange(n) + 0.5) * side / n + 1e-9).astype(int)
            for n, side in zip((height, width), size, strict=True)
        )
        labels[:height, :width] = mask[np.ix_(rows, columns)]
        inside = np.zeros(whole.shape[:2], np.bool_)
        inside[:height, :width] = True
        expected = [a[top : top + crop, left : left + crop] for a in (whole, labels, inside)]
        if draw.random() < 0.5:
            expected = [a[:, ::-1] for a in expected]
        got = preset(image, mask, seed)
        assert np.abs(got[0].astype(int) - expected[0]).max() <= LEVELS
        assert same(got[1:], tuple(expected[1:]))


def test_masks_agree_with_opencv() -> None:
    _, mask = noise(31, 47)
    preset = evaluation_preset(33)
    assert preset is not None
    _, warped, _ = preset(*noise(31, 47), 0)
    assert np.array_equal(warped, cv2.resize(mask, (33, 33), interpolation=cv2.INTER_NEAREST_EXACT))


@pytest.mark.parametrize("seed", range(12))
def test_image_mask_and_valid_move_together(seed: int) -> None:
    image, mask, valid = training_preset(warp=60, scale=(0.5, 1.5), crop=48, fill=FILL)(*coded(50, 80), seed)
    assert image.shape == (48, 48, 3) and mask.shape == valid.shape == (48, 48)
    assert image.dtype == mask.dtype == np.uint8 and valid.dtype == np.bool_
    assert set(np.unique(mask)) <= {0, 5, 10, 20, 255}
    assert ((mask == 255) == ~valid).all()
    assert (image[~valid] == FILL).all()
    # away from the seams, where the bilinear image mixes two quarters, colour and label agree
    agree = np.abs(image[..., 0].astype(int) - 10 * mask.astype(int))[valid] < 2
    assert agree.mean() > 0.85


def test_padding_lies_below_and_to_the_right() -> None:
    _, _, valid = training_preset(warp=20, scale=(1.0, 1.0), crop=32, flip=0.0)(*coded(20, 20), 0)
    assert valid[:20, :20].all() and valid.sum() == 400


def test_identity_when_nothing_is_left_to_chance() -> None:
    before = coded(40, 40)
    after = training_preset(warp=40, scale=(1.0, 1.0), crop=40, flip=0.0)(*before, 3)
    assert same(before, after[:2]) and after[2].all()


def test_flip_mirrors() -> None:
    image, mask = noise(40, 40)
    flipped, flipped_mask, _ = training_preset(40, (1.0, 1.0), 40, flip=1.0)(image, mask, 3)
    assert np.array_equal(flipped, image[:, ::-1]) and np.array_equal(flipped_mask, mask[:, ::-1])


def test_void_is_kept_apart_from_padding() -> None:
    image, mask = coded(40, 40)
    mask[:] = 255
    _, mask, valid = training_preset(40, (1.0, 1.0), 40)(image, mask, 1)
    assert (mask == 255).all() and valid.all()


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("warp", [None, 96])
def test_a_reduced_image_gives_the_same_crop(warp: int | None, factor: int) -> None:
    height, width = 403, 601
    image, mask = smooth(height, width), noise(height, width)[1]
    # means of blocks, as a JPEG decoder reduces; the last blocks reach over the border
    padded = np.pad(image, ((0, -height % factor), (0, -width % factor), (0, 0)), mode="edge")
    blocks = padded.reshape(padded.shape[0] // factor, factor, padded.shape[1] // factor, factor, 3)
    reduced = blocks.mean((1, 3)).astype(np.uint8)
    preset = training_preset(warp, (0.1, 0.5), crop=64, flip=0.5)
    for seed in range(12):
        whole, small = preset(image, mask, seed), preset(reduced, mask, seed)
        assert same(whole[1:], small[1:])
        assert np.abs(whole[0].astype(int) - small[0]).mean() < 1.5


@pytest.mark.parametrize("warp", [None, 50])
def test_enough_is_the_size_of_the_scaled_image(warp: int | None) -> None:
    preset = training_preset(warp, crop=200)
    for seed in range(20):
        # the crop is larger than any scaled image, so `valid` shows the whole of it
        valid = preset(*coded(60, 90), seed)[2]
        assert preset.needed_size(60, 90, seed) == (valid.any(1).sum(), valid.any(0).sum())


def test_the_seed_decides_everything() -> None:
    image, mask = noise(50, 70)
    preset = training_preset(warp=64, crop=40)
    first = [preset(image, mask, seed) for seed in SEEDS]
    # neither the order of the calls nor the global state nor the process matters
    np.random.seed(5)  # noqa: NPY002
    random.seed(5)
    cv2.setRNGSeed(5)
    other = pickle.loads(pickle.dumps(preset))
    for seed, before in reversed(list(zip(SEEDS, first, strict=True))):
        assert same(before, other(image, mask, seed))
    assert len({result[0].tobytes() for result in first}) == len(SEEDS)


def test_the_image_is_not_written_to() -> None:
    image, mask = noise(50, 70)
    before = image.copy(), mask.copy()
    image.flags.writeable = mask.flags.writeable = False
    for preset in (training_preset(64, crop=40), evaluation_preset(64)):
        assert preset is not None
        preset(image, mask, 0)
    assert same(before, (image, mask))


SIDE, CUT = 200, 40


def draws(preset: Transform, count: int) -> NDArray[np.float64]:
    """Scale, place (top, left), flip and inversion that each seed drew, read off a crop of an image of positions."""
    image = np.full((SIDE, SIDE, 3), 250, np.uint8)
    image[..., 0] = np.arange(SIDE)[:, None]
    image[..., 1] = np.arange(SIDE)
    drawn = []
    for seed in range(count):
        cut = preset(image, image[..., 0], seed)[0].astype(float)
        inverted = cut[0, 0, 2] < 128
        rows, columns = (255 - line if inverted else line for line in (cut[:, CUT // 2, 0], cut[CUT // 2, :, 1]))
        scale = (CUT - 1) / (rows[-1] - rows[0])
        room = (SIDE * scale - CUT) / scale
        drawn.append([scale, rows.min() / room, columns.min() / room, columns[0] > columns[-1], inverted])
    return np.array(drawn, np.float64)


def test_scale_place_and_flip_are_independent() -> None:
    """One seed for each step would tie the flip to the scale."""
    table = draws(training_preset(None, (0.5, 1.5), CUT), 400)[:, :4]
    assert np.allclose(table.mean(0), [1.0, 0.5, 0.5, 0.5], atol=0.06)
    assert np.allclose(table.min(0), [0.5, 0.0, 0.0, 0.0], atol=0.03)
    assert np.allclose(table.max(0), [1.5, 1.0, 1.0, 1.0], atol=0.06)
    assert np.abs(np.corrcoef(table.T) - np.eye(4)).max() < 0.15


def test_evaluation_keeps_the_native_size() -> None:
    assert evaluation_preset() is None


def test_evaluation_warps_once_and_without_new_labels() -> None:
    preset = evaluation_preset(33)
    assert preset is not None
    before = coded(31, 47)
    image, mask, valid = preset(*before, 0)
    assert image.shape == (33, 33, 3) and mask.shape == (33, 33) and valid.all()
    assert set(np.unique(mask)) == {0, 5, 10, 20}
    assert np.abs(image.astype(int) - cv2.resize(before[0], (33, 33))).max() <= LEVELS
    assert preset.needed_size(31, 47, 0) == (33, 33)


# -- pipelines of the user's own -----------------------------------------------------------------------------


def with_steps(path: Path, *steps: Any, **options: Any) -> Transform:
    A.save(A.Compose(list(steps)), path, data_format="yaml")
    return training_preset(**{"warp": 64, "crop": 48, "fill": FILL, **options}, augmentations=path)


@pytest.mark.parametrize(
    "step",
    [
        A.ColorJitter(p=1),
        A.GaussNoise(std_range=(0.2, 0.4), p=1),
        A.MotionBlur(p=1),
        A.Rotate(p=1),
        A.CoarseDropout(p=1),
        A.OneOf([A.Rotate(p=1), A.RandomBrightnessContrast(p=1), A.GridDistortion(p=1)], p=1),
    ],
    ids=lambda step: type(step).__name__,
)
def test_a_pipeline_is_a_function_of_the_seed(step: Any, tmp_path: Path) -> None:
    image, mask = smooth(50, 70), coded(50, 70)[1]
    preset = with_steps(tmp_path / "steps.yaml", step)
    first = [preset(image, mask, seed) for seed in SEEDS]
    random.seed(5)
    cv2.setRNGSeed(5)
    other = pickle.loads(pickle.dumps(preset))
    assert all(same(before, other(image, mask, seed)) for seed, before in zip(SEEDS, first, strict=True))
    plain = training_preset(64, crop=48, fill=FILL)
    assert not any(np.array_equal(plain(image, mask, s)[0], f[0]) for s, f in zip(SEEDS, first, strict=True))


def test_a_step_is_tied_to_nothing_else(tmp_path: Path) -> None:
    table = draws(with_steps(tmp_path / "steps.yaml", A.InvertImg(p=0.5), warp=None, crop=CUT), 400)
    assert 0.44 < table[:, 4].mean() < 0.56
    assert np.abs(np.corrcoef(table.T) - np.eye(5)).max() < 0.15


def test_what_a_step_brings_in_is_padding(tmp_path: Path) -> None:
    preset = with_steps(tmp_path / "steps.yaml", A.Rotate((45, 45), p=1), warp=48, scale=(1.0, 1.0), flip=0.0)
    image, mask = coded(48, 48)
    mask += 1
    image, mask, valid = preset(image, mask, 0)
    # the corners of a square that was turned by 45 degrees
    assert not valid[0, 0] and not valid[-1, -1] and valid[24, 24] and 0.75 < valid.mean() < 0.9
    assert ((mask == 255) == ~valid).all() and set(np.unique(mask)) == {1, 6, 11, 21, 255}
    agree = np.abs(image[..., 0].astype(int) - 10 * (mask.astype(int) - 1))[valid] < 2
    assert agree.mean() > 0.85


def test_padding_and_void_stay_apart_through_a_pipeline(tmp_path: Path) -> None:
    preset = with_steps(tmp_path / "steps.yaml", A.HorizontalFlip(p=1), warp=20, scale=(1.0, 1.0), flip=0.0)
    image, mask = coded(20, 20)
    mask[:5] = 255
    _, mask, valid = preset(image, mask, 0)
    assert valid.sum() == 400 and valid[:20, -20:].all()
    assert (mask[~valid] == 255).all() and (mask[:5] == 255).all() and (mask[5:20, -20:] < 255).all()


def test_labels_are_never_mixed(tmp_path: Path) -> None:
    step = A.Affine(rotate=(30, 30), interpolation=cv2.INTER_LINEAR, mask_interpolation=cv2.INTER_LINEAR, p=1)
    preset = with_steps(tmp_path / "steps.yaml", step)
    assert all(set(np.unique(preset(*coded(50, 80), seed)[1])) <= {0, 5, 10, 20, 255} for seed in range(5))


@pytest.mark.parametrize("step", [A.Resize(20, 20), A.Normalize(), A.ToFloat(), A.RandomCrop(8, 8), ToTensorV2()])
def test_a_pipeline_that_changes_size_or_type_is_refused(step: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augmentations: .*steps\.yaml makes a crop .*expected \(48, 48, 3\) of uint8"):
        with_steps(tmp_path / "steps.yaml", A.HorizontalFlip(), step)


def test_a_step_that_needs_more_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"augmentations: .*steps\.yaml fails on a crop .*take the step out"):
        with_steps(tmp_path / "steps.yaml", A.MaskDropout(p=1))


POPEN = "{__version__: 2.0.8, transform: {__class_fullname__: subprocess.Popen, p: 1.0, args: [touch, %s]}}"
BROKEN = {
    "missing": None,
    "empty": "",
    "no YAML": "{[",
    "a list": "- 1\n- 2\n",
    "no pipeline": "transform: {a: 1}\n",
    "unknown step": "transform: {__class_fullname__: Sharpness, p: 1.0}\n",
    "wrong argument": "transform: {__class_fullname__: Rotate, p: 1.0, limit: many}\n",
    "a function": "transform: {__class_fullname__: Lambda, __name__: f, p: 1.0}\n",
    "python object": "!!python/object/apply:os.system ['touch %s']\n",
    "python name": "transform: {__class_fullname__: !!python/name:os.system , p: 1.0}\n",
    "other class": POPEN,
    "nested class": "transform: {__class_fullname__: Compose, p: 1.0, transforms: [{__class_fullname__: os.system, "
    "command: touch %s, p: 1.0}]}\n",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_file_that_is_no_pipeline_is_one_line_and_runs_nothing(what: str, tmp_path: Path) -> None:
    path, touched, text = tmp_path / "steps.yaml", tmp_path / "touched", BROKEN[what]
    if text is not None:
        path.write_text(text.replace("%s", str(touched)))
    with pytest.raises(
        UserError, match=r"augmentations: .*steps\.yaml cannot be used \(.*write the file again"
    ) as caught:
        training_preset(augmentations=path)
    assert "\n" not in str(caught.value) and not touched.exists()
