"""Counter-based order: a seed and a position say which image comes and how it is augmented.

Nothing here keeps a random state. A run that is stopped and resumed, with any number of workers, therefore
sees the samples of a run that was never stopped: only the position has to be stored.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from sign_zs3.data.datasets.base import Sample, SegmentationDataset
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

    Positions 0..n-1 are a permutation of the n images, n..2n-1 another one, and so on. From `extra_from` on,
    further images join the pool without their labels: with `unseen_pixels: drop`, self-training still reads
    the images that training left out.

    Args:
        dataset: Where the images come from.
        indices: The images of the pool, at least one.
        seed: Decides order and augmentation, at least 0.
        extra: Images that join later, with every mask pixel 255.
        extra_from: First position of the larger pool; None: never.
        compact: Leave masks at uint8 (see `SegmentationDataset.sample`).

    Raises:
        UserError: The pool is empty.
    """

    def __init__(
        self,
        dataset: SegmentationDataset,
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
        sample = self.dataset.sample(index, _hash(self.seed, _AUGMENTATION, position), self.compact)
        if not labelled:
            sample["mask"] = torch.full_like(sample["mask"], IGNORE_INDEX)
        return sample

    def locate(self, position: int) -> tuple[int, bool]:
        """Return the image at a position, and whether its labels may be shown.

        Raises:
            IndexError: The position is negative.
        """
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


class StreamSampler(DistributedSampler[int]):
    """Positions of one rank: batch b of rank r holds (b R + r) B + j for j = 0..B-1.

    One pass goes from `start_batch` to the end of the epoch that holds it. It is a `DistributedSampler` so
    that Lightning leaves it in place.

    Args:
        stream: What the positions address.
        batch_size: B, samples per batch and rank.
        rank: r, number of this process.
        world_size: R, number of processes.
        batches_per_epoch: Batches per rank that one pass counts as; None: a pass over the pool.
    """

    def __init__(
        self, stream: Stream, batch_size: int, rank: int = 0, world_size: int = 1, batches_per_epoch: int | None = None
    ) -> None:
        super().__init__(cast(Dataset[int], stream), num_replicas=world_size, rank=rank, shuffle=False)
        self.batch_size = batch_size
        self.batches_per_epoch = batches_per_epoch or max(1, len(stream) // (batch_size * world_size))
        self.start_batch = 0

    def __len__(self) -> int:
        """Return the number of samples of a whole epoch for this rank."""
        return self.batches_per_epoch * self.batch_size

    def __iter__(self) -> Iterator[int]:
        """Yield positions to the end of the epoch that holds `start_batch`."""
        end = (self.start_batch // self.batches_per_epoch + 1) * self.batches_per_epoch
        for batch in range(self.start_batch, end):
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


class ShardSampler(DistributedSampler[int]):
    """Every R-th index, unpadded: over all ranks each image is evaluated exactly once.

    Shards may differ in length, so nothing collective may happen per batch. A rank for which nothing is left has the
    first image, as `UnscoredSamples`: Lightning passes over an empty loader, with all that is collective after it.

    Args:
        indices: The images to evaluate.
        rank: Number of this process.
        world_size: R, number of processes.
    """

    def __init__(self, indices: Sequence[int], rank: int = 0, world_size: int = 1) -> None:
        super().__init__(cast(Dataset[int], indices), num_replicas=world_size, rank=rank, shuffle=False)
        share = tuple(indices)[rank::world_size]
        self.shard = share or tuple(indices)[:1]
        self.counts = bool(share)

    def __len__(self) -> int:
        """Return the number of images of this rank."""
        return len(self.shard)

    def __iter__(self) -> Iterator[int]:
        """Yield the images of this rank, in order."""
        return iter(self.shard)


class UnscoredSamples(Dataset[Sample]):
    """A data set's samples without a labelled pixel and without a name: whatever is found there, nothing counts it.

    Args:
        dataset: Where the samples come from.
    """

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample:
        """Return the sample at an index, all 255 and none valid."""
        sample = self.dataset[index]
        mask = torch.full_like(sample["mask"], IGNORE_INDEX)
        return {**sample, "mask": mask, "valid": torch.zeros_like(sample["valid"]), "id": ""}


class Loader(DataLoader[Sample]):
    """A `DataLoader` whose workers hand a `UserError` on as its one line, without their traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches.

        Raises:
            UserError: A sample could not be read.
        """
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from error


class StreamLoader(Loader):
    """Batches of a stream, with a position that can be stored and restored.

    The position counts the batches that were handed out, not those that workers fetched ahead. Each pass goes
    on where the last one ended: the next batch after a whole epoch is the first of the next epoch.

    Args:
        stream: What to load.
        batch_size: B, samples per batch and process.
        rank: Number of this process.
        world_size: Number of processes.
        num_workers: Worker processes; 0 loads in this one. The batches are the same.
        batches_per_epoch: See `StreamSampler`.
        **kwargs: Further arguments of `torch.utils.data.DataLoader`.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        **kwargs: Any,
    ) -> None:
        self.position = 0
        self.order = StreamSampler(stream, batch_size, rank, world_size, batches_per_epoch)
        super().__init__(stream, batch_size=batch_size, sampler=self.order, **worker_options(num_workers), **kwargs)

    def __len__(self) -> int:
        """Return the number of batches of a whole epoch."""
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield batches from the position to the end of its epoch, counting them."""
        self.order.start_batch = self.position
        for batch in super().__iter__():
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Return ``{"position": number of batches handed out}``."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Set the position; the next pass starts there."""
        self.position = int(state_dict["position"])


def worker_options(num_workers: int) -> dict[str, Any]:
    """Return the `DataLoader` arguments that all loaders here share.

    The generator is the loader's own: the default would draw from the global random state at each pass, and
    so shift every later draw of the model.

    Args:
        num_workers: Worker processes, at least 0.
    """
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "worker_init_fn": _one_thread,
        "generator": torch.Generator(),
        "pin_memory": torch.cuda.is_available(),
    }


def _one_thread(worker: int) -> None:
    # OpenCV would start a thread per core in each worker, be it loaded already or by the first sample
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)


def _hash(*key: int) -> int:
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])


@functools.lru_cache(maxsize=4)
def _permutation(seed: int, stage: int, epoch: int, length: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, _ORDER, stage, epoch]).permutation(length)
