"""`data convert`: masks made of a data set's own, converted back."""

from __future__ import annotations

import base64
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from sign_zs3.cli import main
from sign_zs3.data.convert import voc_colours
from sign_zs3.data.datasets.files import read_classes, read_index_mask
from sign_zs3.data.outlines import segment
from tests.inputs.conftest import CLASSES, COUNT, Folder

SHARED = Path(__file__).parents[2] / ".." / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data sets are not beside the project (../shared)")
Mask = NDArray[np.uint8]
TABLE = {0: (0, 0, 0), 1: (10, 20, 30), 2: (255, 0, 128), 3: (7, 7, 7), 4: (0, 0, 1)}


def convert(*args: object) -> int:
    return main(["data", "convert", *map(str, args)])


def blobs(number: int, height: int = 90, width: int = 120, classes: int = 4) -> Mask:
    """A mask of large smooth parts, 0 among them."""
    noise = np.random.default_rng(number).normal(size=(height, width)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 12)
    edges = np.quantile(smooth, np.linspace(0, 1, classes + 2)[1:-1])
    mask: Mask = np.digitize(smooth, edges).astype(np.uint8)
    return mask


def outlines(part: NDArray[np.bool_]) -> list[NDArray[np.float64]]:
    """The outer borders of a part without holes, along the edges of its pixels, as (n, 2) x and y."""
    large: Mask = np.kron(part.astype(np.uint8), np.ones((8, 8), np.uint8)).astype(np.uint8)
    found, _ = cv2.findContours(large, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    # the border runs through the centres of the outermost of 8 x 8 parts of a pixel
    return [(contour[:, 0] + 0.5) / 8 for contour in found if len(contour) > 2]


def without_holes(mask: Mask, least: int = 60) -> Mask:
    """The connected parts of a mask that polygons can describe: whole, and not too small."""
    result = np.zeros_like(mask)
    for number in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
        count, labels = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
        for piece in (labels == index for index in range(1, count)):
            contours, _ = cv2.findContours(piece.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            whole = cv2.drawContours(np.zeros_like(mask), contours, -1, 1, cv2.FILLED)
            if piece.sum() >= least and np.array_equal(whole > 0, piece):
                result[piece] = number
    return result


def iou(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    union = np.count_nonzero(one | other)
    return np.count_nonzero(one & other) / union if union else 1.0


# -- colours -------------------------------------------------------------------------------------------------------


def write_coloured(folder: Path, masks: dict[str, Mask], colours: dict[int, tuple[int, int, int]], kind: str) -> None:
    table = np.zeros((256, 3), np.uint8)
    for number, colour in colours.items():
        table[number] = colour
    for name, mask in masks.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(table[mask])
        (image.convert("RGBA") if kind == "RGBA" else image.quantize(256) if kind == "P" else image).save(path)


@pytest.mark.parametrize("kind", ["RGB", "RGBA"])
@pytest.mark.parametrize(
    "form", ["{id}\t{name}\t{r} {g} {b}", "{id}: {name}: {r},{g},{b}", "{id}\t{name}\t#{r:02x}{g:02X}{b:02x}"]
)
def test_colours_of_a_table(
    kind: str, form: str, folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = {f"a/{number:02}" if number % 2 else f"{number:02}": folder.ids(number) for number in range(6)}
    write_coloured(tmp_path / "coloured", masks, TABLE, kind)
    names = dict(enumerate(("no label", *CLASSES)))
    lines = [form.format(id=i, name=names[i], r=r, g=g, b=b) for i, (r, g, b) in TABLE.items()]
    (tmp_path / "table.txt").write_text("\n".join(["# a comment", *lines]) + "\n")
    assert convert(tmp_path / "coloured", "--colours", tmp_path / "table.txt", "--output", tmp_path / "out") == 0
    for name, mask in masks.items():
        assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / f"{name}.png"), mask)
    assert read_classes(tmp_path / "out" / "classes.txt") == names
    assert "masks: 6 " in capsys.readouterr().out


def test_cvats_labelmap(folder: Folder, tmp_path: Path) -> None:
    masks = {f"{number:02}": folder.ids(number) for number in range(4)}
    write_coloured(tmp_path / "SegmentationClass", masks, TABLE, "RGB")
    names = ("background", *CLASSES)
    lines = [
        "# label:color_rgb:parts:actions",
        *(f"{n}:{r},{g},{b}::" for n, (r, g, b) in zip(names, TABLE.values(), strict=True)),
    ]
    (tmp_path / "labelmap.txt").write_text("\n".join(lines) + "\n")
    given = [tmp_path / "SegmentationClass", "--colours", tmp_path / "labelmap.txt", "--output", tmp_path / "out"]
    assert convert(*given) == 0
    assert read_classes(tmp_path / "out" / "classes.txt") == dict(enumerate(names))
    assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / "03.png"), masks["03"])


