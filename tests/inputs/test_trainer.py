"""Each option and callback of Lightning's Trainer works, or is refused in one line; docs/trainer.md says which."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from lightning_fabric.plugins import TorchCheckpointIO
from pytorch_lightning.callbacks import Timer

from sign_zs3 import load_task
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.commands.trainer import prepare
from sign_zs3.errors import UserError
from sign_zs3.tasks.trainer import check_processes
from tests.conftest import TINY, quiet_trainer, tiny_data, tiny_model

pytestmark = pytest.mark.usefixtures("no_panel")

PAGE = Path(__file__).parents[2] / "docs" / "trainer.md"
SMALL = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}
SCHEDULE = "the schedule decides what is read: set model.train_iterations"

REFUSED: dict[str, tuple[Any, str]] = {
    "fast_dev_run": (True, "set the phases' lengths"),
    "max_epochs": (1, SCHEDULE),
    "min_epochs": (2, SCHEDULE),
    "max_steps": (100, SCHEDULE),
    "min_steps": (5, SCHEDULE),
    "limit_train_batches": (1, SCHEDULE),
    "overfit_batches": (2, "give a data set of few images"),
    "accumulate_grad_batches": (4, "use model.accumulate"),
    "gradient_clip_val": (0.5, "use model.clip_norm"),
    "gradient_clip_algorithm": ("value", "use model.clip_norm"),
    "reload_dataloaders_every_n_epochs": (1, "there is one epoch"),
    "enable_checkpointing": (False, "the table is that of the phases' checkpoints"),
    "barebones": (True, "without checkpoints there is nothing to report"),
}
WORKS: dict[str, Any] = {
    "accelerator": "auto",
    "strategy": {"class_path": "DDPStrategy", "init_args": {"process_group_backend": "gloo"}},
    "devices": 1,
    "num_nodes": 1,
    "precision": "64-true",
    "logger": False,  # a folder is needed either way
    "callbacks": {"class_path": "LearningRateMonitor"},
    "max_time": "00:01:00:00",
    "limit_val_batches": 1,
    "limit_test_batches": 1,
    "limit_predict_batches": 1,
    "val_check_interval": 2,
    "check_val_every_n_epoch": 1,
    "num_sanity_val_steps": 1,
    "log_every_n_steps": 1,
    "enable_progress_bar": False,
    "enable_model_summary": True,
    "deterministic": "warn",
    "benchmark": True,
    "inference_mode": False,
    "use_distributed_sampler": False,
    "profiler": "simple",
    "detect_anomaly": True,
    "plugins": {"class_path": "pytorch_lightning.plugins.io.TorchCheckpointIO"},
    "sync_batchnorm": False,
    "default_root_dir": "elsewhere",
    "enable_autolog_hparams": False,
    "model_registry": "name",
}
CALLBACKS: dict[str, dict[str, Any]] = {
    "ModelCheckpoint": {"every_n_train_steps": 1, "filename": "own"},
    "LearningRateMonitor": {},
    "ThroughputMonitor": {"batch_size_fn": "tests.inputs.test_trainer.images_of"},
    "OnExceptionCheckpoint": {"dirpath": "saved"},
    "LambdaCallback": {},
    "ModelSummary": {},
    "RichModelSummary": {},
    "RichProgressBar": {},
    "TQDMProgressBar": {"refresh_rate": 5},
}
REFUSED_CALLBACKS: dict[str, tuple[dict[str, Any], str]] = {
    "EarlyStopping": ({"monitor": "val/seen_miou"}, "it would end the run before its later phases"),
    "GradientAccumulationScheduler": ({"scheduling": {0: 2}}, "use model.accumulate"),
    "BatchSizeFinder": ({}, "set data.batch_size"),
    "LearningRateFinder": ({}, "set model.lr"),
    "SpikeDetection": ({}, "see model.max_nonfinite"),
    "WeightAveraging": ({}, "saved as they are"),
    "EMAWeightAveraging": ({}, "saved as they are"),
    "StochasticWeightAveraging": ({"swa_lrs": 0.1}, "saved as they are"),
    "ModelPruning": ({"pruning_fn": "l1_unstructured"}, "weights are changed by the phases alone"),
    "BackboneFinetuning": ({}, "weights are changed by the phases alone"),
}


def own_checkpoint(**options: Any) -> dict[str, Any]:
    return {"callbacks": {"class_path": "ModelCheckpoint", "init_args": options}}


def images_of(batch: dict[str, Any]) -> int:
    return len(batch["mask"])


def rows(table: int) -> dict[str, str]:
    """What one of the page's tables says of each name."""
    tables = re.split(r"\n\| \w+ \| Here \|\n\|---\|---\|\n", PAGE.read_text(encoding="utf-8"))
    return dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", tables[table], re.MULTILINE))


