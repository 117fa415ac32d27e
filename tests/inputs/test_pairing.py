"""How images and masks find each other, and what is said where they do not."""

from __future__ import annotations

import logging
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_zs3.data.datasets.listed import ListedDataset
from sign_zs3.errors import UserError
from sign_zs3.images import find_images
from tests.inputs.conftest import COUNT, Folder


def rename(folder: Folder, image: str, mask: str) -> None:
    """Give all files names made of their number, such as ``{}_leftImg8bit.png``."""
    for number in range(COUNT):
        for path, form in ((folder.image(number), image), (folder.mask(number), mask)):
            target = path.parent / form.format(f"{number:02}")
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)


def names(dataset: ListedDataset) -> list[str]:
    return [item.name for item in dataset.items]


def whole(folder: Folder, **options: object) -> list[tuple[str, str, str]]:
    """Name, image and mask of each pair."""
    found = []
    for part in ("train", "test"):
        dataset = folder.data(**options).make_dataset(part, hide_unseen=False, augment=False)
        found += [(item.name, item.image.name, item.mask.name) for item in dataset.items]
    return sorted(found)


ENDINGS = [
    ("{}_leftImg8bit.png", "{}_gtFine_labelIds.png", "_leftImg8bit.png", "_gtFine_labelIds.png"),
    ("{}.jpg", "{}.jpg.png", ".jpg", ".jpg.png"),
    ("{}.png", "{}_mask.png", ".png", "_mask.png"),
    ("{}_rgb.png", "{}.png", "_rgb.png", ".png"),
    ("{}_image.PNG", "{}_LABEL.PNG", "_image.png", "_label.png"),
    ("a/b/{}_x.png", "a/b/{}_y.png", "_x.png", "_y.png"),
]


@pytest.mark.parametrize(("image", "mask", "image_suffix", "mask_suffix"), ENDINGS)
def test_endings_pair(image: str, mask: str, image_suffix: str, mask_suffix: str, folder: Folder) -> None:
    rename(folder, image, mask)
    pairs = whole(folder, image_suffix=image_suffix, mask_suffix=mask_suffix)
    assert len(pairs) == COUNT
    for name, of_image, of_mask in pairs:
        number = Path(name).name
        assert of_image == Path(image.format(number)).name and of_mask == Path(mask.format(number)).name
    assert folder.faults(image_suffix=image_suffix, mask_suffix=mask_suffix) == []


@pytest.mark.parametrize(("image", "mask", "image_suffix", "mask_suffix"), ENDINGS[:3] + ENDINGS[5:])
def test_endings_are_offered(image: str, mask: str, image_suffix: str, mask_suffix: str, folder: Folder) -> None:
    rename(folder, image, mask)
    with pytest.raises(UserError) as caught:
        folder.data().setup("fit")
    message = str(caught.value)
    assert "\n" not in message and f"such as images/{image.format('00')} and masks/{mask.format('00')}" in message
    assert message.endswith(f"; give image_suffix {image_suffix} and mask_suffix {mask_suffix}")


def test_masks_of_another_format_are_named(folder: Folder) -> None:
    for number in range(COUNT):
        Image.open(folder.mask(number)).save(folder.mask(number).with_suffix(".jpg"))
        folder.mask(number).unlink()
    with pytest.raises(
        UserError, match=r"found no image with a mask in .*masks .*; left out there: 60 \.jpg, expected"
    ):
        folder.data().setup("fit")


