"""The bar where it is redrawn, and where each of its states would be a line for ever."""

from __future__ import annotations

import io
from typing import Any

import pytest
from tqdm import tqdm

from sign_zs3.callbacks import ScheduleProgressBar
from sign_zs3.callbacks.progress import _fitting
from tests.conftest import Fit


@pytest.mark.parametrize("seconds", [10.0, 0.0])
def test_a_log_gets_a_line_every_ten_seconds_at_most(
    fit: Fit, seconds: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sign_zs3.callbacks.progress.LOGGED_EVERY", seconds)
    opened: list[tqdm[Any]] = []
    open_bar = ScheduleProgressBar._open

    def spy(self: ScheduleProgressBar, *args: Any, **kwargs: Any) -> tqdm[Any]:
        opened.append(open_bar(self, *args, **kwargs))
        return opened[-1]

    monkeypatch.setattr(ScheduleProgressBar, "_open", spy)
    model = fit(ScheduleProgressBar(), trainer={"enable_progress_bar": True})
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.strip()]
    assert "\r" not in error
    assert f"{model.schedule.total}/{model.schedule.total}" in lines[-1]
    assert len(opened) == 1
    # one when it opens, and one when it closes
    assert len(lines) <= 2 if seconds else len(lines) > 3


def test_a_terminal_has_one_bar_that_is_redrawn(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    fit(ScheduleProgressBar(), trainer={"enable_progress_bar": True})
    error = capsys.readouterr().err
    assert "\r" in error and error.strip("\n").count("\n") == 0


def test_losses_that_do_not_fit_are_left_out() -> None:
    parts = ["seg 1.23", "kl 0.01", "mmd 0.5"]
    assert _fitting(parts, 80) == "seg 1.23, kl 0.01, mmd 0.5"
    assert _fitting(parts, 17) == "seg 1.23, kl 0.01"
    assert _fitting(parts, 16) == _fitting(parts, 0) == "seg 1.23"


def test_a_notebook_has_a_bar_that_is_redrawn(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr("sys.stderr", stream := notebook())
    fit(ScheduleProgressBar(), trainer={"enable_progress_bar": True})
    assert "\r" in stream.getvalue()
