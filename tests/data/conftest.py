"""Tiny data sets in their true native layouts, and one in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.datasets.base import SegmentationDataset, Transform
from sign_zs3.protocol import Protocol

Mask = NDArray[np.uint8]

TRAIN = ("2007_000001", "2007_000002", "2007_000003", "2007_000004")
VAL = ("2007_000011", "2007_000012", "2007_000013")
# the first SBD image is also in VOC train, the second in VOC val, the third has a VOC mask but is in no VOC list
SBD_TRAIN = ("2007_000002", "2007_000011", "2008_000021", "2008_000022")
SBD_VAL = ("2008_000023", "2008_000024")
VOC_ONLY_MASK = "2008_000021"
TRAIN_AUG = tuple(sorted({*TRAIN, "2008_000021", "2008_000022", "2008_000023", "2008_000024"}))
# images whose mask holds an unseen class of the default split (16..20)
WITH_UNSEEN = ("2007_000003", "2008_000022")


@dataclass
class FakeVOC:
    """VOC 2012 and SBD with a few images each, under one root."""

    root: Path
    masks: dict[str, Mask] = field(default_factory=dict)

    @property
    def voc(self) -> Path:
        return self.root / "VOCdevkit" / "VOC2012"

    @property
    def sbd(self) -> Path:
        return self.root / "benchmark_RELEASE" / "dataset"

    def write_png(self, name: str, mask: NDArray[Any]) -> None:
        image = Image.fromarray(mask)
        if mask.dtype == np.uint8:
            image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        image.save(self.voc / "SegmentationClass" / f"{name}.png")

    def write_mat(self, name: str, mask: NDArray[Any]) -> None:
        from scipy.io import savemat

        boundaries = np.empty((20, 1), object)
        boundaries[:, 0] = [np.zeros(mask.shape, np.uint8)] * 20
        content = {
            "Boundaries": boundaries,
            "Segmentation": mask,
            "CategoriesPresent": np.unique(mask[(mask > 0) & (mask < 255)]).reshape(-1, 1),
        }
        savemat(self.sbd / "cls" / f"{name}.mat", {"GTcls": content}, do_compression=True)

    def write_all(self) -> None:
        for folder in (
            self.voc / "ImageSets" / "Segmentation",
            self.voc / "JPEGImages",
            self.voc / "SegmentationClass",
            self.sbd / "img",
            self.sbd / "cls",
        ):
            folder.mkdir(parents=True)
        lists = self.voc / "ImageSets" / "Segmentation"
        for path, names in (
            (lists / "train.txt", TRAIN),
            (lists / "val.txt", VAL),
            (self.sbd / "train.txt", SBD_TRAIN),
            (self.sbd / "val.txt", SBD_VAL),
        ):
            path.write_text("\n".join(names) + "\n")

        rng = np.random.default_rng(7)
        for number, name in enumerate(sorted({*TRAIN, *VAL, *SBD_TRAIN, *SBD_VAL})):
            height, width = 40 + 3 * number, 64 - 2 * number
            mask = np.zeros((height, width), np.uint8)
            mask[5:20, 4:30] = 1 + number
            mask[5:20, 30:33] = 255
            if name in WITH_UNSEEN or name in VAL:
                mask[22:34, 10:40] = 16 + number % 5
            self.masks[name] = mask
            picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            if name in (*TRAIN, *VAL, VOC_ONLY_MASK):
                picture.save(self.voc / "JPEGImages" / f"{name}.jpg")
                self.write_png(name, mask)
            if name in (*SBD_TRAIN, *SBD_VAL):
                picture.save(self.sbd / "img" / f"{name}.jpg")
                # SBD has no void, so its masks differ from those of VOC
                self.write_mat(name, np.where(mask == 255, 0, mask).astype(np.uint8))


@pytest.fixture
def fake_voc(tmp_path: Path) -> FakeVOC:
    fake = FakeVOC(tmp_path / "data")
    fake.write_all()
    return fake


# 59_labels.txt of Pascal Context, whose line numbers are the ids of 59_context_labels; in the spelling of the 459
CONTEXT59 = (
    *("aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "table", "dog", "horse"),
    *("motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor", "bag", "bed", "bench", "book"),
    *("building", "cabinet", "ceiling", "cloth", "computer", "cup", "door", "fence", "floor", "flower", "food"),
    *("grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain", "platform", "sign", "plate", "road"),
    *("rock", "shelves", "sidewalk", "sky", "snow", "bedclothes", "track", "tree", "truck", "wall", "water"),
    *("window", "wood"),
)
CONTEXT33 = (
    *CONTEXT59[:20],
    *("sky", "grass", "ground", "road", "building", "tree", "water", "mountain", "wall", "floor", "track"),
    *("keyboard", "ceiling"),
)
# near misses of class names, and enough others that ids pass 255
CONTEXT459 = tuple(
    sorted(
        {*CONTEXT59, "accordion", "bird nest", "clothes tree", "pool table", "tableware", "mouse pad", "traffic light"}
        | {"playground", "unknown"}
        | {f"filler {number:03}" for number in range(391)}
    )
)
CONTEXT_TRAIN = ("2008_000008", "2008_000015", "2008_000019", "2008_000023")
CONTEXT_TEST = ("2008_000002", "2008_000003", "2008_000007")
CONTEXT_UNSEEN = ("cow", "motorbike", "sofa", "cat")
CONTEXT_WITH_UNSEEN = ("2008_000015", "2008_000023")


def blocks(rng: np.random.Generator, ids: Sequence[int], height: int = 8, width: int = 9) -> NDArray[np.int64]:
    """5 x 6 rectangles of ids drawn from `ids`."""
    return np.kron(rng.choice(np.array(ids), (5, 6)), np.ones((height, width), np.int64))


def write_picture(path: Path, height: int, width: int) -> None:
    """An image of noise with its own seed."""
    rng = np.random.default_rng(list(path.name.encode()))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(path)


def write_mask(path: Path, mask: NDArray[Any], palette: bool = True) -> None:
    """An 8-bit PNG, with a palette as VOC's masks have, or grey as COCO's pixel maps are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask.astype(np.uint8))
    if palette:
        image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    image.save(path)


