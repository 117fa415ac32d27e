"""Whole runs on the simulated device; `test_simulated.py` runs this file in a process of its own."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from sign_zs3 import Segmenter, SIGNModule, SPNetModule, UserError, ZeroShotTask, extend, load_task
from sign_zs3.callbacks import PictureLogger, ScheduleCheckpoint
from sign_zs3.commands import predict
from sign_zs3.models.export import write_program
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY
from tests.conftest import StopAt, quiet_trainer, tiny_data
from tests.device.simulated import NAME, Event, SimulatedAccelerator, SimulatedTensor, recorded, registered
from tests.tasks.test_methods import METHODS, tiny

LENGTHS = {"train_iterations": 3, "self_training_iterations": 3}
FURTHER = {"generator_iterations": 3, "transfer_iterations": 3}
WAITS = {("event", "synchronize", "tasks/updates.py settle"): 1}
"""What the host waits for in an iteration: numbers of the one before."""
SENT = {
    ("to host", "tasks/updates.py end_batch"),
    ("to device", "functional/devices.py to_device"),
}
"""What else goes between host and device, which nobody waits for; the batch itself goes before its iteration."""


@pytest.fixture(scope="session", autouse=True)
def device() -> Iterator[None]:
    with registered():
        yield


def lengths(method: type[ZeroShotTask]) -> dict[str, int]:
    return LENGTHS if method is SPNetModule else LENGTHS | FURTHER


def on_device(root: Path, *callbacks: pl.Callback, **options: Any) -> pl.Trainer:
    strategy = pl.strategies.SingleDeviceStrategy(torch.device(NAME, 0), SimulatedAccelerator())
    return quiet_trainer(root, *callbacks, strategy=strategy, accelerator="auto", inference_mode=False, **options)


def close(one: Any, other: Any) -> None:
    """Compare the weights of two models, one of which may have them on the device."""
    own, others = one.state_dict(), other.state_dict()
    assert list(own) == list(others)
    for name, value in own.items():
        torch.testing.assert_close(value.cpu(), others[name].cpu(), rtol=1e-4, atol=1e-6, msg=name)


class Waits(pl.Callback):
    """Cut what is recorded into iterations: from the start of a batch to the end of the callbacks after it."""

    def __init__(self, events: list[Event]) -> None:
        self.events = events
        self.iterations: dict[str, list[list[Event]]] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        assert {each.device.type for each in (*pl_module.parameters(), *pl_module.buffers())} == {NAME}
        self.mark, self.kind = len(self.events), pl_module.schedule.phase.kind

    def on_train_batch_end(self, *args: Any) -> None:
        self.iterations.setdefault(self.kind, []).append(self.events[self.mark :])


def test_the_device_refuses_tensors_of_the_host_and_sees_each_wait() -> None:
    there = torch.arange(6.0).view(2, 3).to(NAME)
    assert isinstance(there, SimulatedTensor)
    assert there.device.type == NAME
    with pytest.raises(RuntimeError, match=f"expected all tensors on one device, found {NAME} and cpu"):
        there + torch.ones(3)
    assert torch.equal((there + 1).cpu(), torch.arange(1.0, 7).view(2, 3)), "a number is of any device"
    for wait in (
        lambda: there.sum().item(), lambda: bool(there.any()), lambda: there.tolist(), lambda: there[there > 1],
        lambda: there.nonzero(), lambda: torch.tensor([1.0], device=NAME), lambda: there[torch.tensor([0])],
        there.cpu, lambda: torch.unique(there), lambda: torch.bincount(there.flatten().long()),
        lambda: torch.zeros(2, 3).copy_(there), lambda: there.clone().copy_(torch.zeros(2, 3)),
    ):  # fmt: skip
        with recorded() as events:
            wait()
        assert [event.waits for event in events] == [True], events
    with recorded() as events:
        torch.ones(2).to(NAME, non_blocking=True)
        (there @ there.T).softmax(dim=1).where(there[:, :2] > 1, 0.0)
    assert [(event.kind, event.waits) for event in events] == [("to device", False)]


@pytest.mark.parametrize("method", METHODS)
def test_all_phases_compute_what_the_cpu_does_and_the_host_waits_once_an_iteration(
    method: type[ZeroShotTask], tmp_path: Path
) -> None:
    options = lengths(method)
    with recorded() as events:
        waits, there = Waits(events), tiny(method, **options)
        on_device(tmp_path, waits).fit(there, tiny_data())
    kinds = ["train", "self_training"] if method is SPNetModule else ["train", "generator", "transfer", "self_training"]
    assert list(waits.iterations) == kinds
    for kind, iterations in waits.iterations.items():
        for found in iterations[1:-1]:  # the first of all has none before it, the last reads its own, too
            counted = Counter((e.kind, e.operation, e.place) for e in found if e.waits)
            assert counted == WAITS, f"{kind}: the host waits for the device in another place"
            assert {(e.kind, e.place) for e in found if not e.waits} <= SENT, kind
            values = sum(e.numbers for e in found if e.kind == "to host")
            assert values < 200, f"{kind}: more than a few numbers of each step go to the host"
    here = tiny(method, **options)
    quiet_trainer(tmp_path).fit(here, tiny_data())
    close(there, here)


@pytest.mark.parametrize("options", [
    {
        "class_balance": 1.0, "clip_norm": 0.5, "accumulate": 2,
        "bandwidths": "median", "mmd_scope": "batch", "adversarial": "l1",
    },
    {
        "self_training": "probability", "max_nonfinite": 3,
        "encoding": "attention", "position": "absolute", "head": "unet", "input_scales": [1.0, 0.5],
    },
    {
        "self_training": "top_fraction", "pseudo_top_p": 2, "pseudo_classes": "all", "joint_generator": False,
        "spatial_window": 2, "channels_last": True, "adversarial": "none", "flip": True, "scales": [1.0, 0.5],
    },
])  # fmt: skip
def test_no_option_has_the_host_wait_more_often(options: dict[str, Any], tmp_path: Path) -> None:
    with recorded() as events:
        waits, there = Waits(events), tiny(SIGNModule, **(LENGTHS | FURTHER | options))
        on_device(tmp_path, waits).fit(there, tiny_data())
    for kind, iterations in waits.iterations.items():
        for found in iterations[1:-1]:
            assert sum(event.waits for event in found) <= 1, (kind, [event for event in found if event.waits])
    here = tiny(SIGNModule, **(LENGTHS | FURTHER | options))
    quiet_trainer(tmp_path).fit(here, tiny_data())
    close(there, here)


def spoilt(model: Any, batches: set[int]) -> None:
    """Make the class-balanced cross-entropy of some batches infinite, by logits that are."""
    step = model.segmentation_step

    def segmentation_step(kind: str, batch: Any) -> Any:
        if model.schedule.batches in batches:
            with torch.no_grad():
                batch["image"] = batch["image"].float() * torch.nan
        return step(kind, batch)

    model.segmentation_step = segmentation_step


class States(pl.Callback):
    """Keep all weights and statistics after each batch."""

    def __init__(self) -> None:
        self.after: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        state = pl_module.state_dict()
        self.after.append({name: value.detach().cpu().clone() for name, value in state.items()})


@pytest.mark.parametrize("first", [0, 1])
def test_a_step_that_is_not_finite_leaves_no_trace_on_the_device(first: int, tmp_path: Path) -> None:
    options = {"phases": ["train"], "train_iterations": 4, "max_nonfinite": 9}
    found = {}
    for name, trainer in (("there", on_device), ("here", quiet_trainer)):
        states, model = States(), tiny(SIGNModule, **options)
        spoilt(model, {first})
        trainer(tmp_path, states).fit(model, tiny_data())
        found[name] = states.after, model
        if first:
            before, after = states.after[first - 1 : first + 1]
            moved = [key for key in before if not torch.equal(before[key], after[key])]
            assert not [key for key in moved if "num_batches" not in key], name
        assert model.progress.counts.nonfinite == 3, "SGD, D and G"
    for one, other in zip(found["there"][0], found["here"][0], strict=True):
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize("batch", [1, 3])
def test_a_run_that_diverged_on_the_device_ends_and_writes_no_checkpoint(batch: int, tmp_path: Path) -> None:
    model = tiny(SIGNModule, phases=["train"], train_iterations=4)
    spoilt(model, {batch})
    with pytest.raises(UserError, match=rf"phase train, iteration {batch}, segmenter: loss_seg = nan, .*diverged"):
        on_device(tmp_path, ScheduleCheckpoint()).fit(model, tiny_data())
    assert not list((tmp_path / "checkpoints").glob("train*"))


def test_a_run_resumes_on_another_device(tmp_path: Path) -> None:
    straight = tiny(SIGNModule)
    quiet_trainer(tmp_path).fit(straight, tiny_data())
    for first, second in ((quiet_trainer, on_device), (on_device, quiet_trainer)):
        folder = tmp_path / first.__name__
        begun = tiny(SIGNModule)
        first(folder, ScheduleCheckpoint()).fit(begun, tiny_data())
        files = sorted(folder.glob("checkpoints/t*.ckpt"))
        assert [file.stem for file in files] == ["train", "transfer"]
        for file in files:
            resumed = tiny(SIGNModule)
            second(folder, ScheduleCheckpoint()).fit(resumed, tiny_data(), ckpt_path=str(file))
            close(resumed, straight)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_goes_on_with_weights_that_lie_otherwise_in_memory(accumulate: int, tmp_path: Path) -> None:
    """Fused steps read what belongs to a weight in the weight's own order."""
    options = {"phases": ["train"], "train_iterations": 4, "accumulate": accumulate}
    straight = tiny(SIGNModule, **options)
    on_device(tmp_path).fit(straight, tiny_data())
    begun = tiny(SIGNModule, **options)
    on_device(tmp_path, ScheduleCheckpoint(), StopAt(3)).fit(begun, tiny_data())
    resumed = tiny(SIGNModule, channels_last=True, **options)
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    on_device(tmp_path, ScheduleCheckpoint()).fit(resumed, tiny_data(), ckpt_path=path)
    close(resumed, straight)


