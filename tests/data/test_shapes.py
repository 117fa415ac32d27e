"""The built-in scenes keep to their specification."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from sign_zs3.data.datamodules.shapes import ShapesDataModule
from sign_zs3.data.datasets.shapes import NAMES, SEA, SKY, UNSEEN, ShapesDataset, draw_scene, shapes_protocol
from sign_zs3.errors import UserError

COUNT = 200
PINNED = [
    32824,
    318,
    626,
    130,
    0,
    199,
    0,
    722,
    241,
    430,
    102,
    370,
    233,
    382,
    932,
    0,
    174,
    554,
    329,
    297,
    258,
    6242,
    3789,
]


@pytest.fixture(scope="module")
def scenes() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    drawn = [draw_scene(index, seed=3) for index in range(COUNT)]
    return np.stack([image for image, _ in drawn]), np.stack([mask for _, mask in drawn])


def test_a_scene_is_a_function_of_seed_split_and_index() -> None:
    image, mask = draw_scene(7, 5, "val")
    again = draw_scene(7, 5, "val")
    assert np.array_equal(image, again[0])
    assert np.array_equal(mask, again[1])
    for other in (draw_scene(8, 5, "val"), draw_scene(7, 6, "val"), draw_scene(7, 5, "test")):
        assert not np.array_equal(image, other[0])


def test_the_drawing_has_not_changed() -> None:
    # results are only comparable while the scenes stay as they are; masks hold no rounding of colours
    masks = np.stack([draw_scene(index, 0, split)[1] for split in ("train", "val", "test") for index in range(4)])
    counts = np.bincount(masks.ravel(), minlength=23)
    assert counts.tolist() == PINNED


def test_shapes_and_types() -> None:
    for size in (64, 48):
        image, mask = draw_scene(0, 0, size=size)
        assert image.shape == (size, size, 3)
        assert mask.shape == (size, size)
        assert image.dtype == mask.dtype == np.uint8


def test_every_class_occurs_and_nothing_else(scenes: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    assert set(np.unique(scenes[1]).tolist()) == {0, *NAMES}


def test_unnamed_background_is_ample(scenes: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    protocol = shapes_protocol()
    mask = protocol.lookup()[scenes[1]]
    unseen = np.isin(mask, protocol.unseen).sum()
    ignored = (mask == 255).sum()
    assert ignored / mask.size > 0.5
    # what self-training can learn from the place of the holes: far from an oracle
    assert unseen / (unseen + ignored) < 0.1


def test_only_the_position_tells_sky_from_sea(scenes: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    images, masks = scenes
    looks = {
        stuff: np.stack([i[m == stuff].mean(0) for i, m in zip(images, masks, strict=True) if (m == stuff).sum() > 50])
        for stuff in (SKY, SEA)
    }
    everything = np.concatenate([looks[SKY], looks[SEA]])
    rng = np.random.default_rng(0)

    def gap(order: NDArray[np.int64]) -> float:
        sky, sea = everything[order[: len(looks[SKY])]], everything[order[len(looks[SKY]) :]]
        return float(np.abs(sky.mean(0) - sea.mean(0)).max())

    # a permutation test: swapping the names of the bands changes nothing beyond chance (one in a thousand)
    chance = [gap(rng.permutation(len(everything))) for _ in range(1000)]
    assert gap(np.arange(len(everything))) <= max(chance)
    rows = np.arange(64)[None, :, None]
    assert np.broadcast_to(rows, masks.shape)[masks == SKY].max() < 32
    assert np.broadcast_to(rows, masks.shape)[masks == SEA].min() >= 32


def test_protocol() -> None:
    protocol = shapes_protocol()
    assert protocol.num_classes == 22
    assert tuple(protocol.classes[i] for i in protocol.unseen) == (
        "red square",
        "green triangle",
        "blue star",
        "yellow circle",
    )
    assert {name.split()[0] for name in UNSEEN} == {"red", "green", "blue", "yellow"}
    assert {name.split()[1] for name in UNSEEN} == {"square", "triangle", "star", "circle"}
    assert NAMES[1 + 4 * 2 + 3] == "blue star"


def test_sample_hides_unseen_labels() -> None:
    shown = ShapesDataset("train", 30, seed=1)
    hiding = ShapesDataset("train", 30, seed=1, hide_unseen=True)
    total = 0
    for index in range(30):
        open_, closed = shown[index], hiding[index]
        assert set(closed) == {"image", "mask", "valid", "hidden", "size", "id"}
        assert closed["image"].dtype == torch.uint8
        assert closed["image"].shape == (3, 64, 64)
        assert torch.equal(open_["image"], closed["image"])
        unseen = torch.isin(open_["mask"], torch.tensor(shown.protocol.unseen))
        assert torch.equal(closed["mask"], open_["mask"].masked_fill(unseen, 255))
        assert int(closed["hidden"]) == int(unseen.sum())
        total += int(unseen.sum())
    assert total > 0
    assert len({shown.name(index) for index in range(30)}) == 30


def test_a_caller_cannot_change_the_kept_scene() -> None:
    dataset = ShapesDataset("train", 1)
    image, mask = dataset.read(0)
    kept = image.copy()
    image[:] = 0
    mask[:] = 0
    assert np.array_equal(dataset.read(0)[0], kept)


@pytest.mark.parametrize(
    ("split", "length", "size", "named"),
    [("dev", 1, 64, "split"), ("val", 0, 64, "val size"), ("val", 1, 8, "scene_size")],
)
def test_bad_options_are_named(split: str, length: int, size: int, named: str) -> None:
    with pytest.raises(UserError, match=named):
        ShapesDataset(split, length, scene_size=size)
    with pytest.raises(IndexError):
        ShapesDataset("val", 2).read(2)


def test_data_module() -> None:
    module = ShapesDataModule(train_size=6, val_size=2, test_size=3, batch_size=2, eval_batch_size=3)
    module.setup("fit")
    module.setup("test")
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 64)
    assert not torch.isin(batch["mask"], torch.tensor(module.protocol.unseen)).any()
    tests = list(module.test_dataloader())
    assert len(tests) == 1
    assert tests[0]["mask"].shape == (3, 64, 64)
