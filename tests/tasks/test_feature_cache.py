"""Training on maps that a frozen backbone left on disk."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from sign_zs3 import SIGNModule, SPNetModule, UserError
from sign_zs3.data.features import FeatureCache
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
    # between runs a data module gives images
    assert "maps" not in next(iter(data.train_dataloader()))
    quiet_trainer(tmp_path).fit(tiny_model(), data)
    assert "maps" not in next(iter(data.train_dataloader()))


def test_a_run_that_also_trains_the_encoder_is_refused(tmp_path: Path) -> None:
    for method in (SIGNModule, SPNetModule):
        with pytest.raises(UserError, match="set freeze_encoder to true, or feature_cache to null"):
            method(feature_cache=str(tmp_path))
