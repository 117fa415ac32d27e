"""Tiny data sets in their true native layouts, and one in memory."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.data.datasets.base import SegmentationDataset, Transform
from sign_zs3.data.protocol import Protocol

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
