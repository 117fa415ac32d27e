"""`check_data`: counts against PIL and numpy on the same files, and a line per bad file."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.check import SplitCount, as_report, check_data
from sign_zs3.data.datamodules import (
    COCOStuffDataModule,
    FolderDataModule,
    PascalContextDataModule,
    ShapesDataModule,
    VOCDataModule,
    ZeroShotDataModule,
)
from sign_zs3.data.datasets.base import Part
from sign_zs3.protocol import Protocol
from tests.data.conftest import (
    CONTEXT_TEST,
    CONTEXT_TRAIN,
    CONTEXT_WITH_UNSEEN,
    FOLDER_TEST,
    FOLDER_TRAIN,
    FOLDER_UNSEEN,
    FOLDER_WITH_UNSEEN,
    TRAIN_AUG,
    VAL,
    WITH_UNSEEN,
    FakeCOCO,
    FakeContext,
    FakeFolder,
    FakeVOC,
    write_mask,
)

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
real_data = pytest.mark.skipif(not REAL.is_dir(), reason="the real data sets are not beside the project (../shared)")


def module(fake: FakeFolder, **options: Any) -> FolderDataModule:
    return FolderDataModule(str(fake.root), **{"unseen": list(FOLDER_UNSEEN), **options})


def check(data: ZeroShotDataModule) -> tuple[dict[Part, SplitCount], list[str]]:
    counts, faults = check_data(data, progress=False)
    assert not [fault for fault in faults if "\n" in fault] and len(faults) == len(set(faults))
    return counts, faults


def assert_counts(count: SplitCount, masks: Sequence[NDArray[Any]], protocol: Protocol, images: int) -> None:
    """The counts are those of the masks' own ids, taken class by class."""
    assert count.images == images
    ignored, unseen = np.zeros(len(masks), np.int64), np.zeros(len(masks), np.int64)
    for index, own_id in enumerate(protocol.ids):
        found = np.array([np.count_nonzero(mask == own_id) for mask in masks])
        assert (count.pixels[index], count.holding[index]) == (found.sum(), np.count_nonzero(found))
        if index >= protocol.num_seen:
            unseen += found
    for own_id in protocol.ignored_ids:
        ignored += [np.count_nonzero(mask == own_id) for mask in masks]
    assert (count.pixels[255], count.holding[255]) == (ignored.sum(), np.count_nonzero(ignored))
    assert count.pixels.sum() == sum(mask.size for mask in masks)
    assert count.with_unseen == np.count_nonzero(unseen)


# -- counts --------------------------------------------------------------------------------------------------------


def test_a_folder_is_counted(fake_folder: FakeFolder) -> None:
    data = module(fake_folder)
    counts, faults = check(data)
    assert faults == [] and list(counts) == ["train", "test"]
    for part, listed in (("train", FOLDER_TRAIN), ("test", FOLDER_TEST)):
        masks = [fake_folder.masks[name] for name in listed]
        assert_counts(counts["train" if part == "train" else "test"], masks, data.protocol, len(listed))
    assert counts["train"].with_unseen == len(FOLDER_WITH_UNSEEN)


def test_a_list_of_validation_images_is_counted_apart(fake_folder: FakeFolder) -> None:
    fake_folder.write_list("train", FOLDER_TRAIN[:4])
    fake_folder.write_list("val", FOLDER_TRAIN[4:])
    data = module(fake_folder)
    counts, faults = check(data)
    assert faults == [] and list(counts) == ["train", "val", "test"]
    assert_counts(counts["val"], [fake_folder.masks[name] for name in FOLDER_TRAIN[4:]], data.protocol, 3)


def test_voc_is_counted_from_pngs_and_mat_files(fake_voc: FakeVOC) -> None:
    data = VOCDataModule(str(fake_voc.root), str(fake_voc.root))
    counts, faults = check(data)
    assert faults == []
    masks = [data.make_dataset("train", hide_unseen=False, augment=False).read_mask(i) for i in range(len(TRAIN_AUG))]
    assert_counts(counts["train"], masks, data.protocol, len(TRAIN_AUG))
    assert counts["train"].with_unseen == len(WITH_UNSEEN)
    assert_counts(counts["test"], [fake_voc.masks[name] for name in VAL], data.protocol, len(VAL))


