"""Ctrl-C, SIGTERM and the signal of SLURM before a time limit: noted when they come, acted upon between two batches."""

import hashlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning.strategies.launchers import _SubprocessScriptLauncher
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from sign_zs3.files import replacing

log = logging.getLogger(__name__)

JOB = "SLURM_JOB_ID"
PARENT = "SIGN_ZS3_RANK_ZERO"


class StopSignals:
    """Take the place of Lightning's handlers, which talk to the other ranks, or save, in the middle of a step.

    Attributes:
        received: Name of the first signal that came; None before.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        self._requeue = False
        self._between_batches = False
        self._trainer: pl.Trainer | None = None
        self._former: dict[signal.Signals, Any] = {}
        self._launcher: _SubprocessScriptLauncher | None = None

    def prepare(self, trainer: pl.Trainer) -> None:
        """Handle SLURM's requeue signal until `restore`: Lightning leaves it alone where it has a handler."""
        self._trainer, self._between_batches = trainer, False
        if trainer.state.fn == TrainerFn.FITTING:
            self.received, self._requeue = None, False  # of an earlier run; what a test comes after still counts
        slurm = trainer._accelerator_connector.cluster_environment
        number = slurm.requeue_signal if isinstance(slurm, SLURMEnvironment) and slurm.auto_requeue else None
        if number and number not in self._former and threading.current_thread() is threading.main_thread():
            self._former[number] = signal.signal(number, self._note_requeue)

    def restore(self, *numbers: signal.Signals) -> None:
        """Put back the handlers that were there before `prepare` and `take_over`: of these signals, or of all."""
        for number in self._former.keys() & (numbers or self._former.keys()):
            signal.signal(number, self._former.pop(number))

    def take_over(self, trainer: pl.Trainer) -> None:
        """Handle Ctrl-C until `restore`, and SIGTERM until Lightning puts the former handler back."""
        self._between_batches = True
        if trainer.received_sigterm:
            self.received = self.received or "SIGTERM"  # it came before anything of ours was called
        launcher = trainer.strategy.launcher
        self._launcher = launcher if isinstance(launcher, _SubprocessScriptLauncher) else None
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)
            # a job in the background ignores Ctrl-C
            if signal.SIGINT not in self._former and signal.getsignal(signal.SIGINT) not in (signal.SIG_IGN, None):
                self._former[signal.SIGINT] = signal.signal(signal.SIGINT, self._note_interrupt)

    @property
    def exception(self) -> BaseException:
        """What ends the run once all is saved."""
        return KeyboardInterrupt() if self.received == "SIGINT" else SIGTERMException(self.received)

    def agreed(self, trainer: pl.Trainer, any_rank: bool) -> bool:
        """Say whether to stop now; all ranks have agreed on whether any of them was told to before this batch."""
        stop = self.received is not None if trainer.world_size == 1 else any_rank
        if stop:
            # a rank may be a moment late in hearing of it
            self._requeue = bool(trainer.strategy.reduce_boolean_decision(self._requeue, all=False))
            self.received = self.received or "a signal to another process"
        return stop

    def requeue(self, trainer: pl.Trainer) -> None:
        """Have rank 0 ask SLURM to start the job again, where the signal that comes before the time limit came."""
        if not self._requeue or not trainer.is_global_zero:
            return
        array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
        job = f"{array}_{task}" if array else os.environ[JOB]
        try:
            done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
            told = " ".join(done.stderr.split()) or f"scontrol ended with {done.returncode}"
            problem = "" if done.returncode == 0 else told
        except OSError as error:
            problem = str(error)
        if problem:
            log.warning("SLURM did not take job %s back (%s): submit it again with --ckpt_path last", job, problem)
        else:
            log.info("SLURM was asked to start job %s again", job)

    def _note(self, number: int, frame: FrameType | None) -> None:
        first, self.received = self.received is None, self.received or signal.Signals(number).name
        if first and self._launcher is not None:
            self._launcher.kill(number)

    def _note_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None or self._trainer is None or self._trainer.state.fn != TrainerFn.FITTING:
            raise KeyboardInterrupt
        self.received = "SIGINT"
        with suppress(OSError):  # print and logging are no functions for a signal handler
            os.write(2, b"\nstopping after this iteration, to save it; Ctrl-C again stops at once\n")

    def _note_requeue(self, number: int, frame: FrameType | None) -> None:
        self._requeue = True
        self.received = self.received or signal.Signals(number).name
        if not self._between_batches and self._trainer is not None:
            # nothing is trained yet, and reading data or filling a cache may take longer than SLURM waits
            self.requeue(self._trainer)
            raise SIGTERMException(self.received)


def job_file(root: Path) -> Path | None:
    """Return where a command of a SLURM job notes its last checkpoint; None outside of SLURM."""
    job = os.environ.get(JOB)
    command = hashlib.blake2b(repr(sys.argv[1:]).encode(), digest_size=4).hexdigest()
    return root / f".slurm-{job}-{command}" if job else None


def noted_checkpoint(root: Path) -> str | None:
    """Return from what this command goes on where SLURM has started its job again; None where it begins."""
    note = job_file(root)
    if note is None or os.environ.get("SLURM_RESTART_COUNT", "0") == "0" or not note.is_file():
        return None
    path = note.read_text(encoding="utf-8")
    return path if Path(path).is_file() else None


def note_for_job(root: Path, checkpoint: Path) -> None:
    """Note, in a SLURM job, from what the job goes on when it is started again."""
    if (path := job_file(root)) is not None:
        with replacing(path) as beside:
            beside.write_text(str(checkpoint.absolute()), encoding="utf-8")


def tell_children() -> None:
    """Leave this process's number for the ranks that Lightning starts from it; ranks started otherwise have none."""
    if "LOCAL_RANK" not in os.environ:
        os.environ[PARENT] = str(os.getpid())


def end_with_parent() -> None:
    """End a rank when the program that started it is gone: over NCCL it would wait for it ten minutes."""
    name, parent = "parent-watch", int(os.environ.get(PARENT, "0"))
    if not parent or parent == os.getpid() or any(thread.name == name for thread in threading.enumerate()):
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(5)
        log.error("the process that started this one is gone: this one ends too")
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name=name).start()