def test_vocs_palette_is_the_published_one() -> None:
    colours, names = voc_colours()
    known = {(0, 0, 0): 0, (128, 0, 0): 1, (0, 128, 0): 2, (192, 128, 128): 15, (0, 64, 128): 20, (224, 224, 192): 255}
    assert known.items() <= colours.items() and len(colours) == 22 and names[15] == "person"


@shared
def test_real_masks_of_voc_in_colour(tmp_path: Path) -> None:
    files = sorted((SHARED / "VOCdevkit" / "VOC2012" / "SegmentationClass").glob("*.png"))[::40]
    for file in files:
        (tmp_path / "coloured").mkdir(exist_ok=True)
        Image.open(file).convert("RGB").save(tmp_path / "coloured" / file.name)
    assert convert(tmp_path / "coloured", "--colours", "voc", "--output", tmp_path / "out") == 0
    for file in files:
        assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / file.name), read_index_mask(file))


def test_another_colour_is_one_line_and_leaves_nothing(
    folder: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coloured(tmp_path / "coloured", {"a": folder.ids(0)}, {**TABLE, 2: (1, 2, 3)}, "RGB")
    (tmp_path / "table.txt").write_text("".join(f"{i}\tc{i}\t{r} {g} {b}\n" for i, (r, g, b) in TABLE.items()))
    assert convert(tmp_path / "coloured", "--colours", tmp_path / "table.txt", "--output", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert (
        "a.png: found the colour 1 2 3 in 140 pixels, expected one of the 5 in the table" in err
        and err.count("\n") == 1
    )
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".*"))


def test_nothing_is_overwritten(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()}
    assert convert(folder.root / "masks", "--colours", "voc", "--output", folder.root) == 1
    assert "with something in it, expected a folder not there yet; name another" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.root.rglob("*") if path.is_file()} == before


# -- COCO ----------------------------------------------------------------------------------------------------------


def coco(masks: dict[str, Mask], form: str, shift: int = 0) -> dict[str, Any]:
    """COCO's JSON of masks, an annotation per connected part; `shift` is added to each category's id."""
    annotations: list[dict[str, Any]] = []
    for image, mask in enumerate(masks.values(), 1):
        for number in np.unique(mask[mask > 0]).tolist():
            count, labels = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
            for piece in (labels == index for index in range(1, count)):
                segmentation: Any = [outline.ravel().tolist() for outline in outlines(piece)]
                if form != "polygons":
                    flat = piece.T.ravel()
                    edges = np.flatnonzero(np.diff(np.r_[False, flat, False]))
                    runs = np.diff(np.r_[0, edges, len(flat)]).tolist()
                    segmentation = {"size": list(mask.shape), "counts": runs}
                    if form == "compressed":
                        from pycocotools import mask as tool

                        segmentation = tool.encode(np.asfortranarray(piece.astype(np.uint8)))
                        segmentation["counts"] = segmentation["counts"].decode()
                annotations.append({
                    "id": len(annotations) + 1, "image_id": image, "category_id": number + shift,
                    "segmentation": segmentation, "area": int(np.count_nonzero(piece)),
                    "iscrowd": int(form != "polygons"),
                })  # fmt: skip
    return {
        "images": [
            {"id": index, "file_name": f"{name}.jpg", "height": mask.shape[0], "width": mask.shape[1]}
            for index, (name, mask) in enumerate(masks.items(), 1)
        ],
        "categories": [{"id": i + shift, "name": name} for i, name in enumerate(CLASSES, 1)],
        "annotations": annotations,
    }


def scenes() -> dict[str, Mask]:
    return {f"scene {number}": blobs(number) for number in range(4)}


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("form", ["runs", "compressed"])
def test_cocos_run_lengths_are_equal(form: str, tmp_path: Path) -> None:
    if form == "compressed":
        pytest.importorskip("pycocotools")
    masks = scenes()
    assert convert(write(tmp_path / "coco.json", coco(masks, form)), "--output", tmp_path / "out") == 0
    for name, mask in masks.items():
        assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / f"{name}.png"), mask)
    assert read_classes(tmp_path / "out" / "classes.txt") == dict(enumerate(CLASSES, 1))


