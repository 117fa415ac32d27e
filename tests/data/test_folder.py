from __future__ import annotations

import hashlib
import logging
import pickle
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from PIL import Image

from sign_zs3.data.check import check_data
from sign_zs3.data.datamodules import FolderDataModule
from sign_zs3.data.datasets.files import read_index_mask
from sign_zs3.data.datasets.folder import FolderDataset, folder_protocol
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import (
    FOLDER_CLASSES,
    FOLDER_NAMES,
    FOLDER_TEST,
    FOLDER_TRAIN,
    FOLDER_UNSEEN,
    FOLDER_WITH_UNSEEN,
    FakeFolder,
    names,
    same_samples,
    training_samples,
    write_mask,
    write_picture,
)

MSRC = Path(__file__).parents[2] / ".." / "shared" / "data" / "msrc"
Part = Literal["train", "val", "test"]


def module(fake: FakeFolder, **options: Any) -> FolderDataModule:
    return FolderDataModule(str(fake.root), **{"unseen": list(FOLDER_UNSEEN), "num_workers": 0, **options})


def parts(data: FolderDataModule, *which: Part) -> list[tuple[str, ...]]:
    return [names(data.make_dataset(part, hide_unseen=False, augment=False)) for part in which]


def refused(fake: FakeFolder, split: Part = "train", **options: Any) -> str:
    with pytest.raises(UserError) as caught:
        module(fake, **options).make_dataset(split, hide_unseen=False, augment=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def without_lists(fake: FakeFolder) -> FakeFolder:
    shutil.rmtree(fake.root / "splits")
    return fake


# -- classes -------------------------------------------------------------------------------------------------------


def test_classes_are_those_of_the_list(fake_folder: FakeFolder) -> None:
    protocol = module(fake_folder).protocol
    assert protocol.dataset == "mine"
    assert dict(zip(protocol.ids, protocol.classes, strict=True)) == FOLDER_CLASSES
    assert tuple(protocol.classes[i] for i in protocol.unseen) == FOLDER_UNSEEN
    assert protocol.ignored_ids == (0, 255)


@pytest.mark.parametrize("form", ["{}\t{}", "{}: {}", "{}:{}", " {} \t {} "])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\n\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_any_text_editor_may_write_the_list(fake_folder: FakeFolder, form: str, end: str, encoding: str) -> None:
    plain = module(fake_folder).protocol
    fake_folder.write_classes(end.join(form.format(*line) for line in FOLDER_CLASSES.items()).encode(encoding))
    assert module(fake_folder).protocol == plain


def test_an_id_0_in_the_list_is_a_class(fake_folder: FakeFolder) -> None:
    fake_folder.write_classes("".join(f"{i}\t{name}\n" for i, name in {0: "rest", **FOLDER_CLASSES}.items()))
    data = module(fake_folder)
    assert data.protocol.ignored_ids == (255,)
    sample = data.make_dataset("train", hide_unseen=False, augment=False)[0]
    rest = data.protocol.classes.index("rest")
    assert np.array_equal(sample["mask"].numpy() == rest, fake_folder.masks[FOLDER_TRAIN[0]] == 0)


def test_ids_without_label(fake_folder: FakeFolder) -> None:
    mask = fake_folder.masks[FOLDER_TRAIN[0]]
    mask[0] = 9
    write_mask(fake_folder.mask(FOLDER_TRAIN[0]), mask)
    sample = module(fake_folder, ignored_ids=[0, 9]).make_dataset("train", hide_unseen=False, augment=False)[0]
    assert np.array_equal(sample["mask"].numpy() == 255, np.isin(mask, (0, 9, 255)))
    with pytest.raises(UserError, match="found the id 9, expected a class of mine"):
        module(fake_folder).make_dataset("train", hide_unseen=False, augment=False)[0]
    with pytest.raises(UserError, match=r"found the id 0, .* or an ignored id \(255\)"):
        module(fake_folder, ignored_ids=[]).make_dataset("train", hide_unseen=False, augment=False)[1]
    assert "found the ignored id 256, expected 0 to 255" in refused(fake_folder, ignored_ids=[256])


def test_ignored_classes_leave_the_vocabulary(fake_folder: FakeFolder) -> None:
    data = module(fake_folder, ignored_classes=["sky", "traffic sign"])
    assert data.protocol.classes == ("grass", "water", "cow", "dog")
    assert data.protocol.ignored_ids == (0, 1, 5, 255)
    dataset = data.make_dataset("test", hide_unseen=False, augment=False)
    for index, name in enumerate(FOLDER_TEST):
        found = dataset[index]["mask"].numpy() == 255
        assert np.array_equal(found, np.isin(fake_folder.masks[name], (0, 1, 5, 255)))


def test_without_unseen_classes_all_are_seen(fake_folder: FakeFolder) -> None:
    nothing: tuple[list[str] | None, ...] = (None, [])
    for unseen in nothing:
        protocol = module(fake_folder, unseen=unseen).protocol
        assert protocol.num_seen == protocol.num_classes == 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unseen": ["cows"]}, "did you mean 'cow'"),
        ({"unseen": ["zeppelin"]}, "correct the name"),
        ({"unseen": ["cow", "cow"]}, "unseen: found 'cow' twice"),
        ({"unseen": list(FOLDER_CLASSES.values())}, "found 0 seen of 6 classes"),
        ({"ignored_classes": ["gras"]}, "did you mean 'grass'"),
        ({"ignored_classes": ["zeppelin"]}, "ignored_classes: found 'zeppelin'"),
        ({"ignored_classes": ["cow"]}, "unseen: found 'cow', which is in ignored_classes too"),
        ({"unseen": [], "ignored_classes": list(FOLDER_CLASSES.values())}, "found 0 seen of 0 classes"),
        ({"test_fraction": 0.0}, "test_fraction: found 0.0"),
        ({"test_fraction": 1.0}, "test_fraction: found 1.0"),
        ({"classes": "labels.txt"}, "labels.txt: cannot be read"),
        ({"root": "/nowhere"}, "/nowhere/classes.txt: cannot be read"),
    ],
)
def test_wrong_options_are_one_line(fake_folder: FakeFolder, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        FolderDataModule(**{"root": str(fake_folder.root), "unseen": list(FOLDER_UNSEEN), **options})
    assert message in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1\tsky\n1\tgrass\n", "found the id 1 twice"),
        ("1\tsky\n2\tsky\n", "found the name 'sky' twice"),
        ("1 sky\n", "found '1 sky' in line 1"),
        ("sky\ngrass\n", "found 'sky' in line 1"),
        ("1\tsky\n2\t\n", "in line 2"),
        ("-1\tsky\n", "found '-1\\tsky' in line 1"),
        ("1\tsky\n256\tgrass\n", "found the id 256"),
        ("", "found no class"),
        (b"\x89PNG\r\n", "cannot be read"),
        (pickle.dumps({1: "sky"}), "cannot be read"),
        (pickle.dumps({1: "sky"}, protocol=0), "in line 1"),
    ],
)
def test_a_wrong_list_of_classes_is_one_line(fake_folder: FakeFolder, content: str | bytes, message: str) -> None:
    fake_folder.write_classes(content)
    with pytest.raises(UserError) as caught:
        FolderDataModule(str(fake_folder.root))
    assert str(caught.value).startswith(f"{fake_folder.root / 'classes.txt'}: ")
    assert message in str(caught.value) and "\n" not in str(caught.value)


