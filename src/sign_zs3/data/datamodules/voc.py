"""Pascal VOC 2012 + SBD for a Trainer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datasets.voc import VOCDataset, download_voc, voc_protocol
from sign_zs3.data.protocol import Protocol
from sign_zs3.data.transforms import evaluation_preset, training_preset
from sign_zs3.errors import UserError


class VOCDataModule(ZeroShotDataModule):
    """Trains on `train_aug` (VOC 2012 train with SBD), tests on VOC 2012 val.

    Args:
        root: The folder that holds ``VOCdevkit``, or ``VOCdevkit``, or ``VOC2012``.
        sbd_root: The folder that holds ``benchmark_RELEASE``, or that one, or its ``dataset``; None trains on
            VOC 2012 train alone.
        crop_size: Side of the training crop in pixels.
        warp_size: Side in pixels that training images are warped to before the random scale.
        eval_size: Side in pixels that evaluation images are warped to; None keeps the native size.
        download: Fetch what is missing (3.4 GB).
        batch_size: Training samples per process and step.
        eval_batch_size: Evaluation samples per batch; more than 1 needs `eval_size`.
        num_workers: Worker processes per loader.
        seed: Decides the validation cut, the order, the augmentation and the `development` draw.
        unseen: Names of the unseen classes; None: pottedplant, sheep, sofa, train, tvmonitor.
        unseen_pixels: ``"ignore"`` or ``"drop"``, as in `ZeroShotDataModule`.
        development: Choose hyperparameters with this many seen classes as unseen (0: the true split).
        val_fraction: Share of the training list that is cut off for validation.

    Raises:
        UserError: An option is out of range or names no class.
    """

    def __init__(
        self,
        root: str,
        sbd_root: str | None = None,
        crop_size: int = 321,
        warp_size: int = 513,
        eval_size: int | None = None,
        download: bool = False,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        seed: int = 0,
        unseen: list[str] | None = None,
        unseen_pixels: Literal["ignore", "drop"] = "ignore",
        development: int = 0,
        val_fraction: float = 0.05,
    ) -> None:
        super().__init__(
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            unseen=unseen,
            unseen_pixels=unseen_pixels,
            development=development,
            val_fraction=val_fraction,
        )
        for name, size in (("crop_size", crop_size), ("warp_size", warp_size), ("eval_size", eval_size)):
            if size is not None and size < 1:
                raise UserError(f"{name}: found {size}, expected at least 1 pixel; raise it")
        if eval_batch_size > 1 and eval_size is None:
            raise UserError(
                f"eval_batch_size: found {eval_batch_size}, expected 1 while evaluation keeps each image's "
                "own size; set it to 1 or set eval_size"
            )
        self.root = root
        self.sbd_root = sbd_root
        self.crop_size = crop_size
        self.warp_size = warp_size
        self.eval_size = eval_size
        self.download = download

    def make_protocol(self, unseen: Sequence[str] | None) -> Protocol:
        """Returns `voc_protocol`."""
        return voc_protocol(unseen)

    def prepare_data(self) -> None:
        """Downloads what is missing, where `download` is set.

        Raises:
            UserError: The download failed.
        """
        if self.download:
            download_voc(self.root, self.sbd_root)

    def make_dataset(self, split: Literal["train", "val", "test"], *, hide_unseen: bool, augment: bool) -> VOCDataset:
        """Returns `train_aug` for ``"train"`` and VOC 2012 val for ``"test"``.

        Raises:
            UserError: A root, a list, or an image or mask of a list is missing.
        """
        transform = (
            training_preset(warp=self.warp_size, crop=self.crop_size) if augment else evaluation_preset(self.eval_size)
        )
        return VOCDataset(
            self.root,
            "val" if split == "test" else "train",
            sbd_root=self.sbd_root,
            protocol=self.protocol,
            hide_unseen=hide_unseen,
            transform=transform,
        )
