"""The colours of classes, measured by other means than those that chose them: CIELAB and another simulation."""

from __future__ import annotations

import colorsys
import json
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3 import FolderDataModule, ShapesDataModule
from sign_zs3.data.splits import VOC_CLASSES, published_protocol
from sign_zs3.drawing.colours import UNLABELLED, class_colours, protocol_colours, voc_palette
from sign_zs3.drawing.overlay import blend
from sign_zs3.protocol import Protocol

SHAPES = ShapesDataModule().protocol
# linear RGB to that of people without red or green cones: Vienot, Brettel and Mollon, Color Res Appl, 1999
PROTAN = [[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]
DEUTAN = [[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]


def least_distance(colours: NDArray[np.float64], eyes: list[list[float]] | None = None) -> float:
    """Return the least distance in CIELAB, where 2.3 is just noticed, between any two colours as some eyes see them."""
    if eyes is not None:
        linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
        linear = (linear @ np.array(eyes).T).clip(0, 1)
        colours = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    lab = cv2.cvtColor(colours[None].astype(np.float32), cv2.COLOR_RGB2LAB)[0]
    return min(float(np.linalg.norm(one - other)) for one, other in combinations(lab, 2))


def names_of(dataset: str) -> list[str]:
    protocol = SHAPES if dataset == "shapes" else published_protocol(dataset)
    return [protocol.classes[index] for index in np.argsort(protocol.ids)]


@pytest.mark.parametrize(
    ("names", "bounds"),
    [
        (names_of("shapes"), (7, 7)),
        ([*VOC_CLASSES], (10, 7)),
        (names_of("coco_stuff"), (2.8, 1.7)),
        ([f"class {chr(97 + n)}" for n in range(26)], (10, 8.5)),
        ([f"c{n}" for n in range(255)], (4.5, 1.1)),
    ],
    ids=["shapes", "voc", "coco_stuff", "26", "255"],
)
def test_colours_are_told_apart_by_all(names: list[str], bounds: tuple[float, float]) -> None:
    colours = class_colours(names)
    assert colours.shape == (len(names), 3) and colours.min() >= 0 and colours.max() <= 1
    with_grey = np.concatenate([colours, [UNLABELLED]])
    assert least_distance(with_grey) > bounds[0]
    for eyes in (PROTAN, DEUTAN):
        assert least_distance(with_grey, eyes) > bounds[1]


@pytest.mark.parametrize(
    ("name", "hues", "lightness"),
    [
        ("red circle", (345, 15), (0.2, 0.8)),
        ("blue square", (210, 245), (0.2, 0.8)),
        ("Yellow star", (45, 65), (0.4, 0.9)),
        ("grass", (75, 140), (0.2, 0.6)),
        ("trees", (100, 150), (0.1, 0.5)),
        ("sky-other", (195, 225), (0.6, 0.9)),
        ("water", (195, 225), (0.3, 0.6)),
        ("wall-wood", (15, 45), (0.2, 0.6)),
        ("black horse", (0, 360), (0.0, 0.2)),
        ("background", (0, 360), (0.2, 0.5)),
        ("snow", (0, 360), (0.85, 1.0)),
    ],
)
def test_names_have_their_natural_colours(name: str, hues: tuple[int, int], lightness: tuple[float, float]) -> None:
    (hue, light, saturation), (low, high) = colorsys.rgb_to_hls(*class_colours([name])[0]), hues
    turned = (360 * hue - low) % 360
    assert turned <= (high - low) % 360 or high - low == 360
    assert lightness[0] <= light <= lightness[1]
    # in a crowd it keeps its hue
    crowd = class_colours([*names_of("shapes"), *(f"thing {n}" for n in range(10)), name])[-1]
    if saturation > 0.3:
        assert abs((colorsys.rgb_to_hls(*crowd)[0] - hue + 0.5) % 1 - 0.5) < 0.09


def test_compounds_are_not_what_their_first_word_is() -> None:
    # a street sign is no street, a water bottle no water: they get the colour of any name
    for name in ("street sign", "water bottle", "snowboard", "skyscraper"):
        assert np.array_equal(class_colours([name]), class_colours(["xyz"]))


def test_added_classes_change_no_colour_and_none_is_shared() -> None:
    names = [*names_of("coco_stuff"), *(f"grey {n}" for n in range(84))]
    colours = class_colours(names)
    for count in (1, 17, 171, 200):
        assert np.array_equal(class_colours(names[:count]), colours[:count])
    assert len(np.unique((colours * 255).round(), axis=0)) == 255
    assert class_colours([]).shape == (0, 3)


def test_a_class_has_one_colour_in_all_splits() -> None:
    other = ShapesDataModule(unseen=["sky", "purple star"]).protocol
    first, second = protocol_colours(SHAPES), protocol_colours(other)
    for name in SHAPES.classes:
        assert np.array_equal(first[SHAPES.classes.index(name)], second[other.classes.index(name)])
    assert (first[22:] == UNLABELLED).all() and first.shape == (256, 3)


def test_voc_has_its_own_palette() -> None:
    # from the development kit's VOClabelcolormap
    assert voc_palette()[[0, 1, 15, 20, 255]].tolist() == [
        [0, 0, 0], [128, 0, 0], [192, 128, 128], [0, 64, 128], [224, 224, 192],
    ]  # fmt: skip
    protocol = published_protocol("voc")
    assert np.allclose(protocol_colours(protocol)[protocol.classes.index("aeroplane")] * 255, [128, 0, 0])


def folder(root: Path, palette: list[int] | None) -> FolderDataModule:
    root.mkdir()
    (root / "classes.txt").write_text("1\tgrass\n2\tzebra\n", encoding="utf-8")
    for name in ("images", "masks"):
        (root / name).mkdir()
    for number in range(5):
        Image.new("RGB", (8, 8)).save(root / "images" / f"{number}.png")
        mask = Image.fromarray(np.full((8, 8), 1 + number % 2, np.uint8))
        if palette is not None:
            mask.putpalette(palette)
        mask.save(root / "masks" / f"{number}.png")
    data = FolderDataModule(str(root), unseen=["grass"], num_workers=0)
    data.setup("test")
    return data


@pytest.mark.parametrize(
    ("palette", "used"),
    [
        ([0, 0, 0, 200, 10, 20, 30, 40, 250], True),
        (None, False),
        # one colour for two classes, and nothing but greys, say nothing of the classes
        ([0, 0, 0, 200, 10, 20, 200, 10, 20], False),
        ([0, 0, 0, 100, 100, 100, 200, 200, 200], False),
        ([0, 0, 0], False),
    ],
)
def test_the_palette_of_masks_is_used(tmp_path: Path, palette: list[int] | None, used: bool) -> None:
    data = folder(tmp_path / "data", palette)
    assert data.test_set is not None and data.protocol.classes == ("zebra", "grass")
    colours = protocol_colours(data.protocol)[:2]
    own = np.array([[30, 40, 250], [200, 10, 20]]) / 255
    assert np.allclose(colours, own if used else class_colours(["grass", "zebra"])[::-1])
    drawn = data.test_set.plot(data.test_set[0]).axes[1].images[0].get_array()
    assert drawn is not None
    assert np.allclose(drawn[0, 0], colours[int(data.test_set[0]["mask"][0, 0])])
    # a checkpoint and an exported folder hold the protocol, and so the colours
    stored = Protocol.from_dict(json.loads(json.dumps(data.protocol.as_dict())))
    assert np.array_equal(protocol_colours(stored), protocol_colours(data.protocol))
    assert stored == replace(stored, palette="")


def test_a_class_for_which_a_palette_has_no_colour_gets_one_by_its_name(tmp_path: Path) -> None:
    known = folder(tmp_path / "data", [0, 0, 0, 200, 10, 20, 30, 40, 250]).protocol
    taught = replace(known, classes=(*known.classes, "sky"), ids=(*known.ids, 3))
    by_name = dict(zip(["grass", "zebra", "sky"], class_colours(["grass", "zebra", "sky"]), strict=True))
    assert np.allclose(protocol_colours(taught)[:3], [*protocol_colours(known)[:2], by_name["sky"]])


def test_background_is_not_tinted() -> None:
    protocol = Protocol("toy", "default", ("background", "grass"), (0, 1), 2)
    image = np.random.default_rng(0).integers(0, 256, (320, 320, 3)).astype(np.uint8)
    labels = np.zeros((320, 320), np.uint8)
    labels[:, 160:] = 1
    drawn = blend(image, labels, protocol)
    assert np.array_equal(drawn[:, :160], image[:, :160])
    assert (drawn[:, 160:] != image[:, 160:]).any(-1).mean() > 0.9
