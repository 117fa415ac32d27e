"""The transfer step (eq. 10) on C's rows of new classes alone, with old classes kept from losing their features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.errors import UserError
from sign_zs3.functional.cross_entropy import pixel_cross_entropy, transfer_loss
from sign_zs3.functional.geometry import map_size
from sign_zs3.functional.teaching import excess_logit, logits_beside_old
from sign_zs3.models.classifier import Classifier
from sign_zs3.tasks import steps
from sign_zs3.tasks.generative import GenerativeTask
from sign_zs3.tasks.updates import MOMENTUM, POLY_POWER, WEIGHT_DECAY

MIN_PER_CLASS, MAX_PER_CLASS, MAX_SYNTHETIC = 200, 2_000, 40_000
"""Features of each class, and synthetic ones of all."""
REAL_FEATURES = 16_384
"""As many training images are read as have so many cells together."""
BATCH = 1_024
"""Features of either kind that an iteration reads."""
MAX_TAKEN = 0.01
"""Share of the features of old classes, on average over these, that new classes may take."""
MIN_ITERATIONS = 1_000
"""Without data; rows that start at zero then end alike whatever the seed."""


class Features(NamedTuple):
    """Features of pixels: `rows` (P, D) and `labels` (P,) int64, their classes."""

    rows: Tensor
    labels: Tensor


def real_features(model: GenerativeTask, data: ZeroShotDataModule, images: int | None) -> Features:
    """Read features of labelled pixels, at most `MAX_PER_CLASS` of each class; `images` as `extend` has it.

    A `UserError` where no pixel is labelled.
    """
    if data.train_set is None:
        data.setup("fit")
    assert data.train_set is not None
    if images is None:
        height, width = map_size(data.train_set[data.train_indices[0]]["mask"])
        images = max(1, REAL_FEATURES * model.segmenter.encoder.strides[0] ** 2 // (height * width))
    indices = data.train_indices[:: max(1, len(data.train_indices) // images)][:images]
    rows, found = [], []
    with torch.no_grad():
        for sample in (data.train_set[index] for index in indices):
            spatial = model.segmenter.features(sample["image"].unsqueeze(0), sample=False)
            mask = sample["mask"].unsqueeze(0)
            cells = model.segmenter.encoder.cells(map_size(mask))
            pixels = steps.labelled_features(spatial, mask, cells, model.class_vectors)
            rows.append(steps.as_rows(pixels.real))
            found.append(pixels.labels)
    labels = torch.cat(found)
    if not len(labels):
        raise UserError(
            f"data: found no labelled pixel in {len(indices)} training images, expected masks of the seen classes: "
            "give the data of the training"
        )
    order = torch.randperm(len(labels))
    chosen = torch.cat([order[labels[order] == c][:MAX_PER_CLASS] for c in torch.unique(labels).tolist()])
    return Features(torch.cat(rows)[chosen], labels[chosen])


def synthetic_features(model: GenerativeTask) -> Features:
    """Generate the same number of features of every class."""
    num_classes = model.segmenter.num_classes
    count = max(MIN_PER_CLASS, min(MAX_PER_CLASS, MAX_SYNTHETIC // num_classes))
    labels = torch.arange(num_classes).repeat_interleave(count)
    parts = [part.view(1, -1, 1) for part in torch.split(labels, 4096)]
    made = [steps.synthetic_features(model.generator, model.class_vectors, part) for part in parts]
    return Features(torch.cat([steps.as_rows(features) for features in made]), labels)


class Pool(NamedTuple):
    """P features, and what C's old rows, which stay, say of them: the highest logit (P,), and their log-sum-exp (P,).

    `column` (P,) is 1 + the number of the feature's class among the new ones; 0 where that is an old one.
    """

    features: Features
    column: Tensor
    highest: Tensor
    total: Tensor

    @classmethod
    def of(cls, features: Features, weight: Tensor, bias: Tensor, new: list[int]) -> Pool:
        """Compute it for C's weight (C, D) and bias (C,), of which the rows `new` do not count."""
        logits = F.linear(features.rows, weight, bias)
        logits[:, new] = -torch.inf
        column = torch.zeros(len(weight), dtype=torch.long)
        column[new] = torch.arange(1, len(new) + 1)
        return cls(features, column[features.labels], logits.amax(1), logits.logsumexp(1))

    def logits_and_labels(self, numbers: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (1, 1 + K, B, 1), of old classes as one and K new ones, and labels (1, B, 1) of B features."""
        # index_select: on the CPU several times as fast as indexing rows
        new_logits = F.linear(self.features.rows.index_select(0, numbers), weight, bias)
        return logits_beside_old(new_logits, self.total[numbers]), self.column[numbers].view(1, -1, 1)

    def excess(self, weight: Tensor, bias: Tensor) -> Tensor:
        """Return by how much new logits must sink to take at most `MAX_TAKEN` of the features of old classes."""
        old = self.column == 0
        margins = F.linear(self.features.rows[old], weight, bias).amax(1) - self.highest[old]
        return excess_logit(margins, self.features.labels[old], MAX_TAKEN)


def teach_rows(model: GenerativeTask, new: Sequence[int], real: Features | None, odds: float | None) -> None:
    """Fit C's rows of the `new` classes to eq. 10, at the rates of the model's transfer step; the others stay.

    Without `real` features of seen classes, eq. 10 has the term of synthetic ones alone. `odds` as `extend` has them.
    """
    hp, classifier, rows = model.hparams, model.segmenter.classifier, list(new)
    assert isinstance(classifier, Classifier) and classifier.projection.bias is not None
    projection = classifier.projection.weight.detach()[:, :, 0, 0], classifier.projection.bias.detach()
    weight, bias = (values[rows].requires_grad_() for values in projection)
    read = [synthetic_features(model), *([] if real is None else [real])]
    if len(classifier.hidden):
        with torch.no_grad():
            widened = [steps.as_rows(classifier.hidden(steps.as_map(features.rows))).contiguous() for features in read]
        read = [features._replace(rows=rows) for features, rows in zip(read, widened, strict=True)]
    pools = [Pool.of(features, *projection, rows) for features in read]
    synthetic = pools[0]
    labels = synthetic.features.labels
    chance = torch.ones(len(labels))
    chance[labels >= model.segmenter.num_seen] = float(hp["unseen_odds"]) if odds is None else odds
    iterations = max(MIN_ITERATIONS if real is None else 1, int(hp["transfer_iterations"]))
    rate = float(hp["lr_transfer"])
    groups = [{"params": [weight], "lr": 10 * rate}, {"params": [bias], "lr": 20 * rate, "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    scheduler = torch.optim.lr_scheduler.PolynomialLR(optimizer, iterations, POLY_POWER)
    for _ in range(iterations):
        drawn = synthetic.logits_and_labels(torch.multinomial(chance, BATCH, replacement=True), weight, bias)
        if real is None:
            loss = pixel_cross_entropy(*drawn)
        else:
            beside = pools[1].logits_and_labels(torch.randint(len(real.labels), (BATCH,)), weight, bias)
            loss = torch.stack(transfer_loss(*beside, *drawn)).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        bias -= torch.stack([pool.excess(weight, bias) for pool in pools]).amax()
        projection[0][rows], projection[1][rows] = weight, bias
