"""The progress bar: phase, iteration, losses."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar
from tqdm import tqdm

from sign_zs3.tasks.base import ZeroShotTask

SHOWN_EVERY = 10  # iterations between two looks at the losses
REST = 66  # characters of phase, counts, times and a short bar
NO_TERMINAL = 120  # columns of a file or a pipe
LOGGED_EVERY = 10.0  # seconds between two lines where standard error is a file or a pipe


def _fitting(parts: list[str], columns: int) -> str:
    """Join as many parts as fit, the first one in any case."""
    while len(parts) > 1 and len(", ".join(parts)) > columns:
        parts = parts[:-1]
    return ", ".join(parts)


class _Lines:
    """Standard error for a bar that is not redrawn: each of its states is a line."""

    def write(self, text: str) -> None:
        if line := text.replace("\x1b[A", "").strip():  # the way back to a bar above
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        sys.stderr.flush()


class ScheduleProgressBar(ProgressBar):
    """One bar over the iterations of all phases, and one over the batches of an evaluation."""

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._bar: tqdm[Any] = tqdm(disable=True)
        self._evaluation = self._bar

    def disable(self) -> None:
        """Show nothing (ranks other than 0)."""
        self._enabled = False

    def enable(self) -> None:
        """Show the bars."""
        self._enabled = True

    def _open(self, total: float, description: str, initial: int = 0, leave: bool = True) -> tqdm[Any]:
        options: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 0.5, "leave": leave}
        if not sys.stderr.isatty() and not type(sys.stderr).__module__.startswith("ipykernel"):  # notebooks redraw
            options = {"ncols": NO_TERMINAL, "mininterval": LOGGED_EVERY, "file": _Lines()}
        return tqdm(desc=description, total=total, initial=initial, disable=not self._enabled, **options)

    def _columns(self) -> int:
        with suppress(OSError, ValueError):  # no terminal
            return os.get_terminal_size(sys.stderr.fileno()).columns
        return NO_TERMINAL

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where the schedule stands."""
        assert isinstance(pl_module, ZeroShotTask)
        schedule = pl_module.schedule
        self._bar = self._open(schedule.total, schedule.phase.name, schedule.iteration)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Advance; losses are read from the device every few iterations only."""
        assert isinstance(pl_module, ZeroShotTask)
        schedule = pl_module.schedule
        if schedule.batches_pending:
            return
        phase, (_, done) = schedule.phase, schedule.locate()
        self._bar.update(schedule.iteration - self._bar.n)
        if done % SHOWN_EVERY == 0:
            self._bar.set_description(f"{phase.name} {done}/{phase.iterations}", refresh=False)
            losses = pl_module.training_run.losses
            values = torch.stack(list(losses.values())).tolist() if losses else []  # the host waits once
            shown = [f"{name.removeprefix('loss_')} {x:.3g}" for name, x in zip(losses, values, strict=True)]
            self._bar.set_postfix_str(_fitting(shown, self._columns() - REST), refresh=False)

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the bar."""
        self._bar.close()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        """Close the bars, so that the error's line stands alone."""
        self.on_train_end()
        self.on_validation_end()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the validation's bar."""
        first = trainer.sanity_checking
        total = sum(trainer.num_sanity_val_batches if first else trainer.num_val_batches)
        self._evaluation = self._open(total, "check of the validation" if first else "validation", leave=False)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the test's bar."""
        self._evaluation = self._open(sum(trainer.num_test_batches), "test", leave=False)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the prediction's bar."""
        self._evaluation = self._open(sum(trainer.num_predict_batches), "predict")

    def on_validation_batch_end(self, *args: Any, **kwargs: Any) -> None:
        """Advance the evaluation's bar."""
        self._evaluation.update()

    def on_validation_end(self, *args: Any, **kwargs: Any) -> None:
        """Close the evaluation's bar."""
        self._evaluation.close()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end
    on_test_end = on_predict_end = on_validation_end
