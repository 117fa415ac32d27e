from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from sign_zs3.functional import excess_logit, logits_beside_old, pixel_cross_entropy


def test_the_gradient_is_that_of_all_classes() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(30, 7, dtype=torch.float64), torch.randint(7, (30,))
    old, new = [0, 2, 3, 6], [5, 1, 4]
    over_all, over_new = logits.clone().requires_grad_(), logits[:, new].requires_grad_()
    whole = F.cross_entropy(over_all, labels)
    whole.backward()  # type: ignore[no-untyped-call]
    merged = logits_beside_old(over_new, logits[:, old].logsumexp(1))
    assert merged.shape == (1, 4, 30, 1)
    column = torch.tensor([new.index(label) + 1 if label in new else 0 for label in labels.tolist()])
    loss = F.cross_entropy(merged, column.view(1, 30, 1))
    loss.backward()  # type: ignore[no-untyped-call]
    assert over_all.grad is not None and over_new.grad is not None
    torch.testing.assert_close(over_new.grad, over_all.grad[:, new], rtol=0, atol=1e-10)
    # what the loss lacks depends on the old logits alone
    of_old = torch.isin(labels, torch.tensor(old))
    lacking = (logits[:, old].logsumexp(1) - logits.gather(1, labels[:, None])[:, 0])[of_old].sum() / 30
    torch.testing.assert_close(whole - loss, lacking)


def test_pixels_are_features_in_their_order() -> None:
    new, total = torch.arange(6.0).view(3, 2), torch.tensor([10.0, 20.0, 30.0])
    merged = logits_beside_old(new, total)
    assert merged[0, :, :, 0].tolist() == [[10.0, 20.0, 30.0], [0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]
    labels = torch.tensor([[[0], [1], [2]]])
    want = sum(
        float(row.logsumexp(0) - row[label]) for row, label in zip(merged[0, :, :, 0].t(), (0, 1, 2), strict=True)
    )
    assert float(pixel_cross_entropy(merged, labels)) == pytest.approx(want / 3)


def share_taken(margins: torch.Tensor, labels: torch.Tensor, lowered: float) -> float:
    shares = [(margins[labels == c] - lowered > 0).double().mean() for c in torch.unique(labels)]
    return float(torch.stack(shares).mean())


@pytest.mark.parametrize("share", [0.0, 0.01, 0.2, 0.9])
def test_no_smaller_number_suffices(share: float) -> None:
    torch.manual_seed(1)
    labels = torch.randint(4, (500,)) ** 2  # ids with gaps, classes of different size
    labels[:300] = 9
    margins = torch.randn(500) + 1
    found = float(excess_logit(margins, labels, share))
    assert found > 0 or share == 0.9
    assert share_taken(margins, labels, found) <= share
    if found:
        lower = float(margins[margins < found].max())
        assert share_taken(margins, labels, lower) > share


def test_classes_count_alike_however_many_features_they_have() -> None:
    margins, labels = torch.tensor([5.0, 4.0, 3.0, 2.0, 1.0]), torch.tensor([7, 0, 0, 0, 0])
    assert float(excess_logit(margins, labels, 0.4)) == 5  # the one feature of class 7 is half of all
    assert float(excess_logit(margins, labels, 0.5)) == 4
    assert float(excess_logit(margins, labels, 0.7)) == 3
    assert float(excess_logit(margins, labels.flip(0), 0.7)) == 1


def test_what_takes_little_is_not_raised() -> None:
    margins, labels = torch.tensor([-1.0, -2.0, 3.0]), torch.tensor([0, 0, 1])
    assert float(excess_logit(margins, labels, 0.5)) == 0
    assert float(excess_logit(-margins.abs(), labels, 0.0)) == 0
