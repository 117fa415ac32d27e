"""Images of one's own for a Trainer: a folder with masks, and images without any, which self-training takes."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Image, Part, SegmentationDataset, Transform
from sign_zs3.data.datasets.folder import FolderDataset, folder_protocol
from sign_zs3.errors import UserError
from sign_zs3.files import from_home
from sign_zs3.images import find_images, read_image
from sign_zs3.protocol import IGNORE_INDEX, Protocol


class FolderDataModule(ImageDataModule):
    """Images and masks of one's own: ``images/NAME.jpg``, ``masks/NAME.png`` and ``classes.txt`` in a folder.

    ``splits/train.txt``, ``splits/test.txt`` and ``splits/val.txt`` are used where they are there; without lists a
    fixed share of the images is for testing, and without a list of validation images a seeded share of the training
    images is for validation.

    Args:
        root: The folder.
        unseen: Names of the unseen classes: no training pixel shows them.
        images: Folder of the images below `root`; jpg, png, bmp, tif, webp, gif or ppm.
        masks: Folder of the masks below `root`: palette or grey PNG, BMP, TIFF or PGM of the image's size, an id per
            pixel.
        classes: List of classes below `root`, ``id<TAB>name`` a line.
        train_list: List of training images below `root`, a name a line.
        val_list: List of validation images below `root`.
        test_list: List of test images below `root`.
        test_fraction: Share of test images where there are no lists.
        image_suffix: What images' names end in beside the name that they share with their masks, such as
            ``_leftImg8bit.png``; None: any suffix of an image.
        mask_suffix: The same of masks, such as ``_gtFine_labelIds.png`` or ``.jpg.png``.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        ignored_ids: Ids that mean "no label", unless the list of classes names them; null: 0 and 255.
        **kwargs: Further arguments of `ImageDataModule`.

    Raises:
        UserError: An option is out of range, the list of classes cannot be read, or a name is not in it.
    """

    def __init__(
        self,
        root: str,
        unseen: list[str] | None = None,
        images: str = "images",
        masks: str = "masks",
        classes: str = "classes.txt",
        train_list: str | None = None,
        val_list: str | None = None,
        test_list: str | None = None,
        test_fraction: float = 0.2,
        image_suffix: str | None = None,
        mask_suffix: str | None = None,
        ignored_classes: list[str] | None = None,
        ignored_ids: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 < test_fraction < 1:
            raise UserError(f"test_fraction: found {test_fraction}, expected a number between 0 and 1; correct it")
        ignored_ids = [0, IGNORE_INDEX] if ignored_ids is None else ignored_ids
        root = from_home(root)
        super().__init__(folder_protocol(root, unseen, classes, ignored_classes or (), ignored_ids), **kwargs)
        self.root = root
        self.lists: dict[str, str | None] = {"train": train_list, "val": val_list, "test": test_list}
        for split, given in self.lists.items():
            default = Path("splits") / f"{split}.txt"
            if given is None and (Path(root) / default).is_file():
                self.lists[split] = str(default)
        if val_list is None and self.lists["val"] == self.lists["test"]:
            # a folder with train.txt and val.txt, whose owner tests on the latter
            self.lists["val"] = None
        if (self.lists["train"] is None) != (self.lists["test"] is None):
            there, other = ("train", "test") if self.lists["test"] is None else ("test", "train")
            instead = f", or give {other}_list ({self.lists['val']}?)" if self.lists["val"] else ""
            raise UserError(
                f"{other}_list: found none, but {self.lists[there]} for {there}, expected both lists or neither; write "
                f"{Path(root) / 'splits' / other}.txt{instead}"
            )
        self.test_fraction = test_fraction
        self.names: dict[str, Any] = {"images": images, "masks": masks}
        self.names |= {"image_suffix": image_suffix, "mask_suffix": mask_suffix}
        self.own_validation = self.lists["val"] is not None

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> FolderDataset:
        """Return the images of a split."""
        options = {**self.names, "list_file": self.lists[split], "test_fraction": self.test_fraction}
        return FolderDataset(self.root, split, **options, **self.dataset_options(hide_unseen, augment))


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

    has_masks = False

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