@dataclass
class FakeContext:
    """VOC 2010's images with the labels of Pascal Context, as PNGs or as label maps of 459 classes."""

    root: Path
    maps: dict[str, NDArray[np.int64]] = field(default_factory=dict)

    @property
    def voc(self) -> Path:
        return self.root / "VOCdevkit" / "VOC2010"

    def own_ids(self, name: str, num_classes: int) -> Mask:
        """The mask of an image in the ids of the PNGs: of each pixel's class name, its place in the list."""
        spelt = np.array(["", *CONTEXT459])[self.maps[name]]
        mask = np.zeros(spelt.shape, np.uint8)
        for own_id, own_name in enumerate({33: CONTEXT33, 59: CONTEXT59}[num_classes], 1):
            mask[spelt == own_name] = own_id
        return mask

    def write_pngs(self, num_classes: int, folder: Path | None = None) -> Path:
        folder = folder or self.root
        for name in self.maps:
            write_mask(folder / f"{num_classes}_context_labels" / f"{name}.png", self.own_ids(name, num_classes))
        return folder

    def write_map(self, name: str, content: dict[str, Any], folder: Path | None = None) -> Path:
        from scipy.io import savemat

        path = (folder or self.root) / "trainval" / f"{name}.mat"
        path.parent.mkdir(parents=True, exist_ok=True)
        savemat(path, content, do_compression=True)
        return path

    def write_maps(self, folder: Path | None = None) -> Path:
        folder = folder or self.root
        for name, ids in self.maps.items():
            self.write_map(name, {"LabelMap": ids.astype(np.uint16)}, folder)
        lines = [f"{number}: {name}" for number, name in enumerate(CONTEXT459, 1)]
        (folder / "labels.txt").write_text("\n".join(lines) + "\n")
        return folder

    def write_lists(self, folder: Path | None = None) -> None:
        folder = folder or self.root
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "train.txt").write_text("\n".join(CONTEXT_TRAIN) + "\n")
        (folder / "val.txt").write_text("\n".join(CONTEXT_TEST) + "\n")

    def write_images(self) -> None:
        rng = np.random.default_rng(5)
        unseen = [CONTEXT459.index(name) + 1 for name in CONTEXT_UNSEEN]
        common = [CONTEXT459.index(name) + 1 for name in CONTEXT59 if name not in CONTEXT_UNSEEN]
        rare = [CONTEXT459.index(name) + 1 for name in ("clothes tree", "tableware", "unknown", "filler 007")]
        for number, name in enumerate((*CONTEXT_TRAIN, *CONTEXT_TEST)):
            ids = blocks(rng, [*common, *rare], 8 + number)
            ids[2, :3] = 0
            if name in (*CONTEXT_WITH_UNSEEN, *CONTEXT_TEST):
                ids[12:15, 20:25] = unseen[number % len(unseen)]
            self.maps[name] = ids
            write_picture(self.voc / "JPEGImages" / f"{name}.jpg", *ids.shape)


@pytest.fixture
def fake_context(tmp_path: Path) -> FakeContext:
    """Images and lists; the labels are the test's to write."""
    fake = FakeContext(tmp_path / "data")
    fake.write_images()
    fake.write_lists()
    return fake


COCO_TRAIN = tuple(f"{number:012}" for number in (9, 25, 30, 34, 36, 42, 49, 61, 64))
COCO_TEST = ("000000000139", "000000000285", "000000000632")
COCO_WITH_UNSEEN = ("000000000025", "000000000042", "000000000064")
COCO_UNSEEN_IDS = (20, 24, 32, 33, 40, 56, 86, 99, 105, 123, 144, 147, 148, 168, 171)
COCO_NEVER = (11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90)