@pytest.mark.parametrize("kind", ["pngs", "maps"])
def test_context_is_counted(fake_context: FakeContext, kind: str) -> None:
    (fake_context.write_pngs(59) if kind == "pngs" else fake_context.write_maps())
    data = PascalContextDataModule(str(fake_context.root), num_classes=59)
    counts, faults = check(data)
    assert faults == [] and counts["train"].with_unseen == len(CONTEXT_WITH_UNSEEN)
    for listed, count in ((CONTEXT_TRAIN, counts["train"]), (CONTEXT_TEST, counts["test"])):
        masks = [fake_context.own_ids(name, 59) for name in listed]
        assert_counts(count, masks, data.protocol, len(listed))


@pytest.mark.parametrize("val_size", [0, 3])
def test_coco_is_counted(fake_coco: FakeCOCO, val_size: int) -> None:
    data = COCOStuffDataModule(str(fake_coco.root), val_size)
    counts, faults = check(data)
    assert faults == [] and [count.images for count in counts.values()] == ([6, 3, 3] if val_size else [9, 3])
    masks = [mask for name, mask in fake_coco.masks.items() if fake_coco.mask(name).parent.name == "train2017"]
    assert_counts(counts["train"], masks[: 9 - val_size], data.protocol, 9 - val_size)


def test_drawn_scenes_are_counted_too() -> None:
    data = ShapesDataModule(train_size=3, val_size=2, test_size=2, scene_size=32)
    counts, faults = check(data)
    assert faults == [] and [count.images for count in counts.values()] == [3, 2, 2]
    scenes = data.make_dataset("train", hide_unseen=False, augment=False)
    assert_counts(counts["train"], [scenes.read_mask(i) for i in range(3)], data.protocol, 3)


@pytest.mark.parametrize("options", [{"unseen_pixels": "drop"}, {"seed": 5}, {"val_fraction": 0.5}, {"crop_size": 9}])
def test_options_of_training_change_no_count(fake_folder: FakeFolder, options: dict[str, Any]) -> None:
    reports = []
    for given in ({}, options):
        data = module(fake_folder, **given)
        reports.append(as_report(data.protocol, *check(data)))
    assert reports[0] == reports[1]


@real_data
def test_msrc_as_a_whole() -> None:
    data = FolderDataModule(
        str(REAL / "msrc"), unseen=["cow", "dog", "boat", "bicycle"], ignored_classes=["horse", "mountain"]
    )
    counts, faults = check(data)
    assert faults == []
    for part, listed in counts.items():
        ids = (REAL / "msrc" / "splits" / f"{part}.txt").read_text().split()
        masks = [np.asarray(Image.open(REAL / "msrc" / "masks" / f"{name}.png")) for name in ids]
        assert_counts(listed, masks, data.protocol, {"train": 354, "test": 237}[part])
    training = as_report(data.protocol, counts, faults)["training"]
    assert training["images_with_unseen"] == 86
    assert training["unseen_share_of_unlabelled"] == pytest.approx(0.239, abs=5e-4)


@real_data
def test_the_share_of_unseen_pixels_in_voc() -> None:
    """Masks alone: that the images decode is tested elsewhere."""
    dataset = VOCDataModule(str(REAL), str(REAL)).make_dataset("train", hide_unseen=False, augment=False)
    count = SplitCount(len(dataset))
    for index in range(len(dataset)):
        count.add(np.bincount(dataset.read_mask(index).ravel(), minlength=256), dataset.protocol)
    training = as_report(dataset.protocol, {"train": count}, [])["training"]
    assert training["images_with_unseen"] == 194
    assert training["unseen_share_of_unlabelled"] == pytest.approx(0.103, abs=5e-4)


# -- faults --------------------------------------------------------------------------------------------------------

Damage = Callable[[FakeFolder, str], Path]


def truncated_image(fake: FakeFolder, name: str) -> Path:
    path = fake.image(name)
    path.write_bytes(path.read_bytes()[:-200])
    return path


def no_image(fake: FakeFolder, name: str) -> Path:
    fake.image(name).write_text("<html>404 Not Found</html>")
    return fake.image(name)


def empty_image(fake: FakeFolder, name: str) -> Path:
    fake.image(name).write_bytes(b"")
    return fake.image(name)


def missing_image(fake: FakeFolder, name: str) -> Path:
    fake.image(name).unlink()
    return fake.image(name)


def pickled_image(fake: FakeFolder, name: str) -> Path:
    fake.image(name).write_bytes(pickle.dumps(np.zeros((4, 4, 3))))
    return fake.image(name)


