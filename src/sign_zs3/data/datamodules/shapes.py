"""The built-in scenes for a Trainer."""

from typing import Any

import numpy as np

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datasets.base import Image, Part, Transform, Valid
from sign_zs3.data.datasets.shapes import ShapesDataset, shapes_protocol


class ShapesDataModule(ZeroShotDataModule):
    """Drawn scenes of coloured shapes (see `sign_zs3.data.datasets.shapes`); nothing to download.

    Args:
        train_size: Training scenes.
        val_size: Validation scenes, a stream of their own.
        test_size: Test scenes.
        scene_size: Height and width of a scene in pixels.
        scene_seed: Seed of the scenes themselves; training, validation and test scenes are apart for every seed.
        batch_size: Training samples per process and step.
        eval_batch_size: Evaluation samples per batch.
        num_workers: Worker processes per loader.
        unseen: Names of the unseen classes; None: red square, green triangle, blue star, yellow circle.
        ignored_classes: Names of classes to leave out: their pixels are ignored.
        **kwargs: Further arguments of `ZeroShotDataModule`; `val_fraction` has no use here.

    Raises:
        UserError: An option is out of range or names no class.
    """

    own_validation = True

    def __init__(
        self,
        train_size: int = 4000,
        val_size: int = 200,
        test_size: int = 500,
        scene_size: int = 64,
        scene_seed: int = 0,
        batch_size: int = 32,
        eval_batch_size: int = 50,
        num_workers: int = 0,
        unseen: list[str] | None = None,
        ignored_classes: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        protocol = shapes_protocol(unseen, ignored_classes or ())
        super().__init__(
            protocol, batch_size=batch_size, eval_batch_size=eval_batch_size, num_workers=num_workers, **kwargs
        )
        self.lengths = {"train": train_size, "val": val_size, "test": test_size}
        self.scene_size = scene_size
        self.scene_seed = scene_seed

    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> ShapesDataset:
        """Return the scenes of a split, mirrored at random when `augment` is set."""
        scenes = self.lengths[split], self.scene_seed, self.scene_size, self.protocol
        return ShapesDataset(split, *scenes, hide_unseen=hide_unseen, transform=_Mirror() if augment else None)


class _Mirror(Transform):
    """Mirrors every other scene."""

    def __call__(self, image: Image, mask: Image, seed: int) -> tuple[Image, Image, Valid]:
        if np.random.default_rng(seed).random() >= 0.5:
            image, mask = image[:, ::-1], mask[:, ::-1]
        return image, mask, np.ones(mask.shape, np.bool_)
