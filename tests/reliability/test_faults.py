"""Shared machines: the disk is full, a folder is closed, the data vanish, SLURM takes the machine back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sign_zs3.tasks.checkpoint import read_checkpoint
from tests.reliability.programs import finish, last_line, same, start, wait_for, weights, write_config

ENDLESS = {"lr": 1e-6, "lr_transfer": 1e-6, "train_iterations": 100_000}
SLOW_TO_END = {"transfer_iterations": 60}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False
    if sys.platform == "linux" and os.geteuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
        mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0
    if not mounted:
        pytest.skip("a small file system can be mounted by root on Linux alone")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no room on a disk."""
    with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def errors(err: str) -> list[str]:
    """Return the lines of an output that tell an error, of which there must be one, and the last."""
    assert "Traceback" not in err, err[-3000:]
    return [line for line in err.splitlines() if line.startswith("error:")]


def test_a_full_disk_is_noticed_before_training(small_disk: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, ENDLESS)
    fill(small_disk)
    err = finish(start("fit", "--config", config, "--trainer.default_root_dir", str(small_disk / "runs")), 1)
    assert errors(err) == [last_line(err)]
    assert "No space left on device" in last_line(err) and str(small_disk) in last_line(err)


@pytest.mark.reliability
def test_a_disk_that_fills_ends_the_run_with_one_line_and_the_last_checkpoint_whole(
    small_disk: Path, tmp_path: Path
) -> None:
    config = write_config(tmp_path, ENDLESS)
    root = ["--trainer.default_root_dir", str(small_disk / "runs"), "--checkpoint.every", "20"]
    program = start("fit", "--config", config, *root)
    last = small_disk / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(lambda: last.exists() and read_checkpoint(last)["sign_zs3"]["schedule"]["batches"] > 0, program)
    fill(small_disk)
    err = finish(program, 1)
    assert errors(err) == [last_line(err)]
    assert "No space left on device" in last_line(err) and str(small_disk) in last_line(err)
    done = read_checkpoint(last)["sign_zs3"]["schedule"]["batches"]
    assert done > 0
    # with room again it goes on
    (small_disk / "filler").unlink()
    program = start("fit", "--config", config, *root, "--ckpt_path", "last", "--trainer.max_time", "00:00:00:01")
    finish(program, 75)
    later = read_checkpoint(small_disk / "runs" / "version_1" / "checkpoints" / "last.ckpt")
    assert later["sign_zs3"]["schedule"]["batches"] > done


@pytest.mark.reliability
def test_a_folder_that_becomes_read_only_ends_the_run_with_one_line(small_disk: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path, ENDLESS)
    root = ["--trainer.default_root_dir", str(small_disk / "runs"), "--checkpoint.every", "20"]
    program = start("fit", "--config", config, *root)
    last = small_disk / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(last.exists, program)
    # the program has files open for a moment at a time
    remount = ["mount", "-o", "remount,ro", str(small_disk)]
    wait_for(lambda: subprocess.run(remount, check=False, capture_output=True).returncode == 0, program)
    err = finish(program, 1)
    assert errors(err) == [last_line(err)]
    assert "read-only" in last_line(err).lower() and str(small_disk) in last_line(err)
    read_checkpoint(last)
    # and a run that starts there says so at once
    err = finish(start("fit", "--config", config, *root), 1)
    assert errors(err) == [last_line(err)] and "read-only" in last_line(err).lower()


