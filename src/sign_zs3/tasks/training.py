"""One run in training, batch by batch: freezing, rates, random numbers, batches left out, and what is logged."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from sign_zs3.data.stream import OnHost
from sign_zs3.functional.devices import in_memory, matmul_precision, to_device
from sign_zs3.functional.geometry import map_size
from sign_zs3.tasks.schedule import Progress, counted_randomness
from sign_zs3.tasks.steps import Batch
from sign_zs3.tasks.updates import Updates

log = logging.getLogger(__name__)


class Training:
    """Everything around a batch's steps: freezing, rates, seeding, counting, logging; made where training starts.

    Args:
        module: The task: its optimisers, device, trainer and log.
        progress: Its schedule and counts, which move with each batch.
        parts: Its networks by name.
        names: Of the module's optimisers, in their order.
        rates: From a kind of phase to the base learning rate of each optimiser.
        enter_phase: Called with the kind of a phase that starts now; not when one is resumed.

    Attributes:
        updates: How losses move weights.
        losses: Of the last batch, by name.
        told_to_stop: Whether this process was, to be set before a batch.
        agreed_to_stop: Whether any process was, as all of them know after the batch.
    """

    def __init__(
        self, module: pl.LightningModule, progress: Progress, parts: Mapping[str, nn.Module],
        names: Sequence[str], rates: Callable[[str], dict[str, float]], enter_phase: Callable[[str], None],
    ) -> None:  # fmt: skip
        self.module = module
        self.progress = progress
        self.rates = rates
        self.enter_phase = enter_phase
        self.losses: dict[str, Tensor] = {}
        self.told_to_stop = self.agreed_to_stop = False
        self._announced = ""
        optimizers = module.optimizers()
        listed = optimizers if isinstance(optimizers, list) else [optimizers]
        self.updates = Updates(module, progress, dict(zip(names, listed, strict=True)), parts)
        for name, gradient in progress.gradients.items():
            parameter = module.get_parameter(name)
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
        progress.gradients = {}
        if progress.schedule.done:
            module.trainer.should_stop = True
            log.info("the schedule is complete: nothing left to train")

    @contextmanager
    def batch(self, batch: Batch) -> Iterator[str | None]:
        """Prepare the parts for a batch, give the kind of its phase, and count it afterwards.

        Random numbers drawn within are a function of seed, position and rank. The kind is None where the batch is left
        out, since it has no labelled pixel.
        """
        module, schedule, counts = self.module, self.progress.schedule, self.progress.counts
        host: OnHost | None = batch.get("host")
        if host is None or not host.is_of(batch["mask"]):  # of the user's own data module, or changed on the device
            batch["host"] = host = OnHost(batch)
        kind, numbers = self._begin()
        any_labelled, self.agreed_to_stop = self._agree(host.any_labelled)
        if kind != "self_training" and not any_labelled:
            counts.skipped += 1
            self.updates.step_if_due(*self.updates.optimizers)
            log.warning("iteration %d: no labelled pixel in the batch; skipped", schedule.iteration)
            yield None
        else:
            random = counted_randomness(module.device, module.hparams["seed"], schedule.batches, module.global_rank)
            height, width = map_size(batch["mask"])
            crops = f"{len(batch['mask'])} crops of {height} x {width} pixels"
            advice = "lower --data.batch_size, with --model.accumulate N to make up for it, or --data.crop_size"
            memory = in_memory("batch_size", crops, advice)
            with random, memory, matmul_precision(module.hparams["matmul_precision"]):
                yield kind
        if kind == "self_training":
            counts.tally("ignored_pixels", host.ignored)
            counts.tally("unseen_pixels", host.hidden)
        self.updates.end_batch(last=schedule.batches + 1 == schedule.total_batches)
        numbers |= {"train/skipped": counts.skipped, "train/hidden_pixels": host.hidden}
        if self.updates.max_nonfinite:
            numbers["train/nonfinite"] = counts.nonfinite
        # at once: Lightning would have the host wait for each number to be on the device
        values = to_device(torch.tensor(list(numbers.values()), dtype=torch.float32), module.device)
        module.log_dict(dict(zip(numbers, values, strict=True)), batch_size=1)
        self.updates.average_statistics()
        schedule.batches += 1
        module.trainer.should_stop |= schedule.done

    def record(self, losses: Mapping[str, Tensor], batch: Batch) -> None:
        """Log the losses of a batch, and keep them for the progress bar."""
        self.losses = {name: loss.detach() for name, loss in losses.items()}
        self.module.log_dict({f"train/{name}": x for name, x in self.losses.items()}, batch_size=len(batch["id"]))

    def _begin(self) -> tuple[str, dict[str, float]]:
        """Prepare for a batch; return the kind of its phase, and rates to log."""
        schedule, phase = self.progress.schedule, self.progress.schedule.phase
        if schedule.at_phase_start:
            self.enter_phase(phase.kind)
        trained = self.progress.plan[phase.kind]
        rates = self.updates.begin_batch(trained, self.rates(phase.kind))
        if self._announced != phase.name:
            self._announced = phase.name
            log.info("phase %s: %d iterations, training %s", phase.name, phase.iterations, ", ".join(sorted(trained)))
        return phase.kind, {f"lr/{name}": rate for name, rate in rates.items()}

    def _agree(self, any_labelled: bool) -> tuple[bool, bool]:
        """Return whether any process has a labelled pixel, and whether any was told to stop."""
        if self.module.trainer.world_size == 1:
            return any_labelled, self.told_to_stop
        # All ranks must take the same path, or the gradient exchange would wait for ever.
        flags = to_device(torch.tensor([any_labelled, self.told_to_stop], dtype=torch.float32), self.module.device)
        torch.distributed.all_reduce(flags)
        labelled, stop = flags.tolist()
        return labelled > 0, stop > 0
