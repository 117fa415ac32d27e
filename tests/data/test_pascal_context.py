from __future__ import annotations

import functools
import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from sign_zs3.data.datamodules import PascalContextDataModule
from sign_zs3.data.datasets.pascal_context import PascalContextDataset
from sign_zs3.data.splits import CONTEXT33_CLASSES, CONTEXT59_CLASSES, published_protocol
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import (
    CONTEXT33,
    CONTEXT59,
    CONTEXT459,
    CONTEXT_TEST,
    CONTEXT_TRAIN,
    CONTEXT_UNSEEN,
    CONTEXT_WITH_UNSEEN,
    FakeContext,
    names,
    same_samples,
    training_samples,
    write_mask,
)

LISTS = Path(__file__).parents[2] / ".." / "shared" / "data" / "lists"
real_lists = pytest.mark.skipif(
    not (LISTS / "pascal_context_classes-400.txt").is_file(),
    reason="the published lists of Pascal Context are not beside the project (../shared/data/lists)",
)
each_size = pytest.mark.parametrize("num_classes", [33, 59])
Size = Literal[33, 59]


def refused(root: Path, split: Literal["train", "test"] = "train", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        PascalContextDataset(root, split, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def misread(root: Path, **options: Any) -> str:
    dataset = PascalContextDataset(root, "train", **options)
    with pytest.raises(UserError) as caught:
        dataset[0]
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names and splits ----------------------------------------------------------------------------------------------


def test_class_names_are_the_published_ones_but_for_three_spellings() -> None:
    ours = {"diningtable": "table", "clothes": "cloth", "bedcloth": "bedclothes"}
    assert tuple(ours.get(name, name) for name in CONTEXT59_CLASSES) == CONTEXT59
    assert tuple(ours.get(name, name) for name in CONTEXT33_CLASSES) == CONTEXT33


@each_size
def test_default_split(num_classes: Size) -> None:
    protocol = published_protocol(f"pascal_context_{num_classes}")
    assert protocol.num_classes == num_classes and protocol.ignored_ids == (0, 255)
    assert {protocol.classes[i] for i in protocol.unseen} == set(CONTEXT_UNSEEN)
    assert sorted(protocol.ids) == list(range(1, num_classes + 1))


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(UserError, match="data set: found 'pascal_context_60', expected one of voc, pascal_context_33"):
        published_protocol("pascal_context_60")


# -- label PNGs ----------------------------------------------------------------------------------------------------


@each_size
@pytest.mark.parametrize("split", ["train", "test"])
def test_pngs_are_read_as_they_are(fake_context: FakeContext, num_classes: Size, split: Any) -> None:
    fake_context.write_pngs(num_classes)
    dataset = PascalContextDataset(fake_context.root, split, num_classes=num_classes)
    assert names(dataset) == (CONTEXT_TRAIN if split == "train" else CONTEXT_TEST)
    table = published_protocol(f"pascal_context_{num_classes}").lookup()
    for index, name in enumerate(names(dataset)):
        truth = fake_context.own_ids(name, num_classes)
        image, mask = dataset.read(index)
        assert np.array_equal(mask, truth) and mask.dtype == np.uint8
        assert image.shape == (*truth.shape, 3) and image.dtype == np.uint8
        assert np.array_equal(dataset[index]["mask"].numpy(), table[truth])


def test_33_and_59_lie_beside_each_other(fake_context: FakeContext) -> None:
    fake_context.write_pngs(33)
    fake_context.write_pngs(59)
    few, many = (PascalContextDataset(fake_context.root, "test", num_classes=n) for n in (33, 59))
    shared = {i for i, name in enumerate(CONTEXT59, 1) if name in CONTEXT33}
    for index in range(len(few)):
        spelt33 = np.array(["", *CONTEXT33])[few.read_mask(index)]
        spelt59 = np.array(["", *CONTEXT59])[many.read_mask(index)]
        inside = np.isin(many.read_mask(index), list(shared))
        assert np.array_equal(spelt33[inside], spelt59[inside])
        assert (spelt33[~inside] == "").all()


# -- MATLAB label maps ---------------------------------------------------------------------------------------------


@each_size
def test_label_maps_read_as_the_pngs_of_the_same_scenes(fake_context: FakeContext, num_classes: Size) -> None:
    fake_context.write_maps(fake_context.root / "maps")
    fake_context.write_pngs(num_classes, fake_context.root / "pngs")
    fake_context.write_lists(fake_context.root / "maps")
    fake_context.write_lists(fake_context.root / "pngs")
    for split in ("train", "test"):
        maps, pngs = (
            PascalContextDataset(fake_context.root, split, fake_context.root / kind, num_classes=num_classes)
            for kind in ("maps", "pngs")
        )
        assert names(maps) == names(pngs)
        assert maps.mask_source(0).endswith(".mat") and pngs.mask_source(0).endswith(".png")
        for index in range(len(maps)):
            assert same_samples(maps[index], pngs[index])
            assert maps.read_mask(index).dtype == np.uint8
            assert np.array_equal(maps.held(index), pngs.held(index))


def test_pngs_come_before_label_maps(fake_context: FakeContext) -> None:
    fake_context.write_maps()
    fake_context.write_pngs(33)
    assert PascalContextDataset(fake_context.root, "test").mask_source(0).endswith(".png")
    assert PascalContextDataset(fake_context.root, "test", num_classes=59).mask_source(0).endswith(".mat")


def test_ids_of_other_names_are_unlabelled(fake_context: FakeContext) -> None:
    fake_context.write_maps()
    everything = np.arange(460, dtype=np.uint16).reshape(20, 23)
    fake_context.write_map(CONTEXT_TRAIN[0], {"LabelMap": everything})
    found = PascalContextDataset(fake_context.root, "train", num_classes=59).read_mask(0).ravel()
    assert np.count_nonzero(found) == 59 and sorted(found[found > 0]) == list(range(1, 60))
    # the ids of tableware, clothes tree and the like stay without label
    assert all(found[CONTEXT459.index(name) + 1] == 0 for name in ("tableware", "clothes tree", "pool table"))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-8"])
def test_the_list_of_names_may_come_from_windows(fake_context: FakeContext, encoding: str) -> None:
    fake_context.write_maps()
    before = PascalContextDataset(fake_context.root, "train").read_mask(1)
    path = fake_context.root / "labels.txt"
    path.write_bytes(path.read_text().replace("\n", "\r\n").encode(encoding))
    assert np.array_equal(PascalContextDataset(fake_context.root, "train").read_mask(1), before)


def test_the_list_of_names_may_have_spaces_in_words(fake_context: FakeContext) -> None:
    """As some copies of the list have them."""
    fake_context.write_maps()
    before = PascalContextDataset(fake_context.root, "train", num_classes=59).read_mask(1)
    path, text = fake_context.root / "labels.txt", (fake_context.root / "labels.txt").read_text()
    path.write_text(text.replace("pottedplant", "potted plant").replace("tvmonitor", "tv monitor"))
    assert np.array_equal(PascalContextDataset(fake_context.root, "train", num_classes=59).read_mask(1), before)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"labelmap": np.ones((40, 54), np.uint16)}, "found no such variable"),
        ({"LabelMap": {"map": np.ones((40, 54), np.uint16)}}, "found LabelMap of"),
        ({"LabelMap": np.full((40, 54), 1.5)}, "found LabelMap of float64"),
        ({"LabelMap": np.ones((40, 54, 3), np.uint16)}, "shape (40, 54, 3)"),
        ({"LabelMap": "sky"}, "found LabelMap of"),
        ({"LabelMap": np.full((40, 54), 460, np.uint16)}, "found the id 460, expected 0 to 459"),
        ({"LabelMap": np.full((40, 54), 65535, np.uint16)}, "found the id 65535"),
        ({"LabelMap": np.full((40, 54), -1, np.int16)}, "found the id -1"),
        ({"LabelMap": np.ones((40, 55), np.uint16)}, "found a mask of 40 x 55 for an image of 40 x 54"),
    ],
)
def test_another_label_map_is_named(fake_context: FakeContext, content: dict[str, Any], found: str) -> None:
    fake_context.write_maps()
    path = fake_context.write_map(CONTEXT_TRAIN[0], content)
    message = misread(fake_context.root)
    assert message.startswith(f"{path}: found") and found in message


