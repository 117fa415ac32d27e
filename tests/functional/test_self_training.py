"""Annealed weights against eq. 17 as printed; the probability of unseen classes; the confident fraction by sorting."""

from __future__ import annotations

import math
import re

import pytest
import torch

from sign_zs3.functional import annealed_weights, confident_fraction, probability_weights, within_top


def example() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    confidence = torch.rand(3, 4, 5, generator=generator)
    pseudo = torch.rand(3, 4, 5, generator=generator) > 0.4
    return confidence, pseudo


class TestAnnealedWeights:
    @pytest.mark.parametrize("temperature", [0.1, 0.5, 2.0])
    def test_is_equation_17_computed_literally(self, temperature: float) -> None:
        confidence, pseudo = example()
        weights = annealed_weights(confidence, pseudo, temperature)
        for image in range(3):
            p = confidence[image][pseudo[image]].double()
            softmax = (p / temperature).exp() / (p / temperature).exp().sum()
            literal = softmax / softmax.max()  # Z makes the largest weight 1
            torch.testing.assert_close(weights[image][pseudo[image]], literal.float())

    def test_largest_weight_is_one_per_image(self) -> None:
        confidence, pseudo = example()
        weights = annealed_weights(confidence * torch.tensor([1.0, 0.5, 0.1]).view(3, 1, 1), pseudo, 0.1)
        assert torch.equal(weights.masked_fill(~pseudo, 0).amax(dim=(1, 2)), torch.ones(3))
        assert (weights > 0).all()

    def test_labelled_pixels_weigh_one(self) -> None:
        confidence, pseudo = example()
        weights = annealed_weights(confidence, pseudo, 0.1)
        assert (weights[~pseudo] == 1).all()
        # Their confidence plays no part either.
        other = confidence.masked_fill(~pseudo, 100.0)
        assert torch.equal(annealed_weights(other, pseudo, 0.1), weights)

    def test_images_do_not_see_each_other(self) -> None:
        confidence, pseudo = example()
        alone = torch.cat([annealed_weights(confidence[[i]], pseudo[[i]], 0.5) for i in range(3)])
        assert torch.equal(annealed_weights(confidence, pseudo, 0.5), alone)

    def test_infinite_temperature_weighs_all_alike(self) -> None:
        confidence, pseudo = example()
        assert torch.equal(annealed_weights(confidence, pseudo, math.inf), torch.ones(3, 4, 5))

    def test_low_temperature_keeps_the_most_confident(self) -> None:
        confidence, pseudo = example()
        weights = annealed_weights(confidence, pseudo, 1e-6)
        assert weights.masked_fill(~pseudo, 0).sum(dim=(1, 2)).tolist() == [1, 1, 1]

    def test_weights_follow_confidence(self) -> None:
        confidence, pseudo = torch.tensor([[[0.2, 0.5, 0.9]]]), torch.ones(1, 1, 3, dtype=torch.bool)
        weights = annealed_weights(confidence, pseudo, 2.0)
        torch.testing.assert_close(weights, torch.exp(torch.tensor([[[-0.35, -0.2, 0.0]]])))

    def test_no_pseudo_pixel_gives_ones(self) -> None:
        confidence, pseudo = example()
        pseudo[1] = False
        assert torch.equal(annealed_weights(confidence, pseudo, 0.5)[1], torch.ones(4, 5))

    def test_precision(self) -> None:
        confidence, pseudo = example()
        for given, result in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
            assert annealed_weights(confidence.to(given), pseudo, 0.5).dtype == result

    @pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
    def test_temperature_must_be_positive(self, temperature: float) -> None:
        with pytest.raises(ValueError, match="temperature"):
            annealed_weights(*example(), temperature)

    def test_shapes_must_fit(self) -> None:
        expected = r"^expected confidence and pseudo of one shape \(N, H, W\), got "
        for confidence, pseudo in (((1, 2, 2), (1, 2, 3)), ((2, 2), (2, 2))):
            with pytest.raises(ValueError, match=expected + re.escape(f"{confidence} and {pseudo}")):
                annealed_weights(torch.rand(confidence), torch.ones(pseudo, dtype=torch.bool), 1.0)


