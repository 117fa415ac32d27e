"""What a file claims: memory beyond what it holds, values that cost without end, weights that are no numbers."""

from __future__ import annotations

import gzip
import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save as save_arrays
from safetensors.torch import load, save

from sign_zs3 import ClassTable, Segmenter, SIGNModule, UserError
from sign_zs3.cli import main
from sign_zs3.embeddings.spelling import near_spellings
from sign_zs3.tasks import load_task
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.reliability import seeds
from tests.reliability.test_code import element, matlab, variable

# -- bombs: read in a process of their own, whose memory is bounded and measured ---------------------------------------

BOUND = 300
"""MiB that a bomb may take: the largest is a table, or the image with a limit of pixels."""


def png(height: int, width: int, packed: bytes, kind: int = 0) -> bytes:
    chunks = [(b"IHDR", struct.pack(">2I5B", width, height, 8, kind, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def zeros(megabytes: int) -> bytes:
    """What unpacks to so many MB."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(10**6)) for _ in range(megabytes)) + packer.flush()


def packed_archive(checkpoint: bytes) -> bytes:
    """A checkpoint whose storages are a thousandth of what they unpack to."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as new:
        for part in old.infolist():
            content = bytes(10**7) if part.filename.endswith("data/0") else old.read(part)
            new.writestr(part.filename, content)
    return made.getvalue()


def npz(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


def claiming(archive: bytes) -> bytes:
    """An archive whose last part says that it unpacks to 2 GB."""
    entry = archive.rindex(b"PK\1\2")
    return archive[: entry + 24] + struct.pack("<I", 2 * 10**9) + archive[entry + 28 :]


def npy(dtype: str, shape: tuple[int, ...], content: bytes = b"") -> bytes:
    header = repr({"descr": dtype, "fortran_order": False, "shape": shape}).encode().ljust(118) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + content


def bombs(folder: Path) -> list[tuple[str, Path]]:
    huge = 2**31 - 1
    arguments = struct.pack("<2i", 793712314, 12) + struct.pack(
        "<12id", 300, 5, 5, 5, 5, 1, 2, 1, huge, 3, 6, 100, 1e-4
    )
    cells = matlab(variable(1, sizes=(10**8, 1)))
    deep = variable(9, element(2, b"\1"))
    for _ in range(5000):
        deep = variable(1, deep)
    packed = zeros(100)
    half = npy("<U4", (1,), "dog\0".encode("utf-32-le"))
    contents: list[tuple[str, str, bytes]] = [
        ("word2vec", "claims.bin", b"1000000000 300\ndog " + bytes(1200)),
        ("vec", "claims.vec", b"1000000000 300\ndog" + 300 * b" 1" + b"\n"),
        ("vec gz", "claims.gz", gzip.compress(b"1000000000 1\n" + b"dog 1\n" * 10**6, 1)),
        ("fasttext", "claims", arguments + struct.pack("<3iqq", 10**9, 10**9, 0, 10**9, -1) + bytes(1000)),
        ("word2vec gz", "zeros.gz", gzip.compress(b"3 300\ndog " + bytes(40_000_000), 1)),
        ("glove gz", "line.gz", gzip.compress(b"dog " + b"1 " * 20_000_000, 1)),
        ("image", "claims.png", png(2**31 - 1, 2**31 - 1, b"")),
        ("image without limit", "bomb.png", png(20_000, 20_000, b"")),
        ("mask", "bomb-mask.png", png(20_000, 15_000, b"")),
        ("mat", "bomb.mat", matlab(struct.pack("<2I", 15, len(packed)) + packed)),
        ("mat", "large.mat", matlab(_compressed(variable(9, element(2, bytes(10**8)), sizes=(100, 10**6))))),
        ("mat", "cells.mat", cells),
        ("mat", "deep.mat", matlab(deep)),
        ("mat", "text.mat", matlab(variable(4, element(16, b""), sizes=(1, huge)))),
        ("table npz", "bomb.npz", claiming(npz(names=half, a=npy("<f4", (1, 3 * 10**8)) + bytes(10**6)))),
        ("table npz", "claims.npz", npz(names=half, a=npy("<f4", (10**9, 10**9)))),
        ("table npz", "empty.npz", npz(names=npy("<U0", (10**9,)), a=npy("<f4", (10**9, 0)))),
        ("table safetensors", "claims.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("table safetensors", "deep.safetensors", save_arrays({"a": np.ones((1, 1), "f4")}, {"names": "[" * 10**5})),
        ("feature cache", "maps.safetensors", struct.pack("<Q", 2**60) + b"{}"),
        ("checkpoint", "bomb.ckpt", packed_archive(seeds.trained("SIGN")[0])),
        ("config", "laughs.yaml", seeds.laughs(30).encode()),
        ("config", "merged.yaml", _merged().encode()),
        ("config", "deep.yaml", b"[" * 10**5),
        ("config", "included.yaml", b"include: laughs.yaml"),
        ("augmentations", "laughs.yml", seeds.laughs(30).encode()),
        ("results", "results.json", b"[" * 10**5),
        ("results", "many/results.json", json.dumps([0] * 10**6).encode()),
        ("list", "long.txt", b"x\n" * 34_000_000),
        ("classes", "names.txt", b"".join(b"%d\t%s\n" % (i, b"x" * 10**6) for i in range(50))),
    ]
    for _, name, content in contents:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(content)
    for name, content in seeds.trained("SIGN")[1].items():
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / name).write_bytes(b"[" * 10**5 if name == "config.json" else content)
    return [(kind, folder / name) for kind, name, _ in contents] + [("folder", folder / "model")]


def _compressed(content: bytes) -> bytes:
    packed = zlib.compress(content, 1)
    return struct.pack("<2I", 15, len(packed)) + packed


def _merged(levels: int = 9) -> str:
    """Merge keys copy what they name, ten times at each level."""
    lines = ["a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}], k{n}: v}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are Linux's")
def test_bombs_are_clear_errors_in_bounded_memory(tmp_path: Path) -> None:
    given = bombs(tmp_path)
    command = [sys.executable, "-m", "tests.reliability.fuzz", "--replay", *(f"{kind}={path}" for kind, path in given)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0 and len(told) == len(given), done.stderr[-2000:]
    for (kind, path), found in zip(given, told, strict=True):
        assert found["outcome"] == "error", (kind, path.name, found)
        assert found["MiB"] < BOUND, (kind, path.name, found)


def test_near_spellings_of_long_words_are_not_made() -> None:
    assert len(near_spellings(["a" * 100_000, "cows"])) < 300


# -- weights that are no numbers ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def valid() -> dict[str, Any]:
    """A checkpoint in the middle of a run."""
    found: dict[str, Any] = torch.load(io.BytesIO(seeds.trained("SIGN")[0]), weights_only=True)
    return found


def spoilt(valid: dict[str, Any], key: str, value: float) -> dict[str, Any]:
    tensor = valid["state_dict"][key].clone()
    tensor.view(-1)[-1] = value
    return {**valid, "state_dict": {**valid["state_dict"], key: tensor}}


def test_checkpoints_with_weights_that_are_not_finite(
    valid: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "last.ckpt"
    for key, value in (("class_vectors", float("-inf")), ("segmenter.classifier.projection.weight", float("nan"))):
        torch.save(spoilt(valid, key, value), path)
        with pytest.raises(UserError, match=rf"{path}.*holds NaN or infinity in {key}, expected finite weights"):
            load_task(path)
    message = rf"holds NaN or infinity in {key}, expected finite weights"
    with pytest.raises(UserError, match=rf"{path}.*{message}"):
        quiet_trainer(tmp_path).fit(tiny_model(init_from=str(path)), tiny_data())
    with pytest.raises(UserError, match=message):
        quiet_trainer(tmp_path).test(SIGNModule(), tiny_data(), ckpt_path=path)
    assert main(["test", "--ckpt_path", str(path), "--data", "ShapesDataModule"]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert key in line


def test_exported_folders_with_weights_that_are_not_finite(tmp_path: Path) -> None:
    files = seeds.trained("SIGN")[1]
    state = load(files["model.safetensors"])
    state["classifier.projection.bias"][1] = float("nan")
    (tmp_path / "config.json").write_bytes(files["config.json"])
    (tmp_path / "model.safetensors").write_bytes(save(state))
    with pytest.raises(UserError, match=r"model\.safetensors holds NaN or infinity in classifier\.projection\.bias"):
        Segmenter.from_pretrained(tmp_path)


def test_a_checkpoint_in_the_middle_of_a_run_is_whole(valid: dict[str, Any], tmp_path: Path) -> None:
    """What is not a weight is not asked to be finite: best scores start at infinity."""
    torch.save({**valid, "callbacks": {"x": {"best": torch.tensor(float("inf"))}}}, tmp_path / "last.ckpt")
    assert valid["state_dict"]["segmenter.known"].dtype == torch.bool
    assert load_task(tmp_path / "last.ckpt").schedule.batches == 1


# -- options and classes -----------------------------------------------------------------------------------------------

OPTIONS: dict[str, Any] = {
    "feature_dim": 10**9, "generator_hidden": [10**9], "discriminator_hidden": 10**12, "dilations": [1] * 10**5,
    "train_size": [10**9, 10**9], "input_scales": [1.0] * 10**5, "scales": [10**9], "rounds": 10**9,
    "spatial_width": 10**10, "spatial_heads": 0, "position": "interpolated", "backbone": "resnet18",
    "image_mean": [0.0] * 10**5, "phases": ["train"] * 10**5, "bandwidths": [1.0] * 10**5, "head": "x" * 10**6,
    "accumulate": 0, "train_iterations": 10**30, "vectors": b"bundled",
}  # fmt: skip


@pytest.mark.parametrize("name", OPTIONS)
def test_hostile_options_of_a_checkpoint(name: str, valid: dict[str, Any], tmp_path: Path) -> None:
    options = {**valid["hyper_parameters"], name: OPTIONS[name]}
    torch.save({**valid, "hyper_parameters": options}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match=r"last\.ckpt") as caught:
        load_task(tmp_path / "last.ckpt")
    assert len(str(caught.value)) < 1000


def _shared(levels: int = 30) -> Any:
    found: Any = [0.5]
    for _ in range(levels):
        found = [found, found]
    return found


PARTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no vectors": lambda c: c["state_dict"].pop("class_vectors"),
    "vectors beyond memory": lambda c: c["state_dict"].update(class_vectors=torch.zeros(1).expand(9, 10**10)),
    "a view beyond memory": lambda c: c["state_dict"].update(x=torch.zeros(1).expand(10**12)),
    "a sparse weight": lambda c: c["state_dict"].update(x=torch.eye(3).to_sparse()),
    "a weight without numbers": lambda c: c["state_dict"].update(x=torch.zeros(3, device="meta")),
    "a text as weight": lambda c: c["state_dict"].update(x="weight"),
    "a weight more": lambda c: c["state_dict"].update(x=torch.zeros(3)),
    "a number as name": lambda c: c["state_dict"].update({3: torch.zeros(3)}),
    "options that share": lambda c: c["hyper_parameters"].update(dilations=_shared()),
    "classes without end": lambda c: c["sign_zs3"]["protocol"].update(classes=["x"] * 10**5),
    "a long class": lambda c: c["sign_zs3"]["protocol"]["classes"].__setitem__(0, "x" * 10**5),
    "half a letter": lambda c: c["sign_zs3"]["protocol"]["classes"].__setitem__(0, "\ud800"),
    "ids that are texts": lambda c: c["sign_zs3"]["protocol"].update(ids=["x"] * 9),
    "unknown fields": lambda c: c["sign_zs3"]["protocol"].update(x=1),
    "no schedule": lambda c: c["sign_zs3"].pop("schedule"),
    "no batches": lambda c: c["sign_zs3"]["schedule"].pop("batches"),
    "batches below 0": lambda c: c["sign_zs3"]["schedule"].update(batches=-1),
    "tallies of texts": lambda c: c["sign_zs3"].update(tallies={"x": "y"}),
    "a gradient of nothing": lambda c: c["sign_zs3"].update(gradients={"x": torch.zeros(3)}),
    "names of others": lambda c: c["sign_zs3"].update(looked_up=["x"]),
    "no method": lambda c: c["sign_zs3"].update(method=["SIGN"]),
    "format": lambda c: c["sign_zs3"].update(format=_shared()),
}


@pytest.mark.parametrize("name", PARTS)
def test_hostile_parts_of_a_checkpoint(name: str, tmp_path: Path) -> None:
    content = torch.load(io.BytesIO(seeds.trained("SIGN")[0]), weights_only=True)
    PARTS[name](content)
    path = tmp_path / "last.ckpt"
    torch.save(content, path)
    readers: list[Callable[[Path], object]] = [load_task]
    if name not in ("a weight more", "a gradient of nothing"):
        # of these no other run has a use
        readers.append(lambda path: quiet_trainer(tmp_path).fit(tiny_model(init_from=str(path)), tiny_data()))
    for read in readers:
        with pytest.raises(UserError) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000


def test_a_checkpoint_names_no_folder_to_write_to(valid: dict[str, Any], tmp_path: Path) -> None:
    options = {**valid["hyper_parameters"], "feature_cache": str(tmp_path / "elsewhere"), "freeze_encoder": True}
    torch.save({**valid, "hyper_parameters": options}, tmp_path / "last.ckpt")
    model = load_task(tmp_path / "last.ckpt")
    assert model.hparams["feature_cache"] is None
    quiet_trainer(tmp_path / "run").test(model, tiny_data(), verbose=False)
    assert not (tmp_path / "elsewhere").exists()


CONFIGS: dict[str, Callable[[dict[str, Any]], object]] = {
    "feature_dim": lambda c: c["encoder"].update(feature_dim=10**9),
    "dilations": lambda c: c["encoder"].update(dilations=[1] * 10**5),
    "one dilation": lambda c: c["encoder"].update(dilations=[10**9, 1]),
    "a dilation of halves": lambda c: c["encoder"].update(dilations=[1.5, 1]),
    "input_scales": lambda c: c["encoder"].update(input_scales=[4.0] * 100),
    "an input scale": lambda c: c["encoder"].update(input_scales=[1e9]),
    "scales": lambda c: c.update(scales=[1.0] * 1000),
    "a scale": lambda c: c.update(scales=[1e9]),
    "train_size": lambda c: c["spatial"].update(position="interpolated", train_size=[10**6, 10**6]),
    "heads": lambda c: c["spatial"].update(heads=-1),
    "half a head": lambda c: c["spatial"].update(heads=2.0),
    "width": lambda c: c["spatial"].update(width=10**9),
    "classes": lambda c: c.update(classes=["x"] * 10**5),
    "a long class": lambda c: c["classes"].__setitem__(0, "x" * 1000),
    "half a letter": lambda c: c["classes"].__setitem__(0, "\ud800"),
    "options in options": lambda c: c["encoder"].update(dilations=[[[1]]]),
    "a data set": lambda c: c.update(dataset="x" * 10**6),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_hostile_options_of_a_folder(name: str, tmp_path: Path) -> None:
    files = seeds.trained("SIGN")[1]
    content = json.loads(files["config.json"])
    CONFIGS[name](content)
    (tmp_path / "config.json").write_text(json.dumps(content))
    (tmp_path / "model.safetensors").write_bytes(files["model.safetensors"])
    with pytest.raises(UserError, match=r"config\.json") as caught:
        Segmenter.from_pretrained(tmp_path)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 1000


def test_tables_of_letters_that_are_none(tmp_path: Path) -> None:
    for number in (0xD800, 0x110000, 2**32 - 1):
        names = npy("<U1", (1,), struct.pack("<I", number))
        (tmp_path / "table.npz").write_bytes(npz(names=names, a=npy("<f4", (1, 1), b"\0\0\0\1")))
        with pytest.raises(UserError, match="characters in 'names' that Unicode does not have"):
            ClassTable.load(tmp_path / "table.npz")
