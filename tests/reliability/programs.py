"""The program in a process of its own, and what it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from tests.conftest import TINY

ROOT = Path(__file__).parents[2]
DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}
# what a SLURM job or torchrun would have set
CLEAN = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_"))} | {
    "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
}  # fmt: skip


def write_config(
    folder: Path, model: dict[str, Any] | None = None, data: dict[str, Any] | None = None, **trainer: Any
) -> str:
    """Write a tiny run below `folder`, whose options may be others."""
    content = {
        "trainer": {"default_root_dir": str(folder / "runs"), "accelerator": "cpu", **trainer},
        "data": {"class_path": "ShapesDataModule", "init_args": {**DATA, "num_workers": 0, **(data or {})}},
        "model": {**TINY, **(model or {})},
    }
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(folder / "tiny.yaml")


def start(*arguments: str, module: str = "sign_zs3", **environment: str) -> subprocess.Popen[str]:
    """Start ``python -m MODULE ARGUMENTS``, with pipes."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        cwd=ROOT, env=CLEAN | environment,
    )  # fmt: skip


def finish(program: subprocess.Popen[str], status: int = 0, seconds: float = 400) -> str:
    """Wait for a program and return its error output; any other status than this one is a failure."""
    _, err = program.communicate(timeout=seconds)
    assert program.returncode == status, f"status {program.returncode}: {err[-3000:]}"
    return err


def wait_for(condition: Callable[[], bool], program: subprocess.Popen[str], seconds: float = 300) -> None:
    """Wait until a program has come so far, or has ended."""
    deadline = time.monotonic() + seconds
    while not condition() and program.poll() is None:
        assert time.monotonic() < deadline, "it did not come so far"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that are not gone."""
    found = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in found.read_text().split()] if found.exists() else []


def alive(pid: int) -> bool:
    """Say whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def weights(path: Path) -> dict[str, Tensor]:
    """Return the state of the model in a checkpoint."""
    found: dict[str, Tensor] = torch.load(path, weights_only=True)["state_dict"]
    return found


def same(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    """Say whether two states are equal bit by bit."""
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def last_line(text: str) -> str:
    """Return the last line of an output."""
    return text.strip().splitlines()[-1]
