"""The paper's equations as pure functions on tensors, each with its number, shapes and errors."""

from sign_zs3.functional.adversarial import discriminator_loss, generator_loss
from sign_zs3.functional.cross_entropy import (
    balanced_weights,
    pixel_cross_entropy,
    transfer_loss,
    weighted_cross_entropy,
    weighted_mean,
)
from sign_zs3.functional.divergence import class_mmd, gaussian_kl, mmd
from sign_zs3.functional.geometry import map_size, resize_map, resize_scores, shrink_labels
from sign_zs3.functional.gzsl import confusion_matrix, gzsl_scores, per_class_iou
from sign_zs3.functional.positional import (
    absolute_positional_encoding,
    interpolated_positional_encoding,
    relative_positional_encoding,
)
from sign_zs3.functional.self_training import annealed_weights, confident_fraction, probability_weights, within_top
from sign_zs3.functional.teaching import excess_logit, logits_beside_old

__all__ = [
    "absolute_positional_encoding",
    "annealed_weights",
    "balanced_weights",
    "class_mmd",
    "confident_fraction",
    "confusion_matrix",
    "discriminator_loss",
    "excess_logit",
    "gaussian_kl",
    "generator_loss",
    "gzsl_scores",
    "interpolated_positional_encoding",
    "logits_beside_old",
    "map_size",
    "mmd",
    "per_class_iou",
    "pixel_cross_entropy",
    "probability_weights",
    "relative_positional_encoding",
    "resize_map",
    "resize_scores",
    "shrink_labels",
    "transfer_loss",
    "weighted_cross_entropy",
    "weighted_mean",
    "within_top",
]