def test_cocos_polygons(tmp_path: Path) -> None:
    masks = {name: without_holes(mask) for name, mask in scenes().items()}
    assert convert(write(tmp_path / "coco.json", coco(masks, "polygons")), "--output", tmp_path / "out") == 0
    for name, mask in masks.items():
        found = read_index_mask(tmp_path / "out" / "masks" / f"{name}.png")
        assert all(iou(found == number, mask == number) >= 0.99 for number in range(1, 5))


@shared
def test_real_masks_as_polygons_and_run_lengths(tmp_path: Path) -> None:
    files = sorted((SHARED / "msrc" / "masks").glob("*.png"))[::120]
    originals = {file.stem: read_index_mask(file) for file in files}
    names = read_classes(SHARED / "msrc" / "classes.txt")
    for form, masks in (("runs", originals), ("polygons", {k: without_holes(mask) for k, mask in originals.items()})):
        content = coco(masks, form)
        content["categories"] = [{"id": i, "name": name} for i, name in names.items()]
        assert convert(write(tmp_path / f"{form}.json", content), "--output", tmp_path / form) == 0
        assert read_classes(tmp_path / form / "classes.txt") == names
        for name, mask in masks.items():
            found = read_index_mask(tmp_path / form / "masks" / f"{name}.png")
            assert form == "polygons" or np.array_equal(found, mask)
            assert all(iou(found == number, mask == number) >= 0.99 for number in np.unique(mask).tolist())


def test_categories_from_0_or_beyond_254_are_renumbered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    masks = scenes()
    for name, shift in (("low", -1), ("high", 1000)):
        assert convert(write(tmp_path / f"{name}.json", coco(masks, "runs", shift)), "--output", tmp_path / name) == 0
        assert "are renumbered from 1" in capsys.readouterr().out
        for scene, mask in masks.items():
            assert np.array_equal(read_index_mask(tmp_path / name / "masks" / f"{scene}.png"), mask)


def test_roboflows_category_0(tmp_path: Path) -> None:
    content = coco(scenes(), "runs")
    content["categories"].insert(0, {"id": 0, "name": "things", "supercategory": "none"})
    for file, above, classes in (("one", "things", CLASSES), ("two", "none", ("things", *CLASSES))):
        for category in content["categories"][1:]:
            category["supercategory"] = above
        assert convert(write(tmp_path / f"{file}.json", content), "--output", tmp_path / file) == 0
        assert read_classes(tmp_path / file / "classes.txt") == dict(enumerate(classes, 1))


def test_files_of_one_data_set_number_the_same(tmp_path: Path) -> None:
    """Whatever is annotated in each of them."""
    train = coco(scenes(), "runs", -1)
    val = json.loads(json.dumps(train))
    val["annotations"] = [a for a in val["annotations"] if a["category_id"] > 0]
    for name, content in (("train", train), ("val", val)):
        assert convert(write(tmp_path / f"{name}.json", content), "--output", tmp_path / name) == 0
    assert read_classes(tmp_path / "train" / "classes.txt") == read_classes(tmp_path / "val" / "classes.txt")


def small(*segmentations: Any, **changes: Any) -> dict[str, Any]:
    """One image of 10 x 10 with an annotation for each segmentation, of category 1 and so on."""
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 10}],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": number, "segmentation": segmentation}
            for number, segmentation in enumerate(segmentations, 1)
        ],
        **changes,
    }  # fmt: skip


def square(start: int, end: int) -> list[list[int]]:
    return [[start, start, end, start, end, end, start, end]]