@pytest.mark.parametrize("content", [b"", b"MATLAB 7.3 MAT-file", pickle.dumps({"LabelMap": np.zeros((40, 54))})])
def test_a_file_that_is_no_label_map_is_named(fake_context: FakeContext, content: bytes) -> None:
    fake_context.write_maps()
    path = fake_context.root / "trainval" / f"{CONTEXT_TRAIN[0]}.mat"
    path.write_bytes(content)
    assert misread(fake_context.root).startswith(f"{path}: cannot be decoded")


def test_a_label_map_cut_short_is_named(fake_context: FakeContext) -> None:
    fake_context.write_maps()
    path = fake_context.root / "trainval" / f"{CONTEXT_TRAIN[0]}.mat"
    path.write_bytes(path.read_bytes()[:250])
    assert misread(fake_context.root).startswith(f"{path}: cannot be decoded")


def test_label_maps_without_names(fake_context: FakeContext) -> None:
    fake_context.write_maps()
    path = fake_context.root / "labels.txt"
    lines = path.read_text().splitlines()
    path.unlink()
    message = refused(fake_context.root)
    assert message.startswith(f"{fake_context.root / 'trainval'}: found label maps without names, expected {path}")
    path.write_text("\n".join(line for line in lines if not line.endswith(": bedclothes")))
    message = refused(fake_context.root, num_classes=59)
    assert message.startswith(f"{path}: found no class 'bedclothes'")
    # 33 classes do not need it
    assert len(PascalContextDataset(fake_context.root, "train")) == len(CONTEXT_TRAIN)


