"""SIGN (Cheng et al., ICCV 2021) with its three steps and Annealed Self-Training."""

from typing import Any, Literal

from sign_zs3.errors import check_at_least
from sign_zs3.tasks.generative import GenerativeTask


class SIGNModule(GenerativeTask):
    """SIGN: training step, generator, transfer learning step, self-training.

    ``Trainer(max_epochs=-1).fit(SIGNModule(), ShapesDataModule())`` runs the whole schedule; classes, split and class
    vectors are set up from the data module. Lengths are in iterations; the module stops the trainer itself.

    Args:
        encoding: SIM's structure (Table 2); ``none`` leaves SIM out: F = sigmoid(E(x)), the latent pure noise.
        position: Positional encoding (Table 3).
        train_size: Feature map's height and width in training, for ``position: interpolated``.
        spatial_width: SIM's inner width; null scales the published one.
        spatial_heads: Heads of ``multihead``.
        spatial_window: Side in cells of the windows that confine attention on larger maps: time linear in pixels; null
            is the paper's, among all pixels.
        alpha: Weight of the KL loss (eq. 4).
        **kwargs: Further options of `GenerativeTask`.
    """

    architecture = (
        *GenerativeTask.architecture, "encoding", "position", "train_size", "spatial_heads", "spatial_window",
    )  # fmt: skip

    def __init__(
        self,
        # spatial module
        encoding: Literal["multihead", "self_attention", "attention", "conv", "none"] = "multihead",
        position: Literal["relative", "absolute", "interpolated", "none"] = "relative",
        train_size: list[int] | None = None,
        spatial_width: int | None = None,
        spatial_heads: int = 8,
        spatial_window: int | None = None,
        alpha: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(0, alpha=alpha)

    def spatial_options(self) -> dict[str, Any]:
        """Give SIM, or nothing in its place."""
        hp = self.hparams
        if hp["encoding"] == "none":
            return {"name": "plain"}
        options = {
            "name": "sim", "encoding": hp["encoding"], "position": hp["position"], "train_size": hp["train_size"],
            "width": hp["spatial_width"], "heads": hp["spatial_heads"],
        }  # fmt: skip
        # left out where it is not used, so that earlier versions read the folder
        return options if hp["spatial_window"] is None else {**options, "window": hp["spatial_window"]}
