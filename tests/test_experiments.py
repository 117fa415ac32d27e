"""Every experiment file is read, and every row of Table 1 run, with its lengths cut and its images small."""

from __future__ import annotations

import csv
import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from sign_zs3 import Protocol, ZeroShotTask
from sign_zs3.cli import main
from sign_zs3.commands.training import ZeroShotCLI
from sign_zs3.files import read_yaml
from sign_zs3.released.importing import CAFFE
from sign_zs3.reports import paper
from sign_zs3.tasks import METHODS

pytestmark = pytest.mark.usefixtures("no_panel")

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
SHARED = Path(__file__).parents[2] / "shared" / "data"
FILES = sorted(path for path in EXPERIMENTS.rglob("*.yaml") if path.parent.name not in ("parts", "sweeps"))
CUT = [
    *("--model.train_iterations", "2", "--model.self_training_iterations", "2", "--trainer.accelerator", "cpu"),
    *("--trainer.limit_val_batches", "1", "--trainer.limit_test_batches", "2"),
]
# SPNet has none of these
CUT_GENERATIVE = [
    *("--model.generator_iterations", "0", "--model.transfer_iterations", "2", "--model.feature_dim", "32"),
]
# row -> what makes it, beside the method
ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "spnet": ("SPNet", {"self_training": "none"}),
    "zs3": ("ZS3", {"self_training": "none"}),
    "cagnet": ("CaGNet", {"self_training": "none"}),
    "sign": ("SIGN", {"self_training": "none"}),
    "zs3_st": ("ZS3 + ST", {"self_training": "top_fraction", "top_fraction": 0.75, "pseudo_top_p": 0}),
    "cagnet_st": ("CaGNet + ST", {"self_training": "top_fraction", "top_fraction": 1.0}),
    "sign_st": ("SIGN + ST", {"self_training": "top_fraction", "top_fraction": 0.75, "pseudo_top_p": 0}),
    "sign_ast": ("SIGN + AST", {"self_training": "annealed", "temperature": 2.0}),
}
SETS: dict[str, tuple[str, dict[str, Any]]] = {
    "voc": ("voc", {"train_iterations": 40_000, "transfer_iterations": 6_000, "self_training_iterations": 6_000,
                    "unseen_odds": 10.0, "lr_transfer": 5e-5, "lr_discriminator": 2.5e-4}),
    "context": ("pascal_context_33", {"train_iterations": 40_000, "transfer_iterations": 10_000,
                                      "self_training_iterations": 7_000, "unseen_odds": 15.0, "lr_transfer": 5e-5,
                                      "lr_discriminator": 2.5e-4}),
    "coco_stuff": ("coco_stuff", {"train_iterations": 100_000, "transfer_iterations": 6_000,
                                  "self_training_iterations": 4_000, "unseen_odds": 60.0, "lr_transfer": 1e-5,
                                  "lr_discriminator": 5e-4}),
}  # fmt: skip
# file of released/ -> its row in Table 1, and what its import is told
RELEASED = {"sign": ("SIGN", ""), "sign_st": ("SIGN + AST", "--phase self_training "), "cagnet": ("CaGNet", "")}
# file of clip/ -> its method, and what makes it
CLIP_ROWS: dict[str, tuple[str, dict[str, Any]]] = {
    "maskclip": ("SPNet", {"head": "identity", "logit_scale": 100.0}),
    "spnet": ("SPNet", {"head": "fcn", "self_training": "none"}),
    "sign": ("SIGN", {"head": "identity", "feature_dim": 512, "bandwidths": "median", "self_training": "none"}),
    "sign_ast": ("SIGN", {"head": "identity", "feature_dim": 512, "self_training": "annealed", "temperature": 2.0}),
}
TOP_P = {"voc": 1, "context": 16, "coco_stuff": 1}
SPNET_ON_VOC = {"train_iterations": 20_000}


@pytest.fixture(autouse=True)
def as_main_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


