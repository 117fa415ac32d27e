"""Options of earlier versions, in today's terms."""

from __future__ import annotations

from typing import Any

import pytest

from sign_zs3.compat import RETIRED, current_options


def test_retired_options_go_where_they_had_the_value_that_all_have_now() -> None:
    assert current_options({"lr": 0.1, **RETIRED}) == {"lr": 0.1}
    assert current_options({"momentum": 0.5, "layout": "region"}) == {"momentum": 0.5, "layout": "region"}


@pytest.mark.parametrize(
    ("given", "today"),
    [
        ({"adversarial_weight": 0}, {"adversarial": "none"}),
        ({"adversarial_weight": 0, "adversarial": "l1"}, {"adversarial": "none"}),
        ({"adversarial_weight": 0.5}, {"adversarial_weight": 0.5}),
        # batch norm was frozen as it is now: where there are pretrained weights
        ({"freeze_batch_norm": True, "weights": "lite"}, {"weights": "lite"}),
        ({"freeze_batch_norm": False, "weights": None}, {"weights": None}),
        ({"freeze_batch_norm": True, "weights": None}, {"freeze_batch_norm": True, "weights": None}),
    ],
)
def test_what_others_are_called_now(given: dict[str, Any], today: dict[str, Any]) -> None:
    assert current_options(given) == today
