"""SPNet (Xian et al., CVPR 2019): pixels projected into the space of class vectors."""

from typing import Any, Literal

from sign_zs3.errors import check_range
from sign_zs3.models.classifier import ProjectionClassifier
from sign_zs3.tasks.base import ZeroShotTask


class SPNetModule(ZeroShotTask):
    """SPNet in SIGN's frame: E learns to map a pixel onto its class's vector; nothing else is learnt.

    D is the class vectors' length W, and F = E(x). The logit of a class is its vector's inner product with F, so unseen
    classes are known from the start, and there is neither generator nor transfer step. Calibrated stacking is
    `seen_penalty`.

    Args:
        logit_scale: What the inner products are multiplied with.
        maximum: Over `input_scales`, of the ``features`` or, as in the released tests, of the ``logits``.
        **kwargs: Further options of `ZeroShotTask`.
    """

    architecture = (*ZeroShotTask.architecture, "logit_scale", "maximum")

    def __init__(
        self, logit_scale: float = 1.0, maximum: Literal["features", "logits"] = "features", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        check_range("logit_scale", logit_scale, above=0)

    def spatial_options(self) -> dict[str, Any]:
        """Pass E's features on, unbounded as class vectors are."""
        return {"name": "plain", "sigmoid": False}

    def classifier_options(self) -> dict[str, Any]:
        """Let C be the inner product with the class vectors."""
        return {"name": "projection", "scale": self.hparams["logit_scale"]}

    def build_networks(self, word_dim: int, weights: str | None) -> None:
        """Make E and C, which knows all classes."""
        super().build_networks(word_dim, weights)
        assert isinstance(self.segmenter.classifier, ProjectionClassifier)
        self.segmenter.classifier.vectors.copy_(self.class_vectors)
        self.segmenter.known.fill_(True)
