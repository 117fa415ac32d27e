"""Images without masks for a Trainer: all that self-training needs."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Image, Part, SegmentationDataset, Transform
from sign_zs3.images import find_images, read_image
from sign_zs3.protocol import IGNORE_INDEX, Protocol


class UnlabelledDataset(SegmentationDataset):
    """Image files, every pixel ignored; `protocol` has the classes that a model may find."""

    def __init__(self, protocol: Protocol, files: Sequence[Path], transform: Transform | None = None) -> None:
        super().__init__(protocol, transform=transform)
        self.files = tuple(files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> str:
        """Return the file's path."""
        return str(self.files[index])

    def read(self, index: int) -> tuple[Image, NDArray[Any]]:
        """Read an image; its mask is 255 everywhere."""
        image = read_image(self.files[index])[0]
        return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8)


class UnlabelledDataModule(ImageDataModule):
    """Images without masks, such as those that a model is to be used on; there is nothing to validate or test on.

    Args:
        protocol: Of the model.
        images: Image files, or folders of them.
        crop_size: Side of the training crop in pixels; None: 321, or less where no image is larger.
        **kwargs: Further arguments of `ImageDataModule`.

    Raises:
        UserError: No image is found, or one cannot be read.
    """

    def __init__(
        self, protocol: Protocol, images: Sequence[str | Path], crop_size: int | None = None, **kwargs: Any
    ) -> None:
        self.files = list(find_images(images))
        if crop_size is None:
            largest = max(max(read_image(file)[1]) for file in self.files)
            # what the coarsest levels of backbones divide
            crop_size = min(321, -(-largest // 32) * 32)
        protocol = replace(protocol, ignored_ids=tuple(sorted({*protocol.ignored_ids, IGNORE_INDEX})))
        sizes = {"crop_size": crop_size, "warp_size": None, "scale": (1.0, 1.0)}
        super().__init__(protocol, **(sizes | {"val_fraction": 0.0, "num_workers": 0} | kwargs))

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> SegmentationDataset:
        """Return all images, whatever the split."""
        return UnlabelledDataset(self.protocol, self.files, self.dataset_options(hide_unseen, augment)["transform"])
