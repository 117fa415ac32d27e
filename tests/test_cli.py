from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import yaml
from PIL import Image

from sign_zs3 import ClassTable, ZeroShotTask
from sign_zs3.callbacks import ScheduleProgressBar
from sign_zs3.cli import main
from sign_zs3.commands.training import STOPPED
from tests.conftest import TINY

DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}


@pytest.fixture
def config(tmp_path: Path) -> str:
    content = {
        "trainer": {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu"},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": TINY,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    return str(tmp_path / "tiny.yaml")


def results(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


def last_line(text: str) -> str:
    return text.strip().splitlines()[-1]


def test_fit_ends_with_table_results_and_pictures(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", config, "--seed_everything", "3"]) == 0
    run = tmp_path / "runs" / "version_0"
    assert sorted(path.name for path in run.iterdir()) == [
        "checkpoints", "config.yaml", "hparams.yaml", "metrics.csv", "panel.png", "results.json",
    ]  # fmt: skip
    found = results(run)
    assert (found["format"], found["dataset"], found["method"], found["seed"]) == (1, "shapes", "SIGN", 3)
    assert list(found["phases"]) == ["train", "transfer", "self_training"]
    assert found["final"] == "self_training"
    assert found["test"] == found["phases"]["self_training"]
    assert len(found["test"]["per_class"]) == 22
    assert 0 <= found["test"]["harmonic_miou"] <= 1
    out = capsys.readouterr().out
    for text in ("red square", "unseen", "harmonic mIoU", "transfer", "panel.png"):
        assert text in out
    with Image.open(run / "panel.png") as panel:
        assert panel.width > 500
    hparams = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["hyper_parameters"]
    assert hparams["seed"] == 3

    # the same program reads its checkpoint back: same figures, no other option than the data
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", config, "--ckpt_path", checkpoint]) == 0
    assert results(tmp_path / "runs" / "version_1")["test"] == found["test"]
    tested = capsys.readouterr().out
    assert "IoU on test images, %" in tested and "Test metric" not in tested  # Lightning's table
    assert main(["validate", "--config", config, "--ckpt_path", checkpoint]) == 0
    assert main(["predict", "--config", config, "--ckpt_path", checkpoint]) == 0
    written = sorted((tmp_path / "runs" / "version_3" / "predictions").iterdir())
    names = [f"test-0000{i}{end}" for i in range(4) for end in (".png", "_overlay.jpg")]
    assert [path.name for path in written] == ["predictions.json", *names]
    report = json.loads(written[0].read_text(encoding="utf-8"))
    assert report["checkpoint"] == checkpoint and report["complete"] is True
    assert [entry["index"] for entry in report["images"]] == names[::2]
    with Image.open(written[1]) as predicted:
        assert predicted.size == (32, 32)
        ids = np.asarray(predicted)
    assert set(ids.ravel().tolist()) <= set(range(1, 23))
    own = {entry["name"]: entry["id"] for entry in report["classes"]}
    counts = report["images"][0]["pixels"]
    assert {own[name]: count for name, count in counts.items()} == {i: int((ids == i).sum()) for i in np.unique(ids)}


def test_options_of_inference_are_open_and_others_are_not(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", "--config", config, "--model.phases", "[train]"]) == 0
    checkpoint = str(tmp_path / "runs" / "version_0" / "checkpoints" / "train.ckpt")
    test = ["test", "--config", config, "--ckpt_path", checkpoint]
    assert main([*test, "--model.flip", "true"]) == 0
    assert main(["test", "--config", config]) == 1
    assert "--ckpt_path: found none" in last_line(capsys.readouterr().err)
    assert main([*test, "--model.temperature", "1"]) == 1
    error = last_line(capsys.readouterr().err)
    assert re.search(r"--model.temperature: found 1.0, but the checkpoint .* was trained with 2.0", error)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model.vectors", "none.npz"], "none.npz"),
        (["--model.phases", "[polish]"], "phases: found 'polish'"),
        (["--model.backbone", "resnet19"], "did you mean 'resnet1"),
        (["--data.unseen", "[red squar]"], "error: unseen: found 'red squar'"),
        (["--data.unseen", "[]"], "error: unseen: found no unseen class"),
        (["--data.batch_size", "0"], "error: batch_size: found 0, expected at least 1; raise it"),
        (["--model.phases", "[train,self_training]"], "error: phases: self_training found a classifier"),
        (["--model.dilations", "[]"], "error: dilations: found []"),
        (["--ckpt_path", "none.ckpt"], "none.ckpt is not there"),
        (["--ckpt_path", "last"], "found no checkpoints/last.ckpt below"),
        (["--model.lr", "1e18", "--model.train_iterations", "20"], "phase train, iteration"),
        (["--model.lr", "1e18", "--model.init_from", "none.ckpt"], "none.ckpt is not there"),
    ],
)
def test_bad_input_gets_one_line(
    config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert main(["fit", "--config", config, *options]) == 1
    out, err = capsys.readouterr()
    assert message in last_line(err)
    assert last_line(err).startswith("error: ")
    assert "Traceback" not in err + out
    assert not list(tmp_path.glob("**/results.json"))
    assert not list(tmp_path.glob("**/*.part"))


def test_a_checkpoint_needs_no_vectors_and_keeps_its_inference_options(
    config: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sign_zs3.commands import training

    table, moved = tmp_path / "table.safetensors", tmp_path / "moved.safetensors"
    ClassTable.bundled().save(table)
    options = ["--model.vectors", str(table), "--model.seen_penalty", "0.7", "--model.phases", "[train,transfer]"]
    assert main(["fit", "--config", config, *options]) == 0
    table.rename(moved)
    built: list[ZeroShotTask] = []
    monkeypatch.setattr(training.ZeroShotCLI, "after_test", lambda self: built.append(self.model))
    checkpoint = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", config, "--ckpt_path", checkpoint]) == 0
    assert main(["test", "--config", config, "--ckpt_path", checkpoint, "--model.seen_penalty", "0"]) == 0
    assert [model.hparams["seen_penalty"] for model in built] == [0.7, 0.0]
    assert main(["fit", "--config", config, "--ckpt_path", checkpoint]) == 0  # complete: nothing left to train


def test_sigterm_in_the_closing_tests_leaves_the_last_checkpoint(config: str, tmp_path: Path) -> None:
    stopped = run("fit", "--config", config, "--data.test_size", "3000")
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"

    def done() -> bool:
        return last.exists() and torch.load(last, weights_only=True)["sign_zs3"]["schedule"]["batches"] == 11

    deadline = time.monotonic() + 120
    while not done() and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=120)
    # between the training and the first test nothing needs saving, and the signal acts as it does on any program
    assert stopped.returncode in (143, -signal.SIGTERM), err
    assert done()


def test_missing_data_is_named_before_weights_are_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: pytest.fail("weights were fetched"))
    root = Path(__file__).parents[1]
    arguments = ["--data.root", str(tmp_path / "nowhere"), "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--config", str(root / "experiments" / "voc.yaml"), *arguments]) == 1
    assert "nowhere" in last_line(capsys.readouterr().err)


def test_usage_errors_exit_with_2(config: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", config, "--model.no_such_option", "1"])
    assert stopped.value.code == 2


def test_debug_shows_the_traceback(config: str) -> None:
    with pytest.raises(ValueError, match="polish"):
        main(["fit", "--config", config, "--model.phases", "[polish]", "--debug"])


def run(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "sign_zs3", *arguments], text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, **options,
    )  # fmt: skip


def test_sigterm_saves_and_the_resumed_run_ends_in_the_same_weights(config: str, tmp_path: Path) -> None:
    long = ["--model.transfer_iterations", "60"]
    seed = ["--seed_everything", "3"]  # the checkpoint remembers it
    assert (
        main(["fit", "--config", config, *long, *seed, "--trainer.default_root_dir", str(tmp_path / "straight")]) == 0
    )
    stopped = run("fit", "--config", config, *long, *seed)
    log = tmp_path / "runs" / "version_0" / "checkpoints" / "generator.ckpt"
    deadline = time.monotonic() + 120
    while not log.exists() and stopped.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    _, err = stopped.communicate(timeout=120)
    assert stopped.returncode == 143, err
    assert "saved; go on with --ckpt_path" in err
    assert last_line(err) == "stopped by SIGTERM"
    path = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    assert torch.load(path, weights_only=True)["sign_zs3"]["schedule"]["batches"] < 3 + 2 + 60 + 3
    assert main(["fit", "--config", config, *long, "--ckpt_path", "last"]) == 0
    ends = [
        torch.load(tmp_path / where / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
        for where in ("straight/version_0", "runs/version_1")
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


def test_the_last_checkpoint_tells_the_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = {name: value for name, value in TINY.items() if not name.startswith(("spatial", "alpha"))}
    data = {"train_size": 4, "val_size": 1, "test_size": 2, "scene_size": 32, "batch_size": 2}
    content = {
        "model": {**model, "phases": ["train"]}, "data": {"class_path": "ShapesDataModule", "init_args": data},
        "trainer": {"accelerator": "cpu", "limit_val_batches": 0, "default_root_dir": "runs"},
    }  # fmt: skip
    (tmp_path / "zs3.yaml").write_text(yaml.safe_dump({**content, "method": "ZS3"}))
    assert main(["fit", "--config", "zs3.yaml"]) == 0
    (tmp_path / "any.yaml").write_text(yaml.safe_dump(content))
    assert main(["fit", "--config", "any.yaml", "--ckpt_path", "last"]) == 0


def test_max_time_stops_and_says_how_to_go_on(config: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    arguments = ["--model.lr", "1e-6", "--model.train_iterations", "100000", "--trainer.max_time", "00:00:00:01"]
    assert main(["fit", "--config", config, *arguments]) == STOPPED
    state = torch.load(last, weights_only=True)["sign_zs3"]["schedule"]
    assert 0 < state["batches"] < 100000
    assert not (tmp_path / "runs" / "version_0" / "results.json").exists()
    # the next slot has its own second
    assert main(["fit", "--config", config, *arguments, "--ckpt_path", "last"]) == STOPPED
    later = tmp_path / "runs" / "version_1" / "checkpoints" / "last.ckpt"
    assert torch.load(later, weights_only=True)["sign_zs3"]["schedule"]["batches"] > state["batches"]


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(
    sys.platform != "linux", reason="OpenMP is GNU's in torch's wheels for Linux, which says what it took"
)
@pytest.mark.parametrize(
    ("chosen", "turns"), [({}, "1000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "PASSIVE"}, "0")]
)
def test_threads_sleep_soon_unless_the_user_says_how_they_wait(chosen: dict[str, str], turns: str) -> None:
    ways = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in ways} | chosen
    program = "import sign_zs3.cli\ntry: sign_zs3.cli.main(['rename', '--help'])\nexcept SystemExit: import torch"
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment | {"OMP_DISPLAY_ENV": "VERBOSE"}, capture_output=True,
        text=True, check=True,
    )  # fmt: skip
    assert f"GOMP_SPINCOUNT = '{turns}'" in done.stderr


def test_colours_of_masks_are_stored_and_outlive_a_resumed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    colours = [0, 0, 0, 200, 10, 20, 30, 40, 250, 10, 220, 90]
    for name in ("images", "masks"):
        (tmp_path / "photos" / name).mkdir(parents=True)
    for number in range(8):
        rows = np.random.default_rng(number).integers(1, 4, (32, 32), np.uint8)
        Image.fromarray(np.stack([rows * 60] * 3, axis=2)).save(tmp_path / "photos" / "images" / f"{number}.png")
        mask = Image.fromarray(rows)
        mask.putpalette(colours)
        mask.save(tmp_path / "photos" / "masks" / f"{number}.png")
    (tmp_path / "photos" / "classes.txt").write_text("1\tgrass\n2\tcow\n3\tsheep\n", encoding="utf-8")
    options = {"root": "photos", "unseen": ["sheep"], "crop_size": 32, "warp_size": 32, "batch_size": 2}
    content = {
        "model": {**TINY, "phases": ["train"]}, "data": {"class_path": "FolderDataModule", "init_args": options},
        "trainer": {"accelerator": "cpu", "default_root_dir": "runs"},
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    command = ["fit", "--config", "run.yaml", "--data.num_workers", "0", "--trainer.enable_progress_bar", "false"]
    assert main(command) == 0 and main([*command, "--ckpt_path", "last"]) == 0
    for run in ("version_0", "version_1"):
        last = tmp_path / "runs" / run / "checkpoints" / "last.ckpt"
        held = torch.load(last, weights_only=True)
        for protocol in (held["hyper_parameters"]["protocol"], held["sign_zs3"]["protocol"]):
            assert bytes.fromhex(protocol["palette"])[:12] == bytes(colours)
        assert main(["predict", "--ckpt_path", str(last), "--images", "photos/images", "--output", run]) == 0
        with Image.open(tmp_path / run / "0.png") as index:
            palette = index.getpalette()
        assert palette is not None and palette[3:12] == colours[3:]


def test_a_job_that_ignores_ctrl_c_goes_on(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def press(self: ScheduleProgressBar, *args: object, **kwargs: object) -> None:
        signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(ScheduleProgressBar, "on_train_batch_end", press)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert main(["fit", "--config", config, "--model.phases", "[train]"]) == 0
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize(
    ("presses", "told"), [(1, "saved after 2 batches"), (2, "saved after 0 batches, 2 more are lost")]
)
def test_an_interrupted_run_says_how_to_go_on(
    presses: int,
    told: str,
    config: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def press(self: ScheduleProgressBar, trainer: pl.Trainer, *args: object, **kwargs: object) -> None:
        model = trainer.lightning_module
        if isinstance(model, ZeroShotTask) and model.schedule.batches == 2:
            for _ in range(presses):
                signal.raise_signal(signal.SIGINT)

    # a job in the background ignores Ctrl-C
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        patch.setattr(ScheduleProgressBar, "on_train_batch_end", press)
        assert main(["fit", "--config", config, "--model.train_iterations", "9", "--checkpoint.every", "5"]) == 130
    assert signal.signal(signal.SIGINT, former) == signal.default_int_handler
    assert "Ctrl-C again stops at once" in capfd.readouterr().err
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    assert f"interrupted; {told}; go on with --ckpt_path {last}" in caplog.messages
    assert {record.name.partition(".")[0] for record in caplog.records} == {"sign_zs3"}  # nothing of Lightning's own
    capfd.readouterr()
    assert main(["fit", "--config", config, "--ckpt_path", str(last)]) == 0
    out = capfd.readouterr().out
    commands = [line.split(" # ")[0].split() for line in out.split("next:\n")[1].splitlines()]
    assert [words[words.index("--ckpt_path") - 1] for words in commands] == ["predict", "extend", "demo"]
    assert all(Path(words[words.index("--ckpt_path") + 1]).is_file() for words in commands)
