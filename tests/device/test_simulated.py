"""Runs of all kinds on a device that is simulated, and what the host waits for there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

CASES = Path(__file__).with_name("cases.py")


def test_every_part_works_on_a_device_and_the_host_waits_for_it_once_an_iteration(tmp_path: Path) -> None:
    # the device is registered for good, so not in a process that runs other tests
    command = [sys.executable, "-m", "pytest", "-n0", "-q", "-p", "no:cacheprovider", "--basetemp", str(tmp_path / "t")]
    done = subprocess.run([*command, str(CASES)], capture_output=True, text=True, check=False, cwd=CASES.parents[2])
    assert done.returncode == 0, done.stdout[-10_000:] + done.stderr[-2_000:]
