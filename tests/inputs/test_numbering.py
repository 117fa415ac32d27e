"""Masks that are numbered otherwise than their classes."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3 import COCOStuffDataModule, VOCDataModule
from sign_zs3.cli import main
from sign_zs3.data.check import check_data
from sign_zs3.data.numbering import find_shift
from sign_zs3.data.splits import PUBLISHED, published_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol
from tests.inputs.conftest import Folder


def held(masks: list[set[int]]) -> tuple[NDArray[np.int64], int]:
    return np.array([sum(number in mask for mask in masks) for number in range(256)]), len(masks)


def masks_of(protocol: Protocol, offset: int, count: int = 120) -> list[set[int]]:
    """The ids in masks of two classes each; in true ones background, too."""
    numbers = [i for i in protocol.ids if i]
    masks = [{numbers[n % len(numbers)], numbers[(3 * n + 1) % len(numbers)]} for n in range(count)]
    if offset == 0:
        return [mask | {0, 255} for mask in masks]
    return [{number + offset for number in mask} | {255} for mask in masks]


@pytest.mark.parametrize("split", ["default", "zs3-4"])
@pytest.mark.parametrize("name", ["voc", "pascal_context_59"])
def test_classes_from_1_numbered_from_0(name: str, split: str) -> None:
    protocol = published_protocol(name, split=split)
    assert find_shift(protocol, *held(masks_of(protocol, 0))) is None
    shift = find_shift(protocol, *held(masks_of(protocol, -1)))
    assert shift is not None and shift.by == -1 and shift.certain
    highest = max(PUBLISHED[name].names)
    assert str(shift).startswith(f"the id {highest} is in no mask, and 0, which is no object, in ")
    assert "numbered from 0 where their classes are from 1" in str(shift)


def test_coco_stuff_numbered_from_1() -> None:
    protocol = published_protocol("coco_stuff")
    assert find_shift(protocol, *held([{i} for i in protocol.ids])) is None
    shift = find_shift(protocol, *held([{i + 1} for i in protocol.ids] + [{0}]))
    assert shift is not None and shift.by == 1 and "numbered from 1 where their classes are from 0" in str(shift)
    # where the highest class does not occur, one that was never labelled tells
    few = find_shift(protocol, *held([{i + 1} for i in protocol.ids[:40]]))
    assert few is not None and few.by == 1


def test_a_rare_highest_class_is_no_shift_where_background_is_everywhere() -> None:
    protocol = published_protocol("voc")
    masks = [mask - {20} for mask in masks_of(protocol, 0)]
    shift = find_shift(protocol, *held(masks))
    assert shift is not None and not shift.certain


def test_other_unknown_ids_are_no_shift() -> None:
    protocol = Protocol.build("mine", "custom", {1: "a", 2: "b", 3: "c"}, ["c"], (0, 255))
    assert find_shift(protocol, *held([{1, 2}, {3, 9}])) is None


def test_ignored_classes_are_numbered_too() -> None:
    names = {0: "a", 1: "b", 3: "d"}
    protocol = Protocol.build("mine", "custom", names, ["b"], (2, 255))
    shift = find_shift(protocol, *held([{1}, {2}, {3}, {4}]))
    assert shift is not None and shift.by == 1


def test_voc_masks_from_0_are_refused_before_training_and_found_by_check(tmp_path: Path) -> None:
    write_voc(tmp_path, offset=1)
    VOCDataModule(str(tmp_path), num_workers=0).setup("fit")
    assert check_data(VOCDataModule(str(tmp_path)), progress=False)[1] == []
    write_voc(tmp_path, offset=0)
    with pytest.raises(
        UserError, match=r"^voc: the id 20 is in no mask.*numbered from 0 where their classes are from 1"
    ):
        VOCDataModule(str(tmp_path), num_workers=0).setup("fit")
    (fault,) = check_data(VOCDataModule(str(tmp_path)), progress=False)[1]
    assert fault.startswith("voc: the id 20 is in no mask")


def write_voc(root: Path, offset: int) -> None:
    """VOC 2012 with 50 and 25 images; the masks' ids are 0..19, and background 255, plus `offset`."""
    voc = root / "VOCdevkit" / "VOC2012"
    lists = voc / "ImageSets" / "Segmentation"
    for folder in (lists, voc / "JPEGImages", voc / "SegmentationClass"):
        folder.mkdir(parents=True, exist_ok=True)
    for part, numbers in (("train", range(50)), ("val", range(50, 75))):
        (lists / f"{part}.txt").write_text("".join(f"{number}\n" for number in numbers))
        for number in numbers:
            Image.new("RGB", (12, 10)).save(voc / "JPEGImages" / f"{number}.jpg")
            ids = np.full((10, 12), 0 if offset else 255, np.uint8)
            ids[2:6, 2:9] = number % 20 + offset
            Image.fromarray(ids).save(voc / "SegmentationClass" / f"{number}.png")


