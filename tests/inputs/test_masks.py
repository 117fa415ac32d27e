"""Masks: what a file is decides whether it can hold ids, not its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, TiffImagePlugin

from sign_zs3.errors import UserError
from tests.inputs.conftest import Folder

Write = Callable[[NDArray[np.uint8], Path], None]


def as_format(name: str, kind: type[np.generic] = np.uint8, **options: Any) -> Write:
    def write(ids: NDArray[np.uint8], path: Path) -> None:
        Image.fromarray(ids.astype(kind)).save(path, name, **options)

    return write


def with_palette(name: str) -> Write:
    def write(ids: NDArray[np.uint8], path: Path) -> None:
        image = Image.fromarray(ids)
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        image.save(path, name)

    return write


def two_pages(name: str) -> Write:
    def write(ids: NDArray[np.uint8], path: Path) -> None:
        Image.fromarray(ids).save(path, name, save_all=True, append_images=[Image.fromarray(ids[::-1].copy())])

    return write


def white_is_zero(ids: NDArray[np.uint8], path: Path) -> None:
    entries = TiffImagePlugin.ImageFileDirectory_v2()
    entries[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] = 0
    Image.fromarray(ids).save(path, "TIFF", tiffinfo=entries)


def too_high(ids: NDArray[np.uint8], path: Path) -> None:
    Image.fromarray(ids.astype(np.uint16) + 256).save(path, "PNG")


def deep_pgm(ids: NDArray[np.uint8], path: Path) -> None:
    path.write_bytes(b"P5 %d %d 65535\n" % ids.shape[::-1] + ids.astype(">u2").tobytes())


KEPT: dict[str, Write] = {
    "grey PNG": as_format("PNG"),
    "palette PNG": with_palette("PNG"),
    "16-bit PNG": as_format("PNG", np.uint16),
    "BMP": as_format("BMP"),
    "palette BMP": with_palette("BMP"),
    "PGM": as_format("PPM"),
    "16-bit PGM": deep_pgm,
    "TIFF": as_format("TIFF"),
    "palette TIFF": with_palette("TIFF"),
    "16-bit TIFF": as_format("TIFF", np.uint16),
    "32-bit TIFF": as_format("TIFF", np.int32),
    **{f"TIFF, {name}": as_format("TIFF", compression=name) for name in ("tiff_lzw", "tiff_deflate", "packbits")},
}

REFUSED: dict[str, tuple[Write, str]] = {
    "JPEG": (as_format("JPEG", quality=95), "found JPEG data, which do not keep ids as they are"),
    "GIF": (as_format("GIF"), "found GIF data"),
    "palette GIF": (with_palette("GIF"), "found GIF data"),
    "WebP": (as_format("WEBP", lossless=True), "found WEBP data"),
    "TIFF, JPEG": (as_format("TIFF", compression="jpeg"), "found a TIFF compressed as jpeg"),
    "real numbers": (as_format("TIFF", np.float32), "found real numbers"),
    "white is 0": (white_is_zero, "found a TIFF in which 0 is white"),
    "TIFF of pages": (two_pages("TIFF"), "found 2 pages"),
    "animated PNG": (two_pages("PNG"), "found 2 pages"),
    "one bit": (as_format("PNG", np.bool_), "found a 1-bit image"),
    "ids above 255": (too_high, "found the id 25"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_keeps_ids_is_read_whatever_its_name(name: str, folder: Folder) -> None:
    for number in range(0, 60, 7):
        KEPT[name](folder.ids(number), folder.mask(number))
    assert folder.faults() == []
    dataset = folder.data().make_dataset("train", hide_unseen=False, augment=False)
    for index in range(len(dataset)):
        assert np.array_equal(dataset.read_mask(index), folder.ids(int(dataset.name(index))))


@pytest.mark.parametrize("name", REFUSED)
def test_one_bad_mask_of_sixty_is_one_fault(name: str, folder: Folder) -> None:
    write, found = REFUSED[name]
    write(folder.ids(33), folder.mask(33))
    (fault,) = folder.faults()
    assert fault.startswith(f"{folder.mask(33)}: {found}")


@pytest.mark.parametrize("name", REFUSED)
def test_what_holds_no_ids_is_refused_before_training(name: str, folder: Folder) -> None:
    """Where all masks are so: a training looks at some of them first."""
    for number in range(60):
        REFUSED[name][0](folder.ids(number), folder.mask(number))
    with pytest.raises(UserError, match=REFUSED[name][1]):
        folder.data().setup("fit")


def test_masks_of_0_and_255_hold_no_class(folder: Folder) -> None:
    folder.write_classes({1: "crack", 2: "wall"})
    for number in range(60):
        Image.fromarray((folder.ids(number) > 1).astype(np.uint8) * 255).save(folder.mask(number))
    advice = "255 always means no label, so write the id of the class, e.g. 1, in its place"
    (fault,) = folder.faults(unseen=["wall"])
    assert fault.startswith("training masks: found the ids 0, 255 in 48") and fault.endswith(advice)
    with pytest.raises(UserError, match=advice):
        folder.data(unseen=["wall"]).setup("fit")


def test_training_images_without_a_seen_class_are_refused(folder: Folder) -> None:
    for number in range(60):
        Image.fromarray(np.where(folder.ids(number) > 0, np.uint8(4), np.uint8(0))).save(folder.mask(number))
    (fault,) = folder.faults()
    expected = (
        "training masks: found the ids 0, 4 in 48, expected a seen class (1-3) in one of them at least; name other"
    )
    assert fault.startswith(expected)
    with pytest.raises(UserError, match="expected a seen class"):
        folder.data().setup("fit")


def test_one_seen_pixel_is_enough(folder: Folder) -> None:
    for number in range(60):
        Image.fromarray(np.where(folder.ids(number) > 0, np.uint8(4), np.uint8(0))).save(folder.mask(number))
    train = folder.data().make_dataset("train", hide_unseen=True, augment=False)
    ids = folder.ids(0) * 0
    ids[5, 5] = 2
    Image.fromarray(ids).save(folder.mask(int(train.name(31))))
    assert folder.faults() == []
    folder.data(val_fraction=0).setup("fit")
