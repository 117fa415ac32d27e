"""Options of Lightning's Trainer that would half work are refused before any training, with our own ones named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl

from sign_zs3.errors import UserError
from tests.conftest import quiet_trainer, tiny_data, tiny_model

REFUSED: dict[str, tuple[Any, str]] = {
    "accumulate_grad_batches": (4, "use model.accumulate"),
    "gradient_clip_val": (0.5, "use model.clip_norm"),
    "max_steps": (100, "set model.train_iterations"),
    "overfit_batches": (2, "give a data set of few images"),
}


@pytest.mark.parametrize("option", REFUSED)
def test_refused_with_what_to_use_instead(option: str, tmp_path: Path) -> None:
    value, advice = REFUSED[option]
    with pytest.raises(UserError, match=rf"^trainer\.{option}: found {value}, .*: {advice}") as caught:
        quiet_trainer(tmp_path, **{option: value}).fit(tiny_model(), tiny_data())
    assert "\n" not in str(caught.value)


def test_barebones_is_refused() -> None:
    with pytest.raises(UserError, match=r"^trainer\.barebones: found True"):
        pl.Trainer(barebones=True, max_epochs=-1, accelerator="cpu").fit(tiny_model(), tiny_data())


@pytest.mark.parametrize("option", [{"overfit_batches": 0.0}, {"gradient_clip_val": 0}, {"max_steps": -1}, {}])
def test_what_is_off_is_not_refused(option: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(phases=["train"])
    quiet_trainer(tmp_path, **option).fit(model, tiny_data())
    assert model.schedule.done


def test_a_test_minds_none_of_them(tmp_path: Path) -> None:
    model = tiny_model(phases=["train"])
    quiet_trainer(tmp_path).fit(model, tiny_data())
    quiet_trainer(tmp_path, max_steps=100).test(model, tiny_data())
