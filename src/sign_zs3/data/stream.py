"""Which samples come when: a counter-based order for training, and loaders, which go on at any position of it.

A seed and a position say which image comes and how it is augmented. No random state is kept: a run that is resumed,
with any number of workers, sees the samples of one never stopped. Evaluation reads each image exactly once.
"""

import math
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

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

    Positions 0..n-1 are a permutation of the n images, n..2n-1 another one, and so on. With `repeats` an epoch is
    longer: image i is in it r_i times on average, and at least floor(r_i) times.

    Args:
        dataset: Where the images come from.
        indices: The images of the pool, at least one.
        seed: Decides order and augmentation, at least 0.
        extra: Images that join later, with every mask pixel 255: with `unseen_pixels: drop`, self-training still reads
            the images that training left out.
        extra_from: First position of the larger pool; None: never.
        compact: Leave masks at uint8 (see `SegmentationDataset.sample`).
        repeats: The factor r_i of each of the images, at least 1 (see `repeat_factors`); None: 1.

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
        repeats: Sequence[float] | NDArray[np.float64] | None = None,
    ) -> None:
        if not indices:
            raise UserError("training images: found none, expected at least one; check the lists and `unseen_pixels`")
        self.dataset = dataset
        self.indices = tuple(indices)
        self.seed = seed
        self.extra = tuple(extra)
        self.extra_from = extra_from if self.extra else None
        self.compact = compact
        self.repeats = np.ones(len(self.indices)) if repeats is None else np.array(repeats, np.float64)
        self._length: int = math.ceil(float(self.repeats.sum()))
        self._order: tuple[int, int, NDArray[np.int64]] | None = None  # of the last stage and epoch

    def __len__(self) -> int:
        """Return the length of an epoch of the pool without `extra`; positions go on beyond it."""
        return self._length

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
        stage, start, length = 0, 0, len(self)
        if self.extra_from is not None and position >= self.extra_from:
            stage, start, length = 1, self.extra_from, length + len(self.extra)
        epoch, offset = divmod(position - start, length)
        if self._order is None or self._order[:2] != (stage, epoch):
            self._order = stage, epoch, self._draw_order(stage, epoch)
        place = int(self._order[2][offset])
        if place < len(self.indices):
            return self.indices[place], True
        return self.extra[place - len(self.indices)], False

    def _draw_order(self, stage: int, epoch: int) -> NDArray[np.int64]:
        """Draw the places in the pool of an epoch, each r times on average: systematic sampling of a shuffled list."""
        rng = np.random.default_rng([self.seed, _ORDER, stage, epoch])
        extra = len(self.extra) if stage else 0
        order = rng.permutation(len(self.indices) + extra)
        if len(self) == len(self.indices):
            return order
        # an epoch has whole samples: all factors grow by the same little
        factors = np.concatenate([self.repeats * (len(self) / self.repeats.sum()), np.ones(extra)])[order]
        start = rng.random()
        ends = np.floor(start + np.cumsum(factors)).astype(np.int64)
        ends[-1] = len(self) + extra  # without rounding errors
        return rng.permutation(np.repeat(order, ends - np.concatenate([[0], ends[:-1]])))


def repeat_factors(held: NDArray[np.bool_], threshold: float) -> NDArray[np.float64]:
    """Return how often each image is to come in an epoch, so that images of rare classes come more often.

    r_i = max over the classes c of image i of max(1, sqrt(t / f_c)), where f_c is the share of images that hold c: a
    class in a share t of the images or more does not count (Gupta et al., LVIS, CVPR 2019, section 4).

    >>> repeat_factors(np.array([[1, 0], [1, 0], [1, 0], [1, 1]], np.bool_), threshold=1).tolist()
    [1.0, 1.0, 1.0, 2.0]

    `held` (N, K) says whether an image holds a class, and `threshold` is t in [0, 1]; the result is (N,), at least 1,
    and 1 for all where t is 0.
    """
    shares = held.mean(axis=0)
    of_class = np.sqrt(threshold / np.where(shares > 0, shares, 1))
    factors: NDArray[np.float64] = np.where(held, np.maximum(of_class, 1), 1.0).max(axis=1, initial=1.0)
    return factors


