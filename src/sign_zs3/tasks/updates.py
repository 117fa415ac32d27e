"""How losses move weights: backward passes, accumulation, clipping, learning rates, and steps that are left out."""

import logging
import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.core.optimizer import LightningOptimizer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from sign_zs3.errors import UserError
from sign_zs3.models.encoder import Encoder
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.tasks.exchange import GradientExchange
from sign_zs3.tasks.schedule import Progress
from sign_zs3.tasks.steps import Losses

log = logging.getLogger(__name__)

MOMENTUM = 0.9
WEIGHT_DECAY = 5e-4
POLY_POWER = 0.9
"""Of SGD (the decay of D's Adam, too) and its poly schedule, as in DeepLab-v2 and all methods built on it."""


class Step(NamedTuple):
    """A step, and the numbers that say whether it was taken.

    Attributes:
        where: Phase, iteration and optimiser.
        losses: Names of the terms and the total of its batches.
        gradients: Of its parameters.
        numbers: (1 + losses + gradients,) float32, on the device: the gradient's norm, each loss, each one's norm.
    """

    where: str
    losses: list[str]
    gradients: list[nn.Parameter]
    numbers: Tensor


class Updates:
    """The optimisers of a run in training: each takes losses, and steps where a batch completes an iteration.

    A step whose loss or gradient is NaN or infinite is left out, on all ranks alike. On a GPU the device decides that
    by itself, and the host learns of it one batch late: were it to wait, the device would idle until it caught up.

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
        # the CPU is the host, and Apple's GPU has no copies that the host could wait for
        self.late = module.device.type not in ("cpu", "mps")
        self._exchanges: dict[str, AbstractContextManager[None]] = {}
        self._losses: dict[str, list[tuple[str, Tensor]]] = {}
        self._steps: list[Step] = []
        self._unread: deque[tuple[list[Step], Tensor, torch.Event]] = deque()
        self._statistics_before: list[Tensor] = []
        for name, optimizer in optimizers.items():
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            count = module.trainer.world_size
            self._exchanges[name] = nullcontext() if count == 1 else GradientExchange(parameters, count)
            for group in optimizer.param_groups:
                # the flag is stored, and a checkpoint may come from another device
                group["fused"] = True if self.late else None
            for parameter, state in optimizer.state.items():
                for key, value in state.items():
                    # fused steps want what belongs to a weight as the weight lies in memory
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        state[key] = torch.empty_like(parameter).copy_(value)
                if "step" in state:
                    state["step"] = state["step"].to(module.device if self.late else "cpu")

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
        if (count := self.module.trainer.world_size) == 1:
            return
        if statistics := self._statistics():
            flat = torch.cat([s.flatten() for s in statistics])
            torch.distributed.all_reduce(flat)  # Lightning's has the host wait for all ranks first
            flat /= count
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
        terms = {**losses.terms, f"the loss of the {name}": loss}
        self._losses.setdefault(name, []).extend((term, x.detach()) for term, x in terms.items())
        finite = loss.detach().isfinite()
        # In the gradient what is not finite reaches the other ranks, which then decide as this one does.
        with self._exchanges[name]:
            self.module.manual_backward(loss * torch.where(finite, 1.0, math.nan) / self.schedule.accumulate)
        if name == "segmenter" and self._statistics_before and (self.late or not bool(finite)):
            for statistic, before in zip(self._statistics(), self._statistics_before, strict=False):
                statistic.copy_(torch.where(finite, statistic, before))
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
        optimizer, losses = self.optimizers[name], self._losses.pop(name, [])
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters:
            return
        norms = torch._foreach_norm([p.grad for p in parameters if p.grad is not None])
        norm = torch.linalg.vector_norm(torch.stack(norms))
        if self.clip_norm:
            nn.utils.clip_grads_with_norm_(parameters, self.clip_norm, norm)
        numbers = torch.stack([norm, *(x.to(norm) for _, x in losses), *norms])
        where = f"phase {self.schedule.phase.name}, iteration {self.schedule.locate()[1]}, {name}"
        step = Step(where, [term for term, _ in losses], parameters, numbers)
        if self.late:
            self._step_if_finite(optimizer, parameters, norm)
            self._steps.append(step)
        elif bool(norm.isfinite()):
            optimizer.step()
        else:
            self._read(step, numbers.tolist())
        optimizer.zero_grad(set_to_none=True)

    def _step_if_finite(self, optimizer: LightningOptimizer, parameters: Sequence[nn.Parameter], norm: Tensor) -> None:
        """Step where the device finds the norm of the gradient finite, by what fused optimisers have for it."""
        inner = optimizer.optimizer
        if isinstance(inner, torch.optim.SGD):
            for parameter in parameters:
                # a first step that is left out would leave it without numbers
                if "momentum_buffer" not in inner.state[parameter]:
                    inner.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        inner.found_inf = 1 - norm.isfinite().float()  # type: ignore[attr-defined]
        optimizer.step()

    # -- what is not finite ---------------------------------------------------------------------------------

    def end_batch(self, last: bool) -> None:
        """Have the numbers of a batch's steps sent to the host, and read those of the batch before; of the last, both.

        A `UserError` as of `apply`.
        """
        if self._steps:
            numbers = torch.cat([step.numbers for step in self._steps])
            arrival = torch.get_device_module(numbers.device).Event()
            self._unread.append((self._steps, numbers.to("cpu", non_blocking=True), arrival))
            arrival.record()
            self._steps = []
        self.settle(keep=0 if last else 1)

    def settle(self, keep: int = 0) -> None:
        """Read what was sent to the host, but for the latest batches; a `UserError` as of `apply`."""
        while len(self._unread) > keep:
            steps, numbers, arrival = self._unread.popleft()
            arrival.synchronize()
            for step, own in zip(steps, torch.split(numbers, [len(step.numbers) for step in steps]), strict=True):
                self._read(step, own.tolist())

    def _read(self, step: Step, numbers: Sequence[float]) -> None:
        """Count a step that was left out, or end the run where there are too many; `numbers` are the step's."""
        norm, losses, norms = numbers[0], numbers[1 : len(step.losses) + 1], numbers[len(step.losses) + 1 :]
        if math.isfinite(norm):
            return
        what = [f"{term} = {x:g}" for term, x in zip(step.losses, losses, strict=True) if not math.isfinite(x)]
        what = [each for each in what if not each.startswith("the loss of")] or what  # terms say more than their sum
        if not what:
            names = {id(parameter): name for name, parameter in self.module.named_parameters()}
            bad = [names[id(p)] for p, x in zip(step.gradients, norms, strict=True) if not math.isfinite(x)]
            others = f" and of {len(bad) - 1} others" if len(bad) > 1 else ""
            what = [f"the {f'gradient of {bad[0]}{others}' if bad else 'norm of the gradient'} is not finite"]
        where, most = f"{step.where}: {', '.join(dict.fromkeys(what))}", self.max_nonfinite
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
