from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.datasets.voc import VOCDataset, download_voc
from sign_zs3.data.splits import published_protocol
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import TRAIN, TRAIN_AUG, VAL, VOC_ONLY_MASK, WITH_UNSEEN, FakeVOC, same_samples

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
real_data = pytest.mark.skipif(
    not (REAL / "VOCdevkit").is_dir(), reason="the real VOC subset is not beside the project (../shared/data)"
)


def names(dataset: VOCDataset) -> tuple[str, ...]:
    return tuple(dataset.name(i) for i in range(len(dataset)))


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_train_aug_is_sbd_without_voc_val_joined_with_voc_train(fake_voc: FakeVOC) -> None:
    assert names(VOCDataset(fake_voc.root, "train", fake_voc.root)) == TRAIN_AUG


def test_without_sbd_training_is_voc_train(fake_voc: FakeVOC, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        assert names(VOCDataset(fake_voc.root, "train")) == TRAIN
    assert "no sbd_root" in caplog.text


def test_test_list_is_voc_val(fake_voc: FakeVOC) -> None:
    assert names(VOCDataset(fake_voc.root, "val", fake_voc.root)) == VAL


@pytest.mark.parametrize("inside", ["", "VOCdevkit", "VOCdevkit/VOC2012"])
def test_voc_root_may_be_any_of_three(fake_voc: FakeVOC, inside: str) -> None:
    assert names(VOCDataset(fake_voc.root / inside, "val")) == VAL


@pytest.mark.parametrize("inside", ["", "benchmark_RELEASE", "benchmark_RELEASE/dataset"])
def test_sbd_root_may_be_any_of_three(fake_voc: FakeVOC, inside: str) -> None:
    assert names(VOCDataset(fake_voc.root, "train", fake_voc.root / inside)) == TRAIN_AUG


def test_masks_are_read_with_voc_before_sbd(fake_voc: FakeVOC) -> None:
    dataset = VOCDataset(fake_voc.root, "train", fake_voc.root)
    for index, name in enumerate(TRAIN_AUG):
        image, mask = dataset.read(index)
        from_voc = name in (*TRAIN, VOC_ONLY_MASK)
        truth = fake_voc.masks[name]
        expected = truth if from_voc else np.where(truth == 255, 0, truth)
        assert np.array_equal(mask, expected) and mask.dtype == np.uint8
        assert image.shape == (*mask.shape, 3) and image.dtype == np.uint8
        assert dataset.mask_source(index).endswith(f"{name}.png" if from_voc else f"{name}.mat")


def test_sample_has_contiguous_ids(fake_voc: FakeVOC) -> None:
    protocol = published_protocol("voc", ["aeroplane"])
    dataset = VOCDataset(fake_voc.root, "train", protocol=protocol)
    sample = dataset[0]
    raw = fake_voc.masks[TRAIN[0]]
    assert np.array_equal(sample["mask"].numpy(), protocol.lookup()[raw])
    assert sample["image"].shape == (3, *raw.shape) and sample["valid"].all() and sample["hidden"] == 0
    assert (sample["mask"] == 19).any()
    hidden = VOCDataset(fake_voc.root, "train", protocol=protocol, hide_unseen=True)[0]
    assert np.array_equal(hidden["mask"].numpy(), protocol.lookup(hide_unseen=True)[raw])
    assert hidden["hidden"] == (raw == 1).sum()


def test_images_are_taken_as_they_are_stored(fake_voc: FakeVOC) -> None:
    dataset = VOCDataset(fake_voc.root, "train", protocol=published_protocol("voc", ["aeroplane"]))
    path, exif = dataset.items[0].image, Image.Exif()
    exif[0x0112] = 3  # half a turn, which the size does not tell
    Image.open(path).save(path, exif=exif)
    with Image.open(path) as file:
        stored = np.asarray(file.convert("RGB"))
    assert np.array_equal(dataset.read(0)[0], stored)
    assert not np.array_equal(stored, stored[::-1, ::-1])


def test_held(fake_voc: FakeVOC) -> None:
    dataset = VOCDataset(fake_voc.root, "train", fake_voc.root)
    unseen = dataset.protocol.num_seen
    assert {dataset.name(i) for i in range(len(dataset)) if dataset.held(i)[unseen:].any()} == set(WITH_UNSEEN)
    for index in range(len(dataset)):
        held = np.flatnonzero(dataset.held(index)).tolist()
        assert held == sorted({*dataset[index]["mask"].flatten().tolist()} - {255})


@pytest.mark.parametrize("void", [False, True])
def test_training_samples_do_not_depend_on_unseen_labels(fake_voc: FakeVOC, void: bool) -> None:
    """Permuting the unseen ids in the masks, or making them void, changes nothing but the diagnostic count."""
    dataset = VOCDataset(
        fake_voc.root,
        "train",
        fake_voc.root,
        hide_unseen=True,
        transform=training_preset(warp=64, crop=48),
    )
    before = [dataset[i] for i in range(len(dataset))]
    change = np.arange(256, dtype=np.uint8)
    change[16:21] = 255 if void else [19, 20, 16, 18, 17]
    for index in range(len(dataset)):
        path, mask = Path(dataset.mask_source(index)), change[dataset.read_mask(index)]
        (fake_voc.write_mat if path.suffix == ".mat" else fake_voc.write_png)(path.stem, mask)
    after = [dataset[i] for i in range(len(dataset))]
    assert sum(int(sample["hidden"]) for sample in before) > 0
    for sample, changed in zip(before, after, strict=True):
        counts = int(sample.pop("hidden")), int(changed.pop("hidden"))
        assert counts[1] == (0 if void else counts[0])
        assert same_samples(sample, changed)


def test_plot_marks_unseen(fake_voc: FakeVOC, tmp_path: Path) -> None:
    dataset = VOCDataset(fake_voc.root, "val")
    figure = dataset.plot(dataset[0])
    legend = figure.axes[1].get_legend()
    assert legend is not None
    labels = [text.get_text() for text in legend.get_texts()]
    assert sum(label.endswith(" (unseen)") for label in labels) == 1 and labels[-1] == "ignored"
    figure.savefig(tmp_path / "sample.png")


def test_missing_voc_root_says_what_to_fetch(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        VOCDataset(tmp_path / "nowhere", "train")
    message = one_line(caught)
    assert "VOCtrainval_11-May-2012.tar" in message
    assert str(tmp_path / "nowhere" / "VOCdevkit" / "VOC2012") in message


def test_missing_sbd_root_says_what_to_fetch(fake_voc: FakeVOC, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        VOCDataset(fake_voc.root, "train", tmp_path / "nowhere")
    message = one_line(caught)
    assert "benchmark.tgz" in message and str(tmp_path / "nowhere" / "benchmark_RELEASE" / "dataset") in message


@pytest.mark.parametrize("which", ["voc", "sbd"])
@pytest.mark.parametrize("content", [None, "\n \n"])
def test_missing_and_empty_lists_are_named(fake_voc: FakeVOC, which: str, content: str | None) -> None:
    folder = fake_voc.voc / "ImageSets" / "Segmentation" if which == "voc" else fake_voc.sbd
    path = folder / "train.txt"
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError) as caught:
        VOCDataset(fake_voc.root, "train", fake_voc.root)
    assert one_line(caught).startswith(f"{path}: " + ("cannot be read" if content is None else "found no image"))


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("VOCdevkit/VOC2012/JPEGImages/2007_000003.jpg", "1 of the 8 images"),
        ("VOCdevkit/VOC2012/SegmentationClass/2007_000003.png", "1 of the 8 masks"),
        ("benchmark_RELEASE/dataset/img/2008_000022.jpg", "1 of the 8 images"),
        ("benchmark_RELEASE/dataset/cls/2008_000022.mat", "1 of the 8 masks"),
    ],
)
def test_a_missing_file_is_named_before_training(fake_voc: FakeVOC, path: str, what: str) -> None:
    (fake_voc.root / path).unlink()
    with pytest.raises(UserError) as caught:
        VOCDataset(fake_voc.root, "train", fake_voc.root)
    message = one_line(caught)
    assert message.startswith(str(fake_voc.root / path)) and what in message