# -- files ---------------------------------------------------------------------------------------------------------


def test_images_and_masks_are_read_as_they_are(fake_folder: FakeFolder) -> None:
    data = module(fake_folder)
    assert parts(data, "train", "test") == [FOLDER_TRAIN, FOLDER_TEST]
    table = data.protocol.lookup()
    for part in ("train", "test"):
        dataset = data.make_dataset(part, hide_unseen=False, augment=False)
        for index, name in enumerate(names(dataset)):
            image, mask = dataset.read(index)
            with Image.open(fake_folder.image(name)) as file:
                assert np.array_equal(image, np.asarray(file))
            assert np.array_equal(mask, fake_folder.masks[name])
            assert np.array_equal(dataset[index]["mask"].numpy(), table[fake_folder.masks[name]])


def test_other_names_of_folders_and_lists(fake_folder: FakeFolder) -> None:
    for old, new in (("images", "jpg"), ("masks", "gt/ids"), ("classes.txt", "names.txt"), ("splits", "lists")):
        (fake_folder.root / new).parent.mkdir(exist_ok=True)
        (fake_folder.root / old).rename(fake_folder.root / new)
    options: dict[str, Any] = {"images": "jpg", "masks": "gt/ids", "classes": "names.txt"}
    lists = {"train_list": "lists/train.txt", "test_list": str(fake_folder.root / "lists" / "test.txt")}
    assert parts(module(fake_folder, **options, **lists), "train", "test") == [FOLDER_TRAIN, FOLDER_TEST]
    fractions = parts(module(fake_folder, **options), "train", "test")
    assert sorted(fractions[0] + fractions[1]) == list(FOLDER_NAMES)


