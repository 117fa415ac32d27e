"""Table 1 at the paper's scale: what is checked before, who runs what, what stops, fails and goes on."""

from __future__ import annotations

import fcntl
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
# in the program's place: notes how it was started, leaves files as it does, and fails, stops or waits where it is told
STUB = """
import json, os, signal, sys, time
from pathlib import Path

options = dict(zip(sys.argv[2::2], sys.argv[3::2]))
folder = Path(options["--trainer.default_root_dir"])
row, told = folder.parent.name, os.environ.get("STUB", "")
begun = time.monotonic()
time.sleep(0.05)
run = folder / f"version_{len(list(folder.glob('version_*')))}"
(run / "checkpoints").mkdir(parents=True)
for name in ("last", "transfer"):
    (run / "checkpoints" / f"{name}.ckpt").touch()
slurm = [key for key in os.environ if key.startswith("SLURM_")]
note = {"row": row, "card": os.environ.get("CUDA_VISIBLE_DEVICES"), "slurm": slurm, "options": options}
note |= {"begun": begun, "ended": time.monotonic(), "pid": os.getpid()}
with (folder.parents[1] / "notes").open("a") as file:
    file.write(json.dumps(note) + chr(10))
if told == f"fail {row}":
    sys.exit("error: no luck")
if told == f"stop {row}":
    sys.exit(75)
if told == f"wait {row}":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    (folder / "waits").touch()
    time.sleep(30)
(run / "results.json").write_text("{}")
"""


