"""What all data modules share: the class split, the cut for validation, dropped images and the loaders."""

import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import compress
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_lightning import LightningDataModule
from pytorch_lightning.trainer.states import TrainerFn
from torch.utils.data import Dataset

from sign_zs3.data.datasets.base import Part, Sample, Samples, SegmentationDataset, content_hash
from sign_zs3.data.datasets.features import FeatureDataset, View
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.numbering import look_at_masks
from sign_zs3.data.shares import in_shares
from sign_zs3.data.stream import (
    Loader,
    LoaderPlan,
    OnHost,
    ShardSampler,
    Stream,
    StreamLoader,
    UnscoredSamples,
    collate,
    repeat_factors,
    worker_options,
)
from sign_zs3.errors import UserError, check_at_least, check_choice
from sign_zs3.protocol import Protocol

log = logging.getLogger(__name__)

_OF_THE_CUT = ("val_fraction", "val_size", "test_fraction", "seed", "unseen_pixels", "development", "repeat_threshold")


class ZeroShotDataModule(LightningDataModule, ABC):
    """Base of the data modules. Subclasses bring the class split and say how a split of the images is read.

    Training masks hide unseen classes, test masks show them. Validation images are a seeded cut of the training list
    (or a split of their own, see `own_validation`) and hide unseen classes too, since nobody may use those labels;
    under `development` the classes that play the unseen ones are truly seen, so validation shows them, and takes the
    place of the test images.

    Args:
        protocol: The class split.
        batch_size: Training samples per process and step.
        eval_batch_size: Evaluation samples per batch; more than 1 needs images of one size.
        num_workers: Worker processes per loader. Null: beside a GPU the machine's cores, shared among its GPUs, but at
            most 8; otherwise 2.
        seed: Decides the cut, the order, the augmentation and the `development` draw; at least 0.
        unseen_pixels: ``"ignore"`` sets unseen pixels of training images to 255; ``"drop"`` also leaves out every image
            that holds one, until self-training reads it with all pixels unlabelled.
        development: Choose hyperparameters with this many seen classes as unseen (0: the true split).
        val_fraction: Share of the training list that is cut off for validation; 0 for no validation.
        repeat_threshold: Seen classes in less than this share of the training images come more often, see
            `sign_zs3.data.stream.repeat_factors`; 0 leaves each image as likely. All masks are read before training.

    Attributes:
        protocol: The class split; under `development` the one that takes its place.
        plan: What the task says of its run, see `follow`.

    Raises:
        UserError: An option is out of range or names no class.
    """

    check_files: bool = True
    """Refuse faults of the lists and missing files at `setup`; False only while somebody looks for all of them."""
    own_validation: bool = False
    """True where `make_dataset` knows a split ``"val"`` apart from the training list: then nothing is cut."""
    has_masks: bool = True
    """False where images have none, and nothing can be learnt but by self-training."""
    known_numbering: bool = False
    """True where masks are numbered as a published data set's, so that others are refused."""

    def __init__(
        self,
        protocol: Protocol,
        *,
        batch_size: int = 8,
        eval_batch_size: int = 1,
        num_workers: int | None = None,
        seed: int = 0,
        unseen_pixels: Literal["ignore", "drop"] = "ignore",
        development: int = 0,
        val_fraction: float = 0.05,
        repeat_threshold: float = 0.0,
    ) -> None:
        super().__init__()
        check_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        check_at_least(0, num_workers=num_workers or 0, seed=seed, development=development)
        if not 0 <= val_fraction < 1:
            raise UserError(f"val_fraction: found {val_fraction}, expected at least 0 and below 1; correct it")
        if not 0 <= repeat_threshold <= 1:
            raise UserError(f"repeat_threshold: found {repeat_threshold}, expected a share of the images, in [0, 1]")
        check_choice("unseen_pixels", unseen_pixels, "ignore", "drop")
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.unseen_pixels = unseen_pixels
        self.development = development
        self.val_fraction = val_fraction
        self.repeat_threshold = repeat_threshold
        self.protocol = protocol.development(development, seed) if development else protocol
        self.train_set: SegmentationDataset | None = None
        self.val_set: SegmentationDataset | None = None
        self.test_set: SegmentationDataset | None = None
        self.train_indices: tuple[int, ...] = ()
        self.dropped_indices: tuple[int, ...] = ()
        self.val_indices: tuple[int, ...] = ()
        self.repeats: NDArray[np.float64] | None = None
        self.plan = LoaderPlan()
        self._with_maps: dict[int, FeatureDataset] = {}

    @abstractmethod
    def make_dataset(self, split: Part, *, hide_unseen: bool, augment: bool) -> SegmentationDataset:
        """Return a split under `protocol`; check lists and files first.

        Args:
            split: ``"val"`` is asked for only where `own_validation` is True.
            hide_unseen: Turn unseen classes into 255.
            augment: Use the training transform, else the evaluation transform.

        Raises:
            UserError: A root, list, image or mask is missing.
        """

    def setup(self, stage: str | None = None) -> None:
        """Read the lists for a Trainer's stage, None for all, and check that every file is there, before any training.

        Raises:
            UserError: A root, list, image or mask is missing, no image is left to train on, or the training masks are
                numbered otherwise than the classes or show no seen class (see `look_at_masks`).
        """
        if self.test_set is None and not self.development:
            # checked by `fit` too, which ends with the test scores
            self.test_set = self.make_dataset("test", hide_unseen=False, augment=False)
            self._take_colours(self.test_set)
            log.info("test images: %d", len(self.test_set))
        if stage in ("test", "predict") and not self.development:
            return
        if self.train_set is None:
            self.train_set = self._prepared()
        if not self.val_indices and (self.development or stage == "validate"):
            option = "val_size, or a list of them" if self.own_validation else "val_fraction 0.2"
            raise UserError(f"validation images: found none, expected some to score: give --data.{option}")

    def _prepared(self) -> SegmentationDataset:
        """Return the training images, once they are cut, looked at and counted."""
        train_set = self.make_dataset("train", hide_unseen=True, augment=True)
        self._take_colours(train_set)
        self.val_set = self.make_dataset(
            "val" if self.own_validation else "train", hide_unseen=self.development == 0, augment=False
        )
        if self.own_validation:
            self.train_indices, self.val_indices = tuple(range(len(train_set))), tuple(range(len(self.val_set)))
        else:
            self.train_indices, self.val_indices = self._cut(len(train_set))
        log.info("training images: %d, validation images: %d", len(self.train_indices), len(self.val_indices))
        if self.development:
            # hyperparameters are chosen on this split: its scores must not be those of test images
            self.test_set = self.val_set
        if self.unseen_pixels == "drop":
            self._drop(train_set)
        else:
            log.info("unseen_pixels=ignore: training hides unseen pixels; train/hidden_pixels counts them")
        if self.has_masks:
            look_at_masks(train_set, self.train_indices, self.known_numbering)
        if self.repeat_threshold:
            self._repeat(train_set)
        return train_set

    def _take_colours(self, dataset: SegmentationDataset) -> None:
        """Take the colours of the masks for pictures and checkpoints; the first data set that has any decides."""
        if not self.protocol.palette:
            self.protocol = replace(self.protocol, palette=dataset.protocol.palette)

    def follow(self, plan: LoaderPlan) -> None:
        """Make the loaders that are asked for from now on as a run needs them.

        Before a loader of feature maps is returned, the maps that it needs and the cache lacks are computed in this
        process; of several processes, each computes its share.

        Raises:
            UserError: After `setup` for training: maps cannot be augmented as the options say.
        """
        self.plan = plan
        self._with_maps = {}
        if plan.maps is not None and self.train_set is not None:
            # better now than after the maps of the validation images
            self.feature_view(self.train_set, True, plan.maps.strides[-1], plan.maps.extra)

    def state_dict(self) -> dict[str, Any]:
        """Return what says which images train and which validate, for a checkpoint; nothing before `setup` for both."""
        if self.train_set is None or self.val_set is None:
            return {}
        sets = {"training": (self.train_set, self.train_indices), "validation": (self.val_set, self.val_indices)}
        images = {name: [dataset.name(i) for i in indices] for name, (dataset, indices) in sets.items()}
        options = {name: getattr(self, name) for name in _OF_THE_CUT if hasattr(self, name)}
        if self.repeats is not None:
            images["training"] = [
                f"{name} {each:.6f}" for name, each in zip(images["training"], self.repeats, strict=True)
            ]
        return {"options": options, **{name: content_hash("\n".join(of).encode()) for name, of in images.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the images with those of a run that is resumed.

        Raises:
            UserError: Other images train or validate now: some of those that were trained on might validate.
        """
        trainer = self.trainer
        if trainer is None or trainer.state.fn != TrainerFn.FITTING:
            return
        mine = self.state_dict()
        if all(state_dict.get(name) == mine.get(name) for name in ("training", "validation")):
            return
        before, now = state_dict.get("options", {}), mine.get("options", {})
        changed = [f"{k} {now[k]!r} instead of {before[k]!r}" for k in now if k in before and now[k] != before[k]]
        raise UserError(
            f"data: found other training or validation images than the run that is resumed had "
            f"({', '.join(changed) or 'its lists or folders have changed'}), expected the same; give its data and "
            "options, or start a new run from its weights by init_from"
        )

    def teardown(self, stage: str) -> None:
        """Forget the run's plan: the next model may be another one."""
        self.follow(LoaderPlan())

    def feature_view(self, dataset: SegmentationDataset, augment: bool, stride: int, extra: int) -> View:
        """Return how images are encoded and maps are cropped, instead of the data set's transform.

        This one takes images as they are, mirrored or not; override it where `make_dataset` gives other transforms.

        Args:
            dataset: What `make_dataset` made, with at least one image.
            augment: Whether it was made with the training transform.
            stride: Pixels per cell of the coarsest map.
            extra: Of the cache, see `FeatureCache`.

        Raises:
            UserError: Cached maps cannot stand in for what the transform makes of the images.
        """
        if dataset.transform is None:
            return View()
        image = torch.from_numpy(np.ascontiguousarray(dataset.read(0)[0].transpose(2, 0, 1)))
        for seed in range(4):
            found = dataset.sample(0, seed)["image"]
            if not torch.equal(found, image) and not torch.equal(found, image.flip(-1)):
                raise UserError(
                    f"feature_cache: found {type(self).__name__}, whose transform changes images, expected data whose "
                    "images are mirrored at most; leave feature_cache out"
                )
        return View(flip=0.5 if augment else 0.0)

    def train_dataloader(self) -> StreamLoader:
        """Return the training loader, which carries its position in a ``state_dict``; see `follow`."""
        rank, world_size = self._rank()
        plan, dataset = self.plan, _ready(self.train_set)
        joining = None if plan.unlabelled_from is None else plan.unlabelled_from * self.batch_size * world_size
        extra = () if joining is None else self.dropped_indices
        samples: Samples = dataset
        if plan.maps is not None:
            samples = maps = self._maps(dataset, plan.maps, augment=True)
            needed = self.train_indices + extra
            in_shares(lambda rank, count: maps.fill(needed[rank::count], progress=rank == 0), rank, world_size)
            if torch.distributed.is_initialized():
                # the names of all, and on a machine with a disk of its own the maps that others computed
                maps.fill(needed)
        stream = Stream(
            samples, self.train_indices, self.seed, extra=extra, extra_from=joining, compact=self.trainer is not None,
            repeats=self.repeats,
        )  # fmt: skip
        return StreamLoader(
            stream, self.batch_size, rank, world_size, self._workers(), plan.batches, position=plan.position
        )

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Keep what the host will ask of a training batch, before the batch is on the device."""
        trains = self.trainer is not None and self.trainer.training
        return {**batch, "host": OnHost(batch)} if trains else batch

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Widen masks to int64 on the device: training masks travel there as uint8."""
        mask = batch["mask"].long()
        if "host" in batch:
            batch["host"].sent(mask)
        return {**batch, "mask": mask}

    def val_dataloader(self) -> Loader | list[Loader]:
        """Return the loader of the validation images; an empty list where there are none."""
        return self._evaluation(_ready(self.val_set), self.val_indices) if self.val_indices else []

    def test_dataloader(self) -> Loader:
        """Return the loader of the test images, unseen classes shown."""
        test_set = _ready(self.test_set)
        return self._evaluation(test_set, self.val_indices if self.development else range(len(test_set)))

    def predict_dataloader(self) -> Loader:
        """Return the loader of the test images."""
        return self.test_dataloader()

    def _evaluation(self, dataset: SegmentationDataset, indices: Sequence[int]) -> Loader:
        rank, world_size = self._rank()
        sampler = ShardSampler(indices, rank, world_size)
        samples: Dataset[Sample] = dataset
        if self.plan.maps is not None:
            samples = maps = self._maps(dataset, self.plan.maps, augment=False)
            in_shares(lambda *_: maps.fill(sampler.shard, progress=rank == 0), rank, world_size)
        if not sampler.counts:
            samples = UnscoredSamples(samples)
        options = worker_options(self._workers())
        # all by name: Lightning makes the loader anew, with its arguments by name
        return Loader(samples, batch_size=self.eval_batch_size, sampler=sampler, collate_fn=collate, **options)

    def _maps(self, dataset: SegmentationDataset, cache: FeatureCache, augment: bool) -> FeatureDataset:
        """Return the samples with maps for images, the same object each time: it remembers masks."""
        if id(dataset) not in self._with_maps:
            view = self.feature_view(dataset, augment, cache.strides[-1], cache.extra)
            self._with_maps[id(dataset)] = FeatureDataset(dataset, cache, view)
        return self._with_maps[id(dataset)]

    def _rank(self) -> tuple[int, int]:
        """Return the number of this process and how many there are."""
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        if self.trainer is None or self.trainer.strategy.root_device.type == "cpu":
            return 2
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return max(1, min(8, cores // self.trainer.num_devices))

    def _cut(self, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Cut the training list into (training, validation), both sorted."""
        count = max(1, round(length * self.val_fraction)) if self.val_fraction > 0 else 0
        if count >= length:
            raise UserError(
                f"val_fraction: found {self.val_fraction} of {length} training images, which leaves none to train on; "
                "lower it or add images"
            )
        order = np.random.default_rng([self.seed, length]).permutation(length).tolist()
        return tuple(sorted(order[count:])), tuple(sorted(order[:count]))

    def _held(self, dataset: SegmentationDataset) -> NDArray[np.bool_]:
        """Read which classes each training image holds, (N, K); each rank reads its share of the masks."""

        def held(rank: int, count: int) -> NDArray[np.bool_]:
            with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
                share = list(pool.map(dataset.held, self.train_indices[rank::count]))
            return np.array(share, np.bool_).reshape(-1, classes)  # also of a rank for which no image is left

        classes = self.protocol.num_classes
        shares = in_shares(held, *self._rank())
        found = np.empty((len(self.train_indices), classes), np.bool_)
        for rank, share in enumerate(shares):
            found[rank :: len(shares)] = share
        return found

    def _repeat(self, dataset: SegmentationDataset) -> None:
        """Let images of rare seen classes come more often."""
        held = self._held(dataset)[:, : self.protocol.num_seen]
        self.repeats = repeat_factors(held, self.repeat_threshold)
        rarest = int(np.where(held.any(axis=0), held.sum(axis=0), len(held) + 1).argmin())
        log.info(
            "repeat_threshold=%g: an epoch has %d samples of %d images, up to %.1f of one; the rarest, %s, is in %d",
            self.repeat_threshold, math.ceil(self.repeats.sum()), len(held), self.repeats.max(),
            self.protocol.classes[rarest], held[:, rarest].sum(),
        )  # fmt: skip

    def _drop(self, dataset: SegmentationDataset) -> None:
        """Leave out the training images that hold an unseen class."""
        indices, held = self.train_indices, self._held(dataset)[:, self.protocol.num_seen :]
        dropped = np.asarray(held.any(axis=1))
        self.train_indices = tuple(compress(indices, ~dropped))
        self.dropped_indices = tuple(compress(indices, dropped))
        left_out, of = len(self.dropped_indices), len(indices)
        log.info("unseen_pixels=drop: %d of %d training images hold an unseen class and are left out", left_out, of)
        if not self.train_indices:
            raise UserError(
                f"unseen_pixels: found 'drop', but all {len(indices)} training images hold an unseen class; use "
                "'ignore' or name other unseen classes"
            )


def _ready(dataset: SegmentationDataset | None) -> SegmentationDataset:
    if dataset is None:
        raise RuntimeError("call setup() before asking for a loader")
    return dataset
