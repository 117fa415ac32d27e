"""The verbs fit, validate, test and predict: LightningCLI with short YAML, and the GZSL table at the end of `fit`.

Other verbs that need a data set take the same options, so that one can replace `fit` by them in a command.

Two keys of a configuration file are read before the parser is built: ``method`` decides which class's options it has,
and ``include`` names files that come first, as if each had been given with its own ``--config``.

A configuration holds plain values; tags that make Python objects are errors. But a ``class_path`` may name any class of
the kind that its option asks for, and to import its module runs it: read the configuration of a stranger as a script.
"""

import argparse
import errno
import json
import logging
import os
from pathlib import Path
from types import MethodType
from typing import Any

from jsonargparse import Namespace
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger

from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.callbacks.stopping import noted_checkpoint, tell_children
from sign_zs3.commands import closing, usage
from sign_zs3.commands.configuration import (
    VERBS,
    at_home,
    given_options,
    given_to_model,
    last_option,
    with_includes,
)
from sign_zs3.commands.encoder import choose_encoder
from sign_zs3.commands.trainer import as_list, check_checkpoints, complete, no_empty_folder, own_checkpoints, prepare
from sign_zs3.compat import RETIRED, current_options
from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import line_of
from sign_zs3.models.backbones.build import CLIP
from sign_zs3.reports.run import UNTRAINED
from sign_zs3.tasks import METHODS
from sign_zs3.tasks.checkpoint import CheckpointFiles, read_checkpoint, stored_options
from sign_zs3.tasks.loading import stored_method
from sign_zs3.vocabulary.editing import save_model

log = logging.getLogger(__name__)

DESCRIPTION = "Generalised zero-shot semantic segmentation. --debug shows tracebacks."
# One epoch is the whole schedule, so validation is by batches; the closing table tells more than a model summary.
TRAINER_DEFAULTS = {
    "max_epochs": -1,
    "check_val_every_n_epoch": None,
    "enable_model_summary": False,
    "log_every_n_steps": 10,
}
STOPPED = 75
"""Exit status of a run that is to be gone on with, as --trainer.max_time makes one: EX_TEMPFAIL of sysexits.h."""
# What a checkpoint leaves open: these change how it is read, not what it is.
INFERENCE_OPTIONS = ("seen_penalty", "resolution", "flip", "scales")


