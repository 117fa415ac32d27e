"""The adversarial loss between generator and discriminator (eq. 7), on raw logits."""

from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from sign_zs3.functional.cross_entropy import at_least_float32

AdversarialMode = Literal["non_saturating", "saturating", "l1"]


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, mode: AdversarialMode = "non_saturating") -> Tensor:
    """Return what the discriminator D minimises: the negative of eq. 7, -E log D(f) - E log(1 - D(f^)).

    Args:
        real_logits: D's raw output on real features, any shape; the probability is its sigmoid.
        fake_logits: D's raw output on synthetic features.
        mode: `non_saturating` and `saturating` share eq. 7 here; `l1`: the released code's `E |1 - D(f)| + E |D(f^)|`.

    Returns:
        A float32 scalar (float64 stays); an empty side adds 0.

    Raises:
        ValueError: Unknown mode.

    >>> discriminator_loss(torch.zeros(3), torch.zeros(2))  # an undecided D: 2 log(2)
    tensor(1.3863)
    """
    return _mean_error(real_logits, mode) + _mean_error(-fake_logits, mode)


def generator_loss(fake_logits: Tensor, mode: AdversarialMode = "non_saturating") -> Tensor:
    """Return what the generator minimises: a float32 scalar (float64 stays), 0 for no logits.

    Args:
        fake_logits: D's raw output on synthetic features, any shape.
        mode: `non_saturating`: -E log D(f^), whose gradient does not vanish while D still wins; `saturating`: eq. 7 to
            the letter, E log(1 - D(f^)); `l1`: the released code's `E |1 - D(f^)|`.

    Raises:
        ValueError: Unknown mode.

    >>> generator_loss(torch.zeros(2)), generator_loss(torch.zeros(2), "saturating")  # log(2) and log(1 / 2)
    (tensor(0.6931), tensor(-0.6931))
    """
    return -_mean_error(-fake_logits, mode) if mode == "saturating" else _mean_error(fake_logits, mode)


def _mean_error(logits: Tensor, mode: str) -> Tensor:
    """Return how far D is from calling features real: -E log D, or E |1 - D| for `l1`."""
    if mode not in ("non_saturating", "saturating", "l1"):
        raise ValueError(f"unknown adversarial mode {mode!r}: expected non_saturating, saturating or l1")
    logits = at_least_float32(logits)
    errors = (-logits).sigmoid() if mode == "l1" else F.softplus(-logits)
    return errors.sum() / max(errors.numel(), 1)
