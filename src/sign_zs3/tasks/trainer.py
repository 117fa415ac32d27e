"""What a task asks of Lightning's Trainer: each option works, or is refused before training; see docs/trainer.md."""

import os
import re
import shutil
from functools import partial
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.overrides.distributed import _sync_module_states
from pytorch_lightning.strategies import (
    DDPStrategy,
    DeepSpeedStrategy,
    FSDPStrategy,
    ModelParallelStrategy,
    Strategy,
)
from pytorch_lightning.strategies.launchers.multiprocessing import _MultiProcessingLauncher

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.errors import UserError, check_at_least

_PRECISIONS = {
    **dict.fromkeys(("16-mixed", "16-true", "16"), "one loss scale cannot serve several optimisers"),
    "bf16-true": "small steps would be lost in weights of 8 bits",
}
_LENGTHS = "the schedule decides what is read: set model.train_iterations and the lengths of the other phases"
_OPTIONS: dict[str, tuple[tuple[object, ...], str]] = {
    "fast_dev_run": ((False, 0), "set the phases' lengths, as model.train_iterations, to 1"),
    "accumulate_grad_batches": ((1,), "use model.accumulate"),
    "gradient_clip_val": ((None, 0, 0.0), "use model.clip_norm"),
    "gradient_clip_algorithm": ((None,), "use model.clip_norm"),
    "max_epochs": ((-1, None, 1000), _LENGTHS),  # Lightning's default is one of the last two
    "max_steps": ((-1,), _LENGTHS),
    "min_steps": ((None,), _LENGTHS),
    "min_epochs": ((None, 0, 1), _LENGTHS),  # after min_steps, which sets it
    "overfit_batches": ((0, 0.0), "give a data set of few images"),  # before what it sets
    "limit_train_batches": ((1.0,), _LENGTHS),
    "check_val_every_n_epoch": ((None, 1), "use trainer.val_check_interval, in batches, with null here"),
    "reload_dataloaders_every_n_epochs": ((0,), "there is one epoch: leave it out"),
    "barebones": ((False,), "without checkpoints there is nothing to report: leave it out"),
}
"""Options with the values that change nothing, and what to use instead of others."""
_OWN_FILES = r"(train|generator|transfer|self_training|last)(_\d+)?"
_WEIGHTS = "weights are changed by the phases alone, and saved as they are: leave it out"
REFUSED = {
    "EarlyStopping": "it would end the run before its later phases: set model.train_iterations",
    "GradientAccumulationScheduler": "use model.accumulate",
    "BatchSizeFinder": "it knows nothing of several phases: set data.batch_size",
    "LearningRateFinder": "it knows nothing of several optimisers: set model.lr",
    "SpikeDetection": "losses that are not finite are skipped anyway, see model.max_nonfinite: leave it out",
    **dict.fromkeys(("WeightAveraging", "EMAWeightAveraging", "StochasticWeightAveraging"), _WEIGHTS),
    **dict.fromkeys(("ModelPruning", "BaseFinetuning", "BackboneFinetuning"), _WEIGHTS),
}
"""Lightning's callbacks, by name, that do not serve; those derived from them neither."""


def check_strategy(strategy: object) -> None:
    """Refuse strategies that cut weights in parts, need all gradients, or train in other processes than that reports.

    One may be given by its name too, before it is made.
    """
    name = strategy if isinstance(strategy, str) else type(strategy).__name__
    sharding = isinstance(strategy, (FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy))
    if sharding or (name is strategy and name.startswith(("fsdp", "deepspeed"))):
        why = "which cuts weights in parts, while steps and checkpoints here need whole ones"
    elif not isinstance(strategy, Strategy):
        return
    elif isinstance(launcher := strategy.launcher, _MultiProcessingLauncher):
        name = f"{name} with the start method {launcher._start_method}"
        why = "which trains in other processes than this one, that would report without the trained weights"
    else:
        return
    raise UserError(f"strategy: found {name}, {why}: use ddp, which starts a program per device, or one device")


def check_processes(trainer: pl.Trainer) -> None:
    """Refuse more processes than a CPU bears, or, where torchrun or SLURM starts them, another number than theirs."""
    launchers: tuple[tuple[str, Any, str, str], ...] = (
        ("torchrun", TorchElasticEnvironment, "WORLD_SIZE", "--nproc-per-node"),
        ("SLURM", SLURMEnvironment, "SLURM_NTASKS", "--ntasks-per-node"),
    )
    for launcher, kind, variable, option in launchers:
        if kind.detect() and variable in os.environ:
            started, wanted = int(os.environ[variable]), trainer.num_devices * trainer.num_nodes
            if started != wanted:
                raise UserError(
                    f"trainer.devices: found {trainer.num_devices} with num_nodes {trainer.num_nodes}, which need "
                    f"{wanted} processes, but {launcher} was asked for {started} ({variable}): give it {option} "
                    f"{trainer.num_devices}, or change trainer.devices"
                )
            return
    if trainer.strategy.root_device.type == "cpu" and trainer.num_devices > (most := 4 * (os.cpu_count() or 1)):
        found = f"trainer.devices: found {trainer.num_devices}, each a process of its own on the CPU"
        raise UserError(f"{found}, expected at most {most}, four for each core: 1 uses all cores as threads")


