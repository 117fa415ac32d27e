"""The options of `fit` for verbs that need a data set and train nothing, such as ``data check``."""

from collections.abc import Callable

from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser

from sign_zs3.commands.training import ZeroShotCLI


class ConfiguredCLI(ZeroShotCLI):
    """The options of `fit` for another verb: builds the data module and nothing else.

    `add` adds the verb's own options to the parser. Afterwards `datamodule` is the data module, not set up, and
    `config` has all options by name, those of the model under ``model``.
    """

    def __init__(
        self, args: list[str], description: str, add: Callable[[LightningArgumentParser], None] = lambda parser: None
    ) -> None:
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

    def before_instantiate_classes(self) -> None:
        """Leave the trainer's options alone: they may be meant for another machine."""

    def instantiate_classes(self) -> None:
        """Build the data module alone."""
        config = self.config.clone()
        for key in ("model", "trainer", "checkpoint"):
            config.pop(key, None)
        self.config_init = self.parser.instantiate_classes(config)
        self.datamodule = self._get(self.config_init, "data")

    def after_instantiate_classes(self) -> None:
        """Leave checkpoints alone."""
