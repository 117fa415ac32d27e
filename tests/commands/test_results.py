"""The verb results: tables that read back, pictures, panels from checkpoints, and refusals in one line."""

from __future__ import annotations

import csv
import json
import math
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tests.conftest import TINY
from tests.opens import LINUX, counted
from tests.reports.test_table import PROTOCOL, write_run

from sign_zs3.cli import main
from sign_zs3.commands.results import draw_figures
from sign_zs3.reports.formats import _escape, as_latex
from sign_zs3.reports.runs import collect, read_losses
from sign_zs3.reports.table import tabulate

DATA = {"train_size": 12, "val_size": 4, "test_size": 4, "scene_size": 32, "batch_size": 2, "eval_batch_size": 2}


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder above two runs of one row, annealed, and one of another."""
    root = tmp_path_factory.mktemp("fitted")
    content = {
        "trainer": {"accelerator": "cpu", "default_root_dir": str(root / "runs"), "log_every_n_steps": 1},
        "data": {"class_path": "ShapesDataModule", "init_args": DATA},
        "model": TINY,
    }
    (root / "tiny.yaml").write_text(yaml.safe_dump(content))
    fit = ["fit", "--config", str(root / "tiny.yaml")]
    assert main([*fit, "--seed_everything", "0"]) == 0
    assert main([*fit, "--seed_everything", "1"]) == 0
    assert main([*fit, "--seed_everything", "0", "--model.self_training", "top_fraction"]) == 0
    return root / "runs"


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run what must be refused; return the one line of the error."""
    assert main(["results", *arguments]) == 1
    out, err = capsys.readouterr()
    assert "Traceback" not in out + err
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    assert err.strip().splitlines()[-1:] == lines
    return lines[0]


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as lines:
        return list(csv.DictReader(lines))


