"""The adversarial loss against eq. 7 written with probabilities."""

from __future__ import annotations

import math

import pytest
import torch

from sign_zs3.functional import discriminator_loss, generator_loss

REAL, FAKE = torch.tensor([[0.3, -1.2], [2.0, 0.1]]), torch.tensor([-0.7, 1.5, 0.0])


def test_discriminator_minimises_the_negative_of_equation_7() -> None:
    value = REAL.sigmoid().log().mean() + (1 - FAKE.sigmoid()).log().mean()
    torch.testing.assert_close(discriminator_loss(REAL, FAKE), -value)
    assert torch.equal(discriminator_loss(REAL, FAKE, "saturating"), discriminator_loss(REAL, FAKE))


def test_generator_forms() -> None:
    torch.testing.assert_close(generator_loss(FAKE), -FAKE.sigmoid().log().mean())
    torch.testing.assert_close(generator_loss(FAKE, "saturating"), (1 - FAKE.sigmoid()).log().mean())
    torch.testing.assert_close(generator_loss(FAKE, "l1"), (1 - FAKE.sigmoid()).abs().mean())


def test_l1_is_the_distance_of_probabilities_to_one_and_zero() -> None:
    expected = (1 - REAL.sigmoid()).abs().mean() + FAKE.sigmoid().abs().mean()
    torch.testing.assert_close(discriminator_loss(REAL, FAKE, "l1"), expected)


def test_an_undecided_discriminator() -> None:
    # At D = 1/2 everywhere eq. 7 is -2 log 2, Goodfellow's equilibrium.
    assert discriminator_loss(torch.zeros(3), torch.zeros(5)).item() == pytest.approx(2 * math.log(2))


def test_generator_and_discriminator_pull_against_each_other() -> None:
    for mode in ("non_saturating", "saturating", "l1"):
        fake = FAKE.clone().requires_grad_()
        (of_d,) = torch.autograd.grad(discriminator_loss(REAL, fake, mode), fake)
        (of_g,) = torch.autograd.grad(generator_loss(fake, mode), fake)
        assert (of_d > 0).all()
        assert (of_g < 0).all()


def test_extreme_logits_stay_finite() -> None:
    huge = torch.tensor([-1e4, 1e4])
    assert torch.isfinite(discriminator_loss(huge, huge))
    assert torch.isfinite(generator_loss(huge.half()))
    assert generator_loss(huge.half()).dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_single_logit_of_either_precision(dtype: torch.dtype) -> None:
    logit = torch.tensor([0.3], dtype=dtype)
    for loss in (generator_loss(logit), discriminator_loss(logit, logit[:0])):
        assert loss.dtype == dtype
        torch.testing.assert_close(loss, -logit.sigmoid().log().squeeze())


def test_an_empty_side_adds_nothing() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    loss = generator_loss(nothing)
    assert loss == 0
    torch.autograd.backward(loss)
    torch.testing.assert_close(discriminator_loss(REAL, nothing), -REAL.sigmoid().log().mean())


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match="hinge"):
        generator_loss(FAKE, "hinge")  # type: ignore[arg-type]
