"""SIGN (Cheng et al., ICCV 2021) with its three steps and Annealed Self-Training."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.functional import (
    annealed_weights,
    class_mmd,
    confident_fraction,
    discriminator_loss,
    gaussian_kl,
    generator_loss,
)
from sign_zs3.models import (
    Classifier,
    Discriminator,
    Encoder,
    Generator,
    Segmenter,
    SpatialFeatures,
    SpatialInformationModule,
)
from sign_zs3.models.segmenter import IMAGENET_MEAN, IMAGENET_STD
from sign_zs3.tasks.base import Batch, ZeroShotTask, map_size, shrink_mask
from sign_zs3.tasks.schedule import Phase, Schedule

TRAINABLE = {
    "train": frozenset({"encoder", "spatial", "classifier", "generator", "discriminator"}),
    "generator": frozenset({"generator", "discriminator"}),
    "transfer": frozenset({"classifier"}),
    "self_training": frozenset({"encoder", "spatial", "classifier", "generator", "discriminator"}),
}


class SIGNModule(ZeroShotTask):
    """SIGN: training step, generator, transfer learning step, self-training.

    ``Trainer(max_epochs=-1).fit(SIGNModule(), ShapesDataModule())`` runs the whole schedule; classes, split and class
    vectors are set up from the data module. Lengths are in iterations; the module stops the trainer itself.

    Three optimisers alternate in every iteration: SGD for E, SIM and C (eq. 4), Adam for D and Adam for G (eq. 8).

    Args:
        vectors: Class vectors: ``bundled``, or a ``.npz`` or ``.safetensors`` table.
        center_vectors: Subtract the mean over the classes, per source, before normalising.
        init_from: Checkpoint whose weights to start from, for runs of later phases alone.
        seed: Decides initial weights, noise and dropout.
        backbone: See `build_backbone`.
        weights: Backbone weights, see `build_backbone`.
        output_stride: 8 or 16.
        freeze_batch_norm: See `Encoder`.
        dilations: Of the encoder's head.
        input_scales: Scales at which the encoder reads an image; the published code uses 1, 0.75, 0.5.
        feature_dim: D.
        encoding: SIM's structure (Table 2).
        position: Positional encoding (Table 3).
        train_size: Feature map's height and width in training, for ``position: interpolated``.
        spatial_width: SIM's inner width; null scales the published one.
        spatial_heads: Heads of ``multihead``.
        generator_hidden: Widths of G; null scales the published ones.
        generator_dropout: Dropout of G, one rate for all hidden layers; null takes the published rates.
        discriminator_hidden: Width of D.
        image_mean: RGB mean of images in [0, 1].
        image_std: RGB standard deviation of images in [0, 1].
        phases: Kinds of phase to run; null runs all that have iterations.
        train_iterations: Length of the training step (eq. 4 and 8, jointly).
        generator_iterations: Length of the phase in which G and D alone go on, on the fixed features.
        transfer_iterations: Length of the transfer learning step (eq. 10).
        self_training_iterations: Length of a round of self-training.
        self_training: ``annealed`` (eq. 17), ``top_fraction`` (the most confident pseudo-labels, weight 1) or ``none``.
        joint_generator: Train G and D beside E, SIM and C in the training step, as the paper does for efficiency; off,
            the generator phase alone trains them.
        rounds: Rounds of self-training, the teacher renewed before each.
        accumulate: Batches per iteration.
        clip_norm: Gradient norm at which each optimiser's gradients are clipped; 0 clips nothing.
        lr: SGD rate of the encoder's backbone in the training step (SIM 5x, heads 10x, their biases 20x).
        lr_transfer: The same in the transfer step.
        lr_self_training: The same in self-training.
        lr_generator: Adam rate of G.
        lr_discriminator: Adam rate of D.
        lr_power: Exponent of the poly schedule of the SGD rates, per phase.
        momentum: Of SGD.
        weight_decay: Of SGD (biases of new heads go without) and of D.
        alpha: Weight of the KL loss (eq. 4).
        beta: Weight of the MMD loss (eq. 8).
        adversarial_weight: Weight of G's adversarial loss.
        adversarial: ``non_saturating``, ``saturating`` (eq. 7 to the letter) or ``l1`` (the released code).
        bandwidths: Of the MMD's kernel mixture; ``[1.0]`` with `mmd_root` off is eq. 6.
        mmd_root: Take the root of the squared MMD.
        mmd_scope: Compare a class's features within each image, as eq. 5, or over the ``batch``.
        unseen_odds: How much likelier an unseen class is drawn than a seen one in the transfer step.
        layout: ``pixel`` draws a label per pixel, ``region`` one per block of an 8 x 8 grid.
        temperature: T of eq. 17.
        top_fraction: Fraction of pseudo-labels kept by ``top_fraction``, per image.
        pseudo_classes: ``unseen`` gives an ignored pixel its best unseen class; ``all`` its best class.
        seen_penalty: Calibrated stacking: subtracted from seen logits in evaluation.
        resolution: Score at the ``label``'s own size, or at ``feature`` size after a warp to 513 x 513.
        flip: Average with the mirror image in evaluation.
        scales: Image scales averaged in evaluation.
    """

    architecture = ("backbone", "output_stride", "dilations", "input_scales", "encoding", "position", "spatial_heads",
                    "image_mean", "image_std")  # fmt: skip

    def __init__(
        self,
        vectors: str = "bundled",
        center_vectors: bool = False,
        init_from: str | None = None,
        seed: int = 0,
        backbone: str = "resnet101",
        weights: str | None = None,
        output_stride: int = 8,
        freeze_batch_norm: bool | None = None,
        dilations: list[int] = [6, 12, 18, 24],  # noqa: B006 (never changed; lists are what YAML gives)
        input_scales: list[float] = [1.0],  # noqa: B006
        feature_dim: int = 600,
        encoding: Literal["multihead", "self_attention", "attention", "conv"] = "multihead",
        position: Literal["relative", "absolute", "interpolated", "none"] = "relative",
        train_size: list[int] | None = None,
        spatial_width: int | None = None,
        spatial_heads: int = 8,
        generator_hidden: list[int] | None = None,
        generator_dropout: float | None = None,
        discriminator_hidden: int = 1024,
        image_mean: list[float] = list(IMAGENET_MEAN),  # noqa: B006
        image_std: list[float] = list(IMAGENET_STD),  # noqa: B006
        phases: list[str] | None = None,
        train_iterations: int = 20_000,
        generator_iterations: int = 0,
        transfer_iterations: int = 6_000,
        self_training_iterations: int = 6_000,
        self_training: Literal["annealed", "top_fraction", "none"] = "annealed",
        joint_generator: bool = True,
        rounds: int = 1,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        lr: float = 2.5e-4,
        lr_transfer: float = 5e-5,
        lr_self_training: float = 2.5e-4,
        lr_generator: float = 2e-4,
        lr_discriminator: float = 2.5e-4,
        lr_power: float = 0.9,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        alpha: float = 100.0,
        beta: float = 50.0,
        adversarial_weight: float = 1.0,
        adversarial: Literal["non_saturating", "saturating", "l1"] = "non_saturating",
        bandwidths: list[float] = [2.0, 5.0, 10.0, 20.0, 40.0, 60.0],  # noqa: B006
        mmd_root: bool = True,
        mmd_scope: Literal["image", "batch"] = "image",
        unseen_odds: float = 10.0,
        layout: Literal["pixel", "region"] = "pixel",
        temperature: float = 2.0,
        top_fraction: float = 0.75,
        pseudo_classes: Literal["unseen", "all"] = "unseen",
        seen_penalty: float = 0.0,
        resolution: Literal["label", "feature"] = "label",
        flip: bool = False,
        scales: list[float] = [1.0],  # noqa: B006
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        _check_choice("self_training", self_training, ("annealed", "top_fraction", "none"))
        _check_choice("layout", layout, ("pixel", "region"))
        _check_choice("pseudo_classes", pseudo_classes, ("unseen", "all"))
        _check_choice("resolution", resolution, ("label", "feature"))
        _check_choice("mmd_scope", mmd_scope, ("image", "batch"))
        for name, numbers in (("dilations", dilations), ("input_scales", input_scales), ("scales", scales),
                              ("bandwidths", bandwidths)):  # fmt: skip
            if not numbers or not all(number > 0 for number in numbers):
                raise UserError(f"{name}: found {numbers}, expected at least one number, all above 0")
        for name, number in (("clip_norm", clip_norm), ("alpha", alpha), ("beta", beta), ("lr_power", lr_power)):
            if number < 0:
                raise UserError(f"{name}: found {number}, expected 0 or more")
        _check_range("temperature", temperature, above=0)
        _check_range("top_fraction", top_fraction, above=0, most=1)
        _check_range("unseen_odds", unseen_odds, above=0)
        self.schedule = Schedule.build(
            {
                "train": train_iterations,
                "generator": generator_iterations,
                "transfer": transfer_iterations,
                "self_training": 0 if self_training == "none" else self_training_iterations,
            },
            phases,
            rounds,
            accumulate,
        )
        self.teacher: Segmenter | None = None
        self.generator: Generator
        self.discriminator: Discriminator

    # -- networks -----------------------------------------------------------------------------------------

    def build_networks(self, num_classes: int, num_seen: int, word_dim: int, pretrained: bool) -> None:
        """Make E, SIM, C (as `segmenter`), G and D."""
        hp = self.hparams
        # With weights from a checkpoint, batch norm is as frozen as it was when that was trained.
        freeze = hp["weights"] is not None if hp["freeze_batch_norm"] is None else hp["freeze_batch_norm"]
        encoder = Encoder(
            hp["backbone"],
            hp["feature_dim"],
            hp["output_stride"],
            hp["weights"] if pretrained and not hp["init_from"] else None,
            freeze,
            hp["dilations"],
            hp["input_scales"],
        )
        train_size = None if hp["train_size"] is None else (hp["train_size"][0], hp["train_size"][1])
        spatial = SpatialInformationModule(
            hp["feature_dim"],
            hp["encoding"],
            hp["position"],
            train_size,
            hp["spatial_width"],
            hp["spatial_heads"],
        )
        classifier = Classifier(hp["feature_dim"], num_classes)
        self.segmenter = Segmenter(encoder, spatial, classifier, num_seen, hp["image_mean"], hp["image_std"])
        self.generator = Generator(
            word_dim, hp["feature_dim"], hp["feature_dim"], hp["generator_hidden"], hp["generator_dropout"]
        )
        self.discriminator = Discriminator(hp["feature_dim"], hp["discriminator_hidden"])

    def parts(self) -> dict[str, nn.Module]:
        """Return E, SIM, C, G and D by name."""
        return {
            "encoder": self.segmenter.encoder,
            "spatial": self.segmenter.spatial,
            "classifier": self.segmenter.classifier,
            "generator": self.generator,
            "discriminator": self.discriminator,
        }

    def trainable(self, kind: str) -> frozenset[str]:
        """Return the parts that a kind of phase trains."""
        if kind == "train" and not self.hparams["joint_generator"]:
            return TRAINABLE[kind] - TRAINABLE["generator"]
        return TRAINABLE[kind]

    def check_ready(self) -> None:
        """Refuse later phases without what they build on."""
        assert self.protocol is not None
        kinds = [phase.kind for phase in self.schedule.phases]
        if not self.protocol.unseen and {"transfer", "self_training"} & set(kinds):
            raise UserError(
                "unseen: found no unseen class, which transfer and self_training are for: name some, or set phases to "
                "[train]"
            )
        if "self_training" in kinds and "transfer" not in kinds and not bool(self.segmenter.known.all()):
            raise UserError(
                "phases: self_training found a classifier that was never taught the unseen classes: add transfer, or "
                "give a transferred checkpoint with init_from"
            )

    def enter_phase(self, phase: Phase) -> None:
        """Open C to all classes before the transfer step; renew the teacher before self-training."""
        self.teacher = None
        if phase.kind == "transfer":
            self.segmenter.known.fill_(True)
        if phase.kind == "self_training":
            self._make_teacher()

    def _make_teacher(self) -> None:
        self.teacher = copy.deepcopy(self.segmenter).eval().requires_grad_(False)

    def shape_for(self, state: Mapping[str, Tensor]) -> None:
        """Make a teacher where the checkpoint was written during self-training."""
        if any(key.startswith("teacher.") for key in state):
            self._make_teacher()
        else:
            self.teacher = None

    # -- optimisers -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make SGD for E, SIM and C; Adam for D; Adam for G."""
        hp = self.hparams
        segmenter = self.segmenter
        decay = hp["weight_decay"]
        shared = {"optimizer": "segmenter", "poly": True, "momentary": True}
        new_heads = [segmenter.encoder.head, segmenter.classifier]
        weights = [p for head in new_heads for n, p in head.named_parameters() if not n.endswith("bias")]
        biases = [p for head in new_heads for n, p in head.named_parameters() if n.endswith("bias")]
        sgd = torch.optim.SGD(
            [
                {"params": list(segmenter.encoder.backbone.parameters()), "multiplier": 1.0, **shared},
                {"params": list(segmenter.spatial.parameters()), "multiplier": 5.0, **shared},
                {"params": weights, "multiplier": 10.0, **shared},
                {"params": biases, "multiplier": 20.0, "weight_decay": 0.0, **shared},
            ],
            lr=hp["lr"], momentum=hp["momentum"], weight_decay=decay,
        )  # fmt: skip
        adam = {"multiplier": 1.0, "poly": False, "momentary": False}
        discriminator = torch.optim.Adam(
            [{"params": list(self.discriminator.parameters()), "optimizer": "discriminator", **adam}],
            lr=hp["lr_discriminator"], weight_decay=decay,
        )  # fmt: skip
        generator = torch.optim.Adam(
            [{"params": list(self.generator.parameters()), "optimizer": "generator", **adam}],
            lr=hp["lr_generator"],
        )
        return [sgd, discriminator, generator]

    def rate(self, group: Mapping[str, Any], kind: str) -> float:
        """Return a group's base rate in a kind of phase."""
        if group["optimizer"] != "segmenter":
            return float(self.hparams[f"lr_{group['optimizer']}"])
        return float(self.hparams["lr" if kind in ("train", "generator") else f"lr_{kind}"])

    # -- the steps ------------------------------------------------------------------------------------------

    def optimise(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Run one step of the phase: the paper's Training Step, Transfer Learning Step or self-training."""
        if phase.kind == "transfer":
            return self._transfer_step(batch)
        losses: dict[str, Tensor] = {}
        if phase.kind == "generator":
            with torch.no_grad():
                spatial = self.segmenter.features(batch["image"], sample=True)
        elif phase.kind == "train":
            spatial, losses = self._training_step_sim(batch)
            if not self.hparams["joint_generator"]:
                return losses
        else:
            spatial, losses = self._self_training_step(batch)
        return losses | self._training_step_generator(spatial, batch["mask"])

    def _training_step_sim(self, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Training Step (SIM): eq. 4 on the seen classes alone."""
        assert self.protocol is not None
        with self.toggled_optimizer(self._optimizers()["segmenter"]):
            spatial = self.segmenter.features(batch["image"])
            seen_logits = self.segmenter.classifier(spatial.features)[:, : self.protocol.num_seen]
            loss_seg = pixel_cross_entropy(seen_logits, batch["mask"])
            loss_kl = gaussian_kl(spatial.mu, spatial.logvar)
            self.update("segmenter", loss_seg + self.hparams["alpha"] * loss_kl, loss_seg=loss_seg, loss_kl=loss_kl)
        return spatial, {"loss_seg": loss_seg, "loss_kl": loss_kl}

    def _training_step_generator(self, spatial: SpatialFeatures, mask: Tensor) -> dict[str, Tensor]:
        """Training Step (G): eq. 8 on every labelled pixel of the feature map."""
        hp = self.hparams
        labels = shrink_mask(mask, map_size(spatial.features))
        labelled = labels != 255  # (N, h, w)
        if not labelled.any():
            if self.trainer.world_size == 1:
                self.step_without_loss("discriminator", "generator")
                return {}
            # Nothing to imitate here, yet G and D take part in the gradient exchange between ranks.
            for name in ("discriminator", "generator"):
                with self.toggled_optimizer(self._optimizers()[name]):
                    zeros = [parameter.sum() * 0 for parameter in self.parts()[name].parameters()]
                    self.update(name, torch.stack(zeros).sum())
            return {}
        pixels = labels[labelled]  # (P,)
        real = as_map(spatial.features.detach().permute(0, 2, 3, 1)[labelled])  # (1, D, P, 1)
        latent = as_map(spatial.latent.detach().permute(0, 2, 3, 1)[labelled])
        vectors = as_map(self.class_vectors[pixels])

        with self.toggled_optimizer(self._optimizers()["discriminator"]):
            with torch.no_grad():
                fake = self.generator(vectors, latent)
            loss_d = discriminator_loss(self.discriminator(real), self.discriminator(fake), hp["adversarial"])
            self.update("discriminator", loss_d, loss_adv_d=loss_d)
        with self.toggled_optimizer(self._optimizers()["generator"]):
            fake = self.generator(vectors, latent)
            loss_g = generator_loss(self.discriminator(fake), hp["adversarial"])
            counts = labelled.flatten(1).sum(1).tolist() if hp["mmd_scope"] == "image" else [len(pixels)]
            images = zip(*(torch.split(rows, counts) for rows in (as_rows(real), as_rows(fake), pixels)), strict=True)
            kernel = {"bandwidths": hp["bandwidths"], "sqrt": hp["mmd_root"]}
            loss_mmd = torch.stack([class_mmd(r, f, c, **kernel) for r, f, c in images if len(c)]).mean()
            loss = hp["adversarial_weight"] * loss_g + hp["beta"] * loss_mmd
            self.update("generator", loss, loss_adv_g=loss_g, loss_mmd=loss_mmd)
        return {"loss_adv_d": loss_d, "loss_adv_g": loss_g, "loss_mmd": loss_mmd}

    def _transfer_step(self, batch: Batch) -> dict[str, Tensor]:
        """Transfer Learning Step: eq. 10, C on real features of seen and synthetic ones of all classes."""
        with torch.no_grad():
            features = self.segmenter.features(batch["image"], sample=False).features
            labels = self.random_labels(features.shape[0], features.shape[-2], features.shape[-1])
            vectors = self.class_vectors[labels].permute(0, 3, 1, 2)
            latent = torch.randn(features.shape[0], self.generator.latent_dim, *features.shape[-2:], device=self.device)
            synthetic = self.generator(vectors, latent)
        with self.toggled_optimizer(self._optimizers()["segmenter"]):
            loss_seg = pixel_cross_entropy(self.segmenter.classifier(features), batch["mask"])
            loss_synthetic = pixel_cross_entropy(self.segmenter.classifier(synthetic), labels)
            self.update("segmenter", loss_seg + loss_synthetic, loss_seg=loss_seg, loss_synthetic=loss_synthetic)
        return {"loss_seg": loss_seg, "loss_synthetic": loss_synthetic}

    def random_labels(self, n: int, height: int, width: int) -> Tensor:
        """Draw labels for synthetic features.

        Args:
            n: Images.
            height: Rows.
            width: Columns.

        Returns:
            (n, height, width) int64; each unseen class `unseen_odds` times as likely as each seen one. With
            ``layout: region`` the map is cut into 8 x 8 blocks (fewer where it is small) of one label each.
        """
        assert self.protocol is not None
        odds = torch.ones(self.protocol.num_classes, device=self.device)
        odds[self.protocol.num_seen :] = self.hparams["unseen_odds"]
        rows, columns = height, width
        if self.hparams["layout"] == "region":
            rows, columns = max(1, min(8, height // 2)), max(1, min(8, width // 2))
        labels = torch.multinomial(odds, n * rows * columns, replacement=True).view(n, rows, columns)
        return labels if (rows, columns) == (height, width) else shrink_mask(labels, (height, width))

    def pseudo_labels(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Let the teacher label the ignored pixels of a batch.

        Args:
            batch: With ``image``, ``mask`` and ``valid``.

        Returns:
            The pseudo-label of each pixel (N, H, W) int64; its confidence, the softmax over all classes at that
            label, (N, H, W) float32; and which pixels count: ignored, but no padding, (N, H, W) bool.
        """
        assert self.teacher is not None and self.protocol is not None
        with torch.no_grad():
            logits = self.teacher(batch["image"]).float()
            logits = F.interpolate(logits, batch["mask"].shape[-2:], mode="bilinear", align_corners=False)
            probabilities = logits.softmax(dim=1)
            first = self.protocol.num_seen if self.hparams["pseudo_classes"] == "unseen" else 0
            confidence, label = probabilities[:, first:].max(dim=1)
        return label + first, confidence, (batch["mask"] == 255) & batch["valid"]

    def _self_training_step(self, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Self-training: labels with weight 1, pseudo-labels weighed by eq. 17 or cut to the confident ones."""
        hp = self.hparams
        mask = batch["mask"]
        labels, confidence, pseudo = self.pseudo_labels(batch)
        if hp["self_training"] == "annealed":
            weights = annealed_weights(confidence, pseudo, hp["temperature"])
        else:
            weights = confident_fraction(confidence, pseudo, hp["top_fraction"]).float()
        weights = torch.where(pseudo, weights, (mask != 255).float())
        target = torch.where(pseudo, labels, mask)
        with self.toggled_optimizer(self._optimizers()["segmenter"]):
            spatial = self.segmenter.features(batch["image"])
            logits = self.segmenter.classifier(spatial.features).float()
            logits = F.interpolate(logits, mask.shape[-2:], mode="bilinear", align_corners=False)
            losses = F.cross_entropy(logits, target, ignore_index=255, reduction="none")
            loss = (weights * losses).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)
            loss_kl = gaussian_kl(spatial.mu, spatial.logvar)
            self.update("segmenter", loss + hp["alpha"] * loss_kl, loss_pseudo=loss, loss_kl=loss_kl)
        labelled = mask != 255
        ignored = pseudo.sum().clamp(min=1)
        self.tally("ignored_pixels", pseudo.sum())
        self.tally("unseen_pixels", batch["hidden"].sum())
        return spatial, {
            "loss_seg": _weighted_mean(losses, labelled.float()),
            "loss_pseudo": _weighted_mean(losses, weights * pseudo),
            "loss_kl": loss_kl,
            # Diagnostics: near 1, self-training learns unseen classes from the place of the holes alone.
            "unseen_share": batch["hidden"].sum() / ignored,
            "pseudo_weight": (weights * pseudo).sum() / ignored,
        }


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


def as_map(rows: Tensor) -> Tensor:
    """View (P, D) rows as a (1, D, P, 1) map, which 1x1 convolutions read."""
    return rows.t().reshape(1, rows.shape[1], rows.shape[0], 1)


def as_rows(pixels: Tensor) -> Tensor:
    """View a (1, D, P, 1) map as (P, D) rows."""
    return pixels[0, :, :, 0].t()


def _weighted_mean(losses: Tensor, weights: Tensor) -> Tensor:
    return (losses.detach() * weights).sum() / weights.sum().clamp(min=torch.finfo(torch.float32).tiny)


def _check_choice(name: str, found: str, choices: tuple[str, ...]) -> None:
    if found not in choices:
        raise UserError(f"{name}: found {found!r}, expected one of {', '.join(choices)}")


def _check_range(name: str, value: float, above: float, most: float = math.inf) -> None:
    if not (above < value <= most and math.isfinite(value)):
        limit = f" and at most {most:g}" if most < math.inf else ""
        raise UserError(f"{name}: found {value}, expected more than {above:g}{limit}")
