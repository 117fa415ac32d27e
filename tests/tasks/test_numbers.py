"""Losses and gradients that are not finite: named, and either the end or left out up to a count."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from sign_zs3 import SIGNModule
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.embeddings import ClassTable
from sign_zs3.errors import UserError
from sign_zs3.tasks import steps
from tests.conftest import Fit, tiny_data

OPTIMISER = {"encoder": "segmenter", "generator": "generator", "discriminator": "discriminator"}


class PoisonGradient(pl.Callback):
    """Spoil the gradient of a part's first parameter in some iterations, and note its weights before the first."""

    def __init__(self, part: str, value: float, *iterations: int) -> None:
        self.part, self.value, self.iterations = part, value, iterations

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SIGNModule)
        part = pl_module.parts()[self.part]
        self.weights = list(part.parameters())
        self.before = [parameter.detach().clone() for parameter in self.weights]
        self.name = next(n for n, p in pl_module.named_parameters() if p is self.weights[0])

        def spoil(gradient: Tensor) -> Tensor:
            return gradient + self.value if pl_module.schedule.iteration in self.iterations else gradient

        self.weights[0].register_hook(spoil)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("part", ["encoder", "generator", "discriminator"])
def test_a_gradient_that_is_not_finite_is_named_and_changes_no_weight(fit: Fit, part: str, value: float) -> None:
    poison = PoisonGradient(part, value, 0)
    with pytest.raises(UserError) as stopped:
        fit(poison)
    where = f"phase train, iteration 0, {OPTIMISER[part]}: the gradient of {poison.name}"
    assert str(stopped.value).startswith(where) and "training diverged" in str(stopped.value)
    assert all(torch.equal(p, q) for p, q in zip(poison.weights, poison.before, strict=True))


LOSSES = {
    "loss_seg": ("train", "segmenter", "pixel_cross_entropy"),
    "loss_kl": ("train", "segmenter", "gaussian_kl"),
    "loss_mmd": ("generator", "generator", "class_mmd"),
    "loss_adv_g": ("generator", "generator", "generator_loss"),
    "loss_adv_d": ("generator", "discriminator", "discriminator_loss"),
    "loss_synthetic": ("transfer", "segmenter", "synthetic_features"),
    "loss_pseudo": ("self_training", "segmenter", "annealed_weights"),
}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_that_is_not_finite_is_named_in_every_step(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, loss: str, value: float
) -> None:
    phase, optimiser, function = LOSSES[loss]
    true = getattr(steps, function)
    monkeypatch.setattr(steps, function, lambda *args, **kwargs: true(*args, **kwargs) * value)
    with pytest.raises(UserError, match=rf"phase {phase}, iteration 0, {optimiser}: .*{loss} = (nan|inf)"):
        fit(joint_generator=False)


def test_a_diverging_run_leaves_the_checkpoint_before_it(fit: Fit, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"phase train, iteration \d+, segmenter: .*loss_\w+ = (nan|inf).*diverged"):
        fit(ScheduleCheckpoint(every=1), lr=1e18, train_iterations=20)
    kept = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(bool(v.isfinite().all()) for v in kept["state_dict"].values())


@pytest.mark.parametrize("part", ["encoder", "generator", "discriminator"])
def test_steps_are_left_out_up_to_a_count(fit: Fit, part: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "sign_zs3"):
        model = fit(PoisonGradient(part, math.nan, 0, 2), max_nonfinite=2)
    assert model.schedule.done and model.progress.counts.nonfinite == 2
    assert all(bool(v.isfinite().all()) for v in model.state_dict().values())
    told = [r.getMessage() for r in caplog.records if "is left out" in r.getMessage()]
    assert [m.split(", ")[1] for m in told] == ["iteration 0", "iteration 2"]
    assert told[1].endswith("this step is left out (2 of 2)")
    with pytest.raises(UserError, match=r"diverged \(1 such steps were left out before\)"):
        fit(PoisonGradient(part, math.nan, 0, 2), max_nonfinite=1)


