"""Checkpoints by the module's own iterations: `trainer.global_step` counts the steps of three optimisers."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sign_zs3.files import replacing
from sign_zs3.tasks import ZeroShotTask

log = logging.getLogger(__name__)


class ScheduleCheckpoint(Checkpoint):
    """Save ``last.ckpt`` at intervals and when training stops, and ``PHASE.ckpt`` at the end of each phase.

    Files lie in ``checkpoints/`` of the run's folder. Each is written beside its place and renamed, so that a
    run that dies while writing leaves the last one whole. SIGTERM and ``--trainer.max_time`` save before the run
    stops. After an error, also a loss that is not finite, the files stay as they are.

    Args:
        every: Iterations between two saves of ``last.ckpt``; 0: only when training stops.

    Attributes:
        phase_files: Phase name -> file.
    """

    def __init__(self, every: int = 500) -> None:
        super().__init__()
        self.every = every
        self.phase_files: dict[str, str] = {}
        self._saved_at = -1

    def state_dict(self) -> dict[str, Any]:
        """Return where the phases' files lie, for a resumed run."""
        return {"phase_files": dict(self.phase_files)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the phases' files lie."""
        self.phase_files = dict(state_dict["phase_files"])

    def save(self, trainer: pl.Trainer, name: str) -> Path:
        """Write ``checkpoints/NAME.ckpt`` beside its place and rename it; called on all ranks."""
        folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        path = folder / f"{name}.ckpt"
        if trainer.is_global_zero:
            with replacing(path) as beside:
                trainer.save_checkpoint(beside, weights_only=False)
        else:
            trainer.save_checkpoint(path, weights_only=False)  # takes part in gathering; only rank 0 writes
        trainer.strategy.barrier("checkpoint renamed")
        return path

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where a phase or an interval ends."""
        assert isinstance(pl_module, ZeroShotTask)
        schedule = pl_module.schedule
        finished = schedule.just_finished()
        if finished is not None:
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
            self.phase_files[finished.name] = str(folder / f"{finished.name}.ckpt")
            self.save(trainer, finished.name)
        if self.every and schedule.micro == 0 and schedule.iteration % self.every == 0:
            self._save_last(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the end, whether the schedule is complete or the time is up."""
        self._save_last(trainer, pl_module)

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save on SIGTERM, which Lightning raises between batches; anything else may have left half a step."""
        # In the tests that close a run the module holds a phase's weights: nothing to save there.
        if isinstance(exception, SIGTERMException) and trainer.state.fn == TrainerFn.FITTING:
            self._save_last(trainer, pl_module)
            folder = Path(trainer.log_dir or trainer.default_root_dir)
            log.info("saved; go on with --ckpt_path %s", folder / "checkpoints" / "last.ckpt")

    def _save_last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ZeroShotTask)
        if self._saved_at != pl_module.schedule.batches:
            self._saved_at = pl_module.schedule.batches
            self.save(trainer, "last")