@pytest.fixture(autouse=True)
def settings_put_back() -> Iterator[None]:
    """What Lightning sets for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = torch.backends.cudnn.deterministic = False
    torch.set_default_dtype(torch.float32)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@pytest.fixture
def fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``fit`` in an empty folder with options of the trainer; return its status, and what it says as errors.

    The training step alone, unless `phases` says otherwise.
    """
    monkeypatch.chdir(tmp_path)

    def run(phases: list[str] | None = None, **options: Any) -> tuple[int, list[str]]:
        model = {"phases": phases or ["train"]}
        trainer = {"accelerator": "cpu", "devices": 1, "limit_val_batches": 0, **options}
        data = {"class_path": "ShapesDataModule", "init_args": SMALL}
        (tmp_path / "run.yaml").write_text(yaml.safe_dump({"trainer": trainer, "data": data, "model": TINY | model}))
        status = main(["fit", "--config", "run.yaml"])
        return status, [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]

    return run


# -- the page --------------------------------------------------------------------------------------------------------


def test_the_page_tells_of_each_option() -> None:
    page, options = rows(1), list(inspect.signature(pl.Trainer.__init__).parameters)[1:]
    assert set(page) == {*REFUSED, *WORKS}
    assert set(options) <= set(page)
    assert {name for name, what in page.items() if what.startswith("refused")} == set(REFUSED)


def test_the_page_tells_of_each_callback() -> None:
    page = rows(2)
    known = {name for name in pl.callbacks.__all__ if name in page or name not in ("Callback", "Checkpoint")}
    assert known - set(page) <= {"ProgressBar", "BasePredictionWriter"}  # to derive from
    assert {name for name, what in page.items() if what.startswith("refused")} - {"BaseFinetuning"} == set(
        REFUSED_CALLBACKS
    )
    assert set(page) - {*REFUSED_CALLBACKS} == {*CALLBACKS, "BaseFinetuning", "DeviceStatsMonitor", "Timer"}


# -- options ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", REFUSED)
def test_an_option_that_does_not_serve_is_refused(option: str, fit: Any, tmp_path: Path) -> None:
    value, instead = REFUSED[option]
    status, errors = fit(**{option: value})
    assert status == 1
    assert len(errors) == 1 and errors[0].startswith(f"error: trainer.{option}: found {value}, ")
    assert instead in errors[0]
    assert not list(tmp_path.glob("**/*.ckpt"))


@pytest.mark.parametrize("option", sorted(set(REFUSED) - {"enable_checkpointing", "barebones"}))
def test_a_trainer_in_python_is_refused_the_same(option: str, tmp_path: Path) -> None:
    value, instead = REFUSED[option]
    with pytest.raises(UserError, match=rf"^trainer\.{option}: found {value}, .*: {instead}"):
        quiet_trainer(tmp_path, **{option: value}).fit(tiny_model(), tiny_data())


def test_barebones_in_python_is_refused() -> None:
    with pytest.raises(UserError, match=r"^trainer\.barebones: found True"):
        pl.Trainer(barebones=True, max_epochs=-1, accelerator="cpu").fit(tiny_model(), tiny_data())