@pytest.mark.parametrize("suffix", [".JPG", ".jpeg", ".png", ".PNG", ".bmp", ".tif", ".TIFF", ".webp"])
def test_suffixes_of_images(fake_folder: FakeFolder, suffix: str) -> None:
    name = FOLDER_TRAIN[0]
    mask = fake_folder.masks[name]
    fake_folder.image(name).unlink()
    write_picture(fake_folder.root / "images" / f"{name}{suffix}", *mask.shape)
    dataset = module(fake_folder).make_dataset("train", hide_unseen=False, augment=False)
    assert names(dataset) == FOLDER_TRAIN and dataset.read(0)[0].shape == (*mask.shape, 3)


@pytest.mark.parametrize("suffix", [".PNG", ".bmp", ".tif", ".TIFF"])
def test_suffixes_of_masks(fake_folder: FakeFolder, suffix: str) -> None:
    name = FOLDER_TRAIN[0]
    fake_folder.mask(name).unlink()
    Image.fromarray(fake_folder.masks[name]).save(fake_folder.root / "masks" / f"{name}{suffix}")
    dataset = module(fake_folder).make_dataset("train", hide_unseen=False, augment=False)
    assert np.array_equal(dataset.read(0)[1], fake_folder.masks[name])


def test_a_gif_is_no_mask(fake_folder: FakeFolder) -> None:
    """Pillow, like others, drops unused entries of a GIF's palette, which renumbers the ids."""
    name = FOLDER_TRAIN[0]
    path = fake_folder.mask(name).with_suffix(".gif")
    Image.fromarray(fake_folder.masks[name]).save(path)
    with Image.open(path) as file:
        assert not np.array_equal(np.asarray(file), fake_folder.masks[name])
    fake_folder.mask(name).unlink()
    assert refused(fake_folder).startswith(f"{fake_folder.mask(name)}: not found")


def test_dots_in_names(fake_folder: FakeFolder) -> None:
    fake_folder.add("IMG.2019.v1", fake_folder.masks[FOLDER_TRAIN[0]])
    fake_folder.write_list("train", ["IMG.2019.v1"])
    assert parts(module(fake_folder), "train") == [("IMG.2019.v1",)]
    fake_folder.write_list("train", ["IMG.2019.v1.jpg"])
    assert parts(module(fake_folder), "train") == [("IMG.2019.v1",)]


