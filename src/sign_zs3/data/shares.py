"""Work on a data set that several processes share."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from sign_zs3.errors import UserError
from sign_zs3.files import line_of

_Share = TypeVar("_Share")


def in_shares(work: Callable[[int, int], _Share], rank: int = 0, world_size: int = 1) -> list[_Share]:
    """Return what `work` of (rank, number of ranks) gave on each rank, once it is done on all of them.

    Before the processes are connected, each does the whole work. A UserError: it was raised on some rank, or work
    failed on another one of several.
    """
    if not torch.distributed.is_initialized():
        rank, world_size = 0, 1
    if world_size == 1:
        return [work(rank, world_size)]
    share: Any
    try:
        share = work(rank, world_size)
    except UserError as error:
        # the others must hear of it, or they would wait for this share
        share = error
    except Exception as error:
        share = UserError(f"process {rank} failed: {type(error).__name__}: {line_of(error)} (--debug shows more)")
        share.__cause__ = error
    shares = [share] * world_size
    torch.distributed.all_gather_object(shares, share)
    for found in shares:
        if isinstance(found, UserError):
            raise found
    return shares
