"""Anyone's own images for a Trainer."""

from pathlib import Path
from typing import Any

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.folder import FolderDataset, folder_protocol
from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX


class FolderDataModule(ImageDataModule):
    """Images and masks of one's own: ``images/NAME.jpg``, ``masks/NAME.png`` and ``classes.txt`` in a folder.

    ``splits/train.txt``, ``splits/test.txt`` and ``splits/val.txt`` are used where they are there; without lists a
    fixed share of the images is for testing, and without a list of validation images a seeded share of the training
    images is for validation.

    Args:
        root: The folder.
        unseen: Names of the unseen classes: no training pixel shows them.
        images: Folder of the images below `root`; jpg, png, bmp, tif or webp.
        masks: Folder of the masks below `root`: 8-bit palette or grey images of the image's size, an id per pixel.
        classes: List of classes below `root`, ``id<TAB>name`` a line.
        train_list: List of training images below `root`, a name a line.
        val_list: List of validation images below `root`.
        test_list: List of test images below `root`.
        test_fraction: Share of test images where there are no lists.
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
        ignored_classes: list[str] | None = None,
        ignored_ids: list[int] | None = None,
        **kwargs: Any,
    ) -> None:
        if not 0 < test_fraction < 1:
            raise UserError(f"test_fraction: found {test_fraction}, expected a number between 0 and 1; correct it")
        ignored_ids = [0, IGNORE_INDEX] if ignored_ids is None else ignored_ids
        super().__init__(folder_protocol(root, unseen, classes, ignored_classes or (), ignored_ids), **kwargs)
        self.root = root
        self.images = images
        self.masks = masks
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
        self.own_validation = self.lists["val"] is not None

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> FolderDataset:
        """Return the images of a split."""
        return FolderDataset(
            self.root,
            split,
            images=self.images,
            masks=self.masks,
            list_file=self.lists[split],
            test_fraction=self.test_fraction,
            **self.dataset_options(hide_unseen, augment),
        )
