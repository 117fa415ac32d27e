"""What `paper.py` looks at before it runs anything: data, class vectors, weights, room on the disk, and hours."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from jobs import HERE, Job

from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.embeddings.table import class_vectors
from sign_zs3.errors import UserError
from sign_zs3.models import Encoder
from sign_zs3.models.backbones.build import BACKBONES, build_backbone
from sign_zs3.tasks import METHODS

if TYPE_CHECKING:
    from benchmarks.estimate import Cost

TFLOPS = 40.0
"""10^12 operations per second that a card is taken to reach where there is none to measure."""
IMAGES = {"voc": (10_582, 1_449), "context": (4_998, 5_105), "coco_stuff": (118_287, 5_000)}
"""Data set -> images that the paper trains on, validation included, and tests on."""
SECONDS = 30
"""How long a server may be silent before weights are said not to be had: some networks answer nothing."""
PHASES = ("train", "generator", "transfer", "self_training")


@dataclass(frozen=True)
class Row:
    """What a row takes, for one seed.

    Attributes:
        iterations: Of all its phases.
        operations: Floating-point operations of these; None where they were not counted for such a network.
        checkpoint: Bytes that one of its checkpoints has at most.
        files: How many checkpoints it leaves.
    """

    iterations: int
    operations: float | None
    checkpoint: int
    files: int


def own_options(extra: Sequence[str], job: Job) -> list[str]:
    """Return the options that a row's method has: some, such as ``--model.transfer_iterations``, SPNet has not."""
    of_all, of_method = METHODS["SIGN"].defaults(), METHODS[method_of(job)].defaults()
    kept: list[str] = []
    skipped = False
    for word in extra:
        if word.startswith("--"):
            name = word.partition("=")[0].removeprefix("--model.")
            skipped = word.startswith("--model.") and name in of_all and name not in of_method
        kept += [] if skipped else [word]
    return kept


def method_of(job: Job) -> str:
    """Return the method of a row of Table 1, as `METHODS` has it."""
    return {"spnet": "SPNet", "zs3": "ZS3", "cagnet": "CaGNet", "sign": "SIGN"}[job.name.partition("_")[0]]


def read_rows(jobs: Mapping[str, Job], extra: Sequence[str]) -> dict[str, ConfiguredCLI]:
    """Read the configuration of each row; a UserError or SystemExit, after its line, where an option is none."""
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    given = {name: ["--config", str(HERE / job.config), *own_options(extra, job)] for name, job in jobs.items()}
    return {name: ConfiguredCLI(arguments, "A row of Table 1.") for name, arguments in given.items()}


def faults(rows: Mapping[str, ConfiguredCLI], dataset: str) -> tuple[list[str], int]:
    """Look for all that the rows read; return a line for each fault, and the length of class vectors.

    Weights that are missing are downloaded here, once for all runs.
    """
    first, found = next(iter(rows.values())), list[str]()
    data, model, word_dim = first.datamodule, first.config["model"], 0
    try:
        data.prepare_data()  # with --data.download, before the runs do so at once
        data.setup("fit")
        counts = [sum(map(len, (data.train_indices, data.val_indices))), len(data.test_set or ())]
        if counts != list(IMAGES[dataset]):
            trained, tested = IMAGES[dataset]
            print(
                f"warning: data: found {counts[0]:,} images to train on and {counts[1]:,} to test on, expected "
                f"{trained:,} and {tested:,} as in the paper: see docs/guides/paper_data.md"
            )
    except UserError as error:
        found.append(f"data: {error}")
    try:
        word_dim = class_vectors(model["vectors"], data.protocol.classes, model["center_vectors"]).shape[1]
    except UserError as error:
        found.append(f"{error}")
    silence = socket.getdefaulttimeout()
    try:
        socket.setdefaulttimeout(SECONDS)
        build_backbone(model["backbone"], model["output_stride"], model["weights"], model["backbone_levels"])
    except UserError as error:
        found.append(f"{error}")
    finally:
        socket.setdefaulttimeout(silence)
    return found, word_dim