class StreamSampler(DistributedSampler[int]):
    """Positions of one rank: batch b of rank r holds (b R + r) B + j for j = 0..B-1.

    One pass goes from `start_batch` to the end of the epoch that holds it. It is a `DistributedSampler` so that
    Lightning leaves it in place.

    Args:
        stream: What the positions address.
        batch_size: B, samples per batch and rank.
        rank: r, number of this process, of R = `world_size`.
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
        end = (self.start_batch // self.batches_per_epoch + 1) * self.batches_per_epoch
        for batch in range(self.start_batch, end):
            first = (batch * self.num_replicas + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


class ShardSampler(DistributedSampler[int]):
    """Every R-th index, unpadded: over all R ranks each image is evaluated exactly once.

    Shards may differ in length, so nothing collective may happen per batch. A rank for which nothing is left has the
    first image, as `UnscoredSamples`: Lightning skips an empty loader, and all that is collective after it.
    """

    def __init__(self, indices: Sequence[int], rank: int = 0, world_size: int = 1) -> None:
        super().__init__(cast(Dataset[int], indices), num_replicas=world_size, rank=rank, shuffle=False)
        share = tuple(indices)[rank::world_size]
        self.shard = share or tuple(indices)[:1]
        self.counts = bool(share)

    def __len__(self) -> int:
        return len(self.shard)

    def __iter__(self) -> Iterator[int]:
        return iter(self.shard)


class OnHost:
    """What the host keeps of a batch that goes to a device, so that it need not wait for the device to know it.

    No tuple and no dataclass: Lightning would send what is in one to the device, too.

    Attributes:
        mask: (N, H, W), integers, as in the batch.
        ignored: Pixels without a known class, padding left out; 0 where the batch does not say what is padding.
        hidden: Pixels of unseen classes.
        any_labelled: Whether any pixel has a label.
    """

    def __init__(self, batch: Mapping[str, Any]) -> None:
        self.mask: Tensor = batch["mask"].cpu()
        labelled = self.mask != IGNORE_INDEX
        self.ignored = int((~labelled & batch["valid"].cpu()).sum()) if "valid" in batch else 0
        self.hidden = int(batch["hidden"].sum())
        self.any_labelled = bool(labelled.any())
        self._sent: tuple[Tensor, int] | None = None

    def sent(self, mask: Tensor) -> None:
        """Remember the mask of the batch as it arrived."""
        self._sent = mask, mask._version

    def is_of(self, mask: Tensor) -> bool:
        """Whether a batch's mask is the one that arrived, not changed or replaced since."""
        return self._sent is not None and self._sent[0] is mask and self._sent[1] == mask._version


class UnscoredSamples(Dataset[Sample]):
    """A data set's samples, all 255, none valid and without names: no score counts what is found there."""

    def __init__(self, dataset: Dataset[Sample]) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Sample:
        sample = self.dataset[index]
        mask = torch.full_like(sample["mask"], IGNORE_INDEX)
        return {**sample, "mask": mask, "valid": torch.zeros_like(sample["valid"]), "id": ""}


class Loader(DataLoader[Sample]):
    """A `DataLoader` whose workers hand a `UserError` on as its one line, without their traceback."""

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except UserError as error:
            raise UserError(str(error).rsplit("UserError: ", 1)[-1].strip()) from error


class StreamLoader(Loader):
    """Batches of a stream, with a position that can be stored and restored.

    The position counts the batches that were handed out, not those that workers fetched ahead. Each pass goes on where
    the last one ended: the next batch after a whole epoch is the first of the next epoch.

    Args:
        num_workers: Worker processes; 0 loads in this one. The batches are the same.
        position: Batches that were handed out before; see `StreamSampler` for the others.
    """

    def __init__(
        self,
        stream: Stream,
        batch_size: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        batches_per_epoch: int | None = None,
        position: int = 0,
    ) -> None:
        self.position = position
        self.order = StreamSampler(stream, batch_size, rank, world_size, batches_per_epoch)
        super().__init__(stream, batch_size=batch_size, sampler=self.order, **worker_options(num_workers))

    def __len__(self) -> int:
        return self.order.batches_per_epoch

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
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

    The generator is the loader's own: the default would draw from the global random state at each pass, and so shift
    every later draw of the model.
    """
    return {
        "num_workers": num_workers,
        "persistent_workers": num_workers > 0,
        "worker_init_fn": _start_worker,
        "generator": torch.Generator(),
        "pin_memory": torch.cuda.is_available(),
    }


def collate(samples: list[Sample]) -> Any:
    """Stack the samples of an evaluation batch; a UserError where they differ in size."""
    # of the mask, since there may be maps and no image
    shapes = {sample["id"]: tuple(sample["mask"].shape) for sample in samples}
    if len(set(shapes.values())) > 1:
        found = ", ".join(f"{name} {height} x {width}" for name, (height, width) in shapes.items())
        raise UserError(
            f"eval_batch_size: found {len(samples)} with images of different sizes ({found}), which cannot be stacked; "
            "set eval_batch_size to 1 or give an evaluation size"
        )
    return default_collate(samples)


def _start_worker(worker: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the main one decides when to stop, and needs batches until then
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # OpenCV, whether loaded already or by the first sample, would start a thread per core in each worker
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)