def test_a_missing_folder_counts_all_its_files(fake_voc: FakeVOC) -> None:
    shutil.rmtree(fake_voc.voc / "JPEGImages")
    with pytest.raises(UserError, match="3 of the 3 images"):
        VOCDataset(fake_voc.root, "val")


def test_a_mask_of_another_size_is_named(fake_voc: FakeVOC) -> None:
    fake_voc.write_png(VAL[0], np.zeros((10, 12), np.uint8))
    height, width = fake_voc.masks[VAL[0]].shape
    with pytest.raises(UserError) as caught:
        VOCDataset(fake_voc.root, "val")[0]
    message = one_line(caught)
    assert f"{VAL[0]}.png: found a mask of 10 x 12 for an image of {height} x {width}" in message


@pytest.mark.parametrize(("found", "dtype"), [(21, np.uint8), (254, np.uint8)])
def test_an_id_outside_the_classes_is_named_with_its_file(fake_voc: FakeVOC, found: int, dtype: type) -> None:
    mask: NDArray[Any] = fake_voc.masks[VAL[1]].astype(dtype)
    mask[3, 4] = found
    fake_voc.write_png(VAL[1], mask)
    with pytest.raises(UserError) as caught:
        VOCDataset(fake_voc.root, "val")[1]
    message = one_line(caught)
    assert f"{VAL[1]}.png: found the id {found}, expected a class of voc (1-20) or an ignored id (0, 255)" in message