def test_subfolders_are_part_of_the_name(fake_folder: FakeFolder) -> None:
    mask = fake_folder.masks[FOLDER_TRAIN[0]]
    for number, folder in enumerate(("north", "south/far"), 1):
        fake_folder.add(f"{folder}/0001", np.full_like(mask, number))
    fake_folder.write_list("train", ["south/far/0001.jpg", "north/0001"])
    dataset = module(fake_folder).make_dataset("train", hide_unseen=False, augment=False)
    assert names(dataset) == ("north/0001", "south/far/0001")
    assert [np.unique(dataset.read_mask(i)).tolist() for i in range(2)] == [[1], [2]]
    everything = parts(module(without_lists(fake_folder)), "train", "test")
    assert sorted(everything[0] + everything[1]) == sorted((*FOLDER_NAMES, "north/0001", "south/far/0001"))


def test_linked_folders_are_followed(fake_folder: FakeFolder, tmp_path: Path) -> None:
    for what in ("images", "masks"):
        (tmp_path / "disk").mkdir(exist_ok=True)
        (fake_folder.root / what).rename(tmp_path / "disk" / what)
        (fake_folder.root / what).mkdir()
        (fake_folder.root / what / "linked").symlink_to(tmp_path / "disk" / what)
    found = parts(module(without_lists(fake_folder)), "train", "test")
    assert sorted(found[0] + found[1]) == [f"linked/{name}" for name in FOLDER_NAMES]


def test_hidden_files_and_folders_are_no_images(fake_folder: FakeFolder) -> None:
    for parent in (fake_folder.image("x").parent, fake_folder.mask("x").parent):
        (parent / f"._{FOLDER_NAMES[0]}.png").touch()
        (parent / ".DS_Store").touch()
        (parent / "Thumbs.db").touch()
        (parent / ".ipynb_checkpoints").mkdir()
        (parent / ".ipynb_checkpoints" / "photo_00-checkpoint.png").touch()
    found = parts(module(without_lists(fake_folder)), "train", "test")
    assert sorted(found[0] + found[1]) == list(FOLDER_NAMES)


@pytest.mark.parametrize("what", ["image", "mask"])
def test_two_files_of_one_name_are_refused(fake_folder: FakeFolder, what: str) -> None:
    path = getattr(fake_folder, what)(FOLDER_NAMES[3])
    other = path.with_suffix(".bmp")
    other.touch()
    first, second = sorted([path, other])
    assert refused(fake_folder) == f"{second}: found beside {first.name}, expected one file of that name; remove one"


@pytest.mark.parametrize("what", ["images", "masks"])
def test_a_missing_folder_is_named_with_its_option(fake_folder: FakeFolder, what: str) -> None:
    shutil.rmtree(fake_folder.root / what)
    assert refused(fake_folder) == (
        f"{fake_folder.root / what}: not found, expected the folder of the {what}; name it in {what}"
    )


# -- lists ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".jpg", ".JPG", ".png"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_lists_with_and_without_suffixes(fake_folder: FakeFolder, suffix: str, end: str) -> None:
    content = end.join(name + suffix for name in reversed(FOLDER_TRAIN)).encode("utf-8-sig")
    fake_folder.write_list("train", content)
    assert parts(module(fake_folder), "train") == [FOLDER_TRAIN]


def test_listed_images_and_masks_must_be_there(fake_folder: FakeFolder) -> None:
    image, mask = fake_folder.image(FOLDER_TRAIN[2]), fake_folder.mask(FOLDER_TRAIN[2])
    mask.unlink()
    assert refused(fake_folder).startswith(f"{mask}: not found (1 of the 7 masks in the lists are missing)")
    image.unlink()
    assert refused(fake_folder).startswith(f"{image}: not found (1 of the 7 images in the lists are missing)")


