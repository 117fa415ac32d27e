from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy, Strategy
from torch import Tensor
from torch.nn import functional as F

from sign_zs3 import ShapesDataModule, SIGNModule, UserError
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.functional import annealed_weights
from sign_zs3.models import SpatialFeatures
from sign_zs3.tasks import ZeroShotTask, steps
from sign_zs3.tasks.steps import Losses, PseudoLabels
from sign_zs3.tasks.trainer import check_strategy
from tests.conftest import Fit, StopAt, quiet_trainer, tiny_data, tiny_model

State = dict[str, Tensor]


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def state_of(module: torch.nn.Module) -> State:
    return {key: value.clone() for key, value in module.state_dict().items()}


def weight_of(model: SIGNModule) -> Tensor:
    """Return C's weight, (C, D, 1, 1)."""
    return next(model.segmenter.classifier.parameters())


class Watch(pl.Callback):
    """Keep every part's state from before and after each phase."""

    def __init__(self) -> None:
        self.states: dict[str, list[dict[str, State]]] = {}

    def _note(self, model: ZeroShotTask, phase: str) -> None:
        self.states.setdefault(phase, []).append({name: state_of(part) for name, part in model.parts().items()})

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if pl_module.schedule.at_phase_start:
            self._note(pl_module, pl_module.schedule.phase.name)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        if finished := pl_module.schedule.just_finished():
            self._note(pl_module, finished.name)


def test_frozen_parts_are_bit_equal_and_trained_ones_move(fit: Fit) -> None:
    watch = Watch()
    model = fit(watch)
    assert list(watch.states) == ["train", "generator", "transfer", "self_training"]
    for name, (before, after) in watch.states.items():
        trained = model.progress.plan[name]
        for part in model.parts():
            assert same(before[part], after[part]) is (part not in trained), f"{part} in {name}"


@pytest.mark.parametrize("pixels", ["ignore", "drop"])
@pytest.mark.parametrize("change", ["permute", "erase"])
def test_no_unseen_label_reaches_any_weight(
    fit: Fit, monkeypatch: pytest.MonkeyPatch, change: str, pixels: str
) -> None:
    data = {"unseen_pixels": pixels, "train_size": 40}
    straight = fit(data=data)
    read = ShapesDataset.read
    ids = [straight.protocol.ids[c] for c in straight.protocol.unseen]

    def altered(self: ShapesDataset, index: int) -> tuple[Any, Any]:
        image, mask = read(self, index)
        table = np.arange(256, dtype=np.uint8)
        table[ids] = np.roll(ids, 1) if change == "permute" else 0
        # Where images are dropped for holding unseen pixels, one such pixel must stay to say so.
        changed = table[mask]
        if pixels == "drop" and change == "erase" and np.isin(mask, ids).any():
            changed[tuple(np.argwhere(np.isin(mask, ids))[0])] = ids[0]
        return image, changed

    monkeypatch.setattr(ShapesDataset, "read", altered)
    assert same(state_of(fit(data=data)), state_of(straight))


def test_same_seed_same_weights(fit: Fit) -> None:
    first, second, other = fit(), fit(), fit(seed=1)
    assert same(state_of(first), state_of(second))
    assert not torch.equal(weight_of(first), weight_of(other))


def test_workers_change_nothing(fit: Fit) -> None:
    assert same(state_of(fit(data={"num_workers": 2})), state_of(fit()))


@pytest.mark.parametrize(("stop", "accumulate"), [(1, 1), (3, 1), (4, 1), (6, 1), (8, 1), (10, 1), (3, 2), (17, 2)])
def test_stopped_and_resumed_run_ends_in_the_same_weights(fit: Fit, tmp_path: Path, stop: int, accumulate: int) -> None:
    options = {"accumulate": accumulate, "rounds": 1}
    straight = fit(**options)
    stopped = fit(ScheduleCheckpoint(), StopAt(stop), **options)
    assert stopped.schedule.batches == stop
    path = str(tmp_path / "checkpoints" / "last.ckpt")
    resumed = fit(ScheduleCheckpoint(), ckpt_path=path, **options)
    assert resumed.schedule.done
    assert same(state_of(resumed), state_of(straight))


def test_validation_between_accumulated_batches_changes_nothing(fit: Fit) -> None:
    straight = fit(accumulate=2)
    checked = fit(
        accumulate=2, trainer={"limit_val_batches": 1, "val_check_interval": 3, "check_val_every_n_epoch": None}
    )
    assert same(state_of(checked), state_of(straight))