def wide_mask(fake: FakeFolder, name: str) -> Path:
    Image.fromarray(fake.masks[name].astype(np.uint16) + 256).save(fake.mask(name))
    return fake.mask(name)


def colour_mask(fake: FakeFolder, name: str) -> Path:
    Image.fromarray(np.repeat(fake.masks[name][:, :, None], 3, 2)).save(fake.mask(name))
    return fake.mask(name)


def other_mask(fake: FakeFolder, name: str) -> Path:
    write_mask(fake.mask(name), fake.masks[name][:-1])
    return fake.mask(name)


def unknown_id(fake: FakeFolder, name: str) -> Path:
    mask = fake.masks[name].copy()
    mask[4, 4] = 6
    write_mask(fake.mask(name), mask)
    return fake.mask(name)


def truncated_mask(fake: FakeFolder, name: str) -> Path:
    path = fake.mask(name)
    path.write_bytes(path.read_bytes()[:-60])
    return path


def missing_mask(fake: FakeFolder, name: str) -> Path:
    fake.mask(name).unlink()
    return fake.mask(name)


def pickled_mask(fake: FakeFolder, name: str) -> Path:
    fake.mask(name).write_bytes(pickle.dumps(fake.masks[name]))
    return fake.mask(name)


def two_images(fake: FakeFolder, name: str) -> Path:
    path = fake.image(name).with_suffix(".png")
    path.touch()
    return path


OF_IMAGES: list[tuple[Damage, str]] = [
    (truncated_image, "cannot be decoded"),
    (no_image, "cannot be decoded"),
    (empty_image, "cannot be decoded"),
    (missing_image, "not found"),
    (pickled_image, "cannot be decoded"),
    (two_images, f"found beside {FOLDER_TRAIN[1]}.jpg"),
]
OF_MASKS: list[tuple[Damage, str]] = [
    (wide_mask, "found the id 2"),
    (colour_mask, "found a RGB image"),
    (unknown_id, "found the id 6, expected a class of mine (1-5, 7)"),
    (truncated_mask, "cannot be decoded"),
    (missing_mask, "not found"),
    (pickled_mask, "cannot be decoded"),
]


@pytest.mark.parametrize(("damage", "message"), OF_IMAGES)
def test_a_bad_image_is_one_line_and_its_mask_still_counts(
    fake_folder: FakeFolder, damage: Damage, message: str
) -> None:
    path = damage(fake_folder, FOLDER_TRAIN[1])
    data = module(fake_folder)
    counts, faults = check(data)
    assert len(faults) == 1 and faults[0].startswith(f"{path}: {message}")
    assert_counts(counts["train"], [fake_folder.masks[name] for name in FOLDER_TRAIN], data.protocol, 7)


@pytest.mark.parametrize(("damage", "message"), OF_MASKS)
def test_a_bad_mask_is_one_line_and_the_others_still_count(
    fake_folder: FakeFolder, damage: Damage, message: str
) -> None:
    path = damage(fake_folder, FOLDER_TRAIN[1])
    data = module(fake_folder)
    counts, faults = check(data)
    assert len(faults) == 1 and faults[0].startswith(f"{path}: {message}")
    masks = [fake_folder.masks[name] for name in FOLDER_TRAIN if name != FOLDER_TRAIN[1]]
    assert_counts(counts["train"], masks, data.protocol, 7)


def test_a_mask_of_another_size_is_one_line(fake_folder: FakeFolder) -> None:
    path = other_mask(fake_folder, FOLDER_TRAIN[1])
    height, width = fake_folder.masks[FOLDER_TRAIN[1]].shape
    _, faults = check(module(fake_folder))
    found = f"found a mask of {height - 1} x {width} for an image of {height} x {width}"
    assert len(faults) == 1 and faults[0].startswith(f"{path}: {found}")


def test_a_bad_mask_does_not_hide_a_bad_image(fake_folder: FakeFolder) -> None:
    mask, image = wide_mask(fake_folder, FOLDER_TEST[0]), truncated_image(fake_folder, FOLDER_TEST[0])
    _, faults = check(module(fake_folder))
    assert [fault.split(": ")[0] for fault in faults] == [str(mask), str(image)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "found no image id"),
        (b"\xef\xbb\xbf\r\n\r\n", "found no image id"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"\x80\x04", "cannot be read"),
    ],
)
def test_an_unreadable_list_is_one_line_and_the_other_list_still_counts(
    fake_folder: FakeFolder, content: list[str] | bytes, message: str
) -> None:
    path = fake_folder.write_list("train", content)
    data = module(fake_folder)
    counts, faults = check(data)
    assert len(faults) == 1 and faults[0].startswith(f"{path}: {message}")
    assert list(counts) == ["test"]
    assert_counts(counts["test"], [fake_folder.masks[name] for name in FOLDER_TEST], data.protocol, 3)


