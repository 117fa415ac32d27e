"""The demo as a whole: `make test-slow`."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


@pytest.mark.slow
def test_demo_learns_unseen_classes_from_their_names_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "experiments"))
    controls = importlib.import_module("controls")

    demo = controls.run(tmp_path / "demo", 0)
    assert demo["test"]["seen_miou"] > 0.75
    assert demo["test"]["harmonic_miou"] > 0.6
    assert demo["unseen_share"] < 0.1

    trained = tmp_path / "demo" / "version_0" / "checkpoints" / "train.ckpt"
    wrong = controls.run(tmp_path / "wrong", 0, *controls.shuffled(trained, tmp_path / "wrong", 0))
    assert wrong["phases"]["transfer"]["unseen_miou"] < 0.1
