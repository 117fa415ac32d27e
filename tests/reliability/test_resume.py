"""Killed at any moment, a run goes on from its last checkpoint and ends in the weights of one never stopped."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3.tasks.checkpoint import read_checkpoint
from tests.reliability.beats import beat
from tests.reliability.programs import same, weights, write_config
from tests.reliability.server import Run, serving

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork and SIGKILL")

LENGTHS = {
    "train_iterations": 60,
    "generator_iterations": 40,
    "transfer_iterations": 40,
    "self_training_iterations": 60,
}
RATES = {"lr": 1e-3, "lr_transfer": 1e-3, "lr_self_training": 1e-3, "clip_norm": 1.0}
EVERY = 3


def ended(run: Run, seconds: float = 300) -> int:
    """Wait for a run and return its status."""
    deadline = time.monotonic() + seconds
    while (status := run.poll()) is None:
        assert time.monotonic() < deadline, run.log.read_text()[-2000:]
        time.sleep(0.02)
    return status


def optimisers(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of all optimisers' states in a checkpoint."""
    states = torch.load(path, weights_only=True)["optimizer_states"]
    return {
        f"{number}.{key}.{name}": torch.as_tensor(value)
        for number, state in enumerate(states)
        for key, entry in state["state"].items()
        for name, value in entry.items()
        if value is not None
    }


def check_files(runs: Path) -> int:
    """Read every checkpoint that there is, as a resumed run would; return the batches of the newest last.ckpt."""
    for path in runs.glob("**/checkpoints/*.ckpt"):
        stored = read_checkpoint(path)
        assert all(bool(v.isfinite().all()) for v in stored["state_dict"].values() if v.is_floating_point())
    newest = max(runs.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    return int(read_checkpoint(newest)["sign_zs3"]["schedule"]["batches"])


@pytest.mark.parametrize(
    ("kills", "workers"),
    [(4, 0), pytest.param(40, 0, marks=pytest.mark.reliability), pytest.param(12, 2, marks=pytest.mark.reliability)],
)
def test_killed_in_every_phase_a_run_ends_in_the_weights_of_a_straight_one(
    kills: int, workers: int, tmp_path: Path
) -> None:
    """Half of the kills come at a random moment, half as soon as a checkpoint is being written."""
    draw = random.Random(kills)
    lengths = {name: length // (3 if kills == 4 else 1) for name, length in LENGTHS.items()}
    # the same number of kills in each phase, at random batches of it
    bounds = [0]
    for length in lengths.values():
        bounds.append(bounds[-1] + length)
    share = kills // len(lengths)
    targets = sorted(
        draw.randrange(first + 1, last - 1) for first, last in itertools.pairwise(bounds) for _ in range(share)
    )
    path = tmp_path / "beat"
    beats = {"class_path": "tests.reliability.beats.Beats", "init_args": {"path": str(path)}}
    options: dict[str, Any] = {"data": {"num_workers": workers}, "callbacks": [beats], "enable_progress_bar": False}
    config = write_config(tmp_path, lengths | RATES, **options)
    common = ["fit", "--config", config, "--checkpoint.every", str(EVERY)]
    runs, killed, writing, stored = tmp_path / "runs", 0, 0, 0
    with serving() as server:
        straight = Run(
            server, tmp_path / "straight.log", [*common, "--trainer.default_root_dir", str(tmp_path / "one")]
        )
        assert ended(straight) == 0, straight.log.read_text()[-2000:]
        for number, target in enumerate(targets):
            path.unlink(missing_ok=True)
            again = ["--ckpt_path", "last"] if number else []
            run = Run(server, tmp_path / f"{number}.log", [*common, *again])
            while beat(path) < target and run.poll() is None:
                time.sleep(0.001)
            if number % 2:
                folder = runs / f"version_{number}" / "checkpoints"
                deadline = time.monotonic() + 5
                while not (seen := list(folder.glob(".*.part"))) and time.monotonic() < deadline:
                    assert run.poll() is None, "the run ended before it was killed"
                writing += bool(seen)
            else:
                time.sleep(draw.random() * 0.05)
            os.kill(run.pid, signal.SIGKILL)
            assert ended(run) == -signal.SIGKILL
            killed += 1
            reached = check_files(runs)
            # nothing that was saved before is lost, and no more than what lies between two saves
            assert reached >= max(stored, target - EVERY - 1)
            stored = reached
        last = Run(server, tmp_path / "last.log", [*common, "--ckpt_path", "last"])
        assert ended(last) == 0, last.log.read_text()[-2000:]
    assert killed == share * len(lengths) and writing > 0
    ends = [tmp_path / "one" / "version_0", runs / f"version_{len(targets)}"]
    checkpoints = [end / "checkpoints" / "last.ckpt" for end in ends]
    assert same(*(weights(checkpoint) for checkpoint in checkpoints))
    assert same(*(optimisers(checkpoint) for checkpoint in checkpoints))
    scores = [json.loads((end / "results.json").read_text())["phases"] for end in ends]
    assert repr(scores[0]) == repr(scores[1])
