"""What only a GPU can show: `make test-gpu`. Losses and gradients of the CPU, resuming, memory, and no wait.

``make test-gpu ON=cpu`` runs all but what asks CUDA itself on the CPU, to try the tests without a GPU.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from sign_zs3 import Segmenter, SIGNModule, SPNetModule, UserError, ZeroShotTask
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.functional.devices import matmul_precision
from sign_zs3.functional.geometry import Axis, Cells, move_map
from tests.conftest import quiet_trainer, tiny_data
from tests.reliability.programs import ROOT, write_config
from tests.tasks.test_methods import METHODS, tiny

ON = os.environ.get("ON", "gpu")
GPUS = torch.cuda.device_count() if ON == "gpu" else 0
ITERATIONS, AGREEMENT = 100, 0.01
FOUND: dict[str, float] = {}
"""Largest relative difference of a loss, by method and phase."""

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(ON == "gpu" and GPUS == 0, reason="torch finds no CUDA device; ON=cpu tries the tests without"),
]
cuda = pytest.mark.skipif(GPUS == 0, reason="asks CUDA itself")


@pytest.fixture(autouse=True, scope="module")
def report() -> Iterator[None]:
    """Write how far the losses differ, for the documentation; only a GPU's are kept."""
    yield
    if FOUND and GPUS:
        device = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "cuda": torch.version.cuda}
        shared = {"goal": AGREEMENT, "least": False}
        figures = [{"name": f"losses, CPU to GPU: {name}", "value": value, **shared} for name, value in FOUND.items()]
        content = json.dumps({"about": device, "figures": figures}, indent=2)
        (ROOT / "benchmarks" / "gpu_agreement.json").write_text(content + "\n")


def on_gpu(root: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    return quiet_trainer(root, *callbacks, **{"accelerator": ON, "devices": 1, **options})


@pytest.fixture
def same_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw all random numbers on the CPU, so that both devices get the same."""
    randn, multinomial = torch.randn, torch.multinomial

    def drawn(*shape: Any, device: Any = None, **options: Any) -> torch.Tensor:
        return randn(*shape, **options).to(device or "cpu")

    def chosen(odds: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
        return multinomial(odds.cpu(), *args, **options).to(odds.device)

    monkeypatch.setattr(torch, "randn", drawn)
    monkeypatch.setattr(torch, "multinomial", chosen)


class Watch(pl.Callback):
    """Keep the losses of each batch, and, at the first of each phase, the gradients before each step."""

    def __init__(self) -> None:
        self.losses: dict[str, list[dict[str, float]]] = {}
        self.gradients: dict[str, torch.Tensor] = {}
        self.kind = ""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.kind = pl_module.schedule.phase.kind

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        number = trainer.optimizers.index(optimizer)
        if (key := f"{self.kind} {number}") not in self.gradients:
            gradients = [
                p.grad.flatten() for group in optimizer.param_groups for p in group["params"] if p.grad is not None
            ]
            self.gradients[key] = torch.cat(gradients).cpu()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        losses = {name: float(loss) for name, loss in pl_module.training_run.losses.items()}
        self.losses.setdefault(self.kind, []).append(losses)


@pytest.mark.usefixtures("same_noise")
@pytest.mark.parametrize("method", METHODS)
def test_losses_and_gradients_of_each_phase_are_those_of_the_cpu(method: type[ZeroShotTask], tmp_path: Path) -> None:
    lengths = dict.fromkeys(("train_iterations", "self_training_iterations"), ITERATIONS)
    if method is not SPNetModule:
        lengths |= dict.fromkeys(("generator_iterations", "transfer_iterations"), ITERATIONS)
        lengths["generator_dropout"] = 0
    found = []
    for trainer in (quiet_trainer, on_gpu):
        watch, model = Watch(), tiny(method, lr=1e-3, lr_self_training=1e-3, **lengths)
        trainer(tmp_path, watch).fit(model, tiny_data())
        found.append(watch)
    here, there = found
    assert here.gradients.keys() == there.gradients.keys()
    for key, gradient in here.gradients.items():
        if key.startswith("train"):  # the weights of later phases differ by what came before
            distance = (gradient - there.gradients[key]).norm() / gradient.norm()
            assert distance < 1e-2, f"{key}: convolutions in TF32 keep 10 bits"
    for kind, batches in here.losses.items():
        largest = 0.0
        for mine, others in zip(batches, there.losses[kind], strict=True):
            for name, value in mine.items():
                largest = max(largest, abs(value - others[name]) / max(abs(value), 1e-3))
        FOUND[f"{method.__name__}, {kind}"] = largest
        assert largest < AGREEMENT, f"{kind}: {largest}"


def test_a_stopped_run_goes_on_to_the_bit_and_deterministic_runs_repeat(tmp_path: Path) -> None:
    states = []
    for name in ("first", "second"):
        model = tiny(SIGNModule)
        on_gpu(tmp_path / name, ScheduleCheckpoint(), deterministic=True).fit(model, tiny_data())
        states.append(model.state_dict())
    for file in ("train", "transfer"):
        model = tiny(SIGNModule)
        trainer = on_gpu(tmp_path / file, ScheduleCheckpoint(), deterministic=True)
        trainer.fit(model, tiny_data(), ckpt_path=str(tmp_path / "first" / "checkpoints" / f"{file}.ckpt"))
        states.append(model.state_dict())
    torch.use_deterministic_algorithms(False)
    for state in states[1:]:
        for key, value in states[0].items():
            assert torch.equal(value, state[key]), key


class NoWait(pl.Callback):
    """Have torch refuse each operation that waits for the device, but for the first iteration of a phase."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default" if pl_module.schedule.at_phase_start else "error")

    def on_train_batch_end(self, *args: Any) -> None:
        torch.cuda.set_sync_debug_mode("default")


@cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_in_an_iteration_waits_for_the_gpu(method: type[ZeroShotTask], precision: str, tmp_path: Path) -> None:
    lengths = {"train_iterations": 4, "self_training_iterations": 4}
    if method is not SPNetModule:
        lengths |= {"generator_iterations": 4, "transfer_iterations": 4}
    try:
        model = tiny(method, **lengths)
        on_gpu(tmp_path, NoWait(), precision=precision).fit(model, tiny_data())
        assert model.schedule.done, "torch raises where an operation waits"
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("options", [
    {"channels_last": True}, {"matmul_precision": "high"}, {"clip_norm": 1.0, "max_nonfinite": 5},
    {"unit_features": False, "bandwidths": "median"}, {"encoding": "attention"},
])  # fmt: skip
def test_options_train_in_bfloat16(options: dict[str, Any], tmp_path: Path) -> None:
    model = tiny(SIGNModule, **options)
    trainer = on_gpu(tmp_path, precision="bf16-mixed")
    trainer.fit(model, tiny_data())
    trainer.test(model, tiny_data(), verbose=False)
    assert model.schedule.done
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values())
    assert math.isfinite(model.scores["pixel_accuracy"])


@cuda
@pytest.mark.parametrize("how", [True, "cudagraphs"])
def test_compiled_networks_train_alike(how: bool | str, tmp_path: Path) -> None:
    found = []
    for compiled in (False, how):
        watch, model = Watch(), tiny(SIGNModule, compile=compiled, train_iterations=6)
        torch._dynamo.utils.counters.clear()
        trainer = on_gpu(tmp_path, watch, limit_val_batches=1, val_check_interval=4)  # of another size
        trainer.fit(model, tiny_data())
        trainer.test(model, tiny_data(), verbose=False)
        assert torch._dynamo.utils.counters["inductor"]["cudagraph_skips"] == 0
        # the first batch warms up, the second is recorded, and from the third on graphs are replayed
        found.append([batch["loss_seg"] for batch in watch.losses["train"]])
        assert model.schedule.done
        assert math.isfinite(model.scores["pixel_accuracy"])
    assert found[1] == pytest.approx(found[0], rel=5e-2)


def test_labels_are_those_of_the_cpu(tmp_path: Path) -> None:
    model = tiny(SIGNModule, train_iterations=30, lr=1e-3)
    quiet_trainer(tmp_path).fit(model, tiny_data())
    model.segmenter.save_pretrained(tmp_path / "model")
    here = Segmenter.from_pretrained(tmp_path / "model")
    there = Segmenter.from_pretrained(tmp_path / "model").to("cuda" if GPUS else "cpu")
    coarse = torch.rand(1, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 255
    image = torch.nn.functional.interpolate(coarse, (120, 160), mode="bilinear")[0]
    for options in ({}, {"flip": True, "scales": [1.0, 0.5]}, {"window": 64}):
        same = here.segment(image, **options).labels == there.segment(image, **options).labels
        assert float(same.double().mean()) > 0.995


@pytest.mark.parametrize("precision", ["high", "medium"])
def test_places_are_exact_whatever_products_are_allowed(precision: str) -> None:
    maps = torch.rand(2, 3, 47, 47, generator=torch.Generator().manual_seed(0)) * 255
    cells, pixels = Cells(Axis(8), Axis(8)), Cells(Axis(1), Axis(1))
    expected = move_map(maps.double(), cells, pixels, (369, 369))
    with matmul_precision(precision):
        found = move_map(maps.to("cuda" if GPUS else "cpu"), cells, pixels, (369, 369))
    torch.testing.assert_close(found.cpu().double(), expected, rtol=1e-5, atol=1e-4)


@cuda
def test_a_full_gpu_is_told_with_batch_and_crop(tmp_path: Path) -> None:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(200e6 / torch.cuda.get_device_properties(0).total_memory)
    try:
        with pytest.raises(UserError, match=r"batch_size: found 64 crops of 256 x 256 pixels, too much for the GPU's"):
            on_gpu(tmp_path).fit(tiny(SIGNModule), tiny_data(batch_size=64, scene_size=256))
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.skipif(ON == "gpu" and GPUS < 2, reason="needs two GPUs")
def test_two_processes_train_test_and_go_on(tmp_path: Path) -> None:
    config = write_config(tmp_path, {}, accelerator=ON, devices=2, strategy="ddp")
    for extra in ([], ["--ckpt_path", "last", "--model.self_training_iterations", "3"]):
        command = [sys.executable, "-m", "sign_zs3", "fit", "--config", config, *extra]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/version_*/results.json"))]
    assert len(found) == 2
    assert found[0]["test"] == found[1]["test"], "a finished run has nothing to train"
