"""ZS3Net (Bucher et al., NeurIPS 2019): features generated from class vectors and noise."""

from __future__ import annotations

from typing import Any

from sign_zs3.tasks.generative import GenerativeTask


class ZS3Module(GenerativeTask):
    """ZS3Net in SIGN's frame: a generative moment matching network on E's features, with no spatial module.

    Its latent is noise of N(0, 1), its generator has one hidden layer, and the MMD is G's only loss, so that there is
    no D unless `adversarial_weight` asks for one.

    Args:
        generator_hidden: Widths of G.
        generator_dropout: Dropout of G, one rate for all hidden layers.
        adversarial_weight: Weight of an adversarial loss of G; 0 leaves D out.
        **kwargs: Further options of `GenerativeTask`.
    """

    def __init__(
        self,
        generator_hidden: list[int] | None = [256],  # noqa: B006 (never changed; lists are what YAML gives)
        generator_dropout: float | None = 0.5,
        adversarial_weight: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            generator_hidden=generator_hidden,
            generator_dropout=generator_dropout,
            adversarial_weight=adversarial_weight,
            **kwargs,
        )

    def spatial_options(self) -> dict[str, Any]:
        """Pass E's features on."""
        return {"name": "plain"}
