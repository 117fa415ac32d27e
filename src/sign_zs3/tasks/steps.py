"""What the training steps compute: functions of networks and tensors that return named loss terms."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sign_zs3.functional.adversarial import AdversarialMode, discriminator_loss, generator_loss
from sign_zs3.functional.cross_entropy import (
    balanced_weights,
    pixel_cross_entropy,
    transfer_loss,
    weighted_cross_entropy,
    weighted_mean,
)
from sign_zs3.functional.devices import to_device
from sign_zs3.functional.divergence import class_mmd, gaussian_kl, median_bandwidths
from sign_zs3.functional.geometry import Cells, map_size, resize_scores, shrink_labels
from sign_zs3.functional.self_training import annealed_weights, confident_fraction, probability_weights, within_top
from sign_zs3.models.discriminator import Discriminator
from sign_zs3.models.generator import Generator
from sign_zs3.models.segmenter import Inputs, Segmenter
from sign_zs3.models.spatial import SpatialFeatures
from sign_zs3.protocol import IGNORE_INDEX

Batch = dict[str, Any]
"""``image`` (N, 3, H, W) in [0, 255] or a cache's ``maps``; ``mask`` (N, H, W) int64, 255 where no class is known;
``valid`` (N, H, W) bool, no padding; ``hidden`` (N,), pixels of unseen classes; ``id``; ``size`` (N, 2), to predict;
``host``, in training, what the host keeps of these, an `OnHost`."""


class Losses(NamedTuple):
    """What an optimiser minimises, and what it is made of.

    Attributes:
        total: Scalar.
        terms: Name -> scalar, for the log and for errors.
    """

    total: Tensor
    terms: dict[str, Tensor]


class PseudoLabels(NamedTuple):
    """What the teacher says of the ignored pixels of a batch.

    Attributes:
        labels: (N, H, W) int64, its class for every pixel.
        confidence: (N, H, W) float32 in [0, 1], its softmax over all classes at that class.
        chosen: (N, H, W) bool, pixels that get their pseudo-label: ignored, no padding, and within `pseudo_top_p`.
        weights: (N, H, W) float32 in [0, 1], of their losses; without meaning where `chosen` is False.
    """

    labels: Tensor
    confidence: Tensor
    chosen: Tensor
    weights: Tensor


class LabelledFeatures(NamedTuple):
    """The features of all labelled pixels of a batch, as (1, channels, P, 1) maps that 1x1 convolutions read.

    Attributes:
        real: F, detached.
        latent: z, detached.
        vectors: Class vector of each pixel.
        labels: (P,) int64, on the CPU.
        per_image: Number of pixels of each image.
    """

    real: Tensor
    latent: Tensor
    vectors: Tensor
    labels: Tensor
    per_image: list[int]


def inputs_of(batch: Batch) -> Inputs:
    """Return what the segmenter reads of a batch: feature maps from a cache where it has them, else images."""
    found: Inputs = batch["maps"] if "maps" in batch else batch["image"]
    return found


def at_pixels(segmenter: Segmenter, logits: Tensor, mask: Tensor) -> Tensor:
    """Interpolate logits (N, C, h, w) at the pixels of masks (N, H, W), which have the size of the images."""
    return resize_scores(logits.float(), map_size(mask), segmenter.encoder.cells(map_size(mask)))


def supervised_losses(
    segmenter: Segmenter, batch: Batch, num_seen: int, alpha: float | None, balance: float = 0.0
) -> tuple[SpatialFeatures, Losses]:
    """Cross-entropy over the first `num_seen` classes alone (eq. 3) and, weighed by `alpha`, KL (eq. 2, 4)."""
    spatial = segmenter.features(inputs_of(batch))
    seen_logits = segmenter.classifier(spatial.features)[:, :num_seen]
    loss_seg = pixel_cross_entropy(at_pixels(segmenter, seen_logits, batch["mask"]), batch["mask"], balance)
    return spatial, _with_kl(loss_seg, {"loss_seg": loss_seg}, spatial, alpha)


@torch.no_grad()
def pseudo_labels(teacher: Segmenter, batch: Batch, num_seen: int, hparams: Mapping[str, Any]) -> PseudoLabels:
    """Let the teacher label the ignored pixels of a batch, and weigh them, as a task's options say (section 3.4)."""
    first = num_seen if hparams["pseudo_classes"] == "unseen" else 0
    logits = at_pixels(teacher, teacher(inputs_of(batch)), batch["mask"])
    confidence, labels = logits.softmax(dim=1)[:, first:].max(dim=1)
    labels = labels + first
    chosen = (batch["mask"] == IGNORE_INDEX) & batch["valid"]
    if hparams["pseudo_top_p"]:
        chosen = chosen & within_top(logits, labels, hparams["pseudo_top_p"])
    if hparams["self_training"] == "annealed":
        weights = annealed_weights(confidence, chosen, hparams["temperature"])
    elif hparams["self_training"] == "probability":
        weights = probability_weights(logits, first) if first else confidence
    else:
        weights = confident_fraction(confidence, chosen, hparams["top_fraction"]).float()
    return PseudoLabels(labels, confidence, chosen, weights)


