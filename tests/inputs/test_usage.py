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
from sign_zs3.files import read_yaml
from sign_zs3.tasks import METHODS
from tests.inputs.conftest import Folder

WRONG = {
    "--model.alpa 3": "--model.alpa: is no option here; did you mean '--model.alpha'?",
    "--model.alpha big": "--model.alpha: found 'big', expected a number",
    "--model.output_stride 8x": "--model.output_stride: found '8x', expected a whole number",
    "--model.phases train": "--model.phases: found 'train', expected a list: [train]",
    "--model.self_training anealed": "--model.self_training: found 'anealed', expected one of annealed, probability, "
    "top_fraction, none; did you mean 'annealed'?",
    "--model.flip maybe": "--model.flip: found 'maybe', expected true or false",
    "--data.unseen dog": "--data.unseen: found 'dog', expected a list: [dog]",
    "--data.batch_siz 3": "--data.batch_siz: is no option here; did you mean '--data.batch_size'?",
    "--data.batch_size 3.5": "--data.batch_size: found '3.5', expected a whole number",
    "--trainer.max_epoch 2": "--trainer.max_epoch: is no option here; did you mean '--trainer.max_epochs'?",
    "--trainer.devics 2": "--trainer.devics: is no option here; did you mean '--trainer.devices'?",
    "--trainer.max_epochs many": "--trainer.max_epochs: found 'many', expected a whole number",
    # of classes other than the data's, which the message must not blame
    "--trainer.logger Foo": "--trainer.logger: found 'Foo', expected one of CSVLogger, CometLogger, ",
    "--trainer.callbacks Modelcheckpoint": "; did you mean 'ModelCheckpoint'?",
    "--trainer.callbacks OnExceptionCheckpoint": "--trainer.callbacks: found OnExceptionCheckpoint alone, which needs "
    "dirpath: give --trainer.callbacks.dirpath",
    "--trainer.callbacks [OnExceptionCheckpoint]": "--trainer.callbacks: found OnExceptionCheckpoint alone, which "
    "needs dirpath: give --trainer.callbacks.dirpath",
    "--trainer.callbacks [5]": "--trainer.callbacks: found '5', expected one of DeviceStatsMonitor, ",
    "--trainer.callbacks torch.nn.Linear": "; or give the path of one of your own, as in package.module.Class",
    "--trainer.logger torch.nn.Linear": "--trainer.logger: found 'torch.nn.Linear', expected one of CSVLogger, ",
    "--trainer.plugins torch.nn.Linear": "--trainer.plugins: found 'torch.nn.Linear', expected the path of what to "
    "import, as in package.module.Class",
    "--data torch.nn.Linear": "--data: found 'torch.nn.Linear', expected one of COCOStuffDataModule, ",
    "--data sign_zs3.nothing": "--data: found 'sign_zs3.nothing', expected one of COCOStuffDataModule, ",
    "--data sign_zs3.ZeroShotDataModule": "--data: found 'sign_zs3.ZeroShotDataModule', expected one of COCOStuff",
    "--trainer.logger Logger": "--trainer.logger: found 'Logger', expected one of CSVLogger, ",
    f"--model {'a' * 99}": f"--model: found '{'a' * 49}, expected a YAML file of its options; or give these one by "
    "one, as --model.NAME",
    "--data.init_args 5": "--data.init_args: found no options, expected lines such as 'option: value'",
    # those of groups
    "--trainer 5": "--trainer: found '5', expected a YAML file of its options; or give these one by one, as "
    "--trainer.NAME",
    "--model x": "--model: found 'x', expected a YAML file of its options; or give these one by one, as --model.NAME",
    "--model.protocol x": "--model.protocol: is set by --data; leave it out",
    # values that Lightning knows and that do not serve here are not offered
    "--trainer.precision fp16": "--trainer.precision: found 'fp16', expected 32-true, 64-true or bf16-mixed",
    "--trainer.precision 8": "--trainer.precision: found '8', expected 32-true, 64-true or bf16-mixed",
    "--trainer.limit_val_batches a": "--trainer.limit_val_batches: found 'a', expected a number",
    "--trainer.deterministic x": "--trainer.deterministic: found 'x', expected true or false or warn",
    "--seed_everything x": "--seed_everything: found 'x', expected a whole number from 0 to 4294967295",
    # no value
    "--model.lr null": "--model.lr: found null, expected a number",
    "--model.dilations null": "--model.dilations: found null, expected a list, as in [a, b]",
    "--model.self_training null": "--model.self_training: found null, expected one of annealed, probability, "
    "top_fraction, none",
    "--checkpoint.every null": "--checkpoint.every: found null, expected a whole number",
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
    if not WRONG[given].endswith((", ", "COCOStuff")):  # the names of Lightning's classes depend on its version
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


NO_VALUE = "found no value (null), expected one; give it, or leave the line out for the default"
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
    "# comments\n# alone": "FILE: found no option, expected lines such as 'option: value'; correct it",
    "data:": "FILE: data: found no line below it, expected lines such as 'option: value', indented; or leave it out",
    "": "FILE: found no option, expected lines such as 'option: value'; correct it",
    "[a, b]": "FILE: found ['a', 'b'], expected lines such as 'option: value'; correct it",
    "model": "FILE: found 'model', expected lines such as 'option: value'; correct it",
    "fit: {model: {lr: 0.1}}": "FILE: fit: found options below the verb, which is given on the command line: take the "
    "line out, and the indentation of those below it",
    # YAML would drop the first
    "model: {lr: 0.1}\ntrainer: {devices: 1}\nmodel: {alpha: 2}": "FILE: cannot be read (found the key 'model' a "
    "second time in line 3), expected a configuration as YAML; mend it",
    "model: {lr: 0.1, alpha: 1, lr: 0.2}": "FILE: cannot be read (found the key 'lr' a second time in line 1), "
    "expected a configuration as YAML; mend it",
    # of one seed
    "model: {seed: 3}": "FILE: model: found a seed of its own, expected one for all: use seed_everything",
    "data: {class_path: ShapesDataModule, init_args: {seed: 3}}": "FILE: data: found a seed of its own, expected one "
    "for all: use seed_everything",
    "seed_everything: null": "seed_everything: found null, expected a whole number from 0 to 4294967295",
    "seed_everything: true": "seed_everything: found true, expected a whole number from 0 to 4294967295",
    "seed_everything: -1": "seed_everything: found -1, expected a whole number from 0 to 4294967295",
    "seed_everything: 4294967296": "seed_everything: found 4294967296, expected a whole number from 0 to 4294967295",
    # of values that are left out
    "model: {backbone: }": f"model.backbone: {NO_VALUE}",
    "model: {temperature: null}": f"model.temperature: {NO_VALUE}",
    "model: {encoding: null}": f"model.encoding: {NO_VALUE}",
    "data: {class_path: ShapesDataModule, init_args: {batch_size: }}": f"data.batch_size: {NO_VALUE}",
    "checkpoint: {every: null}": f"checkpoint.every: {NO_VALUE}",
    "data: [a]": "--data: found \"['a']\", expected one of COCOStuffDataModule, FolderDataModule, "
    "PascalContextDataModule, ShapesDataModule, VOCDataModule; or give the path of one of your own, as in "
    "package.module.Class",
    "data: {class_path: ShapesDataModule, init_args: [1]}": "--data.init_args: found no options, expected lines such "
    "as 'option: value'",
    "ckpt_path: ''": "--ckpt_path: found '', expected the path of a .ckpt file, or last",
    "ckpt_path: 5": "--ckpt_path: found '5', expected text",
    "trainer: {max_steps: null}": f"trainer.max_steps: {NO_VALUE}",
    "trainr: {}": "--config: found 'trainr', which is no option here; did you mean 'trainer'?",
    "1: 2": "FILE: found 1 as the name of an option, expected text; correct it",
    "verbose: true": "--verbose: is no option here; --help lists those that are",  # it is one of validate
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
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "Seed set to" not in line]
    assert line == f"error: {FILES[content].replace('FILE', str(path))}"


