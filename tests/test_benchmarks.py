"""That the benchmarks still run: what they measure is not looked at here."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from benchmarks import device, estimate, gpu, step
from docs import tables

from sign_zs3.files import read_yaml

BENCHMARKS = Path(gpu.__file__).parent


# as `step.quiet` does: what Lightning says of a loader that has no validation
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["plain", "train", "generator", "self_training", "transfer"])
def test_an_iteration_can_be_measured(kind: str) -> None:
    options = step.parser().parse_args(["--backbone", "resnet18", "--crop", "33", "--iterations", "2"])
    assert len(step.run(kind, options)) == 2


@functools.cache
def in_this_process(module: str, *arguments: str) -> dict[str, Any]:
    return {"step": step, "device": device}[module].one(arguments)  # type: ignore[no-any-return]


def not_compiled(module: str, *arguments: str) -> dict[str, Any]:
    return in_this_process(module, *(word for word in arguments if not word.startswith("--compile")))


def options_of(*words: str) -> Any:
    return gpu.parser().parse_args(words)


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which finds the GPU at work for 90 % of the time."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 90\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{Path('/bin')}:{Path('/usr/bin')}")
    return program


@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_all_figures_of_a_gpu_are_measured_in_small(tmp_path: Path, nvidia_smi: Path) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.measure(options_of("--device=cpu", "--tiny", f"--store={path}"), not_compiled) == 0
    stored = json.loads(path.read_text(encoding="utf-8"))
    assert (stored["about"]["device"], stored["about"]["size"]["backbone"]) == ("cpu", "resnet18")
    wanted = [(row.name, row.goal, row.least) for row in gpu.rows() if not row.counted]
    assert [(figure["name"], figure["goal"], figure["least"]) for figure in stored["figures"]] == wanted
    values = {figure["name"]: figure["value"] for figure in stored["figures"]}
    assert all(isinstance(value, float) and value >= 0 for value in values.values())
    assert values[gpu.BUSY] == pytest.approx(0.9)
    assert [values[gpu.losses_name(kind)] for kind in gpu.PHASES] == [0] * 4, "the same device twice"
    with pytest.raises(ValueError, match=r"gpu\.json: found a run of \{'device': 'cpu', .*run make bench-gpu on a GPU"):
        tables.devices_table(tmp_path)


def test_the_goals_of_a_gpu() -> None:
    goals = {row.name: row.goal for row in gpu.rows() if row.goal is not None}
    for way in ("", ", compiled"):
        assert (goals[gpu.ratio_name("train", way)], goals[gpu.ratio_name("transfer", way)]) == (1.30, 0.40)
    assert (goals[gpu.INFERENCE], goals[gpu.BUSY], goals[gpu.OFF]) == (1.25, 0.85, 0.10)
    assert {goals[gpu.losses_name(kind)] for kind in gpu.PHASES} == {0.01}
    assert [row.name for row in gpu.rows() if row.least] == [gpu.BUSY]
    assert (device.FULL.crop, device.FULL.batch, device.FULL.busy, device.FULL.workers, device.FULL.compared) == (
        369,
        8,
        200,
        8,
        100,
    )


def test_it_measures_what_the_preset_for_gpus_chooses() -> None:
    preset = read_yaml(tables.EXPERIMENTS / "parts" / "gpu.yaml", "a preset")
    options = step.parser().parse_args(gpu.WAYS[""])
    assert options.precision == preset["trainer"]["precision"]
    assert {name: getattr(options, name) for name in preset["model"]} == preset["model"]


def test_what_fails_is_left_out_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(module: str, *arguments: str) -> dict[str, Any]:
        if module == "step" and "--matmul_precision=high" in arguments and "--precision=bf16-mixed" not in arguments:
            raise RuntimeError("python -m benchmarks.step: Traceback\nOutOfMemoryError: CUDA out of memory")
        if module == "step" and arguments[1] == "plain" and "--precision=bf16-mixed" not in arguments:
            raise AssertionError("plain is compared in bf16 alone")
        if arguments[0] == "busy":
            raise FileNotFoundError("No such file or directory: 'nvidia-smi'")
        seconds = {"plain": 1.0, "train": 1.25}.get(arguments[1], 0.5)
        losses = [{"train/loss": 1.0}]
        return {"seconds": [seconds], "peak": 8e9, "ratio": 1.2, "losses": losses, "name": "any", "device": "cuda"}

    path = tmp_path / "gpu.json"
    # what is said to be a GPU is never asked
    assert gpu.measure(options_of("--device=cpu", f"--store={path}"), run) == device.FULL.rounds + 1
    out = capsys.readouterr().out
    assert "not measured, train, TF32: OutOfMemoryError: CUDA out of memory" in out
    assert "not measured, busy: No such file or directory: 'nvidia-smi'" in out
    values = {figure["name"]: figure["value"] for figure in json.loads(path.read_text(encoding="utf-8"))["figures"]}
    assert values[gpu.ratio_name("train", ", compiled")] == 1.25
    assert values[gpu.images_name("")] == 8 / 1.25
    assert not {gpu.BUSY, "TF32 / float32, train iteration"} & set(values)
    assert values[gpu.OFF] == pytest.approx(abs(8 / gpu.paper()[gpu.MEMORY] - 1))


def test_without_a_gpu_it_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as end:
        gpu.measure(options_of())
    # a string as the code: Python prints it and exits with 1
    assert isinstance(end.value.code, str)
    assert end.value.code.startswith("bench-gpu: found no GPU that torch ")
    assert "expected one of NVIDIA's " in end.value.code
    assert end.value.code.endswith("run make bench-gpu on a machine that has one; make bench needs none")
    assert "\n" not in end.value.code


def test_losses_apart() -> None:
    ours, others = [{"a": 1.0, "b": 0.0}, {"a": 3.1, "b": 0.0}], [{"a": 1.0, "b": 0.0}, {"a": 3.0, "b": 0.0}]
    assert gpu.apart(ours, others) == pytest.approx(0.1 / 4)
    with pytest.raises(ValueError, match="b: found a loss that is no finite number"):
        gpu.apart([{"b": float("nan")}], [{"b": 1.0}])


def test_figures_on_paper_are_those_of_the_counts() -> None:
    paper, here = gpu.paper(), estimate.cost(20)
    assert paper[gpu.ratio_name("train", "")] == pytest.approx(here.train / here.plain)
    assert paper[gpu.ratio_name("transfer", "")] == pytest.approx(here.transfer / here.plain)
    fewest, most = (paper[name] for name in gpu.OPERATIONS.values())
    assert fewest < estimate.cost(20, "4").train / here.train < most


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """A folder of benchmarks with what is stored of processor and paper, and figures said to be of a GPU."""

    def make(**about: Any) -> Path:
        for name in ("baseline.json", "paper.json"):
            shutil.copy(BENCHMARKS / name, tmp_path)
        if about:
            figures = [{"name": gpu.ratio_name("train", ""), "value": 1.234, "goal": 1.3, "least": False}]
            content = {"about": about, "figures": figures}
            (tmp_path / "gpu.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path

    return make


def test_without_figures_of_a_gpu_its_column_is_open(folder: Callable[..., Path]) -> None:
    head, _, *lines = tables.devices_table(folder()).splitlines()
    assert head == "| figure | processor | GPU, measured: `make bench-gpu` | GPU, on paper | goal on a GPU |"
    assert [line.split(" | ")[2] for line in lines] == ["" if row.counted else "not measured" for row in gpu.rows()]
    assert lines[0] == "| train / plain iteration | 1.15 (resnet101, crop 321) | not measured | 1.22 | at most 1.3 |"


def test_figures_of_a_gpu_fill_its_column_alone(folder: Callable[..., Path]) -> None:
    full = {"backbone": "resnet101", "crop": 369, "batch": 8}
    of_gpu = {"device": "cuda", "name": "a GPU", "driver": "1.2", "torch": "2.14", "size": full}
    head, _, *lines = tables.devices_table(folder(**of_gpu)).splitlines()
    assert " | GPU, measured: a GPU, driver 1.2, torch 2.14 | " in head
    assert lines[0] == "| train / plain iteration | 1.15 (resnet101, crop 321) | 1.23 | 1.22 | at most 1.3 |"
    assert lines[1].split(" | ")[2] == "not measured"
    for wrong in ({"device": "cpu"}, {"size": {**full, "batch": 2}}):
        with pytest.raises(ValueError, match=r"expected \{'device': 'cuda', 'backbone': 'resnet101'"):
            tables.devices_table(folder(**{**of_gpu, **wrong}))
