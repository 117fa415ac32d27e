"""How losses move weights: backward passes, accumulation, clipping, learning rates, and steps that are left out."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_zs3.errors import UserError
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.tasks.schedule import Progress
from sign_zs3.tasks.steps import Losses

log = logging.getLogger(__name__)

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
POLY_POWER = 0.9
"""Of SGD (the decay of D's Adam, too) and its poly schedule, as in DeepLab-v2 and all methods built on it."""


class Updates:
    """The optimisers of a run in training: each takes losses, and steps where a batch completes an iteration.

    A step whose loss or gradient is NaN or infinite is left out, on all ranks alike.

    Args:
        module: The task: its backward pass, names of parameters, and the options `clip_norm` and `max_nonfinite`.
        progress: Says which batch it is; steps that are left out are counted there.
        optimizers: By name.
        parts: Networks by name.
    """

    def __init__(
        self, module: pl.LightningModule, progress: Progress, optimizers: Mapping[str, LightningOptimizer],
        parts: Mapping[str, nn.Module],
    ) -> None:  # fmt: skip
        self.module = module
        self.schedule, self.counts = progress.schedule, progress.counts
        self.optimizers = optimizers
        self.parts = parts
        self.clip_norm: float = module.hparams["clip_norm"]
        self.max_nonfinite: int = module.hparams["max_nonfinite"]
        self._bad_losses: dict[str, str] = {}
        self._statistics_before: list[Tensor] = []

    # -- around a batch -------------------------------------------------------------------------------------

    def begin_batch(self, trained: Iterable[str], rates: Mapping[str, float]) -> dict[str, float]:
        """Freeze what the phase does not train, and set the rates (SGD's falls in it); return the largest of each."""
        if self.schedule.at_phase_start:
            # A new phase is a new problem: momentum of the last one would push its first steps.
            self.optimizers["segmenter"].state.clear()
        for name, part in self.parts.items():
            on = name in trained
            if part.training != on:
                part.train(on)
            for parameter in part.own_parameters() if isinstance(part, Encoder) else part.parameters():
                parameter.requires_grad_(on)
        factor = (1 - self.schedule.locate()[1] / self.schedule.phase.iterations) ** POLY_POWER
        for name, optimizer in self.optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates[name] * group["multiplier"] * (factor if name == "segmenter" else 1.0)
        if self.max_nonfinite or self.schedule.accumulate > 1:
            # the latter since a checkpoint may be written before the iteration ends
            self._statistics_before = [statistic.clone() for statistic in self._statistics()]
        return {name: max(float(g["lr"]) for g in o.param_groups) for name, o in self.optimizers.items()}

    def average_statistics(self) -> None:
        """Give all ranks the mean of their batch-norm statistics; otherwise each would evaluate another model."""
        trainer = self.module.trainer
        if trainer.world_size == 1:
            return
        if statistics := self._statistics():
            flat = trainer.strategy.reduce(torch.cat([s.flatten() for s in statistics]), reduce_op="mean")
            for statistic, mean in zip(statistics, torch.split(flat, [s.numel() for s in statistics]), strict=True):
                statistic.copy_(mean.view_as(statistic))

    # -- losses ---------------------------------------------------------------------------------------------

    def only(self, name: str) -> AbstractContextManager[None]:
        """Have only this optimiser's parameters take gradients: losses are computed and applied within."""
        return self.module.toggled_optimizer(self.optimizers[name])

    def apply(self, name: str, losses: Losses) -> None:
        """Backpropagate losses, and step the optimiser where the batch completes an iteration.

        A `UserError` where more than `max_nonfinite` steps were left out; no weight has been changed by them.
        """
        loss = losses.total
        if not bool(torch.isfinite(loss)):
            bad = [f"{term} = {float(x.detach()):g}" for term, x in losses.terms.items() if not bool(x.isfinite())]
            self._bad_losses[name] = ", ".join(bad) or f"the loss of the {name} is {float(loss.detach()):g}"
            # In the gradient it reaches the other ranks, which then decide as this one does.
            loss = loss * math.nan
        self.module.manual_backward(loss / self.schedule.accumulate)
        if name in self._bad_losses:
            self._restore_statistics()
        self.step_if_due(name)

    def step_if_due(self, *names: str) -> None:
        """Take the step that is due, with the gradient of earlier batches of the iteration if there is any."""
        if self.schedule.completes_iteration:
            for name in names:
                self._step(name)

    def apply_zero(self, name: str) -> None:
        """Take part in the gradient exchange between ranks where this rank has no loss."""
        with self.only(name):
            zeros = [parameter.sum() * 0 for parameter in self.parts[name].parameters()]
            self.apply(name, Losses(torch.stack(zeros).sum(), {}))

    def _step(self, name: str) -> None:
        optimizer = self.optimizers[name]
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        bad_loss = self._bad_losses.pop(name, None)
        if not parameters:
            return
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if bool(torch.isfinite(norm)):
            if self.clip_norm:
                nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
            optimizer.step()
        else:
            self._leave_out(name, bad_loss or self._bad_gradient(parameters))
        optimizer.zero_grad(set_to_none=True)

    # -- what is not finite ---------------------------------------------------------------------------------

    def _bad_gradient(self, parameters: Sequence[nn.Parameter]) -> str:
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        bad = [names[id(p)] for p in parameters if p.grad is not None and not bool(p.grad.isfinite().all())]
        if not bad:
            return "the norm of the gradient is not finite"
        others = f" and of {len(bad) - 1} others" if len(bad) > 1 else ""
        return f"the gradient of {bad[0]}{others} is not finite"

    def _leave_out(self, name: str, what: str) -> None:
        """Count a step that is left out, or end the run where there are too many."""
        phase, (_, done), most = self.schedule.phase, self.schedule.locate(), self.max_nonfinite
        where = f"phase {phase.name}, iteration {done}, {name}: {what}"
        self.counts.nonfinite += 1
        if self.counts.nonfinite > most:
            before = f" ({most} such steps were left out before)" if most else ""
            raise UserError(
                f"{where}: training diverged{before}; checkpoints written before stay as they are; try a smaller "
                "learning rate or a clip_norm, from the start or from a checkpoint with init_from, or forgive some "
                "steps with max_nonfinite"
            )
        log.warning("%s: this step is left out (%d of %d)", where, self.counts.nonfinite, most)

    def _statistics(self) -> list[Tensor]:
        """Return the running mean and variance of each batch norm that is training."""
        norms = [m for part in self.parts.values() for m in part.modules() if isinstance(m, _BatchNorm) and m.training]
        return [s for m in norms for s in (m.running_mean, m.running_var) if s is not None]

    def _restore_statistics(self) -> None:
        """Put back the batch-norm statistics that a forward pass has spoilt."""
        for statistic, before in zip(self._statistics(), self._statistics_before, strict=False):
            if not bool(statistic.isfinite().all()):
                statistic.copy_(before)


def segmenter_optimizer(segmenter: Segmenter, hparams: Mapping[str, Any]) -> torch.optim.SGD:
    """Make the SGD of E, the spatial module and C, with DeepLab's multiples of the rate for heads and biases.

    Those of the backbone, and of its layers, are the options `backbone_rate` and `layer_decay`.
    """
    layers = segmenter.encoder.backbone.parameter_groups(hparams["layer_decay"])
    backbone = [{**group, "multiplier": hparams["backbone_rate"] * group["multiplier"]} for group in layers]
    heads = [pair for part in (segmenter.encoder.head, segmenter.classifier) for pair in part.named_parameters()]
    decayless = ("bias", "logarithm")
    groups = [
        *([] if segmenter.encoder.freeze else backbone),
        {"params": list(segmenter.spatial.parameters()), "multiplier": 5.0},
        {"params": [p for name, p in heads if not name.endswith(decayless)], "multiplier": 10.0},
        {"params": [p for name, p in heads if name.endswith(decayless)], "multiplier": 20.0, "weight_decay": 0.0},
    ]
    used = [group for group in groups if group["params"]]
    if not used:
        raise UserError(
            "model: found nothing to train, since E is frozen and C made of class vectors: test it as it is"
        )
    return torch.optim.SGD(used, lr=hparams["lr"], momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
