"""What the methods with a generator share: G, D, their step, and the transfer step that teaches C unseen classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError
from sign_zs3.functional import class_mmd, discriminator_loss, generator_loss
from sign_zs3.models.discriminator import Discriminator
from sign_zs3.models.generator import Generator
from sign_zs3.models.spatial.sim import SpatialFeatures
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checks import check_choice, check_not_negative, check_positive, check_range
from sign_zs3.tasks.evaluation import Batch, map_size, shrink_mask
from sign_zs3.tasks.schedule import Phase
from sign_zs3.tasks.self_training import SelfTrainingTask, pixel_cross_entropy


class GenerativeTask(SelfTrainingTask):
    """Base of the methods that learn unseen classes from generated features.

    A generator learns to make a pixel's feature from its class vector and a latent; C then learns all classes from
    real features of seen ones and generated features of all. Up to three optimisers alternate in an iteration: SGD for
    E, the spatial module and C, Adam for D and Adam for G (eq. 8).

    Args:
        feature_dim: D.
        generator_hidden: Widths of G; null scales the published ones.
        generator_dropout: Dropout of G, one rate for all hidden layers; null takes the published rates.
        discriminator_hidden: Width of D.
        generator_iterations: Length of the phase in which G and D alone go on, on the fixed features.
        transfer_iterations: Length of the transfer learning step (eq. 10).
        joint_generator: Train G and D beside E, the spatial module and C in the training step, as the paper does for
            efficiency; off, the generator phase alone trains them.
        lr_transfer: SGD rate of the transfer step, as `lr`: C takes 10x, its bias 20x.
        lr_generator: Adam rate of G.
        lr_discriminator: Adam rate of D.
        beta: Weight of the MMD loss (eq. 8).
        adversarial_weight: Weight of G's adversarial loss; 0 leaves D out.
        adversarial: ``non_saturating``, ``saturating`` (eq. 7 to the letter) or ``l1`` (the released code).
        bandwidths: Of the MMD's kernel mixture; ``[1.0]`` with `mmd_root` off is eq. 6.
        mmd_root: Take the root of the squared MMD.
        mmd_scope: Compare a class's features within each image, as eq. 5, or over the ``batch``.
        unseen_odds: How much likelier an unseen class is drawn than a seen one in the transfer step.
        layout: ``pixel`` draws a label per pixel, ``region`` one per block of an 8 x 8 grid.
        **kwargs: Further options of `SelfTrainingTask`.
    """

    def __init__(
        self,
        feature_dim: int = 600,
        generator_hidden: list[int] | None = None,
        generator_dropout: float | None = None,
        discriminator_hidden: int = 1024,
        generator_iterations: int = 0,
        transfer_iterations: int = 6_000,
        joint_generator: bool = True,
        lr_transfer: float = 5e-5,
        lr_generator: float = 2e-4,
        lr_discriminator: float = 2.5e-4,
        beta: float = 50.0,
        adversarial_weight: float = 1.0,
        adversarial: Literal["non_saturating", "saturating", "l1"] = "non_saturating",
        bandwidths: list[float] = [2.0, 5.0, 10.0, 20.0, 40.0, 60.0],  # noqa: B006 (never changed; lists are YAML's)
        mmd_root: bool = True,
        mmd_scope: Literal["image", "batch"] = "image",
        unseen_odds: float = 10.0,
        layout: Literal["pixel", "region"] = "pixel",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("layout", layout, "pixel", "region")
        check_choice("mmd_scope", mmd_scope, "image", "batch")
        check_positive(bandwidths=bandwidths)
        check_not_negative(beta=beta, adversarial_weight=adversarial_weight)
        check_range("unseen_odds", unseen_odds, above=0)
        self.generator: Generator
        self.discriminator: Discriminator | None = None

    def iterations(self) -> dict[str, int]:
        """Return the length of each kind of phase, in the order in which they run."""
        hp, shared = self.hparams, super().iterations()
        later = {"generator": hp["generator_iterations"], "transfer": hp["transfer_iterations"]}
        return {"train": shared["train"], **later, "self_training": shared["self_training"]}

    # -- networks -----------------------------------------------------------------------------------------

    def feature_dim(self, word_dim: int) -> int:
        """Return D, whatever the length of class vectors."""
        return int(self.hparams["feature_dim"])

    def build_networks(self, protocol: Protocol, word_dim: int, pretrained: bool) -> None:
        """Make E, the spatial module, C (as `segmenter`), G, and D where there is an adversarial loss."""
        super().build_networks(protocol, word_dim, pretrained)
        hp = self.hparams
        dim = hp["feature_dim"]
        self.generator = Generator(word_dim, dim, dim, hp["generator_hidden"], hp["generator_dropout"])
        if hp["adversarial_weight"]:
            self.discriminator = Discriminator(dim, hp["discriminator_hidden"])

    def parts(self) -> dict[str, nn.Module]:
        """Return E, the spatial module, C, G and, where there is one, D by name."""
        parts = super().parts() | {"generator": self.generator}
        return parts if self.discriminator is None else parts | {"discriminator": self.discriminator}

    def trainable(self, kind: str) -> frozenset[str]:
        """Return the parts that a kind of phase trains."""
        if kind == "transfer":
            return frozenset({"classifier"})
        generative = frozenset(self.parts()) & {"generator", "discriminator"}
        if kind == "generator":
            return generative
        if kind == "train" and not self.hparams["joint_generator"]:
            return super().trainable(kind)
        return super().trainable(kind) | generative

    def check_ready(self) -> None:
        """Refuse later phases without what they build on."""
        super().check_ready()
        kinds = [phase.kind for phase in self.schedule.phases]
        if "self_training" in kinds and "transfer" not in kinds and not bool(self.segmenter.known.all()):
            raise UserError(
                "phases: self_training found a classifier that was never taught the unseen classes: add transfer, or "
                "give a transferred checkpoint with init_from"
            )

    def enter_phase(self, phase: Phase) -> None:
        """Open C to all classes before the transfer step; renew the teacher before self-training."""
        super().enter_phase(phase)
        if phase.kind == "transfer":
            self.segmenter.known.fill_(True)

    # -- optimisers -----------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Make SGD for E, the spatial module and C; Adam for D, where there is one; Adam for G."""
        hp = self.hparams
        optimizers = super().configure_optimizers()
        adam = {"multiplier": 1.0, "poly": False, "momentary": False}
        if self.discriminator is not None:
            group = {"params": list(self.discriminator.parameters()), "optimizer": "discriminator", **adam}
            optimizers.append(torch.optim.Adam([group], lr=hp["lr_discriminator"], weight_decay=hp["weight_decay"]))
        group = {"params": list(self.generator.parameters()), "optimizer": "generator", **adam}
        optimizers.append(torch.optim.Adam([group], lr=hp["lr_generator"]))
        return optimizers

    def rate(self, group: Mapping[str, Any], kind: str) -> float:
        """Return a group's base rate in a kind of phase."""
        if group["optimizer"] != "segmenter":
            return float(self.hparams[f"lr_{group['optimizer']}"])
        return float(self.hparams["lr_transfer"]) if kind == "transfer" else super().rate(group, kind)

    # -- the steps ------------------------------------------------------------------------------------------

    def optimise(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Run one step of the phase: the paper's Training Step, Transfer Learning Step or self-training."""
        if phase.kind == "transfer":
            return self.transfer_step(batch)
        losses: dict[str, Tensor] = {}
        if phase.kind == "generator":
            with torch.no_grad():
                spatial = self.segmenter.features(batch["image"], sample=True)
        elif phase.kind == "train":
            spatial, losses = self.supervised_step(batch)
            if not self.hparams["joint_generator"]:
                return losses
        else:
            spatial, losses = self.self_training_step(batch)
        return losses | self.generator_step(spatial, batch["mask"])

    def generator_step(self, spatial: SpatialFeatures, mask: Tensor) -> dict[str, Tensor]:
        """Training Step (G): eq. 8 on every labelled pixel of the feature map."""
        hp = self.hparams
        labels = shrink_mask(mask, map_size(spatial.features))
        labelled = labels != 255  # (N, h, w)
        if not labelled.any():
            names = [name for name in ("discriminator", "generator") if name in self.parts()]
            if self.trainer.world_size == 1:
                self.step_without_loss(*names)
                return {}
            # Nothing to imitate here, yet G and D take part in the gradient exchange between ranks.
            for name in names:
                with self.toggled_optimizer(self._optimizers()[name]):
                    zeros = [parameter.sum() * 0 for parameter in self.parts()[name].parameters()]
                    self.update(name, torch.stack(zeros).sum())
            return {}
        pixels = labels[labelled]  # (P,)
        real = as_map(spatial.features.detach().permute(0, 2, 3, 1)[labelled])  # (1, D, P, 1)
        latent = as_map(spatial.latent.detach().permute(0, 2, 3, 1)[labelled])
        vectors = as_map(self.class_vectors[pixels])

        losses: dict[str, Tensor] = {}
        discriminator = self.discriminator
        if discriminator is not None:
            with self.toggled_optimizer(self._optimizers()["discriminator"]):
                with torch.no_grad():
                    fake = self.generator(vectors, latent)
                loss_d = discriminator_loss(discriminator(real), discriminator(fake), hp["adversarial"])
                self.update("discriminator", loss_d, loss_adv_d=loss_d)
            losses["loss_adv_d"] = loss_d
        with self.toggled_optimizer(self._optimizers()["generator"]):
            fake = self.generator(vectors, latent)
            counts = labelled.flatten(1).sum(1).tolist() if hp["mmd_scope"] == "image" else [len(pixels)]
            images = zip(*(torch.split(rows, counts) for rows in (as_rows(real), as_rows(fake), pixels)), strict=True)
            kernel = {"bandwidths": hp["bandwidths"], "sqrt": hp["mmd_root"]}
            loss_mmd = torch.stack([class_mmd(r, f, c, **kernel) for r, f, c in images if len(c)]).mean()
            loss, terms = hp["beta"] * loss_mmd, {"loss_mmd": loss_mmd}
            if discriminator is not None:
                loss_g = generator_loss(discriminator(fake), hp["adversarial"])
                loss, terms = hp["adversarial_weight"] * loss_g + loss, {"loss_adv_g": loss_g, **terms}
            self.update("generator", loss, **terms)
        return losses | terms

    def transfer_step(self, batch: Batch) -> dict[str, Tensor]:
        """Transfer Learning Step: eq. 10, C on real features of seen and synthetic ones of all classes."""
        with torch.no_grad():
            features = self.segmenter.mean_features(batch["image"])
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


def as_map(rows: Tensor) -> Tensor:
    """View (P, D) rows as a (1, D, P, 1) map, which 1x1 convolutions read."""
    return rows.t().reshape(1, rows.shape[1], rows.shape[0], 1)


def as_rows(pixels: Tensor) -> Tensor:
    """View a (1, D, P, 1) map as (P, D) rows."""
    return pixels[0, :, :, 0].t()
