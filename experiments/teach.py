"""How well classes are taught by name: `extend` against having them in the vocabulary from the start.

On the built-in data, per seed: one run with six unseen classes, and one in which two of these are left out of the
vocabulary altogether (their pixels are ignored). Both stop after the transfer step. The second is then extended by the
two names, with and without the training images, and all are tested on the same scenes. It is also extended by three
names of which the scenes hold nothing: what these take is lost. And, extended by the two, it is self-trained on
unlabelled scenes. About seven minutes a seed on two cores:

    python experiments/teach.py --seeds 0 1 2 --output runs/teach
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from fitting import fit_unless_done
from PIL import Image

from sign_zs3 import GZSLMeanIoU, Protocol, ShapesDataModule, ZeroShotTask, extend, load_task, self_train
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.files import write_json
from sign_zs3.functional import gzsl_scores

UNSEEN = ["red square", "green triangle", "blue star", "yellow circle"]
TAUGHT = ["purple triangle", "blue square"]
ABSENT = ["orange circle", "pink star", "brown square"]
VOCABULARIES = {"full": ["--data.unseen", f"[{','.join(UNSEEN + TAUGHT)}]"],
                "left_out": ["--data.ignored_classes", f"[{','.join(TAUGHT)}]"]}  # fmt: skip


def train(name: str, seed: int, output: Path) -> Path:
    """Run the training unless it is there; return its transferred checkpoint."""
    config, phases = str(Path(__file__).parent / "quickstart.yaml"), ["--model.phases", "[train,generator,transfer]"]
    arguments = ["--config", config, *phases, "--seed_everything", str(seed), *VOCABULARIES[name]]
    return fit_unless_done(output / name / f"seed{seed}", arguments) / "checkpoints" / "transfer.ckpt"


@torch.no_grad()
def measure(model: ZeroShotTask) -> dict[str, Any]:
    """Score a model on scenes whose truth holds all classes, and the seen ones where the taught ones are ignored."""
    data = ShapesDataModule(unseen=UNSEEN + TAUGHT)
    data.setup("test")
    truth, mine = data.protocol, model.protocol
    # a pixel that gets the name of an absent class is wrong, whatever it is
    names = (*truth.classes, "absent")
    absent = len(truth.classes)
    to_truth = torch.tensor([names.index(name) if name in names else absent for name in mine.classes])
    metric = GZSLMeanIoU(names, truth.seen, [*truth.unseen, absent])
    for batch in data.test_dataloader():
        labels = torch.stack([model.label_image(image) for image in batch["image"]])
        metric.update(to_truth[labels], batch["mask"].long())
    scores = metric.compute()
    return {
        "seen": scores["seen_miou"],
        "seen_where_taught_is_ignored": seen_without(metric.confusion, truth),
        "other_unseen": statistics.fmean(scores["per_class"][name] for name in UNSEEN),
        "taught": {name: scores["per_class"][name] for name in TAUGHT},
    }


def seen_without(confusion: torch.Tensor, protocol: Protocol) -> float:
    """Return the seen mIoU where pixels of the taught classes do not count."""
    kept = confusion.clone()
    kept[[protocol.classes.index(name) for name in TAUGHT]] = 0
    return gzsl_scores(kept, protocol.seen, [*protocol.unseen, len(protocol.classes)])["seen_miou"]


def unlabelled_scenes(folder: Path, count: int = 400) -> Path:
    """Write scenes that no run has read, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = ShapesDataset("train", count, seed=1000)
    for index in range(count):
        Image.fromarray(dataset.read(index)[0]).save(folder / f"{index:03d}.png")
    return folder


def main(args: Sequence[str] | None = None) -> None:
    """Train what is missing, extend, measure, and write ``teach.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/teach"))
    options = parser.parse_args(args)
    rows: dict[str, list[dict[str, Any]]] = {}
    scenes = unlabelled_scenes(options.output / "unlabelled")
    for seed in options.seeds:
        full, left_out = (load_task(train(name, seed, options.output)) for name in VOCABULARIES)
        models = {"in the vocabulary from the start": (full, 0.0), "before extend": (left_out, 0.0)}
        for name, names, data in (
            ("extend", TAUGHT, None),
            ("extend with data", TAUGHT, ShapesDataModule(unseen=UNSEEN + TAUGHT)),
            ("absent classes", ABSENT, None),
            ("absent classes with data", ABSENT, ShapesDataModule(unseen=UNSEEN, ignored_classes=TAUGHT)),
        ):
            start = time.perf_counter()
            models[name] = (extend(left_out, names, data=data), time.perf_counter() - start)
        for name in ("extend", "extend with data"):
            start = time.perf_counter()
            trained = self_train(models[name][0], [scenes], iterations=100)
            models[f"{name}, self-trained"] = (trained, time.perf_counter() - start)
        for name, (model, seconds) in models.items():
            rows.setdefault(name, []).append({"seed": seed, "seconds": seconds, **measure(model)})
    write_json(options.output / "teach.json", rows)
    title = f"mean of seeds {' '.join(map(str, options.seeds))}"
    print(f"{title:34} {'taught':>7} {'seen':>6} {'seen*':>6} {'other':>6} {'s':>5}")
    for name, found in rows.items():
        means = [statistics.fmean(statistics.fmean(row["taught"].values()) for row in found)]
        means += [
            statistics.fmean(row[key] for row in found)
            for key in ("seen", "seen_where_taught_is_ignored", "other_unseen")
        ]
        each = " ".join(f"{100 * statistics.fmean(row['taught'].values()):.1f}" for row in found)
        numbers = "{:7.1f} {:6.1f} {:6.1f} {:6.1f}".format(*(100 * mean for mean in means))
        print(f"{name:34} {numbers} {statistics.fmean(row['seconds'] for row in found):5.1f}   taught, by seed: {each}")
    print("seen*: pixels of the taught classes do not count; other: the other unseen classes. Figures: mIoU in %.")


if __name__ == "__main__":
    main()
