"""The published data sets for a Trainer: COCO-Stuff, Pascal Context, and Pascal VOC 2012 + SBD."""

from typing import Any, Literal

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset
from sign_zs3.data.datasets.pascal_context import PascalContextDataset
from sign_zs3.data.datasets.voc import VOCDataset, download_voc
from sign_zs3.data.splits import published_protocol
from sign_zs3.files import from_home


class COCOStuffDataModule(ImageDataModule):
    """Trains on COCO 2017's training images but the last 10,000, validates on these, tests on val2017; 171 classes.

    Args:
        root: The folder that holds ``images/{train2017,val2017}`` and ``annotations/{train2017,val2017}``.
        val_size: How many of the last training images, by name, are for validation.
        split: ``default`` (also named ``spnet``): the 15 unseen classes of SPNet, CaGNet and SIGN.
        unseen: Names of the unseen classes instead of the split's.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused; `val_fraction` has no use here.
    """

    known_numbering = True

    def __init__(
        self,
        root: str,
        val_size: int = 10_000,
        split: str = "default",
        unseen: list[str] | None = None,
        ignored_classes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(published_protocol("coco_stuff", unseen, split, ignored_classes), **kwargs)
        self.root = from_home(root)
        self.val_size = val_size
        # without a validation image there is no split "val"
        self.own_validation = val_size > 0

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> COCOStuffDataset:
        """Return the images of a split."""
        return COCOStuffDataset(self.root, split, self.val_size, **self.dataset_options(hide_unseen, augment))


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
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused.
    """

    known_numbering = True

    def __init__(
        self,
        root: str,
        labels: str | None = None,
        train_list: str | None = None,
        test_list: str | None = None,
        num_classes: Literal[33, 59] = 33,
        split: str = "default",
        unseen: list[str] | None = None,
        ignored_classes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(published_protocol(f"pascal_context_{num_classes}", unseen, split, ignored_classes), **kwargs)
        self.root = from_home(root)
        self.labels = None if labels is None else from_home(labels)
        self.lists = {"train": train_list, "test": test_list}
        self.num_classes: Literal[33, 59] = num_classes

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> PascalContextDataset:
        """Return the training or the test images."""
        part: Literal["train", "test"] = "test" if split == "test" else "train"
        options = self.dataset_options(hide_unseen, augment)
        return PascalContextDataset(self.root, part, self.labels, self.lists[part], self.num_classes, **options)


class VOCDataModule(ImageDataModule):
    """Trains on `train_aug` (VOC 2012 train with SBD), tests on VOC 2012 val.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        sbd_root: The folder that holds ``benchmark_RELEASE``, or that one, or its ``dataset``; None trains on the
            masks in ``SegmentationClassAug`` where these are there, else on VOC 2012 train alone.
        split: ``default``: pottedplant, sheep, sofa, train and tvmonitor are unseen, background is ignored; ``zs3-2``,
            ``-4``, ``-6``, ``-8``, ``-10``: ZS3Net's, where background is a seen class.
        unseen: Names of the unseen classes instead of the split's.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        download: Fetch what is missing (3.4 GB).
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused.
    """

    known_numbering = True

    def __init__(
        self,
        root: str,
        sbd_root: str | None = None,
        split: str = "default",
        unseen: list[str] | None = None,
        ignored_classes: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(published_protocol("voc", unseen, split, ignored_classes), **kwargs)
        self.root = from_home(root)
        self.sbd_root = None if sbd_root is None else from_home(sbd_root)
        self.download = download

    def prepare_data(self) -> None:
        """Download what is missing, where `download` is set."""
        if self.download:
            download_voc(self.root, self.sbd_root)

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> VOCDataset:
        """Return `train_aug` for ``"train"`` and VOC 2012 val for ``"test"``."""
        options = self.dataset_options(hide_unseen, augment)
        return VOCDataset(self.root, "val" if split == "test" else "train", self.sbd_root, **options)