def write_data(root: Path) -> None:
    """Write a folder of images and masks of two classes."""
    random = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    (root / "masks").mkdir()
    (root / "classes.txt").write_text("1\tcow\n2\tgrass\n3\tdog\n", encoding="utf-8")
    for number in range(10):
        Image.fromarray(random.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(root / "images" / f"{number}.png")
        Image.fromarray(random.integers(1, 4, (32, 32), dtype=np.uint8)).save(root / "masks" / f"{number}.png")


@pytest.mark.reliability
@pytest.mark.parametrize("workers", [0, 2])
def test_data_that_vanish_end_the_run_with_one_line_and_the_last_checkpoint_whole(workers: int, tmp_path: Path) -> None:
    root = tmp_path / "data"
    write_data(root)
    config = write_config(tmp_path, ENDLESS)
    data = ["--data", "FolderDataModule", "--data.root", str(root), "--data.unseen", "[dog]", "--data.crop_size", "32"]
    data += ["--data.batch_size", "2", "--data.eval_batch_size", "1", "--data.num_workers", str(workers)]
    program = start("fit", "--config", config, *data, "--checkpoint.every", "5")
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(lambda: last.exists() and read_checkpoint(last)["sign_zs3"]["schedule"]["batches"] > 0, program)
    root.rename(tmp_path / "elsewhere")
    err = finish(program, 1)
    assert errors(err) == [last_line(err)]
    assert str(root) in last_line(err)
    assert read_checkpoint(last)["sign_zs3"]["schedule"]["batches"] > 0
    err = finish(start("fit", "--config", config, *data, "--ckpt_path", "last"), 1)
    assert errors(err) == [last_line(err)] and str(root) in last_line(err)


@pytest.mark.reliability
@pytest.mark.parametrize("requeues", [True, False])
def test_slurm_takes_the_machine_back_and_the_job_goes_on_when_it_is_started_again(
    requeues: bool, tmp_path: Path
) -> None:
    """Stands in for SLURM: the variables of a job of one task, its signal before the time limit, and `scontrol`."""
    config = write_config(tmp_path, SLOW_TO_END)
    finish(start("fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "straight")))
    (tmp_path / "scontrol").write_text(
        f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n{"exit 0" if requeues else "echo refused >&2; exit 1"}\n'
    )
    (tmp_path / "scontrol").chmod(0o755)
    job = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "1", "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    program = start("fit", "--config", config, **job)
    wait_for((tmp_path / "runs" / "version_0" / "checkpoints" / "generator.ckpt").exists, program)
    program.send_signal(signal.SIGUSR1)
    err = finish(program, 143)
    assert last_line(err) == "stopped by SIGUSR1"
    assert (tmp_path / "asked").read_text() == "requeue 4711\n"
    assert ("SLURM was asked to start job 4711 again" in err) == requeues
    assert ("did not take job 4711 back (refused): submit it again with --ckpt_path last" in err) != requeues
    # another job in the same folder starts anew, this one goes on, each by the same command
    first = start("fit", "--config", config, "--trainer.max_time", "00:00:00:01", **(job | {"SLURM_JOB_ID": "4712"}))
    assert "started this job again" not in finish(first, 75)
    # and another command of the same job too
    again = job | {"SLURM_RESTART_COUNT": "1"}
    other = start("fit", "--config", config, "--seed_everything", "1", "--trainer.max_time", "00:00:00:01", **again)
    assert "started this job again" not in finish(other, 75)
    err = finish(start("fit", "--config", config, **again))
    assert "SLURM has started this job again: resuming from" in err
    ends = [
        weights(tmp_path / where / "checkpoints" / "last.ckpt") for where in ("straight/version_0", "runs/version_3")
    ]
    assert same(*ends)


def test_slurm_may_take_the_machine_back_before_anything_is_trained(tmp_path: Path) -> None:
    """Its signal while masks are read: no checkpoint of Lightning's own is left, from which a later run would start."""
    config = write_config(tmp_path, data={"train_size": 100_000, "unseen_pixels": "drop"})
    (tmp_path / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    (tmp_path / "scontrol").chmod(0o755)
    job = {
        "SLURM_JOB_ID": "4711", "SLURM_ARRAY_JOB_ID": "4709", "SLURM_ARRAY_TASK_ID": "2", "SLURM_JOB_NAME": "train",
        "SLURM_NTASKS": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    program = start("fit", "--config", config, **job)
    wait_for((tmp_path / "runs").exists, program)
    program.send_signal(signal.SIGUSR1)
    err = finish(program, 143)
    assert last_line(err) == "stopped by SIGUSR1"
    assert (tmp_path / "asked").read_text() == "requeue 4709_2\n"
    assert not list((tmp_path / "runs").glob("**/*.ckpt"))
