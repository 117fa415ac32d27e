"""Rows over seeds: means against the statistics module, labels, and what is refused."""

from __future__ import annotations

import copy
import json
import logging
import random
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from sign_zs3 import Protocol, UserError
from sign_zs3.files import write_json
from sign_zs3.reports.paper import ROWS, TABLE_1, TABLE_4, TABLES_2_AND_3, published
from sign_zs3.reports.run import as_results
from sign_zs3.reports.runs import collect
from sign_zs3.reports.table import Row, references, tabulate

PROTOCOL = Protocol("voc", "default", ("cat", "dog", "cow", "sofa"), (1, 2, 3, 4), 2)
OPTIONS: dict[str, Any] = {
    "seed": 0, "self_training": "annealed", "temperature": 2.0, "top_fraction": 0.75, "position": "relative",
    "init_from": None, "train_iterations": 10, "transfer_iterations": 5, "self_training_iterations": 5,
    "vectors": "bundled", "phases": None, "dilations": [6, 12],
}  # fmt: skip
NONE: dict[str, Any] = {"seen_miou": 0, "unseen_miou": 0, "harmonic_miou": None, "per_class": {}}


def scores(draw: random.Random) -> dict[str, Any]:
    seen, unseen = draw.uniform(0.5, 0.9), draw.uniform(0.1, 0.4)
    return {
        "seen_miou": seen,
        "unseen_miou": unseen,
        "harmonic_miou": 2 * seen * unseen / (seen + unseen),
        "per_class": {"cat": seen, "dog": seen, "cow": unseen, "sofa": float("nan")},
    }


