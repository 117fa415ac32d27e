"""What every zero-shot task shares: set-up, the schedule, evaluation, checkpoints, optimiser plumbing."""

from __future__ import annotations

import copy
import inspect
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from sign_zs3._version import __version__
from sign_zs3.embeddings import class_vectors
from sign_zs3.errors import UserError
from sign_zs3.metrics import GZSLMeanIoU
from sign_zs3.models.config import SCALES, are_scales
from sign_zs3.models.encoder import Encoder
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import (
    CHECKPOINT_FORMAT,
    CHECKPOINT_KEY,
    as_plain,
    in_order,
    misfit,
    order_from,
    read_checkpoint,
    reorder,
    stored_part,
    stored_protocol,
)
from sign_zs3.tasks.checks import check_choice, check_not_negative
from sign_zs3.tasks.evaluation import FEATURE_RESOLUTION_SIZE, Batch, EvaluatedTask
from sign_zs3.tasks.schedule import Phase, Schedule, counted_randomness

log = logging.getLogger(__name__)


class ZeroShotTask(EvaluatedTask, ABC):
    """Base of the methods.

    A subclass declares its options in its constructor (plain scalars, strings and lists) and passes the rest on; all
    are saved as hyperparameters here, parents' defaults included. It sets `schedule`, and implements
    `build_networks`, `parts`, `trainable`, `rate` and `optimise`.

    Networks are built when the classes are known: in `setup`, from the trainer's data module, or in
    `on_load_checkpoint`. The data are checked before that, so a missing file is named before any weights
    are downloaded.

    Args:
        vectors: Class vectors: ``bundled``, or a ``.npz`` or ``.safetensors`` table.
        center_vectors: Subtract the mean over the classes, per source, before normalising.
        init_from: Checkpoint whose weights to start from, for runs of later phases alone.
        seed: Decides initial weights, noise and dropout.
        clip_norm: Gradient norm at which each optimiser's gradients are clipped; 0 clips nothing.
        max_nonfinite: Steps that may be left out, over the whole run, because their loss or gradient was NaN or
            infinite; the next one stops the run.
        lr_power: Exponent of the poly schedule of the SGD rates, per phase.
        seen_penalty: Calibrated stacking: subtracted from seen logits in evaluation.
        resolution: Score at the ``label``'s own size, or at ``feature`` size after a warp to 513 x 513.
        flip: Average with the mirror image in evaluation.
        scales: Image scales averaged in evaluation.

    Attributes:
        protocol: Classes and their split; None until built.
        segmenter: E, the spatial module and C.
        schedule: The phases and where the run stands.
        skipped: Batches left out because they held no labelled pixel.
        nonfinite: Steps left out because their loss or gradient was not finite.
        scores: What the last test computed: `GZSLMeanIoU.compute()`.
        confusion: (C, C) int64, the last test's confusion matrix, rows = truth; None before any.
        tallies: Pixels counted in training, for the report; no loss reads them.
        looked_up: For each class the name whose vector it has: its own, unless it was renamed.
        centered_on: Names over whose vectors the mean was taken that `center_vectors` subtracts.
    """

    architecture: ClassVar[tuple[str, ...]] = ()
    """Hyperparameters that weights cannot do without although they fit into other ones too."""

    class_vectors: Tensor

    def __init__(
        self,
        vectors: str = "bundled",
        center_vectors: bool = False,
        init_from: str | None = None,
        seed: int = 0,
        clip_norm: float = 0.0,
        max_nonfinite: int = 0,
        lr_power: float = 0.9,
        seen_penalty: float = 0.0,
        resolution: Literal["label", "feature"] = "label",
        flip: bool = False,
        scales: list[float] = [1.0],  # noqa: B006 (never changed; lists are what YAML gives)
    ) -> None:
        super().__init__()
        # Reads the arguments of every constructor on the way here, so those of the subclasses too.
        self.save_hyperparameters()
        check_choice("resolution", resolution, "label", "feature")
        if not are_scales(scales):
            raise UserError(f"scales: found {scales!r:.100}, expected {SCALES}")
        check_not_negative(clip_norm=clip_norm, lr_power=lr_power, max_nonfinite=max_nonfinite)
        self.automatic_optimization = False
        self.protocol: Protocol | None = None
        self.schedule: Schedule
        self.skipped = 0
        self.nonfinite = 0
        self.losses: dict[str, Tensor] = {}
        self.scores = {}
        self.confusion = None
        self.tallies: dict[str, int] = {}
        self.looked_up: tuple[str, ...] = ()
        self.centered_on: tuple[str, ...] = ()
        self._gradients: dict[str, Tensor] = {}
        self._bad_losses: dict[str, str] = {}
        self._statistics_before: list[Tensor] = []
        self._entered: str | None = None
        self._trained_before: frozenset[str] = frozenset()

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every option of the class, its parents' included, with its default."""
        return {
            parameter.name: copy.deepcopy(parameter.default)
            for ancestor in reversed(cls.__mro__)
            if issubclass(ancestor, ZeroShotTask) and "__init__" in vars(ancestor)
            for parameter in inspect.signature(vars(ancestor)["__init__"]).parameters.values()
            if parameter.default is not inspect.Parameter.empty
        }

    # -- what a method brings ---------------------------------------------------------------------------

    @abstractmethod
    def build_networks(self, protocol: Protocol, word_dim: int, pretrained: bool) -> None:
        """Make the networks as attributes, `segmenter` among them.

        Args:
            protocol: Classes and their split.
            word_dim: W, length of a class vector.
            pretrained: Load the backbone's weights (False when a checkpoint brings them).
        """

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the trainable parts by name."""

    @abstractmethod
    def trainable(self, kind: str) -> frozenset[str]:
        """Return the names of the parts that a kind of phase trains; all others are frozen bit by bit."""

    @abstractmethod
    def optimise(self, phase: Phase, batch: Batch) -> dict[str, Tensor]:
        """Compute the phase's losses on a batch and `update` each optimiser; return the losses to log."""

    @abstractmethod
    def rate(self, group: Mapping[str, Any], kind: str) -> float:
        """Return the base learning rate of a parameter group in a kind of phase, before the poly factor."""

    def check_ready(self) -> None:
        """Refuse, before any training, a schedule that cannot be run on the weights at hand."""

    def enter_phase(self, phase: Phase) -> None:
        """Prepare for a phase that starts now (not called when one is resumed)."""

    @property
    def trained_parts(self) -> frozenset[str]:
        """Names of the parts that a finished phase trained, here or in what this model started from."""
        finished = [self.trainable(phase.kind) for phase in self.schedule.finished()]
        return self._trained_before.union(*finished)

    def _parts_trained_in(self, checkpoint: Mapping[str, Any]) -> frozenset[str]:
        own = checkpoint[CHECKPOINT_KEY]
        if "trained_parts" in own:
            return frozenset(own["trained_parts"])
        # Older ones do not tell what they started from had trained: where C knows all classes, all that it needs.
        if bool(checkpoint["state_dict"]["segmenter.known"].all()):
            return frozenset(self.parts())
        finished = Schedule.of_state(own["schedule"]).finished()
        return frozenset[str]().union(*(self.trainable(phase.kind) for phase in finished))

    def shape_for(self, state: Mapping[str, Tensor]) -> None:
        """Make whatever modules a checkpoint's state holds beyond those of `build_networks`."""

    # -- set-up -------------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Build the networks for the data module's classes, or check that they are those already built for."""
        data = getattr(self.trainer, "datamodule", None)
        protocol = getattr(data, "protocol", None)
        if not isinstance(protocol, Protocol):
            raise UserError(
                "data: found no data module with a class protocol: pass one, as in Trainer().fit(model, "
                "VOCDataModule(...))"
            )
        if self.protocol is None and self.hparams["init_from"]:
            self._initialise_from(Path(self.hparams["init_from"]), protocol)
        elif self.protocol is None:
            self._build(protocol, self._read_vectors(protocol), pretrained=True)
        else:
            self._adopt(protocol)
            self._check_classes(protocol, "the data")
        eval_size = getattr(data, "eval_size", None)
        if self.hparams["resolution"] == "feature" and eval_size not in (None, FEATURE_RESOLUTION_SIZE[0]):
            raise UserError(
                f"eval_size: found {eval_size} with resolution 'feature', which warps to {FEATURE_RESOLUTION_SIZE[0]} "
                "itself, so that images would be resized twice; leave eval_size out"
            )
        if stage == "fit":
            self.check_ready()
            if self.trainer.precision in ("16-mixed", "16-true"):
                raise UserError(
                    f"precision: found {self.trainer.precision}, expected 32-true or bf16-mixed: one loss "
                    "scale cannot serve three optimisers"
                )
            strategy = self.trainer.strategy
            if isinstance(strategy, pl.strategies.DDPStrategy):
                if strategy._layer_sync is not None and strategy.root_device.type == "cpu":
                    raise UserError(
                        "sync_batchnorm: found true on the CPU, where torch has none: leave it out; running statistics "
                        "are averaged over the processes either way"
                    )
                # Each phase leaves other parameters without gradients, which DDP must be told.
                strategy._ddp_kwargs.setdefault("find_unused_parameters", True)

    def _read_vectors(self, protocol: Protocol) -> Tensor:
        return class_vectors(self.hparams["vectors"], protocol.classes, self.hparams["center_vectors"])

    def _build(self, protocol: Protocol, vectors: Tensor, pretrained: bool) -> None:
        if not protocol.unseen:
            log.warning("no unseen classes: the unseen and harmonic scores will be 0")
        self.protocol = protocol
        self.looked_up = self.centered_on = protocol.classes
        self.register_buffer("class_vectors", vectors)
        with counted_randomness(torch.device("cpu"), self.hparams["seed"], "initial weights"):
            self.build_networks(protocol, vectors.shape[1], pretrained)
        self.metric = GZSLMeanIoU(protocol.classes, protocol.seen, protocol.unseen)

    def _adopt(self, protocol: Protocol) -> None:
        """Take ids and order of the data's classes, where they are those of the model."""
        assert self.protocol is not None
        rows = order_from(self.protocol, protocol)
        if rows is None or protocol == self.protocol:
            return
        self.load_state_dict(in_order(self.state_dict(), rows))
        self.looked_up = tuple(self.looked_up[row] for row in rows)
        self.protocol = protocol
        self.metric = GZSLMeanIoU(protocol.classes, protocol.seen, protocol.unseen).to(self.device)
        config = self.segmenter.config
        assert config is not None
        self.segmenter.config = replace(config, classes=protocol.classes, ids=protocol.ids)

    def _check_classes(self, other: Protocol, where: str) -> None:
        assert self.protocol is not None
        mine = (self.protocol.classes, self.protocol.num_seen)
        if mine != (other.classes, other.num_seen):
            odd = sorted(set(mine[0]) ^ set(other.classes))
            difference = (
                f"classes in one alone: {', '.join(odd[:5])}" if odd else "the same names, split or ordered otherwise"
            )
            raise UserError(
                f"classes: {where} has {other.num_seen} seen and {len(other.unseen)} unseen, the model {mine[1]} and "
                f"{len(mine[0]) - mine[1]} ({difference}): use the data and split that the checkpoint was trained with"
            )

    def _initialise_from(self, path: Path, protocol: Protocol) -> None:
        checkpoint = read_checkpoint(path)
        reorder(checkpoint, protocol)
        stored = checkpoint["state_dict"]["class_vectors"]
        own = checkpoint[CHECKPOINT_KEY]
        looked_up = tuple(own.get("looked_up", protocol.classes))
        centered_on = tuple(own.get("centered_on", protocol.classes))
        # where classes were added or renamed, the vectors are those that the checkpoint holds
        as_given = looked_up == centered_on == protocol.classes
        taken = not as_given and len(stored) == protocol.num_classes
        self._build(protocol, stored.clone() if taken else self._read_vectors(protocol), pretrained=True)
        self._check_classes(stored_protocol(checkpoint), f"the checkpoint {path}")
        self.looked_up, self.centered_on = looked_up, centered_on
        if stored.shape != self.class_vectors.shape or (
            as_given and not torch.allclose(stored, self.class_vectors, atol=1e-6)
        ):
            raise UserError(
                f"vectors: those of {path} are others than {self.hparams['vectors']!r} gives (center_vectors: "
                f"{self.hparams['center_vectors']}): use the file and the option that it was trained with"
            )
        other = checkpoint["hyper_parameters"]
        if checkpoint[CHECKPOINT_KEY]["method"] == type(self).__name__:
            # A checkpoint older than an option was trained as the option's default says.
            other = self.defaults() | other
        for name in self.architecture:
            if name in other and other[name] != self.hparams[name]:
                raise UserError(
                    f"{name}: found {self.hparams[name]}, but {path} was trained with {other[name]}: give the same"
                )
        wanted = self.state_dict()
        state = {key: value for key, value in checkpoint["state_dict"].items() if key in wanted}
        if fault := misfit(state, wanted):
            raise UserError(
                f"init_from: {path} holds {fault}: use the vectors, backbone, widths and version of sign-zs3 that it "
                "was trained with"
            )
        left = [key for key in checkpoint["state_dict"] if key.startswith("segmenter.") and key not in wanted]
        if left:
            raise UserError(
                f"init_from: {path} holds {left[0]}, for which this model has no place: use the method and the options "
                "that it was trained with"
            )
        self.load_state_dict(state)
        self._trained_before = self._parts_trained_in(checkpoint)

    # -- checkpoints ----------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add classes, progress and a partly accumulated gradient, all as plain types and tensors."""
        assert self.protocol is not None
        partial = self.schedule.micro > 0
        checkpoint[CHECKPOINT_KEY] = {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "method": type(self).__name__,
            "protocol": as_plain(self.protocol),
            "looked_up": list(self.looked_up),
            "centered_on": list(self.centered_on),
            "schedule": self.schedule.state_dict(),
            "trained_parts": sorted(self.trained_parts),
            "skipped": self.skipped,
            "nonfinite": self.nonfinite,
            "tallies": dict(self.tallies),
            "gradients": {n: p.grad for n, p in self.named_parameters() if partial and p.grad is not None},
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Build what the checkpoint holds, and take up its progress."""
        stored = stored_part(checkpoint, "the checkpoint")
        trainer = self._trainer
        if trainer is not None and trainer.state.fn == "fit" and "optimizer_states" not in checkpoint:
            raise UserError(
                "ckpt_path: found a checkpoint without the state of a training, as extend, rename and remove write it: "
                "start from it with --model.init_from instead"
            )
        if self.protocol is not None:
            reorder(checkpoint, self.protocol)
        protocol = stored_protocol(checkpoint)
        vectors = checkpoint["state_dict"]["class_vectors"]
        if self.protocol is None:
            _check_fits(checkpoint, self._expected_state(checkpoint["state_dict"], protocol))
            self._build(protocol, torch.zeros_like(vectors), pretrained=False)
        self._check_classes(protocol, "the checkpoint")
        if self.class_vectors.shape != vectors.shape:
            raise UserError(
                f"vectors: the checkpoint's class vectors have {vectors.shape[1]} numbers, those given "
                f"{self.class_vectors.shape[1]}: use the file that it was trained with"
            )
        self.shape_for(checkpoint["state_dict"])
        _check_fits(checkpoint, self.state_dict())
        # checkpoints of before classes could be added or renamed have neither
        self.looked_up = tuple(stored.get("looked_up", protocol.classes))
        self.centered_on = tuple(stored.get("centered_on", protocol.classes))
        self._trained_before = self._parts_trained_in(checkpoint)
        self.schedule.load_state_dict(stored["schedule"])
        self.skipped = int(stored["skipped"])
        self.nonfinite = int(stored.get("nonfinite", 0))
        self.tallies = dict(stored.get("tallies", {}))  # the first checkpoints had none
        shapes = {name: value.shape for name, value in self.named_parameters()}
        if odd := [name for name, value in stored["gradients"].items() if shapes.get(name) != value.shape]:
            raise UserError(f"checkpoint: found a gradient for {odd[0]:.100}, which fits no weight of the model")
        self._gradients = stored["gradients"]
        self._entered = None

    def _expected_state(self, state: Mapping[str, Tensor], protocol: Protocol) -> dict[str, Tensor]:
        """Return the state, without numbers, of the networks that the options make, and run them on such an image."""
        with torch.device("meta"), torch.no_grad():
            # LightningCLI adds an entry of its own
            twin = type(self)(**{name: self.hparams[name] for name in self.defaults()})
            twin.register_buffer("class_vectors", torch.zeros(state["class_vectors"].shape))
            twin.build_networks(protocol, state["class_vectors"].shape[1], pretrained=False)
            twin.shape_for(state)
            twin.segmenter.eval()(torch.zeros(1, 3, 64, 64))
        return twin.state_dict()

    # -- training -------------------------------------------------------------------------------------------

    @property
    def total_batches(self) -> int:
        """Batches of the whole schedule: the length that the data module gives its stream."""
        return self.schedule.total_batches

    @property
    def batches_done(self) -> int:
        """Batches done: where the data module's stream goes on."""
        return self.schedule.batches

    @property
    def unlabelled_from(self) -> int | None:
        """Number of the batch from which images without usable labels may join (self-training)."""
        return self.schedule.first_batch("self_training")

    def on_train_start(self) -> None:
        """Put back a partly accumulated gradient."""
        parameters = dict(self.named_parameters())
        for name, gradient in self._gradients.items():
            parameters[name].grad = gradient.to(parameters[name])
        self._gradients = {}
        if self.schedule.done:
            self.trainer.should_stop = True
            log.info("the schedule is complete: nothing left to train")

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Run one batch of the phase at hand."""
        schedule = self.schedule
        if schedule.done:
            return
        phase = schedule.phase
        self._freeze(phase)
        self._set_rates(phase)
        if self.hparams["max_nonfinite"] or schedule.accumulate > 1:
            # the latter since a checkpoint may be written before the iteration ends
            self._statistics_before = [statistic.clone() for statistic in self._statistics()]
        counters = (self.hparams["seed"], schedule.batches, self.global_rank)
        if phase.kind != "self_training" and not self._any_labelled(batch):
            self._skip()
            log.warning("iteration %d: no labelled pixel in the batch; skipped", schedule.iteration)
        else:
            with counted_randomness(self.device, *counters):
                self.losses = {name: loss.detach() for name, loss in self.optimise(phase, batch).items()}
            self.log_dict({f"train/{name}": loss for name, loss in self.losses.items()}, batch_size=len(batch["id"]))
        self.log("train/skipped", float(self.skipped), batch_size=1)
        if self.hparams["max_nonfinite"]:
            self.log("train/nonfinite", float(self.nonfinite), batch_size=1)
        self.log("train/hidden_pixels", batch["hidden"].sum().float(), batch_size=1)
        self._average_batch_norm()
        schedule.batches += 1
        self.trainer.should_stop |= schedule.done

    def _statistics(self) -> list[Tensor]:
        """Return the running mean and variance of each batch norm that is training."""
        norms = [m for part in self.parts().values() for m in part.modules()
                 if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.training]  # fmt: skip
        return [s for m in norms for s in (m.running_mean, m.running_var) if s is not None]

    def _average_batch_norm(self) -> None:
        """Give all ranks the mean of their batch-norm statistics: each would else evaluate another model."""
        if self.trainer.world_size == 1:
            return
        if statistics := self._statistics():
            flat = self.trainer.strategy.reduce(torch.cat([s.flatten() for s in statistics]), reduce_op="mean")
            for statistic, mean in zip(statistics, torch.split(flat, [s.numel() for s in statistics]), strict=True):
                statistic.copy_(mean.view_as(statistic))

    def tally(self, name: str, count: Tensor) -> None:
        """Add to a count of the report."""
        self.tallies[name] = self.tallies.get(name, 0) + int(count)

    def _any_labelled(self, batch: Batch) -> bool:
        labelled = (batch["mask"] != 255).any()
        if self.trainer.world_size > 1:
            # All ranks must take the same path, or the gradient exchange would wait for ever.
            labelled = self.trainer.strategy.reduce(labelled.float(), reduce_op="sum") > 0
        return bool(labelled)

    def _freeze(self, phase: Phase) -> None:
        """Freeze what the phase does not train: no gradient, and batch norm in evaluation."""
        starts = self.schedule.at_phase_start
        if starts:
            self.enter_phase(phase)
            # A new phase is a new problem: momentum of the last one would push its first steps.
            for optimizer in self._optimizers().values():
                if optimizer.param_groups[0]["momentary"]:
                    optimizer.state.clear()
        trained = self.trainable(phase.kind)
        for name, part in self.parts().items():
            if part.training != (name in trained):
                part.train(name in trained)
        if self._entered != phase.name:
            for name, part in self.parts().items():
                for parameter in _own_parameters(part):
                    parameter.requires_grad_(name in trained)
            log.info(
                "phase %s: %d iterations, training %s",
                phase.name,
                phase.iterations,
                ", ".join(sorted(trained)),
            )
            self._entered = phase.name

    def _optimizers(self) -> dict[str, LightningOptimizer]:
        optimizers = self.optimizers()
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        return {o.param_groups[0]["optimizer"]: o for o in listed}

    def _set_rates(self, phase: Phase) -> None:
        _, done = self.schedule.locate()
        factor = (1 - done / phase.iterations) ** self.hparams["lr_power"]
        rates = {}
        for name, optimizer in self._optimizers().items():
            for group in optimizer.param_groups:
                group["lr"] = self.rate(group, phase.kind) * group["multiplier"] * (factor if group["poly"] else 1.0)
            rates[f"lr/{name}"] = max(float(group["lr"]) for group in optimizer.param_groups)
        self.log_dict(rates, batch_size=1)

    def update(self, name: str, loss: Tensor, **terms: Tensor) -> None:
        """Backpropagate a loss, and step its optimiser where the batch completes an iteration.

        A step whose loss or gradient is NaN or infinite is left out, on all ranks alike.

        Args:
            name: The optimiser's name, as in its parameter groups.
            loss: Scalar, the mean over the batch.
            **terms: What the loss is made of, by name.

        Raises:
            UserError: More than `max_nonfinite` steps were left out; no weight has been changed by them.
        """
        if not bool(torch.isfinite(loss)):
            bad = [
                f"{term} = {float(value.detach()):g}"
                for term, value in terms.items()
                if not bool(torch.isfinite(value))
            ]
            self._bad_losses[name] = ", ".join(bad) or f"the loss of the {name} is {float(loss.detach()):g}"
            # In the gradient it reaches the other ranks, which then decide as this one does.
            loss = loss * math.nan
        self.manual_backward(loss / self.schedule.accumulate)
        if name in self._bad_losses:
            self._mend_statistics()
        if self.schedule.completes_iteration:
            self._step(name)

    def _mend_statistics(self) -> None:
        """Put back the batch-norm statistics that a forward pass has spoilt."""
        for statistic, before in zip(self._statistics(), self._statistics_before, strict=False):
            if not bool(torch.isfinite(statistic).all()):
                statistic.copy_(before)

    def _step(self, name: str) -> None:
        optimizer = self._optimizers()[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad_loss = self._bad_losses.pop(name, None)
        if not parameters:
            return
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if bool(torch.isfinite(norm)):
            if self.hparams["clip_norm"]:
                nn.utils.clip_grads_with_norm_(parameters, self.hparams["clip_norm"], norm)
            optimizer.step()
        else:
            self._leave_out(name, bad_loss or self._bad_gradient(parameters))
        optimizer.zero_grad(set_to_none=True)

    def _bad_gradient(self, parameters: Sequence[nn.Parameter]) -> str:
        names = {id(parameter): name for name, parameter in self.named_parameters()}
        bad = [names[id(p)] for p in parameters if p.grad is not None and not bool(torch.isfinite(p.grad).all())]
        if not bad:
            return "the norm of the gradient is not finite"
        others = f" and of {len(bad) - 1} others" if len(bad) > 1 else ""
        return f"the gradient of {bad[0]}{others} is not finite"

    def _leave_out(self, name: str, what: str) -> None:
        """Count a step that is left out.

        Raises:
            UserError: There were too many.
        """
        phase, (_, done) = self.schedule.phase, self.schedule.locate()
        where, most = f"phase {phase.name}, iteration {done}, {name}: {what}", self.hparams["max_nonfinite"]
        self.nonfinite += 1
        if self.nonfinite > most:
            tolerated = f" ({most} such steps were left out before)" if most else ""
            raise UserError(
                f"{where}: training diverged{tolerated}; checkpoints written before stay as they are; try a smaller "
                "learning rate or a clip_norm, from the start or from a checkpoint with init_from, or forgive some "
                "steps with max_nonfinite"
            )
        log.warning("%s: this step is left out (%d of %d)", where, self.nonfinite, most)

    def _skip(self) -> None:
        """Leave a batch out; what earlier batches of its iteration accumulated still counts."""
        self.skipped += 1
        self.step_without_loss(*self._optimizers())

    def step_without_loss(self, *names: str) -> None:
        """Take the step that is due for optimisers whose batch gave no loss, where earlier batches left a gradient."""
        if self.schedule.completes_iteration:
            for name in names:
                self._step(name)

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: a validation may fall into a partly accumulated iteration."""


def _check_fits(checkpoint: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    if fault := misfit(checkpoint["state_dict"], wanted):
        version = checkpoint[CHECKPOINT_KEY].get("version")
        writer = f" ({version:.40})" if isinstance(version, str) else ""
        raise UserError(
            f"the checkpoint holds {fault}: use the options and version of sign-zs3{writer} that it was trained with"
        )


def _own_parameters(part: nn.Module) -> list[nn.Parameter]:
    """Return a part's parameters but those that the encoder keeps frozen for good: backbone or batch norm."""
    frozen: set[int] = set()
    for module in part.modules():
        if isinstance(module, Encoder) and module.freeze:
            frozen |= {id(p) for p in module.backbone.parameters()}
        if getattr(module, "freeze_batch_norm", False):
            frozen |= {
                id(p)
                for m in module.modules()
                if isinstance(m, nn.modules.batchnorm._BatchNorm)
                for p in m.parameters()
            }
    return [p for p in part.parameters() if id(p) not in frozen]
