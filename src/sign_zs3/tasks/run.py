"""What a task asks of the data module and of its schedule before a run, and what it tells the loaders."""

import hashlib
import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.stream import LoaderPlan
from sign_zs3.errors import UserError
from sign_zs3.models.backbones.build import CLIP
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.evaluation import FEATURE_RESOLUTION_SIZE
from sign_zs3.tasks.schedule import Schedule

log = logging.getLogger(__name__)


def protocol_of(trainer: pl.Trainer) -> Protocol:
    """Return the class protocol of a trainer's data module; a `UserError` where there is none."""
    protocol = getattr(getattr(trainer, "datamodule", None), "protocol", None)
    if not isinstance(protocol, Protocol):
        raise UserError(
            "data: found no data module with a class protocol: pass one, as in Trainer().fit(model, VOCDataModule(...))"
        )
    return protocol


def check_data(data: object, hparams: Mapping[str, Any]) -> None:
    """Refuse a data module with which images would be resized twice, or that cannot crop the maps of a cache."""
    eval_size = getattr(data, "eval_size", None)
    if hparams["resolution"] == "feature" and eval_size not in (None, FEATURE_RESOLUTION_SIZE[0]):
        raise UserError(
            f"eval_size: found {eval_size} with resolution 'feature', which warps to {FEATURE_RESOLUTION_SIZE[0]} "
            "itself, so that images would be resized twice; leave eval_size out"
        )
    if hparams["feature_cache"] is not None and not isinstance(data, ZeroShotDataModule):
        raise UserError(
            f"feature_cache: found a {type(data).__name__}, expected a ZeroShotDataModule, which can crop maps: "
            "set feature_cache to null"
        )


def check_schedule(schedule: Schedule, protocol: Protocol, pseudo_top_p: int) -> None:
    """Refuse phases that have no unseen class to learn, and a `pseudo_top_p` above the number of classes."""
    if not protocol.unseen and {"transfer", "self_training"} & {phase.kind for phase in schedule.phases}:
        raise UserError(
            "unseen: found no unseen class, which transfer and self_training are for: name some, or set phases to "
            "[train]"
        )
    if pseudo_top_p > protocol.num_classes:
        expected = f"at most the {protocol.num_classes} classes of the data (0 counts all pseudo-labels)"
        raise UserError(f"pseudo_top_p: found {pseudo_top_p}, expected {expected}")


def check_ready(schedule: Schedule, known: Tensor) -> None:
    """Refuse self-training with a C that was never taught all classes; `known` (C,) bool are those it was."""
    kinds = [phase.kind for phase in schedule.phases]
    if "self_training" in kinds and "transfer" not in kinds and not bool(known.all()):
        raise UserError(
            "phases: self_training found a classifier that was never taught the unseen classes: add transfer, or give "
            "a transferred checkpoint with init_from"
        )


def compile_networks(graphs: bool, *segmenters: Segmenter | None) -> None:
    """Compile encoders and spatial modules in place; random numbers stay as without compilation.

    With `graphs`, what they run on a GPU in training is recorded and replayed; that needs `GraphSteps`.
    """
    for segmenter in filter(None, segmenters):
        for part in (segmenter.encoder, segmenter.spatial):
            # sizes that vary, of which torch learns in validation, would not be recorded
            dynamic = False if graphs else None
            part.compile(dynamic=dynamic, options={"fallback_random": True, "triton.cudagraphs": graphs})


class GraphSteps(pl.Callback):
    """Keeps CUDA graphs to the batches of a training, and tells torch where each begins.

    Nothing that a graph computed is read in a later batch. Without that word torch takes each call of a compiled
    network for a new batch where no backward pass follows, and refuses the encoder's maps to the spatial module.
    """

    def on_train_batch_start(self, *_: Any) -> None:
        """Let all that was computed be overwritten."""
        torch.compiler.set_stance("default")
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]

    def on_train_batch_end(self, *_: Any) -> None:
        """Run everything else as it is: images to be labelled have many sizes."""
        torch.compiler.set_stance("force_eager")

    def on_fit_start(self, *_: Any) -> None:
        """Run what comes before the first batch as it is."""
        self.on_train_batch_end()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Leave networks that are not compiled."""
        torch.compiler.set_stance("default")
        for part in pl_module.modules():
            part._compiled_call_impl = None

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Leave networks that are not compiled."""
        self.teardown(trainer, pl_module, "fit")


def callbacks(trainer: pl.Trainer, how: bool | str) -> list[pl.Callback]:
    """Return what a way to compile needs beside the trainer's callbacks."""
    known = any(isinstance(callback, GraphSteps) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    return [GraphSteps()] if how == "cudagraphs" and not known else []


def feature_cache(segmenter: Segmenter, hparams: Mapping[str, Any]) -> FeatureCache | None:
    """Return the cache of a frozen backbone's maps, or None where the options ask for none or for other views."""
    if hparams["feature_cache"] is None:
        return None
    if hparams["flip"] or list(hparams["scales"]) != [1.0] or hparams["resolution"] == "feature":
        log.info("feature_cache: not used, since flip, scales and feature resolution read other views of the images")
        return None

    def encode(images: Tensor) -> tuple[Tensor, ...]:
        return segmenter.maps(images.to(segmenter.image_mean.device))

    key = partial(_fingerprint, segmenter, hparams)
    return FeatureCache(
        hparams["feature_cache"], key, encode, segmenter.encoder.strides, segmenter.encoder.places.extra
    )


def loader_plan(segmenter: Segmenter, schedule: Schedule, hparams: Mapping[str, Any]) -> LoaderPlan:
    """Return how long a run is, where it stands, and whether samples are maps of a cache."""
    cache = feature_cache(segmenter, hparams)
    return LoaderPlan(schedule.total_batches, schedule.batches, schedule.first_batch("self_training"), cache)


def _fingerprint(segmenter: Segmenter, hparams: Mapping[str, Any]) -> str:
    """Hash everything but the image that the cached maps depend on."""
    encoder, name = segmenter.encoder, hparams["backbone"]
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        repr((name, hparams["backbone_levels"], hparams["output_stride"], encoder.strides, encoder.places)).encode()
    )
    if name.startswith(CLIP):
        digest.update(hparams["dense"].encode())
    state = {**encoder.backbone.state_dict(), "mean": segmenter.image_mean, "std": segmenter.image_std}
    for entry, value in state.items():
        digest.update(entry.encode())
        # as bytes, since NumPy has no bfloat16
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return f"{name.replace('/', '-')}-{digest.hexdigest()}"
