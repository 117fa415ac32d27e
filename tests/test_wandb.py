"""W&B, offline: what a run logs, the commands that a sweep's agent builds, and life without the package."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sign_zs3.cli import main
from tests.conftest import TINY

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SWEEPS = ["alpha_beta.yaml", "annealing_temperature.yaml"]
DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}


@pytest.fixture(autouse=True)
def as_main_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.fixture
def tiny(tmp_path: Path) -> str:
    content = {
        "trainer": {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu", "limit_val_batches": 0},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": {**TINY, "generator_iterations": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "tiny.yaml")


@pytest.fixture
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing leaves this machine, and nothing of W&B outlives the test."""
    wandb = pytest.importorskip("wandb")
    for name, value in {
        "WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_ERROR_REPORTING": "false",
        "WANDB_CONFIG_DIR": str(tmp_path / "wandb_config"), "WANDB_CACHE_DIR": str(tmp_path / "wandb_cache"),
        "WANDB_DATA_DIR": str(tmp_path / "wandb_data"),
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    # what a sweep sets
    for name in ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_SWEEP_PARAM_PATH", "WANDB_PROJECT", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield
    finally:
        wandb.finish()
        wandb.teardown()


def records(path: Path) -> Iterator[Any]:
    """Read a run's own file: records of W&B's protocol in LevelDB's log format, blocks of 32 KiB after 7 bytes."""
    from wandb.proto import wandb_internal_pb2

    # its stubs know nothing of what it makes as it is imported
    pb: Any = wandb_internal_pb2

    content = path.read_bytes()
    assert content[:4] == b":W&B"
    at, pending = 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        pending += content[at + 7 : at + 7 + length]
        at += 7 + length
        # whole, or the last part of one
        if kind in (1, 4):
            record = pb.Record()
            record.ParseFromString(pending)
            yield record
            pending = b""


def history(folder: Path) -> list[dict[str, Any]]:
    import wandb

    # as the process's end does: what is logged is written later, by another process
    wandb.finish()
    wandb.teardown()
    (path,) = folder.glob("*.wandb")
    rows = []
    for record in records(path):
        if record.WhichOneof("record_type") == "history":
            row: dict[str, Any] = {}
            for item in record.history.item:
                *outer, name = [item.key] if item.key else item.nested_key
                place = row
                for key in outer:
                    place = place.setdefault(key, {})
                place[name] = json.loads(item.value_json)
            rows.append(row)
    return rows


def logged(folder: Path, key: str) -> list[dict[str, Any]]:
    return [row for row in history(folder) if key in row]


def test_a_run_logs_scores_and_pictures_with_masks(tiny: str, tmp_path: Path, offline: None) -> None:
    part = str(EXPERIMENTS / "parts" / "wandb.yaml")
    assert main(["fit", "--config", tiny, "--config", part, "--trainer.callbacks.count", "2"]) == 0
    run = tmp_path / "runs" / "version_0"
    # the run's folder is what it is without W&B
    assert {path.name for path in run.iterdir()} == {
        "checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "panel.png", "results.json",
    }  # fmt: skip
    (folder,) = (tmp_path / "runs" / "wandb").glob("offline-run-*")

    scores = json.loads((run / "results.json").read_text())["phases"]
    for (phase, found), row in zip(scores.items(), logged(folder, "test/harmonic_miou"), strict=True):
        assert row["test/seen_miou"] == pytest.approx(found["seen_miou"]), phase
    assert logged(folder, "train/loss_seg")

    shown = logged(folder, "pictures/predictions")
    # at the end of each phase; steps are batches, as those of the losses
    assert [row["trainer/global_step"] for row in shown] == [3, 6, 9]
    assert len(logged(folder, "pictures/panel")) == 3
    assert len(logged(folder, "pictures/pseudo_labels")) == 1
    assert len(logged(folder, "test/confusion")) == len(logged(folder, "test/iou")) == 3
    for row, names in zip(
        shown, [["prediction", "truth"]] * 2 + [["prediction", "pseudo-labels", "truth"]], strict=True
    ):
        entry = row["pictures/predictions"]
        assert entry["count"] == 2 and (entry["width"], entry["height"]) == (32, 32)
        assert len(entry["captions"]) == 2 and "iteration" in entry["captions"][0]
        for masks in entry["all_masks"]:
            assert sorted(masks) == names
            for mask in masks.values():
                assert (folder / "files" / mask["path"]).is_file()
            with Image.open(folder / "files" / masks["truth"]["path"]) as mask:
                found = set(np.unique(np.array(mask)).tolist())
            # unseen classes are hidden in validation images
            assert 255 in found and found <= {255, *range(18)}
    labels = class_labels(folder)
    assert {key.rpartition("_")[2] for key in labels} == {"truth", "prediction", "pseudo-labels"}
    for names_of in labels.values():
        assert list(names_of) == [*map(str, range(22)), "255"]
        assert names_of["255"] == "unlabelled"
        assert [name.endswith(" ★") for name in names_of.values()] == [False] * 18 + [True] * 4 + [False]


def class_labels(folder: Path) -> dict[str, dict[str, str]]:
    """Return the last thing that the run said of the classes of each kind of mask."""
    (path,) = folder.glob("*.wandb")
    found: dict[str, dict[str, str]] = {}
    for record in records(path):
        for item in record.config.update if record.WhichOneof("record_type") == "config" else ():
            if item.key == "_wandb":
                entries = json.loads(item.value_json).get("mask/class_labels", {})
                found |= {key: entry["value"] for key, entry in entries.items()}
    return found


def test_offline_as_an_option(tiny: str, tmp_path: Path, offline: None) -> None:
    part = str(EXPERIMENTS / "parts" / "wandb.yaml")
    words = [
        "fit",
        "--config",
        tiny,
        "--config",
        part,
        "--trainer.logger.offline",
        "true",
        "--trainer.callbacks",
        "null",
    ]
    short = ["--model.phases", "[train]", "--trainer.logger.name", "short"]
    assert main([*words, *short]) == 0
    assert len(list((tmp_path / "runs" / "wandb").glob("offline-run-*"))) == 1


def test_checkpoints_cannot_be_sent_without_a_network(
    tiny: str, offline: None, capsys: pytest.CaptureFixture[str]
) -> None:
    part = str(EXPERIMENTS / "parts" / "wandb.yaml")
    options = ["--trainer.logger.offline", "true", "--trainer.logger.log_model", "true"]
    assert main(["fit", "--config", tiny, "--config", part, *options]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: WandbLogger: Providing log_model=True")


# -- sweeps ----------------------------------------------------------------------------------------------------------


def points(parameters: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the ends of each parameter's range, all of them at once: what a server would send an agent."""
    ends = []
    for end, quantile in ((0, 0.0), (-1, 1.0)):
        point = {}
        for name, given in parameters.items():
            if "values" in given:
                point[name] = given["values"][end]
            else:
                assert given["distribution"] == "log_uniform_values"
                # a server's numbers are not round
                point[name] = given["min"] ** (1 - quantile) * given["max"] ** quantile * 1.0123456789
        ends.append(point)
    return ends


def command_of(sweep: dict[str, Any], point: dict[str, Any]) -> list[str]:
    """Put the command together as W&B's agent does."""
    from wandb.sdk.launch.sweeps import utils

    variables = utils.create_sweep_command_args({"args": {name: {"value": value} for name, value in point.items()}})
    variables |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [sweep.get("program")]}
    words: list[str] = []
    for word in map(str, utils.create_sweep_command(list(sweep["command"]))):
        macro = word.startswith("${") and word.endswith("}")
        words += (variables.get(word[2:-1]) or []) if macro else [word]
    return words


def test_every_sweep_is_run_here() -> None:
    assert sorted(path.name for path in (EXPERIMENTS / "sweeps").iterdir()) == SWEEPS


@pytest.mark.parametrize("name", SWEEPS)
def test_commands_of_a_sweep(name: str, tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / name).read_text())
    # W&B goes by the sweep's project, not by the logger's
    part = yaml.safe_load((EXPERIMENTS / "parts" / "wandb.yaml").read_text())
    assert sweep["project"] == part["trainer"]["logger"]["init_args"]["project"]
    # an agent is started in the project's root
    monkeypatch.chdir(EXPERIMENTS.parent)
    transferred = tmp_path / "runs" / "version_0" / "checkpoints" / "transfer.ckpt"
    if any("transfer.ckpt" in word for word in sweep["command"]):
        assert main(["fit", "--config", tiny, "--model.self_training", "none", "--data.development", "3"]) == 0
    before = len(list((tmp_path / "runs").glob("version_*")))
    for number, point in enumerate(points(sweep["parameters"])):
        words = command_of(sweep, point)
        assert words[:3] == ["/usr/bin/env", "sign-zs3", "fit"]
        assert all(Path(word).is_file() for word in words if word.startswith("experiments/"))
        row = words.index("--config") + 1
        # the row's own data and lengths are replaced, and nothing is sent to W&B; all else is as the agent has it
        words[row] = tiny
        words = [str(transferred) if word.endswith("transfer.ckpt") else word for word in words[2:]]
        # as the row of the paper: alpha_beta's has no self-training
        local = [
            "--trainer.logger",
            "null",
            "--trainer.callbacks",
            "null",
            "--trainer.default_root_dir",
            str(tmp_path / "runs"),
        ]
        if name == "alpha_beta.yaml":
            local += ["--model.self_training", "none"]
        assert main([*words, *local]) == 0
        run = tmp_path / "runs" / f"version_{before + number}"
        config = yaml.safe_load((run / "config.yaml").read_text())
        for key, value in point.items():
            assert config["model"][key.removeprefix("model.")] == pytest.approx(value)
        assert config["data"]["init_args"]["development"] == 3
        assert sweep["metric"]["name"] in (run / "metrics.csv").read_text().splitlines()[0].split(",")


# W&B does not close the file of the sweep's parameters
@pytest.mark.filterwarnings("ignore:unclosed file .*config-abcd1234:ResourceWarning")
def test_a_run_of_a_sweep_reaches_wandb(
    tiny: str, tmp_path: Path, offline: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / "alpha_beta.yaml").read_text())
    monkeypatch.chdir(EXPERIMENTS.parent)
    point = points(sweep["parameters"])[0]
    # what an agent leaves for the run: its id, the sweep's and its project, and the parameters as a file
    given = tmp_path / "config-abcd1234.yaml"
    given.write_text(yaml.safe_dump({"wandb_version": 1, **{name: {"value": value} for name, value in point.items()}}))
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep123")
    monkeypatch.setenv("WANDB_PROJECT", "sign-zs3")
    monkeypatch.setenv("WANDB_SWEEP_PARAM_PATH", str(given))
    words = command_of(sweep, point)[2:]
    words[words.index("--config") + 1] = tiny
    local = ["--trainer.default_root_dir", str(tmp_path / "runs"), "--model.self_training", "none"]
    assert main([*words, *local, "--trainer.callbacks.count", "1"]) == 0
    (folder,) = (tmp_path / "runs" / "wandb").glob("offline-run-*abcd1234")
    assert sweep["metric"]["name"] in logged(folder, sweep["metric"]["name"])[-1]
    (path,) = folder.glob("*.wandb")
    (run,) = (record.run for record in records(path) if record.WhichOneof("record_type") == "run")
    assert (run.sweep_id, run.project) == ("sweep123", "sign-zs3")


