"""How a task labels the images of its data: the same in validation, test and prediction."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from sign_zs3.functional.devices import in_memory
from sign_zs3.functional.geometry import map_size, resize_map, shrink_labels
from sign_zs3.models.inference import Scores, label_scores
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.tasks.steps import Batch

FEATURE_RESOLUTION_SIZE = (513, 513)
"""(height, width) to which images are warped before they are scored at the resolution of the feature map."""


def score_batch(segmenter: Segmenter, batch: Batch, resolution: str, options: Mapping[str, Any]) -> Scores:
    """Return the scores of a batch's images or maps; with `resolution` ``feature`` images are warped first."""
    if "maps" in batch:
        return segmenter.scores(batch["maps"], size=map_size(batch["mask"]), **options)
    images = batch["image"]
    if resolution == "feature":
        images = resize_map(images.float(), FEATURE_RESOLUTION_SIZE)
    height, width = map_size(images)
    found = f"{len(images)} images of {height} x {width} pixels"
    with in_memory("eval_batch_size", found, "lower --data.eval_batch_size, or give --data.eval_size or fewer scales"):
        return segmenter.scores(images, **options)


def labels_and_truth(scores: Scores, mask: Tensor, resolution: str) -> tuple[Tensor, Tensor]:
    """Return the predicted label map and the truth, both (N, h, w) int64, at the resolution that is scored."""
    if resolution == "label":
        return label_scores(scores, map_size(mask), confidence=False).label, mask
    label = label_scores(scores, None, confidence=False).label
    # in two steps, as the published code does
    return label, shrink_labels(shrink_labels(mask, FEATURE_RESOLUTION_SIZE), map_size(label))


def logged(scores: Mapping[str, Any], stage: str) -> dict[str, float]:
    """Return the scores to log as ``STAGE/NAME``; unseen ones in a validation only where it labels unseen classes."""
    everything = stage == "test" or not math.isnan(scores["unseen_pixel_accuracy"])
    numbers = {name: value for name, value in scores.items() if isinstance(value, float)}
    return {f"{stage}/{name}": x for name, x in numbers.items() if everything or name.startswith("seen_")}
