"""The pixels of what annotations are drawn as: polygons, run lengths and LabelMe's shapes."""

import base64
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_FAR = 1_000_000_000


def area_of(segmentation: Any) -> float:
    """Return how many pixels polygons or run lengths hold, about."""
    if not isinstance(segmentation, (list, dict)):
        raise ValueError("a segmentation that is neither polygons nor run lengths")
    if isinstance(segmentation, dict):
        return sum(run_lengths(segmentation["counts"])[1::2])
    outlines = map(pairs, segmentation)
    return float(sum(abs((p[:, 0] * np.roll(p[:, 1], 1) - p[:, 1] * np.roll(p[:, 0], 1)).sum()) / 2 for p in outlines))


def pairs(corners: Any) -> NDArray[np.float64]:
    """Return x, y, x, y, ... as (n, 2)."""
    try:
        found = np.array(corners, np.float64)
    except (TypeError, ValueError):
        found = np.zeros(1)
    if found.ndim != 1 or len(found) % 2:
        raise ValueError("a polygon that is no list of x, y, x, y, ...")
    return checked(found.reshape(-1, 2))


def checked(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return points as they are; a ValueError for NaN, infinity and what is far from any image."""
    if not (np.abs(points) < _FAR).all():
        raise ValueError(f"a polygon with NaN, infinity or {_FAR:,} pixels")
    return points


def run_lengths(counts: Any) -> list[int]:
    """Return run lengths as numbers: COCO's text has five bits a character, differences to the last but one."""
    if not isinstance(counts, str):
        return list(counts)
    found: list[int] = []
    number = shift = 0
    for code in (ord(character) - 48 for character in counts):
        if not 0 <= code < 64:
            raise ValueError("run lengths as another text than COCO's")
        number |= (code & 31) << shift
        shift += 5
        if not code & 32:
            number -= (1 << shift) if code & 16 else 0
            found.append(number + (found[-2] if len(found) > 2 else 0))
            number = shift = 0
    return [*found, *([-1] if shift else [])]  # cut short


def polygon(points: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the pixels whose centres lie in a polygon (n, 2) of x and y, where pixel 0 reaches from 0 to 1."""
    from matplotlib.path import Path as Outline

    inside = np.zeros(size, np.bool_)
    if len(points) < 3:
        return inside
    low = np.floor(points.min(axis=0)).clip(0, size[::-1]).astype(int)
    high = np.ceil(points.max(axis=0)).clip(0, size[::-1]).astype(int)
    x, y = np.meshgrid(*(np.arange(a, b) + 0.5 for a, b in zip(low, high, strict=True)))
    held = Outline(points).contains_points(np.stack([x.ravel(), y.ravel()], axis=1)).reshape(x.shape)
    inside[low[1] : high[1], low[0] : high[0]] = held
    return inside


def segment(segmentation: Any, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where an annotation's polygons or run lengths are, bool (H, W)."""
    inside = np.zeros(size, np.bool_)
    if isinstance(segmentation, list):
        for corners in segmentation:
            inside |= polygon(pairs(corners), size)
        return inside
    if tuple(segmentation["size"]) != size:
        raise ValueError(f"run lengths of {segmentation['size']} in an image of {list(size)}")
    counts = run_lengths(segmentation["counts"])
    if min(counts, default=0) < 0 or sum(counts) != inside.size:
        raise ValueError(f"run lengths of {sum(counts)} pixels in an image of {inside.size}")
    # column by column, and absent first
    values = np.arange(len(counts)) % 2 == 1
    return np.repeat(values, counts).reshape(size[::-1]).T


def shape_of(shape: Mapping[str, Any], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return where a shape of LabelMe's is, bool (H, W): nowhere for points and lines."""
    kind = shape.get("shape_type") or "polygon"
    points = checked(np.array(shape["points"], np.float64).reshape(-1, 2))
    if kind in ("polygon", "rotation", "oriented_rectangle"):
        return polygon(points, size)
    if kind == "rectangle":
        if len(points) not in (2, 4):  # opposite corners, or all
            raise ValueError(f"a rectangle of {len(points)} points")
        (left, top), (right, bottom) = points.min(axis=0), points.max(axis=0)
        return polygon(np.array([[left, top], [right, top], [right, bottom], [left, bottom]]), size)
    if kind == "circle" and len(points) == 2:
        y, x = np.ogrid[: size[0], : size[1]]
        (centre_x, centre_y), (edge_x, edge_y) = points
        radius = np.hypot(edge_x - centre_x, edge_y - centre_y)
        inside: NDArray[np.bool_] = np.hypot(x + 0.5 - centre_x, y + 0.5 - centre_y) <= radius
        return inside
    if kind == "mask":
        try:
            with Image.open(io.BytesIO(base64.b64decode(shape["mask"], validate=True)), formats=("PNG",)) as image:
                part = Image.fromarray((np.asarray(image) > 0).astype(np.uint8))
        except Exception as error:  # Pillow raises almost anything
            raise ValueError("a mask that is no PNG in base64") from error
        if part.mode != "L":
            raise ValueError("a mask of several channels")
        whole = Image.new("L", size[::-1])
        # what sticks out is cut off
        whole.paste(part, tuple(points[0].round().astype(int).tolist()))
        return np.asarray(whole) > 0
    if kind in ("point", "points", "line", "linestrip"):
        return np.zeros(size, np.bool_)
    raise ValueError(f"a shape of the type {kind!r:.40} with {len(points)} points")
