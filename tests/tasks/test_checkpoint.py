"""Checkpoints of other versions: older ones load and give what they gave, others say which version to install."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sign_zs3 import SIGNModule, SPNetModule, UserError, __version__, load_task
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.tasks import ZeroShotTask
from sign_zs3.vocabulary import extend
from tests.conftest import TINY, Fit, StopAt, quiet_trainer, tiny_data, tiny_model
from tests.tasks.test_sign import same, state_of

DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}
LATER = ("version", "looked_up", "centered_on", "trained_parts", "tallies")
"""Keys that the first checkpoints lack."""


def changed(path: str | Path, change: Callable[[dict[str, Any]], Any]) -> str:
    """Write a checkpoint beside another one, with its content changed."""
    content = torch.load(path, weights_only=True)
    change(content)
    beside = Path(path).with_name(f"changed_{Path(path).name}")
    torch.save(content, beside)
    return str(beside)


def make_older(content: dict[str, Any]) -> None:
    """Take out what came later, every option with its default included: any of them may be newer than a checkpoint."""
    for key in LATER:
        del content["sign_zs3"][key]
    del content["hyper_parameters"]["protocol"]
    options, defaults = content["hyper_parameters"], SIGNModule.defaults()
    content["hyper_parameters"] = {key: value for key, value in options.items() if value != defaults[key]}


@pytest.fixture
def phase_files(fit: Fit) -> dict[str, str]:
    """Train all phases; phase -> its checkpoint."""
    checkpoint = ScheduleCheckpoint()
    fit(checkpoint)
    return checkpoint.phase_files


def scores_of(model: ZeroShotTask, folder: Path) -> dict[str, Any]:
    quiet_trainer(folder).test(model, tiny_data(), verbose=False)
    return model.scores


def test_an_older_checkpoint_is_the_model_it_was(phase_files: dict[str, str], tmp_path: Path) -> None:
    path = phase_files["self_training"]
    now, older = load_task(path), load_task(changed(path, make_older))
    assert same(state_of(older), state_of(now))
    assert older.protocol == now.protocol
    for name in ("looked_up", "centered_on", "trained_parts"):
        assert getattr(older.progress, name) == getattr(now.progress, name)
    assert dict(older.hparams) == dict(now.hparams)
    assert repr(scores_of(older, tmp_path)) == repr(scores_of(now, tmp_path))
    image = torch.randint(0, 256, (3, 20, 31), dtype=torch.uint8)
    assert torch.equal(older.segmenter.predict(image), now.segmenter.predict(image))
    assert same(state_of(extend(older, ["zebra"])), state_of(extend(now, ["zebra"])))


def test_an_older_checkpoint_goes_on(fit: Fit, tmp_path: Path) -> None:
    options = {"accumulate": 2, "rounds": 1}
    straight = fit(**options)
    fit(ScheduleCheckpoint(), StopAt(17), **options)
    older = changed(tmp_path / "checkpoints" / "last.ckpt", make_older)
    assert same(state_of(fit(ScheduleCheckpoint(), ckpt_path=older, **options)), state_of(straight))


def test_later_phases_start_from_an_older_checkpoint(fit: Fit, phase_files: dict[str, str]) -> None:
    path = phase_files["transfer"]
    now, older = (fit(phases=["self_training"], init_from=p) for p in (path, changed(path, make_older)))
    assert same(state_of(older), state_of(now))


@pytest.mark.parametrize("start", ["train", "generator"])
def test_what_older_checkpoints_trained_is_known(
    fit: Fit, phase_files: dict[str, str], tmp_path: Path, start: str
) -> None:
    """A run that starts from one and does not train the generator itself can still be extended."""
    checkpoint = ScheduleCheckpoint()
    fit(checkpoint, phases=["transfer"], init_from=changed(phase_files[start], make_older))
    extend(checkpoint.phase_files["transfer"], ["zebra"])
    # such a run of an older version tells neither what it nor what its start had trained
    extend(changed(checkpoint.phase_files["transfer"], make_older), ["zebra"])


def test_a_generator_that_no_phase_trained_is_known_too(fit: Fit) -> None:
    checkpoint = ScheduleCheckpoint()
    fit(checkpoint, phases=["train"], joint_generator=False)
    with pytest.raises(UserError, match="a generator that was never trained"):
        extend(changed(checkpoint.phase_files["train"], make_older), ["zebra"])


def test_the_program_takes_an_option_that_an_older_checkpoint_lacks_from_its_default(
    phase_files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    content = {
        "trainer": {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu", "limit_val_batches": 0},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": {**TINY, "position": "none"},
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    older = changed(phase_files["transfer"], make_older)
    resume = ["fit", "--config", str(tmp_path / "tiny.yaml"), "--ckpt_path", older]
    assert main([*resume, "--model.position", "none"]) == 1
    assert "--model.position: found none, but the checkpoint" in capsys.readouterr().err
    assert main(resume) == 0
    assert "model.position: the checkpoint's relative holds, not none of the configuration" in caplog.text
    resumed = torch.load(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt", weights_only=True)
    straight = torch.load(phase_files["self_training"], weights_only=True)
    assert same(resumed["state_dict"], straight["state_dict"])


# -- other formats -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"format": 2, "version": "9.1"}, "found format 2, this version reads 1: install the newer sign-zs3 that "
         "wrote it (9.1), or give a .ckpt file"),
        ({"format": 0}, "found format 0, this version reads 1: install the older sign-zs3 that wrote it, or give a"),
        ({"format": None}, "found no format number, expected 1: give a .ckpt file that `fit` of this version wrote"),
        ({"format": "x"}, "found 'x' as format number, expected 1: give a .ckpt file"),
    ],
)  # fmt: skip
def test_another_format_says_which_version_to_install(
    fit: Fit, tmp_path: Path, own: dict[str, Any], message: str
) -> None:
    fit(ScheduleCheckpoint(), StopAt(1))
    written = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["sign_zs3"]
    assert (written["format"], written["version"]) == (1, __version__)

    def change(content: dict[str, Any]) -> None:
        del content["sign_zs3"]["version"]
        content["sign_zs3"].update(own)

    path = changed(tmp_path / "checkpoints" / "last.ckpt", change)
    uses: list[Callable[[], Any]] = [
        lambda: load_task(path),
        lambda: extend(path, ["zebra"]),
        lambda: fit(ckpt_path=path),
        lambda: fit(init_from=path),
        lambda: quiet_trainer(tmp_path).test(tiny_model(), tiny_data(), ckpt_path=path),
    ]
    for use in uses:
        with pytest.raises(UserError) as caught:
            use()
        assert message in str(caught.value) and "\n" not in str(caught.value)


def test_weights_of_an_older_network_are_one_line(
    phase_files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where a network's widths changed since, its checkpoint fits no longer."""

    def widen(content: dict[str, Any]) -> None:
        key = "segmenter.encoder.backbone.4.body.0.weight"
        content["state_dict"][key] = torch.cat([content["state_dict"][key]] * 2)

    path = changed(phase_files["self_training"], widen)
    message = (
        "does not fit this model (1 of another shape, the first 'segmenter.encoder.backbone.4.body.0.weight': "
        f"(128, 64, 3, 3) instead of (64, 64, 3, 3)): use the options and version of sign-zs3 "
        f"({__version__}) that it was trained with"
    )
    with pytest.raises(UserError, match=re.escape(message)):
        load_task(path)
    content = {
        "trainer": {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu", "limit_val_batches": 0},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": TINY,
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content))
    for verb in ("fit", "test"):
        assert main([verb, "--config", str(tmp_path / "tiny.yaml"), "--ckpt_path", path]) == 1
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert line == f"error: the checkpoint {message}"


