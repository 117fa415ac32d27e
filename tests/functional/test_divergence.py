"""KL against torch.distributions; MMD against a double loop over the printed sums."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from sign_zs3.functional import class_mmd, gaussian_kl, mmd
from sign_zs3.functional.divergence import median_bandwidths

MIXTURE = (2, 5, 10, 20, 40, 60)


def features(count: int, width: int = 5, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, width, generator=generator, dtype=torch.float64) + shift


def literal_mmd(real: Tensor, fake: Tensor, bandwidths: Sequence[float] = MIXTURE) -> float:
    def mean_kernel(xs: Tensor, ys: Tensor) -> float:
        total = 0.0
        for x in xs.tolist():
            for y in ys.tolist():
                distance = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
                total += sum(math.exp(-distance / (2 * b)) for b in bandwidths)
        return total / (len(xs) * len(ys))

    return mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake)


class TestGaussianKL:
    def test_standard_normal_is_zero(self) -> None:
        assert gaussian_kl(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5)) == 0

    def test_is_the_kl_of_torch_distributions(self) -> None:
        mu, logvar = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
        oracle = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0))
        torch.testing.assert_close(gaussian_kl(mu, logvar), oracle.mean())

    def test_a_single_element(self) -> None:
        mu, logvar = torch.tensor([0.5]).view(1, 1, 1, 1), torch.tensor([-0.3]).view(1, 1, 1, 1)
        oracle = kl_divergence(Normal(0.5, math.exp(-0.15)), Normal(0.0, 1.0))
        torch.testing.assert_close(gaussian_kl(mu, logvar), oracle)
        torch.testing.assert_close(gaussian_kl(mu, logvar, torch.ones(1, 1, 1)), oracle)

    def test_does_not_read_values_back_from_the_device(self) -> None:
        # Values on `meta` cannot be read: a count of pixels fetched for a division would stop a GPU's queue.
        mu, mask = torch.empty(2, 3, 4, 5, device="meta"), torch.empty(2, 4, 5, dtype=torch.bool, device="meta")
        assert gaussian_kl(mu, mu, mask).device.type == "meta"

    @pytest.mark.parametrize("channel", [True, False])
    def test_mask_selects_pixels(self, channel: bool) -> None:
        mu, logvar = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
        mask = torch.rand(2, 4, 5) > 0.4
        oracle = kl_divergence(Normal(mu, (logvar / 2).exp()), Normal(0.0, 1.0)).movedim(1, -1)[mask].mean()
        torch.testing.assert_close(gaussian_kl(mu, logvar, mask[:, None] if channel else mask), oracle)

    def test_full_mask_is_no_mask(self) -> None:
        mu, logvar = torch.randn(2, 3, 4, 5), torch.randn(2, 3, 4, 5)
        full = torch.ones(2, 4, 5, dtype=torch.bool)
        torch.testing.assert_close(gaussian_kl(mu, logvar, full), gaussian_kl(mu, logvar))

    def test_empty_mask_is_zero_with_a_gradient(self) -> None:
        mu = torch.randn(1, 3, 2, 2, requires_grad=True)
        logvar = torch.full((1, 3, 2, 2), 1e4, requires_grad=True)  # overflows where nothing counts
        loss = gaussian_kl(mu, logvar, torch.zeros(1, 2, 2, dtype=torch.bool))
        assert loss == 0
        torch.autograd.backward(loss)
        for leaf in (mu, logvar):
            assert leaf.grad is not None
            assert torch.equal(leaf.grad, torch.zeros_like(leaf))

    def test_gradient(self) -> None:
        mu = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
        logvar = torch.randn(1, 2, 2, 2, dtype=torch.float64, requires_grad=True)
        mask = torch.tensor([[[True, False], [True, True]]])
        assert torch.autograd.gradcheck(lambda m, v: gaussian_kl(m, v, mask), (mu, logvar))

    def test_half_precision_is_computed_in_float32(self) -> None:
        mu, logvar = torch.randn(2, 3, 4, 5).bfloat16(), torch.randn(2, 3, 4, 5).bfloat16()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = gaussian_kl(mu, logvar)
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, gaussian_kl(mu.float(), logvar.float()))

    def test_shapes_must_fit(self) -> None:
        with pytest.raises(ValueError, match="differ in shape"):
            gaussian_kl(torch.zeros(1, 2, 3, 3), torch.zeros(1, 2, 3, 4))
        fits = r"mask of shape \(1, 1, 3, 3\) .* shape \(2, 2, 3, 3\): expected \(N, 1, h, w\) or \(N, h, w\)$"
        with pytest.raises(ValueError, match=fits):
            gaussian_kl(torch.zeros(2, 2, 3, 3), torch.zeros(2, 2, 3, 3), torch.ones(1, 3, 3, dtype=torch.bool))


class TestMMD:
    @pytest.mark.parametrize("bandwidths", [MIXTURE, (1,), (0.3, 2.5)])
    def test_is_the_double_loop(self, bandwidths: tuple[float, ...]) -> None:
        real, fake = features(7), features(4, seed=1, shift=0.5)
        squared = literal_mmd(real, fake, bandwidths)
        assert mmd(real, fake, bandwidths, sqrt=False).item() == pytest.approx(squared, rel=1e-12)
        assert mmd(real, fake, bandwidths).item() == pytest.approx(math.sqrt(squared), rel=1e-12)

    @pytest.mark.parametrize(("n", "m"), [(30, 20), (170, 150)])
    def test_is_plain_autograd(self, n: int, m: int) -> None:
        """On either side of the size from which the bandwidths take turns."""
        leaves = features(n).requires_grad_(), features(m, seed=1, shift=0.5).requires_grad_()

        def mean_kernel(xs: Tensor, ys: Tensor) -> Tensor:
            squared = (xs[:, None] - ys).square().sum(dim=2)
            return torch.stack([torch.exp(-squared / (2 * b)).mean() for b in MIXTURE]).sum()

        real, fake = leaves
        oracle = mean_kernel(real, real) + mean_kernel(fake, fake) - 2 * mean_kernel(real, fake)
        found = mmd(real, fake, sqrt=False)
        torch.testing.assert_close(found, oracle, rtol=1e-10, atol=1e-14)
        for gradient, expected in zip(
            torch.autograd.grad(found, leaves), torch.autograd.grad(oracle, leaves), strict=True
        ):
            torch.testing.assert_close(gradient, expected, rtol=1e-8, atol=1e-12)

    def test_mixture_is_the_default(self) -> None:
        assert torch.equal(mmd(features(3), features(2, seed=1)), mmd(features(3), features(2, seed=1), MIXTURE, True))

    @pytest.mark.parametrize("sqrt", [True, False])
    def test_of_a_set_with_itself_is_zero(self, sqrt: bool) -> None:
        real = features(30, 600).float()
        assert mmd(real, real.clone(), sqrt=sqrt).abs() <= 1e-6
        assert mmd(real, real[torch.randperm(30)], sqrt=False).abs() <= 1e-5

    @pytest.mark.parametrize("width", [4, 64])
    @pytest.mark.parametrize("count", [3, 10, 31, 64])
    def test_rounding_is_no_distance(self, count: int, width: int) -> None:
        for seed in range(40):
            real = features(count, width, seed).float()
            fake = real[torch.randperm(count, generator=torch.Generator().manual_seed(seed))].requires_grad_()
            distance = mmd(real, fake)
            assert distance == 0
            (gradient,) = torch.autograd.grad(distance, fake)
            assert torch.equal(gradient, torch.zeros_like(fake))

    def test_is_symmetric(self) -> None:
        real, fake = features(7), features(4, seed=1)
        torch.testing.assert_close(mmd(real, fake), mmd(fake, real))

    def test_does_not_see_where_the_origin_lies(self) -> None:
        real, fake = features(7), features(4, seed=1)
        torch.testing.assert_close(mmd(real + 3, fake + 3), mmd(real, fake))
        # nor in float32, where |x|^2 + |y|^2 - 2xy far from the origin is all rounding
        far = torch.tensor([1000.0, -500.0, 0.0, 250.0, 4000.0])
        torch.testing.assert_close(
            mmd((real + far).float(), (fake + far).float()).double(), mmd(real, fake), rtol=1e-2, atol=0
        )

    def test_single_pair_in_closed_form(self) -> None:
        # k(x, x) = 1, so MMD^2 = 2 - 2 exp(-|x - y|^2 / 2).
        real, fake = torch.tensor([[0.0, 0.0]]), torch.tensor([[1.0, 2.0]])
        assert mmd(real, fake, (1,), sqrt=False).item() == pytest.approx(2 - 2 * math.exp(-2.5), rel=1e-6)

    def test_float32_is_precise_at_the_papers_width(self) -> None:
        real, fake = features(60, 600), features(50, 600, seed=1, shift=0.02)
        assert mmd(real.float(), fake.float()).item() == pytest.approx(mmd(real, fake).item(), rel=1e-4)

    @pytest.mark.parametrize("sqrt", [True, False])
    def test_gradients(self, sqrt: bool) -> None:
        real = features(5).requires_grad_()
        fake = features(3, seed=1, shift=0.5).requires_grad_()
        assert torch.autograd.gradcheck(lambda r, f: mmd(r, f, sqrt=sqrt), (real, fake))

    def test_gradient_is_finite_at_zero(self) -> None:
        fake = features(6).float().requires_grad_()
        torch.autograd.backward(mmd(fake.detach().clone(), fake))
        assert fake.grad is not None
        assert torch.isfinite(fake.grad).all()

    def test_descends(self) -> None:
        real, fake = features(20), features(20, seed=1, shift=1.0).requires_grad_()
        before = mmd(real, fake)
        (gradient,) = torch.autograd.grad(before, fake)
        assert mmd(real, fake - gradient) < before

    def test_autocast_changes_nothing(self) -> None:
        real, fake = features(20, 64).float(), features(10, 64, seed=1).float().requires_grad_()
        expected = mmd(real, fake)
        (expected_gradient,) = torch.autograd.grad(expected, fake)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found = mmd(real, fake)
            (gradient,) = torch.autograd.grad(found, fake)
        assert torch.equal(found, expected)
        assert torch.equal(gradient, expected_gradient)
        assert mmd(real.bfloat16(), fake.bfloat16()).dtype == torch.float32

    def test_bad_input(self) -> None:
        for real, fake in (((2, 3), (2, 4)), ((2, 3, 1), (2, 3)), ((2, 3), (2, 3, 1)), ((3,), (2, 3))):
            with pytest.raises(ValueError, match=rf"expected real.*{re.escape(str(real))} and {re.escape(str(fake))}"):
                mmd(torch.zeros(real), torch.zeros(fake))
        with pytest.raises(ValueError, match="at least one feature"):
            mmd(torch.zeros(0, 3), torch.zeros(2, 3))
        for bandwidths in ((), (0,), (2, -1)):
            with pytest.raises(ValueError, match="bandwidths"):
                mmd(torch.zeros(2, 3), torch.zeros(2, 3), bandwidths)


class TestClassMMD:
    def test_is_the_mean_over_shared_classes(self) -> None:
        real, fake = features(9), features(8, seed=1)
        labels_real = torch.tensor([3, 0, 3, 1, 0, 3, 7, 255, 0])
        labels_fake = torch.tensor([0, 3, 5, 0, 3, 255, 1, 5])
        expected = torch.stack([mmd(real[labels_real == c], fake[labels_fake == c]) for c in (0, 1, 3)]).mean()
        torch.testing.assert_close(class_mmd(real, fake, labels_real, labels_fake), expected)

    def test_one_list_of_labels_serves_both(self) -> None:
        real, fake, labels = features(6), features(6, seed=1), torch.tensor([0, 1, 0, 1, 2, 2])
        torch.testing.assert_close(class_mmd(real, fake, labels), class_mmd(real, fake, labels, labels))

    def test_one_class_is_plain_mmd(self) -> None:
        real, fake = features(6), features(6, seed=1)
        same = class_mmd(real, fake, torch.zeros(6, dtype=torch.long), bandwidths=(1,), sqrt=False)
        torch.testing.assert_close(same, mmd(real, fake, (1,), sqrt=False))

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
    @pytest.mark.parametrize("sqrt", [True, False])
    def test_small_classes_together_are_each_alone(self, sqrt: bool, dtype: torch.dtype) -> None:
        # 150 of sizes 1 to 64 in passes of 64, and two too large for them
        generator = torch.Generator().manual_seed(0)
        labels_real, labels_fake = (
            torch.cat(
                [torch.randint(0, 150, (4000,), generator=generator), torch.arange(152), torch.tensor([150, 151] * n)]
            )
            for n in (70, 40)
        )
        real, fake = (features(len(x), 12, seed).to(dtype) for seed, x in enumerate((labels_real, labels_fake)))
        ends = []
        for together in (True, False):
            leaves = (real.clone().requires_grad_(), fake.clone().requires_grad_())
            if together:
                value = class_mmd(leaves[0], leaves[1], labels_real, labels_fake, sqrt=sqrt)
            else:
                pairs = [(leaves[0][labels_real == c], leaves[1][labels_fake == c]) for c in range(152)]
                value = torch.stack([mmd(r, f, sqrt=sqrt) for r, f in pairs]).mean()
            ends.append((value, *torch.autograd.grad(value, leaves)))
        for found, expected in zip(*ends, strict=True):
            torch.testing.assert_close(found, expected, rtol=0.02 if dtype == torch.bfloat16 else 1e-4, atol=1e-6)

    def test_small_classes_do_not_see_where_the_origin_lies(self) -> None:
        real, fake, labels = features(40), features(40, seed=1), torch.arange(40) % 8
        far = torch.tensor([1000.0, -500.0, 0.0, 250.0, 4000.0])
        moved = class_mmd((real + far).float(), (fake + far).float(), labels)
        torch.testing.assert_close(moved.double(), class_mmd(real, fake, labels), rtol=1e-2, atol=0)

    def test_small_classes_under_autocast(self) -> None:
        real, fake, labels = features(40).float(), features(40, seed=1).float(), torch.arange(40) % 8
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inside = class_mmd(real, fake, labels)
        assert torch.equal(inside, class_mmd(real, fake, labels))

    def test_order_does_not_matter(self) -> None:
        # The released code cut the image into runs of equal labels; here a class is one set.
        real, fake, labels = features(8), features(8, seed=1), torch.tensor([0, 1, 0, 1, 0, 1, 0, 1])
        order = torch.argsort(labels)
        torch.testing.assert_close(class_mmd(real, fake, labels), class_mmd(real[order], fake[order], labels[order]))

    def test_nothing_shared_is_zero_with_a_gradient(self) -> None:
        real, fake = features(3), features(2, seed=1).requires_grad_()
        loss = class_mmd(real, fake, torch.tensor([0, 1, 255]), torch.tensor([2, 255]))
        assert loss == 0
        torch.autograd.backward(loss)
        assert fake.grad is not None
        assert torch.equal(fake.grad, torch.zeros_like(fake))
        empty = class_mmd(real[:0], fake[:0], torch.zeros(0, dtype=torch.long))
        assert empty == 0

    def test_gradients(self) -> None:
        real = features(6).requires_grad_()
        fake = features(5, seed=1, shift=0.3).requires_grad_()
        labels_real, labels_fake = torch.tensor([0, 1, 0, 2, 1, 0]), torch.tensor([1, 0, 0, 3, 1])
        assert torch.autograd.gradcheck(lambda r, f: class_mmd(r, f, labels_real, labels_fake), (real, fake))

    def test_labels_must_fit(self) -> None:
        real, fake, labels = torch.zeros(2, 3), torch.zeros(4, 3), torch.zeros(2, dtype=torch.long)
        with pytest.raises(ValueError, match=r"^labels_fake .*: expected shape \(4,\), got \(2,\)$"):
            class_mmd(real, fake, labels)
        with pytest.raises(ValueError, match=r"^labels_real .*: expected shape \(4,\), got \(2,\)$"):
            class_mmd(fake, real, labels)


def test_median_bandwidths_are_those_of_all_distances_and_follow_the_scale() -> None:
    real, fake = features(40, seed=1), features(30, seed=2, shift=0.5)
    both = torch.cat([real, fake])
    squared = [float((both[i] - both[j]).square().sum()) for i in range(70) for j in range(i)]
    median = sorted(squared)[(len(squared) - 1) // 2]  # the lower one, as torch's
    want = [median * factor for factor in (0.25, 0.5, 1, 2, 4)]
    assert median_bandwidths(real, fake) == pytest.approx(want, rel=1e-4)
    assert median_bandwidths(3 * real, 3 * fake) == pytest.approx([9 * b for b in want], rel=1e-4)
    assert all(b > 0 for b in median_bandwidths(real[:1].expand(5, -1), real[:1]))


def test_unit_vectors_are_told_apart_by_median_bandwidths_and_hardly_by_the_published_ones() -> None:
    real, fake = (
        torch.nn.functional.normalize(features(200, 8, seed, shift), dim=1) for seed, shift in ((1, 0), (2, 1))
    )
    flat, fitted = (
        float(mmd(real, fake, bandwidths, sqrt=False)) / len(bandwidths)
        for bandwidths in (MIXTURE, median_bandwidths(real, fake))
    )
    assert fitted > 3 * flat
