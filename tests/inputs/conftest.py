"""A folder of sixty images in which one thing is wrong."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3 import FolderDataModule
from sign_zs3.data.check import check_data

CLASSES = ("sky", "grass", "cow", "horse")
COUNT = 60
SIZE = (16, 20)


@dataclass
class Folder:
    """``images``, ``masks`` and ``classes.txt``: masks of the ids 1 to 4, and 0 for no label in each."""

    root: Path

    def mask(self, number: int) -> Path:
        return self.root / "masks" / f"{number:02}.png"

    def image(self, number: int) -> Path:
        return self.root / "images" / f"{number:02}.png"

    @staticmethod
    def ids(number: int) -> NDArray[np.uint8]:
        ids = np.zeros(SIZE, np.uint8)
        ids[2:, :10], ids[2:, 10:] = 1 + number % 4, 1 + (number + 1) % 4
        return ids

    def write(self, offset: int = 0) -> None:
        """Write all, the masks of ids that are `offset` higher."""
        rng = np.random.default_rng(0)
        for path in (self.root / "images", self.root / "masks"):
            path.mkdir(parents=True)
        self.write_classes(dict(enumerate(CLASSES, 1)))
        for number in range(COUNT):
            Image.fromarray(rng.integers(0, 256, (*SIZE, 3), np.uint8)).save(self.image(number))
            Image.fromarray(self.ids(number) + np.uint8(offset)).save(self.mask(number))

    def write_classes(self, classes: dict[int, str]) -> None:
        lines = [f"{number}\t{name}\n" for number, name in classes.items()]
        (self.root / "classes.txt").write_text("".join(lines), encoding="utf-8")

    def data(self, **options: Any) -> FolderDataModule:
        return FolderDataModule(str(self.root), **{"unseen": ["horse"], "num_workers": 0, "crop_size": 16, **options})

    def faults(self, **options: Any) -> list[str]:
        """What `data check` finds."""
        faults = check_data(self.data(**options), progress=False)[1]
        assert not any("\n" in fault for fault in faults)
        return faults


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "mine")
    made.write()
    return made
