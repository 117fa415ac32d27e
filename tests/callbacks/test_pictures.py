"""Pictures while training: of the same images each time, and without a trace in the weights."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import yaml
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from sign_zs3 import UserError
from sign_zs3.callbacks import PictureLogger, ScheduleCheckpoint
from sign_zs3.callbacks.pictures import _reduced
from sign_zs3.cli import main
from sign_zs3.drawing import panels
from sign_zs3.functional import confusion_matrix
from tests.conftest import TINY, Fit, StopAt, quiet_trainer, tiny_data, tiny_model

DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}
# 3 train, 2 generator, 3 transfer, 3 self-training
ENDS = [3, 5, 8, 11]


class Drawn:
    """What was drawn instead of being drawn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.panels: list[dict[str, Any]] = []
        self.pseudo: list[dict[str, Any]] = []
        self.confusions: list[Tensor] = []
        self.names: list[str] = []

        def panel(*args: Any) -> None:
            names = ("images", "truths", "predictions", "protocol", "title", "confidences")
            self.panels.append(dict(zip(names, args, strict=True)))

        def pseudo(*args: Any) -> None:
            names = ("images", "truths", "labels", "weights", "protocol", "title")
            self.pseudo.append(dict(zip(names, args, strict=True)))

        def put(_: PictureLogger, trainer: pl.Trainer, key: str, figure: Any, step: int, name: str) -> None:
            self.names.append(name)

        monkeypatch.setattr(panels, "prediction_panel", panel)
        monkeypatch.setattr(panels, "pseudo_label_panel", pseudo)
        monkeypatch.setattr(PictureLogger, "_put", put)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Drawn:
    return Drawn(monkeypatch)


def same(one: Any, other: Any) -> bool:
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


# -- training is as without ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2])
def test_pictures_change_no_weight(fit: Fit, drawn: Drawn, accumulate: int) -> None:
    # two rounds, so that a teacher is renewed after pictures of it; random numbers of the process must not count either
    options = {"rounds": 2, "accumulate": accumulate}
    torch.manual_seed(3)
    plain = fit(**options)
    after = torch.rand(1)
    torch.manual_seed(3)
    with_pictures = fit(PictureLogger(every=1, count=2), **options)
    assert torch.equal(torch.rand(1), after)
    assert same(with_pictures.state_dict(), plain.state_dict())
    modes = [[module.training for module in model.modules()] for model in (plain, with_pictures)]
    assert modes[0] == modes[1] and len(set(modes[0])) == 2
    assert len(drawn.panels) == 14 and len(drawn.pseudo) == 6


