"""The scripts that run the rows of the tables: their order, what they skip, and equal budgets."""

from __future__ import annotations

import importlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    return importlib.import_module("tables")


@pytest.fixture
def search(tables: ModuleType) -> ModuleType:
    return importlib.import_module("search")


class Fits:
    """Stands in for the program: notes what is asked for, and leaves a result."""

    def __init__(self, broken: str | None = None) -> None:
        self.asked: list[tuple[str, int]] = []
        self.broken = broken

    def __call__(self, job: Any, seed: int, runs: Path, extra: Sequence[str]) -> str | None:
        self.asked.append((job.name, seed))
        if job.base is not None and not (runs / job.base / f"seed{seed}" / "version_0" / "results.json").is_file():
            return f"{job.base} is not there"
        if job.name == self.broken:
            return "broken"
        folder = runs / job.name / f"seed{seed}" / "version_0"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text("{}")
        return None


@pytest.mark.parametrize("table", ["table1", "ablations"])
@pytest.mark.parametrize("workers", [1, 2])
def test_rows_come_after_what_they_start_from_and_once(
    tables: ModuleType, table: str, workers: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tables.jobs_of(table)
    fits = Fits()
    monkeypatch.setattr("jobs.fit", fits)
    assert tables.run_all(jobs, [0, 1], tmp_path, [], workers) == []
    assert sorted(fits.asked) == sorted((name, seed) for name in jobs for seed in (0, 1))
    assert tables.run_all(jobs, [0, 1], tmp_path, [], workers) == []
    assert len(fits.asked) == 2 * len(jobs)
    # one that is gone is run again, and no other
    (tmp_path / "sign" / "seed1" / "version_0" / "results.json").unlink()
    (tmp_path / "sign" / "seed1" / "version_0").rmdir()
    assert tables.run_all(jobs, [0, 1], tmp_path, [], workers) == []
    assert fits.asked[2 * len(jobs) :] == [("sign", 1)]


def test_a_row_that_fails_is_named_and_the_others_run(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = tables.jobs_of("table1")
    monkeypatch.setattr("jobs.fit", Fits(broken="zs3"))
    assert tables.run_all(jobs, [0], tmp_path, [], 2) == ["broken", "zs3 is not there"]
    assert {path.parts[-4] for path in tmp_path.rglob("results.json")} == set(jobs) - {"zs3", "zs3_st"}


def test_the_program_is_asked_for_a_row(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> Any:
        asked.append(command)
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        assert options["check"]
        if len(asked) == 2:
            raise subprocess.CalledProcessError(1, command)
        place = Path(command[command.index("--trainer.default_root_dir") + 1]) / "version_0"
        place.mkdir()
        (place / "results.json").write_text("{}")

    monkeypatch.setattr("fitting.subprocess.run", run)
    jobs = tables.jobs_of("ablations")
    base = tmp_path / "sign" / "seed3" / "version_0"
    (base / "checkpoints").mkdir(parents=True)
    (base / "results.json").write_text(json.dumps({}))
    (base / "checkpoints" / "transfer.ckpt").touch()
    fit = importlib.import_module("jobs").fit
    assert fit(jobs["temperature_8"], 3, tmp_path, ["--data.root", "here"]) is None
    command = asked[0]
    assert command[1:4] == ["-m", "sign_zs3", "fit"]
    pairs = dict(zip(command[4::2], command[5::2], strict=True))
    assert pairs["--seed_everything"] == "3"
    assert pairs["--model.temperature"] == "8"
    assert pairs["--model.init_from"] == str(base / "checkpoints" / "transfer.ckpt")
    assert pairs["--model.phases"] == "[self_training]"
    assert pairs["--data.root"] == "here"
    error = fit(jobs["conv"], 3, tmp_path, [])
    assert error is not None and "exit code 1" in error
    assert "--model.init_from" not in asked[1]


def test_every_row_has_its_file(tables: ModuleType, search: ModuleType) -> None:
    of_both = [job for dataset in tables.DATASETS for job in tables.jobs_of("table1", dataset).values()]
    rules = importlib.import_module("rules")
    of_both += [job for dataset in rules.ROWS for job in rules.jobs_of(dataset).values()]
    of_both += [job for dataset in tables.DATASETS for job in tables.jobs_of("ablations", dataset).values()]
    sets, teach = importlib.import_module("sets"), importlib.import_module("teach")
    jobs = [*of_both, *search.jobs().values(), *sets.jobs_of(sets.drawn_sets()).values(), *teach.SETTINGS.values()]
    assert {job.config for job in jobs if not (EXPERIMENTS / job.config).is_file()} == set()
    assert set(tables.jobs_of("table1")) >= set(tables.ROWS)


def test_every_method_has_as_many_candidates(search: ModuleType) -> None:
    for candidates in (search.CANDIDATES, search.SELF_TRAINING):
        assert len({len(options) for options in candidates.values()}) == 1
    names = {name for cut in search.CUTS.values() for name in cut}
    assert not names & {"cow", "dog", "boat", "bicycle"}


def test_differences_are_paired_by_seed(tables: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "runs.csv"
    mine, its = (0.51, 0.62, 0.43), (0.5, 0.6, 0.4)  # 1, 2 and 3 points
    lines = [f'"A, b",{seed},transfer,0.5,0.5,{value}' for seed, value in zip("210", mine[::-1], strict=True)]
    lines += [f"B,{seed},transfer,0.5,0.4,{value}" for seed, value in zip("0123", (*its, 0.9), strict=True)]
    path.write_text("\n".join(["method,seed,phase,seen,unseen,harmonic", *lines]))
    # the mean is 2, the standard deviation 1; Student's t for 3 - 1 degrees of freedom is 4.303 at 97.5 %
    half = 4.303 / 3**0.5
    row = tables.paired(path, "B").splitlines()[2]
    assert (
        row
        == f"| A, b | 3 | +0.0 (+0.0 to +0.0) | +10.0 (+10.0 to +10.0) | +2.0 ({2 - half:+.1f} to {2 + half:+.1f}) |"
    )
    with pytest.raises(ValueError, match="no row 'C', expected one of 'A, b', 'B'"):
        tables.paired(path, "C")


def test_what_regression_reads_from_a_latent(tables: ModuleType) -> None:
    latent = importlib.import_module("latent")
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(2000, 6, generator=generator, dtype=torch.float64)
    train = torch.arange(2000) % 2 == 0
    assert latent.explained(z, z[:, :2] * 3 + 1, train) == pytest.approx(1, abs=1e-5)
    noise = torch.randn(2000, 2, generator=generator, dtype=torch.float64)
    assert abs(latent.explained(z, noise, train)) < 0.02
    # half of the variance
    assert latent.explained(z, z[:, :2] + noise, train) == pytest.approx(0.5, abs=0.05)


def test_gains_on_sets_of_unseen_classes(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = importlib.import_module("sets")
    drawn = sets.drawn_sets()
    assert len({tuple(names) for names in drawn}) == 10
    assert all(len(set(names)) == 4 and set(names) < set(sets.CLASSES) for names in drawn)
    jobs = sets.jobs_of(drawn)
    assert len(jobs) == 40
    assert all(job.base is None or jobs[job.base].options[:2] == job.options[:2] for job in jobs.values())
    with pytest.raises(FileNotFoundError, match="0_transfer is not there"):
        sets.table(drawn[:2], tmp_path)
    for name in jobs:
        number, kind = name.split("_")
        score = {"transfer": 0.1, "annealed": 0.5, "probability": 0.6 if number == "0" else 0.4, "larger": 0.55}[kind]
        run = tmp_path / name / "seed0" / "version_0"
        run.mkdir(parents=True)
        (run / "results.json").write_text(json.dumps({"test": dict.fromkeys(sets.SCORES, score)}))
    monkeypatch.setattr(sets, "scores_of", lambda run, flip, scales: [70.0, 60.0, 65.0 if "0_" in str(run) else 35.0])
    first, second, mean = sets.table(drawn[:2], tmp_path).splitlines()[2:]
    assert (
        "10.0 / 10.0 / 10.0 | 50.0 / 50.0 / 50.0 | 60.0 / 60.0 / 60.0 | +10.0 | 70.0 / 60.0 / 65.0 | +15.0 |" in first
    )
    assert second.endswith("| -10.0 | 70.0 / 60.0 / 35.0 | -15.0 | 55.0 / 55.0 / 55.0 | +5.0 |")
    assert "| +0.0 (14.1) | | +0.0 (21.2) | | +5.0 (0.0) |" in mean


def test_what_made_features_cover(tables: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    confusions = importlib.import_module("confusions")
    model = SimpleNamespace(generator=None, class_vectors=None, protocol=SimpleNamespace(num_classes=22))
    real = torch.randn(confusions.CELLS, 4)
    # class 1 is made as it is, class 2 far away, all others farther
    places = torch.full((model.protocol.num_classes,), 1000.0)
    places[1], places[2] = 0, 100
    made = torch.cat([real + place for place in places]).t()[None, :, :, None]
    monkeypatch.setattr(confusions.steps, "synthetic_features", lambda *given: made)
    found = confusions.cover(model, {1: real, 2: real})
    assert found[1][0] == 1 and found[2][0] == 0
    assert found[1][1][1] == found[2][1][1] == 1
    assert confusions.largest(torch.tensor([0.2, 0.5, 0.3]), ("a", "b", "c"), 0) == "itself 20, b 50, c 30"
