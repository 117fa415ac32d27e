"""Training on maps that a frozen backbone left on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from sign_zs3 import SPNetModule, UserError
from sign_zs3.data.features import FeatureCache
from sign_zs3.models.segmenter import KeptFeatures
from tests.conftest import quiet_trainer, tiny_data, tiny_model

FROZEN: dict[str, Any] = {"head": "fcn", "freeze_encoder": True}


def fit(root: Path, **options: Any) -> Any:
    torch.manual_seed(0)
    model = tiny_model(**(FROZEN | options))
    trainer = quiet_trainer(root)
    data = tiny_data()
    trainer.fit(model, data)
    trainer.test(model, data, verbose=False)
    return model


def folders(cache: Path) -> list[Path]:
    return sorted(path for path in cache.iterdir() if path.is_dir())


def test_a_cache_changes_nothing_but_the_rounding_of_its_maps(tmp_path: Path) -> None:
    short = {"phases": ["train"], "train_iterations": 2}
    plain, cached = fit(tmp_path, **short), fit(tmp_path, feature_cache=str(tmp_path / "cache"), **short)
    state = plain.state_dict()
    for name, value in cached.state_dict().items():
        torch.testing.assert_close(value, state[name], rtol=0, atol=3e-2, msg=name)
    moved = [name for name in state if "head" in name and not torch.equal(state[name], cached.state_dict()[name])]
    assert moved, "the maps were not read"


def test_maps_are_computed_once_and_never_for_other_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    written: list[str] = []
    write = FeatureCache.write

    def counted(self: FeatureCache, name: str, image: Any) -> None:
        written.append(name)
        write(self, name, image)

    monkeypatch.setattr(FeatureCache, "write", counted)
    fit(tmp_path, feature_cache=str(cache))
    (first,) = folders(cache)
    count = len(written)
    assert count > 0
    fit(tmp_path, feature_cache=str(cache))
    fit(tmp_path, feature_cache=str(cache), lr=0.02)
    assert len(written) == count
    # another seed is another backbone, for it starts from scratch; another normalisation reads another image
    fit(tmp_path, feature_cache=str(cache), seed=1)
    assert len(written) == 2 * count
    fit(tmp_path, feature_cache=str(cache), image_mean=[0.5, 0.5, 0.5])
    assert len(written) == 3 * count
    assert len(folders(cache)) == 3
    assert first in folders(cache)


def test_evaluation_of_other_views_reads_images(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        model = fit(tmp_path, feature_cache=str(tmp_path / "cache"), flip=True)
    assert "feature_cache: not used" in caplog.text
    assert not (tmp_path / "cache").exists()
    assert model.scores["pixel_accuracy"] > 0


def test_maps_have_one_scale(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"feature_cache: found input_scales \[1\.0, 0\.5\], expected \[1\.0\]"):
        tiny_model(**FROZEN, feature_cache=str(tmp_path), input_scales=[1.0, 0.5])


def test_other_data_modules_are_refused(tmp_path: Path) -> None:
    class Own(pl.LightningDataModule):
        protocol = tiny_data().protocol

    model = tiny_model(**FROZEN, feature_cache=str(tmp_path))
    trainer: Any = quiet_trainer(tmp_path)
    trainer.datamodule = Own()
    model.trainer = trainer
    with pytest.raises(UserError, match="feature_cache: found a Own, expected a ZeroShotDataModule"):
        model.setup("validate")


def test_a_checkpoint_is_tested_with_the_maps_of_its_own_weights(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    model = fit(tmp_path, feature_cache=str(cache), seed=1)
    model.trainer.save_checkpoint(tmp_path / "one.ckpt")
    (own,) = folders(cache)
    # as the program does: built from the checkpoint with other weights, which Lightning restores after setup
    again = tiny_model(**FROZEN, feature_cache=str(cache), seed=0)
    again.on_load_checkpoint(torch.load(tmp_path / "one.ckpt", weights_only=True))
    quiet_trainer(tmp_path).test(again, tiny_data(), ckpt_path=str(tmp_path / "one.ckpt"), verbose=False)
    assert folders(cache) == [own]
    assert again.scores["pixel_accuracy"] == model.scores["pixel_accuracy"]


def test_the_next_model_of_a_data_module_reads_images_again(tmp_path: Path) -> None:
    data = tiny_data()
    quiet_trainer(tmp_path).fit(tiny_model(**FROZEN, feature_cache=str(tmp_path / "cache")), data)
    assert isinstance(next(iter(data.train_dataloader()))["image"], list)
    quiet_trainer(tmp_path).fit(tiny_model(), data)
    assert isinstance(next(iter(data.train_dataloader()))["image"], torch.Tensor)


def transfer(root: Path, checkpoint: Path, **options: Any) -> Any:
    alone = {"phases": ["transfer"], "transfer_iterations": 6, "init_from": str(checkpoint), "freeze_encoder": False}
    return fit(root, **(alone | options))


def test_transfer_alone_keeps_the_features_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = fit(tmp_path, freeze_encoder=False, phases=["train"], train_iterations=2, freeze_batch_norm=False)
    base.trainer.save_checkpoint(tmp_path / "base.ckpt")
    cache = tmp_path / "cache"
    plain = transfer(tmp_path, tmp_path / "base.ckpt")
    filled = transfer(tmp_path, tmp_path / "base.ckpt", feature_cache=str(cache))
    (folder,) = folders(cache)
    with_images, with_features = tiny_data(), filled.trainer.datamodule
    with_images.setup("test")
    for one, other in zip(with_images.test_dataloader(), with_features.test_dataloader(), strict=True):
        expected, kept = plain.segmenter.mean_features(one["image"]), filled.segmenter.mean_features(other["image"])
        torch.testing.assert_close(kept, expected, rtol=0, atol=1e-3)

    def encode(*args: Any) -> None:
        raise AssertionError("an image was read although its features are kept")

    # neither backbone, head nor SIM runs again: not in training, and not in the test that follows
    monkeypatch.setattr("sign_zs3.models.encoder.Encoder.forward", encode)
    again = transfer(tmp_path, tmp_path / "base.ckpt", feature_cache=str(cache))
    assert folders(cache) == [folder]
    for name, value in again.state_dict().items():
        assert torch.equal(value, filled.state_dict()[name]), name
    assert torch.equal(again.confusion, filled.confusion)
    before, there, here = (model.segmenter.classifier.projection.weight.detach() for model in (base, plain, again))
    # other scenes are mirrored, so that the two ways part by a little
    assert (here - there).norm() < 0.1 * (there - before).norm()


@pytest.mark.parametrize("changed", ["encoder.head", "spatial", "encoder.backbone"])
def test_features_of_other_weights_are_never_read(tmp_path: Path, changed: str) -> None:
    model = fit(tmp_path, freeze_encoder=False, phases=["train"], train_iterations=1)
    cache = tmp_path / "cache"
    for turn in range(2):
        model.trainer.save_checkpoint(tmp_path / f"{turn}.ckpt")
        transfer(tmp_path, tmp_path / f"{turn}.ckpt", feature_cache=str(cache))
        with torch.no_grad():
            next(model.segmenter.get_submodule(changed).parameters()).add_(0.5)
    assert len(folders(cache)) == 2


def test_a_run_that_also_trains_the_encoder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"freeze_encoder off.* phases to \[transfer\]"):
        tiny_model(phases=["transfer", "self_training"], feature_cache=str(tmp_path))
    with pytest.raises(UserError, match="set freeze_encoder to true, or feature_cache to null"):
        SPNetModule(feature_cache=str(tmp_path))


def test_features_have_the_size_of_the_first_scale(tmp_path: Path) -> None:
    alone: dict[str, Any] = {"phases": ["transfer"], "feature_cache": str(tmp_path / "cache")}
    with pytest.raises(UserError, match=r"feature_cache: found input_scales \[0\.5, 1\.0\]"):
        tiny_model(**alone, input_scales=[0.5, 1.0])
    model = tiny_model(**alone, input_scales=[1.0, 0.5])
    quiet_trainer(tmp_path).fit(model, tiny_data())
    assert len(folders(tmp_path / "cache")) == 1
    with pytest.raises(ValueError, match="which have no latent"):
        model.segmenter.features(KeptFeatures(torch.zeros(1, 16, 4, 4)))


def test_kept_features_need_no_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    model = tiny_model(phases=["transfer"], compile=True, feature_cache=str(tmp_path / "cache"))
    quiet_trainer(tmp_path).fit(model, tiny_data())
    assert model.schedule.done
    # with flip images are read, and compiled networks read them
    with pytest.raises(UserError, match="compile: found no C"):
        fit(tmp_path, phases=["transfer"], compile=True, feature_cache=str(tmp_path / "cache"), flip=True)