def test_options_without_a_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("data: {root: x}")
    with pytest.raises(SystemExit):
        main(["fit", "--config", str(tmp_path / "own.yaml")])
    assert capsys.readouterr().err == (
        "error: --data: found options without a class, expected class_path: FolderDataModule, or another class, with "
        "the options below init_args\n"
    )


PARTS = {
    "--config": ("model: null", "--config: model: found no line below it"),
    "--config=": ("model: {seed: 3}", "--config: model: found a seed of its own"),
    "--model": ("seed: 3", "FILE: model: found a seed of its own"),
    "--model=": ("lr: 1\nlr: 2", "FILE: cannot be read (found the key 'lr' a second time in line 2)"),
    "--model {": ("{seed: 3}", "--model: model: found a seed of its own"),
    "--config {": ('{"model":{"seed":3}}', "--config: model: found a seed of its own"),
    "--trainer": ("devices: 1\ndevices: 2", "FILE: cannot be read (found the key 'devices' a second time in line 2)"),
    "--data": ("class_path: ShapesDataModule\ninit_args: {seed: 3}", "FILE: data: found a seed of its own"),
}


@pytest.mark.parametrize("option", PARTS)
def test_parts_of_a_configuration_too(option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """YAML on the command line, and files of one section."""
    content, message = PARTS[option]
    (tmp_path / "part.yaml").write_text(content)
    value = content if "--config" in option or "{" in option else str(tmp_path / "part.yaml")
    option = option.removesuffix(" {")
    given = [option + value] if option.endswith("=") else [option, value]
    assert main(["fit", "--config", "experiments/quickstart.yaml", *given]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {message.replace('FILE', str(tmp_path / 'part.yaml'))}")


def test_includes_of_yaml_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "own.yaml").write_text("data: {class_path: ShapesDataModule, init_args: {train_size: -1}}")
    assert main(["fit", "--config", f"include: {tmp_path / 'own.yaml'}"]) == 1
    assert "error: train size: found -1, expected at least 1 scene" in capsys.readouterr().err
    assert main(["fit", "--config", ""]) == 1
    assert capsys.readouterr().err == "error: --config: found '', expected a YAML file; give its path\n"


def test_a_file_before_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lightning takes one with the verb's options below its name, and another file's would be unknown."""
    path = tmp_path / "own.yaml"
    path.write_text("fit: {model: {lr: 0.123}, data: {class_path: ShapesDataModule, init_args: {train_size: -1}}}")
    assert main(["--config", str(path), "fit"]) == 1
    assert "error: train size: found -1, expected at least 1 scene" in capsys.readouterr().err
    assert main(["--config", "experiments/quickstart.yaml", "fit"]) == 1
    expected = "error: experiments/quickstart.yaml: data: found in a file before the verb; put --config behind the verb"
    assert capsys.readouterr().err.splitlines() == [expected]


@pytest.mark.parametrize("option", ["--model.seed", "--data.seed", "--data.init_args.seed"])
@pytest.mark.parametrize("joined", [True, False])
def test_there_is_one_seed(option: str, joined: bool, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"{option}=3"] if joined else [option, "3"]
    assert main(["fit", "--config", "experiments/quickstart.yaml", *given]) == 1
    expected = f"error: {option}: found a seed of its own, expected one for all: use --seed_everything\n"
    assert capsys.readouterr().err == expected


def test_a_merge_is_no_key_twice(tmp_path: Path) -> None:
    (tmp_path / "own.yaml").write_text(
        "a: &a {x: 1}\nb: {<<: *a, <<: {z: 4}, y: 2}\nc: {<<: *a, x: 3}\n1: one\n'1': text\n"
    )
    found = read_yaml(tmp_path / "own.yaml", "YAML")
    assert found == {"a": {"x": 1}, "b": {"x": 1, "z": 4, "y": 2}, "c": {"x": 3}, 1: "one", "1": "text"}


VERBS = {
    "": "found no verb, expected one of fit, validate, test, predict, data, demo, embed, export, extend, import, "
    "new, remove, rename, results",
    "fit --config no.yaml": f"--config: {Path.cwd() / 'no.yaml'} is not there, expected a YAML file; correct the path",
    "extend": "--ckpt_path, --classes, --output: found none, expected a value; see sign-zs3 extend --help",
    "export --ckpt_path x --output y --format onx": "--format: found 'onx', expected one of onnx, torch, pretrained; "
    "did you mean 'onnx'?",
    "results": "RUNS: found none, expected a value; see sign-zs3 results --help",
    "results a --panels x": "--panels: found 'x', expected a whole number; see sign-zs3 results --help",
    "demo --prt 80": "--prt: is no option here; did you mean '--port'?",
    "predict --data.images . --ckpt_path": "--ckpt_path: found none, expected a value; see sign-zs3 predict --help",
    "predict imgs --ckpt_path x": "--images/--data.images: found none, expected a value; see sign-zs3 predict --help",
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
    others = {"data.datamodules", "data.init_args", "data.class_path", "data.help", "trainer.global_step"}
    others |= {"model.safetensors", "model.onnx"}
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


def test_a_name_longer_than_a_files_may_be(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["extend", "--ckpt_path", "a" * 300, "--classes", "cow", "--output", "b.ckpt"]) == 1
    expected = f"error: {'a' * 100}...: found a name longer than a file's may be; correct the path"
    assert capsys.readouterr().err.splitlines() == [expected]


def test_what_is_not_understood_stays_one_line() -> None:
    assert explain('Parser key "data":\n Not a valid subclass of X').startswith("--data: found '', expected one of ")
    assert explain("something\n  else   happened") == "something else happened"
