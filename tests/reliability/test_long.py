"""20,000 iterations of a tiny model: memory and open files stay where they are."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl

from sign_zs3.tasks import ZeroShotTask
from tests.reliability.programs import finish, start, write_config

pytestmark = [
    pytest.mark.reliability,
    pytest.mark.skipif(sys.platform != "linux", reason="memory and files are counted through /proc"),
]

LENGTHS = {
    "train_iterations": 10_000, "generator_iterations": 2_000, "transfer_iterations": 4_000,
    "self_training_iterations": 4_000, "lr": 1e-3, "lr_transfer": 1e-3, "lr_self_training": 1e-3, "clip_norm": 1.0,
}  # fmt: skip
SETTLED = 1_000
EVERY = 100


class Watch(pl.Callback):
    """Note memory, open files and processes of the run every hundred iterations.

    Args:
        path: Where to write them, as JSON.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        self.noted: list[dict[str, int]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Count."""
        assert isinstance(pl_module, ZeroShotTask)
        if pl_module.schedule.batches % EVERY == 0:
            self.note(pl_module.schedule.batches)

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write what was counted."""
        self.path.write_text(json.dumps(self.noted), encoding="utf-8")

    def note(self, batches: int) -> None:
        """Count once."""
        pid = os.getpid()
        ours = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
        self.noted.append(
            {
                "batches": batches,
                "own_kib": _memory(pid),
                "all_kib": sum(map(_memory, ours)),
                "files": len(list(Path(f"/proc/{pid}/fd").iterdir())),
                "processes": len(ours),
            }
        )


def _memory(pid: int) -> int:
    """Return the memory that is a process's own, in KiB: what it shares with others is not its growth."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def test_memory_and_files_stay_flat_over_twenty_thousand_iterations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "noted.json"
    watch = {"class_path": "tests.reliability.test_long.Watch", "init_args": {"path": str(path)}}
    config = write_config(
        tmp_path, LENGTHS, {"num_workers": 2}, callbacks=[watch], val_check_interval=2_000, enable_progress_bar=False
    )
    finish(start("fit", "--config", config, "--checkpoint.every", "1000"), seconds=3_000)
    noted = [entry for entry in json.loads(path.read_text()) if entry["batches"] > SETTLED]
    assert noted[-1]["batches"] == 20_000
    batches = np.array([entry["batches"] for entry in noted]) / 1_000
    slopes = {}
    for name in ("own_kib", "all_kib"):
        slopes[name] = float(np.polyfit(batches, [entry[name] / 1_024 for entry in noted], 1)[0])
    files, processes = ({entry[name] for entry in noted} for name in ("files", "processes"))
    with capsys.disabled():
        print(
            f"\nMiB per 1,000 iterations after the first {SETTLED}: {slopes['own_kib']:+.3f} of the run itself, "
            f"{slopes['all_kib']:+.3f} with its workers; open files {sorted(files)}; processes {sorted(processes)}\n"
            + ", ".join(f"{e['batches']}: {e['own_kib'] / 1024:.1f} MiB" for e in noted if e["batches"] % 1_000 == 100)
        )
    # what the run shares with its workers comes and goes, so the highest of each half is compared
    half = len(noted) // 2
    for name in ("own_kib", "all_kib"):
        first, second = (max(entry[name] for entry in part) for part in (noted[:half], noted[half:]))
        assert second < 1.1 * first
    # a validation starts workers of its own once, and they stay
    assert max(files) - min(files) <= 8
    assert max(processes) <= 1 + 2 + 2
