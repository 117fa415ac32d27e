"""Released files become models: kinds, classes in our order, refusals in one line, trainings that start from them."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from sign_zs3 import (
    FolderDataModule,
    SIGNModule,
    UserError,
    ZeroShotTask,
    extend,
    import_released,
    load_task,
    save_model,
)
from sign_zs3.cli import main
from sign_zs3.data.splits import NEVER_LABELLED, PUBLISHED, published_protocol
from sign_zs3.models import ReleasedModule, build_backbone
from sign_zs3.released.importing import CAFFE
from tests.conftest import TINY, quiet_trainer, tiny_data
from tests.released import files


@pytest.fixture(scope="module")
def entries() -> files.Drawn:
    """Those of a SIGN of type 1 on VOC."""
    return files.sign_entries("1")


@pytest.fixture(scope="module")
def checkpoint(entries: files.Drawn, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    voc = files.written(folder / "voc.pth", entries, "sign")
    assert main(["import", str(voc), "--output", str(folder / "released.ckpt")]) == 0
    return folder / "released.ckpt"


def coco_entries() -> files.Drawn:
    """Those of a CaGNet on COCO-Stuff."""
    return files.sign_entries(None, "coco_stuff", thin=True)


# -- classes ---------------------------------------------------------------------------------------------------------


def test_values_that_never_occur_and_the_background_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    entries = coco_entries()
    # each row says its own place
    entries["Em_all.weight"][:, 0] = torch.arange(182)
    entries["dis.cls.bias"] = torch.arange(183).float()
    path = files.written(tmp_path / "coco.pth", entries, "cagnet")
    with caplog.at_level("INFO"):
        model = import_released(path)
    protocol = published_protocol("coco_stuff")
    assert model.protocol == protocol
    seen_first = [*(i for i in range(182) if i not in protocol.ids[protocol.num_seen :]), *protocol.ids[156:]]
    wanted = [seen_first.index(value) for value in protocol.ids]
    assert model.class_vectors[:, 0].tolist() == wanted
    bias = model.state_dict()["segmenter.classifier.projection.bias"]
    assert bias.tolist() == wanted
    left = {seen_first.index(value) for value in NEVER_LABELLED}
    assert {f"row {row} of C" for row in {*left, 182}} <= {
        part for record in caplog.messages for part in record.removeprefix("left out: ").split(", ")
    }


def test_a_table_tells_the_order_of_the_classes(tmp_path: Path) -> None:
    entries, order = coco_entries(), torch.randperm(182, generator=torch.Generator().manual_seed(5))
    table = files.table(tmp_path / "table.npz", "coco_stuff")
    with np.load(table) as content:
        vectors = torch.from_numpy(content["words"])
    vectors = torch.nn.functional.normalize(vectors, dim=1)
    rows = torch.nn.functional.normalize(torch.randn(182, files.WORDS), dim=1)
    rows[:171] = vectors
    entries["Em_all.weight"], entries["dis.cls.bias"] = rows[order], torch.cat([order.float(), torch.zeros(1)])
    model = import_released(files.written(tmp_path / "coco.pth", entries, "cagnet"), vectors=str(table))
    names = list(PUBLISHED["coco_stuff"].names.values())
    bias = model.state_dict()["segmenter.classifier.projection.bias"]
    assert [names[int(row)] for row in bias.tolist()] == list(model.protocol.classes)
    entries["Em_all.weight"] = torch.randn(182, files.WORDS)
    other = files.written(tmp_path / "other.pth", entries, "cagnet")
    with pytest.raises(UserError, match=r"--vectors: found no vector of its '.*' in the file \(cosines up to 0\.\d\d"):
        import_released(other, vectors=str(table))


# -- what is refused -------------------------------------------------------------------------------------------------

Change = Callable[[dict[str, Tensor]], object]


@pytest.mark.parametrize(
    ("change", "options", "expected"),
    [
        (lambda e: e.pop("gen.mlp.3.conv.bias"), {}, r"places without an entry: generator\.layers\.9\.bias"),
        (lambda e: e.pop("back.scale.fc_1.conv.weight"), {}, "places without an entry: segmenter.spatial.context.gate"),
        (lambda e: e.update({"back.scale.more.weight": torch.ones(1)}), {}, "without a place: back.scale.more.weight"),
        (lambda e: e.pop("dis.fc.conv.weight"), {}, r"no segmenter\.classifier\.hidden\.0, discriminator\.layers\.0"),
        (lambda e: e.pop("back.scale.aspp.stages.c0.weight"), {}, r"found no segmenter\.encoder\.head\.0"),
        (lambda e: e.pop("Em_all.weight"), {}, "has no whole class vectors or classifier"),
        (lambda e: e.update({"Em_all.weight": torch.tensor(1.0)}), {}, "has no whole class vectors or classifier"),
        (lambda e: e.update({"Em_all.bias": torch.ones(20)}), {}, "entries without a place: class_vectors.bias"),
        (lambda e: e.update({"dis.cls.weight": e["dis.cls.weight"][:10]}), {}, r"has \(10, 16, 1, 1\) as .*projection"),
        (lambda e: e.update({"Em_all.weight": torch.ones(20, 20).int()}), {}, r"has Em_all\.weight of torch\.int32"),
        (lambda e: e.update({"dis.pred.bias": torch.ones(1).expand(10**12)}), {}, r"claims 1,000,\d+,\d+,\d+ numbers"),
        (lambda e: e.update({"back.scale.layer1.conv1.conv.weight": torch.ones(64)}), {}, "does not fit SIGNModule"),
        (lambda e: e.update({"Em_all.weight": torch.ones(60, 20)}), {}, "--dataset: found 60 classes in the file"),
        (lambda e: e.update({"dotless": torch.ones(1)}), {}, "entries without a place: dotless"),
        (lambda e: e.pop("back.scale.positionalpool.conv.weight"), {}, r"without an entry: .*encoding\.last\.weight"),
        (lambda e: None, {"split": "zs3-2"}, "--split: found zs3-2 for a file of sign, expected none"),
        (lambda e: e.update({"dis.pred.bias": torch.full((1,), torch.nan)}), {}, "holds NaN or infinity in dis.pred"),
        (lambda e: None, {"kind": "cagnet"}, "--from: found cagnet, but .* is of sign: leave the option out"),
        (lambda e: None, {"kind": "pspnet"}, "--from: found 'pspnet', expected"),
        (lambda e: None, {"dataset": "context"}, "--dataset: found 20 .* expected context, but the file is of voc"),
        (lambda e: None, {"network_type": "4"}, "--network-type: found 4, expected 1"),
        (lambda e: None, {"across_batch": True}, "--across-batch: found with type 1, expected 4 or 6"),
        (lambda e: None, {"phase": "train"}, "phase: found 'train', expected one of transfer"),
        (lambda e: None, {"vectors": "bundled"}, "--vectors: found 150 numbers per class, expected the file's 20"),
    ],
)  # fmt: skip
def test_a_file_that_does_not_fit_is_one_line(
    change: Change, options: dict[str, Any], expected: str, tmp_path: Path
) -> None:
    changed = files.sign_entries("1", thin=True)
    change(changed)
    path = files.written(tmp_path / "changed.pth", changed, "sign")
    with pytest.raises(UserError, match=expected) as caught:
        import_released(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("network_type", ["5", "7", "8"])
def test_types_that_look_alike_are_asked_for(network_type: str) -> None:
    from sign_zs3.released.names import network_types

    drawn = files.Drawn(0)
    files.spatial_part(drawn, network_type)
    assert network_types(drawn) == ("5", "7", "8")


@pytest.mark.parametrize("network_type", ["1", "2", "2.1", "3", "4", "6"])
def test_other_types_are_told_by_their_entries(network_type: str) -> None:
    from sign_zs3.released.names import network_types

    drawn = files.Drawn(0)
    files.spatial_part(drawn, network_type)
    assert network_types(drawn) == (network_type,)


class Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("run",)


@pytest.mark.parametrize("older", [False, True])
def test_code_in_a_file_is_not_run(older: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "payload.pth"
    torch.save({"state_dict": {}, "more": Payload()}, path, _use_new_zipfile_serialization=not older)
    with pytest.raises(UserError, match="code in files is never run"):
        import_released(path)
    path.write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UserError, match="cannot be read"):
        import_released(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("older", [False, True])
def test_a_truncated_file_is_one_line(older: bool, tmp_path: Path) -> None:
    small = {name: value.clone() for name, value in files.spnet_entries(thin=True).items() if "layer5" not in name}
    path = files.written(tmp_path / "spnet.pth", small, "spnet", older)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(UserError, match=r"import: .* cannot be read as a plain state dict") as caught:
        import_released(path, dataset="voc")
    assert "\n" not in str(caught.value)


def test_what_is_no_released_file_is_named(tmp_path: Path) -> None:
    torch.save({"layer1.0.conv1.weight": torch.ones(2)}, tmp_path / "other.pth")
    with pytest.raises(
        UserError, match=r"found entries such as layer1\.0\.conv1\.weight, expected those of a released"
    ):
        import_released(tmp_path / "other.pth")
    with pytest.raises(UserError, match="is not there"):
        import_released(tmp_path / "none.pth")


# -- what can be done with it ----------------------------------------------------------------------------------------


def test_an_import_is_an_ordinary_checkpoint(checkpoint: Path, entries: files.Drawn, tmp_path: Path) -> None:
    model = load_task(checkpoint)
    assert model.schedule.done
    assert model.hparams["resolution"] == "feature"
    assert bool(model.segmenter.known.all())
    image = torch.randint(0, 256, (3, 40, 50), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels = model.segmenter.predict(image)
    assert labels.shape == (40, 50)
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "folder")]) == 0
    # the classifier's hidden layer has no row per class
    table = files.table(tmp_path / "table.npz", "voc", entries["Em_all.weight"])
    with np.load(table) as content:
        names, words = content["names"], content["words"]
    np.savez(tmp_path / "more.npz", names=[*names, "zebra"], words=[*words, np.roll(words[12], 1)])
    more = extend(model, ["zebra"], vectors=str(tmp_path / "more.npz"))
    assert more.protocol.unseen_classes[-1] == "zebra"
    old = [more.protocol.classes.index(name) for name in model.protocol.classes]
    row, kept = (each.state_dict()["segmenter.classifier.projection.weight"] for each in (more, model))
    torch.testing.assert_close(row[old], kept, rtol=0, atol=0)
    assert float(row[more.protocol.classes.index("zebra")].abs().max()) > 0


@pytest.mark.parametrize(
    "kind", ["sign", pytest.param("zs3", marks=pytest.mark.slow), pytest.param("spnet", marks=pytest.mark.slow)]
)
def test_training_starts_from_an_import(kind: str, checkpoint: Path, tmp_path: Path) -> None:
    if kind == "zs3":
        path = files.written(tmp_path / "zs3.pth.tar", files.zs3_entries(), "zs3")
        save_model(import_released(path, split="zs3-2"), tmp_path / "zs3.ckpt")
        checkpoint = tmp_path / "zs3.ckpt"
    elif kind == "spnet":
        path, table = (
            files.written(tmp_path / "s.pth", files.spnet_entries(), "spnet"),
            files.table(tmp_path / "t.npz"),
        )
        save_model(import_released(path, dataset="voc", vectors=str(table)), tmp_path / "spnet.ckpt")
        checkpoint = tmp_path / "spnet.ckpt"
    released = load_task(checkpoint)
    assert kind != "zs3" or "generator" not in released.progress.trained_parts
    phases = [name for name in ("train", "generator", "transfer", "self_training") if name in released.progress.plan]
    options = {name: released.hparams[name] for name in released.defaults() if name != "protocol"}
    options |= {f"{name}_iterations": 1 for name in phases} | {"phases": phases, "init_from": str(checkpoint)}
    model = type(released)(**options)
    data = images_of(released, tmp_path / "images")
    before = {name: value.clone() for name, value in released.state_dict().items()}
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, data)
    assert model.schedule.done
    after = model.state_dict()
    # frozen batch norms, whatever is trained
    norms = [name for name in after if name.startswith("segmenter.encoder.backbone") and "running" in name]
    assert norms
    assert all(torch.equal(after[name], before[name]) for name in norms)
    moved = [name for name in after if name in before and after[name].shape == before[name].shape]
    assert any(not torch.equal(after[name], before[name]) for name in moved if "encoder.backbone" in name)


def images_of(model: ZeroShotTask, root: Path) -> FolderDataModule:
    """Random images and masks of a model's classes."""
    protocol, rng = model.protocol, np.random.default_rng(0)
    for folder in ("images", "masks"):
        (root / folder).mkdir(parents=True)
    for number in range(8):
        Image.fromarray(rng.integers(0, 256, (33, 41, 3), dtype=np.uint8)).save(root / f"images/{number}.png")
        Image.fromarray(rng.integers(0, 21, (33, 41), dtype=np.uint8)).save(root / f"masks/{number}.png")
    lines = [f"{value}\t{name}" for value, name in zip(protocol.ids, protocol.classes, strict=True)]
    (root / "classes.txt").write_text("\n".join(lines))
    options: dict[str, Any] = {"warp_size": None, "crop_size": 33, "batch_size": 2, "num_workers": 0}
    ignored = [value for value in (0, 255) if value not in protocol.ids]
    return FolderDataModule(str(root), list(protocol.unseen_classes), ignored_ids=ignored, **options)


