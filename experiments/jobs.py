"""Rows of a table as jobs: what each is, from what it starts, and in which order they run."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from fitting import finished_run, fit_unless_done

HERE = Path(__file__).parent
SELF_TRAINING = ("--model.phases", "[self_training]")
BASES = ("spnet", "zs3", "cagnet", "sign")
ROWS = (*BASES, "zs3_st", "cagnet_st", "sign_st", "sign_ast")


@dataclass(frozen=True)
class Job:
    """A row without its seed.

    Attributes:
        name: Folder of its runs.
        config: Its YAML, below `experiments`.
        base: The row whose transferred model it starts from.
        options: More of the command line.
    """

    name: str
    config: str
    base: str | None = None
    options: tuple[str, ...] = ()


Run = Callable[[Job, int, Path, Sequence[str]], str | None]
"""Runs a row with a seed into a folder of runs, with further options; returns what went wrong, "" to say nothing."""


def table_1(dataset: str) -> dict[str, Job]:
    """Return the eight rows of Table 1, those first that others start from."""
    bases = {name: name.partition("_")[0] for name in ROWS if name not in BASES}
    return {name: Job(name, f"table1/{dataset}_{name}.yaml", bases.get(name)) for name in ROWS}


def from_base(job: Job, seed: int, runs: Path) -> list[str] | None:
    """Return the options that start a row from its base's transferred model; None where that is not there.

    A base that was stopped and went on has several folders, and its transferred model in any of them.
    """
    if job.base is None:
        return []
    folder = runs / job.base / f"seed{seed}"
    found = list(folder.glob("version_*/checkpoints/transfer.ckpt"))
    if finished_run(folder) is None or not found:
        return None
    return ["--model.init_from", str(max(found, key=lambda path: path.stat().st_mtime)), *SELF_TRAINING]


def fit(job: Job, seed: int, runs: Path, extra: Sequence[str]) -> str | None:
    """Run a row on one thread; return what went wrong."""
    folder = runs / job.name / f"seed{seed}"
    start = from_base(job, seed, runs)
    if start is None:
        return f"{job.name}, seed {seed}: {job.base} is not there"
    arguments = ["--config", str(HERE / job.config), "--seed_everything", str(seed)]
    arguments += ["--model.feature_cache", str(runs / "features"), *start]
    try:
        fit_unless_done(folder, [*arguments, *job.options, *extra], log=True)
    except subprocess.CalledProcessError as error:
        return f"{job.name}, seed {seed}: exit code {error.returncode}, see {folder / 'log.txt'}"
    return None


def run_all(
    jobs: Mapping[str, Job],
    seeds: Sequence[int],
    runs: Path,
    extra: Sequence[str],
    workers: int,
    run: Run | None = None,
) -> list[str]:
    """Run what is not there, each row once its base is, with `fit` or another `run`; return what went wrong."""
    run = run or fit
    todo = [(job, seed) for seed in seeds for job in jobs.values() if not finished_run(runs / job.name / f"seed{seed}")]
    total, errors = len(todo), []
    with ThreadPoolExecutor(workers) as pool:
        running: dict[Future[str | None], tuple[str, int]] = {}
        while todo or running:
            waiting = {(job.name, seed) for job, seed in todo} | set(running.values())
            ready = [(job, seed) for job, seed in todo if (job.base, seed) not in waiting]
            for job, seed in ready[: workers - len(running)]:
                running[pool.submit(run, job, seed, runs, extra)] = (job.name, seed)
                todo.remove((job, seed))
            finished, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in finished:
                name, seed = running.pop(future)
                error = future.result()
                if error is None:
                    error = f"[{total - len(todo) - len(running)}/{total}] {name}, seed {seed}"
                else:
                    errors.append(error)
                if error:
                    print(error, flush=True)
    return errors
