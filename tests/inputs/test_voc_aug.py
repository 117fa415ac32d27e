"""Pascal VOC as most people hold it: `SegmentationClassAug` and `train_aug.txt`, and no folder of SBD."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_zs3 import VOCDataModule
from sign_zs3.data.check import check_data
from sign_zs3.data.datasets.listed import ListedDataset

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data" / "voc13"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside the project (../shared)")
TRAIN, VAL = [f"2007_{number:06}" for number in range(6)], [f"2008_{number:06}" for number in range(3)]


def write(root: Path, line: str = "{0}", list_name: str = "train_aug.txt", own_masks: bool = False) -> Path:
    voc = root / "VOCdevkit" / "VOC2012"
    folders = [
        "JPEGImages",
        "SegmentationClassAug",
        "ImageSets/Segmentation",
        *(["SegmentationClass"] if own_masks else []),
    ]
    for folder in folders:
        (voc / folder).mkdir(parents=True)
    for part, names in ((list_name, TRAIN), ("val.txt", VAL)):
        (voc / "ImageSets" / "Segmentation" / part).write_text("".join(line.format(name) + "\n" for name in names))
    for number, name in enumerate([*TRAIN, *VAL]):
        ids = np.zeros((10, 12), np.uint8)
        ids[2:7, 3:9] = 1 + 2 * number
        Image.new("RGB", (12, 10)).save(voc / "JPEGImages" / f"{name}.jpg")
        Image.fromarray(ids).save(voc / "SegmentationClassAug" / f"{name}.png")
        if own_masks and name in VAL:
            Image.fromarray(np.where(ids == 0, np.uint8(255), ids)).save(voc / "SegmentationClass" / f"{name}.png")
    return root


@pytest.mark.parametrize("list_name", ["train_aug.txt", "trainaug.txt"])
@pytest.mark.parametrize(
    "line",
    ["{0}", "/JPEGImages/{0}.jpg /SegmentationClassAug/{0}.png", "JPEGImages/{0}.jpg\tSegmentationClassAug/{0}.png"],
)
def test_lists_and_masks(line: str, list_name: str, tmp_path: Path) -> None:
    data = VOCDataModule(str(write(tmp_path, line, list_name)), num_workers=0)
    assert check_data(data, progress=False)[1] == []
    train = data.make_dataset("train", hide_unseen=False, augment=False)
    test = data.make_dataset("test", hide_unseen=False, augment=False)
    assert [train.name(i) for i in range(len(train))] == TRAIN and [test.name(i) for i in range(len(test))] == VAL
    assert [int(train.read_mask(i).max()) for i in range(6)] == [1, 3, 5, 7, 9, 11]


def test_vals_own_masks_come_first(tmp_path: Path) -> None:
    """The joined masks have no border; those that the published numbers were counted on do."""
    test = VOCDataModule(str(write(tmp_path, own_masks=True))).make_dataset("test", hide_unseen=False, augment=False)
    assert all((test.read_mask(i) == 255).any() for i in range(3))


@shared
def test_the_shared_folder_as_it_lies() -> None:
    data = VOCDataModule(str(SHARED))
    train = data.make_dataset("train", hide_unseen=True, augment=False)
    test = data.make_dataset("test", hide_unseen=False, augment=False)
    assert isinstance(train, ListedDataset) and len(train) == 1884 and len(test) == 646
    assert {item.mask.parent.name for item in train.items} == {"SegmentationClassAug"}
    for index in range(0, 1884, 200):
        assert train[index]["image"].shape[1:] == train[index]["mask"].shape