# -- loading as Lightning does -----------------------------------------------------------------------------------


def test_options_given_take_the_place_of_stored_ones(phase_files: dict[str, str]) -> None:
    path = phase_files["train"]
    model = SIGNModule.load_from_checkpoint(path, seen_penalty=0.3, flip=True, map_location="cpu", weights_only=True)
    plain = load_task(path)
    assert dict(model.hparams) == dict(plain.hparams) | {"seen_penalty": 0.3, "flip": True}
    assert same(state_of(model), state_of(plain))
    with pytest.raises(UserError, match=r"seen_penalti: found no such option of SIGNModule; did you mean 'seen_penalt"):
        SIGNModule.load_from_checkpoint(path, seen_penalti=0.3)
    with pytest.raises(UserError, match=r"feature_dim|does not fit this model"):
        SIGNModule.load_from_checkpoint(path, feature_dim=8)
    with pytest.raises(UserError, match="weights_only: found false"):
        SIGNModule.load_from_checkpoint(path, weights_only=False)
    with pytest.raises(UserError, match=r"ZeroShotTask: found no method, .* load_task"):
        ZeroShotTask.load_from_checkpoint(path)
    with pytest.raises(UserError, match=r"protocol: found no such option of SIGNModule"):
        SIGNModule.load_from_checkpoint(path, protocol=model.protocol.as_dict())


def test_a_method_loads_its_own_checkpoints_and_those_it_derives_from(phase_files: dict[str, str]) -> None:
    class Mine(SIGNModule):
        """A method of one's own."""

    assert isinstance(Mine.load_from_checkpoint(phase_files["train"]), Mine)
    with pytest.raises(UserError, match=r"found a model of SIGNModule, expected one of SPNetModule: use load_task"):
        SPNetModule.load_from_checkpoint(phase_files["train"])


