"""Several processes on one machine over gloo: equal to the bit, equal to one process, and none left over."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from sign_zs3 import SIGNModule
from tests.conftest import quiet_trainer, tiny_data
from tests.reliability.programs import alive, children, finish, last_line, same, start, wait_for, weights, write_config

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="processes are watched through /proc")

CASES = [
    # batches of two: the first rank has 3 images, the second 2, and so none in the last batch
    pytest.param(2, 5, {"data": {"unseen_pixels": "drop"}}, id="2-uneven"),
    # the second rank's image has no pixel of an unseen class
    pytest.param(2, 3, {"accumulate": 2}, id="2-accumulate", marks=pytest.mark.reliability),
    # the second and the last rank have no such pixel, the last has no image at all
    pytest.param(4, 3, {}, id="4-empty", marks=pytest.mark.reliability),
    # the second rank has two images and no such pixel
    pytest.param(4, 7, {"rounds": 2, "mmd_scope": "batch"}, id="4-rounds", marks=pytest.mark.reliability),
]


def unseen_pixels(test_size: int, rank: int, processes: int) -> int:
    """Count the pixels of unseen classes in the test images of a rank."""
    data = tiny_data(test_size=test_size)
    data.setup("test")
    assert data.test_set is not None
    masks = [data.test_set[index]["mask"] for index in range(test_size)[rank::processes]]
    return sum(int(((mask >= data.protocol.num_seen) & (mask != 255)).sum()) for mask in masks)


def test_some_ranks_have_no_unseen_pixels() -> None:
    """What the cases' comments say."""
    assert [unseen_pixels(3, rank, 2) > 0 for rank in range(2)] == [True, False]
    assert [unseen_pixels(3, rank, 4) > 0 for rank in range(4)] == [True, False, True, False]
    assert [unseen_pixels(7, rank, 4) > 0 for rank in range(4)] == [True, False, True, True]


@pytest.mark.parametrize(("processes", "test_size", "options"), CASES)
def test_ranks_stay_equal_to_the_bit_and_score_as_one_process(
    processes: int, test_size: int, options: dict[str, Any], tmp_path: Path
) -> None:
    program = start(
        str(tmp_path), str(processes), str(test_size), json.dumps(options), module="tests.reliability.ranks"
    )
    finish(program)
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(processes)]
    digests = found[0]["digests"]
    assert list(dict.fromkeys(phase for phase, _ in digests))[:4] == ["train", "generator", "transfer", "self_training"]
    # each iteration changed something
    assert len({digest for _, digest in digests}) >= len(digests) // options.get("accumulate", 1)
    for other in found[1:]:
        assert other["digests"] == digests
        assert repr(other["scores"]) == repr(found[0]["scores"])  # repr, since NaN is not equal to itself

    # each rank has read its share of the masks
    data = tiny_data(**options.get("data", {}))
    data.setup("fit")
    assert all(tuple(rank["dropped"]) == data.dropped_indices for rank in found)
    assert bool(data.dropped_indices) == (data.unseen_pixels == "drop")

    model = SIGNModule.load_from_checkpoint(tmp_path / "checkpoints" / "last.ckpt")
    quiet_trainer(tmp_path).test(model, tiny_data(test_size=test_size, **options.get("data", {})), verbose=False)
    assert model.confusion is not None
    assert model.confusion.tolist() == found[0]["confusion"]
    assert repr(json.loads(json.dumps(model.scores))) == repr(found[0]["scores"])


WRITES = """
import json, os, sys
from pathlib import Path
root, rank, written = os.environ["WRITES"], os.environ.get("LOCAL_RANK", "0"), []
def note(event, args):
    if event == "open" and isinstance(args[0], str) and str(args[1] or "").strip("rb+t"):
        written.append(args[0])
    elif event == "os.rename":
        written.append(os.fspath(args[1]))
sys.addaudithook(note)
from sign_zs3.cli import main
code = main()
mine = [p for p in written if p.startswith(root + os.sep)]
Path(root, f"writes{rank}.json").write_text(json.dumps(mine))
sys.exit(code)
"""


