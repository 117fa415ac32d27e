"""What the methods share: E, a spatial module and C; the supervised step; self-training on pseudo-labels."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
import shutil
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.data.features import FeatureCache
from sign_zs3.errors import UserError
from sign_zs3.functional import annealed_weights, confident_fraction, gaussian_kl, within_top
from sign_zs3.models.config import IMAGENET_MEAN, IMAGENET_STD, SegmenterConfig
from sign_zs3.models.segmenter import KeptFeatures, Segmenter
from sign_zs3.models.spatial.sim import SpatialFeatures
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.checks import check_choice, check_not_negative, check_positive, check_range
from sign_zs3.tasks.evaluation import Batch
from sign_zs3.tasks.schedule import Phase, Schedule

log = logging.getLogger(__name__)

FEATURES = 1
"""To be raised when heads or spatial modules make other features of the same weights: kept ones are then not read."""


class SelfTrainingTask(ZeroShotTask):
    """Base of the methods: trains E, a spatial module and C on seen classes, then on pseudo-labels of its own.

    A subclass says what stands in the spatial module's and C's place, and has the option `alpha` where the spatial
    module learns a latent.

    Args:
        backbone: See `build_backbone`.
        weights: Backbone weights, see `build_backbone`.
        output_stride: Of the backbone, see `build_backbone`.
        freeze_batch_norm: See `Encoder`.
        freeze_encoder: Keep the whole backbone as it is; its head still trains.
        feature_cache: Folder for the maps of a frozen backbone, which are then computed once per image, or where
            `phases` is ``[transfer]`` alone for F itself, which nothing in this step changes; null keeps none. Crops
            are cut out of the maps of whole images. With flip, scales or feature resolution images are read all the
            same.
        head: ``deeplab``, ``fcn``, ``fcn16`` or ``unet``, see `build_head`.
        backbone_levels: Modules of a ``timm/`` backbone that are its levels, see `build_backbone`.
        dilations: Of the ``deeplab`` head.
        input_scales: Scales at which the encoder reads an image; the published code uses 1, 0.75, 0.5.
        channels_last: Keep the encoder's weights and maps as (N, H, W, C) in memory, which suits tensor cores.
        compile: Train with `torch.compile` of the encoder and the spatial module; the first iterations take minutes.
        image_mean: RGB mean of images in [0, 1].
        image_std: RGB standard deviation of images in [0, 1].
        phases: Kinds of phase to run; null runs all that have iterations.
        train_iterations: Length of the training step.
        self_training_iterations: Length of a round of self-training.
        self_training: ``annealed`` (eq. 17), ``top_fraction`` (the most confident pseudo-labels, weight 1) or ``none``.
        rounds: Rounds of self-training, the teacher renewed before each.
        accumulate: Batches per iteration.
        lr: SGD rate of the encoder's backbone in the training step (spatial module 5x, heads 10x, biases 20x).
        lr_self_training: The same in self-training.
        momentum: Of SGD.
        weight_decay: Of SGD (biases of new heads go without) and of D.
        temperature: T of eq. 17.
        top_fraction: Fraction of pseudo-labels kept by ``top_fraction``, per image.
        pseudo_classes: ``unseen`` gives an ignored pixel its best unseen class; ``all`` its best class.
        pseudo_top_p: A pseudo-label counts only where it ranks within the top p of all logits (CaGNet's rule); 0
            counts all.
        **kwargs: Further options of `ZeroShotTask`.
    """

    architecture: ClassVar[tuple[str, ...]] = (
        "backbone", "backbone_levels", "output_stride", "head", "dilations", "input_scales", "image_mean", "image_std",
    )  # fmt: skip

    def __init__(
        self,
        backbone: str = "resnet101",
        weights: str | None = None,
        output_stride: int = 8,
        freeze_batch_norm: bool | None = None,
        freeze_encoder: bool = False,
        feature_cache: str | None = None,
        head: Literal["deeplab", "fcn", "fcn16", "unet"] = "deeplab",
        backbone_levels: list[str] | None = None,
        dilations: list[int] = [6, 12, 18, 24],  # noqa: B006 (never changed; lists are what YAML gives)
        input_scales: list[float] = [1.0],  # noqa: B006
        channels_last: bool = False,
        compile: bool = False,
        image_mean: list[float] = list(IMAGENET_MEAN),  # noqa: B006
        image_std: list[float] = list(IMAGENET_STD),  # noqa: B006
        phases: list[str] | None = None,
        train_iterations: int = 20_000,
        self_training_iterations: int = 6_000,
        self_training: Literal["annealed", "top_fraction", "none"] = "annealed",
        rounds: int = 1,
        accumulate: int = 1,
        lr: float = 2.5e-4,
        lr_self_training: float = 2.5e-4,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        temperature: float = 2.0,
        top_fraction: float = 0.75,
        pseudo_classes: Literal["unseen", "all"] = "unseen",
        pseudo_top_p: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("self_training", self_training, "annealed", "top_fraction", "none")
        check_choice("pseudo_classes", pseudo_classes, "unseen", "all")
        check_positive(dilations=dilations, input_scales=input_scales)
        check_range("temperature", temperature, above=0)
        check_range("top_fraction", top_fraction, above=0, most=1)
        check_not_negative(pseudo_top_p=pseudo_top_p)
        self.schedule = Schedule.build(self.iterations(), phases, rounds, accumulate)
        if feature_cache is not None and not self._fixed_features and not freeze_encoder:
            alone = ", or phases to [transfer]" if "transfer" in self.iterations() else ""
            raise UserError(
                f"feature_cache: found {feature_cache!r} with freeze_encoder off, where the maps change with each "
                f"step: set freeze_encoder to true{alone}, or feature_cache to null"
            )
        # F has the size that the first scale gives it
        read = input_scales[:1] if self._fixed_features else input_scales
        if feature_cache is not None and list(read) != [1.0]:
            raise UserError(
                f"feature_cache: found input_scales {input_scales}, expected [1.0], that of the maps that are kept: "
                "set input_scales to [1.0], or feature_cache to null"
            )
        self.teacher: Segmenter | None = None

    def iterations(self) -> dict[str, int]:
        """Return the length of each kind of phase, in the order in which they run."""
        hp = self.hparams
        return {
            "train": hp["train_iterations"],
            "self_training": 0 if hp["self_training"] == "none" else hp["self_training_iterations"],
        }

    def setup(self, stage: str) -> None:
        """Set up as `ZeroShotTask.setup`; with a `feature_cache` the data module gives maps instead of images."""
        super().setup(stage)
        hp = self.hparams
        other_views = hp["flip"] or list(hp["scales"]) != [1.0] or hp["resolution"] == "feature"
        kept = self._fixed_features and hp["feature_cache"] is not None and not other_views
        if stage == "fit" and hp["compile"] and not kept:
            _check_compiler(self.trainer.strategy.root_device)
            _compile(self.segmenter)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if hp["feature_cache"] is None:
            if isinstance(data, ZeroShotDataModule):
                data.use_features(None)  # another model may have used it before
            return
        if not isinstance(data, ZeroShotDataModule):
            raise UserError(
                f"feature_cache: found a {type(data).__name__}, expected a ZeroShotDataModule, which can crop maps: "
                "set feature_cache to null"
            )
        if other_views:
            log.info(
                "feature_cache: not used, since flip, scales and feature resolution read other views of the images"
            )
            data.use_features(None)
        else:
            data.use_features(self._feature_cache())

    @property
    def _fixed_features(self) -> bool:
        """Whether F, at the latent's mean, is all that the run reads of an image, and never changes."""
        return {phase.kind for phase in self.schedule.phases} == {"transfer"}

    def _feature_cache(self) -> FeatureCache:
        folder, strides = self.hparams["feature_cache"], self.segmenter.encoder.strides
        if self._fixed_features:
            return FeatureCache(folder, self._fingerprint, self._encode, strides[:1], KeptFeatures._make)
        return FeatureCache(folder, self._fingerprint, self._encode, strides)

    def _fingerprint(self) -> str:
        """Return what stands for all that decides the maps but the image; Lightning restores weights after `setup`."""
        hp, segmenter = self.hparams, self.segmenter
        encoder = segmenter.encoder
        digest = hashlib.blake2b(digest_size=16)
        digest.update(repr((hp["backbone"], hp["backbone_levels"], hp["output_stride"], encoder.strides)).encode())
        state = {**encoder.backbone.state_dict(), "mean": segmenter.image_mean, "std": segmenter.image_std}
        if self._fixed_features:
            above = FEATURES, self.spatial_options(), hp["head"], hp["dilations"], hp["input_scales"]
            digest.update(repr(above).encode())
            state.update({**encoder.head.state_dict(prefix="head."), **segmenter.spatial.state_dict(prefix="spatial.")})
        for name, value in state.items():
            digest.update(name.encode())
            # as bytes, since NumPy has no bfloat16
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return f"{hp['backbone'].replace('/', '-')}-{digest.hexdigest()}"

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        segmenter, images = self.segmenter, images.to(self.device)
        if not self._fixed_features:
            return segmenter.maps(images)
        for part in (segmenter.encoder, segmenter.spatial):
            part.eval()  # as the transfer step has them
        return (segmenter.mean_features(images),)

    # -- networks -----------------------------------------------------------------------------------------

    @abstractmethod
    def feature_dim(self, word_dim: int) -> int:
        """Return D, the channels of E(x), where class vectors have `word_dim` numbers."""

    @abstractmethod
    def spatial_options(self) -> dict[str, Any]:
        """Return what stands between E and C: arguments of `build_spatial`."""

    def classifier_options(self) -> dict[str, Any]:
        """Return what C is: arguments of `build_classifier`."""
        return {"name": "linear"}

    def build_networks(self, protocol: Protocol, word_dim: int, pretrained: bool) -> None:
        """Make E, the spatial module and C, as `segmenter`."""
        hp = self.hparams
        # With weights from a checkpoint, batch norm is as frozen as it was when that was trained.
        freeze = hp["weights"] is not None if hp["freeze_batch_norm"] is None else hp["freeze_batch_norm"]
        config = SegmenterConfig(
            classes=protocol.classes,
            num_seen=protocol.num_seen,
            ids=protocol.ids,
            dataset=protocol.dataset,
            split=protocol.split,
            encoder={
                "backbone": hp["backbone"],
                "feature_dim": self.feature_dim(word_dim),
                "output_stride": hp["output_stride"],
                "freeze_batch_norm": freeze,
                "dilations": hp["dilations"],
                "input_scales": hp["input_scales"],
                "head": hp["head"],
                "freeze": hp["freeze_encoder"],
                "backbone_levels": hp["backbone_levels"],
            },
            spatial=self.spatial_options(),
            classifier=self.classifier_options(),
            image_mean=hp["image_mean"],
            image_std=hp["image_std"],
            seen_penalty=hp["seen_penalty"],
            flip=hp["flip"],
            scales=hp["scales"],
        )
        self.segmenter = Segmenter.build(config, hp["weights"] if pretrained and not hp["init_from"] else None)
        if hp["channels_last"]:
            self.segmenter.encoder.to(memory_format=torch.channels_last)

    def parts(self) -> dict[str, nn.Module]:
        """Return E, the spatial module and C by name."""
        return {
            "encoder": self.segmenter.encoder,
            "spatial": self.segmenter.spatial,
            "classifier": self.segmenter.classifier,
        }

    def trainable(self, kind: str) -> frozenset[str]:
        """Return the parts that a kind of phase trains."""
        return frozenset({"encoder", "spatial", "classifier"})

    def check_ready(self) -> None:
        """Refuse later phases without what they build on."""
        assert self.protocol is not None
        kinds = {phase.kind for phase in self.schedule.phases}
        if not self.protocol.unseen and {"transfer", "self_training"} & kinds:
            raise UserError(
                "unseen: found no unseen class, which transfer and self_training are for: name some, or set phases to "
                "[train]"
            )
        if self.hparams["pseudo_top_p"] > self.protocol.num_classes:
            raise UserError(
                f"pseudo_top_p: found {self.hparams['pseudo_top_p']}, expected at most the {self.protocol.num_classes} "
                "classes of the data (0 counts all pseudo-labels)"
            )

    def enter_phase(self, phase: Phase) -> None:
        """Renew the teacher before self-training."""
        self.teacher = None
        if phase.kind == "self_training":
            self._make_teacher()

    def _make_teacher(self) -> None:
        self.teacher = copy.deepcopy(self.segmenter).eval().requires_grad_(False)
        if self.hparams["compile"] and self._trainer is not None and self.trainer.state.fn == "fit":
            _compile(self.teacher)

    def shape_for(self, state: Mapping[str, Tensor]) -> None:
        """Make a teacher where the checkpoint was written during self-training."""
        if any(key.startswith("teacher.") for key in state):
            self._make_teacher()
        else:
            self.teacher = None

    # -- optimisers -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make SGD for E, the spatial module and C."""
        hp = self.hparams
        segmenter = self.segmenter
        shared = {"optimizer": "segmenter", "poly": True, "momentary": True}
        new_heads = [segmenter.encoder.head, segmenter.classifier]
        backbone = [] if hp["freeze_encoder"] else list(segmenter.encoder.backbone.parameters())
        weights = [p for head in new_heads for n, p in head.named_parameters() if not n.endswith("bias")]
        biases = [p for head in new_heads for n, p in head.named_parameters() if n.endswith("bias")]
        groups = [
            {"params": backbone, "multiplier": 1.0, **shared},
            {"params": list(segmenter.spatial.parameters()), "multiplier": 5.0, **shared},
            {"params": weights, "multiplier": 10.0, **shared},
            {"params": biases, "multiplier": 20.0, "weight_decay": 0.0, **shared},
        ]
        return [
            torch.optim.SGD(
                [group for group in groups if group["params"]],
                lr=hp["lr"], momentum=hp["momentum"], weight_decay=hp["weight_decay"],
            )
        ]  # fmt: skip

    def rate(self, group: Mapping[str, Any], kind: str) -> float:
        """Return a group's base rate in a kind of phase."""
        return float(self.hparams["lr_self_training" if kind == "self_training" else "lr"])

    # -- the steps ------------------------------------------------------------------------------------------

    def optimise(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Run one step of the phase."""
        return (self.supervised_step(batch) if phase.kind == "train" else self.self_training_step(batch))[1]

    def supervised_step(self, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Cross-entropy over the seen classes alone (eq. 3), and the KL loss where there is a latent (eq. 4)."""
        assert self.protocol is not None
        with self.toggled_optimizer(self._optimizers()["segmenter"]):
            spatial = self.segmenter.features(batch["image"])
            seen_logits = self.segmenter.classifier(spatial.features)[:, : self.protocol.num_seen]
            loss_seg = pixel_cross_entropy(seen_logits, batch["mask"])
            loss, losses_kl = self._with_kl(loss_seg, spatial)
            losses = {"loss_seg": loss_seg, **losses_kl}
            self.update("segmenter", loss, **losses)
        return spatial, losses

    def _with_kl(self, loss: Tensor, spatial: SpatialFeatures) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the KL loss (eq. 2), weighed by alpha, in the methods that have one."""
        if "alpha" not in self.hparams:
            return loss, {}
        loss_kl = gaussian_kl(spatial.mu, spatial.logvar)
        return loss + self.hparams["alpha"] * loss_kl, {"loss_kl": loss_kl}

    def pseudo_labels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Let the teacher label the ignored pixels of a batch.

        Args:
            batch: With ``image``, ``mask`` and ``valid``.

        Returns:
            The pseudo-label of each pixel (N, H, W) int64; its confidence, the softmax over all classes at that
            label, (N, H, W) float32; and which pixels count, (N, H, W) bool: ignored, but no padding, and within
            `pseudo_top_p` where that is set.
        """
        assert self.teacher is not None and self.protocol is not None
        with torch.no_grad():
            logits = self.teacher(batch["image"]).float()
            logits = F.interpolate(logits, batch["mask"].shape[-2:], mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)
            first = self.protocol.num_seen if self.hparams["pseudo_classes"] == "unseen" else 0
            confidence, label = probabilities[:, first:].max(dim=1)
            label = label + first
            pseudo = (batch["mask"] == 255) & batch["valid"]
            if self.hparams["pseudo_top_p"]:
                pseudo = pseudo & within_top(logits, label, self.hparams["pseudo_top_p"])
        return label, confidence, pseudo

    def pseudo_weights(self, confidence: Tensor, pseudo: Tensor) -> Tensor:
        """Weigh pseudo-labels: by eq. 17, or 1 for the most confident ones of each image and 0 for the others.

        Args:
            confidence: (N, H, W) float32, see `pseudo_labels`.
            pseudo: (N, H, W) bool, see `pseudo_labels`.

        Returns:
            (N, H, W) float32 in [0, 1]; it has no meaning where `pseudo` is False.
        """
        hp = self.hparams
        if hp["self_training"] == "annealed":
            return annealed_weights(confidence, pseudo, hp["temperature"])
        return confident_fraction(confidence, pseudo, hp["top_fraction"]).float()

    def self_training_step(self, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Self-training: labels with weight 1, pseudo-labels weighed by eq. 17 or cut to the confident ones."""
        mask = batch["mask"]
        labels, confidence, pseudo = self.pseudo_labels(batch)
        weights = torch.where(pseudo, self.pseudo_weights(confidence, pseudo), (mask != 255).float())
        target = torch.where(pseudo, labels, mask)
        with self.toggled_optimizer(self._optimizers()["segmenter"]):
            spatial = self.segmenter.features(batch["image"])
            logits = self.segmenter.classifier(spatial.features).float()
            logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
            losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
            loss = (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
            total, losses_kl = self._with_kl(loss, spatial)
            self.update("segmenter", total, loss_pseudo=loss, **losses_kl)
        labelled = mask != 255
        ignored_pixels = (~labelled & batch["valid"]).sum()
        ignored = ignored_pixels.clamp(min=1)
        self.tally("ignored_pixels", ignored_pixels)
        self.tally("unseen_pixels", batch["hidden"].sum())
        return spatial, {
            "loss_seg": _weighted_mean(losses, labelled.float()),
            "loss_pseudo": _weighted_mean(losses, weights * pseudo),
            **losses_kl,
            # Diagnostics: near 1, self-training learns unseen classes from the place of the holes alone.
            "unseen_share": batch["hidden"].sum() / ignored,
            "pseudo_weight": (weights * pseudo).sum() / ignored,
        }


def _check_compiler(device: torch.device) -> None:
    compilers = [os.environ.get("CXX", ""), "g++", "clang++"]
    if device.type == "cpu" and not any(shutil.which(name) for name in compilers if name):
        raise UserError(
            "compile: found no C++ compiler, which torch.compile needs on the CPU, expected g++, clang++ or $CXX: "
            "install one, or leave compile out"
        )


def _compile(segmenter: Segmenter) -> None:
    for part in (segmenter.encoder, segmenter.spatial):
        # random numbers as without compilation
        part.compile(options={"fallback_random": True})


def pixel_cross_entropy(logits: Tensor, mask: Tensor) -> Tensor:
    """Mean cross-entropy of labelled pixels at label resolution (eq. 3, 9).

    Args:
        logits: (N, C, h, w); resized bilinearly to the mask.
        mask: (N, H, W) int64, 255 ignored.

    Returns:
        Scalar; 0 with a gradient path when no pixel is labelled.
    """
    logits = logits.float()
    if logits.shape[-2:] != mask.shape[-2:]:
        logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
    total = F.cross_entropy(logits, mask, ignore_index=255, reduction="sum")
    return total / (mask != 255).sum().clamp(min=1)


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses.detach() * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