def test_vectors_of_a_checkpoint_need_one(tmp_path: Path) -> None:
    model = SIGNModule(**{**TINY, "vectors": "checkpoint"})
    with pytest.raises(UserError, match="vectors: found checkpoint without init_from"):
        quiet_trainer(tmp_path).fit(model, tiny_data())


def test_only_multi_head_attention_can_run_across_the_batch() -> None:
    with pytest.raises(UserError, match="across_batch: found with encoding 3, expected 4 or 6"):
        ReleasedModule(8, "3", across_batch=True)


# -- DeepLab ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("prefix", "shortcut"), [("base.", "shortcut"), ("back.scale.", "proj"), ("", "proj")])
def test_backbones_of_deeplab_are_read_as_they_are_and_by_import(prefix: str, shortcut: str, tmp_path: Path) -> None:
    drawn = files.Drawn(0, thin=True)
    files.caffe_resnet(drawn, prefix, shortcut)
    for index in range(4):
        name = f"aspp.c{index}" if prefix == "base." else f"{prefix}aspp.stages.c{index}"
        drawn.conv(name, 3, 2048, 3, bias=True)
    path = files.written(tmp_path / "deeplab.pth", drawn, "deeplab", older=True)
    arguments = ["import", str(path), "--from", "deeplab", "--output", str(tmp_path / "deeplab.safetensors")]
    assert main(arguments) == 0
    direct = build_backbone("resnet101_caffe", weights=str(path)).state_dict()
    imported = build_backbone("resnet101_caffe", weights=str(tmp_path / "deeplab.safetensors")).state_dict()
    assert all(torch.equal(direct[name], imported[name]) for name in direct)
    torch.testing.assert_close(direct["0.weight"], drawn[f"{prefix}layer1.conv1.conv.weight"].flip(1))
    torch.testing.assert_close(
        direct["7.0.downsample.0.weight"], drawn[f"{prefix}layer5.block1.{shortcut}.conv.weight"]
    )
    assert len(load_file(tmp_path / "deeplab.safetensors")) == 104 * 6
    with pytest.raises(UserError, match="does not fit the backbone resnet101"):
        build_backbone("resnet101", weights=str(path))
    assert main([*arguments[:2], "--output", str(tmp_path / "x.ckpt")]) == 1
    with pytest.raises(SystemExit):
        main([*arguments[:-1], str(tmp_path / "other.safetensors"), "--dataset", "voc"])
    del drawn[f"{prefix}layer3.block2.reduce.conv.weight"]
    files.written(path, drawn, "deeplab")
    assert main([*arguments[:-1], str(tmp_path / "other.safetensors")]) == 1
    assert not (tmp_path / "other.safetensors").exists()


def test_the_mean_is_that_of_caffe() -> None:
    assert [round(255 * value, 3) for value in CAFFE["image_mean"]] == [122.675, 116.669, 104.008]
