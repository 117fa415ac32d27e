"""The trainer of a configuration: what is refused before Lightning is asked, and the parts that are the library's."""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import CheckpointIO, TorchCheckpointIO
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import CSVLogger

from sign_zs3.callbacks import PredictionWriter, ScheduleProgressBar
from sign_zs3.errors import UserError, pip_install
from sign_zs3.files import line_of
from sign_zs3.tasks.trainer import check_callback, check_precision, check_processes, check_strategy

log = logging.getLogger(__name__)


class _TimerOfThisRun(Timer):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the time of the runs before."""


def as_list(value: Any) -> list[Any]:
    """Return a list as it is, and anything else as one of one."""
    return value if isinstance(value, list) else [value]


def prepare(config: Any, verb: str | None) -> None:
    """Refuse options of a trainer, not made yet, that Lightning would refuse in other words or make something else of.

    W&B is refused where it is not installed, and made to write below the folder of the runs.
    """
    for name, refused, why, verbs in (
        ("barebones", True, "without checkpoints there is nothing to report", ("fit",)),
        ("enable_checkpointing", False, "the table is that of the phases' checkpoints", ("fit",)),
        ("limit_test_batches", 0, "the table is that of the test images", ("fit", "test")),
        ("limit_val_batches", 0, "the scores are those of the validation images", ("validate",)),
    ):
        if verb in verbs and config.get(name) == refused:
            other = f", or give --trainer.{name} 1.0" if refused == 0 and refused is not False else ""
            raise UserError(f"trainer.{name}: found {refused}, but {why}: leave it out{other}")
    check_precision(config.get("precision"))
    check_strategy(config.get("strategy"))
    check_accelerator(config.get("accelerator"))
    for path in (str(getattr(each, "class_path", "")) for each in as_list(config.get("callbacks"))):
        check_callback(path)  # those with options that cannot be written to config.yaml would fail in other words
        if path.startswith("pytorch_lightning.") and path.endswith(".Timer"):
            raise UserError("trainer.callbacks: found Timer, which cannot be written to config.yaml: use max_time")
    for logger in as_list(config.get("logger")):
        if logger is None or not str(getattr(logger, "class_path", "")).endswith("WandbLogger"):
            continue
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise UserError(
                f"--trainer.logger: found WandbLogger, but wandb is not installed: {pip_install('wandb')}, "
                "or leave the logger out"
            ) from error
        if logger.init_args.get("save_dir") in (None, "."):
            logger.init_args["save_dir"] = str(config.get("default_root_dir") or "runs")


def check_accelerator(found: object) -> None:
    """Refuse a device that is not there, with torch's reason; say once where a GPU is left idle by an old driver."""
    fault, mps = _cuda_fault(), torch.backends.mps.is_available()
    has = {"auto": True, "None": True, "cpu": True, "cuda": not fault, "mps": mps, "gpu": mps or not fault}
    if isinstance(found, str | None) and str(found) not in has:
        raise UserError(f"trainer.accelerator: found {found}, expected auto, cpu, gpu, cuda or mps")
    if not has.get(str(found), True):
        why = "" if found == "mps" else f" ({fault})"
        raise UserError(
            f"trainer.accelerator: found {found}, but torch finds none on this machine{why}: use auto or cpu"
        )
    if found in (None, "auto") and "too old" in fault:
        log.warning("trainer.accelerator: no GPU is used (%s): update the driver, or go on without", fault)


def _cuda_fault() -> str:
    """Return why torch cannot use CUDA, in one sentence of its own; nothing where it can."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an old driver, in three lines
        if torch.cuda.is_available():
            return ""
        try:
            torch.cuda.init()  # type: ignore[no-untyped-call]
        except (RuntimeError, AssertionError) as error:
            return line_of(error).split(". ")[0]
    return "no device is visible"


def complete(trainer: Trainer, root: str, own: Sequence[Any], files: CheckpointIO) -> None:
    """Refuse a trainer whose strategy, processes or time do not serve; put in the library's parts where it has none.

    `root` is the folder of the runs, `own` are the user's callbacks, and `files` reads and writes checkpoints.
    """
    # in the process that reports, before another one is started
    check_strategy(trainer.strategy)
    check_processes(trainer)
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:  # a plugin of the user's own stays
        trainer.strategy.checkpoint_io = files
    if trainer.loggers and not isinstance(trainer.loggers[0], CSVLogger):
        # the run keeps a folder of its own, and its losses as a file, whatever else they are sent to
        trainer.loggers = [CSVLogger(root, name=""), *trainer.loggers]
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if (bar := trainer.progress_bar_callback) is not None and bar not in own:
        callbacks.remove(bar)
        callbacks.insert(0, ScheduleProgressBar())
    # Time is counted per run: Lightning's own timer would stop a resumed run at once.
    for index, callback in enumerate(callbacks):
        if type(callback) is Timer and callback._duration is not None:
            if callback._duration <= 0:
                raise UserError("trainer.max_time: found no time at all, expected DD:HH:MM:SS above 0; raise it")
            callbacks[index] = _TimerOfThisRun(timedelta(seconds=callback._duration))
    callbacks.append(PredictionWriter())


@contextmanager
def no_empty_folder(trainer: Trainer) -> Iterator[None]:
    """Remove the run's folder where the block fails before anything but its configuration is in it."""
    try:
        yield
    except BaseException:
        logger = trainer.loggers[0] if trainer.loggers else None
        if trainer.is_global_zero and isinstance(logger, CSVLogger):
            with suppress(OSError):
                files = list(Path(logger.log_dir).iterdir())
                if all(file.name in ("config.yaml", "hparams.yaml") for file in files):
                    for file in files:
                        file.unlink()
                    Path(logger.log_dir).rmdir()
        raise


def check_checkpoints(trainer: Trainer) -> None:
    """Refuse a ModelCheckpoint that would save nothing in a training."""
    for callback in own_checkpoints(trainer.callbacks):  # type: ignore[attr-defined]
        if callback._every_n_train_steps or callback._train_time_interval is not None or callback.save_on_exception:
            continue
        at_end = callback._save_on_train_epoch_end or callback.save_last or trainer.check_val_every_n_epoch == 1
        if callback._every_n_epochs != 1:
            why = "where there is one epoch"
        elif trainer.limit_val_batches == 0 and not at_end:
            why = "since it saves after validations, and limit_val_batches is 0"
        else:
            continue
        raise UserError(
            f"trainer.callbacks: found ModelCheckpoint, which would save nothing {why}: give it every_n_train_steps"
        )


def own_checkpoints(callbacks: Sequence[Any]) -> list[ModelCheckpoint]:
    """Return those of Lightning's callbacks for checkpoints that are used as they are."""
    return [callback for callback in callbacks if type(callback) is ModelCheckpoint]