# -- places --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["VOCdevkit/VOC2010", "VOC2010", "VOCdevkit/VOC2012", "VOC2012", "."])
def test_images_of_any_voc(fake_context: FakeContext, place: str) -> None:
    fake_context.write_pngs(33)
    target = fake_context.root / place
    if target != fake_context.voc:
        target.mkdir(parents=True, exist_ok=True)
        shutil.move(fake_context.voc / "JPEGImages", target)
    dataset = PascalContextDataset(fake_context.root, "train")
    assert dataset.items[0].image == target / "JPEGImages" / f"{CONTEXT_TRAIN[0]}.jpg"
    assert len(list(map(dataset.read, range(len(dataset))))) == len(CONTEXT_TRAIN)


@pytest.mark.parametrize("kind", ["pngs", "maps"])
def test_root_may_be_voc_itself_with_everything_in_it(fake_context: FakeContext, kind: str) -> None:
    root = fake_context.voc
    (fake_context.write_pngs(33, root) if kind == "pngs" else fake_context.write_maps(root))
    fake_context.write_lists(root)
    assert names(PascalContextDataset(root, "train")) == CONTEXT_TRAIN
    assert names(PascalContextDataset(root, "test")) == CONTEXT_TEST


def test_lists_are_found_in_image_sets(fake_context: FakeContext) -> None:
    fake_context.write_pngs(33)
    for name in ("train", "val"):
        (fake_context.root / f"{name}.txt").unlink()
    message = refused(fake_context.root)
    assert message.startswith("train_list: found no train.txt in ") and "4,998" in message
    assert "5,105" in refused(fake_context.root, "test")
    fake_context.write_lists(fake_context.voc / "ImageSets" / "SegmentationContext")
    assert names(PascalContextDataset(fake_context.root, "train")) == CONTEXT_TRAIN
    assert names(PascalContextDataset(fake_context.root, "test")) == CONTEXT_TEST