def test_an_id_outside_the_classes_in_a_mat_file(fake_voc: FakeVOC) -> None:
    mask = fake_voc.masks["2008_000023"].copy()
    mask[0, 0] = 99
    fake_voc.write_mat("2008_000023", mask)
    dataset = VOCDataset(fake_voc.root, "train", fake_voc.root)
    with pytest.raises(UserError, match=r"2008_000023\.mat: found the id 99"):
        dataset[TRAIN_AUG.index("2008_000023")]


def test_a_colour_mask_is_refused(fake_voc: FakeVOC) -> None:
    path = fake_voc.voc / "SegmentationClass" / f"{VAL[0]}.png"
    with Image.open(path) as mask:
        mask.convert("RGB").save(path)
    with pytest.raises(UserError, match=r"found a RGB image, expected a mask with one id per pixel"):
        VOCDataset(fake_voc.root, "val")[0]


@pytest.mark.parametrize(
    "path",
    [
        "VOCdevkit/VOC2012/JPEGImages/2007_000003.jpg",
        "VOCdevkit/VOC2012/SegmentationClass/2007_000003.png",
        "benchmark_RELEASE/dataset/img/2008_000022.jpg",
        "benchmark_RELEASE/dataset/cls/2008_000022.mat",
    ],
)
@pytest.mark.parametrize("keep", [0, 200])
def test_a_broken_file_is_named(fake_voc: FakeVOC, path: str, keep: int) -> None:
    file = fake_voc.root / path
    file.write_bytes(file.read_bytes()[:keep])
    dataset = VOCDataset(fake_voc.root, "train", fake_voc.root)
    with pytest.raises(UserError) as caught:
        dataset[TRAIN_AUG.index(file.stem)]
    assert one_line(caught).startswith(f"{file}: cannot be decoded")