class TestProbabilityWeights:
    def logits(self) -> torch.Tensor:
        return 3 * torch.randn(2, 7, 4, 5, generator=torch.Generator().manual_seed(0))

    def test_is_the_odds_of_unseen_against_seen_classes(self) -> None:
        logits = self.logits()
        odds = (logits[:, 4:].double().logsumexp(1) - logits[:, :4].double().logsumexp(1)).exp()
        torch.testing.assert_close(probability_weights(logits, 4), (odds / (1 + odds)).float())
        # whatever is added to all logits
        torch.testing.assert_close(probability_weights(logits + 5, 4), probability_weights(logits, 4))

    def test_which_unseen_class_it_is_does_not_matter(self) -> None:
        logits = self.logits()
        half = logits[:, 6:] - math.log(2)
        torch.testing.assert_close(
            probability_weights(torch.cat([logits[:, :6], half, half], 1), 4), probability_weights(logits, 4)
        )
        torch.testing.assert_close(
            probability_weights(logits[:, [0, 1, 2, 3, 6, 4, 5]], 4), probability_weights(logits, 4)
        )

    def test_the_sum_is_the_expected_number_of_unseen_pixels_of_a_calibrated_teacher(self) -> None:
        generator = torch.Generator().manual_seed(1)
        logits = torch.randn(1, 7, 400, 400, generator=generator)
        drawn = torch.multinomial(logits.softmax(1)[0].flatten(1).t(), 1, generator=generator)
        found = float((drawn >= 4).double().mean())
        # the standard error of a share of 160,000 pixels is at most 0.00125
        assert float(probability_weights(logits, 4).mean()) == pytest.approx(found, abs=0.006)

    def test_all_classes_are_certain(self) -> None:
        torch.testing.assert_close(probability_weights(self.logits(), 0), torch.ones(2, 4, 5))
        assert probability_weights(self.logits().double(), 0).dtype == torch.float64
        assert probability_weights(self.logits().bfloat16(), 3).dtype == torch.float32

    @pytest.mark.parametrize(("shape", "first"), [((2, 7, 4, 5), 7), ((2, 7, 4, 5), -1), ((7, 4, 5), 1)])
    def test_what_is_no_class_is_refused(self, shape: tuple[int, ...], first: int) -> None:
        with pytest.raises(ValueError, match=re.escape(f"got {shape} and {first}")):
            probability_weights(torch.zeros(shape), first)


class TestConfidentFraction:
    @pytest.mark.parametrize("fraction", [0.25, 0.5, 0.75])
    def test_takes_the_most_confident_of_each_image(self, fraction: float) -> None:
        confidence, pseudo = example()
        chosen = confident_fraction(confidence, pseudo, fraction)
        assert chosen.dtype == torch.bool
        assert not (chosen & ~pseudo).any()
        for image in range(3):
            values = sorted(confidence[image][pseudo[image]].tolist(), reverse=True)
            assert int(chosen[image].sum()) == round(fraction * len(values))
            kept = sorted(confidence[image][chosen[image]].tolist(), reverse=True)
            assert kept == values[: len(kept)]

    def test_ends(self) -> None:
        confidence, pseudo = example()
        assert torch.equal(confident_fraction(confidence, pseudo, 1.0), pseudo)
        assert not confident_fraction(confidence, pseudo, 0.0).any()

    def test_device(self) -> None:
        confidence, pseudo = (tensor.to("meta") for tensor in example())
        assert confident_fraction(confidence, pseudo, 0.5).device.type == "meta"

    def test_many_ties_are_broken_by_position(self) -> None:
        chosen = confident_fraction(torch.full((2, 50, 60), 0.5), torch.ones(2, 50, 60, dtype=torch.bool), 0.25)
        assert torch.equal(chosen.flatten(1), (torch.arange(3000) < 750).expand(2, 3000))

    def test_ties_are_broken_by_position(self) -> None:
        pseudo = torch.tensor([[[False, True, True, True, True]]])
        chosen = confident_fraction(torch.full((1, 1, 5), 0.5), pseudo, 0.5)
        assert chosen.tolist() == [[[False, True, True, False, False]]]

    def test_no_pseudo_pixel(self) -> None:
        confidence, pseudo = example()
        assert not confident_fraction(confidence, torch.zeros_like(pseudo), 0.75).any()

    @pytest.mark.parametrize("fraction", [-0.1, 1.1, math.nan])
    def test_fraction_must_be_one(self, fraction: float) -> None:
        with pytest.raises(ValueError, match="fraction"):
            confident_fraction(*example(), fraction)


class TestWithinTop:
    @pytest.mark.parametrize("top", [1, 2, 5, 7])
    def test_is_membership_in_torchs_top_k(self, top: int) -> None:
        generator = torch.Generator().manual_seed(0)
        logits = torch.randn(3, 7, 4, 5, generator=generator)
        labels = torch.randint(0, 7, (3, 4, 5), generator=generator)
        passed = within_top(logits, labels, top)
        assert torch.equal(passed, (logits.topk(top, dim=1).indices == labels.unsqueeze(1)).any(dim=1))
        assert bool(passed.all()) is (top == 7)

    def test_equal_logits_share_a_rank(self) -> None:
        logits = torch.tensor([2.0, 2.0, 1.0]).view(1, 3, 1, 1)
        ranks = [
            [bool(within_top(logits, torch.full((1, 1, 1), label), top)) for top in (1, 2, 3)] for label in (0, 1, 2)
        ]
        assert ranks == [[True, True, True], [True, True, True], [False, False, True]]

    def test_bad_input_is_refused(self) -> None:
        logits, labels = torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5, dtype=torch.int64)
        for top in (0, 4):
            with pytest.raises(ValueError, match=rf"1\.\.3, got {top}"):
                within_top(logits, labels, top)
        with pytest.raises(ValueError, match="expected logits"):
            within_top(logits, labels[:1], 1)
