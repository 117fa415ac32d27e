from __future__ import annotations

import pytest
import torch

from sign_zs3 import UserError
from sign_zs3.tasks import Schedule
from sign_zs3.tasks.schedule import counted_randomness

LENGTHS = {"train": 3, "generator": 0, "transfer": 2, "self_training": 2}


def walk(schedule: Schedule) -> list[tuple[str, int, bool, str | None]]:
    seen = []
    while not schedule.done:
        phase, (_, done), start = schedule.phase, schedule.locate(), schedule.at_phase_start
        schedule.batches += 1
        finished = schedule.just_finished()
        seen.append((phase.name, done, start, finished.name if finished else None))
    return seen


def test_phases_follow_each_other() -> None:
    schedule = Schedule.build(LENGTHS, rounds=2)
    assert schedule.total == 9
    assert walk(schedule) == [
        ("train", 0, True, None),
        ("train", 1, False, None),
        ("train", 2, False, "train"),
        ("transfer", 0, True, None),
        ("transfer", 1, False, "transfer"),
        ("self_training", 0, True, None),
        ("self_training", 1, False, "self_training"),
        ("self_training_2", 0, True, None),
        ("self_training_2", 1, False, "self_training_2"),
    ]
    assert schedule.locate() == (3, 2)


def test_accumulation_counts_batches() -> None:
    schedule = Schedule.build(LENGTHS, only=["transfer"], accumulate=3)
    assert schedule.total_batches == 6
    steps = []
    while not schedule.done:
        steps.append((schedule.iteration, schedule.batches_pending, schedule.completes_iteration))
        schedule.batches += 1
    assert steps == [(0, 0, False), (0, 1, False), (0, 2, True), (1, 0, False), (1, 1, False), (1, 2, True)]


def test_first_batch_of_a_kind() -> None:
    schedule = Schedule.build(LENGTHS, accumulate=2)
    assert schedule.first_batch("self_training") == 10
    assert schedule.first_batch("generator") is None


def test_state_resumes_and_refuses_another_schedule() -> None:
    schedule = Schedule.build(LENGTHS)
    schedule.batches = 4
    other = Schedule.build(LENGTHS)
    other.load_state_dict(schedule.state_dict())
    assert other.phase.name == "transfer"
    with pytest.raises(UserError, match="resume with the same schedule"):
        Schedule.build(LENGTHS, only=["train"]).load_state_dict(schedule.state_dict())


@pytest.mark.parametrize(
    ("only", "lengths", "rounds", "message"),
    [
        (["training"], LENGTHS, 1, "found 'training', expected a list of train"),
        (["generator"], LENGTHS, 1, "nothing to run"),
        (None, LENGTHS | {"train": -1}, 1, "train_iterations: found -1"),
        (None, LENGTHS, 0, "at least 1 each"),
    ],
)
def test_bad_schedules(only: list[str] | None, lengths: dict[str, int], rounds: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Schedule.build(lengths, only, rounds)


def test_counted_randomness_depends_on_its_counters_alone() -> None:
    cpu = torch.device("cpu")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with counted_randomness(cpu, 0, 1):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with counted_randomness(cpu, 0, 1):
        assert torch.equal(torch.rand(3), first)
    with counted_randomness(cpu, 1, 0):
        assert not torch.equal(torch.rand(3), first)