def test_labels_that_are_changed_on_the_device_are_those_that_count(tmp_path: Path) -> None:
    class Unlabelled(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
            if pl_module.schedule.batches % 2:
                batch["mask"].fill_(255)

    model = tiny(SIGNModule, phases=["train"], train_iterations=4)
    on_device(tmp_path, Unlabelled()).fit(model, tiny_data())
    assert model.progress.counts.skipped == 2


def test_pictures_tables_and_predictions_come_from_the_device(tmp_path: Path) -> None:
    trainer = on_device(
        tmp_path, PictureLogger(every=2), ScheduleCheckpoint(),
        logger=CSVLogger(tmp_path), limit_val_batches=1.0, num_sanity_val_steps=1, val_check_interval=2,
        check_val_every_n_epoch=None, log_every_n_steps=1,
    )  # fmt: skip
    there, data = tiny(SIGNModule), tiny_data()
    trainer.fit(there, data)
    trainer.test(there, data, verbose=False)
    found = trainer.predict(there, data)
    here = load_task(Path(str(trainer.log_dir)) / "checkpoints" / "self_training.ckpt")
    again = quiet_trainer(tmp_path)
    again.test(here, data, verbose=False)
    assert there.confusion is not None
    assert here.confusion is not None
    assert torch.equal(there.confusion, here.confusion)
    expected = again.predict(here, tiny_data())
    pairs = zip(itertools.chain(*found), itertools.chain(*expected), strict=True)  # type: ignore[misc]
    for (name, mine), (other, its) in pairs:
        assert name == other
        assert torch.equal(mine.labels, its.labels)


def test_a_cache_is_filled_and_read_on_the_device(tmp_path: Path) -> None:
    options = {"head": "fcn", "freeze_encoder": True}
    there = tiny(SIGNModule, **options, feature_cache=str(tmp_path / "there"))
    on_device(tmp_path).fit(there, tiny_data())
    here = tiny(SIGNModule, **options, feature_cache=str(tmp_path / "here"))
    quiet_trainer(tmp_path).fit(here, tiny_data())
    assert len(list(tmp_path.glob("there/*/*"))) == len(list(tmp_path.glob("here/*/*"))) > 0
    close(there, here)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Any:
    model = tiny(SIGNModule, train_iterations=8)
    quiet_trainer(tmp_path_factory.mktemp("trained")).fit(model, tiny_data())
    return model.eval()


def test_images_are_labelled_on_the_device_as_on_the_cpu(trained: Any, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    trained.segmenter.save_pretrained(tmp_path)
    here = Segmenter.from_pretrained(tmp_path)
    there = Segmenter.from_pretrained(tmp_path).to(NAME)
    for options in ({}, {"flip": True, "scales": [1.0, 0.5]}, {"window": 48, "seen_penalty": 0.1}):
        with recorded() as events:
            found = there.segment(image, confidence_map=True, **options)
        expected = here.segment(image, confidence_map=True, **options)
        assert torch.equal(found.labels, expected.labels)
        assert found.confidence_map is not None
        assert found.confidence_map.device.type == "cpu"
        assert sum(event.waits for event in events) > 0, "an image goes there, and its labels come back"
    assert predict._device(NAME).type == NAME


def test_a_model_on_the_device_learns_classes_and_is_exported(trained: Any, tmp_path: Path) -> None:
    there = copy.deepcopy(trained).to(NAME)
    made = [extend(model, ["brown disc"], data=tiny_data()) for model in (trained, there)]
    close(*made)
    assert made[1].device.type == "cpu", "a new model is on the CPU"
    assert write_program(there.segmenter, tmp_path / "model.pt2") == pytest.approx(1, abs=1e-3)


def test_a_checkpoint_of_the_device_is_read_without_it(tmp_path: Path) -> None:
    model = tiny(SIGNModule)
    on_device(tmp_path, ScheduleCheckpoint()).fit(model, tiny_data())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        content = torch.load(tmp_path / "checkpoints" / "self_training.ckpt", map_location="cpu", weights_only=True)
    assert content[CHECKPOINT_KEY]["version"]
    assert all(type(value) is torch.Tensor for value in content["state_dict"].values())