@pytest.mark.filterwarnings("ignore::UserWarning")  # what Lightning advises on loggers, samplers and speed
@pytest.mark.parametrize("option", WORKS)
def test_an_option_that_works_ends_in_a_table(option: str, fit: Any, tmp_path: Path) -> None:
    assert fit(**{option: WORKS[option]}) == (0, [])
    root = tmp_path / ("elsewhere" if option == "default_root_dir" else "runs")
    assert (root / "version_0" / "results.json").is_file()
    assert (root / "version_0" / "checkpoints" / "train.ckpt").is_file()


@pytest.mark.parametrize(
    "option", [{"overfit_batches": 0.0}, {"gradient_clip_val": 0}, {"max_steps": -1}, {"min_epochs": 1}, {}]
)
def test_what_is_off_is_not_refused(option: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_model(phases=["train"])
    quiet_trainer(tmp_path, **option).fit(model, tiny_data())
    assert model.schedule.done


def test_a_trainer_of_lightnings_own_defaults_ends_the_schedule(tmp_path: Path) -> None:
    model = tiny_model(phases=["train"])
    with pytest.warns(UserWarning, match="max_epochs"):
        quiet_trainer(tmp_path, max_epochs=None).fit(model, tiny_data())
    assert model.schedule.done


def test_a_test_minds_none_of_them(tmp_path: Path) -> None:
    model = tiny_model(phases=["train"])
    quiet_trainer(tmp_path).fit(model, tiny_data())
    quiet_trainer(tmp_path, max_steps=100).test(model, tiny_data())
    assert model.scores["per_class"]


# -- values of options that do not serve -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        # Lightning would take bfloat16 instead, with a warning
        ({"precision": "16-mixed"}, "precision: found 16-mixed, expected 32-true or bf16-mixed"),
        ({"precision": 16}, "precision: found 16, expected 32-true or bf16-mixed"),
        ({"precision": "bf16-true"}, "precision: found bf16-true, expected 32-true or bf16-mixed"),
        ({"accelerator": "mps"}, "trainer.accelerator: found mps, but torch finds none on this machine"),
        ({"accelerator": "abacus"}, "trainer.accelerator: found abacus, expected auto, cpu, gpu, cuda or mps"),
        ({"accelerator": "tpu"}, "trainer.accelerator: found tpu, expected auto, cpu, gpu, cuda or mps"),
        ({"devices": 0}, "trainer: `Trainer(devices=0)` value is not a valid input"),
        ({"strategy": "ddp_spawn"}, "strategy: found DDPStrategy with the start method spawn"),
        ({"limit_test_batches": 0}, "trainer.limit_test_batches: found 0, but the table is that of the test images"),
        ({"check_val_every_n_epoch": 2}, "trainer.check_val_every_n_epoch: found 2, which does not serve"),
        (
            {"limit_test_batches": 0.001},
            "trainer.limit_test_batches: found 0.001 of 2 batches, which is none: raise it",
        ),
        ({"limit_val_batches": 0.4}, "trainer.limit_val_batches: found 0.4 of 2 batches, which is none: raise it"),
        ({"strategy": "fsdp"}, "strategy: found fsdp, which cuts weights in parts"),
        ({"strategy": "deepspeed_stage_2"}, "strategy: found deepspeed_stage_2, which cuts weights in parts"),
        ({"max_time": "00:00:00:00"}, "trainer.max_time: found no time at all, expected DD:HH:MM:SS above 0"),
        ({"log_every_n_steps": -1}, "trainer.log_every_n_steps: found -1, expected at least 0"),
        ({"num_sanity_val_steps": -5}, "trainer.num_sanity_val_steps: found -5, expected at least -1"),
        ({"default_root_dir": "run.yaml"}, "run.yaml: cannot be written (File exists); make room, or name another"),
        ({"default_root_dir": "run.yaml/a"}, "run.yaml/a: cannot be written (Not a directory); make room, or name"),
        (own_checkpoint(), "trainer.callbacks: found ModelCheckpoint, which would save nothing since it saves after"),
        (own_checkpoint(monitor="val/seen_miou"), "trainer.callbacks: found ModelCheckpoint, which would save nothing"),
        (
            {**own_checkpoint(every_n_epochs=2), "limit_val_batches": 1},
            "trainer.callbacks: found ModelCheckpoint, which would save nothing where there is one epoch",
        ),
        (own_checkpoint(save_top_k=2), "ModelCheckpoint(save_top_k=2, monitor=None) is not a valid configuration"),
        (own_checkpoint(mode="big"), "ModelCheckpoint: `mode` can be"),
        (
            {**own_checkpoint(monitor="val/best"), "limit_val_batches": 1, "val_check_interval": 2},
            "trainer: `ModelCheckpoint(monitor='val/best')` could not find the monitored key",
        ),
        ({"val_check_interval": 0}, "trainer.val_check_interval: found 0, expected more"),
        ({"val_check_interval": 0.5}, "trainer: `val_check_interval` should be an integer"),
        ({"limit_train_batches": 0.5}, "trainer.limit_train_batches: found 0.5, which does not serve"),
        ({"sync_batchnorm": True, "strategy": "ddp"}, "sync_batchnorm: found true on the CPU"),
        ({"profiler": "stopwatch"}, "trainer: When passing string value for the `profiler`"),
        (
            {"callbacks": {"class_path": "Timer", "init_args": {"duration": "00:00:01:00"}}},
            "trainer.callbacks: found Timer, which cannot be written to config.yaml: use max_time",
        ),
    ],
)
def test_a_value_that_does_not_serve_is_one_line(options: dict[str, Any], message: str, fit: Any) -> None:
    if options.get("accelerator") == "mps" and torch.backends.mps.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    status, errors = fit(**options)
    assert status == 1
    assert len(errors) == 1 and errors[0].startswith(f"error: {message}")
    assert "--debug" not in errors[0]


