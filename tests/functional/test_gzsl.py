"""Confusion matrix and scores against loops over pixels and sets."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import multiclass_confusion_matrix

from sign_zs3.functional import confusion_matrix, gzsl_scores, per_class_iou


def random_maps(classes: int = 5, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    prediction = torch.randint(classes, (3, 8, 9), generator=generator)
    target = torch.where(
        torch.rand(3, 8, 9, generator=generator) < 0.5,
        prediction,
        torch.randint(classes, (3, 8, 9), generator=generator),
    )
    return prediction, target.masked_fill(torch.rand(3, 8, 9, generator=generator) < ignored, 255)


class TestConfusionMatrix:
    def test_against_torchmetrics(self) -> None:
        prediction, target = random_maps()
        oracle = multiclass_confusion_matrix(prediction, target, 5, ignore_index=255)
        found = confusion_matrix(prediction, target, 5)
        assert found.dtype == torch.int64
        assert torch.equal(found, oracle)

    def test_rows_are_the_truth(self) -> None:
        assert confusion_matrix(torch.tensor([1]), torch.tensor([0]), 2).tolist() == [[0, 1], [0, 0]]

    @pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
    def test_integer_types_and_shapes(self, dtype: torch.dtype) -> None:
        prediction, target = random_maps()
        expected = confusion_matrix(prediction, target, 5)
        assert torch.equal(confusion_matrix(prediction.to(dtype), target.to(dtype), 5), expected)
        assert torch.equal(confusion_matrix(prediction.flatten(), target.flatten().to(dtype), 5), expected)

    def test_ignored_pixels_may_hold_any_prediction(self) -> None:
        found = confusion_matrix(torch.tensor([255, 1]), torch.tensor([255, 1]), 2)
        assert found.tolist() == [[0, 0], [0, 1]]
        assert confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 2, ignore_index=-1).sum() == 0

    def test_nothing_counted(self) -> None:
        assert torch.equal(confusion_matrix(torch.zeros(0).long(), torch.zeros(0).long(), 3), torch.zeros(3, 3).long())

    def test_values_outside_are_named(self) -> None:
        with pytest.raises(ValueError, match=r"^target holds class 7: expected 0\.\.4 or 255 \(ignored\)$"):
            confusion_matrix(torch.tensor([0, 0]), torch.tensor([7, 255]), 5)
        with pytest.raises(ValueError, match=r"^target holds class 5, 6, 7, 8, 9: expected"):  # no more than five
            confusion_matrix(torch.zeros(7).long(), torch.tensor([9, 8, 8, 7, 5, 6, 10]), 5)
        with pytest.raises(ValueError, match=r"target holds class -1"):
            confusion_matrix(torch.tensor([0]), torch.tensor([-1]), 5)
        with pytest.raises(ValueError, match=r"target holds class 255"):
            confusion_matrix(torch.tensor([0]), torch.tensor([255]), 5, ignore_index=254)
        with pytest.raises(ValueError, match=r"^prediction holds class 5: expected 0\.\.4 on the pixels that count$"):
            confusion_matrix(torch.tensor([5]), torch.tensor([0]), 5)

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="differ in shape"):
            confusion_matrix(torch.zeros(2).long(), torch.zeros(3).long(), 5)
        for dtype in (torch.float32, torch.complex64):
            with pytest.raises(ValueError, match=rf"^prediction must hold integer classes, got {dtype}$"):
                confusion_matrix(torch.zeros(2, dtype=dtype), torch.zeros(2).long(), 5)
            with pytest.raises(ValueError, match=rf"^target must hold integer classes, got {dtype}$"):
                confusion_matrix(torch.zeros(2).long(), torch.zeros(2, dtype=dtype), 5)
        with pytest.raises(ValueError, match=r"^num_classes must be at least 1, got 0$"):
            confusion_matrix(torch.zeros(2).long(), torch.zeros(2).long(), 0)

    def test_one_class(self) -> None:
        assert confusion_matrix(torch.tensor([0, 0, 3]), torch.tensor([0, 0, 255]), 1).tolist() == [[2]]


class TestScores:
    def test_iou_is_intersection_over_union_of_pixel_sets(self) -> None:
        prediction, target = random_maps()
        iou = per_class_iou(confusion_matrix(prediction, target, 5))
        counted = target != 255
        for c in range(5):
            predicted, true = (prediction == c) & counted, target == c
            assert iou[c].item() == pytest.approx(((predicted & true).sum() / (predicted | true).sum()).item())

    def test_all_scores_against_loops_over_pixels(self) -> None:
        prediction, target = random_maps()
        scores = gzsl_scores(confusion_matrix(prediction, target, 5), seen=[0, 1, 4], unseen=[2, 3])
        counted = (target != 255).numpy()
        p, t = prediction.numpy()[counted], target.numpy()[counted]
        iou = {c: np.sum((p == c) & (t == c)) / np.sum((p == c) | (t == c)) for c in range(5)}
        recall = {c: np.mean(p[t == c] == c) for c in range(5)}
        for prefix, side in (("", range(5)), ("seen_", (0, 1, 4)), ("unseen_", (2, 3))):
            inside = np.isin(t, list(side))
            expected = {
                "miou": np.mean([iou[c] for c in side]),
                "pixel_accuracy": np.mean(p[inside] == t[inside]),
                "mean_accuracy": np.mean([recall[c] for c in side]),
                # the IoU of each pixel's true class, averaged over the side's pixels
                "frequency_weighted_iou": np.mean([iou[c] for c in t[inside]]),
            }
            for name, value in expected.items():
                assert scores[prefix + name] == pytest.approx(value)
        for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
            a, b = scores[f"seen_{name}"], scores[f"unseen_{name}"]
            assert scores[f"harmonic_{name}"] == pytest.approx(2 / (1 / a + 1 / b))
        assert len(scores) == 16
        assert all(type(value) is float for value in scores.values())

    def test_perfect_prediction(self) -> None:
        scores = gzsl_scores(torch.eye(4).long() * 3, [0, 1], [2, 3])
        assert set(scores.values()) == {1.0}

    def test_a_class_of_one_pixel(self) -> None:
        scores = gzsl_scores(torch.eye(2).long(), [0], [1])
        assert set(scores.values()) == {1.0}

    def test_the_papers_harmonic_mean(self) -> None:
        # Table 1, VOC, SIGN: 75.40 seen, 28.86 unseen, harmonic 41.74.
        scores = gzsl_scores(torch.tensor([[7540, 2460], [7114, 2886]]), [0], [1])
        assert scores["seen_pixel_accuracy"] == pytest.approx(0.7540)
        assert scores["unseen_pixel_accuracy"] == pytest.approx(0.2886)
        assert scores["harmonic_pixel_accuracy"] == pytest.approx(0.4174, abs=5e-5)

    def test_absent_classes(self) -> None:
        # Class 1 occurs nowhere, class 2 is predicted but never true.
        confusion = torch.tensor([[3, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 4]])
        skip, zero = per_class_iou(confusion), per_class_iou(confusion, "zero")
        assert skip.isnan().tolist() == [False, True, True, False]
        assert zero.tolist() == [0.75, 0.0, 0.0, 1.0]
        skipped = gzsl_scores(confusion, [0, 1, 2], [3])
        assert skipped["seen_miou"] == pytest.approx(0.75)
        assert skipped["seen_mean_accuracy"] == pytest.approx(0.75)
        zeroed = gzsl_scores(confusion, [0, 1, 2], [3], absent="zero")
        assert zeroed["seen_miou"] == pytest.approx(0.75 / 3)
        assert zeroed["seen_mean_accuracy"] == pytest.approx(0.75 / 3)
        for scores in (skipped, zeroed):
            assert scores["frequency_weighted_iou"] == pytest.approx((4 * 0.75 + 4 * 1.0) / 8)

    def test_predictions_do_not_change_which_classes_count(self) -> None:
        """The same test set after another phase: class 1 has no label, be it predicted or not."""
        for predicted in (0, 5):
            scores = gzsl_scores(torch.tensor([[5, predicted, 0], [0, 0, 0], [1, 0, 4]]), [0, 1], [2])
            assert scores["seen_miou"] == pytest.approx(5 / (6 + predicted))

    def test_a_zero_side_has_harmonic_zero_and_a_missing_one_none(self) -> None:
        confusion = torch.tensor([[3, 0], [2, 0]])
        zero = gzsl_scores(confusion, [0], [1])
        assert zero["unseen_miou"] == 0
        assert zero["harmonic_miou"] == 0
        assert gzsl_scores(torch.tensor([[0, 2], [3, 0]]), [0], [1])["harmonic_miou"] == 0  # both sides
        assert gzsl_scores(torch.tensor([[0, 3], [0, 2]]), [0], [1])["harmonic_miou"] == 0
        for missing in (gzsl_scores(confusion, [0, 1], []), gzsl_scores(torch.tensor([[3, 0], [0, 0]]), [0], [1])):
            assert math.isnan(missing["unseen_miou"])
            assert math.isnan(missing["harmonic_miou"])

    def test_counts_beyond_float32(self) -> None:
        confusion = torch.tensor([[2**40 + 1, 1], [0, 2**40]])
        assert gzsl_scores(confusion, [0], [1])["pixel_accuracy"] < 1.0

    def test_bad_input(self) -> None:
        square = torch.eye(3).long()
        with pytest.raises(ValueError, match="square"):
            gzsl_scores(torch.zeros(2, 3).long(), [0], [1])
        with pytest.raises(ValueError, match=r"ids \[-1, 3\]: expected 0\.\.2$"):
            gzsl_scores(square, [0, 3], [1, -1])
        with pytest.raises(ValueError, match=r"ids \[1\] occur twice"):
            gzsl_scores(square, [0, 1], [1])
        with pytest.raises(ValueError, match="absent"):
            per_class_iou(square, "drop")  # type: ignore[arg-type]
