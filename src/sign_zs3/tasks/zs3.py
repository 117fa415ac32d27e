"""ZS3Net (Bucher et al., NeurIPS 2019): features generated from class vectors and noise."""

from typing import Any, Literal

from sign_zs3.tasks.generative import GenerativeTask


class ZS3Module(GenerativeTask):
    """ZS3Net in SIGN's frame: a generative moment matching network on E's features, with no spatial module.

    Its latent is noise of N(0, 1), its generator has one hidden layer, and the MMD is G's only loss, so that there is
    no D unless `adversarial` asks for one.

    Args:
        generator_hidden: Widths of G.
        generator_dropout: Dropout of G, one rate for all hidden layers.
        adversarial: As in `GenerativeTask`.
        bounded: Put F, and what G makes, through a sigmoid; the released code does not.
        **kwargs: Further options of `GenerativeTask`.
    """

    architecture = (*GenerativeTask.architecture, "bounded")

    def __init__(
        self,
        # generator
        generator_hidden: list[int] | None = [256],  # noqa: B006 (never changed; lists are what YAML gives)
        generator_dropout: float | None = 0.5,
        adversarial: Literal["non_saturating", "saturating", "l1", "none"] = "none",
        bounded: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            generator_hidden=generator_hidden, generator_dropout=generator_dropout, adversarial=adversarial, **kwargs
        )

    def spatial_options(self) -> dict[str, Any]:
        """Pass E's features on."""
        return {"name": "plain", "sigmoid": self.hparams["bounded"]}
