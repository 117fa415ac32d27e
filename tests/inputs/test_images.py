"""Images of more bits than eight, of several pages, and arrays of any kind."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from sign_zs3.errors import UserError
from sign_zs3.images import read_image
from sign_zs3.models.inference import read_pixels
from tests.inputs.conftest import Folder

GREY = np.random.default_rng(0).integers(0, 256, (12, 14)).astype(np.uint16)
GREY[0, 0] = 255


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tiff", ".pgm"])
def test_grey_of_any_depth_is_never_black(bits: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    cv2.imwrite(str(path), GREY << (bits - 8))
    image, size = read_image(path)
    assert size == (12, 14) and np.array_equal(image, np.repeat(GREY.astype(np.uint8)[..., None], 3, 2))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_colours_that_would_be_black_are_refused(bits: int, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"scan{suffix}"
    colours = np.dstack([GREY] * 3)
    cv2.imwrite(str(path), colours << (bits - 8))
    try:
        with pytest.raises(UserError, match=r"hardly any bits are in use, so that it would be black.*; convert it"):
            read_image(path)
    finally:
        cv2.imwrite(str(path), colours << 8)
    assert np.array_equal(read_image(path)[0], colours.astype(np.uint8))


@pytest.mark.parametrize("values", [GREY.astype(np.int32) * 70_000, -GREY.astype(np.int32)])
def test_other_numbers_are_refused(values: Any, tmp_path: Path) -> None:
    path = tmp_path / "heights.tiff"
    Image.fromarray(values).save(path)
    with pytest.raises(UserError, match=r"cannot be decoded \(whole numbers from .*, not 8 or 16 bits\)"):
        read_image(path)


@pytest.mark.parametrize(
    ("suffix", "found"), [(".tiff", "3 pages"), (".gif", "several frames"), (".webp", "several frames")]
)
def test_the_first_page_is_read_and_that_is_said(
    suffix: str, found: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"pages{suffix}"
    pages = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    pages[0].save(path, save_all=True, append_images=pages[1:])
    with caplog.at_level(logging.WARNING):
        image, _ = read_image(path)
    assert f"{path}: found {found}" in caplog.text and "of which the first is read" in caplog.text
    assert image[2, 2, 0] > 240 and image[2, 2, 1] < 15


def test_a_folder_of_deep_images_is_sound(folder: Folder) -> None:
    for number in range(60):
        grey = np.asarray(Image.open(folder.image(number)).convert("L")).astype(np.uint16)
        Image.fromarray(grey << 4).save(folder.image(number))
    assert folder.faults() == []


# -- arrays --------------------------------------------------------------------------------------------------------

COLOURS = np.random.default_rng(1).integers(0, 256, (8, 9, 3)).astype(np.uint8)


@pytest.mark.parametrize("kind", ["plain", "backwards", "mirrored", "read-only", "sliced", "Fortran"])
def test_arrays_however_they_lie_in_memory(kind: str) -> None:
    array = {
        "plain": COLOURS, "backwards": COLOURS[..., ::-1], "mirrored": COLOURS[:, ::-1], "read-only": COLOURS.copy(),
        "sliced": np.repeat(COLOURS, 2, 0)[::2], "Fortran": np.asfortranarray(COLOURS),
    }[kind]  # fmt: skip
    if kind == "read-only":
        array.flags.writeable = False
    assert np.array_equal(np.asarray(read_pixels(array, 1000)), array.transpose(2, 0, 1))


@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64, np.uint16, np.bool_])
def test_arrays_of_other_numbers_are_one_line(kind: Any) -> None:
    with pytest.raises(UserError, match=r"expected \(H, W, 3\) of uint8, in \[0, 255\]; convert it") as caught:
        read_pixels(COLOURS.astype(kind), 1000)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [lambda x: x / 255, lambda x: (x - 124) / 58, lambda x: x * 257, lambda x: x / 0 * 0, lambda x: x - 1.0]
)
def test_tensors_of_another_range_are_one_line(change: Any) -> None:
    tensor = torch.from_numpy(COLOURS.transpose(2, 0, 1).copy()).float()
    tensor[0, 0, 0] = 0
    with pytest.raises(UserError, match=r"found a tensor of numbers from .*, expected \(3, H, W\) in \[0, 255\]"):
        read_pixels(change(tensor), 1000)


@pytest.mark.parametrize("kind", [torch.uint8, torch.float32, torch.float64, torch.int64, torch.float16])
def test_tensors_of_any_kind(kind: torch.dtype) -> None:
    tensor = torch.from_numpy(COLOURS.transpose(2, 0, 1).copy()).to(kind)
    assert torch.equal(torch.as_tensor(read_pixels(tensor, 1000)), tensor)
    assert torch.equal(torch.as_tensor(read_pixels(tensor * 0, 1000)), tensor * 0)
