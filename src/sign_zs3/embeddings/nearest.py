"""Which seen classes lie nearest to each unseen one: what a generator has to go by."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sign_zs3.checks import check_at_least
from sign_zs3.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from sign_zs3.protocol import Protocol


def nearest(vectors: Tensor, protocol: Protocol, count: int = 5) -> dict[str, list[tuple[str, float]]]:
    """Return the seen classes whose vectors are nearest to that of each unseen class.

    Args:
        vectors: (C, W) class vectors in the order of `protocol.classes`, of any length but 0.
        protocol: The classes and their split.
        count: How many seen classes; fewer where there are not so many.

    Returns:
        Unseen class -> (seen class, cosine), the nearest first; of equal ones the first in the protocol.

    Raises:
        UserError: No class is unseen, `count` is below 1, or there is not one vector per class.
    """
    import torch

    check_at_least(1, **{"--nearest": count})
    if not protocol.unseen:
        raise UserError(f"{protocol.dataset}/{protocol.split}: found no unseen class, expected one at least; name some")
    if vectors.shape[0] != protocol.num_classes:
        raise UserError(
            f"class vectors: found {vectors.shape[0]} rows, expected one for each of the {protocol.num_classes} "
            f"classes of {protocol.dataset}/{protocol.split}; look them up in its order"
        )
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    seen, unseen = protocol.classes[: protocol.num_seen], protocol.classes[protocol.num_seen :]
    cosines, order = (unit[len(seen) :] @ unit[: len(seen)].T).sort(dim=1, descending=True, stable=True)
    rows = zip(unseen, order[:, :count].tolist(), cosines[:, :count].tolist(), strict=True)
    return {name: [(seen[i], cosine) for i, cosine in zip(*row, strict=True)] for name, *row in rows}