def test_only_one_of_two_lists_is_refused(fake_folder: FakeFolder) -> None:
    (fake_folder.root / "splits" / "test.txt").unlink()
    message = refused(fake_folder)
    assert message.startswith("test_list: found none, but splits/train.txt for train")
    assert str(fake_folder.root / "splits" / "test.txt") in message
    fake_folder.write_list("test", FOLDER_TEST)
    (fake_folder.root / "splits" / "train.txt").unlink()
    assert refused(fake_folder).startswith("train_list: found none, but splits/test.txt for test")


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_a_named_list_must_be_there(fake_folder: FakeFolder, split: Part) -> None:
    message = refused(fake_folder, split, **{f"{split}_list": "mine.txt"})
    assert message.startswith(f"{fake_folder.root / 'mine.txt'}: cannot be read")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "found no image id"),
        ([FOLDER_TRAIN[0], FOLDER_TRAIN[1], FOLDER_TRAIN[0]], f"found the id '{FOLDER_TRAIN[0]}' twice"),
        (["../secret"], "found the id '../secret'"),
        (["/etc/secret"], "found the id '/etc/secret'"),
        (["a\\b"], "found the id"),
    ],
)
def test_a_wrong_list_is_one_line(fake_folder: FakeFolder, content: list[str], message: str) -> None:
    path = fake_folder.write_list("train", content)
    assert refused(fake_folder).startswith(f"{path}: {message}")


def test_an_image_for_training_and_testing_is_refused(fake_folder: FakeFolder) -> None:
    fake_folder.write_list("test", [*FOLDER_TEST, f"{FOLDER_TRAIN[3]}.jpg"])
    with pytest.raises(UserError) as caught:
        module(fake_folder).setup("fit")
    assert str(caught.value).startswith(f"{fake_folder.image(FOLDER_TRAIN[3])}: found in the training and in the test")


@pytest.mark.parametrize("other", ["train", "test"])
def test_an_image_for_validation_is_for_nothing_else(fake_folder: FakeFolder, other: str) -> None:
    image = {"train": FOLDER_TRAIN[2], "test": FOLDER_TEST[0]}[other]
    fake_folder.write_list("val", [image])
    with pytest.raises(UserError) as caught:
        module(fake_folder).setup("fit")
    message = str(caught.value)
    assert message.startswith(f"{fake_folder.image(image)}: found in the") and "validation" in message


def test_the_list_val_may_be_the_one_for_testing(fake_folder: FakeFolder) -> None:
    """Many folders have train.txt and val.txt alone, and test on the latter."""
    (fake_folder.root / "splits" / "test.txt").rename(fake_folder.root / "splits" / "val.txt")
    assert "or give test_list (splits/val.txt?)" in refused(fake_folder)
    data = module(fake_folder, test_list="splits/val.txt", val_fraction=0.3)
    data.setup("fit")
    assert not data.own_validation and data.test_set is not None
    assert names(data.test_set) == FOLDER_TEST
    assert len(data.train_indices) + len(data.val_indices) == len(FOLDER_TRAIN)


