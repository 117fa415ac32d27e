from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest

from sign_zs3.data.datamodules import COCOStuffDataModule
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset
from sign_zs3.data.splits import COCO_STUFF_CLASSES, published_protocol
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import (
    COCO_NEVER,
    COCO_TEST,
    COCO_TRAIN,
    COCO_UNSEEN_IDS,
    COCO_WITH_UNSEEN,
    FakeCOCO,
    names,
    same_samples,
    training_samples,
    write_mask,
)

REAL = Path(__file__).parents[2] / ".." / "shared" / "data" / "coco-stuff"
real_data = pytest.mark.skipif(
    not REAL.is_dir(), reason="the real COCO-Stuff subset is not beside the project (../shared/data/coco-stuff)"
)
Part = Literal["train", "val", "test"]


def refused(root: Path, split: Part, **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        COCOStuffDataset(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- the protocol --------------------------------------------------------------------------------------------------


def test_171_classes_156_seen_and_the_published_15_unseen() -> None:
    protocol = published_protocol("coco_stuff")
    assert (protocol.num_classes, protocol.num_seen) == (171, 156)
    assert tuple(protocol.ids[i] for i in protocol.unseen) == COCO_UNSEEN_IDS
    assert {protocol.classes[i] for i in protocol.unseen} == {
        *("cow", "giraffe", "suitcase", "frisbee", "skateboard", "carrot", "scissors", "cardboard", "clouds", "grass"),
        *("playingfield", "river", "road", "tree", "wall-concrete"),
    }
    assert protocol.ignored_ids == (255,)
    assert sorted((*protocol.ids, *COCO_NEVER)) == list(range(182))


@real_data
def test_names_are_those_of_the_published_list() -> None:
    lines = [line.split("\t") for line in (REAL / "labels.txt").read_text().splitlines()]
    # the list counts from 1, with 0 for unlabelled; the pixel maps count from 0
    published = {int(number) - 1: name for number, name in lines}
    assert published.pop(-1) == "unlabeled"
    never = {number for number in published if number not in COCO_STUFF_CLASSES}
    assert never == set(COCO_NEVER)
    assert {number: name for number, name in published.items() if number not in never} == COCO_STUFF_CLASSES


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val_size", [0, 1, 4, 8])
def test_the_last_training_images_by_name_are_for_validation(fake_coco: FakeCOCO, val_size: int) -> None:
    train, val, test = (names(COCOStuffDataset(fake_coco.root, s, val_size)) for s in ("train", "val", "test"))
    assert train + val == COCO_TRAIN and len(val) == val_size
    assert test == COCO_TEST


@pytest.mark.parametrize("val_size", [-1, 9, 10_000])
def test_a_validation_set_that_leaves_nothing_is_refused(fake_coco: FakeCOCO, val_size: int) -> None:
    for split in ("train", "val"):
        message = refused(fake_coco.root, split, val_size=val_size)
        assert message.startswith(f"val_size: found {val_size}, expected 0 to 8, since ")
    assert len(COCOStuffDataset(fake_coco.root, "test", val_size)) == 3


def test_masks_are_read_as_they_are(fake_coco: FakeCOCO) -> None:
    table = published_protocol("coco_stuff").lookup()
    for split in ("train", "val", "test"):
        dataset = COCOStuffDataset(fake_coco.root, split, 3)
        for index, name in enumerate(names(dataset)):
            image, mask = dataset.read(index)
            assert np.array_equal(mask, fake_coco.masks[name]) and mask.dtype == np.uint8
            assert image.shape == (*mask.shape, 3)
            assert np.array_equal(dataset[index]["mask"].numpy(), table[mask])


def test_every_value_of_a_pixel_map(fake_coco: FakeCOCO) -> None:
    """Classes get ids, 255 is ignored; 182..254 and values never labelled are refused by name of the file."""
    height, width = fake_coco.masks[COCO_TEST[0]].shape
    for value in range(256):
        write_mask(fake_coco.mask(COCO_TEST[0]), np.full((height, width), value), palette=False)
        dataset = COCOStuffDataset(fake_coco.root, "test")
        if 182 <= value <= 254 or value in COCO_NEVER:
            with pytest.raises(UserError) as caught:
                dataset[0]
            message = str(caught.value)
            assert message.startswith(f"{fake_coco.mask(COCO_TEST[0])}: found the id {value}, expected a class of")
            assert "\n" not in message
        else:
            found = set(dataset[0]["mask"].unique().tolist())
            assert len(found) == 1
            if value == 255:
                assert found == {255}
            else:
                assert dataset.classes[found.pop()] == COCO_STUFF_CLASSES[value]


def test_other_files_beside_the_images_are_no_images(fake_coco: FakeCOCO) -> None:
    folder = fake_coco.image(COCO_TEST[0]).parent
    # what macOS writes on disks of other systems
    (folder / f"._{COCO_TEST[0]}.jpg").write_bytes(b"\0\5\x16\7")
    (folder / ".DS_Store").touch()
    (folder / "README.txt").touch()
    assert names(COCOStuffDataset(fake_coco.root, "test")) == COCO_TEST


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("images", "maps"), [("images", "annotations"), (".", "annotations"), ("images", "stuffthingmaps"), ("images", ".")]
)
def test_places(fake_coco: FakeCOCO, images: str, maps: str) -> None:
    for part in ("train2017", "val2017"):
        for place, new in (("annotations", maps), ("images", images)):
            (fake_coco.root / new).mkdir(exist_ok=True)
            (fake_coco.root / place / part).rename(fake_coco.root / new / part)
    dataset = COCOStuffDataset(fake_coco.root, "train", 2)
    assert names(dataset) == COCO_TRAIN[:7]
    assert np.array_equal(dataset.read(0)[1], fake_coco.masks[COCO_TRAIN[0]])


def test_each_missing_thing_is_named_with_what_to_fetch(fake_coco: FakeCOCO, tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        message = refused(tmp_path / "nowhere", split)
        assert message.startswith("root: found no images/") and "train2017.zip" in message
    fake_coco.mask(COCO_TEST[1]).unlink()
    assert refused(fake_coco.root, "test").startswith(f"{fake_coco.mask(COCO_TEST[1])}: not found (1 of the 3 masks")
    (fake_coco.root / "annotations").rename(fake_coco.root / "moved")
    message = refused(fake_coco.root, "train", val_size=2)
    assert message.startswith("root: found no annotations/train2017") and "stuffthingmaps_trainval2017.zip" in message
    for name in COCO_TEST:
        fake_coco.image(name).unlink()
    (fake_coco.root / "moved").rename(fake_coco.root / "annotations")
    assert "found no .jpg, expected the images of val2017" in refused(fake_coco.root, "test")


def test_coco_without_pixel_maps_says_what_to_fetch(fake_coco: FakeCOCO) -> None:
    """COCO as most have it: train2017 and val2017 hold images, annotations the JSON files of the boxes."""
    for part in ("train2017", "val2017"):
        (fake_coco.root / "images" / part).rename(fake_coco.root / part)
    (fake_coco.root / "annotations").rename(fake_coco.root / "moved")
    (fake_coco.root / "annotations").mkdir()
    (fake_coco.root / "annotations" / "instances_train2017.json").touch()
    message = refused(fake_coco.root, "test")
    assert message.startswith("root: found no annotations/val2017") and "stuffthingmaps_trainval2017.zip" in message


# -- the data module -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("val_size", [0, 4])
def test_nothing_more_is_cut_off_for_validation(fake_coco: FakeCOCO, val_size: int) -> None:
    module = COCOStuffDataModule(str(fake_coco.root), val_size, num_workers=0, val_fraction=0.0)
    module.setup("fit")
    assert module.train_set is not None and module.val_set is not None
    assert len(module.train_indices) == 9 - val_size and len(module.val_indices) == val_size
    used = [*(module.train_set.name(i) for i in module.train_indices), *map(module.val_set.name, module.val_indices)]
    assert tuple(used) == COCO_TRAIN


def test_without_own_validation_images_a_share_is_cut_off(fake_coco: FakeCOCO) -> None:
    module = COCOStuffDataModule(str(fake_coco.root), 0, num_workers=0, val_fraction=0.25)
    module.setup("fit")
    assert sorted(module.train_indices + module.val_indices) == list(range(9)) and len(module.val_indices) == 2


def test_validation_hides_unseen_classes_and_the_test_shows_them(fake_coco: FakeCOCO) -> None:
    module = COCOStuffDataModule(str(fake_coco.root), 4, num_workers=0)
    module.setup("fit")
    assert module.val_set is not None and module.test_set is not None
    assert sum(int(module.val_set[i]["hidden"]) for i in module.val_indices) > 0
    assert not any((module.val_set[i]["mask"] >= 156).logical_and(module.val_set[i]["mask"] < 255).any()
                   for i in module.val_indices)  # fmt: skip
    for index in range(3):
        mask = module.test_set[index]["mask"].numpy()
        truth = np.isin(fake_coco.masks[COCO_TEST[index]], COCO_UNSEEN_IDS)
        assert np.array_equal((mask >= 156) & (mask < 255), truth) and truth.any()


@pytest.mark.parametrize("void", [False, True])
def test_training_samples_do_not_depend_on_unseen_labels(fake_coco: FakeCOCO, void: bool) -> None:
    dataset = COCOStuffDataset(
        fake_coco.root, "train", 0, hide_unseen=True, transform=training_preset(warp=48, crop=40)
    )
    before, hidden = training_samples(dataset)
    change = np.arange(256)
    change[list(COCO_UNSEEN_IDS)] = 255 if void else np.roll(COCO_UNSEEN_IDS, 1)
    for name in COCO_TRAIN:
        write_mask(fake_coco.mask(name), change[fake_coco.masks[name]], palette=False)
    after, still_hidden = training_samples(dataset)
    assert sum(hidden) > 0 and still_hidden == ([0] * len(hidden) if void else hidden)
    assert all(map(same_samples, before, after))


def test_drop_leaves_out_exactly_the_images_with_an_unseen_pixel(fake_coco: FakeCOCO) -> None:
    module = COCOStuffDataModule(str(fake_coco.root), 2, num_workers=0, unseen_pixels="drop")
    module.setup("fit")
    train = COCO_TRAIN[:7]
    assert {train[i] for i in module.dropped_indices} == set(COCO_WITH_UNSEEN) & set(train)
    assert {train[i] for i in module.train_indices} == set(train) - set(COCO_WITH_UNSEEN)


# -- the real subset -----------------------------------------------------------------------------------------------


@real_data
def test_the_real_subset() -> None:
    train, test = COCOStuffDataset(REAL, "train", 0), COCOStuffDataset(REAL, "test")
    assert (len(train), len(test)) == (13, 8)
    present: set[int] = set()
    for dataset in (train, test):
        for index in range(len(dataset)):
            sample = dataset[index]
            assert sample["image"].shape[1:] == sample["mask"].shape
            present |= set(sample["mask"].unique().tolist())
    assert len(present - {255}) == 87
    assert refused(REAL, "train").startswith("val_size: found 10000, expected 0 to 12")
