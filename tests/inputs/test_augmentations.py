"""What a pipeline fills is no label and not valid, whatever it fills with."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sign_zs3.data.transforms import training_preset

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
import albumentations as A


def filling_steps() -> dict[str, tuple[type[Any], str]]:
    """Every step of albumentations that may fill masks, and the option that says what with."""
    steps = {}
    for name, step in inspect.getmembers(A, inspect.isclass):
        if issubclass(step, A.DualTransform):
            known = inspect.signature(step.__init__).parameters
            options = [option for option in ("fill_mask", "mask_drop_value", "mask_fill_value") if option in known]
            if options:
                steps[name] = step, options[0]
    return steps


STEPS = filling_steps()
NEEDED = {"min_height": 32, "min_width": 32, "num_masks_x": 3, "num_masks_y": 3, "mask_x_length": 4,
          "mask_y_length": 4, "border_mode": 0}  # fmt: skip
"""Options without which a step cannot be made, or would fill nothing."""


UNFIT = {
    *("CenterCrop3D", "CoarseDropout3D", "CubicSymmetry", "Pad3D", "PadIfNeeded3D", "RandomCrop3D"),  # of volumes
    *("CenterCrop", "Crop", "CropAndPad", "RandomCrop"),  # change the size of crops, which is refused
    *("ConstrainedCoarseDropout", "MaskDropout", "Mosaic"),  # need more than an image and masks, which is refused
    *("PadIfNeeded", "SafeRotate", "ShiftScaleRotate"),  # albumentations cannot read what it writes of them
    "PiecewiseAffine",  # warns that it is slow
}


def make(name: str, value: int) -> Any:
    step, option = STEPS[name]
    known = inspect.signature(step.__init__).parameters
    return step(**{key: needed for key, needed in NEEDED.items() if key in known}, **{option: value, "p": 1})


def test_there_are_such_steps() -> None:
    assert {"CoarseDropout", "GridDropout", "Affine", "PixelDropout", "Pad"} <= STEPS.keys()


@pytest.mark.parametrize("value", [0, 1, 2, 7, 254])
@pytest.mark.parametrize("name", sorted(STEPS.keys() - UNFIT))
def test_what_is_filled_is_no_label(name: str, value: int, tmp_path: Path) -> None:
    A.save(A.Compose([make(name, value)]), tmp_path / "steps.yaml", data_format="yaml")
    preset = training_preset(32, (1, 1), 32, 0.5, augmentations=tmp_path / "steps.yaml")
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (32, 32, 3), np.uint8)
    mask = np.full((32, 32), 9, np.uint8)
    mask[4:9, 4:9] = 255
    for seed in range(8):
        _, labels, valid = preset(image, mask, seed)
        assert set(np.unique(labels)) <= {9, 255}
        assert (labels[~valid] == 255).all()


@pytest.mark.parametrize("value", [1, 2])
def test_dropped_rectangles_are_not_valid(value: int, tmp_path: Path) -> None:
    step = A.CoarseDropout(
        num_holes_range=(2, 2), hole_height_range=(8, 8), hole_width_range=(8, 8), fill_mask=value, p=1
    )
    A.save(A.Compose([step]), tmp_path / "steps.yaml", data_format="yaml")
    preset = training_preset(32, (1, 1), 32, 0, augmentations=tmp_path / "steps.yaml")
    _, labels, valid = preset(np.full((32, 32, 3), 200, np.uint8), np.full((32, 32), 3, np.uint8), 0)
    assert 64 <= (~valid).sum() <= 128 and (labels == np.where(valid, 3, 255)).all()


def test_an_image_may_be_dropped_under_its_labels(tmp_path: Path) -> None:
    """Without a value for masks only the image is changed: the labels hold."""
    A.save(A.Compose([A.CoarseDropout(p=1)]), tmp_path / "steps.yaml", data_format="yaml")
    preset = training_preset(32, (1, 1), 32, 0, augmentations=tmp_path / "steps.yaml")
    image, labels, valid = preset(np.full((32, 32, 3), 200, np.uint8), np.full((32, 32), 3, np.uint8), 0)
    assert valid.all() and (labels == 3).all() and (image == 0).any()
