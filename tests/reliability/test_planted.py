"""A checkpoint of plain values alone that names code: no way to read one may import or call it.

Lightning stores under `_instantiator` and `_class_path` how a model was made. Before 2.6.6 it called whatever function
stood there, also under ``weights_only=True`` (CVE-2026-58659).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Trainer
from pytorch_lightning.core import saving

from sign_zs3 import ShapesDataModule, SIGNModule, load_segmenter, load_task
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.files import write_json
from sign_zs3.reports.run import as_results
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.reliability import seeds
from tests.reliability.programs import write_config

MODULE = """\
from pathlib import Path
left = Path(__file__).with_name("left")
left.mkdir(exist_ok=True)
(left / "imported").touch()

def make(cls, options):
    (left / "called").touch()
    return cls(**{name: value for name, value in options.items() if not name.startswith("_")})

class Model:
    def __init__(self, **options):
        (left / "made").touch()
"""
ALLOWED = "pytorch_lightning.cli.instantiate_module"
PLANTED: dict[str, dict[str, Any]] = {
    "a function": {"_instantiator": "planted_code.make", "_class_path": "planted_code.Model"},
    "a class": {"_instantiator": ALLOWED, "_class_path": "planted_code.Model"},
}
PLACES = ("hyper_parameters", "hparams", "module_arguments", "datamodule_hyper_parameters")
"""Where Lightning looks for options in a checkpoint: those of a model, by older names, and those of a data module."""
OPTIONS: dict[str, Any] = {
    "train_iterations": 1, "generator_iterations": 1, "transfer_iterations": 1,
    "phases": ["train", "generator", "transfer"],
}  # fmt: skip
DATA = {"train_size": 4, "val_size": 2, "test_size": 2}

Left = Callable[[], set[str]]


@pytest.fixture
def left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Left]:
    """Put the module where it can be imported; called, it says what its code has left."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "planted_code.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    yield lambda: {path.name for path in (tmp_path / "code" / "left").glob("*")}
    sys.modules.pop("planted_code", None)


@pytest.fixture
def older_lightning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lightning as it was before 2.6.6, when any function was allowed."""

    class Anything:
        def __contains__(self, name: object) -> bool:
            return True

    monkeypatch.setattr(saving, "_ALLOWED_INSTANTIATORS", Anything())
    monkeypatch.setattr(saving, "_is_imported_subclass", lambda *_: True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A checkpoint between two phases, with a generator that can teach classes."""
    folder = tmp_path_factory.mktemp("trained")
    files = ScheduleCheckpoint()
    quiet_trainer(folder, files).fit(tiny_model(**OPTIONS), tiny_data(**DATA))
    content: dict[str, Any] = torch.load(files.phase_files["generator"], weights_only=True)
    return content


@pytest.fixture(params=PLANTED)
def checkpoint(
    request: pytest.FixtureRequest, trained: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A run's checkpoint that names code, in the working folder."""
    monkeypatch.chdir(tmp_path)
    path = Path("run", "checkpoints", "generator.ckpt")
    path.parent.mkdir(parents=True)
    named = PLANTED[request.param]
    torch.save(trained | {place: {**trained.get(place, {}), **named} for place in PLACES}, path)
    torch.load(path, weights_only=True)  # plain values alone
    return path


def trainer() -> Trainer:
    return quiet_trainer(Path("runs"), ScheduleCheckpoint())


WAYS: dict[str, Callable[[Path], object]] = {
    "load_from_checkpoint": lambda path: SIGNModule.load_from_checkpoint(path, map_location="cpu", weights_only=True),
    "load_task": load_task,
    "load_segmenter": load_segmenter,
    "Trainer.fit": lambda path: trainer().fit(
        tiny_model(**OPTIONS), tiny_data(**DATA), ckpt_path=path, weights_only=True
    ),
    "Trainer.test": lambda path: trainer().test(
        tiny_model(**OPTIONS), tiny_data(**DATA), ckpt_path=path, weights_only=True
    ),
    "init_from": lambda path: trainer().validate(tiny_model(**OPTIONS, init_from=str(path)), tiny_data(**DATA)),
}


@pytest.mark.parametrize("way", WAYS)
def test_no_function_runs_it(way: str, checkpoint: Path, left: Left) -> None:
    WAYS[way](checkpoint)
    assert left() == set()


@pytest.mark.usefixtures("older_lightning")
@pytest.mark.parametrize("checkpoint", ["a function"], indirect=True)
@pytest.mark.parametrize("way", WAYS)
def test_no_function_needs_lightning_for_that(way: str, checkpoint: Path, left: Left) -> None:
    WAYS[way](checkpoint)
    assert left() == set()


COMMANDS = {
    "fit": ["fit", "--config", "tiny.yaml", "--ckpt_path"],
    "fit from weights": ["fit", "--config", "tiny.yaml", "--model.phases=[transfer]", "--model.init_from"],
    "validate": ["validate", "--config", "tiny.yaml", "--ckpt_path"],
    "test": ["test", "--config", "tiny.yaml", "--ckpt_path"],
    "predict a data set": ["predict", "--config", "tiny.yaml", "--ckpt_path"],
    "predict images": ["predict", "--data.images", "image.png", "--output", "out", "--ckpt_path"],
    "export": ["export", "--output", "model", "--ckpt_path"],
    "extend": ["extend", "--classes", "zebra", "--output", "more.ckpt", "--ckpt_path"],
}


@pytest.mark.usefixtures("older_lightning")
@pytest.mark.parametrize("checkpoint", ["a function"], indirect=True)
@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_it(name: str, checkpoint: Path, left: Left) -> None:
    write_config(Path(), model=OPTIONS, data=DATA)
    seeds.picture().save("image.png")
    assert main([*COMMANDS[name], str(checkpoint)]) == 0
    assert left() == set()


@pytest.mark.usefixtures("older_lightning")
@pytest.mark.parametrize("checkpoint", ["a function"], indirect=True)
def test_no_panel_runs_it(checkpoint: Path, left: Left) -> None:
    Path(write_config(Path(), model=OPTIONS, data=DATA)).rename("run/config.yaml")
    protocol = load_task(checkpoint).protocol
    scores = {"seen_miou": 0.5, "unseen_miou": 0.5, "harmonic_miou": 0.5}
    phases = {"generator": scores | {"per_class": dict.fromkeys(protocol.classes, 0.5)}}
    write_json(Path("run/results.json"), as_results(protocol, "SIGN", 0, phases))
    assert main(["results", "run", "--output", "tables", "--panels", "1"]) == 0
    assert Path("tables/panels.png").is_file()
    assert left() == set()


def test_no_data_module_runs_it(checkpoint: Path, left: Left) -> None:
    """Lightning reads these alone: why setup.cfg asks for the version that it does."""
    with pytest.raises(ValueError, match="blocked to prevent arbitrary code execution"):
        ShapesDataModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert left() == set()


# -- and these tests would see it -------------------------------------------------------------------------------------


@pytest.mark.usefixtures("older_lightning")
@pytest.mark.parametrize("checkpoint", ["a function"], indirect=True)
@pytest.mark.parametrize("kind", [SIGNModule, ShapesDataModule])
def test_an_older_lightning_would_have_run_it(kind: type[Any], checkpoint: Path, left: Left) -> None:
    saving._load_from_checkpoint(kind, checkpoint, map_location="cpu", weights_only=True)
    assert left() == {"imported", "called"}
