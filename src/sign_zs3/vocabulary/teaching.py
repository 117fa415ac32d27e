"""The transfer step (eq. 10) on C's rows of new classes alone, with old classes kept from losing their features."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.errors import UserError
from sign_zs3.functional.geometry import map_size, shrink_labels
from sign_zs3.models.classifier import Classifier
from sign_zs3.protocol import IGNORE_INDEX
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.generative import GenerativeTask
from sign_zs3.tasks.updates import MOMENTUM, POLY_POWER, WEIGHT_DECAY

PER_CLASS = 2_000
LEAST = 200
AT_MOST = 40_000
"""Synthetic features: of each class, at least and at most, and of all."""

REAL = 16_384
"""Real features: those of as many training images are read as have so many cells together."""

BATCH = 1_024
"""Features of either kind that an iteration reads."""

TAKEN = 0.01
"""Share of the features of old classes, on average over these, that new classes may take."""

ITERATIONS = 1_000
"""Least length without data: rows that start at zero are then steady over seeds."""


def real_features(model: GenerativeTask, data: ZeroShotDataModule, count: int | None) -> tuple[Tensor, Tensor]:
    """Read features of labelled pixels: (P, D) and their classes (P,), at most `PER_CLASS` of each."""
    if data.train_set is None:
        data.setup("fit")
    assert data.train_set is not None
    if count is None:
        side = model.segmenter.encoder.strides[0]
        height, width = map_size(data.train_set[data.train_indices[0]]["mask"])
        count = max(1, REAL * side**2 // (height * width))
    indices = data.train_indices[:: max(1, len(data.train_indices) // count)][:count]
    rows, classes = [], []
    with torch.no_grad():
        for index in indices:
            sample = data.train_set[index]
            features = model.segmenter.features(sample["image"].unsqueeze(0).to(model.device), sample=False).features
            labels = shrink_labels(sample["mask"].unsqueeze(0), map_size(features))[0]
            rows.append(features[0].permute(1, 2, 0)[labels != IGNORE_INDEX].cpu())
            classes.append(labels[labels != IGNORE_INDEX])
    real, label = torch.cat(rows), torch.cat(classes)
    if not len(label):
        raise UserError(
            f"data: found no labelled pixel in {len(indices)} training images, expected masks of the seen classes: "
            "give the data of the training"
        )
    order = torch.randperm(len(label))
    chosen = torch.cat([order[label[order] == c][:PER_CLASS] for c in torch.unique(label).tolist()])
    return real[chosen], label[chosen]


def synthetic_features(model: GenerativeTask, count: int) -> tuple[Tensor, Tensor]:
    """Generate `count` features of every class: (C * count, D) and their classes."""
    labels = torch.arange(len(model.class_vectors)).repeat_interleave(count)
    made = []
    with torch.no_grad():
        for part in torch.split(labels, 4096):
            latent = torch.randn(1, model.generator.latent_dim, len(part), 1)
            vectors = model.class_vectors.cpu()[part].t().reshape(1, -1, len(part), 1)
            made.append(model.generator(vectors.to(model.device), latent.to(model.device))[0, :, :, 0].t().cpu())
    return torch.cat(made), labels


def teach_rows(
    model: GenerativeTask, rows: Sequence[int], real: tuple[Tensor, Tensor] | None, odds: float | None
) -> None:
    """Fit C's rows of new classes to the loss of eq. 10, at the rates of the model's transfer step; the others stay."""
    hp, projection = model.hparams, _projection(model)
    assert projection.bias is not None
    per_class = max(LEAST, min(PER_CLASS, AT_MOST // model.segmenter.num_classes))
    features, labels = synthetic_features(model, per_class)
    chance = torch.ones(model.segmenter.num_classes)
    chance[model.segmenter.num_seen :] = float(hp["unseen_odds"]) if odds is None else odds
    chance = chance[labels]
    weight = projection.weight.detach()[:, :, 0, 0].cpu().clone()
    bias = projection.bias.detach().cpu().clone()
    new_weight, new_bias = weight[list(rows)], bias[list(rows)]
    index = torch.as_tensor(rows)
    rate, iterations = float(hp["lr_transfer"]), max(1 if real else ITERATIONS, int(hp["transfer_iterations"]))
    groups: list[dict[str, Any]] = [{"params": [new_weight]}, {"params": [new_bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    synthetic_pool = Pool.of(features, labels, weight, bias, index)
    real_pool = None if real is None else Pool.of(*real, weight, bias, index)
    for iteration in range(iterations):
        factor = (1 - iteration / iterations) ** POLY_POWER
        for group, multiplier in zip(optimizer.param_groups, (10, 20), strict=True):
            group["lr"] = rate * multiplier * factor
        gradients = [synthetic_pool.gradient(torch.multinomial(chance, BATCH, replacement=True), new_weight, new_bias)]
        if real_pool is not None:
            drawn = torch.randint(len(real_pool.features), (BATCH,))
            gradients.append(real_pool.gradient(drawn, new_weight, new_bias))
        new_weight.grad, new_bias.grad = (torch.stack(terms).sum(0) for terms in zip(*gradients, strict=True))
        optimizer.step()
    pools = [synthetic_pool] if real_pool is None else [synthetic_pool, real_pool]
    new_bias -= excess(pools, new_weight, new_bias)
    with torch.no_grad():
        projection.weight[index] = new_weight[:, :, None, None].to(projection.weight)
        projection.bias[index] = new_bias.to(projection.bias)


class Pool(NamedTuple):
    """Features, and what C's old rows, which stay, say of them.

    Attributes:
        features: (P, D).
        labels: (P,) their classes.
        highest: (P,) highest logit of an old class.
        total: (P,) log of the sum of exponentials of the old classes' logits.
        column: (P,) number of the feature's class among the new ones; -1 where that is an old one.
    """

    features: Tensor
    labels: Tensor
    highest: Tensor
    total: Tensor
    column: Tensor

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, new: Tensor) -> Pool:
        """Compute it once for C's weight (C, D) and bias (C,), of which the rows `new` do not count."""
        logits = F.linear(features, weight, bias)
        logits[:, new] = -math.inf
        column = torch.full((len(weight),), -1).index_copy(0, new, torch.arange(len(new)))[labels]
        return cls(features, labels, logits.amax(1), logits.logsumexp(1), column)

    def gradient(self, drawn: Tensor, new_weight: Tensor, new_bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of the mean cross-entropy, over old and new classes, of the features of these numbers.

        Args:
            drawn: (B,) int64.
            new_weight: (K, D) of the new classes.
            new_bias: (K,) of the new classes.

        Returns:
            With respect to `new_weight` and `new_bias`: softmax less one-hot, the mean over the features.
        """
        # index_select: on the CPU several times as fast as indexing rows
        features, column = self.features.index_select(0, drawn), self.column[drawn]
        logits = F.linear(features, new_weight, new_bias)
        error = (logits - torch.logaddexp(self.total[drawn], logits.logsumexp(1))[:, None]).exp()
        ours = (column >= 0).nonzero()[:, 0]
        error[ours, column[ours]] -= 1
        error /= len(drawn)
        return error.t() @ features, error.sum(0)


def excess(pools: Sequence[Pool], new_weight: Tensor, new_bias: Tensor) -> Tensor:
    """Return the least number, 0 or more, by which logits of new classes must sink.

    In each pool they take then no more than `TAKEN` of the features of old classes, on average over these.
    """
    needed = [new_bias.new_zeros(())]
    for pool in pools:
        old = pool.column < 0
        labels = pool.labels[old]
        margin = F.linear(pool.features[old], new_weight, new_bias).amax(1) - pool.highest[old]
        margin, order = margin.sort(descending=True)
        share = 1 / torch.bincount(labels)[labels[order]]
        taken = (share / len(torch.unique(labels))).cumsum(0)
        needed.append(margin[taken > TAKEN].amax().clamp(min=0))
    return torch.stack(needed).amax()


def _projection(model: ZeroShotTask) -> torch.nn.Conv2d:
    classifier = model.segmenter.classifier
    assert isinstance(classifier, Classifier)
    return classifier.projection
