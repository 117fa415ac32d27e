from __future__ import annotations

import itertools
import struct
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.datasets.files import (
    missing_files,
    read_classes,
    read_index_mask,
    read_list,
    read_mat,
)
from sign_zs3.errors import UserError
from sign_zs3.images import read_image

ORIENTATION = 0x0112


def refusal(caught: pytest.ExceptionInfo[UserError], path: Path) -> str:
    """The message, which is one line and names the file first."""
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def outcome(path: Path, read: Callable[[], NDArray[Any]]) -> NDArray[Any] | None:
    """What was read, or None where the file was refused; any other error passes through."""
    try:
        return read()
    except UserError as error:
        message = str(error)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return None


def noise(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, channels), np.uint8)


def smooth(height: int, width: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width] / max(height, width)
    return (255 * np.stack([x, y, (x + y) / 2], -1)).astype(np.uint8)


# -- lists ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        b"a\nb/c\nd e\n",
        b"a\r\nb/c\r\nd e",
        b"\n  a \n\n\tb/c\nd e \n\n",
        b"\xef\xbb\xbfa\r\nb/c\r\nd e\r\n",
        "a\nb/c\nd e\n".encode("utf-16"),
        "\ufeffa\r\nb/c\r\nd e".encode("utf-16-be"),
    ],
    ids=["unix", "windows", "blanks", "utf-8 mark", "utf-16", "utf-16 big-endian"],
)
def test_a_list_is_read_however_it_was_saved(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_bytes(content)
    assert read_list(path) == ["a", "b/c", "d e"]


@pytest.mark.parametrize("name", ["../b", "/etc/b", "c/../../b", "c\\b", "b\0"])
def test_an_id_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text(f"a\n{name}\n")
    with pytest.raises(UserError, match="expected a name below the folder of images") as caught:
        read_list(path)
    refusal(caught, path)


def test_an_id_may_not_occur_twice(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("a\nb\na\n")
    with pytest.raises(UserError, match="found the id 'a' twice") as caught:
        read_list(path)
    refusal(caught, path)


def test_problems_of_a_list_can_be_collected(tmp_path: Path) -> None:
    path, problems = tmp_path / "train.txt", list[str]()
    path.write_text("a\n../x\nb\na\na\n")
    assert read_list(path, problems) == ["a", "b"]
    assert ["'../x'" in problems[0], "'a' twice" in problems[1], "'a' twice" in problems[2]] == [True] * 3


@pytest.mark.parametrize("content", [None, b"", b"\n \r\n", b"a\xff\xfe\n", b"\xff\xfea"])
def test_a_list_that_cannot_be_read_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path, problems = tmp_path / "train.txt", list[str]()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match="expected a list of image ids, one a line") as caught:
        read_list(path, problems)
    refusal(caught, path)


def test_classes_are_read_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("3\tdining table\n0: sky\n254 : a:b\n", encoding="utf-8-sig")
    assert read_classes(path) == {3: "dining table", 0: "sky", 254: "a:b"}
    path.write_text("400: flower\n")
    assert read_classes(path, largest=459) == {400: "flower"}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1\ta\n2 b\n", "'2 b' in line 2"),
        ("a\tb\n", "'a\\\\tb' in line 1"),
        ("1\n", "'1' in line 1"),
        ("-1\ta\n", "'-1\\\\ta' in line 1"),
        ("255\ta\n", "the id 255 in line 1, expected 0 to 254"),
        ("1\ta\n1\tb\n", "the id 1 twice"),
        ("1\ta\n2\ta\n", "the name 'a' twice"),
        ("", "found no class"),
    ],
)
def test_wrong_classes_are_refused(text: str, found: str, tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=found) as caught:
        read_classes(path)
    refusal(caught, path)


