"""CaGNet (Gu et al., ACM MM 2020): features generated from class vectors and contextual latents."""

from typing import Any, Literal

from sign_zs3.errors import check_at_least, check_choice
from sign_zs3.tasks.generative import GenerativeTask


class CaGNetModule(GenerativeTask):
    """CaGNet in SIGN's frame: its contextual module stands in SIM's place, and no position is known.

    The published self-training keeps a pixel's best unseen class only where it ranks within the top p of all logits,
    all with weight 1: the options ``pseudo_top_p``, ``self_training: top_fraction`` and ``top_fraction: 1``.

    Args:
        spatial_width: Channels of each scale of the contextual module; null scales the published 256.
        contextual: The contextual module of this library, or as it was ``released``, see `ReleasedModule`.
        alpha: Weight of the KL loss that draws the contextual latent to N(0, 1).
        **kwargs: Further options of `GenerativeTask`.
    """

    architecture = (*GenerativeTask.architecture, "contextual")

    def __init__(
        self,
        # spatial module
        contextual: Literal["default", "released"] = "default",
        spatial_width: int | None = None,
        alpha: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_choice("contextual", contextual, "default", "released")
        check_at_least(0, alpha=alpha)

    def spatial_options(self) -> dict[str, Any]:
        """Give the contextual module."""
        if self.hparams["contextual"] == "released":
            return {"name": "released", "encoding": "none"}
        return {"name": "contextual", "width": self.hparams["spatial_width"]}