@pytest.fixture
def paper(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("paper")


@pytest.fixture
def stub(paper: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Return `main` of the script, for runs in a folder, with the stub for a program and nothing checked before."""
    (tmp_path / "stub.py").write_text(STUB)
    monkeypatch.setattr(paper, "PROGRAM", (sys.executable, str(tmp_path / "stub.py")))
    monkeypatch.setattr(paper, "check", lambda *_: True)
    monkeypatch.setattr(paper, "collect", lambda arguments: None)
    monkeypatch.setattr(paper, "paired", lambda *_: "")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "results").mkdir()
    folders = ["--runs", str(tmp_path / "runs"), "--output", str(tmp_path / "results")]
    return lambda *given: int(paper.main([*folders, *given]))


def notes(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "runs" / "notes").read_text().splitlines()]


# -- who runs what ---------------------------------------------------------------------------------------------------


def test_chains_share_the_runs_out(paper: ModuleType) -> None:
    found: list[tuple[str, int]] = []
    for chain in range(12):
        options = paper.argparse.Namespace(dataset="voc", rows=None, chain=chain, seeds=[0, 1, 2])
        jobs, seeds = paper.chosen(options)
        assert {job.base for job in jobs.values()} - {None} <= jobs.keys()
        assert len({name.partition("_")[0] for name in jobs}) == len(seeds) == 1
        found += [(name, seeds[0]) for name in jobs]
    assert sorted(found) == sorted((name, seed) for name in paper.table_1("voc") for seed in (0, 1, 2))


def test_every_row_has_its_file(paper: ModuleType) -> None:
    for dataset in paper.DATASETS:
        assert all((EXPERIMENTS / job.config).is_file() for job in paper.table_1(dataset).values())


@pytest.mark.parametrize(
    ("given", "line"),
    [
        (["--chain", "12"], "error: --chain: found 12, expected 0 to 11: four methods and 3 seeds"),
        (["--rows", "sing"], "error: --rows: found 'sing', expected some of spnet, zs3, cagnet, sign, zs3_st"),
    ],
)
def test_a_choice_that_is_none_is_refused(
    stub: Callable[..., int], given: list[str], line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stub(*given) == 1
    err = capsys.readouterr().err
    assert err.startswith(line) and err.count("\n") == 1


def test_runs_share_the_cards(stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6")
    monkeypatch.setenv("SLURM_NTASKS", "8")
    extra = ["--model.transfer_iterations", "2", "--model.train_iterations", "2"]
    assert stub("--data", "here", "--devices", "2", "--seeds", "0", "1", *extra) == 0
    found = notes(tmp_path)
    assert len(found) == 16
    assert {note["card"] for note in found} == {"4", "5"}
    for card in ("4", "5"):
        times = sorted((note["begun"], note["ended"]) for note in found if note["card"] == card)
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(times))
    for note in found:
        options = note["options"]
        assert note["slurm"] == [] and options["--trainer.devices"] == "1"
        assert options["--data.root"] == options["--data.sbd_root"] == "here"
        assert options["--model.train_iterations"] == "2"
        # SPNet has no transfer step
        assert ("--model.transfer_iterations" in options) == (note["row"] != "spnet")
        base, seed = note["row"].partition("_")[0], options["--seed_everything"]
        start = tmp_path / "runs" / base / f"seed{seed}" / "version_0" / "checkpoints" / "transfer.ckpt"
        assert options.get("--model.init_from") == (str(start) if "_" in note["row"] else None)
    assert stub("--data", "here", "--seeds", "0", "1", *extra) == 0
    assert len(notes(tmp_path)) == 16


def test_a_run_may_have_several_cards(
    stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert stub("--chain", "0", "--cards_per_run", "4") == 0
    assert {(note["card"], note["options"]["--trainer.devices"]) for note in notes(tmp_path)} == {("0,1,2,3", "4")}
    assert stub("--chain", "1", "--cards_per_run", "8") == 1
    assert "--cards_per_run: found 8, expected at most 4" in capsys.readouterr().err


def test_a_row_is_run_by_one_program_at_a_time(
    stub: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "spnet" / "seed0"
    folder.mkdir(parents=True)
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stub("--rows", "spnet", "--seeds", "0") == 75
    assert "spnet, seed 0: another program runs it" in capsys.readouterr().out
    assert not (tmp_path / "runs" / "notes").exists()
    assert stub("--rows", "spnet", "--seeds", "0") == 0


def test_a_run_whose_program_was_killed_keeps_others_away_until_it_ends(
    stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = (
        f"import sys; sys.path.insert(0, {str(EXPERIMENTS)!r}); import paper\n"
        f"paper.check = lambda *_: True; paper.PROGRAM = (sys.executable, {str(tmp_path / 'stub.py')!r})\n"
        f"paper.main(['--runs', {str(tmp_path / 'runs')!r}, '--rows', 'spnet', '--seeds', '0'])"
    )
    killed = subprocess.Popen([sys.executable, "-c", program], env={**os.environ, "STUB": "wait spnet"})
    when((tmp_path / "runs" / "spnet" / "seed0" / "waits").exists, killed.kill)
    assert killed.wait(30) == -signal.SIGKILL
    assert stub("--rows", "spnet", "--seeds", "0") == 75
    assert "spnet, seed 0: another program runs it" in capsys.readouterr().out
    os.kill(notes(tmp_path)[0]["pid"], signal.SIGKILL)

    def is_free() -> bool:
        return stub("--rows", "spnet", "--seeds", "0") == 0

    when(is_free, lambda: None)
    last = str(tmp_path / "runs" / "spnet" / "seed0" / "version_0" / "checkpoints" / "last.ckpt")
    assert notes(tmp_path)[-1]["options"]["--ckpt_path"] == last


def test_options_of_a_folder_stay(stub: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stub("--rows", "spnet", "--seeds", "0", "--model.lr", "1") == 0
    assert stub("--rows", "spnet", "--seeds", "0", "1", "--model.lr", "1", "--data", "moved") == 0
    capsys.readouterr()
    assert stub("--rows", "spnet", "--seeds", "2") == 1
    assert capsys.readouterr().err == (
        f"error: {tmp_path / 'runs' / 'options.json'}: found runs with the options '--model.lr 1', expected 'none but "
        "the rows' own': give the former, or another folder with --runs\n"
    )


# -- what fails and what stops ---------------------------------------------------------------------------------------


def test_a_row_that_fails_is_named_with_its_log_and_the_others_run(
    stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB", "fail zs3")
    assert stub("--seeds", "0") == 1
    out = capsys.readouterr().out
    log = tmp_path / "runs" / "zs3" / "seed0" / "log.txt"
    assert f"zs3, seed 0: exit status 1 (no luck), see {log}\n" in out
    assert "zs3_st, seed 0: zs3 is not there\n" in out and "the table has 6 of 8 runs" in out
    monkeypatch.setenv("STUB", "")
    assert stub("--seeds", "0") == 0
    assert [note["row"] for note in notes(tmp_path)][7:] == ["zs3", "zs3_st"]


def test_a_run_that_ends_by_its_time_goes_on(
    paper: ModuleType, stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STUB", "stop sign")
    checkpoints = tmp_path / "runs" / "sign" / "seed0"
    for attempt in range(3):
        assert stub("--chain", "0", "--time", "1-00:10:00") == 75
        assert [path.parts[-3] for path in paper.lasts(checkpoints)] == [
            f"version_{number}" for number in range(max(0, attempt - 1), attempt + 1)
        ]
    monkeypatch.setenv("STUB", "")
    assert stub("--chain", "0") == 0
    found = notes(tmp_path)
    assert [note["row"] for note in found] == ["sign"] * 4 + ["sign_st", "sign_ast"]
    assert found[0]["options"]["--trainer.max_time"].startswith("01:00:09:5")
    assert "--ckpt_path" not in found[0]["options"] and "--trainer.max_time" not in found[3]["options"]
    last = checkpoints / "version_2" / "checkpoints" / "last.ckpt"
    assert found[3]["options"]["--ckpt_path"] == str(last)
    assert [path.parts[-3] for path in paper.lasts(checkpoints)] == ["version_3"]
    # the newest transferred model
    assert "version_3" in found[4]["options"]["--model.init_from"]


def test_nothing_begins_when_the_time_is_over(stub: Callable[..., int], tmp_path: Path) -> None:
    assert stub("--time", "00:00:59") == 75
    assert not (tmp_path / "runs" / "notes").exists()


def test_a_signal_is_passed_on_and_nothing_more_begins(
    stub: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STUB", "wait zs3")
    threading.Thread(target=when, args=(lambda: (tmp_path / "runs/zs3/seed0/waits").exists(), stop_us)).start()
    before = signal.getsignal(signal.SIGUSR1)
    assert stub("--seeds", "0") == 75
    assert signal.getsignal(signal.SIGUSR1) == before
    assert [note["row"] for note in notes(tmp_path)] == ["spnet", "zs3"]
    out = capsys.readouterr().out
    assert "zs3, seed 0: stopped\n" in out and out.endswith("7 runs are left: give the command again\n")


def when(there: Callable[[], bool], act: Callable[[], None]) -> None:
    """Do something as soon as something is there, for half a minute at most."""
    for _ in range(3000):
        if there():
            return act()
        time.sleep(0.01)


def stop_us() -> None:
    os.kill(os.getpid(), signal.SIGUSR1)


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (75, True)])
def test_the_job_script_goes_back_into_the_queue_where_there_is_more_to_do(
    status: int, requeued: bool, tmp_path: Path
) -> None:
    started, asked = tmp_path / "started", tmp_path / "asked"
    for name, text in {
        # waits for the signal where it is to stop, and takes its time to save
        "python": "trap 'sleep 0.2; exit 75' TERM\n"
        f"echo $@ > {started}; [ {status} = 75 ] || exit {status}\nwhile :; do sleep 0.05; done",
        "scontrol": f"echo $@ > {asked}",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": str(tmp_path / "python")}
    environment |= {"SLURM_ARRAY_TASK_ID": "7", "SLURM_JOB_ID": "42"}
    script = EXPERIMENTS / "slurm" / "paper.sbatch"
    job = subprocess.Popen(["bash", str(script), "--dataset", "voc"], env=environment)
    if status == 75:
        when(lambda: started.exists() and bool(started.read_text()), lambda: job.send_signal(signal.SIGUSR1))
    assert job.wait(30) == status
    assert started.read_text() == "experiments/paper.py --chain 7 --dataset voc\n"
    assert asked.exists() == requeued
    assert not requeued or asked.read_text() == "requeue 42\n"


@pytest.mark.parametrize(
    ("text", "seconds", "given"),
    [("00:01:00", 60, "00:00:01:00"), ("11:30:05", 41_405, "00:11:30:05"), ("2-01:00:00", 176_400, "02:01:00:00")],
)
def test_times(paper: ModuleType, text: str, seconds: float, given: str) -> None:
    assert paper.duration(text) == seconds
    assert paper.max_time(seconds) == given
    with pytest.raises(paper.argparse.ArgumentTypeError, match="found '90', expected HH:MM:SS"):
        paper.duration("90")


# -- what is checked, and a run that is killed -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def context_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pascal Context in its native layout, drawn."""
    root = tmp_path_factory.mktemp("context")
    images, labels = root / "VOCdevkit" / "VOC2010" / "JPEGImages", root / "33_context_labels"
    images.mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    for part, names in {"train": range(10), "val": range(100, 103)}.items():
        ids = [f"2008_{number:06d}" for number in names]
        (root / f"{part}.txt").write_text("\n".join(ids))
        for name in ids:
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(images / f"{name}.jpg")
            mask = np.kron(rng.integers(0, 34, (5, 6)), np.ones((10, 10))).astype(np.uint8)
            Image.fromarray(mask).save(labels / f"{name}.png")
    return root


def context(root: Path, runs: Path, *more: str) -> list[str]:
    return [
        *("--dataset", "context", "--data", str(root), "--runs", str(runs), "--output", str(runs / "tables")),
        *("--rows", "spnet", "--seeds", "0", "--vectors", "bundled"),
        *("--model.backbone", "small", "--model.weights", "null", "--model.train_iterations", "60"),
        *("--data.num_workers", "0", "--data.batch_size", "2", "--data.crop_size", "33", "--data.warp_size", "49"),
        *("--data.eval_size", "33", "--trainer.accelerator", "cpu", "--trainer.limit_val_batches", "0"),
        *("--checkpoint.every", "5", *more),
    ]


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_scores(
    paper: ModuleType, context_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    assert paper.main(context(context_root, straight)) == 0
    folder = killed / "spnet" / "seed0"
    saved: set[int] = set()
    runners: list[Any] = []
    make = paper.Runner

    def remember(*given: Any) -> Any:
        runners.append(make(*given))
        return runners[-1]

    monkeypatch.setattr(paper, "Runner", remember)

    def in_the_middle() -> bool:
        saved.update(path.stat().st_mtime_ns for path in folder.glob("version_0/checkpoints/last.ckpt"))
        return len(saved) > 2

    def kill() -> None:
        for program in runners[-1].running:
            program.kill()

    threading.Thread(target=when, args=(in_the_middle, kill)).start()
    assert paper.main(context(context_root, killed)) == 1
    assert paper.main(context(context_root, killed)) == 0
    out = capfd.readouterr().out
    last = folder / "version_0" / "checkpoints" / "last.ckpt"
    assert f"spnet, seed 0: exit status -9, see {folder / 'log.txt'}" in out
    assert f"spnet, seed 0: goes on from {last}" in out
    first, second = straight / "spnet" / "seed0" / "version_0", folder / "version_1"
    results = [json.loads((run / "results.json").read_text()) for run in (first, second)]
    assert results[0]["test"] == results[1]["test"]
    weights = [
        torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"] for run in (first, second)
    ]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not last.exists()
    # with the paper's numbers
    paper.table("context", [0], killed, tmp_path / "tables")
    assert "the table has 1 of 8 runs" in capfd.readouterr().out
    assert "35.14 / 4.00 / 7.18" in (tmp_path / "tables" / "table.md").read_text()
    # what it takes was foretold
    beforehand = importlib.import_module("beforehand")
    extra = context(context_root, killed)[10:]
    job = {"spnet": paper.table_1("context")["spnet"]}
    given = ["--data.root", str(context_root), "--model.vectors", "bundled", *extra[extra.index("--model.backbone") :]]
    row = beforehand.measure(job["spnet"], beforehand.read_rows(job, given)["spnet"], 150)
    assert (row.iterations, row.files, row.operations) == (60, 2, None)
    assert row.checkpoint == pytest.approx((first / "checkpoints" / "train.ckpt").stat().st_size, rel=0.05)


def test_each_fault_has_a_line_and_nothing_is_run(
    paper: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = context(tmp_path / "nowhere", tmp_path / "runs")
    given[given.index("bundled")] = "none.npz"
    given[given.index("null")] = "none.pth"
    assert paper.main(given) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    assert "nowhere" in lines[0] and "none.npz" in lines[1] and "none.pth" in lines[2]
    assert not (tmp_path / "runs").exists()


def test_a_disk_without_room_is_refused_and_a_plan_is_only_printed(
    paper: ModuleType, context_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    given = context(context_root, tmp_path / "runs", "--plan")
    assert paper.main(given) == 0
    out = capsys.readouterr().out
    assert "context: 1 of 1 runs to do, 1 at a time" in out
    assert "warning: data: found 10 images to train on and 3 to test on, expected 4,998 and 5,105" in out
    monkeypatch.setattr(paper, "free", lambda folder: 10**6)
    assert paper.main(given) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {tmp_path / 'runs'}: found 0.0 GB free, expected") and err.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_room_and_hours(paper: ModuleType, tmp_path: Path) -> None:
    beforehand = importlib.import_module("beforehand")
    jobs = paper.table_1("voc")
    todo = [(jobs[name], seed) for name in ("sign", "sign_st", "sign_ast") for seed in (0, 1)]
    rows = {"sign": beforehand.Row(10, 7200.0, 100, 3), "sign_st": beforehand.Row(5, 3600.0, 200, 2),
            "sign_ast": beforehand.Row(5, 3600.0, 200, 2)}  # fmt: skip
    assert beforehand.needed(todo, rows, 1) == 2 * (300 + 400 + 400) + 2 * 200
    assert beforehand.hours_of(todo, rows, 1.0, 1) == (8, 8)
    # a row waits for its base
    assert beforehand.hours_of(todo, rows, 1.0, 8) == (8, 3)
    assert beforehand.free(tmp_path / "not" / "there") == pytest.approx(shutil.disk_usage(tmp_path).free, rel=0.1)


def test_speed(paper: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    beforehand = importlib.import_module("beforehand")
    assert 1e8 < beforehand.reached(1, 33, 0.0) < 1e14
    assert beforehand.speed_of(None) == (40e12, "taken, see --tflops")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert beforehand.speed_of(20) == (20e12, "taken, see --tflops")

    def ended(status: int) -> Callable[..., Any]:
        def run(command: Sequence[str], **options: Any) -> Any:
            assert command == [sys.executable, beforehand.__file__]
            return subprocess.CompletedProcess(command, status, "3e13\n", "out of\nmemory")

        return run

    monkeypatch.setattr("beforehand.subprocess.run", ended(0))
    assert beforehand.speed_of(None) == (3e13, "measured here")
    monkeypatch.setattr("beforehand.subprocess.run", ended(1))
    assert beforehand.speed_of(None) == (40e12, "taken, see --tflops")
    assert "was not measured: out of memory" in capsys.readouterr().out
