"""Mutated files of every format, few of them here and many in the long run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are Linux's")


def fuzz(inputs: int, seed: int, folder: Path) -> str:
    """In a process of its own, whose children may die."""
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--inputs", str(inputs), "--seed", str(seed)]
    done = subprocess.run([*command, "--failures", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return done.stdout


@linux
def test_each_of_some_mutated_files_gives_a_result_or_a_clear_error(tmp_path: Path) -> None:
    told = fuzz(400, 0, tmp_path)
    assert "code run: no" in told and not list(tmp_path.iterdir())


@linux
@pytest.mark.reliability
def test_each_of_many_mutated_files_gives_a_result_or_a_clear_error(tmp_path: Path) -> None:
    told = fuzz(20_000, 1, tmp_path)
    print(told)
    assert "code run: no" in told and not list(tmp_path.iterdir())
