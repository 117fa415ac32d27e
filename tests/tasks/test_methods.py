"""What holds for every method, and what makes each of them the method it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.nn import functional as F

from sign_zs3 import CaGNetModule, SIGNModule, SPNetModule, UserError, ZeroShotTask, ZS3Module
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.tasks import GenerativeTask
from sign_zs3.tasks.steps import supervised_losses
from tests.conftest import StopAt, quiet_trainer, tiny_data
from tests.tasks.test_sign import Watch, a_batch, same, state_of

METHODS: list[type[ZeroShotTask]] = [SPNetModule, ZS3Module, CaGNetModule, SIGNModule]
SHARED: dict[str, Any] = {
    "backbone": "small", "dilations": [1, 2], "train_iterations": 2, "self_training_iterations": 2,
    "lr": 1e-2, "lr_self_training": 1e-2,
}  # fmt: skip
GENERATIVE: dict[str, Any] = {
    "feature_dim": 16, "generator_hidden": [16], "discriminator_hidden": 16, "generator_iterations": 1,
    "transfer_iterations": 2, "lr_transfer": 1e-2,
}  # fmt: skip
OWN: dict[type[ZeroShotTask], dict[str, Any]] = {
    SPNetModule: {},
    ZS3Module: GENERATIVE,
    CaGNetModule: GENERATIVE | {"alpha": 1.0},
    SIGNModule: GENERATIVE | {"alpha": 1.0, "spatial_heads": 2},
}

Train = Callable[..., Any]


def tiny(method: type[ZeroShotTask], **options: Any) -> Any:
    return method(**(SHARED | OWN[method] | options))


def ready(model: Any) -> Any:
    """Build a model's networks without training."""
    data = tiny_data()
    data.setup("fit")
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model.trainer.datamodule = data
    model.setup("validate")
    model.configure_model()
    return model


@pytest.fixture
def train(tmp_path: Path) -> Train:
    """Train a tiny model of a method."""

    def run(method: type[ZeroShotTask], *callbacks: pl.Callback, ckpt_path: str | None = None, **options: Any) -> Any:
        model = tiny(method, **options)
        quiet_trainer(tmp_path, *callbacks).fit(model, tiny_data(), ckpt_path=ckpt_path)
        return model

    return run