def check_precision(precision: object) -> None:
    """Refuse what does not serve; asked before Lightning takes 16 bits on the CPU for bfloat16."""
    if (fault := _PRECISIONS.get(str(precision))) is not None:
        raise UserError(f"precision: found {precision}, expected 32-true or bf16-mixed: {fault}")


def check_trainer(trainer: pl.Trainer, compiles: bool | str) -> None:
    """Refuse precision, processes or limits that do not serve, and a missing compiler; tell DDP what to expect.

    Asked when the data are set up.
    """
    check_precision(trainer.precision)
    strategy = trainer.strategy
    check_strategy(strategy)
    check_processes(trainer)
    if isinstance(data := trainer.datamodule, ZeroShotDataModule):  # type: ignore[attr-defined]
        sets = {"limit_val_batches": (data.val_set, data.val_dataloader)}
        sets["limit_test_batches"] = data.test_set, data.test_dataloader
        for name, (dataset, loader) in sets.items():
            if not isinstance(limit := getattr(trainer, name), float) or limit == 1 or dataset is None:
                continue
            if 0 < limit * (batches := len(loader())) < 1:
                found = f"found {limit:g} of {batches} batches, which is none"
                raise UserError(f"trainer.{name}: {found}: raise it, or give a number of batches")
    if isinstance(strategy, DDPStrategy):
        if strategy._layer_sync is not None and strategy.root_device.type == "cpu":
            raise UserError(
                "sync_batchnorm: found true on the CPU, where torch has none: leave it out; running statistics are "
                "averaged over the processes either way"
            )
        if strategy._ddp_comm_hook is not None:
            raise UserError("strategy: found a ddp_comm_hook, but gradients are averaged per optimiser: leave it out")
        # instead of a DistributedDataParallel, see `GradientExchange`: rank 0's weights, as where nothing is trained
        strategy.configure_ddp = partial(_sync_module_states, trainer.lightning_module)  # type: ignore[method-assign]
    if compiles == "cudagraphs" and (kind := strategy.root_device.type) != "cuda":
        raise UserError(f"compile: found cudagraphs on the device {kind}, expected a CUDA GPU: set compile to true")
    compilers = (os.environ.get("CXX", ""), "g++", "clang++")
    if compiles and strategy.root_device.type == "cpu" and not any(map(shutil.which, compilers)):
        raise UserError(
            "compile: found no C++ compiler, which torch.compile needs on the CPU, expected g++, clang++ or $CXX: "
            "install one, or leave compile out"
        )


def check_callback(path: str, found: str | None = None) -> None:
    """Refuse a callback of Lightning's that does not serve, by its path; `found` is the name of one derived from it."""
    name = path.rpartition(".")[2]
    if path.startswith(f"{pl.__name__}.") and name in REFUSED:
        raise UserError(
            f"trainer.callbacks: found {found or name}, which does not serve several optimisers and phases: "
            f"{REFUSED[name]}"
        )


def check_options(trainer: pl.Trainer) -> None:
    """Refuse options and callbacks that would change nothing in training, or something else than they say."""
    for name, (harmless, instead) in _OPTIONS.items():
        found = getattr(trainer, name, harmless[0])
        # by type as well: a limit of 1 is one batch, of 1.0 all of them
        if (type(found), found) not in [(type(value), value) for value in harmless]:
            found = getattr(found, "value", found)  # of an enumeration
            raise UserError(
                f"trainer.{name}: found {found}, which does not serve several optimisers and phases: {instead}"
            )
    if trainer.val_check_interval == 0:
        raise UserError("trainer.val_check_interval: found 0, expected more; limit_val_batches 0 leaves validation out")
    check_at_least(0, **{"trainer.log_every_n_steps": trainer.log_every_n_steps})  # type: ignore[attr-defined]
    check_at_least(-1, **{"trainer.num_sanity_val_steps": trainer.num_sanity_val_steps})
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        name = str(getattr(callback, "filename", ""))
        if isinstance(callback, Checkpoint) and re.fullmatch(_OWN_FILES, name):
            found = f"trainer.callbacks: found the filename {name!r}"
            raise UserError(f"{found}, which is one of the library's own checkpoints: give another")
        for kind in type(callback).__mro__:
            check_callback(f"{kind.__module__}.{kind.__name__}", type(callback).__name__)
