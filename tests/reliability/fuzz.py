"""Reads many mutated files of every format: each gives a result or a clear error, in bounded time and memory.

python -m tests.reliability.fuzz --inputs 20000 --seed 0 --failures FOLDER
python -m tests.reliability.fuzz --replay FORMAT=FILE ...
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import resource
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

import numpy as np
import torch

from sign_zs3 import ClassTable, Segmenter, UserError
from sign_zs3.commands.configuration import with_includes
from sign_zs3.commands.embed import _listed_names
from sign_zs3.data.convert import convert, read_colours
from sign_zs3.data.datasets.files import read_classes, read_index_mask, read_list, read_mat
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.transforms import training_preset
from sign_zs3.embeddings import build_table, read_vectors
from sign_zs3.images import read_image
from sign_zs3.models.backbones.build import build_backbone
from sign_zs3.reports.formats import as_csv, as_latex, as_markdown
from sign_zs3.reports.runs import collect, read_losses
from sign_zs3.reports.table import tabulate
from sign_zs3.tasks import load_task
from tests.reliability import seeds
from tests.reliability.mutate import (
    Mutator,
    any_bytes,
    in_checkpoint,
    in_gzip,
    in_json,
    in_mat,
    in_png,
    in_safetensors,
    in_zip,
)

SECONDS = 20
"""An input that takes longer counts as a hang."""

ROOM = 2048
"""MiB of address space that an input may take: the largest is a mask that claims 179 million pixels."""

Content = bytes | Mapping[str, bytes]


@dataclass(frozen=True)
class Format:
    """A kind of file: where fuzzing starts from, how it is read, and what is mutated inside.

    Args:
        seeds: Makes contents, once; of a folder by name.
        read: Reads it and uses the result.
        name: Of the file.
        inside: Mutations beside those of bytes.
        share: Of the inputs, relative to others: reading some takes a hundred times as long.
    """

    seeds: Callable[[], Sequence[Content]]
    read: Callable[[Path], object]
    name: str
    inside: Sequence[Mutator] = ()
    share: float = 1.0


@dataclass
class Tally:
    """What came of the inputs of a format."""

    inputs: int = 0
    results: int = 0
    errors: int = 0
    failures: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory: float = 0.0


# -- readers: each also uses what it read -----------------------------------------------------------------------------


def use_image(path: Path) -> None:
    read_image(path, max_pixels=4_000_000)


def use_list(path: Path) -> None:
    folder = path.parent / "images"
    for name in read_list(path):
        assert folder in (folder / name).resolve().parents, name


def use_vectors(path: Path) -> None:
    found = read_vectors(path, seeds.NAMES)
    assert all(np.isfinite(row).all() for row in (*found.entries.values(), *found.subwords.values()))
    build_table({"source": found}, seeds.NAMES, "drop")


def use_table(path: Path) -> None:
    table = ClassTable.load(path)
    assert all(np.isfinite(matrix).all() for matrix in table.sources.values())
    table.vectors(list(seeds.NAMES))


def use_checkpoint(path: Path) -> None:
    model = load_task(path)
    assert all(value.isfinite().all() for value in model.state_dict().values() if value.is_floating_point())
    assert model.hparams["feature_cache"] is None
    model.segmenter.predict(np.zeros((32, 40, 3), np.uint8))


def use_folder(path: Path) -> None:
    Segmenter.from_pretrained(path).predict(np.zeros((32, 40, 3), np.uint8))


def use_weights(path: Path) -> None:
    build_backbone("small", weights=str(path))


def use_config(path: Path) -> None:
    with_includes(["fit", "--config", str(path)])


def use_augmentations(path: Path) -> None:
    training_preset(crop=32, augmentations=path)


def use_results(path: Path) -> None:
    rows = tabulate(collect([path.parent]))
    assert as_markdown(rows, "title") and as_csv(rows) and as_latex(rows)


def use_metrics(path: Path) -> None:
    for run in collect([path.parent]):
        read_losses(run)


def use_coco(path: Path) -> None:
    made = convert(path)
    for name, mask in made.masks:
        assert not Path(name).is_absolute() and ".." not in Path(name).parts, name
        assert mask.dtype == np.uint8 and set(np.unique(mask).tolist()) <= {0, 255, *made.classes}


def use_labelme(path: Path) -> None:
    use_coco(path.parent)


def use_maps(path: Path) -> None:
    cache = FeatureCache(path.parent, ".", lambda _: [], [8, 16])
    held = cache.holds(path.stem)
    maps = cache.read(path.stem, (48, 64))
    assert held and [m.shape[1:] for m in maps] == [(6, 8), (3, 4)]


def use_mat(path: Path) -> None:
    for fields in (("GTcls", "Segmentation"), ("LabelMap",)):
        try:
            read_mat(path, *fields)
            return
        except UserError as error:
            last = error
    raise last


def formats(canary: Path) -> dict[str, Format]:
    """Every format by name; a payload that is run makes the file `canary`."""
    found = {
        "image": Format(seeds.images, use_image, "image.jpg", [in_png]),
        "image without limit": Format(seeds.images, read_image, "image.jpg", [in_png], 0.3),
        "mask": Format(seeds.masks, read_index_mask, "mask.png", [in_png]),
        "mat": Format(seeds.mats, use_mat, "mask.mat", [in_mat, in_mat]),
        "list": Format(seeds.lists, use_list, "train.txt"),
        "classes": Format(seeds.classes, read_classes, "classes.txt"),
        "class names": Format(seeds.classes, _listed_names, "names.txt"),
    }
    for name in seeds.VECTORS:
        packed: list[Mutator] = [in_gzip] * 3 if name.endswith("gz") else []
        found[name] = Format(partial(seeds.vectors, name), use_vectors, "vectors", packed)
    for suffix, own in (("npz", in_zip), ("safetensors", in_safetensors)):
        contents = partial(seeds.tables, suffix, canary)
        found[f"table {suffix}"] = Format(contents, use_table, f"table.{suffix}", [own])
    for suffix, own in (("pth", in_checkpoint), ("safetensors", in_safetensors)):
        contents = partial(seeds.weights, suffix, canary)
        found[f"weights {suffix}"] = Format(contents, use_weights, f"small.{suffix}", [own], 0.5)
    thrice = [in_checkpoint] * 3
    return found | {
        "checkpoint": Format(partial(seeds.checkpoints, canary), use_checkpoint, "last.ckpt", thrice, 0.6),
        "folder": Format(seeds.folders, use_folder, "model", [in_json, in_json, in_safetensors], 0.6),
        "config": Format(partial(seeds.configs, canary), use_config, "config.yaml"),
        "augmentations": Format(partial(seeds.augmentations, canary), use_augmentations, "steps.yaml", share=0.5),
        "results": Format(seeds.results, use_results, "results.json", [in_json] * 3),
        "coco": Format(seeds.coco, use_coco, "annotations.json", [in_json] * 3),
        "labelme": Format(seeds.labelme, use_labelme, "scene.json", [in_json] * 3),
        "colours": Format(seeds.colours, read_colours, "colours.txt"),
        "metrics": Format(seeds.metrics, use_metrics, "metrics.csv", share=0.5),
        "feature cache": Format(seeds.maps, use_maps, "maps.safetensors", [in_safetensors]),
    }


# -- inputs -----------------------------------------------------------------------------------------------------------


def make(kind: Format, random: Random) -> Content:
    """An input: a seed, nearly always mutated."""
    seed = random.choice(kind.seeds())
    if isinstance(seed, bytes):
        return _mutated(kind, random, seed)
    name = random.choice(list(seed))
    own = [mutator for mutator in kind.inside if (mutator is in_json) == name.endswith(".json")]
    return {**seed, name: random.choice([any_bytes, *own])(random, seed[name])}


def _mutated(kind: Format, random: Random, seed: bytes) -> bytes:
    if random.random() < 0.01:
        return random.choice((seed, b"", random.randbytes(random.randrange(200))))
    return random.choice([any_bytes, *kind.inside])(random, seed)


def put(folder: Path, kind: Format, content: Content) -> Path:
    """Write an input, with what lies beside it."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / kind.name
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.mkdir(exist_ok=True)
        for name, part in content.items():
            (path / name).write_bytes(part)
    if kind.name == "metrics.csv":
        (folder / "results.json").write_bytes(seeds.results()[0])
    return path