def built(name: str, *options: str) -> ZeroShotCLI:
    """Read a file and instantiate what it asks for; nothing is set up."""
    return ZeroShotCLI(
        ["--config", str(EXPERIMENTS / name), "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false",
         *options],
        run=False,
    )  # fmt: skip


def msrc_classes(dataset: str) -> list[str]:
    """Name MSRC's folder where the data set is MSRC: its list of classes is read with the options."""
    if dataset != "msrc":
        return []
    if not SHARED.is_dir():
        pytest.skip("needs the MSRC images in ../shared/data")
    return ["--data.root", str(SHARED / "msrc")]


# -- what the files say ----------------------------------------------------------------------------------------------


def test_every_file_is_tried_here() -> None:
    assert {str(path.relative_to(EXPERIMENTS)) for path in FILES} == {
        *(f"{name}.yaml" for name in ("coco_stuff", "context", "msrc", "quickstart", "voc")),
        *(f"table1/{name}_{row}.yaml" for name in SETS for row in ROWS),
        *(f"table2/voc_{encoding}.yaml" for encoding in ("attention", "conv", "multihead", "self_attention")),
        *(f"table3/voc_{position}.yaml" for position in ("absolute", "interpolated", "none", "relative")),
        *(f"table1/{name}_{row}.yaml" for name in ("msrc", "voc13") for row in ROWS),
        *(f"table2/msrc_{encoding}.yaml" for encoding in ("attention", "conv", "self_attention")),
        *(f"table3/msrc_{position}.yaml" for position in ("absolute", "interpolated", "none")),
        *(f"table4/{name}_without.yaml" for name in ("msrc", "voc")),
        *(f"released/{name}_{kind}.yaml" for name in SETS for kind in RELEASED),
        *(f"clip/{name}_{row}.yaml" for name in SETS for row in CLIP_ROWS),
    }
    assert {path.name for path in (EXPERIMENTS / "sweeps").iterdir()} == {
        "alpha_beta.yaml",
        "annealing_temperature.yaml",
    }


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.rglob("*.yaml")), ids=lambda path: path.name)
def test_files_are_short(path: Path) -> None:
    lines = path.read_text().splitlines()
    assert len(lines) < 50
    assert max(len(line) for line in lines) <= 120
    assert lines[0].startswith("# ")


@pytest.mark.parametrize("kind", RELEASED)
@pytest.mark.parametrize("name", SETS)
def test_released_files_tell_their_commands_and_the_paper_s_number(name: str, kind: str) -> None:
    path, (row, told) = f"released/{name}_{kind}.yaml", RELEASED[kind]
    cli = built(path)
    assert type(cli.model) is METHODS[row.split()[0]]
    assert cli.datamodule.protocol.dataset == SETS[name][0]
    numbers = paper.TABLE_1[SETS[name][0]][row]
    text = (EXPERIMENTS / path).read_text()
    assert "The paper: seen {:.2f}, unseen {:.2f}, harmonic {:.2f}.".format(*numbers) in text
    assert re.search(rf"sign-zs3 import \S+ {told}--output released\.ckpt", text)
    assert f"sign-zs3 test --config experiments/{path} --ckpt_path released.ckpt" in text


def test_caffe_s_options_are_those_of_the_import() -> None:
    settings = read_yaml(EXPERIMENTS / "parts" / "caffe.yaml", "options")
    assert settings == {"model": dict(CAFFE)}


