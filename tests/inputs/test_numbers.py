"""Numbers that no option can take are refused when the model is made, by the option's own name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from sign_zs3.errors import UserError
from sign_zs3.tasks import METHODS
from tests.conftest import quiet_trainer, tiny_data, tiny_model

NUMBERS = [
    pytest.param(method, name, id=f"{name} of {kind}")
    for kind, method in METHODS.items()
    for name, default in method.defaults().items()
    if type(default) in (int, float)
]


@pytest.mark.parametrize(("method", "name"), NUMBERS)
def test_what_is_no_finite_number_is_refused(method: Any, name: str) -> None:
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(UserError, match=rf"^{name}: found "):
            method(**{name: value})
    if type(method.defaults()[name]) is int:
        with pytest.raises(UserError, match=rf"^{name}: found 1\.5, expected a whole number"):
            method(**{name: 1.5})


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *((rate, -1e-9) for rate in ("lr", "lr_transfer", "lr_generator", "lr_discriminator", "lr_self_training")),
        *((f"{kind}_iterations", -1) for kind in ("train", "generator", "transfer", "self_training")),
        *((size, 0) for size in ("output_stride", "feature_dim", "discriminator_hidden", "spatial_heads")),
        *((weight, -1.0) for weight in ("alpha", "beta", "clip_norm")),
        *((odds, 0.0) for odds in ("temperature", "unseen_odds", "top_fraction")),
        ("generator_hidden", [64, 0]),
        ("generator_dropout", 1.0),
        ("image_mean", [0.5]),
        ("image_mean", [0.5, 0.5, math.nan]),
        ("image_std", [0.2, 0.0, 0.2]),
        ("rounds", 0),
        ("accumulate", 0),
    ],
)
def test_out_of_range(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=rf"^({option}|rounds and accumulate): found "):
        tiny_model(**{option: value})


@pytest.mark.parametrize(
    ("option", "value"),
    [("spatial_window", 1), ("spatial_width", 3), ("feature_dim", 18), ("train_size", [0, 4])],
)
def test_of_sim(option: str, value: Any, tmp_path: Any) -> None:
    model = tiny_model(**{option: value}, position="interpolated" if option == "train_size" else "relative")
    with pytest.raises(UserError, match=rf"^{option}( \(\w+\))?: found "):
        quiet_trainer(tmp_path).fit(model, tiny_data())


def test_what_is_off_or_whole_is_taken() -> None:
    for option, value in (
        ("lr", 0.0),
        ("alpha", 0),
        ("clip_norm", 1),
        ("generator_hidden", []),
        ("image_std", [1, 1, 1]),
    ):
        assert tiny_model(**{option: value}).hparams[option] == value
