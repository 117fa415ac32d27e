"""Table 1 at the scale of the paper: eight rows on one of its three data sets, three seeds, as many at once as GPUs.

    .venv/bin/python experiments/paper.py --dataset voc --data DATA --plan
    .venv/bin/python experiments/paper.py --dataset voc --data DATA

Each run has a GPU for itself, which the published batch of 8 fits; without a GPU they run one by one. Rows with
self-training start from the transferred model of their method and seed. Give the command again after it was stopped or
killed: what is finished is not run again, what is not goes on from its last checkpoint. A job of a cluster takes one
chain, a method and a seed with its self-training (`--chain 0` to 11): see `experiments/slurm/paper.sbatch`.

Further options are those of `sign-zs3 fit` and go to every run whose method has them. Exit status: 0 when all that was
asked for is there, 1 when something failed, 75 when there is more to do: then give the command again.
"""

from __future__ import annotations

import argparse
import datetime
import fcntl
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from queue import Queue
from typing import IO, Any

import torch
from beforehand import TFLOPS, Row, faults, free, hours_of, measure, needed, own_options, read_rows, speed_of
from fitting import finished_run
from jobs import BASES, HERE, Job, from_base, run_all, table_1
from paired import paired

from sign_zs3.commands.results import run as collect
from sign_zs3.commands.training import STOPPED
from sign_zs3.errors import UserError
from sign_zs3.files import make_folder

DATASETS = ("voc", "context", "coco_stuff")
PROGRAM = (sys.executable, "-m", "sign_zs3")
SHORTEST = 60.0
"""Seconds that must be left for a run to be started."""


def lasts(folder: Path) -> list[Path]:
    """Return the files ``last.ckpt`` of a row and seed, the newest last: each time it goes on, it has a new folder."""
    return sorted(folder.glob("version_*/checkpoints/last.ckpt"), key=lambda path: path.stat().st_mtime)


