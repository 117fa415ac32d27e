"""What is read before the options: the method, and files that include files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from sign_zs3 import SIGNModule, UserError, load_recipe
from sign_zs3.cli import main
from sign_zs3.commands.training import ZeroShotCLI
from sign_zs3.tasks import METHODS

DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}
# Options that every method has.
COMMON: dict[str, Any] = {"backbone": "small", "dilations": [1, 2], "train_iterations": 3, "self_training": "none"}


def write(path: Path, **content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture(autouse=True)
def as_main_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write(
        tmp_path / "tiny.yaml",
        trainer={"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu"},
        data={"class_path": "ShapesDataModule", "init_args": DATA},
        model=COMMON,
    )


def parsed(*args: str | Path) -> ZeroShotCLI:
    return ZeroShotCLI([str(arg) for arg in args], run=False)


def error(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    """The one line that a wrong command gets."""
    capsys.readouterr()
    assert main([str(arg) for arg in args]) == 1
    lines = capsys.readouterr().err.strip().splitlines()
    assert lines[-1].startswith("error: ")
    assert "Traceback" not in "\n".join(lines)
    return lines[-1].removeprefix("error: ")


# -- include -------------------------------------------------------------------------------------------------------


def test_a_file_comes_over_those_that_it_includes_key_by_key(tmp_path: Path) -> None:
    write(tmp_path / "parts" / "data.yaml", class_path="ShapesDataModule", init_args=DATA)
    write(
        tmp_path / "parts" / "base.yaml",
        trainer={"accelerator": "cpu", "log_every_n_steps": 7},
        data="data.yaml",  # relative to the file that says so, wherever that is included
        model={**COMMON, "dilations": [1, 2, 3], "lr": 0.5, "temperature": 3.0},
    )
    write(tmp_path / "parts" / "middle.yaml", include="base.yaml", model={"lr": 0.25, "alpha": 4.0})
    top = write(
        tmp_path / "table" / "row.yaml",
        include="../parts/middle.yaml",
        trainer={"log_every_n_steps": 9},
        data={"init_args": {"batch_size": 3}},
        model={"alpha": 5.0, "dilations": [1]},
    )
    for args in (["--config", top], [f"--config={top}"], ["-c", top], [f"-c{top}"]):
        cli = parsed(*args)
        model, data = cli.config["model"], cli.config["data"]["init_args"]
        assert (model["alpha"], model["lr"], model["temperature"]) == (5.0, 0.25, 3.0)
        assert model["dilations"] == [1]
        assert (cli.trainer.log_every_n_steps, cli.config["trainer"]["accelerator"]) == (9, "cpu")  # type: ignore[attr-defined]
        assert (data["batch_size"], data["train_size"]) == (3, 12)
        assert "include" not in cli.config
    # what follows on the command line comes over all files
    assert parsed("--config", top, "--model.lr", "0.125").config["model"]["lr"] == 0.125


def test_a_file_that_two_include_is_read_once_and_first(config: Path, tmp_path: Path) -> None:
    base = write(tmp_path / "base.yaml", include=config.name, model={"lr": 0.5, "alpha": 3.0, "beta": 3.0})
    one = write(tmp_path / "one.yaml", include=base.name, model={"lr": 0.25, "alpha": 4.0})
    other = write(tmp_path / "other.yaml", include=base.name, model={"alpha": 5.0})
    model = parsed("--config", write(tmp_path / "top.yaml", include=[one.name, other.name])).config["model"]
    assert (model["lr"], model["alpha"], model["beta"]) == (0.25, 5.0, 3.0)


def test_bad_includes_get_one_line(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lost = write(tmp_path / "lost.yaml", include="parts/nowhere.yaml")
    assert f"{lost}: include: {tmp_path / 'parts' / 'nowhere.yaml'} is not there" in error(
        capsys, "fit", "--config", lost
    )
    first = write(tmp_path / "first.yaml", include="second.yaml")
    second = write(tmp_path / "second.yaml", include="first.yaml")
    assert f"found a circle, {first} -> {second} -> {first}" in error(capsys, "fit", "--config", first)
    linked = tmp_path / "link.yaml"
    linked.symlink_to("own.yaml")
    assert "found a circle" in error(capsys, "fit", "--config", write(tmp_path / "own.yaml", include=linked.name))
    assert "include: found 3, expected the path" in error(
        capsys, "fit", "--config", write(tmp_path / "number.yaml", include=3)
    )
    assert "--include: found on the command line" in error(capsys, "fit", "--config", config, "--include", "x.yaml")


# -- method --------------------------------------------------------------------------------------------------------


def test_the_command_line_beats_the_files_and_the_last_file_the_first(config: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.yaml", include=config.name, method="ZS3")
    two = write(tmp_path / "two.yaml", include=one.name, method="CaGNet")
    cases: dict[str, list[str | Path]] = {
        "SIGN": ["--config", config],
        "ZS3": ["--config", one],
        "CaGNet": ["--config", two],
        "SPNet": ["--config", two, "--method", "SPNet"],
    }
    for expected, args in cases.items():
        for given in (args, args[2:] + args[:2]):
            cli = parsed(*given)
            assert type(cli.model) is METHODS[expected]
            assert cli.config["method"] == expected
    assert type(parsed("--config", two, "--config", one).model) is METHODS["ZS3"]
    # a later file that leaves it open changes nothing
    assert type(parsed("--config", one, "--config", config).model) is METHODS["ZS3"]
    assert type(parsed("--config", one, "--method=CaGNet").model) is METHODS["CaGNet"]


def test_unknown_methods_get_one_line_with_the_choices(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for args in (["--method", "DeepLab"], ["--config", write(tmp_path / "odd.yaml", method="DeepLab")]):
        assert error(capsys, "fit", "--config", config, *args) == (
            "method: found 'DeepLab', expected one of SPNet, ZS3, CaGNet, SIGN"
        )
    nested = write(tmp_path / "nested.yaml", fit={"method": "ZS3"})
    assert "method: found ZS3 where it comes too late" in error(capsys, "--config", nested, "fit", "--config", config)


def test_a_recipe_is_read_with_what_it_includes(tmp_path: Path) -> None:
    shared = write(tmp_path / "shared.yaml", model={"lr": 0.1, "scales": [1, 2]}, seed_everything=3)
    own = write(tmp_path / "own.yaml", include=shared.name, method="ZS3", model={"scales": [1]}, data=None)
    expected = {"model": {"lr": 0.1, "scales": [1]}, "seed_everything": 3, "method": "ZS3", "data": None}
    with pytest.raises(UserError, match="data"):
        load_recipe(str(own))
    own.write_text(own.read_text().replace("data: null\n", ""))
    assert load_recipe(str(own)) == {key: value for key, value in expected.items() if key != "data"}
    with pytest.raises(UserError, match="did you mean 'quickstart'"):
        load_recipe("quickstrat")
    quickstart = load_recipe("quickstart")
    assert quickstart["data"]["class_path"] == "ShapesDataModule"
    assert SIGNModule(**quickstart["model"]).hparams["temperature"] == quickstart["model"]["temperature"]


def test_help_is_of_the_method(config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    zs3 = write(tmp_path / "zs3.yaml", include=config.name, method="ZS3")
    for method, args in {"SPNet": ["--method", "SPNet"], "ZS3": ["--config", str(zs3)], "SIGN": []}.items():
        with pytest.raises(SystemExit) as stopped:
            main(["fit", *args, "--help", "all"])
        assert stopped.value.code == 0
        shown[method] = capsys.readouterr().out
        assert "--method {SPNet,ZS3,CaGNet,SIGN}" in shown[method]
        assert f"those of {method}" in " ".join(shown[method].split())
        assert "--include" not in shown[method]
        for option in METHODS[method].defaults().keys() - {"seed", "protocol"}:
            assert f"--model.{option}" in shown[method]
    assert "--model.transfer_iterations" not in shown["SPNet"]


def test_a_run_of_a_method_repeats_resumes_and_tests(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = write(
        tmp_path / "row.yaml", include=config.name, method="ZS3", model={"transfer_iterations": 2, "feature_dim": 16}
    )
    assert main(["fit", "--config", str(row)]) == 0
    run = tmp_path / "runs" / "version_0"
    found = json.loads((run / "results.json").read_text())
    assert found["method"] == "ZS3"
    assert found["options"]["transfer_iterations"] == 2
    saved = yaml.safe_load((run / "config.yaml").read_text())
    assert saved["method"] == "ZS3"
    assert "include" not in saved

    # its own configuration repeats the run, its includes gone
    row.unlink()
    last = "checkpoints/last.ckpt"
    assert main(["fit", "--config", str(run / "config.yaml")]) == 0
    again = tmp_path / "runs" / "version_1"
    states = [torch.load(folder / last, weights_only=True)["state_dict"] for folder in (run, again)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert yaml.safe_load((again / "config.yaml").read_text()) == saved
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", "last"]) == 0  # nothing left to train

    # the checkpoint alone says whose it is
    test = ["test", "--config", str(config), "--ckpt_path", str(run / last)]
    assert main(test) == 0
    tested = json.loads((tmp_path / "runs" / "version_3" / "results.json").read_text())
    assert (tested["method"], tested["test"]) == ("ZS3", found["test"])
    # but not where another machine kept its features
    checkpoint = torch.load(run / last, weights_only=True)
    checkpoint["hyper_parameters"]["feature_cache"] = str(tmp_path / "elsewhere")
    torch.save(checkpoint, tmp_path / "moved.ckpt")
    assert main([*test[:-1], str(tmp_path / "moved.ckpt")]) == 0
    assert not (tmp_path / "elsewhere").exists()
    options = json.loads((tmp_path / "runs" / "version_4" / "results.json").read_text())["options"]
    assert (options["feature_cache"], options["feature_dim"]) == (None, 16)

    for args in (["--method", "SIGN"], ["--config", str(write(tmp_path / "sign.yaml", method="SIGN"))]):
        message = error(capsys, *test, *args)
        assert message.startswith(f"method: found SIGN, but the checkpoint {run / last} was trained with ZS3")


def test_other_verbs_take_the_same_files(config: Path, tmp_path: Path) -> None:
    row = write(tmp_path / "row.yaml", include=config.name, method="SPNet", model={"seen_penalty": 0.5})
    assert main(["data", "check", "--config", str(row), "--report", str(tmp_path / "report.json")]) == 0
    assert json.loads((tmp_path / "report.json").read_text())["dataset"] == "shapes"
    picture = tmp_path / "sheet.png"
    assert main(["data", "show", "--config", str(row), "--count", "2", "--output", str(picture)]) == 0
    assert picture.is_file()


# -- resuming --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", [True, False])
def test_a_run_on_kept_maps_is_resumed_on_kept_maps(config: Path, tmp_path: Path, given: bool) -> None:
    """With the same options, or with none: otherwise it would go on with other views of the images."""
    options = ["--config", config, "--method", "SPNet", "--model.freeze_encoder", "true"]
    cache = ["--model.feature_cache", tmp_path / "cache"]
    assert main([str(x) for x in ["fit", *options, *cache]]) == 0
    run = tmp_path / "runs" / "version_0"
    checkpoint = torch.load(run / "checkpoints" / "train.ckpt", weights_only=True)
    assert checkpoint["hyper_parameters"]["feature_cache"] == str(tmp_path / "cache")
    resumed = ["--ckpt_path", run / "checkpoints" / "train.ckpt", *(cache if given else [])]
    assert main([str(x) for x in ["fit", *options, *resumed]]) == 0
    again = yaml.safe_load((tmp_path / "runs" / "version_1" / "config.yaml").read_text())
    assert again["model"]["feature_cache"] == str(tmp_path / "cache")
    assert main([str(x) for x in ["test", *options, *resumed]]) == 0