def test_download_fetches_only_what_is_missing(
    fake_voc: FakeVOC, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "torchvision.datasets.VOCSegmentation", lambda root, **_: calls.append(("voc", root)), raising=True
    )
    monkeypatch.setattr("torchvision.datasets.SBDataset", lambda root, **_: calls.append(("sbd", root)))
    download_voc(fake_voc.root, fake_voc.root)
    assert calls == []
    new = tmp_path / "new"
    download_voc(new / "VOCdevkit" / "VOC2012", new)
    assert calls == [("voc", str(new)), ("sbd", str(new))]


def test_a_layout_as_torchvision_unpacks_it_is_found(fake_voc: FakeVOC) -> None:
    """SBDataset(download=True) moves the folders to the root and leaves an empty one behind."""
    for entry in list(fake_voc.sbd.iterdir()):
        shutil.move(entry, fake_voc.root)
    assert names(VOCDataset(fake_voc.root, "train", fake_voc.root)) == TRAIN_AUG


def test_a_failed_download_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(root: str, **_: object) -> None:
        raise OSError("no route\nto host")

    monkeypatch.setattr("torchvision.datasets.VOCSegmentation", fail)
    with pytest.raises(UserError, match=r"root: the download to .* failed \(no route to host\); unpack") as caught:
        download_voc(tmp_path)
    one_line(caught)


@real_data
def test_real_lists_agree_with_the_published_train_aug() -> None:
    dataset = VOCDataset(REAL, "train", REAL)
    found = set(names(dataset))
    assert len(dataset) == 277 + 205
    assert names(dataset) == tuple(sorted(found))
    assert found <= set((REAL / "lists" / "voc2012_trainaug_10582.txt").read_text().split())
    assert set(names(VOCDataset(REAL, "val"))) <= set((REAL / "lists" / "voc2012_val_1449.txt").read_text().split())


@real_data
def test_the_rule_gives_the_published_10582(tmp_path: Path) -> None:
    """The complete lists under the rule; SBD's own are not to be had, so what they must add is taken as SBD."""
    lists = REAL / "lists"
    published = (lists / "voc2012_trainaug_10582.txt").read_text().split()
    train = (lists / "voc2012_train_1464.txt").read_text().split()
    val = (lists / "voc2012_val_1449.txt").read_text().split()
    fake = FakeVOC(tmp_path)
    for folder in (fake.voc / "ImageSets" / "Segmentation", fake.sbd / "cls", fake.sbd / "img"):
        folder.mkdir(parents=True)
    for folder, suffix, members in (
        (fake.voc / "JPEGImages", "jpg", train + val),
        (fake.voc / "SegmentationClass", "png", train + val),
        (fake.sbd / "img", "jpg", sorted(set(published) - set(train))),
        (fake.sbd / "cls", "mat", sorted(set(published) - set(train))),
    ):
        folder.mkdir(exist_ok=True)
        for name in members:
            (folder / f"{name}.{suffix}").touch()
    (fake.voc / "ImageSets" / "Segmentation" / "train.txt").write_text("\n".join(train))
    (fake.voc / "ImageSets" / "Segmentation" / "val.txt").write_text("\n".join(val))
    # SBD's lists hold VOC val images too; the cut into train and val does not matter
    pool = sorted({*published[::2], *val[:700]})
    (fake.sbd / "train.txt").write_text("\n".join(pool))
    (fake.sbd / "val.txt").write_text("\n".join(sorted({*published, *val[700:]} - set(pool))))
    dataset = VOCDataset(fake.root, "train", fake.root)
    assert len(dataset) == 10582
    assert names(dataset) == tuple(sorted(published))


@real_data
def test_real_images_decode_with_masks_of_their_size() -> None:
    train, val = VOCDataset(REAL, "train", REAL, hide_unseen=True), VOCDataset(REAL, "val")
    for dataset in (train, val):
        for index in range(0, len(dataset), 40):
            sample = dataset[index]
            assert sample["image"].shape[1:] == sample["mask"].shape
            assert sample["mask"].unique().numel() > 1 or sample["hidden"] > 0
    assert any(Path(train.mask_source(i)).suffix == ".mat" for i in range(0, len(train), 40))
