"""What teaching new classes beside old ones computes, where the old ones' logits stay as they are."""

import torch
from torch import Tensor


def logits_beside_old(new_logits: Tensor, old_total: Tensor) -> Tensor:
    """Return logits in which all old classes are one, for a cross-entropy with the gradient of that over all classes.

    A softmax knows the old classes' logits by their log-sum-exp alone. The cross-entropy of a feature of a new class is
    the same; that of an old class differs by what no new logit changes.

    Args:
        new_logits: (P, K), float, of the new classes.
        old_total: (P,), the log-sum-exp of the old classes' logits.

    Returns:
        (1, 1 + K, P, 1): the logit of the old classes and those of the new ones, as pixels of an image.

    >>> old, new = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0]])
    >>> logits_beside_old(new, old.logsumexp(1)).softmax(1).flatten()
    tensor([0.3348, 0.6652])
    >>> torch.cat([old, new], 1).softmax(1)
    tensor([[0.0900, 0.2447, 0.6652]])
    """
    return torch.cat([old_total[:, None], new_logits], dim=1).t()[None, :, :, None]


def excess_logit(margins: Tensor, labels: Tensor, share: float) -> Tensor:
    """Return by how much, at least, new classes' logits must sink to take at most a share of old classes' features.

    Args:
        margins: (P,), P >= 1, float: a feature's highest new logit less its highest old one; above 0 it is taken.
        labels: (P,) int64, the old class of each feature; all classes count alike, however many features each has.
        share: In [0, 1); the result is a scalar, 0 or more.

    >>> excess_logit(torch.tensor([3.0, 1.0, -1.0, -2.0]), torch.tensor([0, 0, 1, 1]), share=0.25)
    tensor(1.)
    """
    margins, order = margins.sort(descending=True)
    weights = 1 / torch.bincount(labels)[labels[order]]
    taken = (weights / len(torch.unique(labels))).cumsum(0)
    return margins[taken > share].amax().clamp(min=0)
