"""What has no label in the test images has no score."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import GZSLMeanIoU
from sign_zs3.cli import main
from sign_zs3.reports.run import as_results, print_table
from sign_zs3.reports.runs import collect
from sign_zs3.reports.table import tabulate
from tests.inputs.conftest import Folder

CLASSES = ["a", "b", "c"]


def scores(target: list[int], prediction: list[int]) -> dict[str, Any]:
    metric = GZSLMeanIoU(CLASSES, seen=[0, 1], unseen=[2])
    metric.update(torch.tensor([[prediction]]), torch.tensor([[target]]))
    return metric.compute()


@pytest.mark.parametrize(("target", "missing"), [([0, 1, 1], "unseen"), ([2, 2, 2], "seen")])
@pytest.mark.parametrize("prediction", [[0, 1, 1], [2, 2, 2], [0, 2, 1]])
def test_a_side_without_labels_has_no_score(target: list[int], missing: str, prediction: list[int]) -> None:
    found = scores(target, prediction)
    for name in ("miou", "pixel_accuracy", "mean_accuracy", "frequency_weighted_iou"):
        assert math.isnan(found[f"{missing}_{name}"]) and math.isnan(found[f"harmonic_{name}"])
        assert not math.isnan(found["seen_" + name if missing == "unseen" else "unseen_" + name])


def test_a_table_has_one_denominator(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    """Class b has no label: it is out of the means before it is predicted, and after."""
    before, after = scores([0, 0, 2], [0, 0, 2]), scores([0, 0, 2], [0, 1, 2])
    assert before["seen_miou"] == 1 and after["seen_miou"] == 0.5
    protocol = folder.data().protocol
    named = {name: {**found, "per_class": dict.fromkeys(protocol.classes, 0.5)} for name, found in
             (("train", before), ("transfer", after))}  # fmt: skip
    named["transfer"]["per_class"]["grass"] = math.nan
    print_table(protocol, named)
    assert "-: no test pixel has this label; the means leave these classes out." in capsys.readouterr().out


def write(path: Path, protocol: Any, seed: int, found: dict[str, Any], method: str = "SIGN") -> None:
    path.parent.mkdir(parents=True)
    results = as_results(
        protocol, method, seed, {"transfer": {**found, "per_class": dict.fromkeys(protocol.classes, 0.5)}}
    )
    path.write_text(json.dumps(results, allow_nan=False))


def test_results_hold_null_and_no_table_ranks_it(folder: Folder, tmp_path: Path) -> None:
    protocol = folder.data().protocol
    write(tmp_path / "one" / "results.json", protocol, 0, scores([0, 1], [0, 1]))
    write(tmp_path / "two" / "results.json", protocol, 0, scores([0, 1, 2], [0, 1, 0]), "SPNet")
    stored = json.loads((tmp_path / "one" / "results.json").read_text())["test"]
    assert stored["unseen_miou"] is None and stored["harmonic_miou"] is None and stored["seen_miou"] == 1
    assert main(["results", str(tmp_path), "--output", str(tmp_path / "table")]) == 0
    text = (tmp_path / "table" / "table.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| SIGN"))
    assert line.replace("**", "") == "| SIGN, after transfer | 1 | 100.00 | – | – |" or line.count("–") == 2


def test_the_zero_of_older_files_is_none(folder: Folder, tmp_path: Path) -> None:
    protocol = folder.data().protocol
    write(tmp_path / "one" / "results.json", protocol, 0, scores([0, 1], [0, 1]))
    path = tmp_path / "one" / "results.json"
    content = json.loads(path.read_text())
    for part in (content["test"], content["phases"]["transfer"]):
        part["harmonic_miou"] = 0.0
    path.write_text(json.dumps(content))
    (row,) = tabulate(collect([path]))
    assert row.scores["harmonic"] is None and row.scores["unseen"] is None


def test_a_run_without_unseen_test_pixels(folder: Folder, tmp_path: Path) -> None:
    """As a whole: a seen class takes the place of the unseen one in each test mask."""
    import numpy as np
    from PIL import Image

    dataset = folder.data().make_dataset("test", hide_unseen=False, augment=False)
    for index in range(len(dataset)):
        path = folder.mask(int(dataset.name(index)))
        ids = np.asarray(Image.open(path))
        Image.fromarray(np.where(ids == 4, np.uint8(1), ids)).save(path)
    arguments = ["fit", "--config", "experiments/quickstart.yaml", "--data", "FolderDataModule", "--data.root"]
    arguments += [str(folder.root), "--data.unseen", "[horse]", "--data.crop_size", "32", "--data.warp_size", "32"]
    arguments += ["--data.batch_size", "4", "--data.num_workers", "0", "--data.eval_batch_size", "1"]
    arguments += [f"--model.{phase}_iterations=2" for phase in ("train", "generator", "transfer", "self_training")]
    assert main([*arguments, "--trainer.default_root_dir", str(tmp_path / "runs")]) == 0
    (path,) = (tmp_path / "runs").rglob("results.json")
    results = json.loads(path.read_text())
    for found in (results["test"], *results["phases"].values()):
        assert found["unseen_miou"] is None and found["harmonic_miou"] is None and found["seen_miou"] is not None
        assert found["per_class"]["horse"] is None
