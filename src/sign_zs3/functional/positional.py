"""Positional encodings of feature maps: relative (eq. 11-16), absolute, and absolute with interpolation."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_positional_encoding(
    height: int,
    width: int,
    dim: int = 600,
    scale: float = 512.0,
    *,
    origin: tuple[int, int] = (0, 0),
    full_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
    endpoints: bool = False,
) -> Tensor:
    """Return the relative positional encoding (RPE, eq. 11-16): positions are fractions of the map's size.

    Channels 0..dim/2-1 encode the column u at `scale * u / W`, the rest the row v at `scale * v / H`; within each half
    channel 2d is sin(pos / 10000^(2d / (dim / 2))) and channel 2d + 1 the cosine.

    Args:
        height: Rows of the map, or of the window.
        width: Columns of the map, or of the window.
        dim: Channels, a multiple of 4.
        scale: The constant c of eq. 15 and 16.
        origin: (row, column) of the window's first pixel in the full map.
        full_size: (H, W) of the full map of which this is a window; None: the map is whole.
        device: Where to build it.
        dtype: Of the result; the values are computed in at least float32.
        endpoints: Take (scale - 1) * u / (W - 1) instead, whose last one is scale - 1, as the released code does.

    Returns:
        (dim, height, width), in [-1, 1]. A window equals the crop of the full map's encoding.

    Raises:
        ValueError: `dim` is no multiple of 4, a size is below 1, or the window does not lie in the full map.

    >>> relative_positional_encoding(1, 2, dim=4)[0]  # sin(0) and sin(512 / 2)
    tensor([[ 0.0000, -0.9992]])
    """
    full_height, full_width = _check(height, width, dim, origin, full_size)
    less = int(endpoints)
    columns = (scale - less) * _positions(origin[1], width, device) / max(1, full_width - less)
    rows = (scale - less) * _positions(origin[0], height, device) / max(1, full_height - less)
    return _spread(_sinusoids(columns, dim), _sinusoids(rows, dim)).to(dtype)


def absolute_positional_encoding(
    height: int,
    width: int,
    dim: int = 600,
    *,
    origin: tuple[int, int] = (0, 0),
    full_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the absolute positional encoding (APE): eq. 11-14 at the pixel indices u and v themselves (section 4.4).

    Arguments, result and errors as of `relative_positional_encoding`; `full_size` is only checked, since the values
    do not depend on it, and None is any.

    >>> absolute_positional_encoding(1, 3, dim=4)[0]  # sin(0), sin(1), sin(2)
    tensor([[0.0000, 0.8415, 0.9093]])
    """
    _check(height, width, dim, origin, full_size or (origin[0] + height, origin[1] + width))
    columns, rows = _positions(origin[1], width, device), _positions(origin[0], height, device)
    return _spread(_sinusoids(columns, dim), _sinusoids(rows, dim)).to(dtype)


def interpolated_positional_encoding(
    height: int,
    width: int,
    train_size: int | tuple[int, int],
    dim: int = 600,
    *,
    origin: tuple[int, int] = (0, 0),
    full_size: tuple[int, int] | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Return the absolute encoding at the training size, resized bilinearly to the map (section 4.4).

    The resize is that of `align_corners=False`; a window is cropped from it. `train_size` is that of the feature map in
    training, (height, width) or one number for both, at least 1; all else as of `relative_positional_encoding`.

    >>> interpolated_positional_encoding(1, 4, train_size=(1, 2), dim=4)[0]  # between sin(0) and sin(1)
    tensor([[0.0000, 0.2104, 0.6311, 0.8415]])
    """
    train_height, train_width = (train_size, train_size) if isinstance(train_size, int) else train_size
    if train_height < 1 or train_width < 1:
        raise ValueError(f"train_size must be at least 1, got {train_size}")
    full_height, full_width = _check(height, width, dim, origin, full_size)
    columns = _sinusoids(_positions(0, train_width, device), dim)
    rows = _sinusoids(_positions(0, train_height, device), dim)
    # Each half varies along one axis only, so the bilinear resize of the map is a linear resize of that axis.
    columns = F.interpolate(columns[None], size=full_width, mode="linear", align_corners=False)[0]
    rows = F.interpolate(rows[None], size=full_height, mode="linear", align_corners=False)[0]
    window = _spread(columns[:, origin[1] : origin[1] + width], rows[:, origin[0] : origin[0] + height])
    return window.to(dtype)


def _check(
    height: int, width: int, dim: int, origin: tuple[int, int], full_size: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the full map's size, once everything is known to fit."""
    if dim < 4 or dim % 4 != 0:
        raise ValueError(f"dim must be a positive multiple of 4 (sine and cosine for two axes), got {dim}")
    if height < 1 or width < 1:
        raise ValueError(f"height and width must be at least 1, got {height} x {width}")
    if full_size is None:
        if tuple(origin) != (0, 0):
            raise ValueError(f"origin {tuple(origin)} needs full_size, the size of the map that the window lies in")
        return height, width
    full_height, full_width = full_size
    row, column = origin
    if row < 0 or column < 0 or row + height > full_height or column + width > full_width:
        window = f"the window of {height} x {width} at {tuple(origin)}"
        raise ValueError(f"{window} does not lie in a map of {full_height} x {full_width}")
    return full_height, full_width


def _positions(start: int, count: int, device: torch.device | str | None) -> Tensor:
    # A float32 sine at position 512 is off by 3e-5; these vectors are short, so float64 costs nothing.
    on_mps = device is not None and torch.device(device).type == "mps"
    return torch.arange(start, start + count, device=device, dtype=torch.float32 if on_mps else torch.float64)


def _sinusoids(positions: Tensor, dim: int) -> Tensor:
    """Encode positions (n,) along one axis: (dim / 2, n), sine and cosine interleaved (eq. 11-14)."""
    channels = dim // 2
    exponents = torch.arange(0, channels, 2, device=positions.device, dtype=positions.dtype) / channels
    angles = positions[None, :] / torch.pow(10000.0, exponents)[:, None]
    # ONNX Runtime has no cosine of float64
    return torch.stack([angles.sin(), (angles + math.pi / 2).sin()], dim=1).flatten(0, 1)


def _spread(columns: Tensor, rows: Tensor) -> Tensor:
    """Repeat columns (c, width) and rows (c, height) along the other axis: (2c, height, width)."""
    shape = len(columns), rows.shape[1], columns.shape[1]
    return torch.cat([columns[:, None, :].expand(shape), rows[:, :, None].expand(shape)])
