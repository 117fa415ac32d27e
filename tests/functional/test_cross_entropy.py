from __future__ import annotations

import pytest
import torch

from sign_zs3.functional import (
    balanced_weights,
    pixel_cross_entropy,
    transfer_loss,
    weighted_cross_entropy,
    weighted_mean,
)


def case(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, 5, 3, 4, generator=generator)
    labels = torch.randint(5, (2, 3, 4), generator=generator)
    labels[0, 0] = 255
    return logits, labels


def by_hand(logits: torch.Tensor, labels: torch.Tensor) -> list[float]:
    """Each labelled pixel's minus log softmax at its label, in raster order."""
    probabilities = logits.double().exp() / logits.double().exp().sum(dim=1, keepdim=True)
    return [
        -float(probabilities[n, label, row, column].log())
        for n, rows in enumerate(labels.tolist())
        for row, columns in enumerate(rows)
        for column, label in enumerate(columns)
        if label != 255
    ]


def test_the_mean_is_over_labelled_pixels() -> None:
    logits, labels = case()
    terms = by_hand(logits, labels)
    assert len(terms) == 20
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), torch.tensor(sum(terms) / 20))


def test_one_label_is_its_own_mean() -> None:
    logits, labels = torch.zeros(1, 4, 1, 2), torch.tensor([[[255, 2]]])
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), torch.tensor(4.0).log())


def test_no_label_gives_zero_with_a_gradient_path() -> None:
    logits = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = pixel_cross_entropy(logits, torch.full((1, 2, 2), 255))
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logits.grad is not None and not logits.grad.any()


def test_half_precision_is_summed_in_float32() -> None:
    logits, labels = case()
    half = logits.bfloat16()
    for loss in (pixel_cross_entropy(half, labels), *weighted_cross_entropy(half, labels, torch.ones(2, 3, 4))):
        assert loss.dtype == torch.float32
    assert torch.equal(pixel_cross_entropy(half, labels), pixel_cross_entropy(half.float(), labels))


def test_both_terms_of_the_transfer_step_are_means_of_their_own() -> None:
    (real, real_labels), (synthetic, synthetic_labels) = case(1), case(2)
    seg, syn = transfer_loss(real, real_labels, synthetic, synthetic_labels)
    assert torch.equal(seg, pixel_cross_entropy(real, real_labels))
    assert torch.equal(syn, pixel_cross_entropy(synthetic, synthetic_labels))
    # twice as many synthetic features of the same kind weigh no more
    twice = transfer_loss(real, real_labels, synthetic.repeat(2, 1, 1, 1), synthetic_labels.repeat(2, 1, 1))
    torch.testing.assert_close(twice, (seg, syn))


def test_weights_of_one_and_zero_choose_pixels() -> None:
    logits, labels = case()
    terms = by_hand(logits, labels)
    weights = (labels != 255).float()
    loss, each = weighted_cross_entropy(logits, labels, weights)
    torch.testing.assert_close(loss, pixel_cross_entropy(logits, labels))
    torch.testing.assert_close(each[labels != 255].double(), torch.tensor(terms, dtype=torch.float64))
    assert not each[labels == 255].any()
    # an ignored pixel adds nothing, but its weight counts
    torch.testing.assert_close(
        weighted_cross_entropy(logits, labels, torch.ones(2, 3, 4))[0], torch.tensor(sum(terms) / 24)
    )
    weights[1] = 0
    torch.testing.assert_close(
        weighted_cross_entropy(logits, labels, weights)[0], pixel_cross_entropy(logits[:1], labels[:1])
    )


def test_weights_matter_up_to_a_factor() -> None:
    values, weights = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.5, 0.5])
    assert weighted_mean(values, weights) == 2
    assert weighted_mean(values, 8 * weights) == 2
    assert weighted_mean(values, 1e-3 * weights) == 2
    assert weighted_mean(values, torch.zeros(3)) == 0


def test_a_balanced_loss_is_the_mean_over_classes_of_their_means() -> None:
    logits, labels = case()
    by_class = [pixel_cross_entropy(logits, labels.where(labels == c, 255)) for c in range(5)]
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, balance=1), torch.stack(by_class).mean())
    # between the two ends a class counts by the power 1 - balance of its pixels
    sizes = torch.bincount(labels[labels != 255]).float()
    half = (torch.stack(by_class) * sizes.sqrt()).sum() / sizes.sqrt().sum()
    torch.testing.assert_close(pixel_cross_entropy(logits, labels, balance=0.5), half)


@pytest.mark.parametrize("balance", [0.0, 0.3, 1.0])
def test_balancing_keeps_the_sum_and_the_proportions_within_a_class(balance: float) -> None:
    _, labels = case()
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) * (labels != 255)
    balanced = balanced_weights(labels, weights, balance)
    torch.testing.assert_close(balanced.sum(), weights.sum())
    factors = {c: (balanced / weights)[labels == c] for c in range(5)}
    for c, factor in factors.items():
        torch.testing.assert_close(factor, factor[:1].expand_as(factor), msg=f"class {c}")
    totals = torch.stack([weights[labels == c].sum() for c in range(5)])
    if balance == 0:
        torch.testing.assert_close(balanced, weights)
    else:  # the heavier a class, the smaller its factor
        order = totals.argsort()
        assert (torch.stack([factors[c][0] for c in range(5)])[order].diff() < 0).all()


def test_balancing_nothing_is_nothing() -> None:
    labels = torch.full((1, 2, 2), 255)
    assert not balanced_weights(labels, torch.zeros(1, 2, 2), 1).any()
    loss = pixel_cross_entropy(logits := torch.randn(1, 3, 2, 2, requires_grad=True), labels, balance=1)
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss == 0
    assert logits.grad is not None and not logits.grad.any()
