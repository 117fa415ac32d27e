"""Options of earlier versions: what checkpoints, configurations and results of theirs say in today's terms."""

from collections.abc import Mapping
from typing import Any

RETIRED: Mapping[str, Any] = {
    "layout": "pixel",
    "lr_power": 0.9,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "mmd_root": True,
    "freeze_batch_norm": None,
    "adversarial_weight": 1.0,
}
"""Options of a model that are gone -> the value that this version always has."""


def current_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return a model's options as this version has them: a retired option stays only where its value is another one.

    >>> current_options({"lr": 0.1, "momentum": 0.9, "layout": "region"})
    {'lr': 0.1, 'layout': 'region'}
    """
    current = dict(options)
    if current.get("adversarial_weight") == 0:
        del current["adversarial_weight"]
        current["adversarial"] = "none"
    if current.get("freeze_batch_norm") is (current.get("weights") is not None):
        del current["freeze_batch_norm"]
    return {name: value for name, value in current.items() if name not in RETIRED or value != RETIRED[name]}
