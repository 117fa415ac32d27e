"""Small valid files of every format that is read, by name: what fuzzing starts from."""

from __future__ import annotations

import functools
import gzip
import io
import json
import os
import pickle
import struct
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as save_arrays
from safetensors.torch import save as save_tensors
from scipy.io import savemat

from sign_zs3 import SIGNModule, SPNetModule
from sign_zs3.models.backbones.build import build_backbone
from tests.conftest import TINY, StopAt, quiet_trainer, tiny_data

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"
FOLDER_FILES = ("config.json", "model.safetensors")


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.path}",)


def picture(mode: str = "RGB", side: int = 24) -> Image.Image:
    pixels = np.random.default_rng(3).integers(0, 256, (side, side + 4, 3), np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[..., 0].astype(np.uint16) * 257)  # the lowest Pillow does not convert to it
    return Image.fromarray(pixels).convert(mode)


def encoded(format: str, mode: str = "RGB", **options: Any) -> bytes:
    content = io.BytesIO()
    picture(mode).save(content, format, **options)
    return content.getvalue()


def images() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    return [
        encoded("JPEG", exif=exif), encoded("JPEG", "CMYK"), encoded("JPEG", progressive=True), encoded("PNG"),
        encoded("PNG", "RGBA"), encoded("PNG", "I;16"), encoded("BMP"), encoded("TIFF"), encoded("TIFF", "I;16"),
        encoded("TIFF", compression="tiff_lzw"), encoded("TIFF", compression="tiff_adobe_deflate"), encoded("WEBP"),
        encoded("GIF", "P"), encoded("PPM"), encoded("EPS"), *real("VOCdevkit/VOC2012/JPEGImages/*.jpg"),
    ]  # fmt: skip


def masks() -> list[bytes]:
    grey = [encoded("PNG", mode) for mode in ("L", "P", "1", "RGB")]
    return [*grey, encoded("TIFF", "L"), encoded("BMP", "P"), *real("VOCdevkit/VOC2012/SegmentationClass/*.png")]


def mats() -> list[bytes]:
    mask = np.arange(60, dtype=np.uint8).reshape(6, 10)
    boundaries = np.empty((3, 1), object)
    boundaries[:, 0] = [mask] * 3
    sbd = {"GTcls": {"Boundaries": boundaries, "Segmentation": mask, "CategoriesPresent": np.array([[1], [2]])}}
    made = []
    for content in (sbd, {"LabelMap": mask.astype(np.uint16), "names": "abc"}, {"LabelMap": mask.astype(float)}):
        for compress in (True, False):
            file = io.BytesIO()
            savemat(file, content, do_compression=compress)
            made.append(file.getvalue())
    file = io.BytesIO()
    savemat(file, {"LabelMap": mask}, format="4")
    return [*made, file.getvalue(), *real("benchmark_RELEASE/dataset/cls/*.mat")]


def lists() -> list[bytes]:
    text = "2007_000032\nfolder/photo 1\r\n\n000000000139\n"
    return [text.encode(), text.encode("utf-16"), text.encode("utf-8-sig"), *real("lists/**/*.txt")]


def classes() -> list[bytes]:
    return [b"0\tcow\n1: traffic light\n7:  tv\n254\tsheep\n", "1: b\u00e4r\n".encode("utf-16")]


NAMES = ("cow", "traffic light", "sheep", "dog", "tv")
WORDS = ("cow", "traffic", "light", "sheep", "dog", "tv", "Cow", "sheeps")


def rows() -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(5).normal(size=(len(WORDS), 6)).astype("<f4")


def word2vec() -> bytes:
    entries = [word.encode() + b" " + row.tobytes() + b"\n" for word, row in zip(WORDS, rows(), strict=True)]
    return b"%d 6\n" % len(WORDS) + b"".join(entries)


def glove() -> bytes:
    lines = [" ".join([word, *(f"{v:.4f}" for v in row)]) for word, row in zip(WORDS, rows(), strict=True)]
    return ("\n".join(lines) + "\n").encode()


def headed() -> bytes:
    return b"%d 6\n" % len(WORDS) + glove()


