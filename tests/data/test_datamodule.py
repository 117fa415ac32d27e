from __future__ import annotations

import itertools
import logging
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from sign_zs3.data.datamodules import ShapesDataModule, VOCDataModule, ZeroShotDataModule
from sign_zs3.data.datasets.base import SegmentationDataset
from sign_zs3.data.stream import LoaderPlan, repeat_factors
from sign_zs3.data.transforms import training_preset
from sign_zs3.errors import UserError
from tests.data.conftest import TRAIN_AUG, VAL, WITH_UNSEEN, FakeVOC, ToyDataset, same_samples

pytestmark = [
    # a machine with one core warns of two workers
    pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning"),
    # Lightning 2.6 with torch 2.14
    pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning"),
    # no validation was asked for
    pytest.mark.filterwarnings("ignore:Total length of `list` across ranks is zero:UserWarning"),
    # Lightning's advice on speed
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:Consider setting `persistent_workers:UserWarning"),
]

REAL = Path(__file__).parents[2] / ".." / "shared" / "data"


def voc(fake: FakeVOC, **options: Any) -> VOCDataModule:
    small: dict[str, Any] = {"crop_size": 32, "warp_size": 48, "batch_size": 2, "num_workers": 0}
    return VOCDataModule(str(fake.root), str(fake.root), **{**small, **options})


class ToyDataModule(ZeroShotDataModule):
    """Thirteen images in memory, for what does not need files."""

    def __init__(self, **options: Any) -> None:
        super().__init__(ToyDataset(1).protocol, **options)

    def make_dataset(
        self, split: Literal["train", "val", "test"], *, hide_unseen: bool, augment: bool
    ) -> SegmentationDataset:
        return ToyDataset(13, training_preset(None, crop=16) if augment else None, hide_unseen)


class OwnValidation(ToyDataModule):
    own_validation = True


class Recorder(pl.LightningModule):
    """A task that only remembers what it was shown."""

    def __init__(self, unlabelled_from: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.unlabelled_from = unlabelled_from
        self.seen: list[dict[str, Any]] = []
        self.evaluated: list[str] = []

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> torch.Tensor:
        host = batch.pop("host")  # what the host keeps of the others
        assert torch.equal(host.mask.long(), batch["mask"])
        assert host.any_labelled == bool((batch["mask"] != 255).any())
        assert host.ignored == int(((batch["mask"] == 255) & batch["valid"]).sum())
        assert host.hidden == int(batch["hidden"].sum())
        self.seen.append(batch)
        return self.weight * 0

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluated += batch["id"]

    test_step = validation_step

    def predict_step(self, batch: dict[str, Any], batch_idx: int) -> list[str]:
        self.evaluated += batch["id"]
        return list(batch["id"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(folder: Path, steps: int, **options: Any) -> pl.Trainer:
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(
        default_root_dir=folder,
        accelerator="cpu",
        max_epochs=-1,
        max_steps=steps,
        **{"enable_checkpointing": False, **quiet, **options},
    )


def test_protocol_needs_no_disk() -> None:
    module = VOCDataModule("/nowhere")
    assert module.protocol.num_classes == 20 and module.protocol.num_seen == 15
    module = VOCDataModule("/nowhere", unseen=["cow", "motorbike"])
    assert [module.protocol.classes[i] for i in module.protocol.unseen] == ["cow", "motorbike"]


def test_training_and_validation_partition_train_aug(fake_voc: FakeVOC, caplog: pytest.LogCaptureFixture) -> None:
    module = voc(fake_voc, val_fraction=0.25)
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert module.train_set is not None and module.val_set is not None
    assert sorted(module.train_indices + module.val_indices) == list(range(len(TRAIN_AUG)))
    assert len(module.val_indices) == 2
    assert "training images: 6, validation images: 2" in caplog.text and "test images: 3" in caplog.text
    again = voc(fake_voc, val_fraction=0.25)
    again.setup()
    assert again.val_indices == module.val_indices
    cuts = set()
    for seed in range(6):
        other = voc(fake_voc, val_fraction=0.25, seed=seed)
        other.setup("fit")
        cuts.add(other.val_indices)
    assert len(cuts) > 1


def test_a_small_fraction_still_gives_one_image_and_zero_gives_none(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc)
    module.setup("fit")
    assert len(module.val_indices) == 1
    module = voc(fake_voc, val_fraction=0.0)
    module.setup("fit")
    assert module.val_indices == () and module.val_dataloader() == []


def test_only_the_test_set_shows_unseen_classes(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, val_fraction=0.9)
    module.setup("fit")
    unseen = torch.tensor(module.protocol.unseen)
    loader = module.val_dataloader()
    assert not isinstance(loader, list)
    validation = list(loader)
    assert sum(int(batch["hidden"].sum()) for batch in validation) > 0
    assert not any(torch.isin(batch["mask"], unseen).any() for batch in validation)
    assert not any(torch.isin(batch["mask"], unseen).any() for batch in module.train_dataloader())
    tested = list(module.test_dataloader())
    assert all(torch.isin(batch["mask"], unseen).any() for batch in tested)
    assert tuple(name for batch in tested for name in batch["id"]) == VAL


def test_batches(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    assert batch["image"].shape == (2, 3, 32, 32) and batch["image"].dtype == torch.uint8
    assert batch["mask"].shape == (2, 32, 32) and batch["mask"].dtype == torch.int64
    assert batch["valid"].shape == (2, 32, 32) and batch["valid"].dtype == torch.bool
    assert batch["hidden"].shape == (2,) and batch["hidden"].dtype == torch.int64
    assert [type(name) for name in batch["id"]] == [str, str]
    tested = next(iter(module.test_dataloader()))
    assert tested["mask"].shape == (1, *fake_voc.masks[VAL[0]].shape)


def test_evaluation_at_one_size_takes_any_batch(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, eval_size=40, eval_batch_size=3)
    module.setup("test")
    assert [batch["mask"].shape for batch in module.predict_dataloader()] == [(3, 40, 40)]


def test_images_of_different_sizes_are_not_stacked(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, num_workers=2)
    module.eval_batch_size = 2
    module.setup("test")
    with pytest.raises(UserError, match=r"eval_batch_size: found 2 with images of different sizes") as caught:
        list(module.test_dataloader())
    assert "\n" not in str(caught.value)


def test_drop_leaves_out_images_until_they_join_unlabelled(fake_voc: FakeVOC, caplog: pytest.LogCaptureFixture) -> None:
    module = voc(fake_voc, unseen_pixels="drop", val_fraction=0.0, batch_size=1)
    with caplog.at_level(logging.INFO):
        module.setup("fit")
    assert "2 of 8 training images hold an unseen class" in caplog.text
    assert {TRAIN_AUG[i] for i in module.dropped_indices} == set(WITH_UNSEEN)
    assert sorted(module.train_indices + module.dropped_indices) == list(range(8))
    module.follow(LoaderPlan(unlabelled_from=7))
    loader = module.train_dataloader()
    batches = [batch for _ in range(3) for batch in loader]
    assert len(batches) == 18
    assert not any(batch["id"][0] in WITH_UNSEEN for batch in batches[:7])
    joined = batches[7:15]
    assert {batch["id"][0] for batch in joined} == set(TRAIN_AUG)
    for batch in joined:
        if batch["id"][0] in WITH_UNSEEN:
            assert (batch["mask"] == 255).all()


def test_dropped_images_join_at_the_same_batch_for_any_number_of_ranks(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, unseen_pixels="drop", val_fraction=0.0)
    module.setup("fit")
    module.follow(LoaderPlan(unlabelled_from=3))
    for rank in range(2):
        module.trainer = SimpleNamespace(global_rank=rank, world_size=2)  # type: ignore[assignment]
        loader = module.train_dataloader()
        assert loader.order.rank == rank and loader.order.num_replicas == 2
        assert loader.dataset.extra_from == 3 * 2 * 2  # type: ignore[attr-defined]


def test_drop_needs_an_image_without_unseen_classes(fake_voc: FakeVOC) -> None:
    unseen = [c for c in voc(fake_voc).protocol.classes if c != "tvmonitor"]
    module = voc(fake_voc, unseen_pixels="drop", unseen=unseen)
    with pytest.raises(UserError, match="unseen_pixels: found 'drop', but all"):
        module.setup("fit")


def test_development_shows_pseudo_unseen_classes_in_validation_only(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, development=8, val_fraction=0.5)
    protocol = module.protocol
    assert protocol.num_seen == 7 and protocol.num_classes == 15
    assert set(protocol.ignored_ids) == {0, 16, 17, 18, 19, 20, 255}
    module.setup("fit")
    unseen = torch.tensor(protocol.unseen)
    loader = module.val_dataloader()
    assert not isinstance(loader, list)
    assert any(torch.isin(batch["mask"], unseen).any() for batch in loader)
    assert not any(torch.isin(batch["mask"], unseen).any() for batch in module.train_dataloader())


def test_ignored_classes_are_no_labels(fake_voc: FakeVOC) -> None:
    plain = voc(fake_voc)
    plain.setup("test")
    assert plain.test_set is not None
    masks = [plain.test_set[index]["mask"] for index in range(len(plain.test_set))]
    shown = int(
        next(mask[mask < plain.protocol.num_seen][0] for mask in masks if (mask < plain.protocol.num_seen).any())
    )
    name = plain.protocol.classes[shown]
    fewer = voc(fake_voc, ignored_classes=[name])
    fewer.setup("test")
    assert fewer.test_set is not None
    assert [*fewer.protocol.classes] == [c for c in plain.protocol.classes if c != name]
    for index, mask in enumerate(masks):
        assert torch.equal(fewer.test_set[index]["mask"] == 255, (mask == 255) | (mask == shown))


def rare_shapes(**options: Any) -> ShapesDataModule:
    """Scenes of which few hold a class of the threshold."""
    options = {"train_size": 60, "test_size": 1, "batch_size": 4, "repeat_threshold": 0.2} | options
    module = ShapesDataModule(**options)
    module.setup("fit")
    return module


def test_images_of_rare_classes_come_more_often(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "sign_zs3"):
        module = rare_shapes()
    assert module.repeats is not None and module.train_set is not None
    masks = [module.train_set[index]["mask"] for index in range(60)]
    # unseen classes are hidden, so none of them makes an image come more often
    held = np.array([[bool((mask == c).any()) for c in range(module.protocol.num_seen)] for mask in masks])
    assert np.array_equal(module.repeats, repeat_factors(held, 0.2)) and module.repeats.max() > 1
    names = Counter(name for batch in itertools.islice(module.train_dataloader(), 200) for name in batch["id"])
    wanted = module.repeats / module.repeats.sum()
    for index in (int(wanted.argmax()), int(wanted.argmin())):
        share = names[module.train_set.name(index)] / names.total()
        assert share == pytest.approx(wanted[index], rel=0.25)
    rarest = module.protocol.classes[int(np.where(held.any(axis=0), held.sum(axis=0), 61).argmin())]
    assert f"up to {module.repeats.max():.1f} of one; the rarest, {rarest}, is in" in caplog.text
    assert rare_shapes(repeat_threshold=0).repeats is None


def test_ranks_share_the_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = rare_shapes()
    for ranks in (2, 70):  # more than images, so that some have none

        def shares(work: Any, rank: int, world_size: int, ranks: int = ranks) -> list[Any]:
            return [work(each, ranks) for each in range(ranks)]

        monkeypatch.setattr("sign_zs3.data.datamodules.base.in_shares", shares)
        shared = rare_shapes().repeats
        assert shared is not None and alone.repeats is not None and np.array_equal(shared, alone.repeats)


def test_what_was_refused_is_prepared_whole_the_next_time(fake_voc: FakeVOC) -> None:
    module = voc(fake_voc, val_fraction=0, unseen_pixels="drop")
    for _ in range(2):
        with pytest.raises(UserError, match="validation images: found none"):
            module.setup("validate")
    module.setup("fit")
    assert module.dropped_indices
    with pytest.raises(UserError, match="validation images: found none"):
        module.setup("validate")


def test_another_threshold_is_another_run() -> None:
    before, same, other = rare_shapes(), rare_shapes(), rare_shapes(repeat_threshold=0.5)
    assert before.state_dict() == same.state_dict()
    assert before.state_dict()["training"] != other.state_dict()["training"]
    assert before.state_dict()["training"] != rare_shapes(repeat_threshold=0).state_dict()["training"]


@pytest.mark.parametrize(("options", "stage"), [({"development": 8}, "fit"), ({}, "validate")])
def test_without_validation_images_nothing_is_trained_that_they_are_to_score(
    fake_voc: FakeVOC, options: dict[str, Any], stage: str
) -> None:
    with pytest.raises(UserError, match=r"^validation images: found none.*give --data\.val_fraction"):
        voc(fake_voc, val_fraction=0, **options).setup(stage)


def test_own_validation_cuts_nothing() -> None:
    module = OwnValidation(num_workers=0)
    module.setup("fit")
    assert module.train_indices == module.val_indices == tuple(range(13))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size: found 0, expected at least 1"),
        ({"eval_batch_size": 0}, "eval_batch_size: found 0"),
        ({"eval_batch_size": 2}, "eval_batch_size: found 2, expected 1 while"),
        ({"num_workers": -1}, "num_workers: found -1"),
        ({"seed": -1}, "seed: found -1"),
        ({"development": -1}, "development: found -1"),
        ({"development": 15}, "development: found 15, expected 1 to 14"),
        ({"val_fraction": 1.0}, "val_fraction: found 1.0"),
        ({"val_fraction": -0.1}, "val_fraction: found -0.1"),
        ({"repeat_threshold": 1.5}, "repeat_threshold: found 1.5, expected a share of the images"),
        ({"unseen_pixels": "forget"}, "unseen_pixels: found 'forget', expected one of ignore, drop"),
        ({"unseen": ["unicorn"]}, "unseen: found 'unicorn', expected a class of voc"),
        ({"crop_size": 0}, "crop_size: found 0"),
        ({"eval_size": 0}, "eval_size: found 0"),
    ],
)
def test_bad_options_are_refused_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        VOCDataModule("/nowhere", **options)
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)


def test_setup_names_what_is_missing_before_training(fake_voc: FakeVOC, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="root: found no VOC2012"):
        VOCDataModule(str(tmp_path / "nowhere")).setup("fit")
    (fake_voc.voc / "JPEGImages" / f"{VAL[1]}.jpg").unlink()
    with pytest.raises(UserError, match=rf"{VAL[1]}\.jpg: not found \(1 of the 3"):
        voc(fake_voc).setup("fit")


def test_nothing_left_to_train_on(fake_voc: FakeVOC) -> None:
    with pytest.raises(UserError, match=r"val_fraction: found 0\.99 of 8 training images"):
        voc(fake_voc, val_fraction=0.99).setup("fit")


def test_download_happens_only_when_asked(fake_voc: FakeVOC, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    monkeypatch.setattr("sign_zs3.data.datamodules.published.download_voc", lambda *roots: calls.append(roots))
    voc(fake_voc).prepare_data()
    assert calls == []
    voc(fake_voc, download=True).prepare_data()
    assert calls == [(str(fake_voc.root), str(fake_voc.root))]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning")
@pytest.mark.parametrize(("stop", "workers"), [(2, 0), (6, 0), (8, 2)])
def test_a_resumed_fit_sees_the_batches_of_a_straight_one(tmp_path: Path, stop: int, workers: int) -> None:
    """In the middle of an epoch of six batches, at its end, and in the next one."""
    straight = Recorder()
    trainer(tmp_path, 15).fit(straight, ToyDataModule(batch_size=2, num_workers=0))
    assert len(straight.seen) == 15 and len(set(straight.evaluated)) == 1

    first, second = Recorder(), Recorder()
    for recorder, steps, path in ((first, stop, None), (second, 15, tmp_path / "kept.ckpt")):
        keep = ModelCheckpoint(tmp_path, "kept", every_n_train_steps=stop, enable_version_counter=False)
        trainer(tmp_path, steps, enable_checkpointing=True, callbacks=[keep]).fit(
            recorder, ToyDataModule(batch_size=2, num_workers=workers), ckpt_path=path
        )
    resumed = first.seen + second.seen
    assert len(first.seen) == stop and len(resumed) == 15
    assert all(map(same_samples, resumed, straight.seen))


def test_trainer_evaluates_each_test_image_once(fake_voc: FakeVOC, tmp_path: Path) -> None:
    for run in ("validate", "test", "predict"):
        recorder = Recorder()
        module = voc(fake_voc)
        getattr(trainer(tmp_path, 1), run)(recorder, module)
        expected = [TRAIN_AUG[i] for i in module.val_indices] if run == "validate" else list(VAL)
        assert recorder.evaluated == expected


def test_fit_without_validation_images(fake_voc: FakeVOC, tmp_path: Path) -> None:
    recorder = Recorder()
    trainer(tmp_path, 3).fit(recorder, voc(fake_voc, val_fraction=0.0))
    assert len(recorder.seen) == 3 and recorder.evaluated == []


@pytest.mark.skipif(
    not (REAL / "VOCdevkit").is_dir(), reason="the real VOC subset is not beside the project (../shared/data)"
)
def test_real_data_in_both_modes() -> None:
    root = str(REAL)
    kept = VOCDataModule(root, root, batch_size=2, num_workers=0, crop_size=64, warp_size=96)
    kept.setup("fit")
    assert len(kept.train_indices) == 458 and len(kept.val_indices) == 24
    batch = next(iter(kept.train_dataloader()))
    assert batch["image"].shape == (2, 3, 64, 64)
    dropped = VOCDataModule(root, root, unseen_pixels="drop", num_workers=0)
    dropped.setup("fit")
    assert dropped.val_indices == kept.val_indices
    assert sorted(dropped.train_indices + dropped.dropped_indices) == list(kept.train_indices)
    assert 0 < len(dropped.dropped_indices) < 458


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_travel_small_and_arrive_as_integers(fake_voc: FakeVOC, tmp_path: Path, workers: int) -> None:
    """A Trainer's batches equal those of a loader in a notebook, though they are packed on the way."""
    alone = voc(fake_voc, num_workers=workers)
    alone.setup("fit")
    plain = next(iter(alone.train_dataloader()))
    assert plain["mask"].dtype == torch.int64
    module, task = voc(fake_voc, num_workers=workers), Recorder()
    trainer(tmp_path, 1, limit_val_batches=0).fit(task, module)
    assert same_samples(plain, task.seen[0])
    assert next(iter(module.train_dataloader()))["mask"].dtype == torch.uint8
