"""What the training pipeline costs, as ratios to decoding the same JPEG and mask files alone.

    OMP_NUM_THREADS=1 .venv/bin/python -m benchmarks.data --root ../shared/data

"Bare" is Pillow decoding the image to RGB and the mask, nothing else. The pipeline is what training reads: batches of
the default preset (warp 513, crop 321) from a `StreamLoader`, as a Trainer gets them (masks are widened on the device).
"Plain" is the preset of the published loaders, step by step on the CPU: resize, scale, pad, crop, flip and normalise by
albumentations. "Evaluation" is a `Loader` of single images, at their own size or warped to 513. With 0 workers all run
on one core, with N in N processes. The kinds are run in turns and the medians compared, so that a slow minute of the
machine falls on all of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from sign_zs3.data.datasets.base import Transform
from sign_zs3.data.datasets.coco_stuff import COCOStuffDataset
from sign_zs3.data.datasets.files import read_mat
from sign_zs3.data.datasets.folder import FolderDataset, folder_protocol
from sign_zs3.data.datasets.listed import Item, ListedDataset
from sign_zs3.data.datasets.voc import VOCDataset
from sign_zs3.data.stream import Loader, ShardSampler, Stream, StreamLoader, worker_options
from sign_zs3.data.transforms import MEAN_COLOUR, evaluation_preset, training_preset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
KINDS = ("bare", "pipeline", "plain", "evaluation", "evaluation 513")
BATCH = 8
NAMES = [f"class {number}" for number in range(1, 21)]


@dataclass(frozen=True)
class Case:
    """A data set under any transform, and the images of it that are read in a round, some of them often."""

    name: str
    make: Callable[[Transform | None], ListedDataset]
    indices: list[int]
    warp: int = 513
    crop: int = 321

    @classmethod
    def of(cls, name: str, make: Callable[[Transform | None], ListedDataset], count: int, suffix: str = ".png") -> Case:
        """Takes `count` of the images whose masks have a suffix."""
        chosen = [i for i, item in enumerate(make(None).items) if item.mask.suffix == suffix]
        return cls(name, make, (chosen * count)[:count])

    @property
    def items(self) -> list[Item]:
        dataset = self.make(None)
        return [dataset.items[i] for i in self.indices]


def photograph(height: int, width: int, seed: int) -> Image.Image:
    """Noise of all scales, coarse ones strongest, which a JPEG stores in about as much as a photograph."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for power in range(2, 10):
        coarse = rng.standard_normal((2**power, 2**power, 3)).astype(np.float32)
        total += 0.6**power * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return Image.fromarray((128 + 160 * total).clip(0, 255).astype(np.uint8))


def write_folder(root: Path, height: int, width: int, count: int, names: Sequence[str] = NAMES) -> None:
    """Writes images as JPEG of quality 95 and masks as palette PNG, in the layout of a user's own folder."""
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True)
    (root / "classes.txt").write_text("".join(f"{i}\t{name}\n" for i, name in enumerate(names, start=1)))
    for number in range(count):
        photograph(height, width, number).save(root / "images" / f"{number}.jpg", quality=95)
        blobs = np.asarray(photograph(height, width, 1000 + number).convert("L")) // 13
        mask = Image.fromarray(cv2.medianBlur(blobs.astype(np.uint8), 15))
        mask.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
        mask.save(root / "masks" / f"{number}.png")


def folder_case(name: str, root: Path, count: int, warp: int = 513, crop: int = 321) -> Case:
    protocol = folder_protocol(root)

    def make(transform: Transform | None) -> ListedDataset:
        return FolderDataset(root, "train", protocol, test_fraction=0.0, hide_unseen=True, transform=transform)

    return replace(Case.of(name, make, count), warp=warp, crop=crop)


