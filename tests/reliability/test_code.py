"""Nothing in a file is run: payloads that would make a file, in every place that could hold one."""

from __future__ import annotations

import pickle
import stat
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import ClassTable, Segmenter, SIGNModule, UserError
from sign_zs3.cli import main
from sign_zs3.commands.training import ZeroShotCLI
from sign_zs3.data.datasets.files import read_index_mask, read_mat
from sign_zs3.data.features import FeatureCache
from sign_zs3.data.transforms import training_preset
from sign_zs3.embeddings import read_vectors
from sign_zs3.images import read_image
from sign_zs3.models.backbones.build import build_backbone
from sign_zs3.reports.runs import collect
from sign_zs3.tasks import load_task
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.reliability import seeds


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture(scope="module")
def checkpoint() -> bytes:
    return seeds.trained("SIGN")[0]


def pickles(canary: Path, checkpoint: bytes) -> dict[str, bytes]:
    return {
        "zip": seeds.evil_archive(checkpoint, canary),
        "bare": pickle.dumps(seeds.Touch(canary)),
        "legacy": seeds.legacy({"state_dict": seeds.Touch(canary)}),
    }


def test_the_payload_is_one(canary: Path) -> None:
    pickle.loads(pickle.dumps(seeds.Touch(canary)))
    assert canary.exists()


@pytest.mark.parametrize("kind", ["zip", "bare", "legacy"])
def test_checkpoints(kind: str, checkpoint: bytes, canary: Path, tmp_path: Path) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickles(canary, checkpoint)[kind])
    with pytest.raises(UserError):
        load_task(path)
    with pytest.raises(UserError):
        quiet_trainer(tmp_path).fit(tiny_model(init_from=str(path)), tiny_data())
    # read by Lightning itself
    with pytest.raises(Exception, match=r"(?i)weights.only|unpickl"):
        quiet_trainer(tmp_path).fit(tiny_model(), tiny_data(), ckpt_path=path)
    with pytest.raises(Exception, match=r"code in files is never run|is damaged or no checkpoint"):
        SIGNModule.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    assert not canary.exists()