def fasttext(signed: bool = True) -> bytes:
    """A model of skipgram with 20 buckets of subwords of 3 to 4 letters."""
    buckets = 20
    numbers = np.random.default_rng(6).normal(size=(len(WORDS) + buckets, 6)).astype("<f4")
    content = struct.pack("<2i", 793712314, 12) if signed else b""
    content += struct.pack("<12id", 6, 5, 5, 5, 5, 1, 2, 2, buckets, 3, 4, 100, 1e-4)
    content += struct.pack("<3iq", len(WORDS), len(WORDS), 0, 100) + (struct.pack("<q", -1) if signed else b"")
    content += b"".join(word.encode() + b"\0" + struct.pack("<qb", 9, 0) for word in WORDS)
    for matrix in (numbers, numbers[: len(WORDS)]):
        content += b"\0" if signed else b""
        content += struct.pack("<2q", *matrix.shape) + matrix.tobytes()
    return content


VECTORS = tuple(f"{kind}{packed}" for packed in ("", " gz") for kind in ("word2vec", "glove", "vec", "fasttext"))


def vectors(name: str) -> list[bytes]:
    kind, _, packed = name.partition(" ")
    makers = {"word2vec": [word2vec], "glove": [glove], "vec": [headed], "fasttext": [fasttext, older_fasttext]}
    made = [maker() for maker in makers[kind]]
    return [gzip.compress(content) for content in made] if packed else made


def tables(suffix: str, canary: Path) -> list[bytes]:
    table = {"names": np.array(WORDS), "glove": rows(), "word2vec": rows().astype(np.float16)}
    plain, packed, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.savez(plain, **table)  # type: ignore[arg-type]
    np.savez_compressed(packed, **table)  # type: ignore[arg-type]
    np.savez(objects, names=table["names"], glove=np.array([Touch(canary)] * len(WORDS)))
    sources = {key: value for key, value in table.items() if key != "names"}
    if suffix == "npz":
        return [plain.getvalue(), packed.getvalue(), objects.getvalue(), pickle.dumps(Touch(canary))]
    return [save_arrays(sources, {"names": json.dumps(WORDS)}), pickle.dumps(Touch(canary))]


def older_fasttext() -> bytes:
    return fasttext(signed=False)


@functools.cache
def trained(method: str) -> tuple[bytes, dict[str, bytes]]:
    """A checkpoint in the middle of a run, and the folder of its segmenter."""
    short = {key: min(value, 1) if key.endswith("iterations") else value for key, value in TINY.items()}
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        model: Any
        if method == "SIGN":
            model = SIGNModule(**{**short, "accumulate": 2})
        else:
            model = SPNetModule(backbone="small", head="fcn", train_iterations=1, self_training="none")
        trainer = quiet_trainer(folder, StopAt(1))
        trainer.fit(model, tiny_data(train_size=4, val_size=2, test_size=2))
        trainer.save_checkpoint(folder / "last.ckpt")
        model.segmenter.save_pretrained(folder / "model")
        files = {name: (folder / "model" / name).read_bytes() for name in FOLDER_FILES}
        return (folder / "last.ckpt").read_bytes(), files


def checkpoints(canary: Path) -> list[bytes]:
    seeds = [trained(method)[0] for method in ("SIGN", "SPNet")]
    return [*seeds, evil_archive(seeds[0], canary), pickle.dumps(Touch(canary)), legacy({"state_dict": Touch(canary)})]


def evil_archive(checkpoint: bytes, canary: Path) -> bytes:
    """A checkpoint whose pickle runs a command."""
    made = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as old, zipfile.ZipFile(made, "w") as new:
        for part in old.infolist():
            content = old.read(part)
            # the protocol that torch writes; it refuses others for their number
            evil = pickle.dumps(Touch(canary), protocol=2)
            new.writestr(part.filename, evil if part.filename.endswith("data.pkl") else content)
    return made.getvalue()


def legacy(content: Any) -> bytes:
    made = io.BytesIO()
    torch.save(content, made, _use_new_zipfile_serialization=False)
    return made.getvalue()


def folders() -> list[dict[str, bytes]]:
    return [trained(method)[1] for method in ("SIGN", "SPNet")]


def weights(suffix: str, canary: Path) -> list[bytes]:
    """State dicts of the backbone `small`."""
    state = build_backbone("small").state_dict()
    plain = io.BytesIO()
    torch.save(state, plain)
    made = [plain.getvalue(), legacy(state)] if suffix == "pth" else [save_tensors(state)]
    return [*made, pickle.dumps(Touch(canary))]