# -- TensorBoard, and without W&B ------------------------------------------------------------------------------------


def test_a_run_logs_to_tensorboard_beside_its_own_files(tiny: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="TensorBoard is not installed: pip install tensorboard")
    part = str(EXPERIMENTS / "parts" / "tensorboard.yaml")
    place = ["--trainer.logger.init_args.save_dir", str(tmp_path / "tensorboard")]
    assert main(["fit", "--config", tiny, "--config", part, "--trainer.callbacks.count", "1", *place]) == 0
    assert {path.name for path in (tmp_path / "runs" / "version_0").iterdir()} == {
        "checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "panel.png", "results.json",
    }  # fmt: skip
    assert list((tmp_path / "tensorboard").glob("version_0/events.out.tfevents.*"))


def test_without_wandb_all_else_works(tiny: str, tmp_path: Path) -> None:
    # in a process of its own: a module that was imported with wandb keeps it
    program = """
import sys
sys.modules["wandb"] = None
from sign_zs3.cli import main
arguments = sys.argv
for options in (["--trainer.callbacks", "PictureLogger"], ["--trainer.logger", "WandbLogger"]):
    sys.argv = [*arguments, *options]
    print("status", main())
"""
    command = [sys.executable, "-c", program, "fit", "--config", tiny, "--model.phases", "[train]"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert [line for line in done.stdout.splitlines() if line.startswith("status")] == ["status 0", "status 1"]
    run = tmp_path / "runs" / "version_0"
    assert (run / "results.json").is_file() and (run / "pictures" / "panel-3.png").is_file()
    error = done.stderr.strip().splitlines()[-1]
    assert (
        error.startswith("error: --trainer.logger: found WandbLogger")
        and "pip install 'wandb>=0.22', or leave" in error
    )
    assert len(list((tmp_path / "runs").iterdir())) == 1