@pytest.mark.parametrize("verb", ["test", "export", "predict"])
def test_checkpoints_from_the_shell(
    verb: str, checkpoint: bytes, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "evil.ckpt"
    path.write_bytes(pickles(canary, checkpoint)["zip"])
    seeds.picture().save(tmp_path / "image.png")
    more = {
        "test": ["--data", "ShapesDataModule"],
        "export": ["--output", str(tmp_path / "model")],
        "predict": ["--data.images", str(tmp_path / "image.png"), "--output", str(tmp_path / "out")],
    }
    assert main([verb, "--ckpt_path", str(path), *more[verb]]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "holds more than tensors and plain values, and code in files is never run" in error
    assert not canary.exists()


@pytest.mark.parametrize("kind", ["bare", "legacy"])
def test_weights_of_backbones(kind: str, checkpoint: bytes, canary: Path, tmp_path: Path) -> None:
    for suffix in ("pth", "pt", "safetensors"):
        path = tmp_path / f"evil.{suffix}"
        path.write_bytes(pickles(canary, checkpoint)[kind])
        with pytest.raises(UserError, match=r"cannot be read as a plain state dict"):
            build_backbone("small", weights=str(path))
    assert not canary.exists()


def test_tables_vectors_maps_and_folders(checkpoint: bytes, canary: Path, tmp_path: Path) -> None:
    readers: dict[str, Callable[[Path], object]] = {
        "table.npz": ClassTable.load,
        "table.safetensors": ClassTable.load,
        "vectors.bin": lambda path: read_vectors(path, ["dog"]),
        "maps.safetensors": lambda path: FeatureCache(path.parent, ".", lambda _: [], [8]).read("maps", (8, 8)),
        "mask.mat": lambda path: read_mat(path, "LabelMap"),
        "mask.png": read_index_mask,
        "image.png": read_image,
        "results.json": lambda path: collect([path]),
    }
    contents = [*pickles(canary, checkpoint).values(), *seeds.tables("npz", canary)[2:]]
    for name, read in readers.items():
        for content in contents:
            (tmp_path / name).write_bytes(content)
            with pytest.raises(UserError):
                read(tmp_path / name)
    for name in seeds.FOLDER_FILES:
        for content in contents:
            folder = tmp_path / "model"
            folder.mkdir(exist_ok=True)
            for other, valid in seeds.trained("SIGN")[1].items():
                (folder / other).write_bytes(content if other == name else valid)
            with pytest.raises(UserError):
                Segmenter.from_pretrained(folder)
    assert not canary.exists()


# -- MATLAB ------------------------------------------------------------------------------------------------------------


def element(kind: int, data: bytes) -> bytes:
    return struct.pack("<2I", kind, len(data)) + data + bytes(-len(data) % 8)


def variable(kind: int, *parts: bytes, name: bytes = b"LabelMap", sizes: tuple[int, ...] = (1, 1)) -> bytes:
    head = element(6, struct.pack("<2I", kind, 0)) + element(5, struct.pack(f"<{len(sizes)}i", *sizes))
    return element(14, head + element(1, name) + b"".join(parts))


def matlab(*variables: bytes) -> bytes:
    return b"MATLAB 5.0 MAT-file".ljust(116) + bytes(8) + struct.pack("<H", 0x0100) + b"IM" + b"".join(variables)


ONE = variable(9, element(2, b"\1"), name=b"")


@pytest.mark.parametrize(
    "content",
    [
        variable(16, ONE),  # a function handle
        variable(3, element(1, b"os"), element(5, struct.pack("<i", 8)), element(1, b"system\0\0"), ONE),  # an object
        element(14, element(6, struct.pack("<2I", 17, 0)) + element(1, b"LabelMap") + element(1, b"MCOS") * 2 + ONE),
        variable(1, variable(16, ONE, name=b"")),  # a function in a cell
    ],
    ids=["function", "object", "opaque", "function in a cell"],
)
def test_objects_of_matlab(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "map.mat").write_bytes(matlab(variable(9, element(2, b"\1"), name=b"other"), content))
    with pytest.raises(UserError, match=r"map\.mat: .*expected"):
        read_mat(tmp_path / "map.mat", "LabelMap")


def test_a_map_beside_objects_is_read(tmp_path: Path) -> None:
    function = variable(16, ONE, name=b"f")
    (tmp_path / "map.mat").write_bytes(matlab(function, variable(9, element(2, b"\5\6"), sizes=(1, 2))))
    assert read_mat(tmp_path / "map.mat", "LabelMap").tolist() == [[5, 6]]


# -- YAML --------------------------------------------------------------------------------------------------------------

TAGS = (
    "!!python/object/apply:os.system ['touch %s']",
    "!!python/object/new:os.system ['touch %s']",
    "!!python/object/apply:builtins.open ['%s', 'w']",
    "!!python/object/apply:subprocess.Popen [[touch, '%s']]",
)


@pytest.mark.parametrize("tag", TAGS)
def test_tags(tag: str, canary: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    value = tag % canary
    for key in ("seed_everything", "include"):
        (tmp_path / "config.yaml").write_text(f"{key}: {value}\n")
        assert main(["fit", "--config", str(tmp_path / "config.yaml")]) == 1
        assert "could not determine a constructor for the tag" in capsys.readouterr().err
    (tmp_path / "outer.yaml").write_text("include: config.yaml\n")
    assert main(["fit", "--config", str(tmp_path / "outer.yaml")]) == 1
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(value)
    with pytest.raises(UserError, match=r"config\.yaml: cannot be read"):
        collect([tmp_path / "run"])
    with pytest.raises(UserError, match=r"augmentations: .* cannot be used"):
        training_preset(augmentations=tmp_path / "config.yaml")
    # options on the command line are YAML, too
    with pytest.raises(SystemExit):
        main(["fit", f"--model.lr={value}"])
    assert not canary.exists()


COMMAND = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "CANARY"]}}
CLASSES: dict[str, Any] = {
    "data": COMMAND,
    "trainer": {"callbacks": [COMMAND]},
    "trainer ": {"logger": COMMAND},
    "trainer  ": {"strategy": COMMAND},
    "trainer   ": {"plugins": [COMMAND]},
    "trainer    ": {"profiler": COMMAND},
    "model": {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", "CANARY"]}},
    "model ": {"backbone": COMMAND},
    "model  ": {"generator_hidden": [COMMAND]},
    "checkpoint": COMMAND,
    "method": "subprocess.Popen",
    "method ": COMMAND,
}


@pytest.mark.parametrize("key", CLASSES)
def test_a_configuration_makes_no_other_class_than_the_option_asks_for(
    key: str, canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it may choose by design are classes of that kind, of any module on the path: it is trusted like a script."""
    import json

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    text = json.dumps({key.strip(): CLASSES[key]}).replace("CANARY", str(canary))
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises((SystemExit, UserError)) as caught:
        ZeroShotCLI(["--config", str(tmp_path / "config.yaml")], run=False)
    assert not isinstance(caught.value, SystemExit) or caught.value.code == 2
    assert not canary.exists()


def test_options_of_a_checkpoint_make_no_class(checkpoint: bytes, canary: Path, tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").write_bytes(checkpoint)
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    for name in ("backbone", "vectors", "head", "generator_hidden"):
        options = {**content["hyper_parameters"], name: {**COMMAND, "init_args": {"args": ["touch", str(canary)]}}}
        torch.save({**content, "hyper_parameters": options}, tmp_path / "evil.ckpt")
        assert main(["test", "--ckpt_path", str(tmp_path / "evil.ckpt"), "--data", "ShapesDataModule"]) == 1
    assert not canary.exists()


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [read_image, read_index_mask])
def test_no_image_starts_ghostscript(
    read: Callable[[Path], object], canary: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow has it read EPS, whatever the file is called."""
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {canary}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (tmp_path / "image.png").write_bytes(seeds.encoded("EPS"))
    with pytest.raises(UserError, match=r"image\.png: cannot be decoded"):
        read(tmp_path / "image.png")
    assert not canary.exists()
