"""COCO-Stuff for a Trainer."""

from typing import Any

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset
from sign_zs3.data.splits import published_protocol


class COCOStuffDataModule(ImageDataModule):
    """Trains on COCO 2017's training images but the last 10,000, validates on these, tests on val2017; 171 classes.

    Args:
        root: The folder that holds ``images/{train2017,val2017}`` and ``annotations/{train2017,val2017}``.
        val_size: How many of the last training images, by name, are for validation.
        split: ``default`` (also named ``spnet``): the 15 unseen classes of SPNet, CaGNet and SIGN.
        unseen: Names of the unseen classes instead of the split's.
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused; `val_fraction` has no use here.
    """

    def __init__(
        self, root: str, val_size: int = 10_000, split: str = "default", unseen: list[str] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(published_protocol("coco_stuff", unseen, split), **kwargs)
        self.root = root
        self.val_size = val_size
        # without a validation image there is no split "val"
        self.own_validation = val_size > 0

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> COCOStuffDataset:
        """Return the images of a split."""
        return COCOStuffDataset(self.root, split, self.val_size, **self.dataset_options(hide_unseen, augment))
