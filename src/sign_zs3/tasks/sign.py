"""SIGN (Cheng et al., ICCV 2021) with its three steps and Annealed Self-Training."""

from typing import Any, Literal, TypeAlias

from sign_zs3.errors import UserError, check_at_least
from sign_zs3.models.spatial.base import Position
from sign_zs3.tasks.generative import GenerativeTask

Encoding: TypeAlias = Literal[
    "multihead", "self_attention", "attention", "conv", "none", "released_1", "released_2", "released_2.1",
    "released_3", "released_4", "released_5", "released_6", "released_7", "released_8",
    "released_4_across_batch", "released_6_across_batch",
]  # fmt: skip


class SIGNModule(GenerativeTask):
    """SIGN: training step, generator, transfer learning step, self-training.

    ``Trainer(max_epochs=-1).fit(SIGNModule(), ShapesDataModule())`` runs the whole schedule; classes, split and class
    vectors are set up from the data module. Lengths are in iterations; the module stops the trainer itself.

    Args:
        encoding: SIM's structure (Table 2); ``none`` leaves SIM out: F = sigmoid(E(x)), the latent pure noise;
            ``released_1`` to ``_8`` are those of `ReleasedModule`, ``_across_batch`` with the release's fault.
        position: Positional encoding (Table 3), or the released code's ``endpoints``.
        train_size: Feature map's height and width in training, for ``position: interpolated``.
        spatial_width: SIM's inner width; null scales the published one, which the released encodings always have.
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
        encoding: Encoding = "multihead",
        position: Position = "relative",
        train_size: list[int] | None = None,
        spatial_width: int | None = None,
        spatial_heads: int = 8,
        spatial_window: int | None = None,
        alpha: float = 100.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        check_at_least(0, alpha=alpha)
        if encoding.startswith("released_") and spatial_window is not None:
            raise UserError(f"spatial_window: found {spatial_window} with {encoding}, expected null, since it has none")

    def spatial_options(self) -> dict[str, Any]:
        """Give SIM, or nothing in its place."""
        hp = self.hparams
        if hp["encoding"] == "none":
            return {"name": "plain"}
        if hp["encoding"].startswith("released_"):
            _, number, *across = hp["encoding"].split("_", 2)
            where = {"position": hp["position"], "train_size": hp["train_size"]}
            return {"name": "released", "encoding": number, "across_batch": bool(across), **where}
        options = {
            "name": "sim", "encoding": hp["encoding"], "position": hp["position"], "train_size": hp["train_size"],
            "width": hp["spatial_width"], "heads": hp["spatial_heads"],
        }  # fmt: skip
        # left out where it is not used, so that earlier versions read the folder
        return options if hp["spatial_window"] is None else {**options, "window": hp["spatial_window"]}
