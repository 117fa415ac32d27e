"""The demo as a whole: `make test-slow`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest


@pytest.mark.slow
def test_demo_learns_unseen_classes_from_their_names_alone(tmp_path: Path) -> None:
    path = Path(__file__).parents[1] / "experiments" / "controls.py"
    spec = importlib.util.spec_from_file_location("controls", path)
    assert spec is not None
    assert spec.loader is not None
    controls = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(controls)

    demo = controls.run(tmp_path / "demo", 0)
    assert demo["test"]["seen_miou"] > 0.7
    assert demo["test"]["harmonic_miou"] > 0.55
    assert demo["unseen_share"] < 0.1

    trained = tmp_path / "demo" / "version_0" / "checkpoints" / "train.ckpt"
    wrong = controls.run(tmp_path / "wrong", 0, *controls.shuffled(trained, tmp_path / "wrong", 0))
    assert wrong["phases"]["transfer"]["unseen_miou"] < 0.1