def _peak() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0]) / 1024


def read_one(kind: Format, path: Path) -> tuple[str, str, float, float]:
    """Read an input: ``result``, ``error`` or ``failure``, the message, seconds and MiB."""
    Path("/proc/self/clear_refs").write_text("5")
    before, start = _peak(), time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    outcome, message = "result", ""
    try:
        kind.read(path)
    except UserError as error:
        outcome, message = "error", str(error)
        if len(message.splitlines()) != 1 or len(message) > 2000:
            outcome, message = "failure", f"no line of its own: {message[:500]!r}"
    except BaseException:  # noqa: BLE001, RUF100 (a time limit, and what native code raises, are failures too)
        outcome, message = "failure", traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return outcome, message, time.perf_counter() - start, _peak() - before


class _TooSlow(BaseException):
    pass


def _too_slow(number: int, frame: FrameType | None) -> None:
    raise _TooSlow(f"more than {SECONDS} s")


def limit() -> None:
    """Bound time and memory of what this process reads from now on."""
    signal.signal(signal.SIGALRM, _too_slow)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + ROOM * 2**20, resource.RLIM_INFINITY))


def work(
    known: Mapping[str, Format], jobs: Sequence[tuple[str, int]], seed: int, folder: Path, pipe: Connection
) -> None:
    """In a process of its own: read inputs, and tell of each before and after."""
    limit()
    for name, index in jobs:
        kind = known[name]
        content = make(kind, Random(f"{seed}/{name}/{index}"))
        path = put(folder / name, kind, content)
        pipe.send(None)
        pipe.send(read_one(kind, path))
    pipe.close()


