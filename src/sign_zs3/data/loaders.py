"""Loaders: training goes on at any position of its stream, evaluation reads each image exactly once."""

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler, default_collate

from sign_zs3.data.datasets.base import Sample
from sign_zs3.data.stream import Stream
from sign_zs3.errors import UserError
from sign_zs3.protocol import IGNORE_INDEX


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
        "worker_init_fn": _one_thread,
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


def _one_thread(worker: int) -> None:
    # OpenCV, whether loaded already or by the first sample, would start a thread per core in each worker
    os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
    if cv2 := sys.modules.get("cv2"):
        cv2.setNumThreads(0)