def test_missing_files_are_found_by_folder(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    paths = [tmp_path / "a" / "1.png", tmp_path / "a" / "2.png", tmp_path / "b" / "1.png"]
    assert missing_files(paths) == paths[1:]


# -- images --------------------------------------------------------------------------------------------------


def saved_kinds() -> dict[str, tuple[Image.Image, str, dict[str, Any], NDArray[np.uint8]]]:
    """What is saved, the format and its options, and the RGB that must come back."""
    rgb = noise(12, 17)
    grey = rgb[..., 0]
    threefold = np.repeat(grey[..., None], 3, axis=2)
    palette = Image.fromarray(grey % 7)
    palette.putpalette(noise(7, 1).tobytes())
    colours = noise(7, 1)[:, 0][grey % 7]
    deep = grey.astype(np.uint16) * 256 + 77
    black = (grey > 99).astype(np.uint8)[..., None] * np.full(3, 255, np.uint8)
    return {
        "RGB": (Image.fromarray(rgb), "png", {}, rgb),
        "grey": (Image.fromarray(grey), "png", {}, threefold),
        "16-bit grey": (Image.fromarray(deep), "png", {}, threefold),
        "16-bit grey TIFF": (Image.fromarray(deep), "tiff", {}, threefold),
        "1-bit": (Image.fromarray(grey > 99), "png", {}, black),
        "palette": (palette, "png", {}, colours),
        "palette with a transparent colour": (palette, "png", {"transparency": 3}, colours),
        "palette with transparencies": (palette, "png", {"transparency": bytes([0, 9, 99, 255])}, colours),
        "palette GIF": (palette, "gif", {"transparency": 3}, colours),
        "grey with a transparent value": (Image.fromarray(grey), "png", {"transparency": 3}, threefold),
        "RGB with a transparent colour": (Image.fromarray(rgb), "png", {"transparency": (1, 2, 3)}, rgb),
        "RGBA": (Image.fromarray(noise(12, 17, 4)), "png", {}, noise(12, 17, 4)[..., :3]),
        "LA": (Image.fromarray(rgb[..., :2], "LA"), "png", {}, threefold),
    }


@pytest.mark.parametrize("kind", saved_kinds())
def test_every_kind_of_image_becomes_rgb(kind: str, tmp_path: Path) -> None:
    image, suffix, options, expected = saved_kinds()[kind]
    path = tmp_path / f"image.{suffix}"
    image.save(path, **options)
    read, size = read_image(path)
    assert read.dtype == np.uint8 and size == (12, 17)
    assert np.array_equal(read, expected)


def test_a_cmyk_jpeg_is_not_inverted(tmp_path: Path) -> None:
    """Pillow writes and reads CMYK as Adobe does, inverted and with its marker."""
    path = tmp_path / "image.jpg"
    Image.fromarray(smooth(40, 60)).convert("CMYK").save(path, quality=100)
    assert b"Adobe" in path.read_bytes()
    read, _ = read_image(path)
    assert np.abs(read.astype(int) - smooth(40, 60)).mean() < 3


def write_turned(path: Path, orientation: int, **options: Any) -> NDArray[np.uint8]:
    """Writes a 40 x 64 image with an orientation, and returns the stored pixels."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(smooth(40, 64)).save(path, exif=exif, quality=100, subsampling=0, **options)
    with Image.open(path) as file:
        return np.asarray(file.convert("RGB"))


# what each orientation asks for, written out: rows and columns of the stored pixels
SHOWN = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: a.transpose(1, 0, 2)[:, ::-1],
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: a.transpose(1, 0, 2)[::-1],
}


@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_is_followed_where_the_mask_allows(orientation: int, suffix: str, reduced: bool, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    stored = write_turned(path, orientation)
    shown = SHOWN[orientation](stored)
    asked: list[tuple[int, int]] = []

    def needed_size(height: int, width: int) -> tuple[int, int]:
        asked.append((height, width))
        return height // 2, width // 2

    factor = 2 if reduced and suffix == "jpg" else 1
    # without a mask, with one of the displayed size, and with one of the stored size
    for mask_size, expected in ((None, shown), (shown.shape[:2], shown), ((40, 64), stored)):
        if orientation <= 4:
            # the size does not tell, so the label tool is taken to have followed EXIF
            expected = shown
        read, size = read_image(path, mask_size, needed_size if reduced else None)
        assert size == expected.shape[:2]
        assert read.shape == (size[0] // factor, size[1] // factor, 3)
        blocks = expected.reshape(read.shape[0], factor, read.shape[1], factor, 3).mean((1, 3))
        assert np.abs(read - blocks).max() < 3
        assert asked in ([], [size]) and bool(asked) == reduced
        asked.clear()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(301, 400), (304, 403), (304, 400)])
def test_a_reduced_image_lies_where_the_whole_one_does(
    orientation: int, height: int, width: int, tmp_path: Path
) -> None:
    """Decoded smaller, a turned image would begin with the cut cell that stood at its other end."""
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(smooth(height, width)).save(path, exif=exif, quality=100, subsampling=0)
    whole = read_image(path)[0].astype(np.float32)
    reduced, size = read_image(path, needed_size=lambda height, width: (1, 1))
    assert size == whole.shape[:2]
    if orientation == 1 or not (height % 8 or width % 8):
        assert reduced.shape[:2] == (-(-size[0] // 8), -(-size[1] // 8))
    step = round(size[0] / len(reduced))
    rows, columns = size[0] // 8, size[1] // 8
    found = reduced[: rows * 8 // step, : columns * 8 // step].astype(np.float32)
    blocks = whole[: rows * 8, : columns * 8].reshape(len(found), step, found.shape[1], step, 3).mean((1, 3))
    assert np.abs(found - blocks).mean() < 1


def test_stored_pixels_may_be_taken_as_they_are(tmp_path: Path) -> None:
    for orientation in range(1, 9):
        stored = write_turned(tmp_path / "image.jpg", orientation)
        assert np.array_equal(read_image(tmp_path / "image.jpg", follow_exif=False)[0], stored)


def test_a_turned_square_image_follows_exif(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise(20, 20)).save(path, exif=exif)
    assert np.array_equal(read_image(path, (20, 20))[0], SHOWN[6](noise(20, 20)))


@pytest.mark.parametrize(
    ("needed", "factor"), [((300, 400), 1), ((152, 200), 1), ((100, 203), 1), ((150, 201), 2), ((75, 100), 4),
                           ((38, 20), 4), ((37, 50), 8), ((1, 1), 8)]
)  # fmt: skip
def test_a_jpeg_is_decoded_no_larger_than_needed(needed: tuple[int, int], factor: int, tmp_path: Path) -> None:
    # cameras write MPO, a JPEG with more images behind it
    for kind in ("jpeg", "mpo"):
        path = tmp_path / f"image.{kind}"
        Image.fromarray(smooth(301, 403)).save(path, kind, quality=95, save_all=kind == "mpo")
        read, size = read_image(path, (301, 403), lambda height, width: needed)
        assert size == (301, 403) and read.shape == (-(-301 // factor), -(-403 // factor), 3)
        assert read.shape[0] >= needed[0] and read.shape[1] >= needed[1]


def test_only_jpegs_are_reduced(tmp_path: Path) -> None:
    for suffix in ("png", "bmp", "tiff", "webp"):
        path = tmp_path / f"image.{suffix}"
        Image.fromarray(smooth(64, 64)).save(path)
        assert read_image(path, None, lambda height, width: (8, 8))[0].shape == (64, 64, 3)


def cuts(content: bytes) -> list[int]:
    """Every byte of the header, and 60 places of the rest."""
    return sorted({*range(min(700, len(content))), *np.linspace(0, len(content) - 1, 60).astype(int).tolist()})


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_truncated_image_is_refused_wherever_it_ends(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"image.{suffix}"
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    Image.fromarray(noise(48, 64)).save(path, exif=exif)
    content, whole = path.read_bytes(), read_image(path)[0]
    for cut in cuts(content):
        path.write_bytes(content[:cut])
        image = outcome(path, lambda: read_image(path, None, lambda height, width: (height, width))[0])
        # what may be missing is the end mark
        assert image is None or (np.array_equal(image, whole) and cut > len(content) - 30)


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "image.jpg"
    path.write_bytes(content)
    for read, expected in ((read_image, "an image"), (read_index_mask, "a palette or grey PNG")):
        with pytest.raises(UserError, match=rf"cannot be decoded \(.*expected {expected}") as caught:
            read(path)
        refusal(caught, path)


def test_a_missing_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    for read in (read_image, read_index_mask, lambda path: read_mat(path, "LabelMap")):
        with pytest.raises(UserError, match="not found, expected a") as caught:
            read(path)
        refusal(caught, path)


def test_a_folder_in_place_of_an_image_is_refused(tmp_path: Path) -> None:
    for read in (read_image, read_index_mask):
        with pytest.raises(UserError, match="cannot be decoded") as caught:
            read(tmp_path)
        refusal(caught, tmp_path)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))
    for read in (read_image, read_index_mask):
        with pytest.raises(UserError, match="2500000000 pixels") as caught:
            read(path)
        refusal(caught, path)


def test_pillow_keeps_its_limit_when_threads_read_with_another_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.png"
    Image.fromarray(noise(8, 8)).save(path)
    limit, open_image = Image.MAX_IMAGE_PIXELS, Image.open

    def open_slowly(*args: Any, **options: Any) -> Image.Image:
        time.sleep(0.01 * next(calls))
        return open_image(*args, **options)

    calls = itertools.count(1)
    monkeypatch.setattr(Image, "open", open_slowly)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: read_image(path, max_pixels=100), range(4)))
    assert limit == Image.MAX_IMAGE_PIXELS


def test_a_huge_image_is_read_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    path = tmp_path / "image.png"
    Image.fromarray(noise(40, 40)).save(path)
    with pytest.warns(Image.DecompressionBombWarning, match="1600 pixels"):
        assert np.array_equal(read_image(path)[0], noise(40, 40))
    Image.fromarray(noise(50, 50)).save(path)
    with pytest.raises(UserError, match="2500 pixels"):
        read_image(path)


# -- masks ---------------------------------------------------------------------------------------------------

LABELS = np.random.default_rng(0).integers(0, 256, (12, 17), np.uint8)


def test_palette_and_grey_masks_are_their_ids(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = Image.fromarray(LABELS)
    mask.save(path)
    assert np.array_equal(read_index_mask(path), LABELS)
    mask.putpalette(noise(256, 1).tobytes())
    for options in ({}, {"transparency": 0}, {"transparency": bytes(range(256))}):
        mask.save(path, **options)
        assert np.array_equal(read_index_mask(path), LABELS)
    # few colours are stored in 4 bits
    few = Image.fromarray(LABELS % 16)
    few.putpalette(noise(16, 1).tobytes())
    few.save(path, bits=4)
    assert np.array_equal(read_index_mask(path), LABELS % 16)


@pytest.mark.parametrize(
    ("image", "kind"),
    [
        (Image.fromarray(np.dstack([LABELS] * 3)), "RGB"),
        (Image.fromarray(np.dstack([LABELS] * 4)), "RGBA"),
        (Image.fromarray(np.dstack([LABELS] * 2), "LA"), "LA"),
        (Image.fromarray(LABELS > 99), "1-bit"),
    ],
    ids=["RGB", "RGBA", "LA", "1-bit"],
)
def test_other_masks_are_refused(image: Image.Image, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    image.save(path)
    with pytest.raises(UserError, match=f"found a {kind} image, expected a mask with one id per pixel") as caught:
        read_index_mask(path)
    refusal(caught, path)


def test_a_truncated_mask_is_refused_wherever_it_ends(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    mask = Image.fromarray(LABELS)
    mask.putpalette(noise(256, 1).tobytes())
    mask.save(path)
    content = path.read_bytes()
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        read = outcome(path, lambda: read_index_mask(path))
        assert read is None or (np.array_equal(read, LABELS) and cut > len(content) - 30)


# -- MATLAB files --------------------------------------------------------------------------------------------


def write_mat(path: Path, compress: bool = True, **variables: Any) -> bytes:
    from scipy.io import savemat

    savemat(path, variables, do_compression=compress)
    return path.read_bytes()


@pytest.mark.parametrize("compress", [False, True])
def test_label_maps_of_matlab_files_are_read(compress: bool, tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    boundaries = np.empty((20, 1), object)
    boundaries[:, 0] = [np.zeros(LABELS.shape, np.uint8)] * 20
    struct_of_sbd = {"Boundaries": boundaries, "Segmentation": LABELS, "CategoriesPresent": np.arange(3)}
    write_mat(path, compress, GTcls=struct_of_sbd)
    assert np.array_equal(read_mat(path, "GTcls", "Segmentation"), LABELS)
    wide = LABELS.astype(np.uint16) + 200
    write_mat(path, compress, names=["a", "b"], LabelMap=wide)
    assert np.array_equal(read_mat(path, "LabelMap"), wide)


def test_a_matlab_file_with_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    for variables, found in (
        ({"GTinst": {"Segmentation": LABELS}}, "found no such variable"),
        ({"GTcls": {"Other": LABELS}}, "found GTcls with Other|found GTcls"),
        ({"GTcls": LABELS}, "found GTcls"),
        ({"GTcls": {"Segmentation": LABELS * 0.5}}, "found GTcls.Segmentation of float64"),
        ({"GTcls": {"Segmentation": LABELS[None, None]}}, r"shape \(1, 1, 12, 17\)"),
        ({"GTcls": {"Segmentation": "text"}}, "found GTcls.Segmentation of <U4"),
        ({"GTcls": {"Segmentation": {"a": 1}}}, "found GTcls.Segmentation"),
    ):
        write_mat(path, **variables)
        with pytest.raises(UserError, match=found) as caught:
            read_mat(path, "GTcls", "Segmentation")
        refusal(caught, path)


V73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + b"\x89HDF\r\n\x1a\n" + bytes(64)


@pytest.mark.parametrize(
    "content", [b"", b"1 2 3\n", b"\x00" * 300, V73[128:], b"MATLAB 5.0 MAT-file".ljust(124)], ids=str
)
def test_what_is_no_matlab_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"expected a MATLAB file with the label map GTcls\.Segmentation") as caught:
        read_mat(path, "GTcls", "Segmentation")
    refusal(caught, path)


def test_a_matlab_file_of_version_7_3_says_how_to_go_on(tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    path.write_bytes(V73)
    with pytest.raises(UserError, match=r"version 7\.3.*save.*'-v7'") as caught:
        read_mat(path, "GTcls", "Segmentation")
    refusal(caught, path)


@pytest.mark.parametrize("compress", [False, True])
def test_a_truncated_matlab_file_is_refused_wherever_it_ends(compress: bool, tmp_path: Path) -> None:
    path = tmp_path / "mask.mat"
    content = write_mat(path, compress, GTcls={"Segmentation": LABELS})
    for cut in range(len(content)):
        path.write_bytes(content[:cut])
        read = outcome(path, lambda: read_mat(path, "GTcls", "Segmentation"))
        # the end of an uncompressed file fills up 8 bytes
        assert read is None or (np.array_equal(read, LABELS) and cut > len(content) - 8)