def test_a_resumed_run_goes_on_with_the_same_images(fit: Fit, tmp_path: Path, drawn: Drawn) -> None:
    straight = fit(PictureLogger(every=2))
    expected, shown = list(drawn.names), list(drawn.panels)
    drawn.names.clear()
    fit(PictureLogger(every=2), ScheduleCheckpoint(), StopAt(9))
    resumed = fit(PictureLogger(every=2), ScheduleCheckpoint(), ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert drawn.names == expected
    assert same(resumed.state_dict(), straight.state_dict())
    for one, other in zip(shown, drawn.panels[len(shown) :], strict=True):
        assert all(map(torch.equal, one["images"], other["images"]))
        assert all(map(torch.equal, one["predictions"], other["predictions"]))


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_when_pictures_are_drawn(fit: Fit, drawn: Drawn) -> None:
    fit(PictureLogger(every=4))
    assert drawn.names == [
        "panel-03", "panel-04", "panel-05", "panel-08", "panel-11", "pseudo-labels-11",
    ]  # fmt: skip
    assert [panel["title"] for panel in drawn.panels] == [
        "train, iteration 3 of 3", "generator, iteration 1 of 2", "generator, iteration 2 of 2",
        "transfer, iteration 3 of 3", "self_training, iteration 3 of 3",
    ]  # fmt: skip
    drawn.names.clear()
    fit(PictureLogger(every=0), generator_iterations=0, accumulate=2)
    assert drawn.names == ["panel-3", "panel-6", "panel-9", "pseudo-labels-9"]


def test_panels_show_what_the_model_says(fit: Fit, drawn: Drawn) -> None:
    model = fit(PictureLogger(every=0, count=3))
    data = tiny_data()
    data.setup("fit")
    assert data.val_set is not None
    known = {data.val_set[index]["image"].numpy().tobytes(): data.val_set[index]["mask"] for index in range(4)}
    for panel in drawn.panels:
        assert len(panel["images"]) == 3
        for image, first, truth in zip(panel["images"], drawn.panels[0]["images"], panel["truths"], strict=True):
            assert torch.equal(image, first)
            assert torch.equal(truth, known[image.numpy().tobytes()])
            # nobody may look at these labels
            assert not ((truth >= 18) & (truth != 255)).any()
    last = drawn.panels[-1]
    for image, label, confidence in zip(last["images"], last["predictions"], last["confidences"], strict=True):
        assert torch.equal(label, model.label_image(image))
        assert label.shape == confidence.shape == image.shape[1:]
        assert confidence.min() >= 1 / 22 and confidence.max() <= 1


def test_confidence_before_unseen_classes_are_known(fit: Fit, drawn: Drawn) -> None:
    fit(PictureLogger(), phases=["train"])
    (panel,) = drawn.panels
    for label, confidence in zip(panel["predictions"], panel["confidences"], strict=True):
        assert label.max() < 18
        # the softmax is over the 18 classes that C knows
        assert confidence.isfinite().all() and confidence.min() >= 1 / 18


def test_pseudo_labels_with_their_annealed_weights(fit: Fit, drawn: Drawn) -> None:
    model = fit(PictureLogger(every=0), temperature=0.5)
    (panel,) = drawn.pseudo
    assert panel["title"] == "self_training, iteration 3 of 3, annealed, T = 0.5"
    assert model.teacher is not None
    for image, truth, labels, weights in zip(
        panel["images"], panel["truths"], panel["labels"], panel["weights"], strict=True
    ):
        pseudo = truth == 255
        assert pseudo.any() and not pseudo.all()
        assert torch.equal(labels != 255, pseudo)
        assert torch.equal(weights.isnan(), ~pseudo)
        with torch.no_grad():
            logits = model.teacher(image[None])
        # cells lie at every fourth pixel, and at the end of what was padded
        size = [4 * (side - 1) + 1 for side in logits.shape[-2:]]
        logits = torch.nn.functional.interpolate(logits, size, mode="bilinear", align_corners=True)
        logits = logits[..., : truth.shape[0], : truth.shape[1]]
        confidence = logits.softmax(dim=1)[0]
        assert torch.equal(labels[pseudo], confidence[18:].argmax(dim=0)[pseudo] + 18)
        # eq. 17 in closed form
        chosen = confidence[18:].amax(dim=0)[pseudo]
        torch.testing.assert_close(weights[pseudo], torch.exp((chosen - chosen.max()) / 0.5))


def test_pseudo_labels_that_are_kept(fit: Fit, drawn: Drawn) -> None:
    fit(PictureLogger(every=0), self_training="top_fraction", top_fraction=0.25)
    (panel,) = drawn.pseudo
    assert panel["title"].endswith("top_fraction, top 0.25")
    for weights in panel["weights"]:
        there = weights[~weights.isnan()]
        assert set(there.tolist()) == {0.0, 1.0}
        assert abs(there.sum() - 0.25 * there.numel()) <= 1


def test_training_images_where_there_are_no_others(tmp_path: Path, drawn: Drawn) -> None:
    data = tiny_data()
    # as a folder without a list of its own for validation
    data.own_validation, data.val_fraction = False, 0.0
    quiet_trainer(tmp_path, PictureLogger(every=0)).fit(tiny_model(phases=["train"]), data)
    assert data.val_indices == () and data.train_set is not None
    (panel,) = drawn.panels
    assert len(panel["truths"]) == 4
    known = [data.train_set[index]["image"] for index in range(12)]
    for image, truth in zip(panel["images"], panel["truths"], strict=True):
        assert any(torch.equal(image, one) or torch.equal(image, one.flip(-1)) for one in known)
        assert not ((truth >= panel["protocol"].num_seen) & (truth != 255)).any()


def test_development_shows_the_classes_that_play_the_unseen_ones(fit: Fit, drawn: Drawn) -> None:
    fit(PictureLogger(), data={"development": 4, "val_size": 8})
    protocol = drawn.panels[0]["protocol"]
    shown = {int(label) for truth in drawn.panels[0]["truths"] for label in truth.unique()}
    assert shown & set(protocol.unseen)


def test_a_feature_cache_leaves_the_images(tmp_path: Path, drawn: Drawn) -> None:
    options = {"head": "fcn", "freeze_encoder": True, "feature_cache": str(tmp_path / "cache")}
    states = []
    for callbacks in ([], [PictureLogger(every=1)]):
        model = tiny_model(**options)
        quiet_trainer(tmp_path, *callbacks).fit(model, tiny_data())
        states.append(model.state_dict())
    assert same(*states)
    assert len(drawn.panels) == 11
    for image, label in zip(drawn.panels[-1]["images"], drawn.panels[-1]["predictions"], strict=True):
        assert image.shape == (3, 32, 32) and image.dtype == torch.uint8
        assert torch.equal(label, model.label_image(image))


def test_large_images_are_shown_small() -> None:
    image = torch.zeros(3, 600, 1200, dtype=torch.uint8)
    image[:, :, 600:] = 200
    mask = torch.full((600, 1200), 255)
    mask[:, 600:] = 7
    valid = torch.ones(600, 1200, dtype=torch.bool)
    shown = _reduced({"image": image, "mask": mask, "valid": valid, "id": "large"})
    assert shown.image is image
    assert shown.picture.shape == (3, 256, 512) and shown.picture.dtype == torch.uint8
    assert shown.picture[:, :, :250].max() == 0 and shown.picture[:, :, 262:].min() == 200
    assert shown.truth.shape == shown.valid.shape == (256, 512)
    assert (shown.truth[:, :256] == 255).all() and (shown.truth[:, 256:] == 7).all()
    small = {"image": image[:, :64, :64], "mask": mask[:64, :64], "valid": valid[:64, :64], "id": "small"}
    assert _reduced(small).picture is small["image"]


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="every: found -1, expected at least 0"):
        PictureLogger(every=-1)
    with pytest.raises(UserError, match="count: found 0, expected at least 1"):
        PictureLogger(count=0)


