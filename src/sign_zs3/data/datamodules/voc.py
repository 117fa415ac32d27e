"""Pascal VOC 2012 + SBD for a Trainer."""

from typing import Any

from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datasets.base import Part
from sign_zs3.data.datasets.voc import VOCDataset, download_voc
from sign_zs3.data.splits import published_protocol


class VOCDataModule(ImageDataModule):
    """Trains on `train_aug` (VOC 2012 train with SBD), tests on VOC 2012 val.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        sbd_root: The folder that holds ``benchmark_RELEASE``, or that one, or its ``dataset``; None trains on VOC 2012
            train alone.
        split: ``default``: pottedplant, sheep, sofa, train and tvmonitor are unseen, background is ignored; ``zs3-2``,
            ``-4``, ``-6``, ``-8``, ``-10``: ZS3Net's, where background is a seen class.
        unseen: Names of the unseen classes instead of the split's.
        download: Fetch what is missing (3.4 GB).
        **kwargs: Further arguments of `ImageDataModule`, which says what is refused.
    """

    def __init__(
        self,
        root: str,
        sbd_root: str | None = None,
        split: str = "default",
        unseen: list[str] | None = None,
        download: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(published_protocol("voc", unseen, split), **kwargs)
        self.root = root
        self.sbd_root = sbd_root
        self.download = download

    def prepare_data(self) -> None:
        """Download what is missing, where `download` is set."""
        if self.download:
            download_voc(self.root, self.sbd_root)

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> VOCDataset:
        """Return `train_aug` for ``"train"`` and VOC 2012 val for ``"test"``."""
        options = self.dataset_options(hide_unseen, augment)
        return VOCDataset(self.root, "val" if split == "test" else "train", self.sbd_root, **options)
