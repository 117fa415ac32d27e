"""Networks and their weights: whether a file's fit, whether they are finite, and modes that come back."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError

Kinds: TypeAlias = Mapping[str, tuple[tuple[int, ...], bool]]
"""Name -> shape of a tensor, and whether it holds real numbers: what a file's header says of its weights."""

_Module = TypeVar("_Module", bound=nn.Module)


def kinds_of(state: Mapping[str, Any]) -> Kinds:
    """Return the shapes and kinds of a state dictionary's tensors; other entries are left out."""
    return {k: (tuple(v.shape), v.is_floating_point()) for k, v in state.items() if isinstance(v, Tensor)}


def difference(found: Kinds, wanted: Kinds) -> str | None:
    """Say how stored weights differ from those of a network by names, shapes and kinds; None where they do not.

    >>> difference({"bias": ((3,), True)}, {"bias": ((4,), True), "weight": ((4, 2), True)})
    "1 entries missing, the first 'weight'; 1 of another shape, the first 'bias': (3,) instead of (4,)"
    """
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    other = [key for key in wanted if key in found and found[key] != wanted[key]]
    faults = [
        f"{len(keys)} {what}, the first {keys[0]!r:.200}"
        for what, keys in (("entries missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if keys
    ]
    if other:
        (shape, real), (expected, _) = found[other[0]], wanted[other[0]]
        faults[-1] += f": {shape} instead of {expected}"
        if shape == expected:
            faults[-1] += ", real numbers instead of whole ones" if real else ", whole numbers instead of real ones"
    return "; ".join(faults) or None


def on_meta(make: Callable[[], _Module], segmenter: Callable[[_Module], nn.Module] = lambda made: made) -> _Module:
    """Make a model without memory for its weights, since a file may state any size, and run its segmenter once."""
    with torch.device("meta"), torch.no_grad():
        model = make()
        segmenter(model).eval()(torch.zeros(1, 3, 64, 64))
    return model


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise a UserError if a weight is NaN or infinite, with which nothing can be predicted; `what` names the file."""
    for name, value in state.items():
        if value.is_floating_point() or value.is_complex():
            # torch.isfinite knows no types of eight bits
            wide = value.float() if value.element_size() < 2 else value
            if not bool(torch.isfinite(wide).all()):
                name = " ".join(name.split())[:100]
                raise UserError(
                    f"{what} holds NaN or infinity in {name}, expected finite weights: take one from before the "
                    "training diverged"
                )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and then each module back to its own mode: in most phases some are frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
