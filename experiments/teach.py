"""How well classes are taught by name: `extend` against having them in the vocabulary from the start.

    .venv/bin/python experiments/teach.py shapes
    .venv/bin/python experiments/teach.py msrc --data.root data/msrc
    .venv/bin/python experiments/teach.py voc13 --data.root data --model.vectors vectors/voc.npz

Per seed: one run with the taught classes among the unseen ones, and one in which they are left out of the vocabulary
altogether, so that their pixels are ignored. Both stop after the transfer step. The second is then extended by the
names, with and without the training images, and by names of which no image shows anything: what these take is lost.
All are tested on the same images. Self-training, by the rule without a setting, goes on from the full vocabulary and
from the extended one on the same training images and, on the built-in data, from scenes without masks. Further options
are those of `fit`. What is there is not run again.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fitting import fit_unless_done, test
from PIL import Image

from sign_zs3 import ZeroShotTask, extend, load_task, save_model, self_train
from sign_zs3.commands.configured import ConfiguredCLI
from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.files import write_json
from sign_zs3.functional import gzsl_scores

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Setting:
    """A row, and the classes: unseen in both vocabularies, taught, absent from all images, and ignored throughout."""

    config: str
    unseen: Sequence[str]
    taught: Sequence[str]
    absent: Sequence[str]
    ignored: Sequence[str] = ()


SETTINGS = {
    "shapes": Setting(
        "quickstart.yaml", ["red square", "green triangle", "blue star", "yellow circle"],
        ["purple triangle", "blue square"], ["orange circle", "pink star", "brown square"],
    ),
    "msrc": Setting(
        "table1/msrc_sign.yaml", ["cow", "dog", "boat", "bicycle"], ["horse", "mountain"], ["zebra", "piano", "bridge"]
    ),
    "voc13": Setting(
        "table1/voc13_sign.yaml", ["pottedplant", "tvmonitor"], ["sheep", "sofa"], ["aeroplane", "boat", "train"],
        ["aeroplane", "bicycle", "bird", "boat", "bus", "motorbike", "train"],
    ),
}  # fmt: skip


class Teaching:
    """The runs, the extended models and their scores on one data set, with one seed.

    Args:
        setting: The row and the classes.
        seed: Of the training.
        folder: Of its runs.
        extra: More of the command line.
    """

    def __init__(self, setting: Setting, seed: int, folder: Path, extra: Sequence[str]) -> None:
        self.setting, self.seed, self.folder = setting, seed, folder
        self.config = ["--config", str(HERE / setting.config)]
        self.extra = list(extra)

    def classes(self, full: bool) -> list[str]:
        """Return the options of a vocabulary: the `full` one, or the one without the taught classes."""
        taught, ignored = [*self.setting.taught], [*self.setting.ignored]
        unseen = [*self.setting.unseen, *(taught if full else [])]
        names = {"unseen": unseen, "ignored_classes": ignored if full else ignored + taught}
        return [text for key, found in names.items() for text in (f"--data.{key}", f"[{','.join(found)}]")]

    def fit(self, name: str, full: bool, *options: str) -> Path:
        """Run a training unless it is there; return its folder."""
        arguments = [*self.config, "--seed_everything", str(self.seed), *self.classes(full), *options, *self.extra]
        return fit_unless_done(self.folder / name, arguments, log=True)

    def transferred(self, name: str, full: bool) -> ZeroShotTask:
        """Return the model that a training up to the transfer step ends with."""
        run = self.fit(name, full, "--model.phases", "[train,generator,transfer]")
        return load_task(run / "checkpoints" / "transfer.ckpt")

    def self_trained(self, name: str, model: ZeroShotTask) -> ZeroShotTask:
        """Self-train a model that knows all classes on the training images."""
        start = self.folder / f"{name}.ckpt"
        save_model(model, start)
        phases = ("--model.phases", "[self_training]", "--model.self_training", "probability")
        run = self.fit(name, True, "--model.init_from", str(start), *phases)
        return load_task(run / "checkpoints" / "last.ckpt")

    def data(self, full: bool = True) -> ZeroShotDataModule:
        """Return the data of a vocabulary."""
        found = self.configured(full).datamodule
        assert isinstance(found, ZeroShotDataModule)
        return found

    def configured(self, full: bool = True) -> ConfiguredCLI:
        """Return what the row says, with a vocabulary."""
        return ConfiguredCLI([*self.config, *self.classes(full), *self.extra], "The data.")

    def measure(self, model: ZeroShotTask) -> dict[str, Any]:
        """Score a model on the test images; pixels of classes that it does not have are ignored."""
        data = self.data()
        # of the same names, the test knows how either numbers them
        if set(model.protocol.classes) != set(data.protocol.classes):
            data.protocol = model.protocol
        test(model, data, self.configured().config["model"]["feature_cache"])
        assert model.confusion is not None
        protocol, scores, kept = model.protocol, model.scores, model.confusion.clone()
        taught = [name for name in self.setting.taught if name in protocol.classes]
        kept[[protocol.classes.index(name) for name in taught]] = 0
        other = [scores["per_class"][name] for name in self.setting.unseen]
        return {
            "taught": {name: scores["per_class"][name] for name in taught},
            # comparable only where the taught pixels count
            "seen": scores["seen_miou"] if taught else None,
            "seen_where_taught_is_ignored": gzsl_scores(kept, protocol.seen, protocol.unseen)["seen_miou"],
            "other_unseen": statistics.fmean(other),
        }

    def models(self) -> dict[str, Callable[[], ZeroShotTask]]:
        """Return what is compared; each trains what it needs."""
        taught, absent = self.setting.taught, self.setting.absent
        full, left_out = self.transferred("full", True), self.transferred("left_out", False)
        by_name = extend(left_out, taught)
        with_data = extend(left_out, taught, data=self.data())
        found: dict[str, Callable[[], ZeroShotTask]] = {
            "in the vocabulary from the start": lambda: full,
            "before extend": lambda: left_out,
            "extend": lambda: extend(left_out, taught),
            "extend with data": lambda: extend(left_out, taught, data=self.data()),
            "absent classes": lambda: extend(left_out, absent),
            "absent classes with data": lambda: extend(left_out, absent, data=self.data(full=False)),
            "from the start, self-trained": lambda: self.self_trained("full_pst", full),
            "extend, self-trained": lambda: self.self_trained("extended_pst", by_name),
        }
        if self.setting.config == "quickstart.yaml":
            scenes = unlabelled_scenes(self.folder / "unlabelled")
            found["extend, unlabelled scenes"] = lambda: self_train(by_name, [scenes], iterations=100)
            found["extend with data, unlabelled scenes"] = lambda: self_train(with_data, [scenes], iterations=100)
        return found


def unlabelled_scenes(folder: Path, count: int = 400) -> Path:
    """Write scenes that no run has read, as PNG files."""
    folder.mkdir(parents=True, exist_ok=True)
    dataset = ShapesDataset("train", count, seed=1000)
    for index in range(count):
        Image.fromarray(dataset.read(index)[0]).save(folder / f"{index:03d}.png")
    return folder


def table(rows: dict[str, list[dict[str, Any]]], seeds: Sequence[int]) -> str:
    """Return the means as a Markdown table, mIoU in %."""
    lines = [
        f"| mean of seeds {' '.join(map(str, seeds))} | taught (by class) | seen | seen, taught pixels left out "
        "| other unseen | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in rows.items():
        names = found[0]["taught"]
        each = {name: statistics.fmean(row["taught"][name] for row in found) for name in names}
        by_class = ", ".join(f"{name} {100 * value:.1f}" for name, value in each.items())
        taught = f"{100 * statistics.fmean(each.values()):.1f} ({by_class})" if each else ""
        keys = ("seen", "seen_where_taught_is_ignored", "other_unseen")
        means = " | ".join(
            "" if found[0][key] is None else f"{100 * statistics.fmean(row[key] for row in found):.1f}" for key in keys
        )
        lines.append(f"| {name} | {taught} | {means} | {statistics.fmean(row['seconds'] for row in found):.1f} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, extend, measure, and write ``teach.json`` and ``teach.md``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=[*SETTINGS])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=Path("runs/teach"))
    parser.add_argument("--output", type=Path, default=Path("docs/results/teach"))
    options, extra = parser.parse_known_args()
    rows: dict[str, list[dict[str, Any]]] = {}
    for seed in options.seeds:
        folder = options.runs / options.dataset / f"seed{seed}"
        one = Teaching(SETTINGS[options.dataset], seed, folder, extra)
        for name, made in one.models().items():
            start = time.perf_counter()
            model = made()
            seconds = time.perf_counter() - start
            rows.setdefault(name, []).append({"seed": seed, "seconds": seconds, **one.measure(model)})
            print(name, seed, rows[name][-1], flush=True)
        output = options.output / options.dataset
        output.mkdir(parents=True, exist_ok=True)
        write_json(output / "teach.json", rows)
        (output / "teach.md").write_text(table(rows, options.seeds), encoding="utf-8")
    print(table(rows, options.seeds))


if __name__ == "__main__":
    main()