def measure(job: Job, row: ConfiguredCLI, word_dim: int) -> Row:
    """Count the operations and the bytes of a row, on paper: no network is given memory."""
    config, protocol = row.config["model"], row.datamodule.protocol
    kind, options = METHODS[row.method], vars(config)
    known = {name: value for name, value in options.items() if name in kind.defaults()}
    model = kind(**{**known, "protocol": protocol.as_dict()})
    with torch.device("meta" if config["backbone"] in BACKBONES else "cpu"):
        model.class_vectors = torch.zeros(protocol.num_classes, word_dim)
        model.build_networks(word_dim, None)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in model.parts().items()}
    network = sum(t.numel() * t.element_size() for t in model.segmenter.state_dict().values())
    size = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    # SGD keeps one number for each weight, Adam two
    size += 4 * sum((2 if name in ("generator", "discriminator") else 1) * count for name, count in sizes.items())
    kinds = [kind for kind in PHASES if options.get(f"{kind}_iterations")]
    if options["self_training"] == "none":
        kinds.remove("self_training")
    if job.base is not None:
        kinds, size = ["self_training"], size + network  # the teacher's
    rounds = {kind: options["rounds"] if kind == "self_training" else 1 for kind in kinds}
    lengths = {kind: rounds[kind] * int(options[f"{kind}_iterations"]) for kind in kinds}
    operations = None
    if config["backbone"].startswith("resnet101"):
        data = row.datamodule
        crops = data.batch_size * options["accumulate"] * (data.crop_size / _estimate().CROP) ** 2
        operations = crops * sum(_operations(row.method, kind, protocol.num_classes) * n for kind, n in lengths.items())
    return Row(sum(lengths.values()), operations, size, 1 + sum(rounds.values()))


def _estimate() -> Any:
    """Return `benchmarks.estimate`, which lies beside this folder."""
    if str(HERE.parent) not in sys.path:
        sys.path.append(str(HERE.parent))
    from benchmarks import estimate

    return estimate


_costs: dict[int, Cost] = {}


def _operations(method: str, kind: str, classes: int) -> float:
    """Return the operations of an iteration on one crop; those of ZS3 and CaGNet are at most SIGN's, and taken so."""
    cost = _costs.get(classes) or _costs.setdefault(classes, _estimate().cost(classes))
    if method == "SPNet":
        return cost.plain
    return {"self_training": cost.self_training, "transfer": cost.transfer}.get(kind, cost.train)


def reached(batch: int = 8, crop: int = 0, seconds: float = 10.0) -> float:
    """Measure the operations per second that the first card reaches in training steps of ResNet-101."""
    estimate = _estimate()
    crop = crop or estimate.CROP
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with torch.device("meta"):
        meta, one = Encoder("resnet101"), torch.zeros(1, 3, crop, crop)
        operations = batch * estimate._count(lambda: torch.autograd.backward(meta(one).sum()))
    encoder, images = Encoder("resnet101").to(device), torch.zeros(batch, 3, crop, crop, device=device)
    start, steps = 0.0, -1  # the first step chooses algorithms and takes memory
    while steps < 1 or time.perf_counter() - start < seconds:
        encoder.zero_grad()
        torch.autograd.backward(encoder(images).sum())
        if device.type == "cuda":
            torch.cuda.synchronize()
        steps += 1
        start = start if steps else time.perf_counter()
    return float(steps * operations / (time.perf_counter() - start))


def speed_of(given: float | None) -> tuple[float, str]:
    """Return the operations per second that an estimate is for, and whence they are."""
    if given is None and torch.cuda.is_available():
        # in a process of its own, whose memory on the card is free afterwards
        done = subprocess.run([sys.executable, __file__], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return float(done.stdout), "measured here"
        print(f"warning: the card's speed was not measured: {' '.join(done.stderr.split())[-200:]}")
    return 1e12 * (given or TFLOPS), "taken, see --tflops"


def needed(todo: Sequence[tuple[Job, int]], rows: Mapping[str, Row], at_once: int) -> int:
    """Return the bytes that runs write: what each leaves and, of those that run at once, two checkpoints more.

    One is written beside the one that it replaces, and the one from which a stopped run goes on is kept until the next.
    """
    left = sum(rows[job.name].checkpoint * rows[job.name].files for job, _ in todo)
    largest = sorted((rows[job.name].checkpoint for job, _ in todo), reverse=True)[:at_once]
    return left + 2 * sum(largest)


def free(folder: Path) -> int:
    """Return the bytes that are free where a folder lies or is to lie."""
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.is_dir())
    return shutil.disk_usage(there).free


def hours_of(todo: Sequence[tuple[Job, int]], rows: Mapping[str, Row], speed: float, cards: int) -> tuple[float, float]:
    """Return the hours of all runs one after another, and those that so many cards take at least."""
    hours = {name: (row.operations or 0) / speed / 3600 for name, row in rows.items()}
    total = sum(hours[job.name] for job, _ in todo)
    # a chain is a base and the longest of those that start from it
    chains = [hours[job.name] + hours.get(job.base or "", 0) for job, _ in todo]
    return total, max([total / cards, *chains])


if __name__ == "__main__":
    print(reached())
