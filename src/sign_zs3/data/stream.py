"""Counter-based order: a seed and a position say which image comes and how it is augmented.

No random state is kept: a run that is resumed, with any number of workers, sees the samples of one never stopped.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from sign_zs3.data.datasets.base import Sample, Samples
from sign_zs3.data.features import FeatureCache
from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX

# keep the orders and the augmentations of one seed apart
_ORDER, _AUGMENTATION = 0, 1


@dataclass(frozen=True)
class LoaderPlan:
    """What a task tells the loaders of its run.

    Attributes:
        batches: Batches of the whole schedule: one pass, so that no epoch ends within it; None: a pass over the images.
        position: Batches done: where a resumed run goes on.
        unlabelled_from: Number of the batch from which images without usable labels join (self-training); None: never.
        maps: Cache of the feature maps that samples hold instead of images; None: images.
    """

    batches: int | None = None
    position: int = 0
    unlabelled_from: int | None = None
    maps: FeatureCache | None = None


class Stream(Dataset[Sample]):
    """An endless, seeded sequence of augmented samples, addressed by position.

    Positions 0..n-1 are a permutation of the n images, n..2n-1 another one, and so on.

    Args:
        dataset: Where the images come from.
        indices: The images of the pool, at least one.
        seed: Decides order and augmentation, at least 0.
        extra: Images that join later, with every mask pixel 255: with `unseen_pixels: drop`, self-training still reads
            the images that training left out.
        extra_from: First position of the larger pool; None: never.
        compact: Leave masks at uint8 (see `SegmentationDataset.sample`).

    Raises:
        UserError: The pool is empty.
    """

    def __init__(
        self,
        dataset: Samples,
        indices: Sequence[int],
        seed: int,
        *,
        extra: Sequence[int] = (),
        extra_from: int | None = None,
        compact: bool = False,
    ) -> None:
        if not indices:
            raise UserError("training images: found none, expected at least one; check the lists and `unseen_pixels`")
        self.dataset = dataset
        self.indices = tuple(indices)
        self.seed = seed
        self.extra = tuple(extra)
        self.extra_from = extra_from if self.extra else None
        self.compact = compact

    def __len__(self) -> int:
        """Return n, the number of images of the pool without `extra`; positions go on beyond it."""
        return len(self.indices)

    def __getitem__(self, position: int) -> Sample:
        """Return the sample at a position, at least 0 (see `SegmentationDataset.sample`)."""
        index, labelled = self.locate(position)
        seed = int(np.random.SeedSequence((self.seed, _AUGMENTATION, position)).generate_state(1, np.uint64)[0])
        sample = self.dataset.sample(index, seed, self.compact)
        if not labelled:
            sample["mask"] = torch.full_like(sample["mask"], IGNORE_INDEX)
        return sample

    def locate(self, position: int) -> tuple[int, bool]:
        """Return the image at a position, and whether its labels may be shown; IndexError: it is negative."""
        if position < 0:
            raise IndexError(f"position {position} is negative")
        stage, start, length = 0, 0, len(self.indices)
        if self.extra_from is not None and position >= self.extra_from:
            stage, start, length = 1, self.extra_from, length + len(self.extra)
        epoch, offset = divmod(position - start, length)
        place = int(_permutation(self.seed, stage, epoch, length)[offset])
        if place < len(self.indices):
            return self.indices[place], True
        return self.extra[place - len(self.indices)], False


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, stage: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, stage, epoch]).permutation(length)
