"""What the data modules of photographs share: the sizes of crops and the transforms."""

from __future__ import annotations

from typing import Any, Literal

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datasets.listed import ListedDataset
from sign_zs3.data.protocol import Protocol
from sign_zs3.data.transforms import evaluation_preset, training_preset
from sign_zs3.errors import UserError


class ImageDataModule(ZeroShotDataModule):
    """Base of the data modules whose images are files of many sizes.

    Args:
        protocol: The class split.
        crop_size: Side of the training crop in pixels.
        warp_size: Side in pixels that training images are warped to before the random scale, their aspect lost;
            None keeps size and aspect.
        scale: Range of the random scale, [low, high].
        augmentations: YAML file of an albumentations pipeline that is run on the training crops; None for none.
        eval_size: Side in pixels that evaluation images are warped to; None keeps the native size.
        batch_size: Training samples per process and step.
        eval_batch_size: Evaluation samples per batch; more than 1 needs `eval_size`.
        num_workers: Worker processes per loader.
        seed: Decides the validation cut, the order, the augmentation and the `development` draw; at least 0.
        unseen_pixels: ``"ignore"`` sets unseen pixels of training images to 255; ``"drop"`` also leaves out
            every image that holds one, until self-training reads it with all pixels unlabelled.
        development: Choose hyperparameters with this many seen classes as unseen (0: the true split).
        val_fraction: Share of the training list that is cut off for validation; 0 for no validation.

    Attributes:
        check_files: Refuse faults of the lists and missing files at `setup`, True unless somebody else looks.

    Raises:
        UserError: An option is out of range or names no class.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        crop_size: int = 321,
        warp_size: int | None = 513,
        scale: list[float] | None = None,
        augmentations: str | None = None,
        eval_size: int | None = None,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int = 2,
        seed: int = 0,
        unseen_pixels: Literal["ignore", "drop"] = "ignore",
        development: int = 0,
        val_fraction: float = 0.05,
    ) -> None:
        super().__init__(
            protocol,
            batch_size=batch_size,
            eval_batch_size=eval_batch_size,
            num_workers=num_workers,
            seed=seed,
            unseen_pixels=unseen_pixels,
            development=development,
            val_fraction=val_fraction,
        )
        for name, size in (("crop_size", crop_size), ("warp_size", warp_size), ("eval_size", eval_size)):
            if size is not None and size < 1:
                raise UserError(f"{name}: found {size}, expected at least 1 pixel; raise it")
        self.scale = [0.5, 1.5] if scale is None else list(scale)
        if len(self.scale) != 2 or not 0 < self.scale[0] <= self.scale[1]:
            raise UserError(f"scale: found {scale}, expected [low, high] with 0 < low <= high; correct it")
        if eval_batch_size > 1 and eval_size is None:
            raise UserError(
                f"eval_batch_size: found {eval_batch_size}, expected 1 while evaluation keeps each image's "
                "own size; set it to 1 or set eval_size"
            )
        self.crop_size = crop_size
        self.warp_size = warp_size
        self.augmentations = augmentations
        self.eval_size = eval_size
        self.check_files = True

    def setup(self, stage: str | None = None) -> None:
        """Reads lists and checks that every file is there, before any training.

        Args:
            stage: As in `ZeroShotDataModule.setup`.

        Raises:
            UserError: A root, list, image or mask is missing, an image is both for training and for testing, or no
                image is left to train on.
        """
        super().setup(stage)
        train, test = self.train_set, self.test_set
        if isinstance(train, ListedDataset) and isinstance(test, ListedDataset) and not self.development:
            both = {item.image for item in train.items} & {item.image for item in test.items}
            if both:
                raise UserError(
                    f"{min(both)}: found in the training and in the test list ({len(both)} images are), expected it in "
                    "one of them; remove it from the other"
                )

    def reading(self, hide_unseen: bool, augment: bool) -> dict[str, Any]:
        """Returns the arguments of a `ListedDataset` that do not depend on the data set."""
        if augment:
            low, high = self.scale
            transform = training_preset(self.warp_size, (low, high), self.crop_size, augmentations=self.augmentations)
        return {
            "protocol": self.protocol,
            "hide_unseen": hide_unseen,
            "transform": transform if augment else evaluation_preset(self.eval_size),
            "check": self.check_files,
        }
