"""Images of a data set that are worth looking at."""

from collections.abc import Sequence

import torch

from sign_zs3.data.datasets.base import SegmentationDataset

EXAMINED = 60


def choose_examples(dataset: SegmentationDataset, count: int = 6, indices: Sequence[int] | None = None) -> list[int]:
    """Return the ascending indices of `count` images to show, the same ones every time.

    Of 60 images spread over the set, or over `indices` of it, they are those that show each unseen class as often as
    can be, or each seen class where the set hides unseen ones.
    """
    wanted = set(dataset.protocol.seen if dataset.hide_unseen else dataset.protocol.unseen)
    indices = range(len(dataset)) if indices is None else indices
    spread = indices[:: max(1, len(indices) // EXAMINED)]
    held = {index: wanted & set(torch.unique(dataset[index]["mask"]).tolist()) for index in spread}
    shown = dict.fromkeys(wanted, 0)
    chosen: list[int] = []
    for _ in range(min(count, len(held))):
        # a class counts for less the more often it is there already; the first of equals is taken
        best = max((i for i in held if i not in chosen), key=lambda i: (sum(1 / (1 + shown[k]) for k in held[i]), -i))
        chosen.append(best)
        for label in held[best]:
            shown[label] += 1
    return sorted(chosen)
