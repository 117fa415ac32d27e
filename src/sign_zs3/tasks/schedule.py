"""The schedule: phases counted in iterations, with a state that resumes in the middle of one; counts and origins."""

from __future__ import annotations

import hashlib
import itertools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from sign_zs3._version import __version__
from sign_zs3.errors import UserError
from sign_zs3.limits import MAX_ROUNDS
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, stored_protocol


@dataclass(frozen=True)
class Phase:
    """One stretch of training.

    Attributes:
        name: Unique; `kind`, with the round appended from the second round of self-training on.
        kind: ``train``, ``generator``, ``transfer`` or ``self_training``.
        iterations: Optimiser steps of each part that the phase trains.
    """

    name: str
    kind: str
    iterations: int


class Schedule:
    """Counts batches and iterations through a list of phases.

    Args:
        phases: In order.
        accumulate: Batches whose gradients make one iteration.

    Attributes:
        batches: Batches done since the start; the one number that is the state.
    """

    def __init__(self, phases: Sequence[Phase], accumulate: int = 1) -> None:
        self.phases = tuple(phases)
        self.accumulate = accumulate
        self.batches = 0
        self._ends = list(itertools.accumulate(phase.iterations for phase in phases))

    @classmethod
    def build(
        cls, iterations: dict[str, int], only: Sequence[str] | None = None, rounds: int = 1, accumulate: int = 1
    ) -> Schedule:
        """Build the schedule of a task from iterations by kind of phase, in order; phases of none are left out.

        `only` are the kinds to run, None for all; self-training is repeated `rounds` times, its teacher renewed before
        each. A `UserError` where kinds are unknown, lengths negative, or nothing is to run.
        """
        unknown = [kind for kind in only or () if kind not in iterations]
        if unknown:
            raise UserError(f"phases: found {unknown[0]!r}, expected a list of {', '.join(iterations)}")
        for kind, count in iterations.items():
            if count < 0:
                raise UserError(f"{kind}_iterations: found {count}, expected 0 (leave the phase out) or more")
        if rounds > MAX_ROUNDS:
            raise UserError(f"rounds: found {rounds}, expected at most {MAX_ROUNDS}")
        if rounds < 1 or accumulate < 1:
            raise UserError(f"rounds and accumulate: found {rounds} and {accumulate}, expected at least 1 each")
        phases = [
            Phase(kind if turn == 0 else f"{kind}_{turn + 1}", kind, count)
            for kind, count in iterations.items()
            if count and (only is None or kind in only)
            for turn in range(rounds if kind == "self_training" else 1)
        ]
        if not phases:
            raise UserError("phases: nothing to run, since every phase named has 0 iterations: set one of them above 0")
        return cls(phases, accumulate)

    @classmethod
    def of_state(cls, state: dict[str, Any]) -> Schedule:
        """Build the schedule that a state is of."""
        schedule = cls([Phase(*phase) for phase in state["phases"]], state["accumulate"])
        schedule.batches = int(state["batches"])
        return schedule

    @property
    def iteration(self) -> int:
        """Whole iterations done since the start."""
        return self.batches // self.accumulate

    @property
    def batches_pending(self) -> int:
        """Batches done of an iteration that is not complete."""
        return self.batches % self.accumulate

    @property
    def total(self) -> int:
        """Iterations of all phases."""
        return self._ends[-1]

    @property
    def total_batches(self) -> int:
        """Batches of all phases."""
        return self.total * self.accumulate

    @property
    def done(self) -> bool:
        """Whether all phases are complete."""
        return self.iteration >= self.total

    def locate(self) -> tuple[int, int]:
        """Return the index of the phase at hand and the iterations done in it (the last phase when done)."""
        index = min(bisect_right(self._ends, self.iteration), len(self.phases) - 1)
        start = self._ends[index] - self.phases[index].iterations
        return index, min(self.iteration, self.total) - start

    @property
    def phase(self) -> Phase:
        """The phase at hand (the last one when done)."""
        return self.phases[self.locate()[0]]

    @property
    def at_phase_start(self) -> bool:
        """Whether the next batch is the first of a phase."""
        return self.batches_pending == 0 and self.locate()[1] == 0

    @property
    def completes_iteration(self) -> bool:
        """Whether the batch at hand is the last of its iteration."""
        return self.batches_pending == self.accumulate - 1

    def just_finished(self) -> Phase | None:
        """Return the phase that the last batch completed, if it did."""
        if self.batches_pending or self.iteration not in self._ends:
            return None
        return self.phases[self._ends.index(self.iteration)]

    def finished(self) -> tuple[Phase, ...]:
        """Return the phases that are complete."""
        return self.phases[: bisect_right(self._ends, self.iteration)]

    def first_batch(self, kind: str) -> int | None:
        """Return the number of the first batch of the first phase of a kind; None where there is none."""
        starts = zip(self.phases, [0, *self._ends], strict=False)
        return next((start * self.accumulate for phase, start in starts if phase.kind == kind), None)

    def state_dict(self) -> dict[str, Any]:
        """Return the state as plain types."""
        return {
            "batches": self.batches,
            "accumulate": self.accumulate,
            "phases": [[phase.name, phase.kind, phase.iterations] for phase in self.phases],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state; a `UserError` where it belongs to other phases."""
        mine = self.state_dict()
        for key in ("phases", "accumulate"):
            if state[key] != mine[key]:
                raise UserError(
                    f"checkpoint: its {key} are {state[key]}, this run's are {mine[key]}: resume with the same "
                    "schedule, or start a new run from its weights with init_from"
                )
        self.batches = int(state["batches"])


@contextmanager
def counted_randomness(device: torch.device, *counters: object) -> Iterator[None]:
    """Draw random numbers, on the CPU and `device`, that depend on counters alone, such as seed, iteration and rank.

    The generators are then as before. So none needs to be stored for a resumed run to draw what a straight one draws.
    """
    digest = hashlib.blake2b(repr(counters).encode(), digest_size=8).digest()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(int.from_bytes(digest, "little") >> 1)
        yield


@dataclass
class Counts:
    """What a run counts on its way, for its report; no loss reads it.

    Attributes:
        skipped: Batches left out because they held no labelled pixel.
        nonfinite: Steps left out because their loss or gradient was not finite.
        tallies: Pixels by name.
    """

    skipped: int = 0
    nonfinite: int = 0
    tallies: dict[str, int] = field(default_factory=dict)

    def tally(self, name: str, count: int) -> None:
        """Add to a count of pixels."""
        self.tallies[name] = self.tallies.get(name, 0) + count


@dataclass
class Progress:
    """What must be saved with a model besides its tensors.

    Attributes:
        schedule: The phases and where the run stands.
        plan: Kind of phase -> names of the parts that it trains.
        counts: What the run has counted.
        looked_up: For each class the name whose vector it has: its own, unless it was renamed.
        centered_on: Names of the classes whose mean vector `center_vectors` subtracted.
        trained_before: Names of the parts that were trained in what this model started from.
        gradients: Name of a parameter -> its gradient, of an iteration that a checkpoint cut in two.
    """

    schedule: Schedule
    plan: Mapping[str, frozenset[str]]
    counts: Counts = field(default_factory=Counts)
    looked_up: tuple[str, ...] = ()
    centered_on: tuple[str, ...] = ()
    trained_before: frozenset[str] = frozenset()
    gradients: dict[str, Tensor] = field(default_factory=dict)

    @property
    def trained_parts(self) -> frozenset[str]:
        """Names of the parts that a finished phase trained, here or in what this model started from."""
        return self.trained_before.union(*(self.plan[phase.kind] for phase in self.schedule.finished()))

    def stored(self, method: str, protocol: Protocol, parameters: Iterable[tuple[str, nn.Parameter]]) -> dict[str, Any]:
        """Return the library's own part of a checkpoint, plain types and tensors."""
        partial = self.schedule.batches_pending > 0
        return {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "method": method,
            "protocol": protocol.as_dict(),
            "looked_up": list(self.looked_up),
            "centered_on": list(self.centered_on),
            "schedule": self.schedule.state_dict(),
            "trained_parts": sorted(self.trained_parts),
            **asdict(self.counts),
            "gradients": {n: p.grad for n, p in parameters if partial and p.grad is not None},
        }

    def start_from(self, checkpoint: Mapping[str, Any]) -> None:
        """Take up where a checkpoint's class vectors come from, and which parts were trained before it."""
        own, classes = checkpoint[CHECKPOINT_KEY], stored_protocol(checkpoint).classes
        # checkpoints from before classes could be added or renamed have neither
        self.looked_up = tuple(own.get("looked_up", classes))
        self.centered_on = tuple(own.get("centered_on", classes))
        if "trained_parts" in own:
            self.trained_before = frozenset(own["trained_parts"])
        else:
            # Old checkpoints do not say what theirs had trained. If C knows all classes, every part was trained.
            taught = bool(checkpoint["state_dict"]["segmenter.known"].all())
            kinds = {phase.kind for phase in Schedule.of_state(own["schedule"]).finished()}
            parts = (parts for kind, parts in self.plan.items() if taught or kind in kinds)
            self.trained_before = frozenset[str]().union(*parts)

    def resume(self, checkpoint: Mapping[str, Any], parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Take up all that a checkpoint stored; a `UserError` where its schedule or a gradient is not the model's."""
        own = checkpoint[CHECKPOINT_KEY]
        self.start_from(checkpoint)
        self.schedule.load_state_dict(own["schedule"])
        # the first checkpoints had not all counts
        self.counts = Counts(**{name: own[name] for name in asdict(Counts()) if name in own})
        shapes = {name: value.shape for name, value in parameters}
        if odd := [name for name, value in own["gradients"].items() if shapes.get(name) != value.shape]:
            raise UserError(f"checkpoint: found a gradient for {odd[0]:.100}, which fits no weight of the model")
        self.gradients = own["gradients"]
