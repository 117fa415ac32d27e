"""What is written is read back equal, and any bytes in a file's place give a result or a clear error."""

from __future__ import annotations

import gzip
import json
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from PIL import Image

from sign_zs3 import ClassTable, UserError
from sign_zs3.data.datasets.files import read_classes, read_index_mask, read_list, read_mat
from sign_zs3.data.features import FeatureCache
from sign_zs3.embeddings import read_vectors
from sign_zs3.files import check_archive, not_plain, read_json, read_yaml
from sign_zs3.images import read_image
from sign_zs3.limits import MAX_NAME
from sign_zs3.models.config import SegmenterConfig
from sign_zs3.protocol import Protocol
from sign_zs3.reports.runs import collect

few = settings(max_examples=25, derandomize=True, deadline=None, database=None)

PIXELS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.just(3)))
MASKS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)))
# no white space at its ends and no line end, as `str.strip` and `str.splitlines` see them
LINES = st.text(st.characters(exclude_categories=("Cs", "Cc", "Z")), min_size=1, max_size=20)
IDS = LINES.filter(lambda line: not set("/\\") & set(line) and line != "..")
WORDS = st.text(st.characters(categories=("Ll", "Lu", "Nd")), min_size=1, max_size=8)
FLOATS = st.floats(-1e6, 1e6, width=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("files")


@given(PIXELS, st.sampled_from(["png", "bmp", "tiff"]))
@few
def test_images(folder: Path, pixels: NDArray[np.uint8], suffix: str) -> None:
    Image.fromarray(pixels).save(folder / f"image.{suffix}")
    found, size = read_image(folder / f"image.{suffix}")
    assert size == pixels.shape[:2] and np.array_equal(found, pixels)


@given(MASKS, st.booleans())
@few
def test_masks(folder: Path, mask: NDArray[np.uint8], palette: bool) -> None:
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(bytes(range(256)) * 3)
    image.save(folder / "mask.png")
    assert np.array_equal(read_index_mask(folder / "mask.png"), mask)


@given(arrays(st.sampled_from([np.uint8, np.uint16, np.int32]), st.tuples(st.integers(1, 9), st.integers(1, 9))),
       st.booleans(), st.booleans())  # fmt: skip
@few
def test_label_maps(folder: Path, labels: NDArray[Any], compress: bool, nested: bool) -> None:
    from scipy.io import savemat

    content = {"GTcls": {"Segmentation": labels, "Other": np.zeros((2, 2))}} if nested else {"LabelMap": labels}
    savemat(folder / "map.mat", {"first": "text", **content}, do_compression=compress)
    found = read_mat(folder / "map.mat", *(("GTcls", "Segmentation") if nested else ("LabelMap",)))
    assert found.dtype == labels.dtype and np.array_equal(found, labels)


@given(st.lists(IDS, min_size=1, unique=True), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
       st.sampled_from(["\n", "\r\n"]))  # fmt: skip
@few
def test_lists(folder: Path, ids: list[str], encoding: str, end: str) -> None:
    (folder / "list.txt").write_bytes(end.join(ids).encode(encoding))
    assert read_list(folder / "list.txt") == ids


@given(st.dictionaries(st.integers(0, 254), LINES, min_size=1), st.sampled_from(["\t", ": "]))
@few
def test_classes(folder: Path, names: dict[int, str], between: str) -> None:
    lines = [f"{i}{between}{name.lstrip(':')}" for i, name in names.items()]
    names = {i: name.lstrip(":") for i, name in names.items()}
    if len(set(names.values())) < len(names) or not all(names.values()):
        return
    (folder / "classes.txt").write_text("\n".join(lines), encoding="utf-8")
    assert read_classes(folder / "classes.txt") == names


@given(st.dictionaries(WORDS, st.lists(FLOATS, min_size=4, max_size=4), min_size=1, max_size=6),
       st.sampled_from(["binary", "headed", "plain"]), st.booleans())  # fmt: skip
@few
def test_vectors(folder: Path, table: dict[str, list[float]], kind: str, packed: bool) -> None:
    head = b"" if kind == "plain" else b"%d 4\n" % len(table)
    rows = [
        word.encode() + b" " + (
            struct.pack("<4f", *row) if kind == "binary" else " ".join(map(repr, row)).encode() + b"\n"
        )
        for word, row in table.items()
    ]  # fmt: skip
    content = head + b"".join(rows)
    (folder / "vectors").write_bytes(gzip.compress(content, 1) if packed else content)
    found = read_vectors(folder / "vectors", list(table))
    assert {word: found.entries[word].tolist() for word in table} == table


@given(st.lists(WORDS, min_size=1, max_size=6, unique=True), st.integers(1, 5), st.sampled_from(["npz", "safetensors"]))
@few
def test_tables(folder: Path, names: list[str], width: int, suffix: str) -> None:
    rows = np.random.default_rng(len(names)).normal(size=(len(names), width)).astype(np.float32)
    ClassTable(tuple(names), {"a": rows, "b": rows[:, :1]}).save(folder / f"table.{suffix}")
    found = ClassTable.load(folder / f"table.{suffix}")
    assert found.names == tuple(names)
    assert np.array_equal(found.sources["a"], rows) and np.array_equal(found.sources["b"], rows[:, :1])


@given(st.lists(LINES, min_size=1, max_size=9, unique=True), st.data())
@few
def test_configs(classes: list[str], data: st.DataObject) -> None:
    ids = data.draw(st.permutations(range(255)))[: len(classes)]
    protocol = Protocol("d", "s", tuple(classes), tuple(ids), data.draw(st.integers(1, len(classes))))
    config = SegmenterConfig(protocol, scales=[0.5, 2])
    assert SegmenterConfig.from_dict(json.loads(json.dumps(config.as_dict()))) == config


# -- what is plain -----------------------------------------------------------------------------------------------------

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False) | LINES,
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(LINES, inside, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
@few
def test_plain_values_pass_json_and_yaml(folder: Path, value: Any) -> None:
    (folder / "a.json").write_text(json.dumps(value))
    assert not_plain(value) is None and read_json(folder / "a.json", "JSON") == value
    # JSON is YAML but for some exponents
    text = json.dumps(value, ensure_ascii=False)
    if "e" not in text.lower():
        (folder / "a.yaml").write_text(text, encoding="utf-8")
        assert read_yaml(folder / "a.yaml", "YAML") == value


def test_what_is_not_plain() -> None:
    shared: Any = [1] * 10
    for _ in range(15):
        shared = [shared] * 10
    nested: Any = []
    for _ in range(100_000):
        nested = [nested]
    circle: list[Any] = []
    circle.append(circle)
    large = [0] * 10**6, "x" * 10**7, 2**64
    for value in (shared, nested, circle, *large, {1: 2}, {"x": {3}}, b"", "\ud800", object()):
        assert not_plain(value)
    assert len(not_plain([0] * 20_000) or "") < 100


# -- anything in a file's place ----------------------------------------------------------------------------------------

READERS: dict[str, Callable[[Path], object]] = {
    "image.png": read_image,
    "mask.png": read_index_mask,
    "map.mat": lambda path: read_mat(path, "GTcls", "Segmentation"),
    "list.txt": read_list,
    "classes.txt": read_classes,
    "vectors": lambda path: read_vectors(path, ["dog", "traffic light"]),
    "table.npz": ClassTable.load,
    "table.safetensors": ClassTable.load,
    "config.yaml": lambda path: read_yaml(path, "YAML"),
    "config.json": lambda path: read_json(path, "JSON"),
    "results.json": lambda path: collect([path]),
}
MAGIC = (
    b"", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0*", b"GIF89a", b"RIFF\0\0\0\0WEBP",
    b"BM",
    b"%!PS-Adobe-3.0 EPSF-3.0\n", b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM", b"PK\x03\x04", b"\x1f\x8b\x08\0",
    b"\x93NUMPY\1\0", b"\x80\x04", b"1000000000 300\n", b"3 2\n", b"dog 1 2\n", struct.pack("<2i", 793712314, 12),
    struct.pack("<Q", 2**60), struct.pack("<Q", 20) + b'{"a":{"dtype":"F32",', b'{"format": 1, ', b"\xff\xfe", b"1\t",
)  # fmt: skip


def refusal(read: Callable[[Path], object], path: Path) -> str | None:
    """The clear error of a reader; None where there is a result."""
    try:
        read(path)
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", READERS)
@given(st.sampled_from(MAGIC), st.binary(max_size=300))
@settings(few, max_examples=50)
def test_any_bytes_give_a_result_or_a_clear_error(folder: Path, name: str, head: bytes, content: bytes) -> None:
    (folder / name).write_bytes(head + content)
    with warnings.catch_warnings():
        # Pillow's on what it cannot make sense of
        warnings.simplefilter("ignore")
        message = refusal(READERS[name], folder / name)
    assert message is None or (len(message.splitlines()) == 1 and str(folder / name) in message)


@given(st.binary(max_size=200))
@few
def test_any_bytes_are_no_maps(folder: Path, content: bytes) -> None:
    (folder / "key").mkdir(exist_ok=True)
    (folder / "key" / "maps.safetensors").write_bytes(content)
    cache = FeatureCache(folder, "key", lambda _: [], [8])
    assert not cache.holds("maps")
    with pytest.raises(UserError, match=r"feature_cache: .* cannot be read"):
        cache.read("maps", (8, 8))


# -- single finds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1" * 5000 + "\tcow", "found the id 111111111... in line 1"),
        ("1\t" + "x" * (MAX_NAME + 1), "found a name of 201 characters in line 1, expected at most 200"),
    ],
)
def test_classes_that_would_cost_too_much(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "classes.txt").write_text(text)
    with pytest.raises(UserError, match=message.replace(".", r"\.")):
        read_classes(tmp_path / "classes.txt")


@pytest.mark.parametrize(
    "text", ["a: !!bool x", "a: !!timestamp x", "a: 2001-99-99", "[" * 5000, "? [a]\n: 1", "a: *b"]
)
def test_yaml_that_makes_its_reader_raise(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read \(.*\), expected YAML; mend it"):
        read_yaml(tmp_path / "config.yaml", "YAML")


def test_an_archive_of_packed_parts_is_refused(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "a.npz", a=np.zeros(10**5))
    check_archive(tmp_path / "a.npz", 10**6)
    with pytest.raises(ValueError, match="found parts of 800,"):
        check_archive(tmp_path / "a.npz", 10**5)
    with pytest.raises(ValueError, match="packed in a way that this library never writes"):
        check_archive(tmp_path / "a.npz")