def test_a_class_named_unlabelled_is_told(fake_folder: FakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    fake_folder.write_classes("0\tUnlabelled\n1\tsky\n3\tcow\n")
    with caplog.at_level(logging.WARNING):
        FolderDataModule(str(fake_folder.root), ["cow"], ignored_classes=["Unlabelled"])
        assert not caplog.text
        FolderDataModule(str(fake_folder.root), ["cow"])
    assert "'Unlabelled' (id 0) is a class" in caplog.text


def test_a_list_of_validation_images(fake_folder: FakeFolder) -> None:
    fake_folder.write_list("train", FOLDER_TRAIN[:5])
    fake_folder.write_list("val", FOLDER_TRAIN[5:])
    data = module(fake_folder, val_fraction=0.5)
    data.setup("fit")
    assert data.own_validation and data.val_set is not None and data.train_set is not None
    assert names(data.val_set) == FOLDER_TRAIN[5:] and names(data.train_set) == FOLDER_TRAIN[:5]
    assert len(data.train_indices) == 5 and len(data.val_indices) == 2


# -- a fraction instead of lists -----------------------------------------------------------------------------------


def many(root: Path, count: int) -> FakeFolder:
    fake = FakeFolder(root)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    fake.write_classes("1\tsky\n2\tcow\n")
    more(fake, range(count))
    return fake


def more(fake: FakeFolder, numbers: range) -> None:
    for number in numbers:
        fake.image(f"photo_{number:03}").touch()
        fake.mask(f"photo_{number:03}").touch()


def test_the_fraction_splits_completely_and_the_same_everywhere(tmp_path: Path) -> None:
    fake = many(tmp_path / "here", 100)
    train, test = parts(module(fake, unseen=["cow"]), "train", "test")
    assert (len(train), len(test)) == (80, 20)
    assert sorted(train + test) == [f"photo_{number:03}" for number in range(100)]
    first = sorted(train + test, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:20]
    assert set(test) == set(first)
    elsewhere = many(tmp_path / "there", 100)
    for name in test[:5]:
        elsewhere.image(name).rename(elsewhere.image(name).with_suffix(".PNG"))
    for seed in (0, 1, 7):
        assert parts(module(elsewhere, unseen=[], seed=seed), "train", "test") == [train, test]
    # a larger fraction only adds
    assert set(test) < set(parts(module(fake, unseen=["cow"], test_fraction=0.5), "test")[0])


def test_new_images_move_few_old_ones(tmp_path: Path) -> None:
    fake = many(tmp_path, 100)
    (before,) = parts(module(fake, unseen=[]), "test")
    more(fake, range(100, 105))
    (after,) = parts(module(fake, unseen=[]), "test")
    old = {name for name in after if name < "photo_100"}
    assert len(after) == 21 and len(set(before) ^ old) <= 5


def test_images_without_mask_and_masks_without_image(fake_folder: FakeFolder, caplog: pytest.LogCaptureFixture) -> None:
    without_lists(fake_folder).mask(FOLDER_NAMES[0]).unlink()
    fake_folder.image(FOLDER_NAMES[1]).unlink()
    with caplog.at_level(logging.WARNING):
        train, test = parts(module(fake_folder), "train", "test")
    assert sorted(train + test) == list(FOLDER_NAMES[2:])
    for path, lacking, what in (
        (fake_folder.image(FOLDER_NAMES[0]), "mask", "image"), (fake_folder.mask(FOLDER_NAMES[1]), "image", "mask"),
    ):  # fmt: skip
        end = f"expected one; add it or remove the {what} (1 are left out)"
        assert f"{path}: found no {lacking} of this name, {end}" in caplog.text
    _, faults = check_data(module(fake_folder), progress=False)
    assert sorted(fault.split(", expected")[0] for fault in faults) == [
        f"{fake_folder.image(FOLDER_NAMES[0])}: found no mask of this name",
        f"{fake_folder.mask(FOLDER_NAMES[1])}: found no image of this name",
    ]


def test_folders_named_like_splits_are_not_mixed(fake_folder: FakeFolder) -> None:
    without_lists(fake_folder)
    for name in FOLDER_NAMES:
        side = "train" if name in FOLDER_TRAIN else "val"
        for path in (fake_folder.image(name), fake_folder.mask(name)):
            (path.parent / side).mkdir(exist_ok=True)
            path.rename(path.parent / side / path.name)
    assert "images: found the folders train, val but no lists, which would mix them" in refused(fake_folder)
    fake_folder.write_list("train", [f"train/{name}" for name in FOLDER_TRAIN])
    # as `find images -type f` writes them
    fake_folder.write_list("test", [f"images/val/{name}.jpg" for name in FOLDER_TEST])
    assert parts(module(fake_folder), "test")[0] == tuple(f"val/{name}" for name in FOLDER_TEST)


def test_links_that_lead_back_are_followed_once(fake_folder: FakeFolder) -> None:
    without_lists(fake_folder)
    for folder in ("images", "masks"):
        (fake_folder.root / folder / "loop").symlink_to(fake_folder.root / folder)
    train, test = parts(module(fake_folder), "train", "test")
    assert sorted(train + test) == list(FOLDER_NAMES)


def test_one_folder_for_images_and_masks_is_refused(fake_folder: FakeFolder) -> None:
    assert "found as the folder of images and of masks" in refused(fake_folder, masks="images")


@pytest.mark.parametrize("bits", [2, 4])
def test_grey_of_few_bits_keeps_its_ids(fake_folder: FakeFolder, bits: int) -> None:
    """Pillow spreads such values over 0 to 255."""
    import cv2

    name, path = FOLDER_TRAIN[0], fake_folder.mask(FOLDER_TRAIN[0])
    mask = (fake_folder.masks[name] % 4).astype(np.uint8)
    packed = np.zeros((mask.shape[0], -(-mask.shape[1] * bits // 8)), np.uint8)
    for column in range(mask.shape[1]):
        start = column * bits
        packed[:, start // 8] |= mask[:, column] << (8 - bits - start % 8)
    rows = b"".join(b"\0" + row.tobytes() for row in packed)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", mask.shape[1], mask.shape[0], bits, 0, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )
    # another reader agrees on what the file holds
    spread = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert spread is not None and np.array_equal(spread, mask * (255 // (2**bits - 1)))
    assert np.array_equal(read_index_mask(path), mask)


def test_the_check_leaves_the_module_as_it_was(fake_folder: FakeFolder) -> None:
    data = module(fake_folder)
    fake_folder.image(FOLDER_TRAIN[0]).unlink()
    check_data(data, progress=False)
    with pytest.raises(UserError, match="not found"):
        data.setup("fit")


def test_too_few_images_to_split(tmp_path: Path) -> None:
    fake = many(tmp_path, 2)
    assert refused(fake, "test", unseen=[]).startswith(
        f"{tmp_path / 'images'}: found 2 images with a mask, none of them for test"
    )
    shutil.rmtree(fake.root / "masks")
    (fake.root / "masks").mkdir()
    assert refused(fake, unseen=[]).startswith(f"{tmp_path / 'images'}: found no image with a mask")


# -- unseen classes in training ------------------------------------------------------------------------------------


@pytest.mark.parametrize("void", [False, True])
def test_training_samples_do_not_depend_on_unseen_labels(fake_folder: FakeFolder, void: bool) -> None:
    dataset = FolderDataset(
        fake_folder.root,
        "train",
        folder_protocol(fake_folder.root, FOLDER_UNSEEN),
        list_file="splits/train.txt",
        hide_unseen=True,
        transform=training_preset(warp=48, crop=40),
    )
    before, hidden = training_samples(dataset)
    change = np.arange(256)
    change[[3, 4]] = 255 if void else [4, 3]
    for name in FOLDER_TRAIN:
        write_mask(fake_folder.mask(name), change[fake_folder.masks[name]])
    after, still_hidden = training_samples(dataset)
    assert sum(hidden) > 0 and still_hidden == ([0] * len(hidden) if void else hidden)
    assert all(map(same_samples, before, after))


def test_drop_leaves_out_exactly_the_images_with_an_unseen_pixel(fake_folder: FakeFolder) -> None:
    data = module(fake_folder, unseen_pixels="drop", val_fraction=0.0)
    data.setup("fit")
    assert {FOLDER_TRAIN[i] for i in data.dropped_indices} == set(FOLDER_WITH_UNSEEN)
    assert {FOLDER_TRAIN[i] for i in data.train_indices} == set(FOLDER_TRAIN) - set(FOLDER_WITH_UNSEEN)


# -- a real folder -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not MSRC.is_dir(), reason="the real MSRC is not beside the project (../shared/data/msrc)")
def test_msrc() -> None:
    data = FolderDataModule(
        str(MSRC), unseen=["cow", "dog", "boat", "bicycle"], ignored_classes=["horse", "mountain"], num_workers=0
    )
    assert (data.protocol.num_classes, data.protocol.num_seen) == (21, 17)
    # horse, mountain, and void
    assert data.protocol.ignored_ids == (0, 5, 8, 255)
    data.setup("fit")
    assert data.train_set is not None and data.test_set is not None
    assert (len(data.train_set), len(data.test_set)) == (354, 237)
    assert len(data.train_indices) + len(data.val_indices) == 354
    for index in range(0, 237, 30):
        sample = data.test_set[index]
        assert sample["image"].shape[1:] == sample["mask"].shape