@pytest.mark.parametrize("method", METHODS)
class TestEveryMethod:
    def test_frozen_parts_are_bit_equal_and_trained_ones_move(self, train: Train, method: type[ZeroShotTask]) -> None:
        watch = Watch()
        model = train(method, watch)
        later = [] if method is SPNetModule else ["generator", "transfer"]
        assert list(watch.states) == ["train", *later, "self_training"]
        for name, (before, after) in watch.states.items():
            for part, module in model.parts().items():
                moves = part in model.progress.plan[name] and bool(list(module.parameters()))
                assert same(before[part], after[part]) is not moves, f"{part} in {name}"

    def test_no_unseen_label_reaches_any_weight(
        self, train: Train, method: type[ZeroShotTask], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        straight = train(method)
        read = ShapesDataset.read
        ids = [straight.protocol.ids[c] for c in straight.protocol.unseen]
        for replaced in (np.roll(ids, 1), np.zeros(len(ids))):
            table = np.arange(256, dtype=np.uint8)
            table[ids] = replaced

            def altered(self: ShapesDataset, index: int, table: Any = table) -> tuple[Any, Any]:
                image, mask = read(self, index)
                return image, table[mask]

            monkeypatch.setattr(ShapesDataset, "read", altered)
            assert same(state_of(train(method)), state_of(straight))

    def test_stopped_and_resumed_run_ends_in_the_same_weights(
        self, train: Train, method: type[ZeroShotTask], tmp_path: Path
    ) -> None:
        straight = train(method, accumulate=2)
        stop = 2 * straight.schedule.total - 3  # in the middle of self-training's first iteration
        stopped = train(method, ScheduleCheckpoint(), StopAt(stop), accumulate=2)
        assert stopped.schedule.batches == stop
        path = tmp_path / "checkpoints" / "last.ckpt"
        resumed = train(method, ScheduleCheckpoint(), ckpt_path=str(path), accumulate=2)
        assert same(state_of(resumed), state_of(straight))
        loaded = method.load_from_checkpoint(path)
        assert dict(loaded.hparams) == dict(straight.hparams)
        assert same(state_of(loaded.segmenter), state_of(straight.segmenter))

    def test_options_are_saved_with_all_parents_defaults(self, method: type[ZeroShotTask]) -> None:
        from pytorch_lightning.cli import LightningArgumentParser

        parser = LightningArgumentParser()
        parser.add_lightning_class_args(method, "model")
        found, colours = parser.get_defaults().model.as_dict(), {"image_mean": None, "image_std": None}
        assert found == method.defaults() | colours  # null takes the backbone's own
        assert dict(method().hparams) == method.defaults()
        assert dict(method(lr=0.5, flip=True).hparams) == method.defaults() | {"lr": 0.5, "flip": True}

    def test_weights_of_another_method_are_refused(
        self, train: Train, method: type[ZeroShotTask], tmp_path: Path
    ) -> None:
        """Weights of one method that would fit into another in part alone are not taken."""
        train(method, ScheduleCheckpoint(), phases=["train"])
        path = str(tmp_path / "checkpoints" / "train.ckpt")
        for other in METHODS:
            if other is not method:
                with pytest.raises(
                    UserError, match=r"does not fit this model \(|holds .*, for which this model has no place"
                ):
                    train(other, init_from=path)


@pytest.mark.parametrize("base", [ZeroShotTask, GenerativeTask])
def test_bases_are_not_methods(base: type[ZeroShotTask]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        base()


def test_checkpoints_older_than_an_option_start_later_phases(train: Train, tmp_path: Path) -> None:
    train(SIGNModule, ScheduleCheckpoint(), phases=["train", "transfer"])
    path = tmp_path / "checkpoints" / "transfer.ckpt"
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint["hyper_parameters"]["head"]
    torch.save(checkpoint, path)
    assert train(SIGNModule, init_from=str(path), phases=["self_training"]).schedule.done
    with pytest.raises(UserError, match=r"head: found fcn, but .* was trained with deeplab"):
        train(SIGNModule, init_from=str(path), head="fcn")


# -- SPNet ------------------------------------------------------------------------------------------------


def test_spnet_scores_are_inner_products_with_the_class_vectors(train: Train) -> None:
    model = train(SPNetModule, logit_scale=3.0).eval()
    images = a_batch()["image"]
    encoded = model.segmenter.encoder(model.segmenter.normalise(images))
    want = 3.0 * torch.einsum("ndhw,cd->nchw", encoded, model.class_vectors)
    torch.testing.assert_close(model.segmenter(images), want)
    assert not list(model.segmenter.classifier.parameters())
    assert torch.equal(model.segmenter.classifier.vectors, model.class_vectors)


def test_spnet_knows_all_classes_and_learns_from_seen_logits_alone(train: Train) -> None:
    model = ready(tiny(SPNetModule)).eval()
    assert bool(model.segmenter.known.all())
    batch = a_batch()
    losses = supervised_losses(model.segmenter, batch, model.protocol.num_seen, model.kl_weight)[1].terms
    assert list(losses) == ["loss_seg"]
    # 32 pixels are padded to 4 k + 1, which has a cell at either end
    logits = F.interpolate(model.segmenter(batch["image"]), (33, 33), mode="bilinear", align_corners=True)
    logits = logits[..., :32, :32]
    want = F.cross_entropy(logits[:, : model.protocol.num_seen], batch["mask"], ignore_index=255)
    torch.testing.assert_close(losses["loss_seg"], want)


def test_spnet_trains_itself_on_pseudo_labels_with_no_transfer_between(train: Train) -> None:
    assert train(SPNetModule, phases=["self_training"]).schedule.done
    with pytest.raises(UserError, match=r"found 'transfer', expected a list of train, self_training"):
        tiny(SPNetModule, phases=["transfer"])
    with pytest.raises(TypeError, match="transfer_iterations"):
        tiny(SPNetModule, transfer_iterations=1)


# -- ZS3 and SIGN without SIM -------------------------------------------------------------------------------


def test_zs3_has_no_discriminator_unless_asked_for_one(train: Train) -> None:
    model = train(ZS3Module, phases=["train"])
    assert set(model.training_run.losses) == {"loss_seg", "loss_mmd"}
    assert "discriminator" not in model.parts()
    assert list(model.optimizers_by_name()) == list(model.rates("train")) == ["segmenter", "generator"]
    assert not [key for key in model.state_dict() if key.startswith("discriminator")]
    with_one = train(ZS3Module, phases=["train"], adversarial="non_saturating")
    assert set(with_one.training_run.losses) == {"loss_seg", "loss_mmd", "loss_adv_d", "loss_adv_g"}


def test_zs3_is_sign_without_sim_and_discriminator(train: Train) -> None:
    zs3 = train(ZS3Module)
    sign = train(SIGNModule, encoding="none", adversarial="none", generator_dropout=0.5)
    assert same(state_of(zs3), state_of(sign))


def test_sign_without_sim_is_encoder_and_classifier(train: Train) -> None:
    model = train(SIGNModule, encoding="none").eval()
    segmenter, images = model.segmenter, a_batch()["image"]
    features = segmenter.encoder(segmenter.normalise(images)).sigmoid()
    torch.testing.assert_close(segmenter(images), segmenter.classifier(features))
    assert not list(segmenter.spatial.parameters())


# -- CaGNet -------------------------------------------------------------------------------------------------


def test_cagnet_learns_its_latent(train: Train) -> None:
    model = train(CaGNetModule, phases=["train"], spatial_width=8)
    assert set(model.training_run.losses) == {"loss_seg", "loss_kl", "loss_mmd", "loss_adv_d", "loss_adv_g"}
    assert model.segmenter.spatial.context.gate.in_channels == 24
    assert bool(model.segmenter.spatial.mu.weight.any())


def test_top_p_of_all_classes_changes_nothing_and_top_1_is_the_best_class(train: Train) -> None:
    free = train(CaGNetModule)
    assert same(state_of(train(CaGNetModule, pseudo_top_p=free.protocol.num_classes)), state_of(free))
    model = ready(tiny(CaGNetModule, pseudo_top_p=1))
    small = torch.randn(2, model.protocol.num_classes, 9, 9, generator=torch.Generator().manual_seed(0))
    model.enter_phase("self_training")
    model.teacher.forward = lambda images: small
    batch = a_batch()
    labels, _, pseudo, _ = model.pseudo_labels(batch)
    logits = F.interpolate(small, (33, 33), mode="bilinear", align_corners=True)[..., :32, :32]
    ignored = (batch["mask"] == 255) & batch["valid"]
    assert torch.equal(pseudo, ignored & (logits.argmax(1) == labels))
    assert 0 < int(pseudo.sum()) < int(ignored.sum())


def test_top_p_beyond_the_classes_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match="pseudo_top_p: found 23, expected at most the 22 classes"):
        train(CaGNetModule, pseudo_top_p=23)
    with pytest.raises(UserError, match="pseudo_top_p: found -1"):
        tiny(CaGNetModule, pseudo_top_p=-1)


# -- frozen backbones ---------------------------------------------------------------------------------------


class Maps(pl.Callback):
    """Give the model its frozen backbone's maps in the images' place."""

    def _swap(self, model: Any, batch: Any) -> None:
        with torch.no_grad():
            batch["maps"] = list(model.segmenter.maps(batch.pop("image")))

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        self._swap(pl_module, batch)

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        self._swap(pl_module, batch)

    def on_predict_batch_start(self, trainer: Any, pl_module: Any, batch: Any, *args: Any) -> None:
        self._swap(pl_module, batch)


@pytest.mark.parametrize("method", [SPNetModule, SIGNModule])
def test_frozen_backbone_stays_as_it_is(train: Train, method: type[ZeroShotTask]) -> None:
    options = {"freeze_encoder": True}
    start = ready(tiny(method, **options)).segmenter.encoder
    model = train(method, **options)
    encoder = model.segmenter.encoder
    assert same(state_of(encoder.backbone), state_of(start.backbone))
    assert not same(state_of(encoder.head), state_of(start.head))
    frozen = {id(parameter) for parameter in encoder.backbone.parameters()}
    assert not any(parameter.requires_grad for parameter in encoder.backbone.parameters())
    listed = {id(p) for o in model.configure_optimizers() for group in o.param_groups for p in group["params"]}
    assert not frozen & listed
    assert listed == {id(p) for p in model.parameters() if id(p) not in frozen} - teacher(model)


def teacher(model: Any) -> set[int]:
    return {id(parameter) for parameter in model.teacher.parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_maps_in_the_images_place_change_nothing(train: Train, method: type[ZeroShotTask], tmp_path: Path) -> None:
    plain = train(method, freeze_encoder=True)
    assert same(state_of(train(method, Maps(), freeze_encoder=True)), state_of(plain))
    scores, maps = [], []
    for callbacks in ([], [Maps()]):
        trainer = quiet_trainer(tmp_path, *callbacks)
        trainer.test(plain, tiny_data(), verbose=False)
        scores.append(plain.scores["miou"])
        predicted = trainer.predict(plain, tiny_data())
        maps.append(torch.stack([found.labels for batch in predicted or [] for _, found in batch]))
    assert scores[0] == scores[1]
    assert maps[0].shape == (4, 32, 32)
    assert torch.equal(maps[0], maps[1])


def test_a_cache_needs_a_frozen_backbone(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"feature_cache: found .* with freeze_encoder off"):
        tiny(SIGNModule, feature_cache=str(tmp_path))
    assert tiny(SIGNModule, feature_cache=str(tmp_path), freeze_encoder=True).hparams["feature_cache"] == str(tmp_path)


def test_bad_options_are_named() -> None:
    bad: list[tuple[type[ZeroShotTask], dict[str, Any]]] = [
        (SPNetModule, {"logit_scale": 0.0}), (SIGNModule, {"alpha": -1.0}), (CaGNetModule, {"alpha": -1.0}),
        (ZS3Module, {"adversarial": "l2"}), (ZS3Module, {"bandwidths": []}), (SPNetModule, {"scales": [0.0]}),
    ]  # fmt: skip
    for method, options in bad:
        with pytest.raises(UserError, match=next(iter(options))):
            tiny(method, **options)
