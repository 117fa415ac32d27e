"""The verbs fit, validate, test and predict: LightningCLI with short YAML, and the GZSL table at the end of `fit`.

Other verbs that need a data set take the same options, so that one can replace `fit` by them in a command.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from pytorch_lightning.loggers import CSVLogger

from sign_zs3.callbacks import PredictionWriter, ScheduleCheckpoint, ScheduleProgressBar
from sign_zs3.commands import VERBS
from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.errors import UserError
from sign_zs3.results import as_results, print_table, write_results
from sign_zs3.tasks import SIGNModule
from sign_zs3.tasks.checkpoint import read_checkpoint

log = logging.getLogger(__name__)

DESCRIPTION = "Generalised zero-shot semantic segmentation. --debug shows tracebacks."
# One epoch is the whole schedule, so validation is by batches; the closing table tells more than a model summary.
TRAINER_DEFAULTS = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}
# What a checkpoint leaves open: these change how it is read, not what it is.
INFERENCE_OPTIONS = ("seen_penalty", "resolution", "flip", "scales")


class _TimerOfThisRun(Timer):
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Forget the time of the runs before."""


class ZeroShotCLI(LightningCLI):
    """LightningCLI with the library's trainer defaults, checkpoints and closing table."""

    def __init__(self, args: list[str], run: bool = True, description: str = DESCRIPTION) -> None:
        self.arguments = args
        super().__init__(
            SIGNModule,
            ZeroShotDataModule,
            subclass_mode_data=True,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"description": description},
            run=run,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given to `main`, which may come from the process or from a caller."""
        self.config = parser.parse_args(self.arguments)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint options, and one seed for model and data."""
        parser.add_lightning_class_args(ScheduleCheckpoint, "checkpoint")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        super()._add_subcommands(parser, **kwargs)
        assert parser._subcommands_action is not None
        # only for the list in the help: `main` hands these verbs on before anything is parsed here
        for verb, what in VERBS.items():
            parser._subcommands_action.add_subcommand(verb, LightningArgumentParser(), help=what)

    def _parse_ckpt_path(self) -> None:
        """Take the model's hyperparameters and the seed from the checkpoint.

        An option on the command line that says otherwise is an error, but for those of inference; a line of a
        configuration file that says otherwise is named in the log.
        """
        subcommand = self.config.get("subcommand")
        config = self.config[subcommand] if subcommand else {}
        path = config.get("ckpt_path")
        if not path:
            if subcommand in ("validate", "test", "predict") and not config["model"]["init_from"]:
                raise UserError(f"--ckpt_path: found none, expected the .ckpt file of a trained model to {subcommand}")
            return
        if path == "last":
            path = config["ckpt_path"] = _last_checkpoint(Path(config["trainer"].get("default_root_dir") or "."))
        hparams = dict(read_checkpoint(Path(path))["hyper_parameters"])
        given = _given_model_options(self.arguments)
        defaults = inspect.signature(SIGNModule).parameters
        for name, stored in hparams.items():
            if name not in config["model"]:
                continue
            found = config["model"][name]
            if name in INFERENCE_OPTIONS and name in given and subcommand != "fit":
                continue
            if found != stored and name in given:
                raise UserError(
                    f"--model.{name}: found {found}, but the checkpoint {path} was trained with {stored}: leave the "
                    "option out, or start a new run from its weights with --model.init_from"
                )
            if found not in (stored, defaults[name].default) and name != "seed":
                log.warning("model.%s: the checkpoint's %s holds, not %s of the configuration", name, stored, found)
            config["model"][name] = stored
        if subcommand == "fit":
            if "seed_everything" in _given(self.arguments, "--") and config["seed_everything"] != hparams["seed"]:
                raise UserError(
                    f"--seed_everything: found {config['seed_everything']}, but the checkpoint {path} was trained with "
                    f"{hparams['seed']}: leave the option out"
                )
            # The seed also decides the order of the data and the validation cut.
            config["seed_everything"] = hparams["seed"]
            config["data"]["init_args"]["seed"] = hparams["seed"]

    def after_instantiate_classes(self) -> None:
        """Build the model from its checkpoint: neither the vectors' file nor pretrained weights are needed then."""
        config = self.config[self.subcommand] if self.subcommand else {}
        if path := config.get("ckpt_path"):
            self.model.on_load_checkpoint(read_checkpoint(Path(path)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the progress bar and the prediction writer; log to a CSV file unless told otherwise."""
        config = self._get(self.config_init, "trainer")
        if config.get("logger") is None and "logger" not in kwargs:
            kwargs["logger"] = CSVLogger(config.get("default_root_dir") or "runs", name="")
        trainer = super().instantiate_trainer(**kwargs)
        bars = [c for c in trainer.callbacks if isinstance(c, ScheduleProgressBar)]  # type: ignore[attr-defined]
        if trainer.progress_bar_callback is not None and not bars:
            trainer.callbacks.remove(trainer.progress_bar_callback)  # type: ignore[attr-defined]
            trainer.callbacks.insert(0, ScheduleProgressBar())  # type: ignore[attr-defined]
        # Time is counted per run: Lightning's own timer would stop a resumed run at once.
        for index, callback in enumerate(trainer.callbacks):  # type: ignore[attr-defined]
            if type(callback) is Timer and callback._duration is not None:
                trainer.callbacks[index] = _TimerOfThisRun(timedelta(seconds=callback._duration))  # type: ignore[attr-defined]
        trainer.callbacks.append(PredictionWriter())  # type: ignore[attr-defined]
        return trainer

    # -- the ends of the subcommands ---------------------------------------------------------------------------

    def after_fit(self) -> None:
        """Test the model of each phase, and write table, ``results.json`` and pictures."""
        model, trainer = self.model, self.trainer
        checkpoint = next(c for c in trainer.callbacks if isinstance(c, ScheduleCheckpoint))  # type: ignore[attr-defined]
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        schedule = model.schedule
        if not schedule.done:
            last = folder / "checkpoints" / "last.ckpt"
            log.info(
                "stopped in phase %s after %d of %d iterations; go on with --ckpt_path %s",
                schedule.phase.name, schedule.iteration, schedule.total, last if last.exists() else "its last.ckpt",
            )  # fmt: skip
            return
        scores = {}
        for name, path in checkpoint.phase_files.items():
            if not Path(path).is_file():
                log.warning("%s is gone: phase %s is left out of the table", path, name)
                continue
            trainer.test(model, datamodule=self.datamodule, ckpt_path=path, verbose=False)
            scores[name] = model.scores
        self._report(folder, scores)

    def after_test(self) -> None:
        """Print the table, and write ``results.json`` and pictures."""
        phase = self.model.schedule.just_finished() or self.model.schedule.phase
        self._report(Path(self.trainer.log_dir or self.trainer.default_root_dir), {phase.name: self.model.scores})

    def _report(self, folder: Path, scores: dict[str, Any]) -> None:
        if not scores or not self.trainer.is_global_zero:
            return
        from sign_zs3.plotting import save_panel

        model = self.model
        method = type(model).__name__.removesuffix("Module")
        ignored, unseen = (model.tallies.get(name, 0) for name in ("ignored_pixels", "unseen_pixels"))
        share = unseen / ignored if ignored else None
        results = as_results(model.protocol, method, model.hparams["seed"], scores, share)
        write_results(folder / "results.json", results)
        save_panel(folder / "panel.png", model, self.datamodule.test_set)
        print_table(model.protocol, scores, share)
        print(f"results:  {folder / 'results.json'}\npictures: {folder / 'panel.png'}")


def _given_model_options(args: list[str]) -> set[str]:
    return _given(args, "--model.")


def _given(args: list[str], prefix: str) -> set[str]:
    return {arg[len(prefix) :].split("=", 1)[0] for arg in args if arg.startswith(prefix)}


def _last_checkpoint(root: Path) -> str:
    files = sorted(root.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise UserError(
            f"--ckpt_path last: found no checkpoints/last.ckpt below {root}: give the file, or the folder of the runs "
            "with --trainer.default_root_dir"
        )
    log.info("resuming from %s", files[-1])
    return str(files[-1])


class ConfiguredCLI(ZeroShotCLI):
    """The options of `fit` for another verb: builds the data module and nothing else.

    Args:
        args: The command line after the verb.
        description: First line of the verb's help.
        add: Adds the verb's own options to the parser.

    Attributes:
        datamodule: The data module, not set up.
        config: All options by name, those of the model under ``model``.
    """

    def __init__(self, args: list[str], description: str, add: Callable[[LightningArgumentParser], None]) -> None:
        self.add = add
        super().__init__(args, run=False, description=description)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the verb's options to those of `fit`."""
        super().add_arguments_to_parser(parser)
        # a run's own config.yaml has these
        parser.add_method_arguments(Trainer, "fit", skip=set(self.subcommands()["fit"]))
        self.add(parser)

    def _set_seed(self) -> None:
        """Nothing random happens here that the data module does not seed itself."""

    def instantiate_classes(self) -> None:
        """Build the data module alone."""
        config = self.config.clone()
        for key in ("model", "trainer", "checkpoint"):
            config.pop(key, None)
        self.config_init = self.parser.instantiate_classes(config)
        self.datamodule = self._get(self.config_init, "data")

    def after_instantiate_classes(self) -> None:
        """Leave checkpoints alone."""