def self_training_losses(
    segmenter: Segmenter, batch: Batch, pseudo: PseudoLabels, alpha: float | None, balance: float = 0.0
) -> tuple[SpatialFeatures, Losses, dict[str, Tensor]]:
    """Cross-entropy of labels with weight 1 and of pseudo-labels with weights of their own (section 3.4), and KL.

    The third result is logged beside the losses' terms: the cross-entropy of either kind of label, the share of truly
    unseen pixels among the ignored ones (if it is near 1, being ignored already gives a pixel away as unseen), and the
    mean weight of the ignored pixels.
    """
    mask, chosen = batch["mask"], pseudo.chosen
    labelled = mask != IGNORE_INDEX
    weights = torch.where(chosen, pseudo.weights, labelled.float())
    spatial = segmenter.features(inputs_of(batch))
    logits = at_pixels(segmenter, segmenter.classifier(spatial.features), mask)
    labels = torch.where(chosen, pseudo.labels, mask)
    loss, each = weighted_cross_entropy(logits, labels, balanced_weights(labels, weights, balance))
    ignored = (~labelled & batch["valid"]).sum().clamp(min=1)
    report = {
        "loss_seg": weighted_mean(each.detach(), labelled.float()),
        "loss_pseudo": weighted_mean(each.detach(), weights * chosen),
        "unseen_share": batch["hidden"].sum() / ignored,
        "pseudo_weight": (weights * chosen).sum() / ignored,
    }
    return spatial, _with_kl(loss, {"loss_pseudo": loss}, spatial, alpha), report


def _with_kl(loss: Tensor, terms: dict[str, Tensor], spatial: SpatialFeatures, alpha: float | None) -> Losses:
    if alpha is None:
        return Losses(loss, terms)
    loss_kl = gaussian_kl(spatial.mu, spatial.logvar)
    return Losses(loss + alpha * loss_kl, {**terms, "loss_kl": loss_kl})


def labelled_features(spatial: SpatialFeatures, mask: Tensor, cells: Cells, class_vectors: Tensor) -> LabelledFeatures:
    """Gather the features of all cells that look at a label, P = 0 or more; no gradient flows back into them.

    The host finds the cells: of a mask (N, H, W) on the CPU without a wait for the features' device.
    """
    labels, device = shrink_labels(mask.cpu(), map_size(spatial.features), cells), spatial.features.device
    labelled = labels != IGNORE_INDEX  # (N, h, w)
    pixels = labels[labelled]  # (P,)
    at = tuple(to_device(index, device) for index in labelled.nonzero(as_tuple=True))
    real, latent = (as_map(x.detach().permute(0, 2, 3, 1)[at]) for x in (spatial.features, spatial.latent))
    vectors = as_map(class_vectors[to_device(pixels, device)])
    return LabelledFeatures(real, latent, vectors, pixels, labelled.flatten(1).sum(1).tolist())