class Runner:
    """Runs rows, each on cards of its own, until it is told to stop.

    A row and seed is claimed by a lock on a file of its folder, which the run inherits: it is free when both are gone,
    however they ended, so that no claim is left behind.

    Args:
        seconds: How long from now iterations may be begun; None for ever.

    Attributes:
        cards: What each run at a time has in ``CUDA_VISIBLE_DEVICES``; an empty string leaves that alone.
        postponed: Whether a run was stopped, was not begun, or is another program's.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.cards: Queue[str] = Queue()
        self.until = None if seconds is None else time.monotonic() + seconds
        self._signalled = self.postponed = False
        self.running: set[subprocess.Popen[bytes]] = set()

    def stop(self, number: int, frame: Any) -> None:
        """Have what runs save itself and end; called by signals."""
        self._signalled = True
        for program in list(self.running):
            program.terminate()

    def is_stopped(self) -> bool:
        """Return whether a signal has come."""
        return self._signalled

    def left(self) -> float | None:
        """Return the seconds that are left; None where there is no end."""
        return None if self.until is None else self.until - time.monotonic()

    def __call__(self, job: Job, seed: int, runs: Path, extra: Sequence[str]) -> str | None:
        """Run a row with a seed, or go on with it; return why it is not finished."""
        name, folder = f"{job.name}, seed {seed}", runs / job.name / f"seed{seed}"
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / ".lock").open("w") as lock:
            if not claimed(lock):
                self.postponed = True
                return f"{name}: another program runs it"
            if finished_run(folder) is not None:
                return None
            card = self.cards.get()
            try:
                return self._fit(job, seed, runs, extra, card, lock)
            finally:
                self.cards.put(card)

    def _fit(self, job: Job, seed: int, runs: Path, extra: Sequence[str], card: str, lock: IO[str]) -> str | None:
        name, folder = f"{job.name}, seed {seed}", runs / job.name / f"seed{seed}"
        left = self.left()
        if self.is_stopped() or (left is not None and left < SHORTEST):
            self.postponed = True
            return ""
        start = from_base(job, seed, runs)
        if start is None:
            return f"{name}: {job.base} is not there"
        command = [*PROGRAM, "fit", "--config", str(HERE / job.config)]
        command += ["--seed_everything", str(seed), "--trainer.default_root_dir", str(folder), *start]
        command += ["--trainer.devices", str(len(card.split(","))), *job.options, *own_options(extra, job)]
        files = lasts(folder)
        last = files[-1] if files else None
        if last is not None:
            command += ["--ckpt_path", str(last)]
            _remove(files[:-1])
        if left is not None:
            command += ["--trainer.max_time", max_time(left)]
        where = f" on GPU {card}" if card else ""
        print(f"{name}: {'begins' if last is None else f'goes on from {last}'}{where}", flush=True)
        log = folder / "log.txt"
        # this program deals with SLURM: a run would take its neighbours' ranks for its own
        environment = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        if card:
            environment["CUDA_VISIBLE_DEVICES"] = card
        with log.open("a", encoding="utf-8") as file:
            before = file.tell()
            file.write(" ".join(command) + "\n")
            file.flush()
            program = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment, pass_fds=[lock.fileno()]
            )
            self.running.add(program)
            if self.is_stopped():  # the signal may have come a moment before
                program.terminate()
            status = program.wait()
            self.running.discard(program)
        if finished_run(folder) is not None:
            _remove(lasts(folder)[:-1])
            return None
        if status == STOPPED or self.is_stopped():
            self.postponed = True
            return f"{name}: stopped"
        return f"{name}: exit status {status}{_reason(log, before)}, see {log}"


def claimed(lock: IO[str]) -> bool:
    """Lock a file for this program and those that inherit it; False where another has it.

    A file system without locks, as a network's may be, lets all have it: there only one program may run a chain.
    """
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        print(f"warning: {lock.name}: no locks on this disk: start no row and seed twice", flush=True)
    return True


def _remove(files: Sequence[Path]) -> None:
    """Delete checkpoints that a newer one has replaced."""
    for file in files:
        file.unlink(missing_ok=True)


def _reason(log: Path, start: int) -> str:
    """Return what the last error of a log says from some byte on, in brackets."""
    lines = log.read_bytes()[start:].decode("utf-8", errors="replace").splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    return f" ({errors[-1].removeprefix('error: ')})" if errors else ""


def max_time(seconds: float) -> str:
    """Return seconds as ``--trainer.max_time`` has them."""
    minutes, second = divmod(max(1, int(seconds)), 60)
    return f"{minutes // 1440:02}:{minutes // 60 % 24:02}:{minutes % 60:02}:{second:02}"


def duration(text: str) -> float:
    """Return the seconds of ``HH:MM:SS`` or, as SLURM has it, ``D-HH:MM:SS``."""
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected HH:MM:SS or D-HH:MM:SS, such as 11:30:00")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return datetime.timedelta(days, seconds, 0, 0, minutes, hours).total_seconds()


def chain_of(number: int, seeds: Sequence[int]) -> tuple[str, int]:
    """Return method and seed of a chain: SIGN's first, which are the longest."""
    count = len(BASES) * len(seeds)
    if not 0 <= number < count:
        raise UserError(f"--chain: found {number}, expected 0 to {count - 1}: four methods and {len(seeds)} seeds")
    return BASES[::-1][number // len(seeds)], seeds[number % len(seeds)]


def chosen(options: argparse.Namespace) -> tuple[dict[str, Job], list[int]]:
    """Return the rows, with those that they start from, and the seeds that the options ask for."""
    jobs, seeds = table_1(options.dataset), options.seeds
    names = set(options.rows or jobs)
    if options.chain is not None:
        method, seed = chain_of(options.chain, seeds)
        names, seeds = {name for name in jobs if name.partition("_")[0] == method}, [seed]
    if unknown := names - jobs.keys():
        raise UserError(f"--rows: found {min(unknown)!r}, expected some of {', '.join(jobs)}")
    names |= {base for name in names if (base := jobs[name].base)}
    return {name: job for name, job in jobs.items() if name in names}, seeds


def cards_of(limit: int | None, each: int) -> list[str]:
    """Return the cards of each run at a time; one run without a card where there is none."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    names = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    names = names[:limit]
    if not names:
        return [""]
    if each > len(names):
        raise UserError(f"--cards_per_run: found {each}, expected at most {len(names)}, the GPUs there are: lower it")
    return [",".join(names[start : start + each]) for start in range(0, len(names) - each + 1, each)]


def data_options(dataset: str, data: Path) -> list[str]:
    """Return the options that name the data; VOC's masks may be SBD's own, or converted ones."""
    options = ["--data.root", str(data)]
    if dataset == "voc":
        has_masks = (data / "VOCdevkit" / "VOC2012" / "SegmentationClassAug").is_dir()
        has_sbd = (data / "benchmark_RELEASE").is_dir()
        options += ["--data.sbd_root", "null" if has_masks and not has_sbd else str(data)]
    return options


def refuse_others(runs: Path, extra: Sequence[str]) -> None:
    """Refuse a folder whose runs have other options, since they would pass for these."""
    path = runs / "options.json"
    if not path.is_file() or not any(runs.glob("*/seed*/version_*")):
        return
    if (found := json.loads(path.read_text(encoding="utf-8"))) != list(extra):
        shown = [" ".join(options) or "none but the rows' own" for options in (found, extra)]
        raise UserError(
            f"{path}: found runs with the options '{shown[0]}', expected '{shown[1]}': give the former, or another "
            "folder with --runs"
        )


def note_options(runs: Path, extra: Sequence[str]) -> None:
    """Write down the options of a folder of runs; jobs of an array may do so at once."""
    make_folder(runs)
    beside = runs / f".options-{socket.gethostname()}-{os.getpid()}"
    beside.write_text(json.dumps(list(extra)), encoding="utf-8")
    beside.replace(runs / "options.json")


def check(options: argparse.Namespace, todo: Sequence[tuple[Job, int]], extra: Sequence[str], cards: list[str]) -> bool:
    """Print the plan, and a line for each fault; return whether the runs may begin."""
    jobs = {job.name: job for job, _ in todo}
    read = read_rows(jobs, extra)
    found, word_dim = faults(read, options.dataset)
    rows: dict[str, Row] = {}
    if not found:
        rows = {name: measure(job, read[name], word_dim) for name, job in jobs.items()}
        need, room = needed(todo, rows, len(cards)), free(options.runs)
        print(f"disk: {need / 1e9:.1f} GB needed, {room / 1e9:.1f} GB free where {options.runs} is")
        if need > room:
            found.append(
                f"{options.runs}: found {room / 1e9:.1f} GB free, expected {need / 1e9:.1f} GB for the checkpoints: "
                "make room, or name another folder with --runs"
            )
        if all(row.operations is not None for row in rows.values()):
            speed, whence = speed_of(options.tflops)
            total, least = hours_of(todo, rows, speed, len(cards))
            print(
                f"time: {total:.1f} hours one by one, at least {least:.1f} with {len(cards)} at a time, validation and "
                f"test not counted, at {speed / 1e12:.1f} x 10^12 operations a second ({whence})"
            )
        else:
            print("time: not estimated, since operations are counted for ResNet-101 alone")
        for name, row in rows.items():
            seeds = " ".join(str(seed) for job, seed in todo if job.name == name)
            print(f"  {name:<10} seeds {seeds}: {row.iterations:,} iterations, "
                  f"{row.files} checkpoints of {row.checkpoint / 1e9:.2f} GB")  # fmt: skip
    for fault in found:
        print(f"error: {fault}", file=sys.stderr)
    return not found


def table(dataset: str, seeds: Sequence[int], runs: Path, output: Path) -> None:
    """Write and print the table of what is finished, the paper's numbers beside it, and differences by seed."""
    there = [finished_run(runs / name / f"seed{seed}") for name in table_1(dataset) for seed in seeds]
    results = [str(run / "results.json") for run in there if run is not None]
    if len(results) < len(there):
        print(f"the table has {len(results)} of {len(there)} runs")
    if not results:
        return
    collect([*results, "--output", str(output)])
    if finished_run(runs / "sign_ast" / f"seed{seeds[0]}") and len(seeds) > 1:
        text = paired(output / "runs.csv", "SIGN + AST")
        (output / "paired.md").write_text(text, encoding="utf-8")
        print(text)


def main(args: Sequence[str] | None = None) -> int:
    """Check, run, and collect."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    add = parser.add_argument
    add("--dataset", choices=DATASETS, default="voc")
    add("--data", type=Path, default=Path("data"), help="the folder that docs/guides/paper_data.md describes")
    add("--vectors", help="the file of class vectors (default: the rows' own)")
    add("--runs", type=Path, help="default: runs/paper/DATASET")
    add("--output", type=Path, help="of the table (default: RUNS/tables)")
    add("--seeds", type=int, nargs="+", default=[0, 1, 2])
    add("--rows", nargs="+", help="some rows, such as sign sign_ast; those that they start from come too")
    add("--chain", type=int, help="a method and seed alone, from 0 to 11 for three seeds; no table")
    add("--devices", type=int, help="how many GPUs (default: all there are)")
    add("--cards_per_run", type=int, default=1, help="GPUs of one run, by DDP: divide --data.batch_size by it")
    add("--time", type=duration, metavar="HH:MM:SS", help="stop when this is over, with exit status 75")
    add("--tflops", type=float, help=f"10^12 operations a second for the estimate (default: measured, or {TFLOPS:g})")
    add("--plan", action="store_true", help="check, print what would run, and end")
    options, extra = parser.parse_known_args(args)
    options.runs = options.runs or Path("runs", "paper", options.dataset)
    options.output = options.output or options.runs / "tables"
    if options.vectors:
        extra = ["--model.vectors", options.vectors, *extra]
    runner = Runner(options.time)
    handlers = {n: signal.signal(n, runner.stop) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    try:
        return run(options, extra, runner)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def run(options: argparse.Namespace, extra: list[str], runner: Runner) -> int:
    """Do what the options ask for; return the exit status."""
    jobs, seeds = chosen(options)
    cards = cards_of(options.devices, options.cards_per_run)
    for card in cards:
        runner.cards.put(card)

    def left() -> list[tuple[Job, int]]:
        return [(job, seed) for job in jobs.values() for seed in seeds
                if finished_run(options.runs / job.name / f"seed{seed}") is None]  # fmt: skip

    todo = left()
    print(f"{options.dataset}: {len(todo)} of {len(jobs) * len(seeds)} runs to do, {len(cards)} at a time", flush=True)
    if todo:
        refuse_others(options.runs, extra)
        given = [*data_options(options.dataset, options.data), *extra]
        if not check(options, todo, given, cards):
            return 1
        if options.plan:
            return 0
        note_options(options.runs, extra)
        run_all(jobs, seeds, options.runs, given, len(cards), runner)
        todo = left()
    if todo and runner.postponed:
        print(f"{len(todo)} runs are left: give the command again", flush=True)
        return STOPPED
    if options.chain is None and options.rows is None:
        table(options.dataset, seeds, options.runs, options.output)
    return int(len(todo) > 0)


if __name__ == "__main__":
    sys.exit(main())