@pytest.mark.reliability
def test_each_file_is_written_by_one_process(tmp_path: Path) -> None:
    """Results, pictures, pseudo-labels, tables, checkpoints by rank 0; predictions by the rank that has the image."""
    config = write_config(tmp_path, callbacks=[{"class_path": "sign_zs3.callbacks.PictureLogger"}], devices=2)
    (tmp_path / "noted.py").write_text(WRITES, encoding="utf-8")
    environment = {"WRITES": str(tmp_path / "runs"), "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    finish(start("fit", "--config", config, module="noted", **environment))
    first, second = (json.loads((tmp_path / "runs" / f"writes{rank}.json").read_text()) for rank in (0, 1))
    assert second == []
    names = {Path(path).name for path in first}
    assert {"results.json", "panel.png", "config.yaml", "last.ckpt", "self_training.ckpt"} <= names
    assert any("pictures" in path and path.endswith(".png") for path in first)
    assert sum(Path(path).name == "results.json" for path in first) == 1

    checkpoint = str(tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt")
    finish(start("predict", "--config", config, "--ckpt_path", checkpoint, module="noted", **environment))
    first, second = (json.loads((tmp_path / "runs" / f"writes{rank}.json").read_text()) for rank in (0, 1))
    assert second and not set(first) & set(second)
    report = json.loads(next((tmp_path / "runs").glob("**/predictions.json")).read_text())
    assert len(report["images"]) == 4


@pytest.mark.reliability
@pytest.mark.parametrize("victim", [0, 1])
def test_when_a_rank_dies_the_others_end_within_a_minute(victim: int, tmp_path: Path) -> None:
    config = write_config(tmp_path, {"lr": 1e-6, "train_iterations": 100_000}, devices=2)
    program = start("fit", "--config", config, "--checkpoint.every", "5")
    last = tmp_path / "runs" / "version_0" / "checkpoints" / "last.ckpt"
    wait_for(lambda: last.exists(), program)
    ranks = [program.pid, *children(program.pid)]
    assert len(ranks) == 2
    os.kill(ranks[victim], signal.SIGKILL)
    killed = time.monotonic()
    while alive(ranks[1 - victim]):
        assert time.monotonic() - killed < 60
        time.sleep(0.1)
    _, err = program.communicate(timeout=60)
    assert program.returncode != 0
    assert "error: another process of this run has ended" in err
    weights(last)  # it is whole


@pytest.mark.reliability
def test_sigterm_stops_two_processes_and_they_go_on(tmp_path: Path) -> None:
    long = {"transfer_iterations": 40}
    config = write_config(tmp_path, long, devices=2)
    straight = ["--trainer.default_root_dir", str(tmp_path / "straight")]
    reference = start("fit", "--config", config, *straight)
    finish(reference)
    stopped = start("fit", "--config", config)
    folder = tmp_path / "runs" / "version_0" / "checkpoints"
    wait_for(lambda: (folder / "generator.ckpt").exists(), stopped)
    stopped.send_signal(signal.SIGTERM)
    err = finish(stopped, 143)
    assert last_line(err) == "stopped by SIGTERM" and "saved; go on with --ckpt_path" in err
    assert not children(stopped.pid)
    finish(start("fit", "--config", config, "--ckpt_path", "last"))
    ends = [
        weights(tmp_path / where / "checkpoints" / "last.ckpt") for where in ("straight/version_0", "runs/version_1")
    ]
    assert same(*ends)


@pytest.mark.reliability
@pytest.mark.parametrize("nodes", [1, 2])
def test_torchrun_gives_the_same_weights(nodes: int, tmp_path: Path) -> None:
    """The same YAML: two processes of Lightning's, two of torchrun's, and one on each of two nodes."""
    config = write_config(tmp_path, devices=2)
    finish(start("fit", "--config", config, "--trainer.default_root_dir", str(tmp_path / "straight")))
    port = str(29_500 + os.getpid() % 400 + nodes)
    options = ["--trainer.num_nodes", str(nodes), "--trainer.devices", str(2 // nodes)]
    place = ["--nnodes", str(nodes), "--nproc_per_node", str(2 // nodes), "--master_addr", "127.0.0.1", "--master_port"]
    programs = [
        start(
            *place, port, "--node_rank", str(node), "-m", "sign_zs3", "fit", "--config", config, *options,
            module="torch.distributed.run",
        )
        for node in range(nodes)
    ]  # fmt: skip
    for program in programs:
        finish(program)
    assert [p.name for p in sorted((tmp_path / "runs").iterdir())] == ["version_0"]
    ends = [
        weights(tmp_path / where / "checkpoints" / "last.ckpt") for where in ("straight/version_0", "runs/version_0")
    ]
    assert same(*ends)
