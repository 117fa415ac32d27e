from __future__ import annotations

import math

import pytest
import torch

from sign_zs3.functional import map_size, resize_map, resize_scores, shrink_labels
from sign_zs3.functional.geometry import Axis, Cells, move_map


def by_hand(row: list[float], width: int) -> list[float]:
    """Linear interpolation between the centres of cells, the outermost ones repeated (align_corners=False)."""
    result = []
    for column in range(width):
        place = min(max((column + 0.5) * len(row) / width - 0.5, 0), len(row) - 1)
        left = int(place)
        right = min(left + 1, len(row) - 1)
        result.append(row[left] + (place - left) * (row[right] - row[left]))
    return result


def test_height_comes_before_width() -> None:
    assert map_size(torch.zeros(1, 2, 3, 4)) == (3, 4)
    assert map_size(torch.zeros(5, 6)) == (5, 6)


@pytest.mark.parametrize("resize", [resize_map, resize_scores])
@pytest.mark.parametrize("width", [2, 4, 7])
def test_cells_are_interpolated_between_their_centres(resize: object, width: int) -> None:
    assert callable(resize)
    row = [1.0, 5.0, 3.0]
    maps = torch.tensor(row).view(1, 1, 1, 3)
    want = torch.tensor(by_hand(row, width))
    torch.testing.assert_close(resize(maps, (1, width))[0, 0, 0], want)
    # the other axis alike
    torch.testing.assert_close(resize(maps.mT, (width, 1))[0, 0, :, 0], want)


def test_a_map_of_the_size_is_not_copied() -> None:
    maps = torch.rand(1, 2, 3, 4)
    assert resize_map(maps, (3, 4)) is maps
    assert torch.equal(resize_scores(maps, (3, 4)), maps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_unknown_classes_never_win_and_make_no_nan(dtype: torch.dtype) -> None:
    scores = torch.tensor([[-3.0, 2.0, -1e30], [-math.inf] * 3, [0.0, -math.inf, 1.0]], dtype=dtype).view(1, 3, 1, 3)
    resized = resize_scores(scores, (4, 9))
    assert resized.dtype == dtype
    assert bool(resized.isfinite().all())
    assert not bool((resized.argmax(dim=1) == 1).any())
    # where a class is known in one cell and not in the next, the known one is not raised
    assert bool((resized[0, 2] <= 1).all())
    # scores that are merely low stay what they are
    torch.testing.assert_close(resized[0, 0, 0, -1].float(), torch.tensor(-1e30, dtype=dtype).float())


def test_labels_are_chosen_never_mixed() -> None:
    labels = torch.tensor([[[0, 255, 7, 7], [3, 3, 9, 1]]])
    small = shrink_labels(labels, (1, 2))
    assert small.dtype == torch.int64
    assert small.tolist() == [[[0, 7]]]
    assert torch.equal(shrink_labels(labels, (2, 4)), labels)
    assert shrink_labels(labels == 7, (1, 2)).tolist() == [[[0, 1]]]
    # each image for itself
    both = shrink_labels(torch.cat([labels, labels.flip(2)]), (1, 2))
    assert both.tolist() == [[[0, 7]], [[7, 255]]]


# -- cells that know their places --------------------------------------------------------------------------------------


def ramp(cells: Cells, size: tuple[int, int]) -> torch.Tensor:
    """Return a map (1, 2, h, w) whose cells hold the row and the column at which they look."""
    rows, columns = (axis.looks_at(count, torch.device("cpu")) for axis, count in zip(cells, size, strict=True))
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"))[None]


@pytest.mark.parametrize("axis", [Axis(8), Axis(4, 1.5), Axis(4, -4.5), Axis(8).scaled(0.75), Axis(8).mirrored(49)])
def test_scores_are_read_at_the_pixels(axis: Axis) -> None:
    """A plane is interpolated exactly, wherever its cells look; beyond the outermost cell it stays as there."""
    cells, size = Cells(axis, Axis(3, 1)), (7, 5)
    found = resize_scores(ramp(cells, size), (49, 20), cells)[0]
    ends = axis.looks_at(7, torch.device("cpu"))
    torch.testing.assert_close(found[0, :, 0], torch.arange(49.0).clamp(ends.min(), ends.max()))
    torch.testing.assert_close(found[1, 0], torch.arange(20.0).clamp(1, 13))


def test_aligned_cells_and_patches_are_those_of_torch() -> None:
    scores = torch.randn(2, 3, 6, 5, dtype=torch.float64)
    for align, axis, size in ((True, Axis(8), (41, 33)), (False, Axis(8, 3.5), (48, 40))):
        want = torch.nn.functional.interpolate(scores, size, mode="bilinear", align_corners=align)
        torch.testing.assert_close(resize_scores(scores, size, Cells(axis, axis)), want, atol=1e-6, rtol=1e-6)


def test_a_mirrored_or_resized_view_lies_on_the_image() -> None:
    """Cells of a view, told in pixels of the image, give back the plane that the image shows."""
    image = ramp(Cells(Axis(1), Axis(1)), (33, 65))
    cells = Cells(Axis(8), Axis(8))
    mirrored = cells._replace(columns=cells.columns.mirrored(65))
    torch.testing.assert_close(resize_scores(image[..., ::8, ::8].flip(-1), (33, 65), mirrored), image)
    # borders on borders: pixel i of an image of twice the size lies at (i + 1/2) / 2 - 1/2 of this one
    double = cells.resized((66, 130), (33, 65))
    assert double.rows == Axis(4, -0.25)
    assert double.resized((33, 65), (66, 130)) == cells
    moved = move_map(ramp(double, (9, 17)), double, cells, (5, 9))
    torch.testing.assert_close(moved[..., 1:-1, 1:-1], ramp(cells, (5, 9))[..., 1:-1, 1:-1])


def test_a_move_has_a_gradient_and_keeps_the_type() -> None:
    maps = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    near, far = Cells(Axis(4), Axis(4)), Cells(Axis(3, 1), Axis(2, -1))
    assert torch.autograd.gradcheck(lambda x: move_map(x, near, far, (3, 5)), maps)
    assert move_map(maps.bfloat16(), near, far, (3, 5)).dtype == torch.bfloat16


def test_labels_are_read_where_cells_look() -> None:
    labels = torch.arange(12).view(1, 1, 12)
    line = Axis(1)
    assert shrink_labels(labels, (1, 4), Cells(line, Axis(4))).tolist() == [[[0, 4, 8, 255]]]
    # the later one of two pixels that are as near
    assert shrink_labels(labels, (1, 3), Cells(line, Axis(4, 1.5))).tolist() == [[[2, 6, 10]]]
    assert shrink_labels(labels, (1, 2), Cells(line, Axis(4, -3))).tolist() == [[[255, 1]]]
    assert shrink_labels(labels > 5, (1, 2), Cells(line, Axis(6))).tolist() == [[[0, 1]]]