def test_lists_of_sbd_in_the_root_are_not_taken_for_context(fake_context: FakeContext) -> None:
    """torchvision unpacks SBD's train.txt and val.txt into the root that it shares with VOC."""
    fake_context.write_pngs(33)
    fake_context.write_lists(fake_context.voc / "ImageSets" / "SegmentationContext")
    for name in ("train", "val"):
        (fake_context.root / f"{name}.txt").write_text("2008_000021\n")
    assert names(PascalContextDataset(fake_context.root, "train")) == CONTEXT_TRAIN
    assert names(PascalContextDataset(fake_context.root, "test")) == CONTEXT_TEST


def test_a_list_of_ones_own(fake_context: FakeContext, tmp_path: Path) -> None:
    fake_context.write_pngs(33)
    mine = tmp_path / "mine.txt"
    mine.write_text(f"{CONTEXT_TEST[1]}\n{CONTEXT_TRAIN[2]}\n")
    dataset = PascalContextDataset(fake_context.root, "train", list_file=mine)
    assert names(dataset) == (CONTEXT_TEST[1], CONTEXT_TRAIN[2])


def test_voc_own_lists_are_not_taken_for_context(fake_context: FakeContext) -> None:
    """VOC 2010 holds ImageSets/Segmentation/train.txt, whose images are others."""
    fake_context.write_pngs(33)
    lists = fake_context.voc / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for name in ("train", "val"):
        shutil.move(fake_context.root / f"{name}.txt", lists)
    assert refused(fake_context.root).startswith("train_list: found no train.txt")


def test_each_missing_thing_is_named_with_what_to_fetch(fake_context: FakeContext, tmp_path: Path) -> None:
    message = refused(tmp_path / "nowhere")
    assert message.startswith("root: found no JPEGImages at ") and "VOCtrainval_03-May-2010.tar" in message
    message = refused(fake_context.root)
    assert message.startswith("labels: found neither 33_context_labels nor trainval in ")
    assert "33_context_labels.tar.gz" in message and "trainval.tar.gz" in message
    assert "59_context_labels.tar.gz" in refused(fake_context.root, labels=tmp_path, num_classes=59)
    fake_context.write_pngs(33)
    mask = fake_context.root / "33_context_labels" / f"{CONTEXT_TRAIN[1]}.png"
    mask.unlink()
    assert refused(fake_context.root).startswith(f"{mask}: not found (1 of the 4 masks in the lists")
    image = fake_context.voc / "JPEGImages" / f"{CONTEXT_TRAIN[1]}.jpg"
    image.unlink()
    assert refused(fake_context.root).startswith(f"{image}: not found (1 of the 4 images in the lists")
    with pytest.raises(UserError, match="root: found no JPEGImages"):
        PascalContextDataModule(str(tmp_path / "nowhere")).setup("fit")


def test_masks_of_59_classes_under_the_name_of_33_are_refused(fake_context: FakeContext) -> None:
    folder = fake_context.write_pngs(59)
    write_mask(folder / "59_context_labels" / f"{CONTEXT_TRAIN[0]}.png", np.full((40, 54), 34))
    (folder / "59_context_labels").rename(folder / "33_context_labels")
    assert "found the id 34, expected a class of pascal_context_33 (1-33)" in misread(fake_context.root)


# -- the published lists -------------------------------------------------------------------------------------------


@real_lists
def test_the_published_459_names_hold_every_class(fake_context: FakeContext) -> None:
    published = (LISTS / "pascal_context_classes-400.txt").read_text()
    spelt = [line.split(": ")[1].replace(" ", "") for line in published.splitlines()]
    assert len(spelt) == len(set(spelt)) == 459
    fake_context.write_maps()
    (fake_context.root / "labels.txt").write_text(published)
    everything = np.arange(460, dtype=np.uint16).reshape(20, 23)
    fake_context.write_map(CONTEXT_TRAIN[0], {"LabelMap": everything})
    sizes: tuple[Size, Size] = (33, 59)
    for num_classes, own in zip(sizes, (CONTEXT33, CONTEXT59), strict=True):
        found = PascalContextDataset(fake_context.root, "train", num_classes=num_classes).read_mask(0).ravel()
        expected = np.zeros(460, np.uint8)
        for own_id, name in enumerate(own, 1):
            expected[spelt.index(name) + 1] = own_id
        assert np.array_equal(found, expected) and np.count_nonzero(found) == num_classes


