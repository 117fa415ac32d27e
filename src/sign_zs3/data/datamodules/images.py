"""What the data modules of photographs share: the sizes of crops and the transforms."""

from typing import Any

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.datasets.features import View
from sign_zs3.data.datasets.listed import in_two_lists
from sign_zs3.data.transforms import evaluation_preset, training_preset
from sign_zs3.errors import UserError, check_at_least
from sign_zs3.protocol import Protocol


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
        **kwargs: Further arguments of `ZeroShotDataModule`, which says what is refused; an `eval_batch_size` above 1
            needs `eval_size`.
    """

    def __init__(
        self,
        protocol: Protocol,
        *,
        crop_size: int = 321,
        warp_size: int | None = 513,
        scale: tuple[float, float] = (0.5, 1.5),
        augmentations: str | None = None,
        eval_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(protocol, **kwargs)
        sizes = {"crop_size": crop_size, "warp_size": warp_size, "eval_size": eval_size}
        check_at_least(1, **{name: size for name, size in sizes.items() if size is not None})
        if len(scale) != 2 or not 0 < scale[0] <= scale[1]:
            raise UserError(f"scale: found {list(scale)}, expected [low, high] with 0 < low <= high; correct it")
        if self.eval_batch_size > 1 and eval_size is None:
            raise UserError(
                f"eval_batch_size: found {self.eval_batch_size}, expected 1 while evaluation keeps each image's "
                "own size; set it to 1 or set eval_size"
            )
        self.crop_size = crop_size
        self.warp_size = warp_size
        self.scale = scale
        self.augmentations = augmentations
        self.eval_size = eval_size

    def setup(self, stage: str | None = None) -> None:
        """Read lists and check that every file is there, before any training; no image may be in two lists."""
        super().setup(stage)
        sets = {"training": self.train_set, "test": None if self.development else self.test_set}
        if self.own_validation:
            sets["validation"] = self.val_set
        if faults := list(in_two_lists(sets)):
            raise UserError(f"{faults[0]} ({len(faults)} images are in two lists)")

    def dataset_options(self, hide_unseen: bool, augment: bool) -> dict[str, Any]:
        """Return the arguments of a `ListedDataset` that do not depend on the data set."""
        transform = evaluation_preset(self.eval_size)
        if augment:
            transform = training_preset(self.warp_size, self.scale, self.crop_size, augmentations=self.augmentations)
        common = {"protocol": self.protocol, "hide_unseen": hide_unseen}
        return {**common, "transform": transform, "check": self.check_files}

    def feature_view(self, dataset: SegmentationDataset, augment: bool, stride: int, extra: int) -> View:
        """Return how images are encoded and maps are cropped; a crop not below the warped image is all of it, unpadded.

        Raises:
            UserError: Maps cannot be augmented as the options say.
        """
        if not augment:
            return View(self.eval_size)
        warp, crop = self.warp_size, self.crop_size
        whole = warp is None or crop >= warp
        more = f" or {extra} more" if extra else ""
        cells = f"a multiple of {stride}, the pixels per cell of the coarsest map{more}, or at least {warp} for no crop"
        for option, found, fits, expected in (
            ("warp_size", warp or "null", warp is not None, "the one side in pixels of all training images"),
            ("scale", list(self.scale), tuple(self.scale) == (1, 1), "[1, 1], since maps cannot be rescaled"),
            ("augmentations", self.augmentations, self.augmentations is None, "none, since images are encoded once"),
            ("crop_size", crop, whole or crop % stride in (0, extra), cells),
        ):
            if not fits:
                raise UserError(
                    f"{option}: found {found} with feature_cache, expected {expected}; change it, or leave "
                    "feature_cache out"
                )
        return View(warp, None if whole else crop, 0.5)