@pytest.mark.parametrize("row", CLIP_ROWS)
@pytest.mark.parametrize("name", SETS)
def test_rows_on_clip_and_the_published_numbers_beside_them(name: str, row: str) -> None:
    pytest.importorskip("timm")
    cli, (method, options) = built(f"clip/{name}_{row}.yaml"), CLIP_ROWS[row]
    assert type(cli.model) is METHODS[method]
    hparams, dataset = dict(cli.model.hparams), cli.datamodule.protocol.dataset
    shared = {"backbone": "clip/vit_base_patch16_clip_quickgelu_224", "dense": "value", "freeze_encoder": True,
              "unit_features": True, "image_mean": [0.48145466, 0.4578275, 0.40821073]}  # fmt: skip
    assert {key: hparams[key] for key in shared | options} == shared | options
    assert cli.trainer.default_root_dir == f"runs/clip/{name}_{row}"
    assert (dataset, cli.datamodule.protocol.split) == {
        "voc": ("voc", "default"), "context": ("pascal_context_59", "otseg"), "coco_stuff": ("coco_stuff", "default"),
    }[name]  # fmt: skip
    text = (EXPERIMENTS / f"clip/{name}_{row}.yaml").read_text()
    if row == "maskclip":
        assert all(str(number) in text for number in paper.TRAINING_FREE[dataset].values())
    elif row != "sign_ast":
        for system, numbers in paper.CLIP_ERA.get(dataset, {}).items():
            assert "{} {} / {} / {}".format(system, *numbers) in " ".join(text.split())


@pytest.mark.parametrize("name", SETS)
def test_rows_of_table_1(name: str) -> None:
    dataset, lengths = SETS[name]
    for row, (label, options) in ROWS.items():
        path = f"table1/{name}_{row}.yaml"
        cli = built(path)
        method = label.split()[0]
        hparams = dict(cli.model.hparams)
        assert type(cli.model) is METHODS[method], path
        expected = options | {key: value for key, value in lengths.items() if key in METHODS[method].defaults()}
        if (name, row) == ("voc", "spnet"):
            expected |= SPNET_ON_VOC
        of_spnet = (10 if name == "voc" else 8, 321)
        assert (cli.datamodule.batch_size, cli.datamodule.crop_size) == (of_spnet if row == "spnet" else (8, 369)), path
        if row == "cagnet_st":
            expected |= {"pseudo_top_p": TOP_P[name]}
        assert {key: hparams[key] for key in expected} == expected, path
        assert (hparams["backbone"], hparams["weights"]) == ("resnet101", "IMAGENET1K_V2")
        assert cli.datamodule.protocol.dataset == dataset
        assert cli.trainer.default_root_dir == f"runs/table1/{name}_{row}"
        text = (EXPERIMENTS / path).read_text()
        seen, unseen, harmonic = paper.TABLE_1[dataset][label]
        assert f"{label}. The paper: seen {seen:.2f}, unseen {unseen:.2f}, harmonic {harmonic:.2f}.\n" in text
        # the schedules differ only in what the method has
        kinds = [phase.kind for phase in cli.model.schedule.phases]
        assert kinds == [
            "train",
            *(["transfer"] if method != "SPNet" else []),
            *(["self_training"] if hparams["self_training"] != "none" else []),
        ]
    main_row = built(f"{name}.yaml")
    assert main_row.trainer.default_root_dir == f"runs/{name}"
    for where in ("model", "data"):
        assert main_row.config[where] == cli.config[where]  # SIGN + AST is the last row


@pytest.mark.parametrize(
    ("name", "option"),
    [(path.stem, "encoding") for path in FILES if path.parent.name == "table2"]
    + [(path.stem, "position") for path in FILES if path.parent.name == "table3"],
)
def test_rows_of_tables_2_and_3_differ_in_one_option(name: str, option: str) -> None:
    dataset, value = name.split("_", 1)
    base = built(f"table1/{dataset}_sign.yaml", *msrc_classes(dataset)).config["model"]
    cli = built(f"{'table2' if option == 'encoding' else 'table3'}/{name}.yaml", *msrc_classes(dataset))
    size = {"voc": [47, 47], "msrc": [11, 11]}[dataset]
    expected = {option: value} | ({"train_size": size} if value == "interpolated" else {})
    changed = {key: found for key, found in cli.config["model"].items() if found != base[key]}
    assert changed == {key: found for key, found in expected.items() if found != base[key]}
    assert type(cli.model) is METHODS["SIGN"]
    assert cli.model.hparams[option] == value


