"""Pascal Context for a Trainer."""

from typing import Any, Literal

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.pascal_context import PascalContextDataset
from sign_zs3.data.splits import published_protocol


class PascalContextDataModule(ImageDataModule):
    """Trains on Pascal Context's 4,998 training images, tests on its 5,105 others, with 33 or 59 classes.

    Args:
        root: The folder that holds ``VOCdevkit/VOC2010``, or ``VOC2010``, or that one (VOC 2012 has the same images).
        labels: The folder that holds ``33_context_labels`` or ``59_context_labels`` (PNG), or ``trainval`` (MATLAB
            label maps) with ``labels.txt``; None looks in `root` and beside ``JPEGImages``.
        train_list: List of training ids; None looks for ``train.txt`` beside the label folders and in
            ``ImageSets/SegmentationContext``.
        test_list: List of test ids; None looks for ``val.txt`` there.
        num_classes: 33 (CaGNet, SIGN) or 59.
        split: ``default``: cow, motorbike, sofa and cat are unseen, unlabelled pixels ignored; with 59 classes also
            ``zs3-2``, ``-4``, ``-6``, ``-8``, ``-10``: ZS3Net's, where the background is a seen class.
        unseen: Names of the unseen classes instead of the split's.
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused.
    """

    def __init__(
        self,
        root: str,
        labels: str | None = None,
        train_list: str | None = None,
        test_list: str | None = None,
        num_classes: Literal[33, 59] = 33,
        split: str = "default",
        unseen: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(published_protocol(f"pascal_context_{num_classes}", unseen, split), **kwargs)
        self.root = root
        self.labels = labels
        self.lists = {"train": train_list, "test": test_list}
        self.num_classes: Literal[33, 59] = num_classes

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> PascalContextDataset:
        """Return the training or the test images."""
        part: Literal["train", "test"] = "test" if split == "test" else "train"
        options = self.dataset_options(hide_unseen, augment)
        return PascalContextDataset(self.root, part, self.labels, self.lists[part], self.num_classes, **options)
