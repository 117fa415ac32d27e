"""What a checkpoint tells beside weights: how far the training is, and where the class vectors come from."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from torch import Tensor, nn

from sign_zs3._version import __version__
from sign_zs3.errors import UserError
from sign_zs3.protocol import Protocol
from sign_zs3.tasks.checkpoint import CHECKPOINT_FORMAT, CHECKPOINT_KEY, stored_protocol
from sign_zs3.tasks.schedule import Schedule


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

    def tally(self, name: str, count: Tensor) -> None:
        """Add to a count of pixels."""
        self.tallies[name] = self.tallies.get(name, 0) + int(count)


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
