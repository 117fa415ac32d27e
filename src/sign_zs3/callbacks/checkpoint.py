"""Checkpoints by the module's own iterations: `trainer.global_step` counts the steps of three optimisers."""

import logging
import signal
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sign_zs3.callbacks.stopping import StopSignals, end_with_parent, note_for_job
from sign_zs3.errors import check_at_least
from sign_zs3.files import replacing
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.checkpoint import CheckpointFiles

log = logging.getLogger(__name__)


class ScheduleCheckpoint(Checkpoint):
    """Save ``last.ckpt`` at intervals and when training stops, and ``PHASE.ckpt`` at the end of each phase.

    Files lie in ``checkpoints/`` of the run's folder. Each is written beside its place and renamed, so that a run that
    dies while writing leaves the last one whole. ``last.ckpt`` is there before the first batch, so that a disk that
    cannot be written to is noticed at once, before each validation and, unless `every` is 0, at the end of each phase.
    Ctrl-C, SIGTERM, ``--trainer.max_time`` and, in a SLURM job, the signal before its time limit save between two
    batches and stop the run; that job is put back into SLURM's queue, and goes on from there when it is started again.
    A second Ctrl-C stops at once. After an error, also a loss that is not finite, the files stay as they are.

    Args:
        every: Iterations between two saves of ``last.ckpt``; 0: only when training stops.

    Attributes:
        phase_files: Phase name -> file.
        signals: Those that stop the run.

    Raises:
        UserError: `every` is negative.
    """

    def __init__(self, every: int = 500) -> None:
        super().__init__()
        check_at_least(0, **{"checkpoint.every": every})
        self.every = every
        self.phase_files: dict[str, str] = {}
        self._folder = Path()
        self._saved_at = -1
        self.signals = StopSignals()

    def state_dict(self) -> dict[str, Any]:
        """Return where the phases' files lie, for a resumed run."""
        return {"phase_files": dict(self.phase_files)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up where the phases' files lie."""
        self.phase_files = dict(state_dict["phase_files"])

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Write files without Lightning's detour; look out for signals; end with the process that started this one."""
        self.signals.prepare(trainer)
        self._saved_at = -1
        if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
            trainer.strategy.checkpoint_io = CheckpointFiles()
        end_with_parent()

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Put handlers back."""
        self.signals.restore()

    def save(self, trainer: pl.Trainer, name: str) -> Path:
        """Write ``checkpoints/NAME.ckpt`` beside its place and rename it; called on all ranks."""
        path = self._folder / f"{name}.ckpt"
        with replacing(path) if trainer.is_global_zero else nullcontext(path) as beside:
            trainer.save_checkpoint(beside, weights_only=False)  # all ranks take part in gathering; only rank 0 writes
        trainer.strategy.barrier("checkpoint renamed")
        return path

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save the start."""
        self.signals.take_over(trainer)
        # Lightning's own question after SIGTERM, which has all ranks wait before each batch
        trainer.fit_loop.epoch_loop._broadcast_sigterm_tensor = lambda: None  # type: ignore[method-assign]
        # all ranks ask at once, since rank 0 tells the others
        self._folder = Path(trainer.log_dir or trainer.default_root_dir) / "checkpoints"
        self._save_last(trainer, pl_module)

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        """Hand on whether this rank was told to stop, so that all know by the end of the batch."""
        assert isinstance(pl_module, ZeroShotTask)
        pl_module.training_run.told_to_stop = self.signals.received is not None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any, **kwargs: Any) -> None:
        """Save where a phase or an interval ends."""
        assert isinstance(pl_module, ZeroShotTask)
        schedule = pl_module.schedule
        finished = schedule.just_finished()
        if finished is not None:
            self.phase_files[finished.name] = str(self._folder / f"{finished.name}.ckpt")
            self.save(trainer, finished.name)
        interval_ends = schedule.batches_pending == 0 and self.every and schedule.iteration % self.every == 0
        if interval_ends or (finished is not None and self.every):
            self._save_last(trainer, pl_module)
        if not schedule.done and self.signals.agreed(trainer, pl_module.training_run.agreed_to_stop):
            self._save_last(trainer, pl_module)
            self.signals.requeue(trainer)
            trainer.strategy.barrier("requeued")  # SLURM may end all ranks when one has ended
            raise self.signals.exception

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save before a validation, which may take longer than a signal leaves."""
        self.signals.take_over(trainer)
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
            self._save_last(trainer, pl_module)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Look out for signals."""
        self.signals.take_over(trainer)

    def _stop_evaluation(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        # ranks may have different numbers of batches, so each stops for itself
        if self.signals.received is not None:
            self.signals.requeue(trainer)
            raise self.signals.exception

    on_predict_start = on_test_start
    on_validation_batch_end = on_test_batch_end = on_predict_batch_end = _stop_evaluation

    def _save_last(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, ZeroShotTask)
        if self._saved_at != pl_module.schedule.batches:
            path = self.save(trainer, "last")
            self._saved_at = pl_module.schedule.batches
            if trainer.is_global_zero:
                note_for_job(Path(trainer.default_root_dir), path)

    on_train_end = _save_last  # whether the schedule is complete or the time is up

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Say how to go on after a signal; anything else may have left half a step, and nothing is saved."""
        self.signals.restore(signal.SIGINT)
        if self._saved_at < 0 or trainer.state.fn != TrainerFn.FITTING or not trainer.is_global_zero:
            return
        path = self._folder / "last.ckpt"
        if isinstance(exception, SIGTERMException):
            log.info("saved; go on with --ckpt_path %s", path)
        elif isinstance(exception, KeyboardInterrupt):
            assert isinstance(pl_module, ZeroShotTask)
            since = pl_module.schedule.batches - self._saved_at
            lost = f", {since} more are lost" if since else ""
            log.info("interrupted; saved after %d batches%s; go on with --ckpt_path %s", self._saved_at, lost, path)
