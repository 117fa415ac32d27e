from __future__ import annotations

import math

import pytest
import torch

from sign_zs3.functional import map_size, resize_map, resize_scores, shrink_labels


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
