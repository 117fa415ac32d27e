"""Positional encodings against a literal loop over eq. 11-16, and their identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.functional import (
    absolute_positional_encoding,
    interpolated_positional_encoding,
    relative_positional_encoding,
)


def literal(height: int, width: int, dim: int, scale: float | None) -> Tensor:
    """Eq. 11-16 as printed, pixel by pixel; no scale: eq. 11-14 at the absolute position."""
    half = dim // 2
    result = torch.empty(dim, height, width, dtype=torch.float64)
    for v in range(height):
        for u in range(width):
            pos_u = u if scale is None else scale * u / width
            pos_v = v if scale is None else scale * v / height
            for d in range(half // 2):
                divisor = 10000 ** (2 * d / half)
                result[2 * d, v, u] = math.sin(pos_u / divisor)
                result[2 * d + 1, v, u] = math.cos(pos_u / divisor)
                result[half + 2 * d, v, u] = math.sin(pos_v / divisor)
                result[half + 2 * d + 1, v, u] = math.cos(pos_v / divisor)
    return result


@pytest.mark.parametrize(("height", "width", "dim", "scale"), [(5, 7, 12, 512.0), (1, 1, 4, 512.0), (3, 2, 8, 10.0)])
def test_relative_is_the_printed_equation(height: int, width: int, dim: int, scale: float) -> None:
    encoding = relative_positional_encoding(height, width, dim, scale)
    assert encoding.dtype == torch.float32
    torch.testing.assert_close(encoding, literal(height, width, dim, scale).float(), atol=1e-6, rtol=0)


def test_absolute_is_the_printed_equation() -> None:
    encoding = absolute_positional_encoding(6, 9, 16)
    torch.testing.assert_close(encoding, literal(6, 9, 16, None).float(), atol=1e-6, rtol=0)


def test_defaults_are_the_papers() -> None:
    assert torch.equal(relative_positional_encoding(2, 3), relative_positional_encoding(2, 3, 600, 512.0))
    assert torch.equal(absolute_positional_encoding(2, 3), absolute_positional_encoding(2, 3, 600))
    assert torch.equal(interpolated_positional_encoding(2, 3, 5), interpolated_positional_encoding(2, 3, 5, 600))


def test_sine_and_cosine_have_unit_length() -> None:
    pairs = relative_positional_encoding(4, 5, 20).view(10, 2, 4, 5)
    torch.testing.assert_close(pairs.square().sum(dim=1), torch.ones(10, 4, 5))


@pytest.mark.parametrize("factor", [2, 3])
def test_relative_does_not_depend_on_the_resolution(factor: int) -> None:
    small = relative_positional_encoding(5, 6, 16)
    large = relative_positional_encoding(5 * factor, 6 * factor, 16)
    torch.testing.assert_close(large[:, ::factor, ::factor], small, atol=1e-6, rtol=0)


def test_absolute_at_scale_equal_to_size() -> None:
    # With c = W = H the relative position is the pixel's index.
    torch.testing.assert_close(relative_positional_encoding(8, 8, 12, 8.0), absolute_positional_encoding(8, 8, 12))


def test_interpolated_is_absolute_at_the_training_size() -> None:
    assert torch.equal(interpolated_positional_encoding(5, 7, (5, 7), 12), absolute_positional_encoding(5, 7, 12))


@pytest.mark.parametrize(("train_size", "trained"), [(6, (6, 6)), ((4, 9), (4, 9))])
def test_interpolated_is_a_bilinear_resize(train_size: int | tuple[int, int], trained: tuple[int, int]) -> None:
    absolute = absolute_positional_encoding(*trained, 12)
    resized = F.interpolate(absolute[None], size=(10, 7), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(interpolated_positional_encoding(10, 7, train_size, 12), resized, atol=1e-6, rtol=0)


def test_interpolated_from_one_row_or_column_is_constant_along_it() -> None:
    assert torch.equal(
        interpolated_positional_encoding(3, 4, 1, 8), absolute_positional_encoding(1, 1, 8).expand(8, 3, 4)
    )
    row = interpolated_positional_encoding(3, 4, (1, 4), 8)
    assert torch.equal(row, absolute_positional_encoding(1, 4, 8).expand(8, 3, 4))
    column = interpolated_positional_encoding(3, 4, (3, 1), 8)
    assert torch.equal(column, absolute_positional_encoding(3, 1, 8).expand(8, 3, 4))


def interpolated_from_five(height: int, width: int, **window: Any) -> Tensor:
    return interpolated_positional_encoding(height, width, 5, 12, **window)


def relative(height: int, width: int, **window: Any) -> Tensor:
    return relative_positional_encoding(height, width, 12, **window)


def absolute(height: int, width: int, **window: Any) -> Tensor:
    return absolute_positional_encoding(height, width, 12, **window)


@pytest.mark.parametrize("encode", [relative, absolute, interpolated_from_five])
def test_a_window_is_the_crop_of_the_full_map(encode: Callable[..., Tensor]) -> None:
    full = encode(9, 11)
    window = encode(4, 5, origin=(3, 6), full_size=(9, 11))
    assert torch.equal(window, full[:, 3:7, 6:11])
    assert torch.equal(encode(9, 11, origin=(0, 0), full_size=(9, 11)), full)


@pytest.mark.parametrize("encode", [relative, absolute, interpolated_from_five])
@pytest.mark.parametrize("origin", [(6, 0), (-1, 0), (0, 7), (0, -1)])
def test_a_window_outside_of_the_map_is_refused(encode: Callable[..., Tensor], origin: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"of 4 x 5 at .* does not lie in a map of 9 x 11$"):
        encode(4, 5, origin=origin, full_size=(9, 11))


def test_an_origin_needs_the_full_size() -> None:
    with pytest.raises(ValueError, match="full_size"):
        relative(4, 5, origin=(1, 0))
    # The absolute encoding of a window does not depend on the map around it.
    for row, column in ((1, 2), (3, 0)):
        window = absolute(4, 5, origin=(row, column))
        assert torch.equal(window, absolute(9, 9)[:, row : row + 4, column : column + 5])


def test_dtype() -> None:
    half = relative_positional_encoding(3, 4, 8, dtype=torch.bfloat16, device="cpu")
    assert torch.equal(half, relative_positional_encoding(3, 4, 8).bfloat16())


@pytest.mark.parametrize("encode", [relative, absolute, interpolated_from_five])
def test_device(encode: Callable[..., Tensor]) -> None:
    assert encode(3, 4, device="meta").device.type == "meta"


@pytest.mark.parametrize("device", [None, "cpu"])
def test_far_positions_are_as_precise_as_float32(device: str | None) -> None:
    # A sine of the float32 number nearest to position / 10000^(2d / half) would be off by 3e-5 there.
    row = absolute_positional_encoding(1, 3, 600, origin=(0, 512), device=device)
    expected = [[math.sin(u / 10000 ** (2 * d / 300)) for u in (512, 513, 514)] for d in range(150)]
    torch.testing.assert_close(row[0:300:2, 0], torch.tensor(expected), atol=1e-7, rtol=0)


@pytest.mark.parametrize("dim", [0, -4, 2, 6, 602])
def test_dim_must_be_a_multiple_of_four(dim: int) -> None:
    for encode in (relative_positional_encoding, absolute_positional_encoding):
        with pytest.raises(ValueError, match="multiple of 4"):
            encode(3, 3, dim)
    with pytest.raises(ValueError, match="multiple of 4"):
        interpolated_positional_encoding(3, 3, 3, dim)


@pytest.mark.parametrize(("height", "width"), [(0, 3), (3, 0), (-1, 3)])
def test_sizes_must_be_positive(height: int, width: int) -> None:
    for encode in (relative, absolute, interpolated_from_five):
        with pytest.raises(ValueError, match="at least 1"):
            encode(height, width)


@pytest.mark.parametrize("train_size", [0, (0, 3), (3, -1)])
def test_train_size_must_be_positive(train_size: int | tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="train_size"):
        interpolated_positional_encoding(3, 3, train_size, 8)