def protocol(classes: int) -> Protocol:
    """Some classes, the last five of them unseen."""
    return Protocol("some", "default", tuple(map(str, range(classes))), tuple(range(classes)), classes - 5)


@pytest.mark.parametrize("dataset", ["voc", "msrc", "voc13"])
def test_interpolation_is_from_the_map_of_a_crop(dataset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, options = f"table3/{dataset}_interpolated.yaml", msrc_classes(dataset)
    if dataset == "voc":
        options = ["--model.backbone", "resnet18"]
    elif dataset == "voc13":
        monkeypatch.syspath_prepend(str(EXPERIMENTS))
        job = importlib.import_module("tables").jobs_of("ablations", dataset)["position_interpolated"]
        file, options = job.config, list(job.options)
    cli = built(file, *options, "--model.weights", "null")
    with torch.device("meta"):
        cli.model._take(protocol(20))
        cli.model.build_networks(600, None)
        size = cli.datamodule.crop_size
        features = cli.model.segmenter.encoder(torch.zeros(1, 3, size, size))
    assert list(features.shape[-2:]) == cli.model.hparams["train_size"]


def parameters(model: ZeroShotTask, classes: int = 20) -> dict[str, int]:
    # a timm backbone cannot be made without memory: it is read once to learn its levels
    with torch.device("meta" if classes == 20 else "cpu"):
        model._take(protocol(classes))
        model.build_networks(600, None)
    count = {part: sum(p.numel() for p in module.parameters()) for part, module in model.parts().items()}
    backbone = sum(p.numel() for p in model.segmenter.encoder.backbone.parameters())
    return count | {"backbone": backbone, "head": count["encoder"] - backbone}


def test_table_4_compares_networks_of_one_size() -> None:
    model = built("table4/voc_without.yaml").model
    with_sim, without = parameters(built("table2/voc_multihead.yaml").model), parameters(model)
    assert with_sim["backbone"] == without["backbone"]
    assert without["spatial"] == 0
    totals = [sum(count[part] for part in ("head", "spatial", "classifier")) for count in (with_sim, without)]
    assert totals == [49_832_324, 49_856_372]  # as the file's comment has it
    assert totals[1] == pytest.approx(totals[0], rel=0.01)
    pair = [built(f"{row}.yaml", *msrc_classes("msrc")).model for row in ("table1/msrc_sign", "table4/msrc_without")]
    counts = [parameters(row, 21) for row in pair]
    assert [c["head"] + c["spatial"] + c["classifier"] for c in counts] == [371_349, 371_493]
    assert [phase.kind for phase in model.schedule.phases] == ["train"]
    assert model.progress.plan["train"] == {"encoder", "spatial", "classifier"}


@pytest.mark.parametrize("row", ROWS)
def test_rows_on_thirteen_classes_of_voc_are_those_on_msrc_but_for_what_they_share(row: str) -> None:
    cli = built(f"table1/voc13_{row}.yaml")
    protocol = cli.datamodule.protocol
    assert [protocol.classes[i] for i in protocol.unseen] == ["pottedplant", "sheep", "sofa", "tvmonitor"]
    assert protocol.num_classes == 13
    assert cli.trainer.default_root_dir == f"runs/voc13/{row}"
    shared = yaml.safe_load((EXPERIMENTS / "parts" / "voc13.yaml").read_text())["model"]
    of_msrc = vars(built(f"table1/msrc_{row}.yaml", *msrc_classes("msrc")).config["model"])
    found = vars(cli.config["model"])
    assert found == {**of_msrc, **{key: value for key, value in shared.items() if key in found}}
    assert type(cli.model) is METHODS[ROWS[row][0].split()[0]]


# -- runs ------------------------------------------------------------------------------------------------------------


def test_quickstart(tmp_path: Path) -> None:
    arguments = ["--data.train_size", "32", "--data.val_size", "4", "--data.test_size", "4", "--data.batch_size", "4"]
    config = str(EXPERIMENTS / "quickstart.yaml")
    assert (
        main(
            ["fit", "--config", config, *CUT, *CUT_GENERATIVE, *arguments, "--trainer.default_root_dir", str(tmp_path)]
        )
        == 0
    )
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["final"] == "self_training"


def small(tmp_path: Path) -> list[str]:
    return [
        *("--data.num_workers", "0", "--data.batch_size", "2", "--data.crop_size", "65", "--data.warp_size", "97"),
        *("--data.eval_size", "65", "--model.weights", "null", "--model.backbone", "small"),
        *("--trainer.default_root_dir", str(tmp_path)),
    ]


def run(name: str, row: str, tmp_path: Path, *options: str) -> None:
    label, _ = ROWS[row]
    cut = [*CUT, *small(tmp_path), *options]
    if not label.startswith("SPNet"):
        cut += CUT_GENERATIVE
    path = EXPERIMENTS / "table1" / f"{name}_{row}.yaml"
    assert main(["fit", "--config", str(path), *cut]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert (found["dataset"], found["method"]) == (SETS[name][0], label.split()[0])
    phases = [
        "train",
        *(["transfer"] if found["method"] != "SPNet" else []),
        *(["self_training"] if "+" in label else []),
    ]
    assert list(found["phases"]) == phases
    assert len(found["test"]["per_class"]) == {"voc": 20, "context": 33, "coco_stuff": 171}[name]
    saved = yaml.safe_load((tmp_path / "version_0" / "config.yaml").read_text())
    assert (saved["method"], saved["model"]["self_training"]) == (found["method"], ROWS[row][1]["self_training"])


def voc_options() -> list[str]:
    if not SHARED.is_dir():
        pytest.skip("needs real VOC and SBD images in ../shared/data")
    table = str(SHARED / "embeddings" / "voc.npz")
    return ["--data.root", str(SHARED), "--data.sbd_root", str(SHARED), "--model.vectors", table]


@pytest.mark.parametrize("row", ROWS)
def test_voc_rows_on_real_images(row: str, tmp_path: Path) -> None:
    run("voc", row, tmp_path, *voc_options())


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIP with its table of texts; the first row keeps the maps that the others read."""
    pytest.importorskip("open_clip")
    from tests.clip import tiny_clip

    folder = tmp_path_factory.mktemp("clip")
    tiny_clip(folder)
    table = str(folder / "texts.npz")
    command = ["embed", "--classes", "voc", "--source", f"clip:{folder}", "--templates", "{}", "--output", table]
    assert main(command) == 0
    return folder


@pytest.mark.parametrize("row", CLIP_ROWS)
def test_rows_on_clip_on_real_images_with_a_tiny_one(row: str, clip_folder: Path, tmp_path: Path) -> None:
    from tests.clip import EMBED, NAME

    given = voc_options()
    given[given.index("--model.vectors") + 1] = str(clip_folder / "texts.npz")
    given = [
        *("--config", str(EXPERIMENTS / "clip" / f"voc_{row}.yaml"), *given),
        *("--trainer.default_root_dir", str(tmp_path)),
        *("--model.backbone", NAME, "--model.weights", str(clip_folder / "open_clip_model.safetensors")),
        *("--model.feature_cache", str(clip_folder / "maps"), "--data.num_workers", "0", "--data.batch_size", "2"),
        *("--data.crop_size", "64", "--data.warp_size", "97", "--data.eval_size", "65"),
    ]
    if row.startswith("sign"):
        given += [*CUT_GENERATIVE, "--model.feature_dim", str(EMBED)]
    cut = ["--trainer.limit_test_batches", "2", "--trainer.accelerator", "cpu"] if row == "maskclip" else CUT
    assert main(["test" if row == "maskclip" else "fit", *given, *cut]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["final"] == {"maskclip": "untrained", "spnet": "train", "sign": "transfer"}.get(row, "self_training")
    assert main(["results", str(tmp_path / "version_0"), "--output", str(tmp_path / "tables")]) == 0
    text = (tmp_path / "tables" / "table.md").read_text()
    assert "| ZegCLIP (published) |  | – | – | – | 91.90 / 77.80 / 84.30 |" in text
    assert "83.49 / 41.29 / 55.26" not in text  # the paper's row has another encoder


@pytest.mark.parametrize("row", ROWS)
def test_coco_stuff_rows_on_real_images(row: str, tmp_path: Path) -> None:
    if not SHARED.is_dir():
        pytest.skip("needs real COCO-Stuff images in ../shared/data")
    table = str(SHARED / "embeddings" / "coco_stuff.npz")
    root = str(SHARED / "coco-stuff")
    run("coco_stuff", row, tmp_path, "--data.root", root, "--data.val_size", "3", "--model.vectors", table)


@pytest.fixture(scope="module")
def context_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pascal Context in its native layout; its images are not to be had here, drawn ones take their place."""
    root = tmp_path_factory.mktemp("context")
    voc, labels = root / "VOCdevkit" / "VOC2010", root / "33_context_labels"
    (voc / "JPEGImages").mkdir(parents=True)
    labels.mkdir()
    rng = np.random.default_rng(0)
    names = {"train": [f"2008_{i:06d}" for i in range(8)], "val": [f"2008_{i:06d}" for i in range(100, 103)]}
    for part, members in names.items():
        (root / f"{part}.txt").write_text("\n".join(members))
        for name in members:
            Image.fromarray(rng.integers(0, 256, (50, 60, 3), np.uint8)).save(voc / "JPEGImages" / f"{name}.jpg")
            mask = np.kron(rng.integers(0, 34, (5, 6)), np.ones((10, 10))).astype(np.uint8)
            Image.fromarray(mask).save(labels / f"{name}.png")
    return root


@pytest.mark.parametrize("row", ROWS)
def test_context_rows_in_the_native_layout(row: str, context_root: Path, tmp_path: Path) -> None:
    run("context", row, tmp_path, "--data.root", str(context_root), "--model.vectors", "bundled")


@pytest.mark.parametrize("name", ["table2/voc_conv", "table3/voc_interpolated", "table4/voc_without"])
def test_rows_of_other_tables_on_real_images(name: str, tmp_path: Path) -> None:
    options = [*CUT, *CUT_GENERATIVE, *small(tmp_path), *voc_options()]
    assert main(["fit", "--config", str(EXPERIMENTS / f"{name}.yaml"), *options]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert list(found["phases"]) == (["train"] if "table4" in name else ["train", "transfer"])


def test_the_main_command_and_a_test_of_its_checkpoint(tmp_path: Path) -> None:
    options = [*CUT, *CUT_GENERATIVE, *small(tmp_path), *voc_options()]
    config = str(EXPERIMENTS / "voc.yaml")
    assert main(["fit", "--config", config, *options]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert list(found["phases"]) == ["train", "transfer", "self_training"]
    last = str(tmp_path / "version_0" / "checkpoints" / "last.ckpt")
    assert main(["test", "--config", config, *options, "--ckpt_path", last]) == 0
    assert json.loads((tmp_path / "version_1" / "results.json").read_text())["test"] == found["test"]


@pytest.fixture(scope="module")
def msrc_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("features")


@pytest.fixture(scope="module")
def msrc_lists(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A few images of MSRC, among them some of each unseen class."""
    folder = tmp_path_factory.mktemp("lists")
    options = []
    for split, first in (("train", 6), ("test", 2)):
        names = (SHARED / "msrc" / "splits" / f"{split}.txt").read_text().split() if SHARED.is_dir() else []
        path = folder / f"{split}.txt"
        path.write_text("\n".join(names[:first]))
        options += [f"--data.{split}_list", str(path)]
    return options


@pytest.mark.parametrize("name", ["msrc", "table1/msrc_spnet", "table1/msrc_cagnet_st", "table4/msrc_without"])
def test_msrc_rows_on_real_images(
    name: str, msrc_cache: Path, msrc_lists: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = [*msrc_classes("msrc"), *msrc_lists, *CUT, "--data.batch_size", "2", "--model.rounds", "1"]
    arguments += ["--trainer.limit_val_batches", "0"]  # the rows have no validation images
    arguments += ["--trainer.default_root_dir", str(tmp_path), "--model.feature_cache", str(msrc_cache)]
    if "spnet" not in name:
        arguments += ["--model.generator_iterations", "1", "--model.transfer_iterations", "2"]
    assert main(["fit", "--config", str(EXPERIMENTS / f"{name}.yaml"), *arguments]) == 0
    found = json.loads((tmp_path / "version_0" / "results.json").read_text())
    assert found["dataset"] == "msrc"
    assert len(found["test"]["per_class"]) == 21
    assert found["final"] == ("self_training" if "_st" in name or name == "msrc" else list(found["phases"])[-1])
    # one folder for all methods: their frozen backbone is the same
    (folder,) = (path for path in msrc_cache.iterdir() if path.is_dir())
    assert len(list(folder.iterdir())) == 2 * 6 + 2
    if name == "msrc":
        monkeypatch.syspath_prepend(str(EXPERIMENTS))
        matrix, _, model = importlib.import_module("confusions").measure(tmp_path / "version_0", "last")
        classes = model.protocol.classes
        union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
        for label, right, either in zip(classes, matrix.diagonal().tolist(), union.tolist(), strict=True):
            # the run's maps are rounded to 16 bits
            assert right / max(1, either) == pytest.approx(found["test"]["per_class"][label] or 0, abs=0.02), label


def test_the_sweep_runs_from_a_transferred_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = yaml.safe_load((EXPERIMENTS / "sweeps" / "annealing_temperature.yaml").read_text())
    assert sweep["method"] == "grid"
    ((name, grid),) = sweep["parameters"].items()
    assert (name, 2 in grid["values"]) == ("model.temperature", True)
    command = sweep["command"]
    assert command[:2] == ["${env}", "sign-zs3"]
    assert all(isinstance(word, str) for word in command)
    # the files' paths are from the project's root, where an agent is started
    monkeypatch.chdir(EXPERIMENTS.parent)
    value = grid["values"][0]
    at = command.index("${args}")
    words = [*command[2:at], f"--{name}={value}", *command[at + 1 :]]
    assert words[0] == "fit"
    options = [*CUT, *CUT_GENERATIVE, *small(tmp_path), *voc_options(), "--data.development", "3"]
    first = re.search(
        r"--config (\S+/voc_sign.yaml)", (EXPERIMENTS / "sweeps" / "annealing_temperature.yaml").read_text()
    )
    assert first is not None
    assert main(["fit", "--config", first[1], *options]) == 0
    transferred = str(tmp_path / "version_0" / "checkpoints" / "transfer.ckpt")
    local = [*options, "--trainer.logger", "null", "--model.init_from", transferred]
    assert main([*words, *local]) == 0
    run = tmp_path / "version_1"
    assert list(json.loads((run / "results.json").read_text())["phases"]) == ["self_training"]
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["temperature"] == value
    with (run / "metrics.csv").open() as file:
        assert sweep["metric"]["name"] in (csv.DictReader(file).fieldnames or [])


def test_a_perfect_labeller_scores_best_at_the_cells_places(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    ceilings = importlib.import_module("ceilings")
    ceilings.main(["--data", "ShapesDataModule", "--data.scene_size", "64", "--data.test_size", "4"])
    rows = [line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]
    assert [int(row[0]) for row in rows] == [4, 8, 16, 32]
    scores = [[float(score) for score in row[1:]] for row in rows]
    assert all(placed > tiled for placed, tiled in scores)
    assert scores[0][0] > scores[1][0] > scores[2][0] > scores[3][0] > 0
