"""That the benchmarks still run: what they measure is not looked at here."""

from __future__ import annotations

import pytest
from benchmarks import step


# as `step.quiet` does: what Lightning says of a loader that has no validation
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "train", "generator", "self_training", "transfer"])
def test_an_iteration_can_be_measured(kind: str) -> None:
    options = step.parser().parse_args(["--backbone", "resnet18", "--crop", "33", "--iterations", "2"])
    assert len(step.run(kind, options)) == 2