def test_coco_stuff_maps_from_1_are_faults_with_a_guess(tmp_path: Path) -> None:
    ids = published_protocol("coco_stuff").ids
    for part, numbers in (("train2017", range(60)), ("val2017", range(60, 90))):
        images, maps = tmp_path / "images" / part, tmp_path / "annotations" / part
        images.mkdir(parents=True)
        maps.mkdir(parents=True)
        for number in numbers:
            Image.new("RGB", (9, 8)).save(images / f"{number:03}.jpg")
            two = np.full((8, 9), sorted(ids)[number] + 1, np.uint8)
            two[:, 5:] = sorted(ids)[2 * number % 171] + 1
            Image.fromarray(two).save(maps / f"{number:03}.png")
    faults = check_data(COCOStuffDataModule(str(tmp_path), val_size=0), progress=False)[1]
    assert any("found the id 11," in fault and "or are the masks numbered from 1" in fault for fault in faults)
    assert faults[-1].startswith("coco_stuff: the id 11 occurs") and "numbered from 1" in faults[-1]


def test_a_folder_numbered_from_0_is_warned_of(
    folder: Folder, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(60):
        ids = np.full((16, 20), 255, np.uint8)
        ids[:, 3:9] = number % 4
        Image.fromarray(ids).save(folder.mask(number))
    command = ["data", "check", "--data", "FolderDataModule", "--data.root", str(folder.root), "--data.unseen", "[cow]"]
    assert main(command) == 0
    out, err = capsys.readouterr()
    assert "warning: the id 4 is in no mask, and 0, which is no object, in 25% of 60" in err
    assert "no pixel of horse (4)" in out


def test_ids_that_the_list_of_classes_lacks_are_counted(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    folder.write_classes({1: "sky", 2: "grass", 3: "cow", 7: "boat"})
    command = ["data", "check", "--data", "FolderDataModule", "--data.root", str(folder.root), "--data.unseen", "[cow]"]
    assert main(command) == 1
    out, err = capsys.readouterr()
    assert "ids that are neither a class nor ignored: 4 (30 masks)" in out
    assert "train: no pixel of boat (7)" in out
    assert err.count("fault: ") == 30 and f"fault: {folder.mask(2)}: found the id 4, expected a class of mine" in err


def test_a_folder_numbered_from_1_says_so(folder: Folder) -> None:
    folder.write_classes(dict(enumerate(("sky", "grass", "cow", "horse"))))
    faults = folder.faults()
    assert faults[-1].startswith("mine: the id 4 occurs, which is no class, and each id less one is a class")
    with pytest.raises(UserError, match=r"found the id 4, .* or are the masks numbered from 1, the classes from 0"):
        folder.data().setup("fit")


def test_true_numbering_is_not_warned_of(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        folder.data().setup("fit")
    assert caplog.text == "" and folder.faults() == []