def write_run(
    folder: Path, seed: int = 0, method: str = "SIGN", protocol: Protocol = PROTOCOL,
    phases: tuple[str, ...] = ("train", "transfer", "self_training"), known: bool = True, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Write the results of a run of random scores; return its content."""
    draw = random.Random(str(folder))
    content = as_results(
        protocol, method, seed, {phase: scores(draw) for phase in phases}, 0.5,
        OPTIONS | {"seed": seed} | options if known else None,
    )  # fmt: skip
    write_json(folder / "results.json", content)
    return content


def labels(rows: list[Row]) -> list[str]:
    return [row.label for row in rows]


def test_means_over_seeds_are_those_of_the_statistics_module(tmp_path: Path) -> None:
    written = [write_run(tmp_path / f"version_{seed}", seed) for seed in (2, 0, 1)]
    write_run(tmp_path / "single", 0, self_training="none", phases=("train", "transfer"))
    single, row = tabulate(collect([tmp_path]))
    assert (single.label, row.label) == ("SIGN", "SIGN + AST")
    for name, mean in row.scores.items():
        values = [content["test"][f"{name}_miou"] for content in written]
        assert mean is not None
        assert mean.mean == pytest.approx(statistics.mean(values), rel=1e-12)
        assert mean.sd == pytest.approx(statistics.stdev(values), rel=1e-9)
        assert single.scores[name] is not None
        assert single.scores[name].sd is None  # type: ignore[union-attr]
    assert [run.seed for run in row.runs] == [0, 1, 2]
    assert row.per_class["cow"] == pytest.approx(statistics.mean(c["test"]["per_class"]["cow"] for c in written))
    assert row.per_class["sofa"] is None
    assert row.paper == (83.49, 41.29, 55.26)
    assert row.runs[0].results["unseen"] == ["cow", "sofa"]


def test_a_phase_of_all_runs(tmp_path: Path) -> None:
    written = write_run(tmp_path / "sign")
    alone = write_run(tmp_path / "spnet", method="SPNet", phases=("train",), self_training="none")
    runs = collect([tmp_path])
    spnet, sign = tabulate(runs, "train")
    assert (spnet.label, sign.label) == ("SPNet", "SIGN + AST")
    assert spnet.scores["seen"] == (alone["test"]["seen_miou"], None)
    assert sign.scores["seen"] == (written["phases"]["train"]["seen_miou"], None)
    assert sign.paper is None
    spnet, sign = tabulate(runs, "transfer")
    assert (spnet.runs, spnet.scores["seen"]) == ((), None)
    assert sign.scores["harmonic"] == (written["phases"]["transfer"]["harmonic_miou"], None)
    with pytest.raises(UserError, match=r"phase: found 'generator'.* one of self_training, train, transfer;"):
        tabulate(runs, "generator")


def test_the_order_is_the_papers_then_by_label(tmp_path: Path) -> None:
    wanted = [*ROWS, "Another", "SIGN, after train"]
    for number, row in enumerate(reversed(wanted)):
        method, _, how = row.replace(",", " +").partition(" + ")
        kind = {"ST": "top_fraction", "AST": "annealed"}.get(how, "none")
        transferred = ("train",) if method == "SPNet" or "after" in row else ("train", "transfer")
        phases = transferred if kind == "none" else (*transferred, "self_training")
        write_run(tmp_path / str(number), method=method, phases=phases, self_training=kind)
    rows = tabulate(collect([tmp_path]))
    assert labels(rows) == wanted
    assert [row.paper for row in rows] == [*TABLE_1["voc"].values(), None, None]


def test_options_that_differ_join_the_label(tmp_path: Path) -> None:
    for seed in (0, 1):
        for number, temperature in enumerate((10, 2.0, 0.5)):
            write_run(tmp_path / f"T{number}-{seed}", seed, temperature=temperature, init_from=f"/a/{seed}.ckpt")
    # what self-training does not read tells nothing apart
    write_run(tmp_path / "ST", self_training="top_fraction", top_fraction=1.0)
    write_run(tmp_path / "ST1", 1, self_training="top_fraction", top_fraction=1, temperature=7)
    write_run(tmp_path / "none", phases=("train", "transfer"), position="absolute")
    write_run(tmp_path / "none1", 1, phases=("train", "transfer"), temperature=9, self_training="none")
    rows = tabulate(collect([tmp_path]))
    assert labels(rows) == [
        "SIGN, position absolute", "SIGN, position relative", "SIGN + ST",
        "SIGN + AST, T = 0.5", "SIGN + AST, T = 2", "SIGN + AST, T = 10",
    ]  # fmt: skip
    assert [len(row.runs) for row in rows] == [1, 1, 2, 2, 2, 2]
    assert rows[-1].options == {"temperature": "10"}
    assert [row.paper is not None for row in rows] == [True, True, True, False, True, False]
    assert rows[0].paper == TABLES_2_AND_3["position", "absolute"]


def test_options_of_lists_paths_and_data(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, dilations=[1, 2], vectors="/here/one.npz")
    write_run(tmp_path / "b", 1, dilations=[1.0, 2.0], vectors="/there/one.npz")
    write_run(tmp_path / "c", 2, dilations=[1, 3], vectors="two.npz")
    for name, pixels in (("a", "ignore"), ("b", "ignore"), ("c", "drop")):
        data = {"init_args": {"unseen_pixels": pixels, "root": f"/{name}", "seed": name, "num_workers": len(name)}}
        config = {"seed_everything": 5, "model": {"temperature": 99}, "data": data, "trainer": {"precision": None}}
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump(config))
    assert labels(tabulate(collect([tmp_path]))) == [
        "SIGN + AST, vectors one.npz, dilations [1, 2], data.unseen_pixels ignore",
        "SIGN + AST, vectors two.npz, dilations [1, 3], data.unseen_pixels drop",
    ]


def test_options_come_from_the_configuration_beside_where_results_have_none(tmp_path: Path) -> None:
    for seed, kind in ((0, "annealed"), (1, "top_fraction"), (2, None)):
        folder = tmp_path / str(seed)
        content = write_run(folder, seed, known=False)
        # as earlier versions wrote them
        write_json(folder / "results.json", {k: v for k, v in content.items() if k not in ("options", "unseen")})
        if kind:
            config = {"model": OPTIONS | {"self_training": kind}, "data": {}}
            (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert labels(tabulate(collect([tmp_path]))) == ["SIGN + ST", "SIGN + AST", "SIGN + self-training"]


def test_runs_whose_options_are_unknown_differ_in_none(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0, phases=("train", "transfer"), known=False)
    write_run(tmp_path / "b", 1, phases=("train", "transfer"))
    assert labels(tabulate(collect([tmp_path]))) == ["SIGN"]


def test_a_seed_is_never_counted_twice(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 3)
    (tmp_path / "link").symlink_to(tmp_path / "a")
    runs = collect([tmp_path, tmp_path / "a", tmp_path / "link", tmp_path / "a" / "results.json"])
    assert len(runs) == 1
    write_run(tmp_path / "b", 3)
    with pytest.raises(UserError, match=r"b/results.json: found SIGN \+ AST with seed 3 again, .*a/res"):
        tabulate(collect([tmp_path]))


def other(**changes: Any) -> Protocol:
    return Protocol(**({f: getattr(PROTOCOL, f) for f in PROTOCOL.__dataclass_fields__} | changes))


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        (other(dataset="shapes"), "found shapes, split default, but .*a/results.json has voc, split default"),
        (other(split="zs3-2"), "found voc, split zs3-2, but"),
        (other(num_seen=3), "found 4 classes that are not those of .*a/results.json"),
        (other(classes=("cat", "dog", "cow", "bus")), "found 4 classes that are not those of .*a/results.json"),
        (PROTOCOL.development(1), r"found scores of validation images \(development\), but .*a/results.json"),
    ],
)
def test_runs_on_other_data_are_refused(tmp_path: Path, protocol: Protocol, message: str) -> None:
    write_run(tmp_path / "a", 0)
    write_run(tmp_path / "b", 1, protocol=protocol)
    content = json.loads((tmp_path / "b" / "results.json").read_text())
    for found in (content["test"], *content["phases"].values()):
        found["per_class"] = dict.fromkeys(protocol.classes, 0.5)
    write_json(tmp_path / "b" / "results.json", content)
    with pytest.raises(UserError, match=f"b/results.json: {message}"):
        tabulate(collect([tmp_path]))


def test_development_runs_make_a_table_over_seeds_that_draw_other_classes(tmp_path: Path) -> None:
    wide = Protocol("voc", "default", tuple("abcdefgh"), tuple(range(8)), 7)
    protocols = [wide.development(2, seed) for seed in (0, 1)]
    assert protocols[0].classes != protocols[1].classes
    for seed, protocol in enumerate(protocols):
        for temperature in (1, 2):
            folder = tmp_path / f"{seed}-{temperature}"
            content = write_run(folder, seed, protocol=protocol, temperature=temperature)
            changed = copy.deepcopy(content)
            changed["test"]["per_class"] = dict.fromkeys(protocol.classes, 0.5)
            write_json(folder / "results.json", changed)
    rows = tabulate(collect([tmp_path]))
    assert [len(row.runs) for row in rows] == [2, 2]
    assert all(run.is_development for row in rows for run in row.runs)
    assert [row.paper for row in rows] == [None, None]


def test_runs_that_did_not_finish(tmp_path: Path) -> None:
    write_run(tmp_path / "done", 1)
    plans: dict[str, dict[str, Any]] = {
        "running": {"seed_everything": 2},
        "resumed": {"seed_everything": 1},  # its row has this seed
        "other": {"seed_everything": 4, "method": "SPNet", "model": OPTIONS | {"phases": ["train"]}},
        "validated": {"seed_everything": 5, "verbose": True},
        "predicted": {"seed_everything": 6, "return_predictions": None},
    }  # fmt: skip
    for name, plan in plans.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(yaml.safe_dump({"model": OPTIONS, "data": {}, **plan}))
    (tmp_path / "nameless" / "checkpoints").mkdir(parents=True)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "config.yaml").write_text("theme: dark\n")
    rows = tabulate(collect([tmp_path]))
    assert labels(rows) == ["SPNet", "SIGN + AST", str(tmp_path / "nameless")]
    assert [[run.seed for run in row.runs] for row in rows] == [[], [1], []]
    assert [[run.seed for run in row.unfinished] for row in rows] == [[4], [2], [None]]
    assert rows[0].scores == {"seen": None, "unseen": None, "harmonic": None}
    with pytest.raises(UserError, match=r"running: found no results.json but 1 of runs that did not finish, expected"):
        collect([tmp_path / "running"])


def test_a_score_that_a_run_lacks_leaves_no_mean(tmp_path: Path) -> None:
    for seed in (0, 1):
        content = write_run(tmp_path / str(seed), seed)
        content["test"]["unseen_miou"] = None if seed else 0.25
        write_json(tmp_path / str(seed) / "results.json", content)
    (row,) = tabulate(collect([tmp_path]))
    assert row.scores["unseen"] is None
    assert row.scores["seen"] is not None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[]", "found no format number"),
        ("{}", "found no format number"),
        ('{"format": 2}', "found format 2, this version reads 1: install the newer sign-zs3"),
        ('{"format": 1}', "found null as dataset"),
        ({"seed": "0"}, 'found "0" as seed'),
        ({"test": {}}, "found no per_class in test"),
        ({"test": {"per_class": {}}}, "found 'nothing' as seen_miou of test"),
        ({"options": [1]}, "found options that are no mapping"),
        ({"test": NONE | {"harmonic_miou": 78.6}}, "found 78.6 as harmonic_miou of test where a fraction from 0 to 1"),
        ({"test": NONE | {"per_class": {"a": float("nan")}}}, "found nan as a of test"),
    ],
)  # fmt: skip
def test_files_that_cannot_be_used(tmp_path: Path, content: str | dict[str, Any], message: str) -> None:
    path = tmp_path / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(write_run(tmp_path / "good") | content))
    with pytest.raises(UserError) as refused:
        collect([path])
    assert str(refused.value).startswith(f"{path}: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_the_published_harmonic_means_follow_from_the_others() -> None:
    assert all(tuple(table) == ROWS for table in TABLE_1.values())
    for table in TABLE_1.values():
        for seen, unseen, harmonic in table.values():
            # not exactly: the paper's own mean of rounded numbers is up to 0.09 off; the slip was 0.27 off
            assert harmonic == pytest.approx(2 * seen * unseen / (seen + unseen), abs=0.1)
    for seen_miou, unseen_miou, mean in TABLES_2_AND_3.values():
        if seen_miou is not None and unseen_miou is not None:
            assert mean == pytest.approx(2 * seen_miou * unseen_miou / (seen_miou + unseen_miou), abs=0.1)


def test_what_the_paper_has_no_number_for_has_none() -> None:
    assert published("voc", "default", "SIGN", {}, None) == TABLE_1["voc"]["SIGN"]
    assert published("voc", "spnet", "SIGN", {"encoding": "multihead"}, None) == TABLE_1["voc"]["SIGN"]
    assert published("voc", "zs3-2", "SIGN", {}, None) is None
    assert published("shapes", "default", "SIGN", {}, None) is None
    assert published("voc", "default", "SIGN", {"encoding": "conv"}, None) == (None, None, 39.13)
    assert published("coco_stuff", "default", "SIGN", {"encoding": "conv"}, None) is None
    assert published("voc", "default", "SIGN + AST", {"encoding": "conv"}, None) is None
    assert published("voc", "default", "SIGN", {"encoding": "conv", "position": "none"}, None) is None
    assert published("voc", "default", "SIGN", {"encoding": "none", "feature_dim": "676"}, "train") == (
        TABLE_4["none"], None, None,
    )  # fmt: skip
    assert published("voc", "default", "SIGN", {"encoding": "multihead"}, "train") == (77.87, None, None)
    assert published("voc", "default", "SIGN", {"encoding": "multihead"}, "transfer") is None
    assert published("voc", "default", "SIGN", {}, "train") is None


CLIP: dict[str, Any] = {"backbone": "clip/vit_base_patch16_clip_quickgelu_224", "dense": "value"}


def test_published_systems_stand_beside_runs_on_clip_with_their_classes_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path / "clip", method="SPNet", phases=("untrained",), **CLIP)
    write_run(tmp_path / "other")
    (maskclip,), (plain,) = (tabulate(collect([tmp_path / name])) for name in ("clip", "other"))
    assert (maskclip.label, maskclip.paper) == ("MaskCLIP", None)
    assert references([plain]) == []
    found = references([maskclip])
    assert (found[0].label, found[0].paper) == ("ZegCLIP (published)", (91.9, 77.8, 84.3))
    assert all(row.runs == () and row.scores["seen"] is None for row in found)
    other = Protocol("pascal_context_59", "zs3-10", PROTOCOL.classes, PROTOCOL.ids, 2)
    write_run(tmp_path / "context", method="SPNet", phases=("untrained",), protocol=other, **CLIP)
    with caplog.at_level(logging.WARNING):
        assert references(tabulate(collect([tmp_path / "context"]))) == []
    assert "pascal_context_59, split zs3-10: found no published numbers" in caplog.text


@pytest.mark.parametrize("background", [False, True])
def test_numbers_without_training_are_named_where_background_is_no_class(
    background: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_run(tmp_path, method="SPNet", phases=("untrained",), **CLIP)
    content = json.loads((tmp_path / "results.json").read_text())
    content["test"]["miou"] = 0.5
    if background:
        content["test"]["per_class"]["background"] = 0.5
    write_json(tmp_path / "results.json", content)
    with caplog.at_level(logging.INFO):
        references(tabulate(collect([tmp_path])))
    assert ("MaskCLIP: mIoU over all classes 50.00 %; published, with other windows: 74.9" in caplog.text) != background


def test_runs_of_an_earlier_version_and_unfinished_ones_share_a_row(tmp_path: Path) -> None:
    colours: dict[str, Any] = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    write_run(tmp_path / "new", 0, layer_decay=1.0, unit_features=False, **colours)
    write_run(tmp_path / "old", 1, **colours)
    (tmp_path / "begun").mkdir()
    nulls = {**OPTIONS, "seed": 2, "image_mean": None, "image_std": None, "layer_decay": 1.0}
    config = {"seed_everything": 2, "model": nulls, "data": {}}
    (tmp_path / "begun" / "config.yaml").write_text(yaml.safe_dump(config))
    (row,) = tabulate(collect([tmp_path]))
    assert (row.label, len(row.runs), len(row.unfinished)) == ("SIGN + AST", 2, 1)