def discriminator_losses(
    discriminator: Discriminator, generator: Generator, pixels: LabelledFeatures, mode: AdversarialMode
) -> Losses:
    """D's side of eq. 7."""
    with torch.no_grad():
        fake = generator(pixels.vectors, pixels.latent)
    loss = discriminator_loss(discriminator(pixels.real), discriminator(fake), mode)
    return Losses(loss, {"loss_adv_d": loss})


def generator_losses(
    generator: Generator, discriminator: Discriminator | None, pixels: LabelledFeatures, hparams: Mapping[str, Any]
) -> Losses:
    """G's side of eq. 7, where there is a D, and the MMD (eq. 5, 6, 8), weighed as a task's options say."""
    fake = generator(pixels.vectors, pixels.latent)
    sizes = pixels.per_image if hparams["mmd_scope"] == "image" else [len(pixels.labels)]
    parts = (torch.split(rows, sizes) for rows in (as_rows(pixels.real), as_rows(fake), pixels.labels))
    images = zip(*parts, strict=True)
    bandwidths = hparams["bandwidths"]
    if bandwidths == "median":
        bandwidths = median_bandwidths(as_rows(pixels.real), as_rows(fake))
    each = [class_mmd(r, f, c, bandwidths=bandwidths) for r, f, c in images if len(c)]
    loss_mmd = torch.stack(each).mean()
    loss, terms = hparams["beta"] * loss_mmd, {"loss_mmd": loss_mmd}
    if discriminator is not None:
        loss_adv = generator_loss(discriminator(fake), hparams["adversarial"])
        loss, terms = loss_adv + loss, {"loss_adv_g": loss_adv, **terms}
    return Losses(loss, terms)


@torch.no_grad()
def synthetic_features(generator: Generator, class_vectors: Tensor, labels: Tensor) -> Tensor:
    """Generate a feature map (N, D, h, w) for a label map (N, h, w), with latents of N(0, 1)."""
    n, height, width = labels.shape
    latent = torch.randn(n, generator.latent_dim, height, width, device=labels.device)
    features: Tensor = generator(class_vectors[labels].permute(0, 3, 1, 2), latent)
    return features


def random_labels(shape: tuple[int, int, int], num_seen: int, num_classes: int, unseen_odds: float,
                  device: torch.device | None = None) -> Tensor:  # fmt: skip
    """Draw a label map (N, h, w) int64: each unseen class is `unseen_odds` times as likely as each seen one."""
    odds = torch.ones(num_classes, device=device)
    odds[num_seen:] = unseen_odds
    return torch.multinomial(odds, math.prod(shape), replacement=True).view(shape)


def transfer_losses(segmenter: Segmenter, features: Tensor, mask: Tensor, synthetic: Tensor, labels: Tensor,
                    balance: float = 0.0) -> Losses:  # fmt: skip
    """Eq. 10: C on real features of seen classes and synthetic ones of all, each with its label map."""
    logits = at_pixels(segmenter, segmenter.classifier(features), mask)
    loss_seg, loss_synthetic = transfer_loss(logits, mask, segmenter.classifier(synthetic), labels, balance)
    return Losses(loss_seg + loss_synthetic, {"loss_seg": loss_seg, "loss_synthetic": loss_synthetic})


def as_map(rows: Tensor) -> Tensor:
    """View (P, D) rows as a (1, D, P, 1) map."""
    return rows.t().reshape(1, rows.shape[1], rows.shape[0], 1)


def as_rows(pixels: Tensor) -> Tensor:
    """View a (1, D, P, 1) map as (P, D) rows."""
    return pixels[0, :, :, 0].t()
