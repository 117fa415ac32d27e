"""What the verb new proposes: unseen classes, sizes, lengths, and the text of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sign_zs3.data.survey import Mask
from sign_zs3.embeddings.table import ClassTable

PASSES = 1.3
"""Time of an iteration per crop, beside that of the encoder for an image of a crop's size: measured on two cores."""
START = 30
"""Seconds of imports, tests and pictures."""
BATCH = 8
"""`batch_size` of the configurations."""
_NO_THINGS = ("background", "void", "other")


@dataclass(frozen=True)
class Plan:
    """Sizes in pixels and lengths in iterations that suit a folder.

    Attributes:
        gpu: Whether a GPU is there: a ResNet is trained, instead of what is on top of a frozen small network.
        warp: `warp_size`.
        crop: `crop_size`.
        iterations: Of the training step.
    """

    gpu: bool
    warp: int
    crop: int
    iterations: int

    @classmethod
    def for_masks(cls, masks: Mapping[Path, Mask], train: int, gpu: bool) -> Plan:
        """Choose by the sizes of the masks and the number of training images."""
        if gpu:
            # some 20 passes over few images, fewer over many
            return cls(True, 513, 321, min(40_000, max(2000, 100 * round(train * 20 / BATCH / 100))))
        area = float(np.median([mask.size[0] * mask.size[1] for mask in masks.values()]))
        warp = min(320, max(128, 32 * round(area**0.5 / 32)))
        return cls(False, warp, max(96, round(warp * 0.6 / 32) * 32), min(2000, max(200, 50 * round(train / 50))))

    def seconds(self, encode: float, counts: Mapping[str, int], area: float) -> float:
        """Return how long a training on the CPU takes, where the encoder takes `encode` seconds for a warped image.

        `counts` are the images of ``train`` and ``test``, and a test image, which keeps its size, has `area` pixels.
        """
        images = 2 * counts["train"] + counts["test"] * area / self.warp**2  # mirrored ones, too
        iterations = 7 * self.iterations / 2  # of all steps
        return START + encode * (images + iterations * PASSES * BATCH * (self.crop / self.warp) ** 2)

    def text(
        self, file: Path, name: str, data: Mapping[str, Any], unseen: Sequence[str], proposed: bool,
        counts: Mapping[str, int], install: str,
    ) -> str:  # fmt: skip
        """Return the configuration; `data` are options of `FolderDataModule` that it was read with."""
        places = ""
        for option, value in data.items():
            if option != "root" and value:
                why = "   # no word vector: rename them in classes.txt" if option == "ignored_classes" else ""
                places += f"    {option}: {as_yaml(value)}{why}\n"
        chosen = "classes that no training mask shows"
        if proposed:
            chosen = "A PROPOSAL: classes whose masks are hidden from training; name your own"
        template = Path(__file__).with_name("new_gpu.yaml" if self.gpu else "new_cpu.yaml")
        return template.read_text(encoding="utf-8").format(
            name=name, file=file, root=as_yaml(data["root"]), places=places, unseen=as_yaml(list(unseen)),
            chosen=chosen, warp=self.warp, crop=self.crop, train_iterations=self.iterations,
            half_iterations=self.iterations // 2, install=install, **counts,
        )  # fmt: skip


def as_yaml(value: Any) -> str:
    """Return a plain value as it stands in one line of YAML."""
    import yaml

    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1_000_000)
    return text.removesuffix("...\n").strip()


def propose_unseen(
    names: Sequence[str], table: ClassTable, train: Mapping[str, int], test: Mapping[str, int]
) -> list[str]:
    """Return one class in five that could be unseen: each is near a class that stays seen, and on test images.

    `names` have a vector in `table`, and each is on so many images of `train` and `test`; those on two test images or
    more come first. None is returned where fewer than three classes are on training images.
    """
    known = [name for name in names if train[name]]
    if len(known) < 3:
        return []
    vectors = table.vectors(names, center=True)
    cosine = {(a, b): float(vectors[i] @ vectors[j]) for i, a in enumerate(names) for j, b in enumerate(names)}
    # of two neighbours the one that fewer training images show is hidden, since those masks are lost
    pairs = sorted(
        ((a, b) for a in names for b in known if a != b and a not in _NO_THINGS and b not in _NO_THINGS),
        key=lambda pair: (test[pair[0]] < 2, -round(cosine[pair], 6), train[pair[0]], pair),
    )
    unseen: list[str] = []
    kept: set[str] = set()
    for name, neighbour in pairs:
        if len(unseen) >= max(1, len(names) // 5):
            break
        if test[name] and name not in kept and not {name, neighbour} & {*unseen}:
            unseen.append(name)
            kept.add(neighbour)
    return unseen
