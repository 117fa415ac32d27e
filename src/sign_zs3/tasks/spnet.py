"""SPNet (Xian et al., CVPR 2019): pixels projected into the space of class vectors."""

from __future__ import annotations

from typing import Any

from torch import nn

from sign_zs3.models.classifier import ProjectionClassifier
from sign_zs3.models.spatial import PlainFeatures
from sign_zs3.tasks.checks import check_range
from sign_zs3.tasks.self_training import SelfTrainingTask


class SPNetModule(SelfTrainingTask):
    """SPNet in SIGN's frame: E learns to map a pixel onto its class's vector; nothing else is learnt.

    D is the class vectors' length W, and F = E(x). The logit of a class is its vector's inner product with F, so unseen
    classes are known from the start, and there is neither generator nor transfer step. Calibrated stacking is
    `seen_penalty`.

    Args:
        logit_scale: What the inner products are multiplied with.
        **kwargs: Further options of `SelfTrainingTask`.
    """

    architecture = (*SelfTrainingTask.architecture, "logit_scale")

    def __init__(self, logit_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        check_range("logit_scale", logit_scale, above=0)

    def feature_dim(self, word_dim: int) -> int:
        """Return W: F lies in the space of class vectors."""
        return word_dim

    def build_spatial(self, feature_dim: int) -> nn.Module:
        """Pass E's features on, unbounded as class vectors are."""
        return PlainFeatures(feature_dim, sigmoid=False)

    def build_classifier(self, feature_dim: int, num_classes: int) -> ProjectionClassifier:
        """Make C of the class vectors."""
        return ProjectionClassifier(self.class_vectors, self.hparams["logit_scale"])

    def build_networks(self, num_classes: int, num_seen: int, word_dim: int, pretrained: bool) -> None:
        """Make E and C, which knows all classes."""
        super().build_networks(num_classes, num_seen, word_dim, pretrained)
        self.segmenter.known.fill_(True)