class ZeroShotCLI(LightningCLI):
    """LightningCLI with the library's trainer defaults, checkpoints and closing table.

    Args:
        args: The command line without the program's name; its first argument is the verb where `run` is true.

    Attributes:
        arguments: The command line with the files that configurations include.
        settings: What the files say at their top, without null.
        method: Key of `METHODS`.
        stored: The checkpoint that ``--ckpt_path`` names, once it is read.
        files: Hands it to the trainer, so that its file is opened once.
        status: The program's exit status: 0, or `STOPPED` for a run that has not finished its schedule.

    Raises:
        UserError: An included file or the method cannot be used, or the method is not the checkpoint's.
    """

    def __init__(self, args: list[str], run: bool = True, description: str = DESCRIPTION) -> None:
        self.arguments, self.settings = with_includes(usage.with_brackets(args), nested=run)
        self.files, self.status = CheckpointFiles(), 0
        self.stored: tuple[Path, dict[str, Any]] | None = None
        self.method = self._chosen_method()
        super().__init__(
            METHODS[self.method],
            ZeroShotDataModule,
            subclass_mode_data=True,
            save_config_kwargs={"overwrite": True},
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_kwargs={"description": description},
            run=run,
        )

    def _chosen_method(self) -> str:
        """Return the method of the command line, else of the files, else of the checkpoint, else SIGN."""
        settings = self.settings
        method = last_option(self.arguments, "--method") or settings.get("method")
        if method is None:
            path = str(last_option(self.arguments, "--ckpt_path") or settings.get("ckpt_path") or "")
            if path == "last":
                root = last_option(self.arguments, "--trainer.default_root_dir")
                path = str(_newest(Path(root or settings.get("trainer", {}).get("default_root_dir") or ".")))
            # one that is not there, or whose name is too long for Path, is refused where it is used
            if not os.path.isfile(path):  # noqa: PTH113
                return "SIGN"
            return stored_method(self._read(Path(path)))
        if not isinstance(method, str) or method not in METHODS:
            raise UserError(f"method: found {method!r:.100}, expected one of {', '.join(METHODS)}")
        return method

    def _read(self, path: Path) -> dict[str, Any]:
        """Read a checkpoint once, and keep it for the trainer."""
        if self.stored is None or self.stored[0] != path:
            self.stored = path, read_checkpoint(path)
            self.files.hold(*self.stored)
        return self.stored[1]

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser that says in one line what is wrong with an option, and takes none that is cut short."""
        parser = super().init_parser(**kwargs, allow_abbrev=False)
        parser.error = MethodType(usage.refuse, parser)  # type: ignore[method-assign]
        parser.usage = "sign-zs3 VERB [--SECTION.OPTION VALUE ...]"
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the arguments given to `main`, which may come from the process or from a caller."""
        self.config = at_home(parser.parse_args(self.arguments))
        subcommand = self.config.get("subcommand")
        config = self.config[subcommand] if subcommand else self.config
        known = {*vars(config), *vars(self.config)}
        if unknown := [key for key in self.settings if key not in known]:  # an empty one is passed over
            near = did_you_mean(unknown[0], known, 1, "; --help lists the options")
            raise UserError(f"--config: found {unknown[0]!r:.50}, which is no option here{near}")
        if config["method"] != self.method and last_option(self.arguments, "--method") is None:
            raise UserError(
                f"method: found {config['method']} where it comes too late to choose the options: give it as --method, "
                "or at the top of a file given with --config after the verb"
            )
        config["method"] = self.method
        del config["include"]
        usage.refuse_nulls(config, METHODS[self.method])
        self._take_retired(config["model"], trains=subcommand == "fit")
        if subcommand == "fit":
            choose_encoder(config, given_to_model(self.arguments, self.settings))

    def _take_retired(self, options: Namespace, trains: bool) -> None:
        """Take out of a configuration of an earlier version what this one has no option for.

        Raises:
            UserError: Something is to be trained, and a value is another one than this version always has.
        """
        given = {name: value for name in RETIRED if (value := options.pop(name)) is not None}
        current = current_options({"weights": options.get("weights"), **given})
        if "adversarial" in current:
            options["adversarial"] = "none"
        for name, value in {n: v for n, v in current.items() if trains and n in RETIRED}.items():
            raise UserError(
                f"model.{name}: found {value!r:.50}, an option that this version has not (it is always "
                f"{RETIRED[name]!r}): take the line out"
            )

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the method, and the files' ``include``, which has been followed by then."""
        super().add_default_arguments_to_parser(parser)
        parser.add_argument(
            "--method",
            choices=list(METHODS),
            default=self.method,
            help=f"Whose class's options --model has; these are those of {self.method}.",
        )
        parser.add_argument("--include", type=Any, help=argparse.SUPPRESS)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the checkpoint options, and one seed for model and data."""
        parser.add_lightning_class_args(ScheduleCheckpoint, "checkpoint")
        for name in RETIRED:
            parser.add_argument(f"--model.{name}", type=Any, help=argparse.SUPPRESS)
        parser.link_arguments(
            "data", "model.protocol", compute_fn=lambda data: data.protocol.as_dict(), apply_on="instantiate"
        )
        parser.link_arguments("seed_everything", "model.seed", compute_fn=_seed)
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=_seed)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        made = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "test":
            made.set_defaults({"verbose": False})  # Lightning's own table of what ours has
        return made

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
        root = Path(config.get("trainer", {}).get("default_root_dir") or ".")
        if subcommand == "fit" and (noted := noted_checkpoint(root)):
            log.info("SLURM has started this job again: resuming from %s", noted)
            config["ckpt_path"] = noted
        path = config.get("ckpt_path")
        if path == "":
            raise UserError("--ckpt_path: found '', expected the path of a .ckpt file, or last")
        if not path:
            trained = subcommand in ("validate", "test", "predict") and not config["model"]["init_from"]
            if trained and not self.is_untrained:
                raise UserError(f"--ckpt_path: found none, expected the .ckpt file of a trained model to {subcommand}")
            return
        if path == "last":
            if (newest := _newest(root)) is None:
                raise UserError(
                    f"--ckpt_path last: found no checkpoints/last.ckpt below {root}: give the file, or the folder of "
                    "the runs with --trainer.default_root_dir"
                )
            log.info("resuming from %s", newest)
            path = config["ckpt_path"] = str(newest)
        checkpoint = self._read(Path(path))
        if (stored := stored_method(checkpoint)) != self.method:
            raise UserError(
                f"method: found {self.method}, but the checkpoint {path} was trained with {stored}: give --method "
                f"{stored} with its own configuration, or the checkpoint of a {self.method} run"
            )
        given = given_options(self.arguments, "--model.")
        defaults = METHODS[self.method].defaults()
        # a checkpoint older than an option was trained as the option's default says
        hparams = defaults | stored_options(checkpoint)
        # a resumed run goes on with what it was trained on; elsewhere only the user says where maps are kept
        holds = checkpoint["hyper_parameters"] if subcommand == "fit" else config["model"]
        hparams["feature_cache"] = holds.get("feature_cache")
        for name, stored in hparams.items():
            if name not in config["model"]:
                continue
            found = config["model"][name]
            # how much a run forgives may change
            if name in given and (name == "max_nonfinite" or (name in INFERENCE_OPTIONS and subcommand != "fit")):
                continue
            if found != stored and name in given:
                raise UserError(
                    f"--model.{name}: found {found}, but the checkpoint {path} was trained with {stored}: leave the "
                    "option out, or start a new run from its weights with --model.init_from"
                )
            if found not in (stored, defaults[name]) and not (name == "seed" or (found is None and "image" in name)):
                log.warning("model.%s: the checkpoint's %s holds, not %s of the configuration", name, stored, found)
            config["model"][name] = stored
        if subcommand == "fit":
            seed, given = hparams["seed"], given_options(self.arguments, "--")
            if "seed_everything" in given and config["seed_everything"] != seed:
                raise UserError(
                    f"--seed_everything: found {config['seed_everything']}, but the checkpoint {path} was trained with "
                    f"{seed}: leave the option out"
                )
            # The seed also decides the order of the data and the validation cut.
            config["seed_everything"] = config["data"]["init_args"]["seed"] = seed

    @property
    def is_untrained(self) -> bool:
        """Whether the model needs no training: CLIP's projection, compared with CLIP's texts (MaskCLIP, SCLIP)."""
        config = self.config[self.config["subcommand"]]["model"]
        is_clip = config["backbone"].startswith(CLIP) and config["freeze_encoder"] and config["weights"] is not None
        return self.method == "SPNet" and config["head"] == "identity" and is_clip

    def _run_subcommand(self, subcommand: str) -> None:
        """Name the folder of the runs where it cannot be made, or its disk is full, which Python does not."""
        root = self.config[subcommand]["trainer"].get("default_root_dir") or "runs"
        try:
            with no_empty_folder(self.trainer):
                super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise UserError(f"trainer: {line_of(error)}") from error
        except OSError as error:
            if error.filename is None:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG):
                    raise
            elif not _holds(Path(str(error.filename)), Path(root)):
                raise
            raise UserError(
                f"{root}: cannot be written ({error.strerror}); make room, or name another folder with "
                "--trainer.default_root_dir"
            ) from error

    def before_instantiate_classes(self) -> None:
        """Refuse what Lightning would refuse in other words, or make something else of."""
        prepare(self._get(self.config, "trainer", {}), self.subcommand)

    def after_instantiate_classes(self) -> None:
        """Build the model from its checkpoint: neither the vectors' file nor pretrained weights are needed then."""
        config = self.config[self.subcommand] if self.subcommand else {}
        if path := config.get("ckpt_path"):
            self.model.on_load_checkpoint(self._read(Path(path)))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the progress bar and the prediction writer; log to a CSV file unless told otherwise."""
        config = self._get(self.config_init, "trainer")
        root = config.get("default_root_dir") or "runs"
        if not config.get("logger") and "logger" not in kwargs:  # without one, runs would share a folder
            kwargs["logger"] = CSVLogger(root, name="")
        own = [*as_list(config.get("callbacks"))]  # Lightning adds its own to the list
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
            raise UserError(f"trainer: {line_of(error)}") from error
        complete(trainer, root, own, self.files)
        if self.subcommand == "fit":
            check_checkpoints(trainer)
        return trainer

    @property
    def checkpoint(self) -> ScheduleCheckpoint:
        """The trainer's callback that writes checkpoints."""
        return next(c for c in self.trainer.callbacks if isinstance(c, ScheduleCheckpoint))  # type: ignore[attr-defined]

    def before_fit(self) -> None:
        """Look out for SLURM's signal before the data are read, which comes before any callback is asked."""
        self.checkpoint.signals.prepare(self.trainer)
        tell_children()

    def after_fit(self) -> None:
        """Test the model of each phase, and write table, ``results.json`` and pictures."""
        model, trainer = self.model, self.trainer
        folder = Path(trainer.log_dir or trainer.default_root_dir)
        schedule = model.schedule
        for callback in own_checkpoints(trainer.callbacks):  # type: ignore[attr-defined]
            if not (callback.best_model_path or callback.last_model_path or callback.save_on_exception):
                log.warning("trainer.callbacks: ModelCheckpoint has saved nothing")
        if not schedule.done:
            last = folder / "checkpoints" / "last.ckpt"
            log.info(
                "stopped in phase %s after %d of %d iterations; go on with --ckpt_path %s",
                schedule.phase.name, schedule.iteration, schedule.total, last if last.exists() else "its last.ckpt",
            )  # fmt: skip
            if trainer.is_global_zero:  # Lightning would end rank 0 for another status of the others
                self.status = STOPPED
            return
        scores: dict[str, Any] = {}
        kinds = {phase.name: phase.kind for phase in schedule.phases}
        for name, path in self.checkpoint.phase_files.items():
            # rank 0 decides for all, since a test needs all
            if not trainer.strategy.broadcast(Path(path).is_file()):
                log.warning("%s is gone: phase %s is left out of the table", path, name)
                continue
            if kinds.get(name) == "generator" and scores:
                continue  # it leaves E, the spatial module and C as they were, bit by bit
            trainer.test(model, datamodule=self.datamodule, ckpt_path=path, verbose=False)
            scores[name] = model.scores
        if not scores:
            raise UserError(f"{folder}: found no checkpoint of a phase to test: keep the files while a run goes on")
        self._report(folder, scores)
        if trainer.is_global_zero and (last := folder / "checkpoints" / "last.ckpt").is_file():
            closing.suggest(last)

    def after_test(self) -> None:
        """Print the table, and write ``results.json`` and pictures; keep a model that needs no training."""
        folder = Path(self.trainer.log_dir or self.trainer.default_root_dir)
        phase = self.model.schedule.just_finished() or self.model.schedule.phase
        self._report(folder, {UNTRAINED if self.is_untrained else phase.name: self.model.scores})
        is_new = self.is_untrained and not self.config[self.config["subcommand"]].get("ckpt_path")
        if is_new and self.trainer.is_global_zero:
            save_model(self.model, last := folder / "checkpoints" / "last.ckpt")
            closing.suggest(last)

    def _report(self, folder: Path, scores: dict[str, Any]) -> None:
        if self.trainer.is_global_zero:
            closing.report(folder, scores, self.method, self.model, self.datamodule)


def _seed(value: object) -> int:
    """Return the seed of all; a UserError where it is none. Lightning takes true for another one each time."""
    if type(value) is not int or not 0 <= value < 1 << 32:
        shown = json.dumps(value)
        raise UserError(f"seed_everything: found {shown}, expected a whole number from 0 to 4294967295")
    return value


def _holds(path: Path, root: Path) -> bool:
    """Return whether a path is the folder of the runs, one that it lies in, or a run's own."""
    path, root = path.absolute(), root.absolute()
    return root.is_relative_to(path) or (path.parent == root and path.name.startswith("version_"))


def _newest(root: Path) -> Path | None:
    return max(root.glob("**/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime, default=None)
