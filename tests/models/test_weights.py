"""Stored weights against a network: one comparison, of names, shapes and kinds, that reads no numbers."""

from __future__ import annotations

import doctest

import pytest
import torch
from torch import Tensor, nn

from sign_zs3 import UserError
from sign_zs3.models import weights
from sign_zs3.models.weights import check_finite, difference, kinds_of, on_meta

WANTED = {"weight": torch.zeros(4, 2), "bias": torch.zeros(4), "count": torch.tensor(0)}


@pytest.mark.parametrize(
    ("changed", "fault"),
    [
        ({}, None),
        ({"weight": torch.zeros(4, 2, dtype=torch.float16)}, None),
        ({"weight": None}, "1 entries missing, the first 'weight'"),
        ({"other": torch.zeros(1)}, "1 unexpected, the first 'other'"),
        ({"weight": torch.zeros(4, 3)}, "1 of another shape, the first 'weight': (4, 3) instead of (4, 2)"),
        ({"bias": torch.zeros(4, dtype=torch.int32)}, "(4,) instead of (4,), whole numbers instead of real ones"),
        ({"count": torch.tensor(0.0)}, "() instead of (), real numbers instead of whole ones"),
    ],
)
def test_weights_differ_by_name_shape_or_kind(changed: dict[str, Tensor | None], fault: str | None) -> None:
    state = {name: value for name, value in {**WANTED, **changed}.items() if value is not None}
    found = difference(kinds_of(state), kinds_of(WANTED))
    assert found == fault if fault is None else found is not None and fault in found


def test_the_example_of_the_comparison_is_true() -> None:
    assert doctest.testmod(weights).attempted
    assert not doctest.testmod(weights).failed


def test_a_network_of_any_size_is_tried_without_memory() -> None:
    made = on_meta(lambda: nn.Sequential(nn.Conv2d(3, 1 << 40, 1)))
    assert next(made.parameters()).is_meta
    with pytest.raises(RuntimeError):
        on_meta(lambda: nn.Sequential(nn.Conv2d(4, 1, 1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e5m2, torch.complex64])
def test_weights_that_are_not_finite_are_named(dtype: torch.dtype) -> None:
    check_finite({"bias": torch.ones(2).to(dtype)}, "model.ckpt")
    with pytest.raises(UserError, match=r"^model\.ckpt holds NaN or infinity in bias, expected finite weights"):
        check_finite({"count": torch.tensor(1), "bias": torch.tensor([1.0, torch.nan]).to(dtype)}, "model.ckpt")