def test_faults_of_single_lines_of_a_list(fake_folder: FakeFolder) -> None:
    path = fake_folder.write_list("train", [*FOLDER_TRAIN, FOLDER_TRAIN[0], "../elsewhere", FOLDER_TEST[1]])
    data = module(fake_folder)
    counts, faults = check(data)
    assert [fault.split("; ")[0] for fault in faults] == [
        f"{path}: found the id '{FOLDER_TRAIN[0]}' twice, expected it once",
        f"{path}: found the id '../elsewhere', expected a name below the folder of images",
        f"{fake_folder.image(FOLDER_TEST[1])}: found in the train and in the test list, expected it in one",
    ]
    masks = [fake_folder.masks[name] for name in (*FOLDER_TRAIN, FOLDER_TEST[1])]
    assert_counts(counts["train"], masks, data.protocol, 8)


def test_an_image_for_validation_and_for_testing(fake_folder: FakeFolder) -> None:
    fake_folder.write_list("val", [FOLDER_TEST[0]])
    _, faults = check(module(fake_folder))
    assert len(faults) == 1 and faults[0].startswith(
        f"{fake_folder.image(FOLDER_TEST[0])}: found in the val and in the test list"
    )


def test_everything_at_once_is_listed_once(fake_folder: FakeFolder) -> None:
    damages = [truncated_image, missing_image, wide_mask, colour_mask, unknown_id, missing_mask]
    broken = [str(damage(fake_folder, name)) for damage, name in zip(damages, FOLDER_TRAIN[1:], strict=True)]
    path = fake_folder.write_list("train", [*FOLDER_TRAIN, FOLDER_TRAIN[0]])
    # in both lists: its fault is told once
    fake_folder.write_list("test", [*FOLDER_TEST, FOLDER_TRAIN[1]])
    _, faults = check(module(fake_folder))
    overlap = str(fake_folder.image(FOLDER_TRAIN[1]))
    assert [fault.split(": ")[0] for fault in faults] == [str(path), overlap, *broken]


def test_a_label_map_with_another_struct(fake_context: FakeContext, fake_voc: FakeVOC) -> None:
    from scipy.io import savemat

    fake_context.write_maps()
    path = fake_context.write_map(CONTEXT_TRAIN[0], {"LabelMap": {"map": np.ones((40, 54), np.uint16)}})
    counts, faults = check(PascalContextDataModule(str(fake_context.root)))
    assert len(faults) == 1 and faults[0].startswith(f"{path}: found LabelMap")
    assert counts["train"].pixels.sum() == sum(fake_context.maps[name].size for name in CONTEXT_TRAIN[1:])

    path = fake_voc.sbd / "cls" / "2008_000022.mat"
    savemat(path, {"GTinst": {"Segmentation": fake_voc.masks["2008_000022"]}})
    _, faults = check(VOCDataModule(str(fake_voc.root), str(fake_voc.root)))
    assert len(faults) == 1 and faults[0].startswith(f"{path}: found ")


def test_a_list_that_two_splits_need_is_told_once(fake_voc: FakeVOC) -> None:
    """VOC's val.txt lists the test images, and what training must leave out of SBD."""
    path = fake_voc.voc / "ImageSets" / "Segmentation" / "val.txt"
    path.write_text(path.read_text() + f"{VAL[0]}\n")
    counts, faults = check(VOCDataModule(str(fake_voc.root), str(fake_voc.root)))
    assert len(faults) == 1 and faults[0].startswith(f"{path}: found the id '{VAL[0]}' twice")
    assert (counts["train"].images, counts["test"].images) == (len(TRAIN_AUG), len(VAL))
    path.unlink()
    counts, faults = check(VOCDataModule(str(fake_voc.root), str(fake_voc.root)))
    assert len(faults) == 1 and faults[0].startswith(f"{path}: cannot be read") and counts == {}


# -- what is no fault ----------------------------------------------------------------------------------------------