def test_counts_are_whole_numbers(phase_files: dict[str, str]) -> None:
    path = changed(phase_files["train"], lambda content: content["sign_zs3"].update(nonfinite="many"))
    with pytest.raises(UserError, match=r"is damaged \(nonfinite: found str, expected int\)"):
        load_task(path)


def test_running_out_of_memory_is_not_called_damage(
    phase_files: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: object, *args: object) -> None:
        raise MemoryError

    monkeypatch.setattr(SIGNModule, "build_networks", full)
    with pytest.raises(MemoryError):
        load_task(phase_files["train"])


@pytest.mark.parametrize(
    "phases", [None, [], [["train"]], [["train", "train", "ten"]], [["train", "train", 1.5]], ["train"], {"train": 1}]
)
def test_damaged_phases_are_refused(phase_files: dict[str, str], phases: Any) -> None:
    def damage(content: dict[str, Any]) -> None:
        content["sign_zs3"]["schedule"]["phases"] = phases

    with pytest.raises(UserError, match=r"is damaged .*schedule: found other than phases"):
        load_task(changed(phase_files["train"], damage))


def test_a_phase_of_another_method_is_no_fault_of_the_file(phase_files: dict[str, str], tmp_path: Path) -> None:
    """SPNet knows no phase called transfer."""
    path = changed(phase_files["generator"], make_older)
    shared: dict[str, Any] = {"backbone": "small", "dilations": [1, 2], "train_iterations": 1}
    with pytest.raises(UserError, match="does not fit this model"):
        quiet_trainer(tmp_path).fit(SPNetModule(init_from=path, **shared), tiny_data())


def test_batch_norm_that_would_change_is_said(
    fit: Fit, phase_files: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    def pretrained(content: dict[str, Any]) -> None:
        content["hyper_parameters"]["weights"] = "imagenet"

    path = phase_files["transfer"]
    fit(phases=["self_training"], init_from=path)
    assert "batch norm is frozen" not in caplog.text
    fit(phases=["self_training"], init_from=changed(path, pretrained))
    assert "weights: found None" in caplog.text and "trained with imagenet" in caplog.text


def test_vectors_are_compared_in_whatever_order_they_were_centred(fit: Fit, phase_files: dict[str, str]) -> None:
    def turned(content: dict[str, Any]) -> None:
        content["sign_zs3"]["centered_on"].reverse()

    with pytest.raises(UserError, match="vectors: those of"):
        fit(init_from=changed(phase_files["transfer"], turned), center_vectors=True)


def test_labelling_an_image_leaves_each_module_in_its_mode(phase_files: dict[str, str]) -> None:
    model = load_task(phase_files["self_training"]).train()
    assert model.teacher is not None
    model.teacher.eval()
    model.segmenter.encoder.eval()
    modes = {name: module.training for name, module in model.named_modules()}
    model.label_image(torch.zeros(3, 20, 31))
    model.segmenter.predict(torch.zeros(3, 20, 31, dtype=torch.uint8))
    assert {name: module.training for name, module in model.named_modules()} == modes


def test_a_resumed_teacher_is_compiled_as_a_new_one_is(
    fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[Any] = []
    monkeypatch.setattr("sign_zs3.tasks.trainer.check_trainer", lambda *_: None)
    monkeypatch.setattr("sign_zs3.tasks.run.compile_networks", lambda _, *networks: compiled.extend(networks))
    straight = fit(compile=True)
    assert straight.teacher in compiled
    before = straight.schedule.first_batch("self_training")
    assert before is not None
    fit(ScheduleCheckpoint(), StopAt(before + 1), compile=True)
    resumed = fit(ScheduleCheckpoint(), ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"), compile=True)
    assert resumed.teacher in compiled


# -- what failed or ended leaves nothing behind ------------------------------------------------------------------


def test_a_model_whose_networks_could_not_be_made_starts_anew(tmp_path: Path, phase_files: dict[str, str]) -> None:
    model = tiny_model(init_from=phase_files["train"], feature_dim=32, phases=["train"])
    for _ in range(2):  # the second fit would train from random weights
        with pytest.raises(UserError, match="does not fit this model"):
            quiet_trainer(tmp_path).fit(model, tiny_data())
    model = tiny_model(vectors=str(tmp_path / "none.npz"), phases=["train"])
    with pytest.raises(UserError, match="none"):
        quiet_trainer(tmp_path).fit(model, tiny_data())
    model.hparams["vectors"] = tiny_model().hparams["vectors"]
    quiet_trainer(tmp_path).fit(model, tiny_data(unseen=["red circle"]))
    assert model.protocol == tiny_data(unseen=["red circle"]).protocol


def test_a_trained_model_can_be_pickled(fit: Fit) -> None:
    model = fit(phases=["train"])
    again = pickle.loads(pickle.dumps(model))
    assert same(state_of(again), state_of(model)) and again.protocol == model.protocol