def picture(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        return image.size


def test_tables_of_runs_and_their_pictures(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (fitted / "version_9" / "checkpoints").mkdir(parents=True, exist_ok=True)
    config = (fitted / "version_0" / "config.yaml").read_text().replace("seed_everything: 0", "seed_everything: 9")
    (fitted / "version_9" / "config.yaml").write_text(config)
    output = tmp_path / "made" / "results"
    capsys.readouterr()
    assert main(["results", str(fitted), "--output", str(output), "--panels", "3"]) == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == [
        "bars.png", "curves.png", "panels.png", "per_class.png", "runs.csv", "table.csv", "table.md", "table.tex",
    ]  # fmt: skip
    found = [json.loads((fitted / f"version_{n}" / "results.json").read_text()) for n in range(3)]

    top, annealed = read_csv(output / "table.csv")
    assert (top["method"], annealed["method"]) == ("SIGN + ST", "SIGN + AST")
    assert (top["seeds"], annealed["seeds"], annealed["unfinished"]) == ("1", "2", "1")
    for name in ("seen", "unseen", "harmonic"):
        values = [content["test"][f"{name}_miou"] for content in found]
        assert float(annealed[f"{name}_mean"]) == pytest.approx(statistics.mean(values[:2]), abs=1e-12)
        assert float(annealed[f"{name}_sd"]) == pytest.approx(statistics.stdev(values[:2]), abs=1e-12)
        assert float(top[f"{name}_mean"]) == values[2]
        assert top[f"{name}_sd"] == top[f"paper_{name}"] == ""

    runs = read_csv(output / "runs.csv")
    assert [(run["method"], run["seed"], run["phase"]) for run in runs] == [
        ("SIGN + ST", "0", "self_training"), ("SIGN + AST", "0", "self_training"), ("SIGN + AST", "1", "self_training"),
    ]  # fmt: skip
    assert [float(run["seen"]) for run in runs] == [found[n]["test"]["seen_miou"] for n in (2, 0, 1)]
    assert [float(run["unseen_share"]) for run in runs] == [found[n]["unseen_share"] for n in (2, 0, 1)]
    assert all(Path(run["path"]).is_file() for run in runs)

    table = (output / "table.md").read_text()
    assert "| SIGN + AST | 2 (unfinished: seed 9) | " in table
    for text in ("shapes, split default", "SIGN + AST", "panels.png"):
        assert text in out.replace("\n", "")
    for name in ("bars", "per_class", "curves", "panels"):
        assert min(picture(output / f"{name}.png")) > 300

    # the same once more, over what is there
    before = (output / "table.tex").read_bytes()
    assert main(["results", str(fitted), "--output", str(output)]) == 0
    assert (output / "table.tex").read_bytes() == before
    # beside it, the scores of an earlier phase
    assert main(["results", str(fitted), "--output", str(output), "--phase", "train"]) == 0
    top, annealed = read_csv(output / "table-train.csv")
    assert float(top["seen_mean"]) == found[2]["phases"]["train"]["seen_miou"]
    assert "after phase train" in (output / "table-train.md").read_text()


def test_panels_show_what_the_checkpoints_predict(
    fitted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sign_zs3 import ShapesDataModule, SIGNModule
    from sign_zs3.data.examples import choose_examples
    from sign_zs3.drawing import panels

    shown: dict[str, Any] = {}
    draw = panels.comparison_panel

    def spy(images: Any, truths: Any, predictions: Any, *rest: Any) -> Any:
        shown.update(images=images, truths=truths, predictions=predictions)
        return draw(images, truths, predictions, *rest)

    monkeypatch.setattr(panels, "comparison_panel", spy)
    runs = [str(fitted / f"version_{n}") for n in (2, 1)]
    arguments = ["--output", str(tmp_path), "--panels", "2", "--phase", "transfer"]
    assert main(["results", *runs, *arguments]) == 0
    data = ShapesDataModule(**DATA)  # type: ignore[arg-type]
    data.setup("test")
    assert data.test_set is not None
    chosen = choose_examples(data.test_set, 2)
    assert list(shown["predictions"]) == ["SIGN + ST", "SIGN + AST"]
    for number, (folder, labels) in enumerate(zip(runs, shown["predictions"].values(), strict=True)):
        model = SIGNModule.load_from_checkpoint(Path(folder, "checkpoints", "transfer.ckpt")).eval()
        for index, image, truth, predicted in zip(chosen, shown["images"], shown["truths"], labels, strict=True):
            sample = data.test_set[index]
            assert torch.equal(image, sample["image"])
            assert torch.equal(truth, sample["mask"])
            assert torch.equal(predicted, model.segmenter.predict(sample["image"], **model.evaluation_options)), number
    assert (tmp_path / "panels-transfer.png").is_file()


@pytest.mark.skipif(not LINUX, reason="openings are counted by Linux")
def test_panels_open_each_checkpoint_once(fitted: Path, tmp_path: Path) -> None:
    run = fitted / "version_0"
    with counted(run / "checkpoints" / "transfer.ckpt") as opened:
        assert main(["results", str(run), "--output", str(tmp_path), "--panels", "1", "--phase", "transfer"]) == 0
    assert opened.count == 1


def test_panels_need_checkpoints(fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                 caplog: pytest.LogCaptureFixture) -> None:  # fmt: skip
    write_run(tmp_path / "bare")
    output = str(tmp_path / "out")
    assert "found no run with checkpoints/ and" in refused(capsys, str(tmp_path / "bare"), "--output", output,
                                                           "--panels", "1")  # fmt: skip
    assert (tmp_path / "out" / "table.md").is_file()
    assert caplog.records[-1].message.endswith("self_training.ckpt is not there; SIGN + AST is left out")
    assert "--panels: found 0, expected at least 1" in refused(capsys, str(fitted), "--panels", "0")
    for seed in (0, 1):
        protocol = PROTOCOL.development(1)
        write_run(tmp_path / "development" / str(seed), seed, protocol=protocol)
    assert "on validation images" in refused(capsys, str(tmp_path / "development"), "--panels", "1")


def test_a_checkpoint_that_names_something_else_builds_nothing(
    fitted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("config.yaml", "results.json"):
        (run / name).write_bytes((fitted / "version_0" / name).read_bytes())
    checkpoint = torch.load(fitted / "version_0" / "checkpoints" / "self_training.ckpt", weights_only=True)
    checkpoint["sign_zs3"]["method"] = "VOCDataModule"
    torch.save(checkpoint, run / "checkpoints" / "self_training.ckpt")
    line = refused(capsys, str(run), "--output", str(tmp_path / "out"), "--panels", "1")
    assert "self_training.ckpt: found the method VOCData, expected one of SPNet" in line


def test_losses_are_read_without_what_lightning_repeats(fitted: Path, capsys: pytest.CaptureFixture[str]) -> None:
    losses = read_losses(collect([fitted / "version_0"])[0])
    # 3 + 2 + 3 + 3 iterations, each logged; G trains with E in the first phase, alone in the second
    there = {name: [int(i) for i, value in points if not math.isnan(value)] for name, points in losses.items()}
    train, generator, transfer, last = [1, 2, 3], [4, 5], [6, 7, 8], [9, 10, 11]
    assert there["loss_seg"] == train + transfer + last
    assert there["loss_synthetic"] == transfer
    assert there["loss_pseudo"] == last
    assert there["loss_mmd"] == train + generator + last


def test_the_latex_table_reads_back(tmp_path: Path) -> None:
    for seed in range(2):
        write_run(tmp_path / f"a{seed}", seed, layout="50 % & $_{}#^~")
        write_run(tmp_path / f"b{seed}", seed, layout="plain")
    rows = tabulate(collect([tmp_path]))
    text = as_latex(rows)
    lines = [line for line in text.splitlines() if not line.startswith(("%", "\\"))]
    assert text.count(r"\begin{tabular}{llrrr}") == text.count(r"\end{tabular}") == text.count(r"\toprule") == 1
    cells = [re.split(r"(?<!\\) & ", line.removesuffix(r" \\")) for line in lines]
    assert [len(line) for line in cells] == [5, 5, 5]
    assert cells[0] == ["method", "seeds", "seen", "unseen", "harmonic"]
    for row, line in zip(rows, cells[1:], strict=True):
        assert line[0] == _escape(row.label)
        for name, cell in zip(("seen", "unseen", "harmonic"), line[2:5], strict=True):
            mean = row.scores[name]
            assert mean is not None
            numbers = [float(number) for number in re.findall(r"\d+\.\d+", cell)]
            assert numbers == [round(100 * mean.mean, 2), round(100 * (mean.sd or 0), 2)]
            best = max(rows, key=lambda other: other.scores[name].mean)  # type: ignore[union-attr]
            assert cell.startswith(r"\textbf{") == (row is best)
    assert r"layout 50 \% \& \$\_\{\}\#\textasciicircum{}\textasciitilde{}" in text


def test_markdown_marks_the_best_of_each_column_and_has_the_papers_numbers(tmp_path: Path) -> None:
    for temperature in (2, 1, 10):
        write_run(tmp_path / str(temperature), temperature=temperature, layout="a|b")
    runs, output = str(tmp_path), tmp_path / "out"
    assert main(["results", runs, "--output", str(output)]) == 0
    lines = [line for line in (output / "table.md").read_text().splitlines() if line.startswith("| SIGN")]
    table = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert [line[0] for line in table] == ["SIGN + AST, T = 1", "SIGN + AST, T = 2", "SIGN + AST, T = 10"]
    assert [line[5] for line in table] == ["", "83.49 / 41.29 / 55.26", ""]
    for column in (2, 3, 4):
        bold = [line[column] for line in table if line[column].startswith("**")]
        assert len(bold) == 1
        assert float(bold[0].strip("*")) == max(float(line[column].strip("*")) for line in table)
    paper = [
        [row[f"paper_{name}"] for name in ("seen", "unseen", "harmonic")] for row in read_csv(output / "table.csv")
    ]
    assert paper == [[""] * 3, ["0.8349", "0.4129", "0.5526"], [""] * 3]


def test_the_temperature_has_a_picture_where_rows_differ_in_it(tmp_path: Path) -> None:
    from matplotlib.container import ErrorbarContainer

    for temperature in (10, 0.5, 2):
        for seed in (0, 1):
            write_run(tmp_path / "runs" / f"{temperature}-{seed}", seed, temperature=temperature)
    write_run(tmp_path / "runs" / "st", self_training="top_fraction")
    assert main(["results", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert min(picture(tmp_path / "out" / "temperature.png")) > 300
    rows = tabulate(collect([tmp_path / "runs"]))
    axes = draw_figures(rows, "")["temperature"].axes[0]
    (container,) = axes.containers
    assert isinstance(container, ErrorbarContainer)
    line = container.lines[0]
    legend = axes.get_legend()
    assert line is not None and legend is not None
    assert np.asarray(line.get_xdata()).tolist() == [0.5, 2, 10]
    expected = [100 * row.scores["harmonic"].mean for row in rows if row.options]  # type: ignore[union-attr]
    assert np.asarray(line.get_ydata()).tolist() == pytest.approx(expected)
    assert axes.get_xscale() == "log"
    assert [text.get_text() for text in legend.get_texts()] == ["SIGN + ST", "SIGN + AST"]
    assert "temperature" not in draw_figures([row for row in rows if row.options.get("temperature") != "2"][:2], "")


def test_development_runs_are_named_so_and_have_no_picture_per_class(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in (0, 1):
        protocol = PROTOCOL.development(1, seed)
        content = write_run(tmp_path / "runs" / str(seed), seed, protocol=protocol)
        content["test"]["per_class"] = dict.fromkeys((f"class {seed}", "other"), 0.5)
        (tmp_path / "runs" / str(seed) / "results.json").write_text(json.dumps(content))
    assert main(["results", str(tmp_path / "runs"), "--output", str(tmp_path / "out")]) == 0
    assert "voc, split default-development1 (scores of validation images)" in capsys.readouterr().out
    assert (tmp_path / "out" / "bars.png").is_file()
    assert not (tmp_path / "out" / "per_class.png").exists()


def test_refusals_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    empty, broken, newer = tmp_path / "empty", tmp_path / "broken", tmp_path / "newer"
    for folder, text in ((broken, "{"), (newer, '{"format": 2}')):
        folder.mkdir()
        (folder / "results.json").write_text(text)
    empty.mkdir()
    assert f"{empty}: found no results.json, expected one at least" in refused(capsys, str(empty))
    assert f"{tmp_path / 'gone'}: is not there" in refused(capsys, str(tmp_path / "gone"))
    assert f"{broken / 'results.json'}: cannot be read" in refused(capsys, str(broken))
    assert "found format 2, this version reads 1: install the newer sign-zs3" in refused(capsys, str(newer))
    write_run(tmp_path / "good")
    file = tmp_path / "good" / "results.json"
    assert "--output: found the file" in refused(capsys, str(file), "--output", str(file))
    (tmp_path / "good" / "config.yaml").write_text("model: [")
    assert "config.yaml: cannot be read" in refused(capsys, str(file))
    (tmp_path / "good" / "config.yaml").unlink()
    (tmp_path / "good" / "metrics.csv").write_text("step,train/loss_seg\n1,much\n")
    line = refused(capsys, str(file), "--output", str(tmp_path / "out"))
    assert "metrics.csv: cannot be read (could not convert string to float: 'much')" in line
    (tmp_path / "good" / "metrics.csv").unlink()
    write_run(tmp_path / "twice")
    assert "with seed 0 again, as in" in refused(capsys, str(file), str(tmp_path / "twice"))


def test_the_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from sign_zs3.cli import main\n"
        "try:\n    main(['results', '--help'])\n"
        "finally:\n    assert not {'torch', 'matplotlib', 'numpy', 'rich'} & set(sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "--panels N" in shown.stdout