def as_cmyk(fake: FakeFolder, name: str) -> None:
    Image.open(fake.image(name)).convert("CMYK").save(fake.image(name))


def as_grey(fake: FakeFolder, name: str) -> None:
    Image.open(fake.image(name)).convert("L").save(fake.image(name))


def as_palette(fake: FakeFolder, name: str) -> None:
    picture = Image.open(fake.image(name)).convert("P")
    fake.image(name).unlink()
    picture.save(fake.image(name).with_suffix(".png"), transparency=0)


def as_alpha(fake: FakeFolder, name: str) -> None:
    picture = Image.open(fake.image(name)).convert("RGBA")
    fake.image(name).unlink()
    picture.save(fake.image(name).with_suffix(".PNG"))


def as_16_bit(fake: FakeFolder, name: str) -> None:
    picture = np.asarray(Image.open(fake.image(name)).convert("L")).astype(np.uint16) * 257
    fake.image(name).unlink()
    Image.fromarray(picture).save(fake.image(name).with_suffix(".png"))


def as_turned(fake: FakeFolder, name: str) -> None:
    """As a camera stores an upright picture; its mask was drawn on what programs show."""
    exif = Image.Exif()
    exif[0x0112] = 6
    picture = Image.open(fake.image(name)).transpose(Image.Transpose.ROTATE_90)
    picture.save(fake.image(name), exif=exif)


def as_marked_turned(fake: FakeFolder, name: str) -> None:
    """Marked as turned, but the mask was drawn on the stored pixels."""
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.open(fake.image(name)).save(fake.image(name), exif=exif)


def with_grey_mask(fake: FakeFolder, name: str) -> None:
    Image.fromarray(fake.masks[name]).save(fake.mask(name))


@pytest.mark.parametrize(
    "change",
    [as_cmyk, as_grey, as_palette, as_alpha, as_16_bit, as_turned, as_marked_turned, with_grey_mask],
)
def test_what_readers_convert_is_no_fault(fake_folder: FakeFolder, change: Callable[[FakeFolder, str], None]) -> None:
    before = check(module(fake_folder))
    change(fake_folder, FOLDER_TRAIN[2])
    data = module(fake_folder)
    after = check(data)
    assert after[1] == []
    assert as_report(data.protocol, *after) == as_report(data.protocol, *before)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_of_windows_are_no_fault(fake_folder: FakeFolder, encoding: str) -> None:
    before = check(module(fake_folder))
    for split, listed in (("train", FOLDER_TRAIN), ("test", FOLDER_TEST)):
        fake_folder.write_list(split, "\r\n".join(listed).encode(encoding))
    data = module(fake_folder)
    assert as_report(data.protocol, *check(data)) == as_report(data.protocol, *before)


# -- the report ----------------------------------------------------------------------------------------------------


def test_the_report_survives_json_and_adds_up(fake_folder: FakeFolder) -> None:
    wide_mask(fake_folder, FOLDER_TEST[0])
    data = module(fake_folder)
    counts, faults = check(data)
    report = as_report(data.protocol, counts, faults)
    assert json.loads(json.dumps(report)) == report
    assert (report["format"], report["dataset"], report["split"]) == (1, "mine", "custom")
    assert report["images"] == {"train": 7, "test": 3} and report["faults"] == faults
    assert [(c["name"], c["id"]) for c in report["classes"] if not c["seen"]] == [("cow", 3), ("dog", 4)]
    sizes = sum(fake_folder.masks[name].size for name in FOLDER_TRAIN)
    assert sum(c["pixels"]["train"] for c in report["classes"]) + report["ignored_pixels"]["train"] == sizes
    unseen = sum(c["pixels"]["train"] for c in report["classes"] if not c["seen"])
    training = report["training"]
    assert (training["unseen_pixels"], training["unlabelled_pixels"]) == (unseen, report["ignored_pixels"]["train"])
    assert training["unseen_share_of_unlabelled"] == unseen / (unseen + report["ignored_pixels"]["train"])


def test_a_report_without_training_images_has_no_share(fake_folder: FakeFolder) -> None:
    fake_folder.write_list("train", [])
    data = module(fake_folder)
    report = as_report(data.protocol, *check(data))
    assert report["images"] == {"test": 3}
    assert report["training"]["unseen_share_of_unlabelled"] is None
    assert all(c["images"].keys() == {"test"} for c in report["classes"])