@dataclass
class FakeCOCO:
    """COCO 2017's images with the pixel maps of COCO-Stuff."""

    root: Path
    masks: dict[str, Mask] = field(default_factory=dict)

    def image(self, name: str) -> Path:
        return self.root / "images" / ("val2017" if name in COCO_TEST else "train2017") / f"{name}.jpg"

    def mask(self, name: str) -> Path:
        return self.root / "annotations" / ("val2017" if name in COCO_TEST else "train2017") / f"{name}.png"

    def write_all(self) -> None:
        rng = np.random.default_rng(6)
        seen = [i for i in (*range(182), 255) if i not in COCO_UNSEEN_IDS and i not in COCO_NEVER]
        for number, name in enumerate((*COCO_TRAIN, *COCO_TEST)):
            mask = blocks(rng, seen, 8, 8 + number).astype(np.uint8)
            if name in (*COCO_WITH_UNSEEN, *COCO_TEST):
                mask[3:6, 4:20] = COCO_UNSEEN_IDS[number]
            self.masks[name] = mask
            write_picture(self.image(name), *mask.shape)
            write_mask(self.mask(name), mask, palette=False)


@pytest.fixture
def fake_coco(tmp_path: Path) -> FakeCOCO:
    fake = FakeCOCO(tmp_path / "coco")
    fake.write_all()
    return fake


FOLDER_CLASSES = {1: "sky", 2: "grass", 3: "cow", 4: "dog", 5: "traffic sign", 7: "water"}
FOLDER_NAMES = tuple(f"photo_{number:02}" for number in range(10))
FOLDER_TRAIN, FOLDER_TEST = FOLDER_NAMES[:7], FOLDER_NAMES[7:]
FOLDER_UNSEEN = ("cow", "dog")
FOLDER_WITH_UNSEEN = ("photo_01", "photo_04")


@dataclass
class FakeFolder:
    """Somebody's own images, masks, list of classes and lists of images."""

    root: Path
    masks: dict[str, Mask] = field(default_factory=dict)

    def image(self, name: str) -> Path:
        return self.root / "images" / f"{name}.jpg"

    def mask(self, name: str) -> Path:
        return self.root / "masks" / f"{name}.png"

    def write_classes(self, content: str | bytes) -> None:
        (self.root / "classes.txt").write_bytes(content.encode() if isinstance(content, str) else content)

    def write_list(self, split: str, content: Sequence[str] | bytes) -> Path:
        path = self.root / "splits" / f"{split}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else ("\n".join(content) + "\n").encode())
        return path

    def add(self, name: str, mask: NDArray[Any]) -> None:
        self.masks[name] = mask.astype(np.uint8)
        write_picture(self.image(name), *mask.shape)
        write_mask(self.mask(name), mask)

    def write_all(self) -> None:
        rng = np.random.default_rng(8)
        for number, name in enumerate(FOLDER_NAMES):
            mask = blocks(rng, (0, 1, 2, 5, 7, 255), 6 + number, 7)
            if name in (*FOLDER_WITH_UNSEEN, *FOLDER_TEST):
                mask[3:6, 4:20] = 3 + number % 2
            self.add(name, mask)
        self.write_classes("".join(f"{own_id}\t{name}\n" for own_id, name in FOLDER_CLASSES.items()))
        self.write_list("train", FOLDER_TRAIN)
        self.write_list("test", FOLDER_TEST)


@pytest.fixture
def fake_folder(tmp_path: Path) -> FakeFolder:
    fake = FakeFolder(tmp_path / "mine")
    fake.write_all()
    return fake


def names(dataset: SegmentationDataset) -> tuple[str, ...]:
    return tuple(dataset.name(i) for i in range(len(dataset)))


def training_samples(dataset: SegmentationDataset) -> tuple[list[dict[str, Any]], list[int]]:
    """All samples without the diagnostic count of hidden pixels, and the counts."""
    samples = [dataset[i] for i in range(len(dataset))]
    return samples, [int(sample.pop("hidden")) for sample in samples]


class ToyDataset(SegmentationDataset):
    """Random images of ids 1..4 (4 unseen) with a stripe of void, in memory."""

    def __init__(self, length: int, transform: Transform | None = None, hide_unseen: bool = True) -> None:
        names = {1: "one", 2: "two", 3: "three", 4: "four"}
        super().__init__(Protocol.build("toy", "default", names, ["four"], (0, 255)), hide_unseen, transform)
        rng = np.random.default_rng(1)
        self.images = rng.integers(0, 256, (length, 24, 32, 3), np.uint8)
        self.masks = rng.integers(0, 5, (length, 24, 32)).astype(np.uint8)
        self.masks[:, :, 3] = 255

    def __len__(self) -> int:
        return len(self.images)

    def name(self, index: int) -> str:
        return f"toy-{index}"

    def read(self, index: int) -> tuple[NDArray[np.uint8], NDArray[Any]]:
        return self.images[index], self.masks[index]


def same_samples(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether two samples or batches are bit-equal."""
    return first.keys() == second.keys() and all(
        torch.equal(value, second[key]) if isinstance(value, torch.Tensor) else value == second[key]
        for key, value in first.items()
    )
