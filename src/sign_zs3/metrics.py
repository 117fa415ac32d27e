"""The torchmetrics face of the scores in `sign_zs3.functional.gzsl`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torchmetrics import Metric

from sign_zs3.functional.gzsl import Absent, confusion_matrix, gzsl_scores, per_class_iou
from sign_zs3.protocol import IGNORE_INDEX

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["GZSLMeanIoU"]


class GZSLMeanIoU(Metric):
    """Mean IoU of seen and unseen classes and their harmonic mean, over all pixels of all updates.

    The state is one confusion matrix, summed over processes, so the scores do not depend on how images are batched or
    spread. `compute` returns a dict: log it with `log_dict` once its `per_class` is taken out.

    >>> metric = GZSLMeanIoU(["cat", "dog", "cow"], seen=[0, 1], unseen=[2])
    >>> metric.update(torch.tensor([[[0, 1, 2, 2]]]), torch.tensor([[[0, 1, 1, 2]]]))
    >>> scores = metric.compute()
    >>> scores["seen_miou"], scores["unseen_miou"], scores["harmonic_miou"]
    (0.75, 0.5, 0.6)

    Args:
        classes: C class names, by contiguous id.
        seen: Ids of the seen classes.
        unseen: Ids of the unseen classes.
        ignore_index: Pixels with this label do not count.
        absent: `skip` leaves a class without label out of the means, `zero` counts it 0.
        **kwargs: Options of `torchmetrics.Metric`.

    Raises:
        ValueError: Names are repeated, ids lie outside 0..C-1 or are repeated, or `absent` is neither word.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    confusion: Tensor

    def __init__(
        self,
        classes: Sequence[str],
        seen: Sequence[int],
        unseen: Sequence[int],
        ignore_index: int = IGNORE_INDEX,
        absent: Absent = "skip",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if len(set(classes)) < len(classes):
            twice = sorted({name for name in classes if list(classes).count(name) > 1})
            raise ValueError(f"class names occur twice: {', '.join(twice)}")
        self.classes = tuple(classes)
        self.seen, self.unseen = tuple(map(int, seen)), tuple(map(int, unseen))
        self.ignore_index, self.absent = ignore_index, absent
        counts = torch.zeros(len(self.classes), len(self.classes), dtype=torch.long)
        gzsl_scores(counts, self.seen, self.unseen, absent)  # its checks, before the first batch
        self.add_state("confusion", default=counts, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count a batch.

        Args:
            preds: (N, H, W) integer classes, or (N, C, H, W) logits, whose largest is taken.
            target: (N, H, W) integer classes, or `ignore_index`.

        Raises:
            ValueError: Shapes do not fit, or a counted pixel has a class outside 0..C-1.
        """
        if preds.is_floating_point():
            expected = (target.shape[0], len(self.classes), *target.shape[1:])
            if preds.shape != expected:
                raise ValueError(f"expected logits of shape {expected}, got {tuple(preds.shape)}")
            preds = preds.argmax(dim=1)
        self.confusion = self.confusion + confusion_matrix(preds, target, len(self.classes), self.ignore_index)

    def compute(self) -> dict[str, Any]:
        """Return all scores so far: the floats of `sign_zs3.functional.gzsl_scores` and `per_class`.

        The latter is the IoU of each class by name, NaN for a class without label.
        """
        scores: dict[str, Any] = dict(gzsl_scores(self.confusion, self.seen, self.unseen, self.absent))
        scores["per_class"] = dict(zip(self.classes, per_class_iou(self.confusion).tolist(), strict=True))
        return scores

    def plot(self, val: dict[str, Any] | None = None, ax: Axes | None = None) -> tuple[Figure, Axes]:
        """Draw the IoU of each class as a bar, seen and unseen ones in two colours; the three means are the title.

        `val` is what `compute` returned; None: computed now. `ax` is where to draw; None: in a new figure.
        """
        from sign_zs3.drawing.charts import draw_iou

        scores = self.compute() if val is None else val
        means = (f"{name} {scores[f'{name}_miou']:.3f}" for name in ("seen", "unseen", "harmonic"))
        return draw_iou(scores["per_class"], self.seen, self.unseen, "   ".join(means), ax)
