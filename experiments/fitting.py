"""Runs that are made once, what is there is not run again; and tests on the maps that they kept."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer

from sign_zs3 import ZeroShotTask, load_task
from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.data.datamodules import ZeroShotDataModule


def finished_run(folder: Path) -> Path | None:
    """Return the latest finished run in a folder of runs; None where there is none."""
    found = list(folder.glob("version_*/results.json"))
    return max(found, key=lambda path: path.stat().st_mtime).parent if found else None


def fit_unless_done(folder: Path, arguments: Sequence[str], log: bool = False) -> Path:
    """Run `sign-zs3 fit` into a folder unless a run there is finished; return the run.

    Args:
        folder: Of the runs.
        arguments: Of `fit`, but for the folder.
        log: Write what the program prints into ``log.txt`` of the folder, on one thread.

    Raises:
        subprocess.CalledProcessError: The program failed.
    """
    if (done := finished_run(folder)) is not None:
        return done
    command = [sys.executable, "-m", "sign_zs3", "fit", *arguments, "--trainer.default_root_dir", str(folder)]
    if log:
        folder.mkdir(parents=True, exist_ok=True)
        # more threads than one would wait for each other where two runs share two cores
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with (folder / "log.txt").open("w", encoding="utf-8") as file:
            file.write(" ".join(command) + "\n")
            file.flush()
            subprocess.run(command, stdout=file, stderr=subprocess.STDOUT, env=environment, check=True)
    else:
        subprocess.run(command, check=True)
    done = finished_run(folder)
    assert done is not None
    return done


def test(model: ZeroShotTask, data: ZeroShotDataModule, folder: str | None) -> None:
    """Test a model on the CPU, on the maps of a frozen backbone that are kept in a folder, where these are enough."""
    trainer = Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    model.hparams["feature_cache"], before = folder, model.hparams["feature_cache"]
    try:
        trainer.test(model, data, verbose=False)
    finally:
        model.hparams["feature_cache"] = before


def scores_of(run: Path, checkpoint: str = "last", **options: Any) -> list[float]:
    """Return seen, unseen and harmonic mIoU in % of a run's model on its test images, with options of inference."""
    configured = ConfiguredCLI(["--config", str(run / "config.yaml")], "A run.")
    model = load_task(run / "checkpoints" / f"{checkpoint}.ckpt")
    model.hparams.update(options)
    assert isinstance(configured.datamodule, ZeroShotDataModule)
    test(model, configured.datamodule, configured.config["model"]["feature_cache"])
    return [100 * float(model.scores[f"{part}_miou"]) for part in ("seen", "unseen", "harmonic")]