def test_a_negative_interval_between_checkpoints() -> None:
    with pytest.raises(UserError, match=r"^checkpoint.every: found -1, expected at least 0"):
        ScheduleCheckpoint(every=-1)


@pytest.mark.parametrize(
    "options",
    [{"save_last": True}, {"save_on_exception": True}, {"save_on_train_epoch_end": True}, {"every_n_train_steps": 1}],
    ids=str,
)
def test_own_checkpoints_without_validation(options: dict[str, Any], fit: Any, tmp_path: Path) -> None:
    assert fit(**own_checkpoint(dirpath="own", **options)) == (0, [])
    assert bool(list((tmp_path / "own").glob("*.ckpt"))) == ("save_on_exception" not in options)


def test_own_checkpoints_at_the_end_of_the_epoch(fit: Any, tmp_path: Path) -> None:
    assert fit(**own_checkpoint(dirpath="own"), check_val_every_n_epoch=1) == (0, [])
    assert list((tmp_path / "own").glob("*.ckpt"))


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_matters_to_trainings_alone_is_taken_elsewhere(
    fit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert fit() == (0, [])
    command = ["--config", "run.yaml", "--ckpt_path", "runs/version_0/checkpoints/train.ckpt"]
    options = ["--trainer.callbacks", "ModelCheckpoint", "--trainer.enable_progress_bar", "false"]
    assert main(["test", *command, *options]) == 0
    limits = ["--trainer.limit_test_batches", "0", "--trainer.limit_val_batches", "1.0"]
    assert main(["validate", *command, *options, *limits]) == 0
    for verb, name in (("test", "limit_test_batches"), ("validate", "limit_val_batches")):
        assert main([verb, *command, f"--trainer.{name}", "0"]) == 1
        assert f"trainer.{name}: found 0, but" in capsys.readouterr().err


def test_own_checkpoints_that_never_came_are_told(fit: Any, caplog: pytest.LogCaptureFixture) -> None:
    assert fit(**own_checkpoint(every_n_train_steps=1000)) == (0, [])
    assert "trainer.callbacks: ModelCheckpoint has saved nothing" in caplog.text


@pytest.mark.parametrize("limit", [0.5, 0.999])
def test_limits_that_leave_a_batch(limit: float, fit: Any) -> None:
    assert fit(limit_test_batches=limit) == (0, [])


def test_a_gpu_that_is_not_there(fit: Any) -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("this machine has what the test asks for in vain")
    status, (line,) = fit(accelerator="gpu")
    assert status == 1
    assert re.match(r"error: trainer\.accelerator: found gpu, but torch finds none on this machine \(.+\): use", line)


# -- processes -------------------------------------------------------------------------------------------------------


SLURM = {"SLURM_JOB_ID": "1", "SLURM_JOB_NAME": "job", "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0"}


def test_devices_that_slurm_starts_no_process_for(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning would train in the one process that there is."""
    for name, value in (SLURM | {"SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    status, errors = fit(devices=2)
    assert status == 1
    assert errors == [
        "error: trainer.devices: found 2 with num_nodes 1, which need 2 processes, but SLURM was asked for 1 "
        "(SLURM_NTASKS): give it --ntasks-per-node 2, or change trainer.devices"
    ]


@pytest.mark.parametrize(("started", "wanted"), [(2, 1), (1, 2), (4, 2)])
def test_processes_of_torchrun(started: int, wanted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = quiet_trainer(tmp_path, devices=wanted)
    check_processes(trainer)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", str(started))
    with pytest.raises(
        UserError, match=rf"^trainer\.devices: found {wanted} .*torchrun was asked for {started} \(WORLD_SIZE"
    ):
        check_processes(trainer)
    monkeypatch.setenv("WORLD_SIZE", str(wanted))
    check_processes(trainer)


def test_a_cpu_is_not_given_more_processes_than_it_bears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 3)
    check_processes(quiet_trainer(tmp_path, devices=12))
    with pytest.raises(UserError, match=r"^trainer\.devices: found 13, each a process .* expected at most 12, four"):
        check_processes(quiet_trainer(tmp_path, devices=13))


def test_a_shell_of_slurms_starts_processes_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (SLURM | {"SLURM_JOB_NAME": "interactive", "SLURM_NTASKS": "1"}).items():
        monkeypatch.setenv(name, value)
    check_processes(quiet_trainer(tmp_path, devices=2))


# -- callbacks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", REFUSED_CALLBACKS)
def test_a_callback_that_does_not_serve_is_refused(name: str, fit: Any, tmp_path: Path) -> None:
    if not hasattr(pl.callbacks, name):
        pytest.skip(f"this Lightning has no {name}")
    options, instead = REFUSED_CALLBACKS[name]
    status, errors = fit(callbacks=[{"class_path": name, "init_args": options}])
    assert status == 1
    assert len(errors) == 1 and errors[0].startswith(f"error: trainer.callbacks: found {name}, which does not serve ")
    assert instead in errors[0]
    assert not list(tmp_path.glob("**/*.ckpt"))


def test_a_callback_derived_from_one_that_does_not_serve_is_refused(tmp_path: Path) -> None:
    class Patient(pl.callbacks.EarlyStopping):
        pass

    with pytest.raises(UserError, match=r"^trainer\.callbacks: found Patient, "):
        quiet_trainer(tmp_path, Patient("val/miou")).fit(tiny_model(), tiny_data())


def test_a_timer_of_the_users_own_and_a_writer_of_files(tmp_path: Path) -> None:
    prepare({"callbacks": SimpleNamespace(class_path="mine.callbacks.Timer")}, "fit")
    with pytest.raises(UserError, match="found Timer"):
        prepare({"callbacks": SimpleNamespace(class_path="pytorch_lightning.callbacks.timer.Timer")}, "fit")
    writer, model = pl.callbacks.LambdaCallback(), tiny_model(phases=["train"])
    writer.filename = "last"  # type: ignore[attr-defined]
    quiet_trainer(tmp_path, writer).fit(model, tiny_data())
    assert model.schedule.done


def test_a_callback_of_the_users_own_of_the_same_name_is_not(tmp_path: Path) -> None:
    class EarlyStopping(pl.Callback):
        pass

    model = tiny_model(phases=["train"])
    quiet_trainer(tmp_path, EarlyStopping()).fit(model, tiny_data())
    assert model.schedule.done


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", CALLBACKS)
def test_a_callback_that_works_ends_in_a_table(name: str, fit: Any, tmp_path: Path) -> None:
    assert fit(callbacks=[{"class_path": name, "init_args": CALLBACKS[name]}], log_every_n_steps=1) == (0, [])
    assert (tmp_path / "runs" / "version_0" / "results.json").is_file()


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_of_the_users_own_has_a_folder_and_a_name_of_its_own(fit: Any, tmp_path: Path) -> None:
    own = {"every_n_train_steps": 1, "dirpath": str(tmp_path / "a" / "b"), "filename": "own"}
    assert fit(callbacks=[{"class_path": "ModelCheckpoint", "init_args": own}])[0] == 0
    assert (tmp_path / "a" / "b" / "own.ckpt").is_file()
    for name in ("train", "self_training_2", "last"):
        status, (line,) = fit(callbacks=[{"class_path": "ModelCheckpoint", "init_args": own | {"filename": name}}])
        assert status == 1
        assert line.startswith(f"error: trainer.callbacks: found the filename '{name}', which is one of the library's")


class Counting(TorchCheckpointIO):
    saved = 0

    def save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        super().save_checkpoint(*args, **kwargs)
        type(self).saved += 1


def test_a_plugin_of_the_users_own_writes_the_checkpoints(fit: Any) -> None:
    before = Counting.saved
    assert fit(plugins={"class_path": "tests.inputs.test_trainer.Counting"}) == (0, [])
    assert Counting.saved - before >= 2


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_checkpoint_of_the_users_own_is_of_the_best_validation_and_loads(fit: Any, tmp_path: Path) -> None:
    own = {"monitor": "val/seen_miou", "mode": "max", "filename": "best", "save_last": True}
    status, _ = fit(
        ["train", "generator", "transfer", "self_training"], limit_val_batches=1, val_check_interval=2,
        callbacks=[{"class_path": "ModelCheckpoint", "init_args": own}],
    )  # fmt: skip
    folder = tmp_path / "runs" / "version_0" / "checkpoints"
    assert status == 0
    # beside the library's own, whose last.ckpt is not replaced
    assert {path.stem for path in folder.iterdir()} == {
        "train", "generator", "transfer", "self_training", "last", "best", "last-v1",
    }  # fmt: skip
    assert load_task(folder / "last.ckpt").schedule.done
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    assert load_task(folder / "best.ckpt").segmenter.predict(image).shape == (16, 16)
    assert main(["test", "--config", "run.yaml", "--ckpt_path", str(folder / "best.ckpt")]) == 0


def test_the_users_own_bar_stands_in_for_the_librarys(fit: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        pl.Trainer, "fit", lambda self, *_, **__: seen.append([type(c).__name__ for c in self.callbacks])
    )
    monkeypatch.setattr("sign_zs3.commands.training.ZeroShotCLI.after_fit", lambda self: None)
    fit(callbacks={"class_path": "TQDMProgressBar"})
    fit(callbacks=[{"class_path": "LearningRateMonitor"}])  # Lightning adds its bar to the list
    assert "TQDMProgressBar" in seen[0] and "ScheduleProgressBar" not in seen[0]
    assert "TQDMProgressBar" not in seen[1] and "ScheduleProgressBar" in seen[1]


def test_a_timer_in_python_stops_the_run(tmp_path: Path) -> None:
    model = tiny_model(train_iterations=100_000)
    quiet_trainer(tmp_path, Timer(timedelta(seconds=0))).fit(model, tiny_data())
    assert not model.schedule.done