@pytest.mark.parametrize("text", ["11", "", "PPP", "~~~", "0"])
def test_run_lengths_as_text_hold_the_whole_image(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of others, pycocotools reads memory that nothing has been written to."""
    path = write(tmp_path / "a.json", small({"size": [10, 10], "counts": text}))
    assert convert(path, "--output", tmp_path / "out") == 1
    assert "cannot be used" in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_run_lengths_as_text_are_those_of_pycocotools() -> None:
    tool = pytest.importorskip("pycocotools.mask")
    rng = np.random.default_rng(0)
    for share in (0.02, 0.5, 0.98):
        for side in (1, 7, 300):
            mask = np.asfortranarray(rng.random((side, side + 1)) < share, dtype=np.uint8)
            text = tool.encode(mask)["counts"].decode()
            assert np.array_equal(segment({"size": list(mask.shape), "counts": text}, mask.shape), mask > 0)


def test_smaller_objects_lie_on_larger_ones_whatever_their_area_says(tmp_path: Path) -> None:
    content = small(square(2, 4), square(0, 8))
    for area in (None, 1e9, float("nan"), "big"):
        content["annotations"][0]["area"] = area
        out = tmp_path / str(area)
        assert convert(write(tmp_path / f"{area}.json", content), "--output", out) == 0
        found = read_index_mask(out / "masks" / "a.png")
        assert [np.count_nonzero(found == number) for number in (1, 2)] == [4, 60]


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 1, "file_name": f"{name}.jpg", "height": 10, "width": 10} for name in "ab"]},
        *(
            {"categories": [{"id": one, "name": "cat"}, {"id": other, "name": name}]}
            for one, other, name in (
                (1, 1, "dog"), (1.2, 1.9, "dog"), (1, 2, "cat"), (1, 2, ""), (1, 2, None), (1, 2, "dog\n7\tcow"),
                (1, 2, "do\x85g"), (1, 2, "x" * 300), (1, None, "dog"), (1, True, "dog"),
            )
        ),
        {"categories": []},
        {"images": [{"id": 1, "file_name": None, "height": 10, "width": 10}]},
        {"images": [{"id": 1, "file_name": "a.jpg", "height": 10.5, "width": 10}]},
    ],
)  # fmt: skip
def test_what_cannot_be_told_apart_is_refused(
    changes: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "a.json", small(square(0, 4), **changes))
    assert convert(path, "--output", tmp_path / "new" / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and "--debug" not in line
    assert not (tmp_path / "new").exists()


OUTSIDE: list[dict[str, Any]] = [
    {"keypoints": [1, 1, 2]},
    {"segmentation": [[1, 1, 2, 2]]},
    {"segmentation": [[20, 20, 30, 20, 30, 30]]},
]


def test_annotations_without_pixels_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = small([], square(0, 4))
    content["annotations"] += [annotation(**{"segmentation": None} | mark)["annotations"][0] for mark in OUTSIDE]
    assert convert(write(tmp_path / "a.json", content), "--output", tmp_path / "out") == 0
    assert "annotations left out: 4, which hold no pixel (boxes, key points, lines, or " in capsys.readouterr().out


def test_what_lies_beside_the_output_stays(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", small(square(0, 4)))
    (tmp_path / ".out.part").mkdir()
    (tmp_path / ".out.part" / "kept").write_text("kept")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert convert(path, "--output", tmp_path / "out") == 0
    assert convert(path, "--output", tmp_path / "link") == 0  # an empty folder, where it is
    assert (tmp_path / ".out.part" / "kept").read_text() == "kept"
    assert (tmp_path / "link").is_symlink() and (tmp_path / "elsewhere" / "masks" / "a.png").is_file()
    assert sorted(each.name for each in tmp_path.iterdir()) == [".out.part", "a.json", "elsewhere", "link", "out"]


def test_a_number_behind_a_dot_is_part_of_a_name(tmp_path: Path) -> None:
    images = [{"id": i, "file_name": f"frame_0.{i}", "height": 10, "width": 10} for i in (1, 2)]
    assert convert(write(tmp_path / "a.json", small(square(0, 4), images=images)), "--output", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out" / "masks").iterdir()) == ["frame_0.1.png", "frame_0.2.png"]


@pytest.mark.parametrize("lines", ["1\tcat\t128 0 0\ndog\t0 128 0\n", "1\tcat\t128 0 0\n1\tdog\t0 128 0\n"])
def test_a_table_whose_ids_collide(lines: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_coloured(tmp_path / "in", {"a": np.zeros((4, 4), np.uint8)}, {0: (128, 0, 0)}, "RGB")
    (tmp_path / "table.txt").write_text(lines)
    assert convert(tmp_path / "in", "--colours", tmp_path / "table.txt", "--output", tmp_path / "out") == 1
    assert "correct line 2" in capsys.readouterr().err


def test_colours_of_more_than_8_bits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    Image.fromarray(np.full((4, 4), 128 * 257, np.uint16)).save(tmp_path / "in" / "a.png")
    (tmp_path / "table.txt").write_text("0\tone\t0 0 0\n1\ttwo\t255 255 255\n")
    assert convert(tmp_path / "in", "--colours", tmp_path / "table.txt", "--output", tmp_path / "out") == 1
    assert "more than 8 bits" in capsys.readouterr().err


@pytest.mark.parametrize("corner", [(-2, -1), (6, 7), (-6, -6), (20, 3), (0, 0)])
def test_a_mask_of_labelmes_that_sticks_out(corner: tuple[int, int], tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(file, "PNG")
    shape = {
        "label": "cat", "shape_type": "mask", "points": [[*corner], [corner[0] + 4, corner[1] + 4]],
        "mask": base64.b64encode(file.getvalue()).decode(),
    }  # fmt: skip
    dot = {"label": "dog", "shape_type": "rectangle", "points": [[9, 0], [10, 1]]}
    write(tmp_path / "in" / "a.json", labelme(np.zeros((10, 10), np.uint8), [shape, dot]))
    assert convert(tmp_path / "in", "--output", tmp_path / "out") == 0
    want = np.pad(np.zeros((10, 10), np.uint8), 30)
    want[30, 39] = 2
    want[30 + corner[1] :, 30 + corner[0] :][:5, :5] = 1
    assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / "a.png"), want[30:40, 30:40])


def test_ids_are_given_for_labelmes_labels_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "classes.txt").write_text("1\tcat\n")
    path = write(tmp_path / "a.json", small(square(0, 4)))
    assert convert(path, "--classes", tmp_path / "classes.txt", "--output", tmp_path / "out") == 1
    assert "--classes: found without LabelMe's files" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        lambda c: c.pop("images"), lambda c: c["annotations"][0].update(image_id=99),
        lambda c: c["annotations"][0]["segmentation"].update(size=[1, 1]),
        lambda c: c["annotations"][0]["segmentation"].update(counts=[5]),
        lambda c: c["annotations"][0].update(category_id=77), lambda c: c["images"][0].update(file_name="../a.jpg"),
        lambda c: c["images"][0].update(height=10**9), lambda c: c["images"].__setitem__(0, None),
        lambda c: c["annotations"][0].update(segmentation=[[1, 2, 3]]),
        lambda c: c["images"][1].update(file_name=c["images"][0]["file_name"]),
    ],
)  # fmt: skip
def test_bad_annotations_are_one_line_and_leave_nothing(
    damage: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = coco(scenes(), "runs")
    damage(content)
    assert convert(write(tmp_path / "coco.json", content), "--output", tmp_path / "out") == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["coco.json"]


def image(**changes: Any) -> dict[str, Any]:
    return {"images": [{"id": 1, "file_name": "a.jpg", "height": 10, "width": 10, **changes}]}


def annotation(**changes: Any) -> dict[str, Any]:
    return {"annotations": [{"id": 4, "image_id": 1, "category_id": 1, "segmentation": square(0, 4)} | changes]}


USED, LONG = "{path}: cannot be used", "a name of more than 1000 letters or 200 bytes between slashes"
WHICH: list[tuple[dict[str, Any], str]] = [
    ({"images": []}, f"{USED} (no images), expected COCO's annotations; export it again"),
    ({"images": {}}, f"{USED} (images that are no list of entries)"),
    ({"images": [5]}, f"{USED} (images that are no list of entries)"),
    ({"annotations": {}}, f"{USED} (annotations that are no list of entries)"),
    ({"categories": []}, f"{USED} (no categories)"),
    (image(height=0), "{path}: image 'a.jpg': cannot be used (an image of 10 x 0 pixels, not of 1 to 100,000,000)"),
    (image(height=10**9, width=10**9), "{path}: image 'a.jpg': cannot be used (an image of 1000000000 x 1000000000"),
    (annotation(image_id=9), "{path}: annotation 4: cannot be used (image 9, which is not in the list)"),
    (annotation(category_id=9), "{path}: annotation 4: cannot be used (category 9, which is not in the list)"),
    (annotation(segmentation=[[1, 2, 3]]), "{path}: annotation 4: cannot be used (a polygon that is no list of x, y"),
    (annotation(segmentation=[1, 2, 3, 4]), "{path}: annotation 4: cannot be used (a polygon that is no list of x, y"),
    (annotation(segmentation={"size": [10, 10]}), "{path}: annotation 4: cannot be used (no 'counts')"),
    (annotation(segmentation=[[0, 0, float("nan"), 0, 5, 5]]), "{path}: annotation 4: cannot be used (a polygon with"),
    (image(file_name="a" * 300 + ".jpg"), f"{{path}}: image '{'a' * 99}: cannot be used ({LONG}"),
    (image(file_name="é" * 150), f"{{path}}: image '{'é' * 99}: cannot be used ({LONG}"),
    (image(file_name="/".join(["d" * 100] * 60)), f"{{path}}: image '{'d' * 99}: cannot be used ({LONG}"),
    (image(file_name="a\ud800.jpg"), f"{{path}}: image 'a\\ud800.jpg': cannot be used ({LONG}"),
    (image(file_name=".jpg"), "{path}: image '.jpg': cannot be used (a hidden file, which would be passed over)"),
    (image(file_name="../a.jpg"), "{path}: image '../a.jpg': cannot be used (a name that is no path below the folder"),
    (image(file_name="/a.jpg"), "{path}: image '/a.jpg': cannot be used (a name that is no path below the folder"),
    (image(file_name="."), "{path}: image '.': cannot be used (a name that is no path below the folder of images)"),
    (image(file_name=5), "{path}: image 5: cannot be used (a name that is no path below the folder of images)"),
    ({"categories": [{"id": 1, "name": "co\ud800w"}]}, f"{USED} ('co\\ud800w' in place of a name)"),
    (image(file_name="C:\\d\\a.jpg"), "{path}: image 'C:\\\\d\\\\a.jpg': cannot be used (a name that is no path below"),
    (image(file_name="http://x/a.jpg"), "{path}: image 'http://x/a.jpg': cannot be used (a name that is no path below"),
    ({"categories": [{"id": i, "name": "cat"} for i in (1, 2)]}, f"{USED} (two categories of the name 'cat')"),
    (
        {
            "categories": [{"id": i, "name": "ab"[i], "supercategory": "a"} for i in (0, 1)],
            **annotation(category_id=0),
        },
        "{path}: found annotations of category 0, 'a', which is the supercategory of others and would be left out",
    ),
    (
        annotation(segmentation="abc"),
        "{path}: annotation 4: cannot be used (a segmentation that is neither polygons nor",
    ),
    (
        annotation(segmentation=[[0, 0, 1e308, 0, 5, 5]]),
        "{path}: annotation 4: cannot be used (a polygon with NaN, inf",
    ),
    (
        annotation(segmentation=[{"size": [1, 1]}]),
        "{path}: annotation 4: cannot be used (a polygon that is no list of x",
    ),
    (
        {"images": [image()["images"][0], {**image()["images"][0], "id": 2, "file_name": "a.png/b.jpg"}]},
        "a.png/b: found as the name of two images, or of an image and a folder; rename one",
    ),
]


@pytest.mark.parametrize(("changes", "message"), WHICH)
def test_the_entry_is_named(
    changes: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog", "supercategory": ["x"]}]
    path = write(tmp_path / "coco.json", small(**{"categories": categories, "annotations": [], **changes}))
    assert convert(path, "--output", tmp_path / "new" / "folders" / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message.format(path=path)}")
    assert [each.name for each in tmp_path.iterdir()] == ["coco.json"]  # and no folder of the output's


@pytest.mark.parametrize("above", ["cat", None, ["cat"]])
def test_a_category_0_above_itself_is_a_category(above: Any, tmp_path: Path) -> None:
    categories = [{"id": 0, "name": "cat", "supercategory": above}, {"id": 1, "name": "dog", "supercategory": "animal"}]
    marks = [{"image_id": 1, "category_id": i, "segmentation": square(4 * i, 4 * i + 3)} for i in (0, 1)]
    path = write(tmp_path / "a.json", small(categories=categories, annotations=marks))
    assert convert(path, "--output", tmp_path / "out") == 0
    assert read_classes(tmp_path / "out" / "classes.txt") == {1: "cat", 2: "dog"}
    assert np.bincount(read_index_mask(tmp_path / "out" / "masks" / "a.png").ravel()).tolist() == [82, 9, 9]


def test_images_may_have_text_as_ids(tmp_path: Path) -> None:
    content = small(square(0, 4), **image(id="img_1"))
    content["annotations"][0]["image_id"] = "img_1"
    assert convert(write(tmp_path / "a.json", content), "--output", tmp_path / "out") == 0
    assert np.count_nonzero(read_index_mask(tmp_path / "out" / "masks" / "a.png")) == 16


@pytest.mark.parametrize("marks", [[[]], [[[0.1, 0.1, 0.4, 0.1, 0.4, 0.4]]], [[[20, 20, 30, 20, 30, 30]], []]])
def test_annotations_none_of_which_holds_a_pixel(
    marks: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert convert(write(tmp_path / "a.json", small(*marks)), "--output", tmp_path / "out") == 1
    assert f"found no pixel in any of its {len(marks)} annotations (boxes, " in capsys.readouterr().err
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_outputs_that_are_no_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "a.json", small(square(0, 4)))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for output, message in (("", "--output: found '', expected a folder"), (tmp_path / "loop", f"{tmp_path / 'loop'}")):
        assert convert(path, "--output", output) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {message}") and "--debug" not in line


def test_another_kind_than_the_options_say(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(tmp_path / "in" / "coco.json", small(square(0, 4)))
    assert convert(tmp_path / "in", "--output", tmp_path / "out") == 1
    assert "found COCO's annotations, expected LabelMe's; give the file, not its folder" in capsys.readouterr().err
    assert convert(path, "--colours", "voc", "--output", tmp_path / "out") == 1
    assert f"{path}: found a file beside --colours, expected a folder of colour-coded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("1\tcat\t1 0 0\n2\tcat\t2 0 0\n", "TABLE: found the name 'cat' of two ids; correct line 2"),
        ("# id\tname\tcolour\n", "TABLE: found no class, expected the name of one at least"),
        ("255\tborder\t128 0 0\n", "TABLE: found no class, expected the name of one at least"),
        (f"1\t{'x' * 300}\t128 0 0\n", "expected numbers up to 255 and at most 200 letters; correct the line"),
        (f"{'1' * 5000}\tcat\t128 0 0\n", "expected numbers up to 255 and at most 200 letters; correct the line"),
        ("", "TABLE: found no colour, expected a class a line"),
    ],
)
def test_tables_of_colours_that_hold_none(
    lines: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_coloured(tmp_path / "in", {"a": np.zeros((4, 4), np.uint8)}, {0: (128, 0, 0)}, "RGB")
    (tmp_path / "table.txt").write_text(lines)
    assert convert(tmp_path / "in", "--colours", tmp_path / "table.txt", "--output", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message.replace("TABLE", str(tmp_path / "table.txt")) in line and "--debug" not in line


@pytest.mark.parametrize("there", [True, False])
def test_sigterm_leaves_nothing(there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "coco.json", small(square(0, 4)))
    (tmp_path / "out").mkdir() if there else None
    seen: list[str] = []

    def end(mask: object) -> Any:
        seen.extend(each.name for each in tmp_path.rglob(".out.*"))
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Image, "fromarray", end)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        convert(path, "--output", tmp_path / "out")
    assert stopped.value.code == 143 and len(seen) == 1
    assert sorted(each.name for each in tmp_path.rglob("*")) == ["coco.json", *["out"] * there]
    assert signal.getsignal(signal.SIGTERM) is before


# -- LabelMe -------------------------------------------------------------------------------------------------------


def labelme(mask: Mask, shapes: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "version": "5.4.1",
        "shapes": shapes,
        "imagePath": "x.jpg",
        "imageHeight": mask.shape[0],
        "imageWidth": mask.shape[1],
    }


def polygons(mask: Mask, names: dict[int, str]) -> list[dict[str, Any]]:
    """LabelMe's polygons of a mask without holes, the largest first."""
    pieces = []
    for number in np.unique(mask[(mask > 0) & (mask < 255)]).tolist():
        count, labels = cv2.connectedComponents((mask == number).astype(np.uint8), connectivity=4)
        pieces += [(names[number], labels == index) for index in range(1, count)]
    pieces.sort(key=lambda piece: -np.count_nonzero(piece[1]))
    return [
        {"label": label, "points": outline.tolist(), "shape_type": "polygon"}
        for label, piece in pieces for outline in outlines(piece)
    ]  # fmt: skip


@shared
def test_real_masks_as_labelmes_polygons(tmp_path: Path) -> None:
    files = sorted((SHARED / "msrc" / "masks").glob("*.png"))[::100]
    names = read_classes(SHARED / "msrc" / "classes.txt")
    masks = {file.stem: without_holes(read_index_mask(file)) for file in files}
    for name, mask in masks.items():
        write(tmp_path / "in" / f"{name}.json", labelme(mask, polygons(mask, names)))
    ids = ["--classes", SHARED / "msrc" / "classes.txt"]
    assert convert(tmp_path / "in", *ids, "--output", tmp_path / "out") == 0
    assert read_classes(tmp_path / "out" / "classes.txt") == names
    for name, mask in masks.items():
        found = read_index_mask(tmp_path / "out" / "masks" / f"{name}.png")
        present = np.unique(mask[mask < 255]).tolist()
        assert len(present) > 1
        assert all(iou(found == number, mask == number) >= 0.99 for number in present)


def test_labelmes_polygons(tmp_path: Path) -> None:
    masks = {name: without_holes(mask) for name, mask in scenes().items()}
    for name, mask in masks.items():
        shapes = polygons(mask, dict(enumerate(CLASSES, 1)))
        write(tmp_path / "in" / f"{name}.json", labelme(mask, shapes))
    assert convert(tmp_path / "in", "--output", tmp_path / "out") == 0
    classes = read_classes(tmp_path / "out" / "classes.txt")
    assert classes == dict(enumerate(sorted(CLASSES), 1))
    number_of = {name: number for number, name in classes.items()}
    for name, mask in masks.items():
        found = read_index_mask(tmp_path / "out" / "masks" / f"{name}.png")
        assert all(iou(found == number_of[label], mask == i) >= 0.99 for i, label in enumerate(CLASSES, 1))


def test_labelmes_other_shapes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    part = np.zeros((4, 6), np.uint8)
    part[1:3, 2:5] = 1
    packed = io.BytesIO()
    Image.fromarray(part * 255).save(packed, "PNG")
    shapes = [
        {"label": "sky", "points": [[0, 0], [30, 5]], "shape_type": "rectangle"},
        {"label": "cow", "points": [[20, 20], [20, 26]], "shape_type": "circle"},
        {
            "label": "grass",
            "points": [[3, 10], [9, 14]],
            "shape_type": "mask",
            "mask": base64.b64encode(packed.getvalue()).decode(),
        },
        {"label": "horse", "points": [[1, 1]], "shape_type": "point"},
        {"label": "__ignore__", "points": [[28, 28], [30, 30]], "shape_type": "rectangle"},
        {"label": "_background_", "points": [[0, 0], [2, 2]], "shape_type": "rectangle"},
    ]
    write(tmp_path / "in" / "a.json", labelme(np.zeros((30, 30), np.uint8), shapes))
    (tmp_path / "ids.txt").write_text("7\tsky\n8\tcow\n9\tgrass\n10\thorse\n")
    assert convert(tmp_path / "in", "--classes", tmp_path / "ids.txt", "--output", tmp_path / "out") == 0
    found = read_index_mask(tmp_path / "out" / "masks" / "a.png")
    expected = np.zeros((30, 30), np.uint8)
    expected[:5] = 7
    y, x = np.mgrid[:30, :30] + 0.5
    expected[np.hypot(x - 20, y - 20) <= 6] = 8
    expected[11:13, 5:8] = 9
    expected[28:, 28:], expected[:2, :2] = 255, 0
    assert np.array_equal(found, expected)
    assert "shapes left out: 1, which hold no pixel" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"shape_type": "circle", "points": [[1, 1]]}, "a shape of the type 'circle' with 1 points"),
        ({"shape_type": "rectangle", "points": [[1, 1]] * 3}, "a rectangle of 3 points"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": "abcd"}, "a mask that is no PNG in base64"),
        ({"shape_type": "mask", "points": [[1, 1], [2, 2]], "mask": None}, "a mask that is no PNG in base64"),
        ({"shape_type": "mask", "points": [[1e300, 1], [2, 2]], "mask": None}, "a polygon with NaN, infinity or"),
    ],
)
def test_shapes_that_are_none(
    shape: dict[str, Any], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path / "in" / "a.json", labelme(np.zeros((10, 10), np.uint8), [{"label": "cat", **shape}]))
    assert convert(tmp_path / "in", "--output", tmp_path / "out") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {path}: cannot be used ({message}")


@pytest.mark.parametrize("corners", [[[2, 3], [8, 6]], [[8, 6], [2, 3]], [[2, 3], [8, 3], [8, 6], [2, 6]]])
def test_rectangles_of_two_corners_or_four(corners: list[list[int]], tmp_path: Path) -> None:
    shape = {"label": "cat", "shape_type": "rectangle", "points": corners}
    write(tmp_path / "in" / "a.json", labelme(np.zeros((10, 10), np.uint8), [shape]))
    assert convert(tmp_path / "in", "--output", tmp_path / "out") == 0
    expected = np.zeros((10, 10), np.uint8)
    expected[3:6, 2:8] = 1
    assert np.array_equal(read_index_mask(tmp_path / "out" / "masks" / "a.png"), expected)


@pytest.mark.parametrize(("name", "status"), [("cat", 1), ("background", 0)])
def test_id_0_is_that_of_pixels_without_annotation(
    name: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = {"label": name, "shape_type": "rectangle", "points": [[0, 0], [4, 4]]}
    write(tmp_path / "in" / "a.json", labelme(np.zeros((10, 10), np.uint8), [shape]))
    (tmp_path / "ids.txt").write_text(f"0\t{name}\n1\tdog\n")
    assert convert(tmp_path / "in", "--classes", tmp_path / "ids.txt", "--output", tmp_path / "out") == status
    assert ("found 'cat' with the id 0, which pixels without" in capsys.readouterr().err) == (status == 1)


def test_what_is_converted_trains(folder: Folder, tmp_path: Path) -> None:
    masks = {f"{number:02}": folder.ids(number) for number in range(COUNT)}
    assert convert(write(tmp_path / "coco.json", coco(masks, "runs")), "--output", tmp_path / "out") == 0
    (folder.root / "images").rename(tmp_path / "out" / "images")
    converted = Folder(tmp_path / "out")
    assert converted.faults() == []
    converted.data().setup("fit")