def cases(root: Path, written: Path, count: int) -> Iterator[Case]:
    """Yields what lies under `root`, then large images; images of VOC's size are made where none is there."""
    if (root / "VOCdevkit").is_dir():

        def voc(transform: Transform | None) -> ListedDataset:
            return VOCDataset(root, "train", sbd, hide_unseen=True, transform=transform)

        sbd = root if (root / "benchmark_RELEASE").is_dir() else None
        yield Case.of("VOC", voc, count)
        if sbd is not None:
            yield Case.of("SBD (.mat masks)", voc, count, ".mat")
    if (coco := root / "coco-stuff").is_dir():

        def stuff(transform: Transform | None) -> ListedDataset:
            return COCOStuffDataset(coco, "train", val_size=0, hide_unseen=True, transform=transform)

        yield Case.of("COCO-Stuff", stuff, count)
    if (root / "msrc").is_dir():
        yield folder_case("MSRC", root / "msrc", count)
        # as experiments/msrc.yaml has it: these images are smaller than the crop above
        yield folder_case("MSRC, 225 and 161", root / "msrc", count, warp=225, crop=161)
    if not (root / "VOCdevkit").is_dir():
        write_folder(written / "small", 375, 500, 24)
        yield folder_case("made, 500 x 375", written / "small", count)
    write_folder(written / "large", 3000, 4000, 4)
    # each takes as long as fifty small ones
    yield folder_case("made, 4000 x 3000", written / "large", max(2 * BATCH, count // 8))


def decode(item: Item) -> None:
    """The bare decoding: RGB pixels and labels in Pillow's memory, SBD's labels in SciPy's."""
    with Image.open(item.image) as image:
        image.convert("RGB")
    if item.mask.suffix == ".mat":
        read_mat(item.mask, "GTcls", "Segmentation")
    else:
        with Image.open(item.mask) as mask:
            mask.load()


class Plain(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The published loaders' way, as one would write it with albumentations."""

    def __init__(self, case: Case) -> None:
        import albumentations as A

        self.items = case.items
        table = case.make(None).protocol.lookup(hide_unseen=True)
        self.table: NDArray[np.int64] = np.where(table < 0, 255, table)
        self.steps = A.Compose(
            [
                A.Resize(case.warp, case.warp),
                A.RandomScale((-0.5, 0.5), p=1),
                A.PadIfNeeded(case.crop, case.crop, border_mode=cv2.BORDER_CONSTANT, fill=MEAN_COLOUR, fill_mask=255),
                A.RandomCrop(case.crop, case.crop),
                A.HorizontalFlip(),
                A.Normalize(),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        item = self.items[index]
        with Image.open(item.image) as file:
            image = np.asarray(file.convert("RGB"))
        if item.mask.suffix == ".mat":
            mask = read_mat(item.mask, "GTcls", "Segmentation")
        else:
            with Image.open(item.mask) as file:
                mask = np.asarray(file)
        result = self.steps(image=image, mask=np.ascontiguousarray(mask))
        planes = np.ascontiguousarray(result["image"].transpose(2, 0, 1))
        return torch.from_numpy(planes), torch.from_numpy(self.table[result["mask"]])


def loader(kind: str, case: Case, workers: int) -> DataLoader[Any]:
    """Returns the loader of a kind; a pass over it is a round."""
    if kind == "pipeline":
        stream = Stream(case.make(training_preset(case.warp, crop=case.crop)), case.indices, seed=0, compact=True)
        return StreamLoader(stream, BATCH, num_workers=workers)
    if kind == "plain":
        return DataLoader(Plain(case), BATCH, shuffle=True, drop_last=True, **worker_options(workers))
    dataset = case.make(evaluation_preset(513 if kind.endswith("513") else None))
    return Loader(dataset, sampler=ShardSampler(case.indices), **worker_options(workers))


def seconds_per_image(case: Case, workers: int, rounds: int) -> dict[str, float]:
    """Median seconds per image of each kind."""
    items = case.items
    with ExitStack() as stack:
        pool = stack.enter_context(multiprocessing.Pool(workers)) if workers else None
        loaders = {kind: loader(kind, case, workers) for kind in KINDS[1:]}

        def run(kind: str) -> float:
            start = time.perf_counter()
            if kind != "bare":
                images = sum(len(batch["id"]) if isinstance(batch, dict) else len(batch[0]) for batch in loaders[kind])
            else:
                images = len(items)
                if pool is None:
                    for item in items:
                        decode(item)
                else:
                    pool.map(decode, items, chunksize=BATCH)
            return (time.perf_counter() - start) / images

        # the first turn starts the workers and fills the cache of files
        turns = [{kind: run(kind) for kind in KINDS} for _ in range(rounds + 1)][1:]
    return {kind: statistics.median(turn[kind] for turn in turns) for kind in KINDS}


def slowest_pipeline(workers: int) -> float:
    """Seconds per image of the training pipeline, of the data set that is slowest to read."""
    with tempfile.TemporaryDirectory() as written:
        found = [seconds_per_image(case, workers, 2) for case in cases(SHARED, Path(written), 32)]
    return max(seconds["pipeline"] for seconds in found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=SHARED, help="folder with VOCdevkit, coco-stuff or msrc, if any")
    parser.add_argument("--images", type=int, default=96, help="images per kind and round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2])
    parser.add_argument("--only", help="the cases whose name holds this")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    logging.getLogger("sign_zs3").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rows = []
    print(f"images per second as a share of bare decoding, {options.rounds} rounds of {options.images} images")
    print(f"{'images':18s} {'workers':>7s} {'bare':>9s} {'pipeline':>9s} {'plain':>9s} {'eval':>9s} {'eval 513':>9s}")
    with tempfile.TemporaryDirectory() as written:
        for case in cases(options.root, Path(written), options.images):
            if options.only and options.only not in case.name:
                continue
            for workers in options.workers:
                seconds = seconds_per_image(case, workers, options.rounds)
                ratios = {kind: seconds["bare"] / seconds[kind] for kind in KINDS[1:]}
                shares = " ".join(f"{ratio:9.2f}" for ratio in ratios.values())
                print(f"{case.name:18s} {workers:7d} {1000 * seconds['bare']:6.2f} ms {shares}", flush=True)
                rows.append({"images": case.name, "workers": workers, "seconds": seconds, "ratios": ratios})
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
