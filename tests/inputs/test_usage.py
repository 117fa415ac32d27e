"""Options on the command line that are wrong, or written as people write them."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
import pytorch_lightning as pl

import sign_zs3
from sign_zs3._version import __version__
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.cli import main
from sign_zs3.commands.usage import explain, list_options, options_of, with_brackets
from sign_zs3.data import datamodules
from sign_zs3.tasks import METHODS
from tests.inputs.conftest import Folder

WRONG = {
    "--model.alpa 3": "--model.alpa: is no option here; did you mean '--model.alpha'?",
    "--model.alpha big": "--model.alpha: found 'big', expected a number",
    "--model.output_stride 8x": "--model.output_stride: found '8x', expected a whole number",
    "--model.phases train": "--model.phases: found 'train', expected a list: [train]",
    "--model.self_training anealed": "--model.self_training: found 'anealed', expected one of annealed, top_fraction, "
    "none; did you mean 'annealed'?",
    "--model.flip maybe": "--model.flip: found 'maybe', expected true or false",
    "--data.unseen dog": "--data.unseen: found 'dog', expected a list: [dog]",
    "--data.batch_siz 3": "--data.batch_siz: is no option here; did you mean '--data.batch_size'?",
    "--data.batch_size 3.5": "--data.batch_size: found '3.5', expected a whole number",
    "--trainer.devics 2": "--trainer.devics: is no option here; did you mean '--trainer.devices'?",
    "--trainer.max_epochs many": "--trainer.max_epochs: found 'many', expected a whole number",
    # of classes other than the data's, which the message must not blame
    "--trainer.logger Foo": "--trainer.logger: found 'Foo', expected one of CSVLogger, CometLogger, ",
    "--trainer.callbacks Modelcheckpoint": "; did you mean 'ModelCheckpoint'?",
    "--trainer.callbacks EarlyStopping": "--trainer.callbacks: found EarlyStopping alone, which needs monitor: give "
    "--trainer.callbacks.monitor",
    "--trainer.callbacks [EarlyStopping]": "--trainer.callbacks: found EarlyStopping alone, which needs monitor: give "
    "--trainer.callbacks.monitor",
    "--trainer.callbacks.monitr x": "--trainer.callbacks.monitr: is no option here; --help lists those that are",
    "--trainer.logger CSVLogger --trainer.logger.nme 3": "--trainer.logger.nme: is no option here; did you mean "
    "'--trainer.logger.name'?",
    "--trainer.callbacks ThroughputMonitor --trainer.callbacks.batch_size_fn len": "--trainer.callbacks.batch_size_fn: "
    "found 'len', expected the path of what to import, as in package.module.Class",
    "stray": "found 'stray', which belongs to no option; write each value behind its option, lists as [a, b]",
}


@pytest.mark.parametrize("given", WRONG)
def test_one_line_says_what_is_wrong(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["fit", "--config", "experiments/quickstart.yaml", *given.split()])
    assert stopped.value.code == 2
    err = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("Seed set")]
    assert len(err) == 1 and err[0].startswith("error: --" if given.startswith("--") else "error: ")
    assert WRONG[given] in err[0]
    if not WRONG[given].endswith(", "):  # the names of Lightning's classes depend on its version
        assert err[0].endswith(WRONG[given])


@pytest.mark.parametrize(
    ("args", "start"),
    [
        (
            ["fit", "--data", "VOCDataModul"],
            "--data: found 'VOCDataModul', expected one of COCOStuffDataModule, ",
        ),
        (["fit", "--config", "experiments/no.yaml"], "--config: "),
        (["fti"], "found 'fti', expected one of fit, validate, test, predict, data"),
        (
            ["data", "check", "--data", "FolderDataModule", "--data.unseen", "dog"],
            "--data.unseen: found 'dog', expected a",
        ),
    ],
)
def test_verbs_files_and_classes(args: list[str], start: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(args)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {start}")


FILES = {
    "model: {encodin: conv}": "--model.encodin: is no option here; did you mean '--model.encoding'?",
    "trainer: {max_epoch: 3}": "--trainer.max_epoch: is no option here; did you mean '--trainer.max_epochs'?",
    "modell: {lr: 3}": "--modell.lr: is no option here; did you mean '--model.lr'?",
    "data: {class_path: ShapesDataModule, init_args: {trainsize: 3}}": "--data.trainsize: is no option here; did you "
    "mean '--data.train_size'?",
    "model: {lr: fast}": "--model.lr: found 'fast', expected a number",
    # Lightning's parser would take these for a reason to forget what the files before say
    "model: 3": "FILE: model: found 3, expected lines such as 'option: value', indented; or leave it out",
    "model:": "FILE: model: found no line below it, expected lines such as 'option: value', indented; or leave it out",
    "trainer: [gpu]": "FILE: trainer: found ['gpu'], expected lines such as 'option: value', indented; or leave it out",
    "checkpoint: 4": "FILE: checkpoint: found 4, expected lines such as 'option: value', indented; or leave it out",
}


@pytest.mark.parametrize("content", FILES)
def test_one_line_says_what_is_wrong_in_a_file(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(content)
    try:
        status = main(["fit", "--config", "experiments/quickstart.yaml", "--config", str(path)])
    except SystemExit as stopped:
        status = int(stopped.code or 0)
    assert status
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"error: {FILES[content].replace('FILE', str(path))}"


VERBS = {
    "extend": "--ckpt_path, --classes, --output: found none, expected a value; see sign-zs3 extend --help",
    "export --ckpt_path x --output y --format onx": "--format: found 'onx', expected one of onnx, torch, pretrained; "
    "did you mean 'onnx'?",
    "results": "RUNS: found none, expected a value; see sign-zs3 results --help",
    "results a --panels x": "--panels: found 'x', expected a whole number; see sign-zs3 results --help",
    "demo --prt 80": "--prt: is no option here; did you mean '--port'?",
    "predict --data.images . --ckpt_path": "--ckpt_path: found none, expected a value; see sign-zs3 predict --help",
    "predict imgs --ckpt_path x": "--data.images: found none, expected a value; see sign-zs3 predict --help",
    "data convert": "ANNOTATIONS, --output: found none, expected a value; see sign-zs3 data convert --help",
    "data check": "--data: found none, expected a data set: give --config FILE, or --data CLASS with its options",
    "fit": "--data: found none, expected a data set: give --config FILE, or --data CLASS with its options",
    "fit --config": "--config: found none, expected a value",
    "fit --data FolderDataModule": "--data: found FolderDataModule alone, which needs root: give --data.root",
    # what groups of options begin with makes them no more alike
    "fit --data ShapesDataModule --data.root x": "--data.root: is no option here; --help lists those that are",
}


@pytest.mark.parametrize("command", VERBS)
def test_one_line_for_every_verb(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(command.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"error: {VERBS[command]}"]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"sign-zs3 {__version__}\n"


def test_messages_name_options_that_exist() -> None:
    """Wherever the source says ``--data.NAME``, ``model.NAME`` and the like, there is such an option."""
    modules = [getattr(datamodules, name) for name in datamodules.__all__]
    known = {
        "data": {option for module in modules for option in options_of(module)} | {"images"},
        "model": {option for method in METHODS.values() for option in method.defaults()},
        "trainer": set(inspect.signature(pl.Trainer.__init__).parameters),
        "checkpoint": set(options_of(ScheduleCheckpoint)),
    }
    # an attribute, a file and the parts of a path in a configuration
    others = {"data.datamodules", "data.init_args", "data.class_path", "trainer.global_step", "model.safetensors"}
    source, found = Path(sign_zs3.__file__).parent, set[str]()
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"(?<![\w./])(?:data|model|trainer|checkpoint)\.[a-z_]+", node.value))
    assert len(found) > 20
    assert {name for name in found - others if name.split(".")[1] not in known[name.split(".")[0]]} == set()


def test_lists_with_commas_need_no_brackets(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["data", "check", "--data", "FolderDataModule", "--data.root", str(folder.root)]
    assert main([*command, "--data.unseen", "cow,horse"]) == 0
    first = capsys.readouterr().out
    assert main([*command, "--data.unseen=cow,horse"]) == 0
    assert main([*command, "--data.unseen", "[cow,horse]"]) == 0
    assert "cow (unseen)" in first and "horse (unseen)" in first


def test_brackets_only_where_they_are_meant() -> None:
    assert {"--data.unseen", "--data.ignored_classes", "--model.phases", "--model.scales"} <= list_options()
    assert "--model.vectors" not in list_options() and "--data.root" not in list_options()
    for kept in (["--data.root", "a,b"], ["--data.unseen", "[a,b]"], ["--data.unseen", "a"], ["--data.unseen=['a,b']"]):
        assert with_brackets(kept) == kept
    assert with_brackets(["--model.scales=0.5,1", "--model.phases", "train,transfer"]) == [
        "--model.scales=[0.5,1]", "--model.phases", "[train,transfer]",
    ]  # fmt: skip


def test_what_is_not_understood_stays_one_line() -> None:
    assert explain("something\n  else   happened") == "something else happened"
