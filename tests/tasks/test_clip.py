"""The methods on a tiny CLIP: without training, and with features that are unit vectors."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sign_zs3 import SIGNModule, SPNetModule, UserError, extend, load_task
from sign_zs3.cli import main
from sign_zs3.data.datasets.shapes import shapes_protocol
from sign_zs3.embeddings import ClassTable
from sign_zs3.models.classifier import Classifier
from sign_zs3.tasks import CaGNetModule
from sign_zs3.tasks.updates import segmenter_optimizer
from tests.clip import EMBED, FILE, NAME, PATCH, tiny_clip
from tests.conftest import TINY, quiet_trainer, tiny_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip")
    tiny_clip(path)
    command = ["embed", "--classes", "shapes", "--source", f"clip:{path}", "--templates", "a {}."]
    assert main([*command, "--output", str(path / "texts.npz")]) == 0
    return path


def options(folder: Path, **given: Any) -> dict[str, Any]:
    return {
        "vectors": str(folder / "texts.npz"), "backbone": NAME, "weights": str(folder / FILE), "head": "identity",
        "freeze_encoder": True, "unit_features": True, **given,
    }  # fmt: skip


def sign(folder: Path, **given: Any) -> SIGNModule:
    made = TINY | options(folder, feature_dim=EMBED, bandwidths="median", lr=1e-3, lr_transfer=1e-3) | given
    return SIGNModule(**made)


def built(model: Any) -> Any:
    model._take(shapes_protocol())
    model.configure_model()
    return model


@pytest.mark.parametrize("dense", ["value", "correlative"])
def test_maskclip_is_the_cosine_of_patches_and_texts(dense: str, folder: Path) -> None:
    model = built(SPNetModule(**options(folder, dense=dense, logit_scale=100.0))).eval()
    images = torch.randint(0, 256, (2, 3, 40, 24), dtype=torch.uint8)
    backbone = model.segmenter.encoder.backbone
    with torch.no_grad():
        got = model(images)
        (patches,) = backbone(model.segmenter.normalise(images))
    assert backbone.dense == dense
    assert model.segmenter.known.all()
    texts = ClassTable.load(folder / "texts.npz").vectors(model.protocol.classes)
    want = 100 * torch.einsum("ndhw,cd->nchw", F.normalize(patches, dim=1), texts)
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-3)
    assert got.shape[2:] == (40 // PATCH, 24 // PATCH)


def test_c_starts_at_the_texts_and_all_features_are_unit_vectors(folder: Path) -> None:
    model = built(sign(folder))
    classifier = model.segmenter.classifier
    assert isinstance(classifier, Classifier)
    assert torch.equal(classifier.projection.weight[:, :, 0, 0], model.class_vectors)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        spatial = model.segmenter.features(images, sample=False)
        (patches,) = model.segmenter.encoder.backbone(model.segmenter.normalise(images))
        fake = model.generator(torch.randn(1, EMBED, 5, 1), torch.randn(1, EMBED, 5, 1))
        logits = classifier(spatial.features)
    # before it learns anything, SIM passes on what CLIP says: a positive gate leaves directions as they are
    torch.testing.assert_close(spatial.features, F.normalize(patches, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fake.norm(dim=1), torch.ones(1, 5, 1))
    assert model.segmenter.known.all()
    want = 100 * torch.einsum("ndhw,cd->nchw", spatial.features, model.class_vectors)
    torch.testing.assert_close(logits, want, rtol=1e-4, atol=1e-3)
    with torch.autocast("cpu", torch.bfloat16):
        half = classifier(spatial.features)
    assert torch.equal(half, logits)  # which would have many equals in half precision


def test_maskclip_s_logits_stay_exact_under_autocast(folder: Path) -> None:
    model = built(SPNetModule(**options(folder, logit_scale=100.0)))
    features = F.normalize(torch.randn(1, EMBED, 4, 4), dim=1)
    want = model.segmenter.classifier(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.segmenter.classifier(features), want)


def test_all_phases_train_the_scale_too_and_a_checkpoint_brings_it_back(folder: Path, tmp_path: Path) -> None:
    model, data = sign(folder, feature_cache=str(tmp_path / "maps"), lr_transfer=1e-7), tiny_data()
    trainer = quiet_trainer(tmp_path)
    trainer.fit(model, data)
    assert model.schedule.done
    scale = model.segmenter.get_parameter("classifier.hidden.0.logarithm")
    assert scale != torch.tensor(100.0).log()
    trainer.save_checkpoint(tmp_path / "m.ckpt", weights_only=False)
    again = load_task(tmp_path / "m.ckpt")
    image = torch.randint(0, 256, (3, 40, 40), dtype=torch.uint8)
    assert torch.equal(again.label_image(image), model.label_image(image))
    more = extend(again, ["orange blob"], vectors=_table(folder, tmp_path))
    assert more.protocol.unseen_classes[-1] == "orange blob"
    new = more.protocol.classes.index("orange blob")
    weight = more.segmenter.get_parameter("classifier.projection.weight")[new, :, 0, 0]
    assert F.cosine_similarity(weight, more.class_vectors[new], dim=0) > 0.99  # where it starts
    old = [more.protocol.classes.index(name) for name in again.protocol.classes]
    assert torch.equal(more.segmenter.state_dict()["classifier.projection.weight"][old],
                       again.segmenter.state_dict()["classifier.projection.weight"])  # fmt: skip


def _table(folder: Path, tmp_path: Path) -> str:
    names = ",".join([*shapes_protocol().classes, "orange blob"])
    command = ["embed", "--classes", names, "--source", f"clip:{folder}", "--templates", "a {}."]
    assert main([*command, "--output", str(tmp_path / "more.npz")]) == 0
    return str(tmp_path / "more.npz")


def test_rates_of_a_tuned_encoder(folder: Path) -> None:
    model = built(sign(folder, freeze_encoder=False, backbone_rate=0.1, layer_decay=0.5))
    groups = segmenter_optimizer(model.segmenter, model.hparams).param_groups
    rates = {id(p): group["multiplier"] for group in groups for p in group["params"]}
    network = model.segmenter.encoder.backbone.network
    assert rates[id(network.head.weight)] == pytest.approx(0.1)
    assert rates[id(network.blocks[0].mlp.fc1.weight)] == pytest.approx(rates[id(network.blocks[1].mlp.fc1.weight)] / 2)
    assert rates[id(model.segmenter.classifier.projection.weight)] == 10
    of_scale = id(model.segmenter.classifier.hidden[0].logarithm)
    (group,) = (group for group in groups if of_scale in map(id, group["params"]))
    assert group["weight_decay"] == 0  # it would drift towards 1
    assert {id(p) for p in model.segmenter.parameters()} == set(rates)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"feature_dim": 8}, "head: identity gives the 16 channels of the backbone, expected 8"),
        ({"feature_dim": 8, "head": "fcn"}, "unit_features: found feature_dim 8 .* expected 16, the length"),
        ({"classifier_hidden": 8}, "unit_features: found feature_dim 16 and classifier_hidden 8, expected .* null"),
        ({"vectors": "bundled"}, "unit_features: found feature_dim 16 .* expected 150"),
        ({"encoding": "released_4"}, "unit_features: found beside a spatial part as it was released"),
        ({"layer_decay": 0.0}, "layer_decay: found 0.0, expected more than 0 and at most 1"),
        ({"backbone_rate": -1.0}, "backbone_rate: found -1.0, expected at least 0"),
        ({"bandwidths": "mean"}, "bandwidths: found 'mean', expected one of median"),
    ],
)  # fmt: skip
def test_options_that_do_not_fit_are_named(given: dict[str, Any], message: str, folder: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        built(sign(folder, **given))
    assert "\n" not in str(caught.value)


def test_texts_of_another_width_than_the_projection_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match="head: identity gives the 16 channels of the backbone, expected 150"):
        built(SPNetModule(**options(folder, vectors="bundled")))


def test_cagnet_and_the_latent_know_unit_features_too(folder: Path) -> None:
    made = {k: v for k, v in TINY.items() if k != "spatial_heads"} | options(folder, feature_dim=EMBED)
    model = built(CaGNetModule(**made))
    found = model.segmenter.features(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))
    torch.testing.assert_close(found.features.norm(dim=1), torch.ones(1, 4, 4))


def test_the_program_from_a_folder_to_a_taught_class(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = [
        *("--data", "ShapesDataModule", "--data.train_size", "8", "--data.val_size", "4", "--data.test_size", "4"),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.default_root_dir", str(tmp_path / "runs"), "--method", "SPNet", "--model.logit_scale", "100"),
        *(f"--model.{name}={json.dumps(value).strip(chr(34))}" for name, value in options(folder).items()),
    ]  # fmt: skip
    assert main(["fit", *shared]) == 1
    assert "model: found nothing to train" in capsys.readouterr().err
    assert main(["test", *shared]) == 0
    run = next((tmp_path / "runs").rglob("results.json")).parent
    results = json.loads((run / "results.json").read_text())
    assert (results["final"], list(results["phases"])) == ("untrained", ["untrained"])
    checkpoint = str(run / "checkpoints" / "last.ckpt")
    assert main(["test", *shared, "--ckpt_path", checkpoint]) == 0
    again = json.loads((tmp_path / "runs" / "version_1" / "results.json").read_text())
    assert (again["final"], again["test"]) == ("untrained", results["test"])
    tuned = [word.replace("freeze_encoder=true", "freeze_encoder=false") for word in shared]
    capsys.readouterr()
    assert main(["test", *tuned]) == 1
    assert "--ckpt_path: found none" in capsys.readouterr().err
    more = str(tmp_path / "more.ckpt")
    source = ["--source", f"clip:{folder}", "--templates", "a {}."]
    assert main(["extend", "--ckpt_path", checkpoint, "--classes", "orange blob", *source, "--output", more]) == 0
    assert load_task(more).protocol.unseen_classes[-1] == "orange blob"
    assert (
        main(["extend", "--ckpt_path", checkpoint, "--classes", "a b", *source[:2], "--output", f"{more}2.ckpt"]) == 1
    )
    assert "another vector for" in capsys.readouterr().err  # other templates than those of the training
    assert main(["export", "--ckpt_path", more, "--output", str(tmp_path / "m.onnx")]) == 0
    assert "100.00 % of the pixels" in capsys.readouterr().out
    with caplog.at_level(logging.WARNING):
        assert main(["results", str(run), "--output", str(tmp_path / "tables")]) == 0
    assert "no published numbers of systems on CLIP" in caplog.text
    assert "| MaskCLIP |" in (tmp_path / "tables" / "table.md").read_text()