def test_one_mask_of_another_format_is_a_fault(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    folder.mask(7).rename(folder.mask(7).with_suffix(".gif"))
    (fault,) = folder.faults()
    assert fault.startswith(f"{folder.image(7)}: found no mask of this name but 07.gif, whose format is not read,")
    with caplog.at_level(logging.WARNING):
        folder.data().setup("fit")
    assert "07.gif" in caplog.text and "(1 are left out)" in caplog.text


def test_nothing_alike_is_not_offered(folder: Folder) -> None:
    rename(folder, "{}.png", "mask_{}.png")
    with pytest.raises(UserError, match="or what names end in by image_suffix and mask_suffix"):
        folder.data().setup("fit")


# -- lists ---------------------------------------------------------------------------------------------------------


def write_lists(folder: Folder, form: str) -> None:
    (folder.root / "splits").mkdir()
    for part, numbers in (("train", range(40)), ("test", range(40, 60))):
        lines = "".join(form.format(f"{number:02}") + "\n" for number in numbers)
        (folder.root / "splits" / f"{part}.txt").write_text(lines)


@pytest.mark.parametrize(
    "form",
    ["{}", "{}.png", "./{}.png", "images/{}.png", "./images/{}.png", "images/{0}.png masks/{0}.png",
     "./images/{0}.png ./masks/{0}.png", "{0}.png\t{0}.png", "{0} {0}"],
)  # fmt: skip
def test_lines_of_lists(form: str, folder: Folder) -> None:
    write_lists(folder, form)
    train = folder.data().make_dataset("train", hide_unseen=False, augment=False)
    assert isinstance(train, ListedDataset) and names(train) == [f"{number:02}" for number in range(40)]
    assert folder.faults() == []


def test_pairs_may_have_different_names(folder: Folder) -> None:
    rename(folder, "photo {}.png", "label{}.png")
    write_lists(folder, "images/photo {0}.png masks/label{0}.png")
    assert whole(folder)[3] == ("photo 03", "photo 03.png", "label03.png") and len(whole(folder)) == COUNT
    assert folder.faults() == []


def test_endings_in_lists(folder: Folder) -> None:
    rename(folder, "{}_rgb.png", "{}_ids.png")
    write_lists(folder, "images/{}_rgb.png")
    assert len(whole(folder, image_suffix="_rgb.png", mask_suffix="_ids.png")) == COUNT


@pytest.mark.parametrize("second", ["images/05.png", "./05", "05.png", "05 06", "images//05.png", "images/./05.png"])
def test_an_image_twice_in_a_list_however_it_is_spelt(second: str, folder: Folder) -> None:
    write_lists(folder, "{}")
    path = folder.root / "splits" / "train.txt"
    path.write_text(f"{path.read_text()}{second}\n")
    with pytest.raises(UserError, match=r"found the (image|id) '05' twice") as caught:
        folder.data().make_dataset("train", hide_unseen=False, augment=False)
    assert folder.faults() == [str(caught.value)]


def test_lines_that_leave_the_folder_blame_no_ending(folder: Folder) -> None:
    write_lists(folder, "../{}")
    faults = folder.faults()
    assert len(faults) == COUNT
    assert all("expected a name below the folder of images; correct line" in fault for fault in faults)


# -- letters with accents ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_files", ["NFC", "NFD"])
@pytest.mark.parametrize("in_masks", ["NFC", "NFD"])
@pytest.mark.parametrize("in_lists", ["NFC", "NFD", None])
def test_composed_and_decomposed_names_are_one(
    in_files: str, in_masks: str, in_lists: str | None, folder: Folder
) -> None:
    def form(kind: str) -> str:
        return unicodedata.normalize(kind, "vache-é-{}")  # type: ignore[arg-type]

    rename(folder, f"{form(in_files)}.png", f"{form(in_masks)}.png")
    if in_lists is not None:
        write_lists(folder, form(in_lists))
    assert len(whole(folder)) == COUNT and folder.faults() == []


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("given", ["NFC", "NFD"])
def test_class_names_too(listed: str, given: str, folder: Folder) -> None:
    names = [unicodedata.normalize(listed, name) for name in ("ciel", "forêt", "vache", "pré")]  # type: ignore[arg-type]
    folder.write_classes(dict(enumerate(names, 1)))
    unseen = [unicodedata.normalize(given, "forêt")]  # type: ignore[arg-type]
    protocol = folder.data(unseen=unseen, ignored_classes=[unicodedata.normalize(given, "pré")]).protocol  # type: ignore[arg-type]
    assert protocol.unseen_classes == (unicodedata.normalize("NFC", "forêt"),) and protocol.num_classes == 3


# -- images --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jfif", ".jpe", ".JPG", ".gif", ".ppm", ".pgm", ".WebP", ".TIFF"])
def test_images_by_any_common_suffix(suffix: str, folder: Folder) -> None:
    kinds = {".jfif": "JPEG", ".jpe": "JPEG", ".JPG": "JPEG", ".gif": "GIF", ".ppm": "PPM", ".pgm": "PPM"}
    kind = kinds.get(suffix, "TIFF" if suffix == ".TIFF" else "WEBP")
    image = Image.open(folder.image(5))
    (image.convert("L") if suffix == ".pgm" else image).save(folder.image(5).with_suffix(suffix), kind)
    folder.image(5).unlink()
    assert len(whole(folder)) == COUNT and folder.faults() == []
    assert len(find_images([folder.root / "images"])) == COUNT


@pytest.mark.parametrize("suffix", [".heic", ".AVIF", ".nef", ".jp2", ".psd"])
def test_images_that_are_not_read_are_named(suffix: str, folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    (folder.root / "images" / f"60{suffix}").write_bytes(b"?")
    for find in (lambda: folder.data().setup("fit"), lambda: find_images([folder.root / "images"])):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            find()
        assert f"60{suffix}: left out, since this format is not read; convert it to PNG or JPEG" in caplog.text


def test_predictions_are_not_labelled_again(folder: Folder, caplog: pytest.LogCaptureFixture) -> None:
    import torch

    from sign_zs3.models.inference import Segmentation
    from sign_zs3.reports.predictions import write_prediction, write_report

    images = folder.root / "images"
    protocol = folder.data().protocol
    image = np.zeros((16, 20, 3), np.uint8)
    found = Segmentation.of(torch.zeros(16, 20, dtype=torch.uint8), torch.zeros(4, dtype=torch.float64))
    for output in (images / "out", images):
        entry = write_prediction(output, "photo", "photo.jpg", image, found, protocol)
        write_report(output, protocol, [entry])
    with caplog.at_level(logging.INFO):
        assert len(find_images([images])) == COUNT
    assert "are predictions, and left out" in caplog.text
    # a report that cannot be read hides nothing
    (images / "out" / "predictions.json").write_text("{")
    assert len(find_images([images])) == COUNT + 2
