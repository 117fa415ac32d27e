"""What the methods with a generator share: G, D, their steps, and the transfer step that teaches C unseen classes."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError, check_at_least, check_choice, check_positive, check_range
from sign_zs3.functional.geometry import map_size
from sign_zs3.models.discriminator import Discriminator
from sign_zs3.models.generator import Generator
from sign_zs3.models.spatial import SpatialFeatures
from sign_zs3.tasks import steps
from sign_zs3.tasks.base import SEGMENTER, ZeroShotTask
from sign_zs3.tasks.steps import Batch, LabelledFeatures
from sign_zs3.tasks.updates import WEIGHT_DECAY


class GenerativeTask(ZeroShotTask):
    """Base of the methods that learn unseen classes from generated features.

    A generator learns to make a pixel's feature from its class vector and a latent; C then learns all classes from
    real features of seen ones and generated features of all. Up to three optimisers alternate in an iteration: SGD for
    E, the spatial module and C, Adam for D and Adam for G (eq. 8).

    Args:
        feature_dim: D.
        generator_hidden: Widths of G; null scales the published ones.
        generator_dropout: Dropout of G, one rate for all hidden layers; null takes the published rates.
        discriminator_hidden: Width of D.
        classifier_hidden: Width of a hidden layer of C; D's activation is a ReLU then. The released code has 1024, and
            that layer is D's as well. Null: none.
        generator_iterations: Length of the phase in which G and D alone go on, on the fixed features.
        transfer_iterations: Length of the transfer learning step (eq. 10).
        joint_generator: Train G and D beside E, the spatial module and C in the training step, as the paper does for
            efficiency; off, the generator phase trains them instead. Self-training trains them either way.
        lr_transfer: SGD rate of the transfer step, as `lr`: C takes 10x, its bias 20x.
        lr_generator: Adam rate of G.
        lr_discriminator: Adam rate of D.
        beta: Weight of the MMD loss (eq. 8).
        adversarial: ``non_saturating``, ``saturating`` (eq. 7 to the letter), ``l1`` (the released code), or ``none``,
            without D.
        bandwidths: Of the MMD's kernel mixture, whose root is taken; ``median``: see `median_bandwidths`.
        mmd_scope: Compare a class's features within each ``image``, as eq. 5, or over the ``batch``.
        unseen_odds: How much likelier an unseen class is drawn than a seen one in the transfer step.
        **kwargs: Further options of `ZeroShotTask`.
    """

    architecture = (*ZeroShotTask.architecture, "classifier_hidden")

    generator: Generator

    def __init__(
        self,
        # generator and discriminator
        feature_dim: int = 600,
        generator_hidden: list[int] | None = None,
        generator_dropout: float | None = None,
        discriminator_hidden: int = 1024,
        classifier_hidden: int | None = None,
        # schedule
        generator_iterations: int = 0,
        transfer_iterations: int = 6_000,
        joint_generator: bool = True,
        # rates
        lr_transfer: float = 5e-5,
        lr_generator: float = 2e-4,
        lr_discriminator: float = 2.5e-4,
        # losses
        beta: float = 50.0,
        adversarial: Literal["non_saturating", "saturating", "l1", "none"] = "non_saturating",
        bandwidths: list[float] | Literal["median"] = [2.0, 5.0, 10.0, 20.0, 40.0, 60.0],  # noqa: B006 (never changed; lists are YAML's)
        mmd_scope: Literal["image", "batch"] = "image",
        unseen_odds: float = 10.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("adversarial", adversarial, "non_saturating", "saturating", "l1", "none")
        check_choice("mmd_scope", mmd_scope, "image", "batch")
        if isinstance(bandwidths, str):
            check_choice("bandwidths", bandwidths, "median")
        else:
            check_positive(bandwidths=bandwidths)
        check_at_least(0, beta=beta)
        if generator_hidden:
            check_positive(generator_hidden=generator_hidden)
        if classifier_hidden is not None:
            check_at_least(1, classifier_hidden=classifier_hidden)
        if generator_dropout is not None and not 0 <= generator_dropout < 1:
            raise UserError(f"generator_dropout: found {generator_dropout}, expected 0 or more and less than 1")
        check_range("unseen_odds", unseen_odds, above=0)
        self.discriminator: Discriminator | None = None

    # -- what the methods say -----------------------------------------------------------------------------------

    def feature_dim(self, word_dim: int) -> int:
        """Return D, whatever the length of class vectors."""
        return int(self.hparams["feature_dim"])

    def classifier_options(self) -> dict[str, Any]:
        """Return what C is."""
        scale = {"scale": 100.0} if self.hparams["unit_features"] else {}
        return {"name": "linear", "width": self.hparams["classifier_hidden"], **scale}

    @property
    def kl_weight(self) -> float | None:
        """Weight of the KL loss (eq. 4): the option `alpha` of the methods that have one."""
        return float(self.hparams["alpha"]) if "alpha" in self.hparams else None

    def phase_plan(self) -> dict[str, frozenset[str]]:
        """Return the kinds of phase, each with its parts: G and D too, but in transfer and not `joint_generator`."""
        with_d = self.hparams["adversarial"] != "none"
        generative = frozenset({"generator", "discriminator"} if with_d else {"generator"})
        return {
            "train": SEGMENTER | generative if self.hparams["joint_generator"] else SEGMENTER,
            "generator": generative,
            "transfer": frozenset({"classifier"}),
            "self_training": SEGMENTER | generative,
        }

    def build_networks(self, word_dim: int, weights: str | None) -> None:
        """Make E, the spatial module, C (as `segmenter`), G, and D where there is an adversarial loss."""
        super().build_networks(word_dim, weights)
        hp, dim = self.hparams, self.hparams["feature_dim"]
        options = hp["generator_hidden"], hp["generator_dropout"], hp.get("bounded", True), hp["unit_features"]
        self.generator = Generator(word_dim, dim, dim, *options)
        if hp["unit_features"]:
            if dim != word_dim or hp["classifier_hidden"] is not None:
                raise UserError(
                    f"unit_features: found feature_dim {dim} and classifier_hidden {hp['classifier_hidden']}, expected "
                    f"{word_dim}, the length of class vectors, and null, since C starts at them"
                )
            with torch.no_grad():
                self.segmenter.classifier.get_parameter("projection.weight").copy_(self.class_vectors[:, :, None, None])
                self.segmenter.classifier.get_parameter("projection.bias").zero_()
            self.segmenter.known.fill_(True)  # texts say what unseen classes are
        if hp["adversarial"] != "none":
            slope = 0.2 if hp["classifier_hidden"] is None else 0.0
            self.discriminator = Discriminator(dim, hp["discriminator_hidden"], slope)

    @property
    def _generative(self) -> dict[str, nn.Module]:
        if self.discriminator is None:
            return {"generator": self.generator}
        return {"discriminator": self.discriminator, "generator": self.generator}

    def parts(self) -> dict[str, nn.Module]:
        """Return E, the spatial module, C, D where there is one, and G by name."""
        return super().parts() | self._generative

    def rates(self, kind: str) -> dict[str, float]:
        """Return the base learning rate of each optimiser in a kind of phase."""
        rates = super().rates(kind) | {name: float(self.hparams[f"lr_{name}"]) for name in self._generative}
        return rates | {"segmenter": float(self.hparams["lr_transfer"])} if kind == "transfer" else rates

    def optimizers_by_name(self) -> dict[str, torch.optim.Optimizer]:
        """Make SGD for E, the spatial module and C; Adam for D, where there is one; Adam for G."""
        optimizers = super().optimizers_by_name()
        for name, part in self._generative.items():
            groups = [{"params": list(part.parameters()), "multiplier": 1.0}]
            decay = WEIGHT_DECAY if name == "discriminator" else 0.0
            optimizers[name] = torch.optim.Adam(groups, lr=self.hparams[f"lr_{name}"], weight_decay=decay)
        return optimizers

    def enter_phase(self, kind: str) -> None:
        """Open C to all classes before the transfer step; renew the teacher before self-training."""
        super().enter_phase(kind)
        if kind == "transfer":
            self.segmenter.known.fill_(True)

    # -- the steps ------------------------------------------------------------------------------------------

    def segmentation_step(self, kind: str, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Train what the phase trains of E, the spatial module and C; return the features and losses by name."""
        if kind == "generator":
            with torch.no_grad():
                return self.segmenter.features(steps.inputs_of(batch), sample=True), {}
        return self.transfer_step(batch) if kind == "transfer" else super().segmentation_step(kind, batch)

    def transfer_step(self, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Transfer Learning Step: eq. 10, C on real features of seen and synthetic ones of all classes."""
        protocol = self.protocol
        with torch.no_grad():
            spatial = self.segmenter.features(steps.inputs_of(batch), sample=False)
            size, odds = (len(spatial.features), *map_size(spatial.features)), self.hparams["unseen_odds"]
            labels = steps.random_labels(size, protocol.num_seen, protocol.num_classes, odds, self.device)
            synthetic = steps.synthetic_features(self.generator, self.class_vectors, labels)
        with self.updates.only("segmenter"):
            real, balance = (spatial.features, batch["mask"]), self.hparams["class_balance"]
            losses = steps.transfer_losses(self.segmenter, *real, synthetic, labels, balance)
            self.updates.apply("segmenter", losses)
        return spatial, losses.terms

    def further_steps(self, kind: str, batch: Batch, spatial: SpatialFeatures) -> dict[str, Tensor]:
        """Train D, then G, on the features of labelled pixels, in the phases that train them.

        Without such a pixel they step with the gradient of earlier batches of the iteration.
        """
        if "generator" not in self.progress.plan[kind]:
            return {}
        cells = self.segmenter.encoder.cells(map_size(batch["mask"]))
        pixels = steps.labelled_features(spatial, batch["host"].mask, cells, self.class_vectors)
        if not len(pixels.labels):
            without_loss = self.updates.step_if_due if self.trainer.world_size == 1 else self.updates.apply_zero
            for name in self._generative:
                without_loss(name)
            return {}
        return self.discriminator_step(pixels) | self.generator_step(pixels)

    def discriminator_step(self, pixels: LabelledFeatures) -> dict[str, Tensor]:
        """Train D (eq. 7), where there is one; return losses by name."""
        if self.discriminator is None:
            return {}
        with self.updates.only("discriminator"):
            losses = steps.discriminator_losses(self.discriminator, self.generator, pixels, self.hparams["adversarial"])
            self.updates.apply("discriminator", losses)
        return losses.terms

    def generator_step(self, pixels: LabelledFeatures) -> dict[str, Tensor]:
        """Train G (eq. 8); return losses by name."""
        with self.updates.only("generator"):
            losses = steps.generator_losses(self.generator, self.discriminator, pixels, self.hparams)
            self.updates.apply("generator", losses)
        return losses.terms