def test_accumulated_gradients_are_averaged(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    def slope(self: SIGNModule, kind: str, batch: Any) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        with self.updates.only("segmenter"):
            loss = weight_of(self).sum() * (1.0 + self.schedule.batches)
            self.updates.apply("segmenter", Losses(loss, {}))
        return self.segmenter.features(batch["image"]), {"loss": loss}

    monkeypatch.setattr(SIGNModule, "segmentation_step", slope)
    monkeypatch.setattr("sign_zs3.tasks.updates.WEIGHT_DECAY", 0.0)
    options = {"phases": ["train"], "train_iterations": 1, "lr": 0.5}
    start = weight_of(built(tiny_model()))
    moved = weight_of(fit(accumulate=3, **options))
    # slopes 1, 2 and 3; the classifier's rate is ten times lr
    torch.testing.assert_close(moved, start - 10 * 0.5 * 2.0)


def test_training_step_leaves_unseen_rows_to_weight_decay(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sign_zs3.tasks.updates.WEIGHT_DECAY", 0.0)
    model = fit(phases=["train"])
    fresh = built(tiny_model())
    rows = list(model.protocol.unseen)
    weight, start = (weight_of(m) for m in (model, fresh))
    assert torch.equal(weight[rows], start[rows])
    assert not torch.equal(weight, start)
    assert not bool(model.segmenter.known[rows].any())


def test_transfer_teaches_unseen_classes(fit: Fit) -> None:
    model = fit(phases=["train", "transfer"])
    assert bool(model.segmenter.known.all())
    start = weight_of(built(tiny_model()))
    rows = list(model.protocol.unseen)
    assert not torch.equal(weight_of(model)[rows], start[rows])


CHANGES: list[dict[str, Any]] = [
    {"self_training": "top_fraction"}, {"self_training": "probability"}, {"pseudo_classes": "all"},
    {"adversarial": "none"}, {"adversarial": "l1"},
    {"clip_norm": 0.1}, {"rounds": 2}, {"center_vectors": True}, {"bandwidths": [1.0]},
    {"class_balance": 0.5, "phases": ["train"]}, {"class_balance": 0.5, "phases": ["transfer"]},
]  # fmt: skip


@pytest.mark.parametrize("options", CHANGES)
def test_options_change_the_result_and_stay_finite(fit: Fit, options: dict[str, Any]) -> None:
    model = fit(**options)
    assert model.schedule.done
    assert all(bool(value.isfinite().all()) for value in model.state_dict().values() if value.is_floating_point())
    assert not same(state_of(model), state_of(fit(phases=options.get("phases"))))


def built(model: SIGNModule) -> SIGNModule:
    data = tiny_data()
    data.setup("fit")
    model.trainer = pl.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    model.trainer.datamodule = data  # type: ignore[attr-defined]
    model.setup("validate")
    model.configure_model()
    return model


def a_batch(start: int = 0) -> dict[str, Any]:
    data = tiny_data()
    data.setup("fit")
    loader = data.train_dataloader()
    loader.load_state_dict({"position": start})
    return next(iter(loader))


def test_pseudo_labels_are_the_best_unseen_class_of_ignored_pixels() -> None:
    model = built(tiny_model())
    model.segmenter.known.fill_(True)
    model.enter_phase("self_training")
    batch = a_batch()
    batch["valid"][:, :5] = False
    labels, confidence, pseudo, weights = model.pseudo_labels(batch)
    # 32 pixels are padded to 4 k + 1, which has a cell at either end
    logits = F.interpolate(model.teacher(batch["image"]), (33, 33), mode="bilinear", align_corners=True)  # type: ignore[misc]
    logits = logits[..., :32, :32]
    first = model.protocol.num_seen
    assert torch.equal(labels, logits[:, first:].argmax(1) + first)
    torch.testing.assert_close(confidence, logits.softmax(1).gather(1, labels.unsqueeze(1)).squeeze(1).detach())
    assert torch.equal(pseudo, (batch["mask"] == 255) & batch["valid"])
    torch.testing.assert_close(weights, annealed_weights(confidence, pseudo, model.hparams["temperature"]))
    model.hparams["self_training"] = "probability"
    torch.testing.assert_close(model.pseudo_labels(batch).weights, logits.softmax(1)[:, first:].sum(1).detach())
    everything = built(tiny_model(pseudo_classes="all", self_training="probability"))
    everything.segmenter.load_state_dict(model.segmenter.state_dict())
    everything.enter_phase("self_training")
    assert torch.equal(everything.pseudo_labels(batch).labels, logits.argmax(1))
    torch.testing.assert_close(everything.pseudo_labels(batch).weights, logits.softmax(1).amax(1).detach())


def test_weight_zero_on_pseudo_labels_is_supervised_training(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "annealed_weights", lambda confidence, pseudo, temperature: (~pseudo).float())
    plain = fit(rounds=1)
    monkeypatch.setattr(SIGNModule, "pseudo_labels", lambda self, batch: PseudoLabels(
        batch["mask"], zero := torch.zeros(batch["mask"].shape), torch.zeros_like(batch["valid"]), zero))  # fmt: skip
    assert same(state_of(plain.segmenter), state_of(fit(rounds=1).segmenter))


def test_balanced_steps_are_means_over_classes() -> None:
    model, batch = built(tiny_model()).eval(), a_batch()
    model.segmenter.known.fill_(True)
    segmenter, seen, mask = model.segmenter, model.protocol.num_seen, batch["mask"]
    features = segmenter.features(batch["image"]).features
    noise = torch.Generator().manual_seed(0)
    labels = torch.where(mask == 255, torch.randint(seen, seen + 4, mask.shape, generator=noise), mask)
    pseudo = PseudoLabels(labels, torch.rand(mask.shape, generator=noise), mask == 255, torch.rand(mask.shape))

    def supervised(mask: Tensor, balance: float) -> Tensor:
        return steps.supervised_losses(segmenter, {**batch, "mask": mask}, seen, None, balance)[1].total

    def transfer(mask: Tensor, balance: float) -> Tensor:
        random = steps.random_labels((2, *features.shape[-2:]), seen, seen + 4, 1)
        return steps.transfer_losses(segmenter, features, mask, features, random, balance).terms["loss_seg"]

    def self_training(among: Tensor, balance: float) -> Tensor:
        shown = {**batch, "mask": among.where(mask != 255, 255), "valid": mask == 255}
        some = pseudo._replace(chosen=(mask == 255) & (among != 255))
        return steps.self_training_losses(segmenter, shown, some, None, balance)[1].total

    for loss, known in ((supervised, mask), (transfer, mask), (self_training, labels)):
        each = [loss(known.where(known == c, 255), 0) for c in known[known != 255].unique()]
        assert len(each) > 2
        torch.testing.assert_close(loss(known, 1), torch.stack(each).mean())


def test_random_labels_follow_the_odds() -> None:
    torch.manual_seed(0)
    labels = steps.random_labels((20, 64, 64), num_seen=18, num_classes=22, unseen_odds=10.0)
    assert labels.shape == (20, 64, 64)
    counts = torch.bincount(labels.flatten(), minlength=22).double()
    assert float(counts[18:].mean() / counts[:18].mean()) == pytest.approx(10, rel=0.05)


def test_rates_follow_the_published_multipliers() -> None:
    model = built(tiny_model(lr=1.0, lr_transfer=0.5))
    sgd, discriminator, generator = model.configure_optimizers()
    assert [g["multiplier"] for g in sgd.param_groups] == [1, 5, 10, 20]
    assert [g["weight_decay"] for g in sgd.param_groups] == [5e-4, 5e-4, 5e-4, 0]
    assert model.rates("train") == {"segmenter": 1.0, "discriminator": 2.5e-4, "generator": 2e-4}
    assert model.rates("transfer") == {"segmenter": 0.5, "discriminator": 2.5e-4, "generator": 2e-4}
    listed = [id(p) for o in (sgd, discriminator, generator) for g in o.param_groups for p in g["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())


def test_checkpoint_alone_is_enough(fit: Fit, tmp_path: Path) -> None:
    checkpoint = ScheduleCheckpoint()
    model = fit(checkpoint).eval()
    assert list(checkpoint.phase_files) == ["train", "generator", "transfer", "self_training"]
    path = tmp_path / "checkpoints" / "last.ckpt"
    torch.load(path, weights_only=True)
    loaded = SIGNModule.load_from_checkpoint(path).eval()
    assert loaded.protocol == model.protocol
    image = torch.randint(0, 256, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(loaded.segmenter.predict(image), model.segmenter.predict(image))
    assert torch.equal(loaded.class_vectors, model.class_vectors)
    assert sorted(p.name for p in path.parent.iterdir()) == [
        "generator.ckpt", "last.ckpt", "self_training.ckpt", "train.ckpt", "transfer.ckpt",
    ]  # fmt: skip


def test_later_phases_start_from_given_weights(fit: Fit, tmp_path: Path) -> None:
    checkpoint = ScheduleCheckpoint()
    straight = fit(checkpoint, self_training="none")
    alone = fit(phases=["self_training"], init_from=checkpoint.phase_files["transfer"])
    assert alone.schedule.done
    assert not same(state_of(alone.segmenter), state_of(straight.segmenter))
    fresh = tiny_model(phases=["self_training"], init_from=checkpoint.phase_files["transfer"])
    quiet_trainer(tmp_path, StopAt(0)).fit(fresh, tiny_data())
    assert same(state_of(fresh.segmenter), state_of(straight.segmenter))


def test_checkpoints_that_do_not_fit_are_refused(fit: Fit, tmp_path: Path) -> None:
    checkpoint = ScheduleCheckpoint()
    fit(checkpoint, phases=["train"])
    path = checkpoint.phase_files["train"]
    with pytest.raises(UserError, match="never taught the unseen classes"):
        fit(phases=["self_training"], init_from=path)
    with pytest.raises(UserError, match="use the data and split that the checkpoint was trained with"):
        fit(init_from=path, data={"unseen": ["red circle"]})
    with pytest.raises(UserError, match="use the data and split that the checkpoint was trained with"):
        fit(ckpt_path=path, phases=["train"], data={"unseen": ["red circle"]})
    with pytest.raises(UserError, match="resume with the same schedule"):
        fit(ckpt_path=path)
    with pytest.raises(UserError, match=r"does not fit this model \(.* of another shape, the first .*: .* instead of"):
        fit(init_from=path, feature_dim=32)
    with pytest.raises(UserError, match=r"position: found none, but .* was trained with relative"):
        fit(init_from=path, position="none")
    with pytest.raises(UserError, match=r"vectors: those of .* are others"):
        fit(init_from=path, center_vectors=True)
    with pytest.raises(UserError, match=r"none\.ckpt is not there"):
        fit(init_from=str(tmp_path / "none.ckpt"))
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(UserError, match=r"text\.ckpt is damaged or no checkpoint"):
        fit(init_from=str(tmp_path / "text.ckpt"))
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match=r"is not of sign-zs3"):
        fit(init_from=str(tmp_path / "other.ckpt"))


def test_vectors_of_another_width_are_refused(fit: Fit, tmp_path: Path) -> None:
    checkpoint = ScheduleCheckpoint()
    model = fit(checkpoint, phases=["train"])
    assert model.protocol is not None
    names = np.array(model.protocol.classes)
    np.savez(
        tmp_path / "v.npz", names=names, source=np.random.default_rng(0).normal(size=(len(names), 7)).astype(np.float32)
    )
    for options in ({"init_from": checkpoint.phase_files["train"]}, {"ckpt_path": checkpoint.phase_files["train"]}):
        with pytest.raises(UserError, match="vectors"):
            fit(vectors=str(tmp_path / "v.npz"), phases=["train"], **options)


def test_validation_before_training_changes_nothing(tmp_path: Path, fit: Fit) -> None:
    checkpoint = ScheduleCheckpoint()
    fit(checkpoint, self_training="none")
    options = {"phases": ["self_training"], "init_from": checkpoint.phase_files["transfer"]}
    straight = fit(**options)
    model, data = tiny_model(**options), tiny_data()
    quiet_trainer(tmp_path, limit_val_batches=1.0).validate(model, data, verbose=False)
    quiet_trainer(tmp_path).fit(model, data)
    assert same(state_of(model), state_of(straight))


def test_development_scores_validation_images_on_classes_that_are_seen(tmp_path: Path) -> None:
    model, data = tiny_model(), tiny_data(development=4)
    quiet_trainer(tmp_path).fit(model, data)
    assert model.protocol is not None
    assert len(model.protocol.unseen) == 4
    assert not {"red square", "green triangle", "blue star", "yellow circle"} & set(model.protocol.classes)
    quiet_trainer(tmp_path).test(model, data, verbose=False)
    assert [name for batch in data.test_dataloader() for name in batch["id"]] == [f"val-0000{i}" for i in range(4)]
    assert not math.isnan(model.scores["unseen_pixel_accuracy"])


def test_share_of_unseen_pixels_is_counted(fit: Fit) -> None:
    tallies = fit(data={"train_size": 6}).progress.counts.tallies
    assert 0 < tallies["unseen_pixels"] < tallies["ignored_pixels"] < 3 * 2 * 32 * 32


def test_batches_without_labels_are_skipped_and_counted(fit: Fit, monkeypatch: pytest.MonkeyPatch) -> None:
    read = ShapesDataset.read

    def unlabelled(self: ShapesDataset, index: int) -> tuple[Any, Any]:
        image, mask = read(self, index)
        return image, np.zeros_like(mask)

    monkeypatch.setattr(ShapesDataset, "read", unlabelled)
    # which would refuse them, since none of the images has a label
    monkeypatch.setattr(ShapesDataModule, "has_masks", False)
    model = fit(phases=["train"])
    assert model.progress.counts.skipped == 3
    assert same(state_of(model.segmenter), state_of(built(tiny_model()).segmenter))


def test_needs_a_data_module_with_classes(tmp_path: Path) -> None:
    loader: Any = torch.utils.data.DataLoader([0])  # type: ignore[arg-type]
    with pytest.raises(UserError, match="found no data module"):
        quiet_trainer(tmp_path).test(tiny_model(), loader)


@pytest.mark.parametrize(
    ("option", "value"), [("temperature", 0.0), ("top_fraction", 1.5), ("unseen_odds", -1.0), ("phases", ["x"])]
)
def test_bad_options_are_named(option: str, value: Any) -> None:
    with pytest.raises(UserError, match=option):
        tiny_model(**{option: value})


def test_half_precision_needs_bfloat16(fit: Fit) -> None:
    model = fit(trainer={"precision": "bf16-mixed"})
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert all(math.isfinite(float(loss)) for loss in model.training_run.losses.values())


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_of_half_precision_are_refused(fit: Fit, precision: str) -> None:
    with pytest.raises(UserError, match=f"precision: found {precision}, expected 32-true or bf16-mixed"):
        fit(trainer={"precision": precision})


@pytest.mark.parametrize("kind", [FSDPStrategy, DeepSpeedStrategy, ModelParallelStrategy])
def test_strategies_that_cut_weights_are_refused(kind: type[Strategy]) -> None:
    strategy = kind.__new__(kind)  # the packages that they need are not there
    with pytest.raises(UserError, match=f"strategy: found {kind.__name__}, which cuts weights in parts.* use ddp"):
        check_strategy(strategy)


@pytest.mark.parametrize("name", ["ddp_spawn", "ddp_fork", "ddp_notebook"])
def test_launchers_that_train_in_another_process_are_refused(name: str, tmp_path: Path) -> None:
    trainer = quiet_trainer(tmp_path, strategy=name, devices=2)
    with pytest.raises(UserError, match=r"start method (spawn|fork), which trains in other processes.* use ddp"):
        check_strategy(trainer.strategy)
    check_strategy(quiet_trainer(tmp_path, strategy="ddp", devices=2).strategy)


def evaluated(model: SIGNModule, tmp_path: Path, change: Callable[[SIGNModule], None] | None = None) -> dict[str, Any]:
    model = copy.deepcopy(model)
    if change:
        change(model)
    quiet_trainer(tmp_path).test(model, tiny_data(), verbose=False)
    return model.scores


def test_test_scores_are_those_of_the_predicted_maps(fit: Fit, tmp_path: Path) -> None:
    model = fit()
    scores = evaluated(model, tmp_path)
    data = tiny_data()
    data.setup("test")
    assert data.test_set is not None
    hits, union = np.zeros(22), np.zeros(22)
    for index in range(len(data.test_set)):
        sample = data.test_set[index]
        target, got = sample["mask"].numpy(), model.segmenter.predict(sample["image"]).numpy()
        counted = target != 255
        for c in range(22):
            a, b = (target == c) & counted, (got == c) & counted
            hits[c] += (a & b).sum()
            union[c] += (a | b).sum()
    for name, hit, all_ in zip(model.protocol.classes, hits, union, strict=True):
        got_iou = scores["per_class"][name]
        assert math.isnan(got_iou) if all_ == 0 else got_iou == pytest.approx(hit / all_)


def test_evaluation_options(fit: Fit, tmp_path: Path) -> None:
    model = fit(encoding="conv")  # attention among the cells of 513 x 513 pixels takes half a minute
    plain = evaluated(model, tmp_path)

    def set_options(**options: Any) -> Callable[[SIGNModule], None]:
        return lambda m: m.hparams.update(options)

    low, high = (evaluated(model, tmp_path, set_options(seen_penalty=p)) for p in (-100.0, 100.0))
    assert low["unseen_miou"] == 0.0
    assert high["seen_miou"] == 0.0
    for options in ({"flip": True}, {"scales": [1.0, 1.5]}, {"resolution": "feature"}):
        assert evaluated(model, tmp_path, set_options(**options))["per_class"] != plain["per_class"]


def trained_weights(root: Path, **options: Any) -> dict[str, torch.Tensor]:
    model = tiny_model(**options)
    quiet_trainer(root).fit(model, tiny_data())
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def test_channels_last_gives_the_same_weights(tmp_path: Path) -> None:
    model = tiny_model(channels_last=True)
    quiet_trainer(tmp_path).fit(model, tiny_data())
    assert next(model.segmenter.encoder.head.parameters()).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(dict(model.state_dict()), trained_weights(tmp_path), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's compiler asks for it
@pytest.mark.parametrize("how", [True, "cudagraphs"])
def test_compiled_networks_give_the_same_weights(
    how: bool | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sign_zs3.tasks.trainer.check_trainer", lambda *_: None)  # which wants a GPU for graphs
    compiled = trained_weights(tmp_path, compile=how)
    torch.testing.assert_close(compiled, trained_weights(tmp_path), rtol=1e-3, atol=1e-4)


def test_graphs_are_recorded_of_both_networks_and_told_of_each_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled, told, batches, stances = list[Any](), list[str](), list[str](), list[tuple[str, str]]()

    def tell() -> None:
        told.append(f"batch {len(batches)}")

    def compile_network(network: torch.nn.Module, *, dynamic: bool, options: dict[str, Any]) -> None:
        compiled.append((type(network).__name__, options["triton.cudagraphs"] and not dynamic))

    class Count(pl.Callback):
        def on_train_batch_start(self, *_: Any) -> None:
            batches.append("train")

        def on_validation_batch_start(self, *_: Any, **__: Any) -> None:
            stances.append(("validation", stance[-1]))

        def on_before_backward(self, *_: Any) -> None:
            stances.append(("training", stance[-1]))

    stance = ["default"]
    monkeypatch.setattr(torch.compiler, "set_stance", stance.append)

    monkeypatch.setattr("sign_zs3.tasks.trainer.check_trainer", lambda *_: None)
    monkeypatch.setattr(torch.nn.Module, "compile", compile_network)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", tell)
    model = tiny_model(compile="cudagraphs")
    quiet_trainer(tmp_path, Count(), limit_val_batches=1, num_sanity_val_steps=1).fit(model, tiny_data())
    assert compiled == [("Encoder", True), ("SpatialInformationModule", True)] * 2, "the teacher's, too"
    assert told == [f"batch {number + 1}" for number in range(len(batches))], "once in each"
    assert set(stances) == {("training", "default"), ("validation", "force_eager")}, "images are not recorded"
    assert stance[-1] == "default"


@pytest.mark.parametrize(("options", "message"), [
    ({"compile": "graphs"}, "compile: found 'graphs', expected true, false or cudagraphs"),
    ({"compile": "false"}, "compile: found 'false', expected true, false or cudagraphs"),
    ({"compile": "cudagraphs", "accumulate": 2}, "accumulate: found 2 beside compile cudagraphs"),
    ({"compile": "cudagraphs"}, "compile: found cudagraphs on the device cpu, expected a CUDA GPU"),
])  # fmt: skip
def test_graphs_that_cannot_be_recorded_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        quiet_trainer(tmp_path).fit(tiny_model(**options), tiny_data())


def test_compile_needs_a_compiler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(UserError, match=r"compile: found no C\+\+ compiler"):
        quiet_trainer(tmp_path).fit(tiny_model(compile=True), tiny_data())
