"""The notebooks run from start to end on tiny data, in a kernel of this interpreter; README's block runs, too."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from sign_zs3 import load_recipe
from sign_zs3.data.datasets.shapes import NAMES, draw_scene

nbformat = pytest.importorskip("nbformat", reason="notebooks need nbformat: pip install nbformat")
nbclient = pytest.importorskip("nbclient", reason="notebooks need nbclient: pip install nbclient")
pytest.importorskip("ipykernel", reason="notebooks need a kernel: pip install ipykernel")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LENGTHS = {"TRAIN_ITERATIONS": 2, "GENERATOR_ITERATIONS": 1, "TRANSFER_ITERATIONS": 1, "SELF_TRAINING_ITERATIONS": 1}
SIZES = {"TRAIN_SIZE": 16, "TEST_SIZE": 8}
TINY: dict[str, dict[str, Any]] = {
    "annealed_self_training": {**LENGTHS, **SIZES, "TEMPERATURES": [2.0]},
    "own_data": {"IMAGES": 20} | {name: length for name, length in LENGTHS.items() if name[0] != "S"},
    "quickstart": {**LENGTHS, **SIZES},
    "teach_a_class": {**LENGTHS, **SIZES, "TEST_SIZE": 24, "UNLABELLED": 4},
}
# a line of each table, with a number
SAID = {
    "annealed_self_training": r"T = 2\.0 +\d+\.\d +\d+\.\d +\d+\.\d",
    "own_data": r"no vector for 1 of 17 class names: .*lemondisc",
    "quickstart": r"harmonic mIoU",
    "teach_a_class": r"extend with data +\d+\.\d +\d+\.\d +\d+\.\d",
}


def parameters_of(notebook: Any) -> Any:
    return next(cell for cell in notebook.cells if cell.cell_type == "code")


def assigned(source: str) -> dict[str, Any]:
    """Read a cell that holds assignments of plain values and nothing else."""
    found = {}
    for statement in ast.parse(source).body:
        assert isinstance(statement, ast.Assign)
        (target,) = statement.targets
        assert isinstance(target, ast.Name)
        found[target.id] = ast.literal_eval(statement.value)
    return found


def test_every_notebook_has_its_test() -> None:
    assert {path.stem for path in NOTEBOOKS} == TINY.keys() == SAID.keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_are_stored_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert notebook.metadata.kernelspec.name == "python3"
    parameters = parameters_of(notebook)
    assert "parameters" in parameters.metadata.tags
    assert TINY[path.stem].keys() <= assigned(parameters.source).keys()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_comments_give_the_lengths_of_the_demo(path: Path) -> None:
    lengths = load_recipe("quickstart")["model"]
    source = parameters_of(nbformat.read(path, as_version=4)).source
    named = dict(re.findall(r"^(\w+)_ITERATIONS = \d+  # (\d+)\b", source, re.MULTILINE))
    assert {"TRAIN", "GENERATOR", "TRANSFER"} <= named.keys()
    for name, length in named.items():
        assert int(length) == lengths[f"{name.lower()}_iterations"]


def run(path: Path, parameters: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a notebook in an empty folder; return it with its outputs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # where the interpreter's own kernel is found, whatever others the user has
    monkeypatch.setenv("JUPYTER_PATH", str(Path(sys.prefix) / "share" / "jupyter"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("MPLCONFIGDIR", str(tmp_path / "matplotlib"))
    notebook = nbformat.read(path, as_version=4)
    cell = parameters_of(notebook)
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in parameters.items())
    resources = {"metadata": {"path": str(tmp_path)}}
    client = nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources)
    client.execute()
    return notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = run(path, TINY[path.stem], tmp_path, monkeypatch)
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not any(output.output_type == "error" for output in outputs)
    said = "".join(output.text for output in outputs if output.output_type == "stream")
    shown = [output.data for output in outputs if output.output_type == "display_data"]
    said += "".join(data.get("text/plain", "") for data in shown)
    assert "Traceback" not in said
    assert re.search(SAID[path.stem], said), said
    assert sum("image/png" in data for data in shown) >= 2


def test_a_folder_of_ones_own_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "data"
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for index in range(20):
        for name, content in zip(("images", "masks"), draw_scene(index, 0, size=64), strict=True):
            Image.fromarray(content).save(folder / name / f"{index}.png")
    lines = (f"{number}\t{'lemondisc' if name == 'yellow circle' else name}\n" for number, name in NAMES.items())
    (folder / "classes.txt").write_text("".join(lines), encoding="utf-8")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    (path,) = (path for path in NOTEBOOKS if path.stem == "own_data")
    notebook = run(path, {**TINY["own_data"], "DATA": str(folder)}, tmp_path, monkeypatch)
    last = notebook.cells[-1].outputs
    assert any("mean confidence" in output.get("text", "") for output in last)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_block_of_the_readme_prints_scores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = [
        re.findall(r"## In a notebook\n\n```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
        for page in ("README.md", "docs/start.md")
    ]
    assert blocks[0] == blocks[1]
    (block,) = blocks[0]
    lengths = {name.lower(): length for name, length in LENGTHS.items()}
    for whole, short in {
        "batch_size=8": "batch_size=8, train_size=16, test_size=8",
        'load_recipe("quickstart")["model"]': f'load_recipe("quickstart")["model"] | {lengths}',
    }.items():
        assert whole in block
        block = block.replace(whole, short)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(draw_scene(0, 0)[0]).save("image.jpg")
    names: dict[str, Any] = {}
    exec(block, names)
    assert names["labels"].shape == (64, 64)
    assert "test/harmonic_miou" in capsys.readouterr().out
