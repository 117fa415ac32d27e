from __future__ import annotations

import torch
from torch import Tensor

from sign_zs3.functional import pixel_cross_entropy
from sign_zs3.vocabulary.teaching import MAX_TAKEN, Features, Pool


def test_new_classes_take_a_bounded_share_of_the_features_of_old_ones() -> None:
    torch.manual_seed(0)
    weight, bias, new = torch.randn(6, 4), torch.randn(6), [2, 5]

    def pool(count: int, classes: list[int]) -> Pool:
        labels = torch.tensor(classes).repeat_interleave(count)
        return Pool.of(Features(torch.randn(len(labels), 4), labels), weight, bias, new)

    def taken(pool: Pool, lowered: Tensor) -> float:
        """By the classifier as a whole: the share of each old class's features that goes to a new one, averaged."""
        (rows, labels), old = pool.features, (0, 1, 3, 4)
        lost = torch.isin((rows @ weight.t() + lowered).argmax(1), torch.tensor(new)).float()
        return float(torch.stack([lost[labels == c].mean() for c in old if c in labels]).mean())

    pools = [pool(1500, [0, 1, 2, 3, 4, 5]), pool(2000, [0, 3])]
    for raised in (3.0, 100.0):
        bias[new] += raised
        assert min(taken(pool, bias) for pool in pools) > 0.5
        too_high = max(float(pool.excess(weight[new], bias[new])) for pool in pools)
        shares = [
            taken(pool, bias.index_add(0, torch.tensor(new), torch.full((2,), -too_high - 1e-4))) for pool in pools
        ]
        assert max(shares) <= MAX_TAKEN
        # and no less than that
        assert max(shares) > MAX_TAKEN - 0.002
    # they are not raised where they take less
    bias[new] = -100.0
    assert all(float(pool.excess(weight[new], bias[new])) == 0 for pool in pools)


def test_a_pool_has_the_gradient_of_the_cross_entropy_over_all_classes() -> None:
    torch.manual_seed(0)
    features = Features(torch.randn(50, 4), torch.randint(0, 6, (50,)))
    weight, bias, new = torch.randn(6, 4, requires_grad=True), torch.randn(6, requires_grad=True), [2, 5]
    pool = Pool.of(features, weight.detach(), bias.detach(), new)
    drawn = torch.randint(0, 50, (20,))
    logits = torch.nn.functional.linear(features.rows[drawn], weight, bias)
    whole = torch.nn.functional.cross_entropy(logits, features.labels[drawn])
    expected = torch.autograd.grad(whole, (weight, bias))
    new_rows = [values.detach()[new].requires_grad_() for values in (weight, bias)]
    found = torch.autograd.grad(pixel_cross_entropy(*pool.logits_and_labels(drawn, *new_rows)), new_rows)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other[new])