CONFIG = """\
method: SIGN
seed_everything: 3
model:
  feature_dim: &d 16
  dilations: [1, 2]
  generator_hidden: [*d]
data:
  class_path: sign_zs3.ShapesDataModule
  init_args: {train_size: 12, scene_size: 32}
trainer: {max_epochs: -1, logger: false}
"""
AUGMENTATIONS = """\
__version__: 2.0.8
transform:
  __class_fullname__: Compose
  p: 1.0
  transforms:
  - {__class_fullname__: HorizontalFlip, p: 0.5}
  - {__class_fullname__: ColorJitter, p: 1.0, brightness: [0.8, 1.2], contrast: [0.8, 1.2]}
  - {__class_fullname__: Rotate, p: 1.0, limit: [-10, 10]}
"""


def configs(canary: Path) -> list[bytes]:
    return [CONFIG.encode(), f"a: !!python/object/apply:os.system ['touch {canary}']\n".encode(), laughs().encode()]


def augmentations(canary: Path) -> list[bytes]:
    evil = AUGMENTATIONS.replace("HorizontalFlip, p: 0.5", f"os.system, command: touch {canary}, p: 1.0")
    return [AUGMENTATIONS.encode(), evil.encode()]


def laughs(levels: int = 9) -> str:
    """YAML of some hundred bytes that stands for 9 ** levels values."""
    lines = ["a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


def results() -> list[bytes]:
    scores: dict[str, Any] = {"seen_miou": 0.5, "unseen_miou": 0.25, "harmonic_miou": 1 / 3}
    scores["per_class"] = {"cow": 0.5, "sheep": 0.25, "void": None}
    content = {
        "format": 1, "dataset": "toy", "split": "default", "method": "SIGN", "seed": 0, "final": "self_training",
        "phases": {"train": scores, "self_training": scores}, "test": scores, "unseen_share": 0.1,
        "unseen": ["sheep"], "options": {"accumulate": 2, "lr": 0.1, "dilations": [1, 2], "vectors": "bundled"},
    }  # fmt: skip
    return [json.dumps(content).encode()]


def coco() -> list[bytes]:
    """Annotations of two images: polygons, run lengths as numbers and as text."""
    runs = {"size": [6, 8], "counts": [10, 5, 33]}
    shapes: list[Any] = [[[1.0, 1.0, 6.0, 1.0, 6.0, 4.0, 1.0, 4.0]], runs, {"size": [6, 8], "counts": "Z15Q1"}]
    content = {
        "images": [{"id": i, "file_name": f"part/{i}.jpg", "height": 6, "width": 8} for i in (1, 2)],
        "categories": [{"id": i, "name": name} for i, name in enumerate(("cow", "sky"), 1)],
        "annotations": [
            {"id": i, "image_id": 1 + i % 2, "category_id": 1 + i % 2, "segmentation": shape, "iscrowd": int(i > 0)}
            for i, shape in enumerate(shapes)
        ],
    }
    return [json.dumps(content).encode(), json.dumps(content | {"annotations": []}, indent=1).encode()]


def labelme() -> list[bytes]:
    """A scene of each of LabelMe's shapes."""
    corners = [[1, 1], [5, 4]]
    kinds = {"polygon": [*corners, [1, 4]], "rectangle": corners, "circle": corners, "line": corners, "point": [[2, 2]]}
    shapes = [{"label": "cow", "points": points, "shape_type": kind} for kind, points in kinds.items()]
    content = {"version": "5.4.1", "shapes": shapes, "imagePath": "a.jpg", "imageHeight": 6, "imageWidth": 8}
    return [json.dumps(content).encode()]


def colours() -> list[bytes]:
    return [b"1\tcow\t10 20 30\n2\tsky\t#ff0080\n", b"# label:color_rgb:parts:actions\ncow:128,0,0::\nsky:0,128,0::\n"]


def metrics() -> list[bytes]:
    return [b"epoch,step,train/loss_seg,train/loss_kl\n0,0,1.5,2.5\n0,9,1.25,2.5\n0,19,,\n"]


def maps() -> list[bytes]:
    levels = {"0": torch.ones(4, 6, 8, dtype=torch.float16), "1": torch.ones(8, 3, 4, dtype=torch.float16)}
    return [save_tensors(levels)]


def real(pattern: str, count: int = 3) -> list[bytes]:
    """A few real files, where they are beside the project; the smallest, since each input is one of them."""
    if not REAL.is_dir():
        return []
    found = sorted(REAL.glob(pattern), key=lambda path: (path.stat().st_size, path.name))
    return [path.read_bytes() for path in found[:count]]
