"""The same seed gives the same weights in fresh processes, whatever the workers and Python's own hash seed."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from sign_zs3.tasks.checkpoint import read_checkpoint
from tests.reliability.programs import children, finish, last_line, same, start, wait_for, weights, write_config


@pytest.mark.reliability
def test_two_fresh_processes_end_in_the_same_weights(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    programs = [
        start(
            *("fit", "--config", config, "--data.num_workers", str(workers)),
            *("--trainer.default_root_dir", str(tmp_path / str(workers))),
            PYTHONHASHSEED=str(workers),
        )
        for workers in (0, 2)
    ]
    for program in programs:
        finish(program)
    ends = [weights(tmp_path / str(workers) / "version_0" / "checkpoints" / "last.ckpt") for workers in (0, 2)]
    assert same(*ends)
    other = start(
        "fit", "--config", config, "--seed_everything", "1", "--trainer.default_root_dir", str(tmp_path / "1")
    )
    finish(other)
    assert not same(ends[0], weights(tmp_path / "1" / "version_0" / "checkpoints" / "last.ckpt"))


@pytest.mark.reliability
def test_a_worker_that_dies_ends_the_run_and_the_next_one_starts_cleanly(tmp_path: Path) -> None:
    config = write_config(tmp_path, {"lr": 1e-6, "train_iterations": 100_000}, {"num_workers": 2})
    program = start("fit", "--config", config, "--checkpoint.every", "5")
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(lambda: last.exists() and read_checkpoint(last)["sign_zs3"]["schedule"]["batches"] > 0, program)
    workers = children(program.pid)
    os.kill(workers[0], signal.SIGKILL)
    err = finish(program, 1)
    assert last_line(err).startswith("error: num_workers: DataLoader worker") and "Traceback" not in err
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
    finish(start("fit", "--config", config, "--ckpt_path", "last", "--trainer.max_time", "00:00:00:01"), 75)