# -- where it goes ---------------------------------------------------------------------------------------------------


def test_files_and_the_plots_of_a_test(tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_data()
    trainer = quiet_trainer(tmp_path, PictureLogger(every=0, count=1))
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    found = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert found == [
        "confusion-self_training.png", "iou-self_training.png", "panel-03.png", "panel-05.png", "panel-08.png",
        "panel-11.png", "pseudo-labels-11.png",
    ]  # fmt: skip
    assert data.test_set is not None
    expected = torch.zeros(22, 22, dtype=torch.long)
    for index in range(len(data.test_set)):
        sample = data.test_set[index]
        expected += confusion_matrix(model.label_image(sample["image"])[None], sample["mask"][None], 22)
    assert model.confusion is not None
    assert torch.equal(model.confusion, expected) and expected.sum() > 0


# TensorBoard's own use of numpy
@pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorboard.*")
def test_tensorboard_takes_them(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    model, data = tiny_model(generator_iterations=0), tiny_data()
    logger = TensorBoardLogger(tmp_path, name="board")
    trainer = quiet_trainer(tmp_path, PictureLogger(every=0, count=1), logger=logger)
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    logger.finalize("success")
    assert not list(tmp_path.rglob("*.png"))
    events = accumulator.EventAccumulator(str(logger.log_dir), size_guidance={"images": 0}).Reload()
    steps = {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}
    assert steps == {
        "pictures/panel": [3, 6, 9], "pictures/pseudo_labels": [9], "test/confusion": [9], "test/iou": [9],
    }  # fmt: skip
    assert events.Images("pictures/panel")[0].width > 500


def test_from_the_shell(tmp_path: Path) -> None:
    content = {
        "trainer": {"default_root_dir": str(tmp_path), "accelerator": "cpu", "limit_val_batches": 0},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": {**TINY, "generator_iterations": 0},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    words = ["--trainer.callbacks+=PictureLogger", "--trainer.callbacks.every", "2", "--trainer.callbacks.count", "1"]
    assert main(["fit", "--config", str(tmp_path / "tiny.yaml"), "--model.phases", "[train,transfer]", *words]) == 0
    found = sorted(path.name for path in (tmp_path / "version_0" / "pictures").iterdir())
    assert found == [
        "confusion-train.png", "confusion-transfer.png", "iou-train.png", "iou-transfer.png",
        "panel-2.png", "panel-3.png", "panel-4.png", "panel-6.png",
    ]  # fmt: skip
