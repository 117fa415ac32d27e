"""The device that computes: how small tensors get there, how exactly it multiplies matrices, and when it is full."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from sign_zs3.errors import UserError


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor of the host to a device, in order with its work, without waiting for the device.

    CUDA reads page-locked memory by itself; from any other the host would wait until all that was asked for is done.

    >>> to_device(torch.tensor([1, 2]), torch.device("cpu"))
    tensor([1, 2])
    """
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


@contextmanager
def matmul_precision(precision: str | None) -> Iterator[None]:
    """Multiply float32 matrices as `torch.set_float32_matmul_precision` says; None: as it is set."""
    if precision is None:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def exact_products(device: torch.device) -> AbstractContextManager[None]:
    """Multiply float32 matrices in float32 where CUDA would do it in TF32, which keeps 10 bits: too few for places."""
    # a compiler cannot follow; and torch refuses a mix of its two ways to set it, so nothing is touched in vain
    if device.type != "cuda" or torch.compiler.is_compiling() or torch.backends.cuda.matmul.fp32_precision != "tf32":
        return nullcontext()
    try:
        torch.get_float32_matmul_precision()
    except RuntimeError:  # it was set by the newer way
        return _newer_ieee()
    return matmul_precision("highest")


@contextmanager
def _newer_ieee() -> Iterator[None]:
    torch.backends.cuda.matmul.fp32_precision = "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = "tf32"


@contextmanager
def in_memory(option: str, what: str, advice: str) -> Iterator[None]:
    """Name what was computed where a GPU's memory is full: a `UserError` of an option, what it led to, and advice."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        found = re.search(r"Tried to allocate ([\d.]+ \wiB).*?total capacity of ([\d.]+ \wiB)", str(error), re.DOTALL)
        more = f" (it was asked for {found[1]} more, of {found[2]})" if found else ""
        raise UserError(f"{option}: found {what}, too much for the GPU's memory{more}: {advice}") from error