def run(
    known: Mapping[str, Format], count: int, seed: int, failures: Path, chosen: Sequence[str] | None = None
) -> dict[str, Tally]:
    """Read `count` inputs in processes that may die, and keep those that fail."""
    # made once, before processes share them
    known = {name: replace(known[name], seeds=cache(known[name].seeds)) for name in chosen or known}
    for kind in known.values():
        kind.seeds()
    jobs = list(_jobs(known, count))
    tallies = {name: Tally() for name, _ in jobs}
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as made:
        done = 0
        while done < len(jobs):
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=work, args=(known, jobs[done : done + 500], seed, Path(made), theirs))
            process.start()
            theirs.close()
            until = min(done + 500, len(jobs))
            while done < until:
                name, index = jobs[done]
                told = _wait(ours) and _wait(ours)
                if not told:
                    process.kill()
                    process.join()
                    told = ("failure", f"the process ended or hung (exit code {process.exitcode})", SECONDS, 0.0)
                _count(
                    tallies[name],
                    told,
                    known[name],
                    failures / f"{name.replace(' ', '-')}-{seed}-{index}",
                    seed,
                    (name, index),
                )
                done += 1
                if process.exitcode is not None:
                    break
            process.join(5)
            if process.is_alive():
                process.kill()
    return tallies


def _wait(pipe: Connection) -> Any:
    """What a process says next: None where it died or says nothing for long; True where it begins an input."""
    try:
        return (pipe.recv() or True) if pipe.poll(3 * SECONDS) else None
    except (EOFError, ConnectionError):
        return None


def _jobs(known: Mapping[str, Format], count: int) -> Iterator[tuple[str, int]]:
    total = sum(kind.share for kind in known.values())
    for name, kind in known.items():
        for index in range(max(1, round(count * kind.share / total))):
            yield name, index


def _count(
    tally: Tally, told: tuple[str, str, float, float], kind: Format, place: Path, seed: int, job: tuple[str, int]
) -> None:
    outcome, message, seconds, memory = told
    tally.inputs += 1
    tally.results += outcome == "result"
    tally.errors += outcome == "error"
    tally.slowest, tally.memory = max(tally.slowest, seconds), max(tally.memory, memory)
    if outcome == "failure":
        tally.failures.append(message)
        put(place, kind, make(kind, Random(f"{seed}/{job[0]}/{job[1]}")))
        (place / "error.txt").write_text(message)


def report(tallies: Mapping[str, Tally]) -> str:
    """A line per format, and their sum."""
    lines = [f"{'format':<22}{'inputs':>8}{'results':>9}{'errors':>8}{'failures':>10}{'slowest s':>11}{'most MiB':>10}"]
    for name, t in [*tallies.items(), ("all", _sum(tallies))]:
        lines.append(
            f"{name:<22}{t.inputs:>8}{t.results:>9}{t.errors:>8}{len(t.failures):>10}{t.slowest:>11.2f}{t.memory:>10.0f}"
        )
    return "\n".join(lines)


def _sum(tallies: Mapping[str, Tally]) -> Tally:
    every = list(tallies.values())
    return Tally(
        sum(t.inputs for t in every), sum(t.results for t in every), sum(t.errors for t in every),
        [message for t in every for message in t.failures], max(t.slowest for t in every), max(t.memory for t in every),
    )  # fmt: skip


def main(args: Sequence[str] | None = None) -> int:
    """Fuzz, or read one file and show what it raises."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that fail")
    parser.add_argument("--formats", nargs="+", help="only these")
    parser.add_argument("--replay", nargs="+", metavar="FORMAT=FILE", help="read these and tell what came of each")
    options = parser.parse_args(args)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as made:
        canary = Path(made) / "canary"
        known = formats(canary)
        if options.replay:
            limit()
            for name, _, file in (given.partition("=") for given in options.replay):
                outcome, message, seconds, memory = read_one(known[name], Path(file))
                told = {"format": name, "outcome": outcome, "message": message, "seconds": seconds, "MiB": memory}
                print(json.dumps(told))
            return 0
        start = time.perf_counter()
        tallies = run(known, options.inputs, options.seed, options.failures, options.formats)
        print(report(tallies))
        print(
            f"seed {options.seed}, {time.perf_counter() - start:.0f} s; code run: {'YES' if canary.exists() else 'no'}"
        )
        messages = [message for tally in tallies.values() for message in tally.failures]
        for message in sorted({message.strip().splitlines()[-1][:200] for message in messages}):
            print("failure:", json.dumps(message))
        return 1 if messages or canary.exists() else 0


if __name__ == "__main__":
    sys.exit(main())