@real_lists
def test_the_published_lists_load_whole_and_are_disjoint(tmp_path: Path) -> None:
    fake = FakeContext(tmp_path)
    (fake.voc / "JPEGImages").mkdir(parents=True)
    (tmp_path / "33_context_labels").mkdir()
    file = tmp_path / "file.png"
    Image.fromarray(np.ones((1, 1), np.uint8)).save(file)
    published = {}
    for part, count in (("train", 4998), ("val", 5105)):
        path = LISTS / f"pascal_context_{part}_{count}.txt"
        published[part] = sorted(path.read_text().split())
        assert len(published[part]) == count
        for name in published[part]:
            # twenty thousand links to one file are made sooner than as many files
            (fake.voc / "JPEGImages" / f"{name}.jpg").hardlink_to(file)
            (tmp_path / "33_context_labels" / f"{name}.png").hardlink_to(file)
        shutil.copyfile(path, tmp_path / f"{part}.txt")
    assert not set(published["train"]) & set(published["val"])
    module = PascalContextDataModule(str(tmp_path), num_workers=0)
    module.setup("fit")
    assert module.train_set is not None and module.test_set is not None
    assert names(module.train_set) == tuple(published["train"])
    assert names(module.test_set) == tuple(published["val"])
    assert len(module.train_indices) + len(module.val_indices) == 4998


# -- unseen classes in training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pngs", "maps"])
@pytest.mark.parametrize("void", [False, True])
def test_training_samples_do_not_depend_on_unseen_labels(fake_context: FakeContext, kind: str, void: bool) -> None:
    write = functools.partial(fake_context.write_pngs, 33) if kind == "pngs" else fake_context.write_maps
    write()
    dataset = PascalContextDataset(
        fake_context.root, "train", hide_unseen=True, transform=training_preset(warp=48, crop=40)
    )
    before, hidden = training_samples(dataset)
    change = np.arange(460)
    unseen = [CONTEXT459.index(name) + 1 for name in CONTEXT_UNSEEN]
    change[unseen] = 0 if void else np.roll(unseen, 1)
    fake_context.maps = {name: change[ids] for name, ids in fake_context.maps.items()}
    write()
    after, still_hidden = training_samples(dataset)
    assert sum(hidden) > 0 and still_hidden == ([0] * len(hidden) if void else hidden)
    assert all(map(same_samples, before, after))


@pytest.mark.parametrize("kind", ["pngs", "maps"])
def test_drop_leaves_out_exactly_the_images_with_an_unseen_pixel(fake_context: FakeContext, kind: str) -> None:
    (fake_context.write_maps() if kind == "maps" else fake_context.write_pngs(33))
    options: dict[str, Any] = {"val_fraction": 0.0, "num_workers": 0, "unseen_pixels": "drop"}
    module = PascalContextDataModule(str(fake_context.root), **options)
    module.setup("fit")
    assert {CONTEXT_TRAIN[i] for i in module.dropped_indices} == set(CONTEXT_WITH_UNSEEN)
    assert {CONTEXT_TRAIN[i] for i in module.train_indices} == set(CONTEXT_TRAIN) - set(CONTEXT_WITH_UNSEEN)


def test_under_zs3_background_is_a_seen_class(fake_context: FakeContext) -> None:
    fake_context.write_pngs(59)
    module = PascalContextDataModule(str(fake_context.root), num_classes=59, split="zs3-2", num_workers=0)
    module.setup("test")
    assert module.test_set is not None and module.protocol.num_classes == 60
    background = module.protocol.classes.index("background")
    for index, name in enumerate(CONTEXT_TEST):
        mask = module.test_set[index]["mask"].numpy()
        assert np.array_equal(mask == background, fake_context.own_ids(name, 59) == 0)
        assert (mask != 255).all()