def test_a_step_left_out_is_a_step_not_taken(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    """Poisoned in every iteration of the training step, encoder, spatial module and C are as without that step."""
    model = fit(PoisonGradient("encoder", math.nan, 0, 1, 2), max_nonfinite=3, phases=["train"])
    monkeypatch.setattr("sign_zs3.tasks.updates.WEIGHT_DECAY", 0.0)
    untouched = fit(lr=0.0, phases=["train"])
    for name in ("encoder", "spatial", "classifier"):
        pairs = zip(model.parts()[name].parameters(), untouched.parts()[name].parameters(), strict=True)
        assert all(torch.equal(p, q) for p, q in pairs), name


class PoisonForward(pl.Callback):
    """Make the feature maps of one batch infinite before batch norm sees them."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SIGNModule)
        schedule = pl_module.schedule
        first = next(m for m in pl_module.modules() if isinstance(m, torch.nn.Conv2d))

        def spoil(module: Any, inputs: Any, output: Tensor) -> Tensor:
            return output * math.inf if schedule.iteration == 1 and module.training else output

        first.register_forward_hook(spoil)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_batch_norm_forgets_a_batch_that_is_left_out(fit: Fit, accumulate: int) -> None:
    model = fit(PoisonForward(), max_nonfinite=9, phases=["train"], accumulate=accumulate)
    assert model.progress.counts.nonfinite > 0
    assert all(bool(v.isfinite().all()) for v in model.state_dict().values())


def test_the_count_is_in_the_checkpoint(fit: Fit, tmp_path: Path) -> None:
    fit(PoisonGradient("encoder", math.nan, 1), ScheduleCheckpoint(), max_nonfinite=2, phases=["train"])
    path = str(tmp_path / "checkpoints" / "train.ckpt")
    assert fit(ScheduleCheckpoint(), ckpt_path=path, max_nonfinite=2, phases=["train"]).progress.counts.nonfinite == 1


def table(tmp_path: Path, change: Any) -> str:
    data = tiny_data()
    names = data.protocol.classes
    matrix = np.random.default_rng(0).normal(size=(len(names), 8)).astype(np.float32)
    change(matrix)
    ClassTable(names, {"made": matrix}).save(tmp_path / "t.npz")
    return str(tmp_path / "t.npz")


class TestExtremeVectors:
    """What the class vectors may be; see `docs/reliability.md`."""

    def test_zero_is_refused(self, fit: Fit, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=rf"zero vector for '{tiny_data().protocol.classes[3]}'"):
            fit(vectors=table(tmp_path, lambda m: m[3].fill(0)))

    @pytest.mark.parametrize("value", [math.nan, math.inf, 1e39])
    def test_values_beyond_float32_are_refused(self, tmp_path: Path, value: float) -> None:
        matrix: Any = np.ones((2, 3))
        matrix[1, 2] = value
        with pytest.raises(UserError, match="NaN or infinite values in the rows of 'b'"):
            ClassTable(("a", "b"), {"made": matrix})

    @pytest.mark.parametrize("scale", [1e37, 1e-30])
    def test_length_does_not_matter(self, fit: Fit, tmp_path: Path, scale: float) -> None:
        def stretch(matrix: Any) -> None:
            matrix[3] *= scale

        plain = fit(vectors=table(tmp_path, lambda m: None)).class_vectors
        model = fit(vectors=table(tmp_path, stretch))
        torch.testing.assert_close(model.class_vectors, plain)
        assert model.schedule.done and model.progress.counts.nonfinite == 0

    def test_equal_ones_are_named(self, fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        def copy(matrix: Any) -> None:
            matrix[5] = 2 * matrix[3]

        with caplog.at_level(logging.WARNING, "sign_zs3"):
            assert fit(vectors=table(tmp_path, copy)).schedule.done
        classes = tiny_data().protocol.classes
        assert [r.getMessage() for r in caplog.records if "same class vector" in r.getMessage()] == [
            f"class vectors: '{classes[3]}' and '{classes[5]}' have the same class vector, so that nothing tells them "
            "apart but masks of both: give other names or another table"
        ]
