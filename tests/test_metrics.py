"""GZSLMeanIoU against torchmetrics' confusion matrix and a loop, and over processes."""

from __future__ import annotations

import math
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.multiprocessing.spawn import start_processes
from torchmetrics.classification import MulticlassConfusionMatrix

from sign_zs3.functional import gzsl_scores
from sign_zs3.metrics import GZSLMeanIoU

CLASSES = ("dog", "cat", "sky", "red square", "green triangle")


def make_metric(**options: Any) -> GZSLMeanIoU:
    return GZSLMeanIoU(CLASSES, seen=[0, 1, 2], unseen=[3, 4], **options)


def batches() -> list[tuple[Tensor, Tensor]]:
    """Three batches of unequal sizes; the last class is rare and the maps hold ignored pixels."""
    generator = torch.Generator().manual_seed(3)
    result = []
    for count in (2, 1, 3):
        target = torch.randint(5, (count, 6, 7), generator=generator)
        wrong = torch.rand(target.shape, generator=generator) < 0.4
        prediction = torch.where(wrong, torch.randint(5, target.shape, generator=generator), target)
        result.append((prediction, target.masked_fill(torch.rand(target.shape, generator=generator) < 0.2, 255)))
    return result


def flat(scores: dict[str, Any]) -> dict[str, float]:
    per_class = {f"per_class/{name}": value for name, value in scores["per_class"].items()}
    return {key: value for key, value in scores.items() if key != "per_class"} | per_class


def test_against_torchmetrics_and_numpy() -> None:
    metric, oracle = make_metric(), MulticlassConfusionMatrix(5, ignore_index=255)
    for prediction, target in batches():
        metric.update(prediction, target)
        oracle.update(prediction, target)
    scores = metric.compute()
    matrix = oracle.compute().numpy()
    iou = [matrix[c, c] / (matrix[c].sum() + matrix[:, c].sum() - matrix[c, c]) for c in range(5)]
    assert scores["per_class"] == pytest.approx(dict(zip(CLASSES, iou, strict=True)))
    assert scores["seen_miou"] == pytest.approx(np.mean(iou[:3]))
    assert scores["unseen_miou"] == pytest.approx(np.mean(iou[3:]))
    assert {k: v for k, v in scores.items() if k != "per_class"} == gzsl_scores(oracle.compute(), [0, 1, 2], [3, 4])


def test_logits_are_their_largest() -> None:
    metric, of_logits = make_metric(), make_metric()
    for prediction, target in batches():
        metric.update(prediction, target)
        logits = torch.nn.functional.one_hot(prediction, 5).movedim(-1, 1) + 0.5 * torch.rand(len(prediction), 5, 6, 7)
        of_logits.update(logits.half(), target)
    assert of_logits.compute() == metric.compute()


def test_batching_does_not_matter() -> None:
    together, apart = make_metric(), make_metric()
    together.update(*(torch.cat(maps) for maps in zip(*batches(), strict=True)))
    for prediction, target in batches():
        for image, mask in zip(prediction, target, strict=True):
            apart.update(image[None], mask[None])
    assert together.compute() == apart.compute()


def test_absent_class() -> None:
    prediction, target = torch.zeros(1, 2, 2).long(), torch.tensor([[[0, 0], [0, 1]]])
    skip, zero = make_metric(), make_metric(absent="zero")
    for metric in (skip, zero):
        metric.update(prediction, target)
        assert math.isnan(metric.compute()["per_class"]["sky"])
    assert skip.compute()["seen_miou"] == pytest.approx(0.75 / 2)
    assert zero.compute()["seen_miou"] == pytest.approx(0.75 / 3)
    assert math.isnan(skip.compute()["harmonic_miou"]) and zero.compute()["harmonic_miou"] == 0


@pytest.mark.parametrize("ignored", [-1, 4, 255])
def test_ignored_label(ignored: int) -> None:
    metric = make_metric(ignore_index=ignored)
    metric.update(torch.tensor([0, 1, 2]), torch.tensor([0, 1, ignored]))
    assert metric.confusion.sum() == 2
    assert metric.compute()["pixel_accuracy"] == 1


def test_reset_clone_and_pickle() -> None:
    metric = make_metric(ignore_index=255)
    (prediction, target), *_ = batches()
    metric.update(prediction, target)
    expected = metric.compute()
    clone, copy = metric.clone(), pickle.loads(pickle.dumps(metric))
    metric.reset()
    assert metric.confusion.sum() == 0
    assert clone.compute() == expected
    assert copy.compute() == expected


def test_forward_gives_the_batch_and_keeps_the_whole() -> None:
    metric = make_metric()
    for prediction, target in batches():
        alone = make_metric()
        alone.update(prediction, target)
        assert flat(metric(prediction, target)) == pytest.approx(flat(alone.compute()), nan_ok=True)
    whole = make_metric()
    whole.update(*(torch.cat(maps) for maps in zip(*batches(), strict=True)))
    assert metric.compute() == whole.compute()


def test_flags() -> None:
    assert GZSLMeanIoU.is_differentiable is False
    assert GZSLMeanIoU.higher_is_better is True
    assert GZSLMeanIoU.full_state_update is False


def run_rank(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    metric = make_metric()
    shard = batches()[:1] if rank == 0 else batches()[1:]
    for prediction, target in shard:
        metric.update(prediction, target)
    torch.save(metric.compute(), Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_with_uneven_shards_equal_one(tmp_path: Path) -> None:
    start_processes(run_rank, args=(str(tmp_path),), nprocs=2, start_method="spawn")  # type: ignore[no-untyped-call]
    metric = make_metric()
    for prediction, target in batches():
        metric.update(prediction, target)
    for rank in range(2):
        assert torch.load(tmp_path / f"{rank}.pt", weights_only=True) == metric.compute()


def test_sums_what_other_processes_counted() -> None:
    """What the test above does with processes, by torchmetrics' own hook in their place."""
    here, there, whole = make_metric(), make_metric(), make_metric()
    for metric, shard in ((here, batches()[:1]), (there, batches()[1:]), (whole, batches())):
        for prediction, target in shard:
            metric.update(prediction, target)
    both = make_metric(
        dist_sync_fn=lambda state, group=None: [state, there.confusion], distributed_available_fn=lambda: True
    )
    both.update(*batches()[0])
    assert both.compute() == whole.compute()
    assert torch.equal(both.confusion, here.confusion)


def test_counts_are_integers() -> None:
    # Counts in float32 would stop at 2^24, the pixels of 64 maps of 512 x 512.
    metric = make_metric()
    assert metric.confusion.dtype == torch.int64
    metric.confusion[0, 0] = 2**60
    metric.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 2).long())
    assert metric.confusion[0, 0] == 2**60 + 4


def test_plot() -> None:
    import matplotlib.pyplot as plt
    from matplotlib.colors import to_rgba
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    metric = make_metric()
    prediction, target = torch.zeros(1, 2, 2).long(), torch.tensor([[[0, 0], [0, 3]]])
    metric.update(prediction, target)
    _, ax = metric.plot()
    assert plt.get_fignums() == []
    bars = [bar for bar in ax.patches if isinstance(bar, Rectangle)]  # in the order of the class ids
    assert [bar.get_width() for bar in bars] == pytest.approx([0.75, 0, 0, 0, 0])
    assert [bar.get_facecolor() for bar in bars] == 3 * [to_rgba("tab:blue")] + 2 * [to_rgba("tab:orange")]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(CLASSES)
    assert [text.get_text() for text in ax.texts] == ["0.75", "absent", "absent", "0.00", "absent"]
    assert ax.get_xlabel() == "IoU"
    assert ax.get_title() == "seen 0.750   unseen 0.000   harmonic 0.000"
    left, right = ax.get_xlim()  # the same for all models, with room for the number beside a full bar
    assert left == 0
    assert 1 < right < 1.2
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["seen", "unseen"]
    own = Figure().add_subplot()
    assert metric.plot(metric.compute(), own) == (own.figure, own)
    other = make_metric()
    other.update(target, target)
    assert metric.plot(other.compute())[1].get_title() == "seen 1.000   unseen 1.000   harmonic 1.000"


@pytest.mark.parametrize("count", [2, 60])
def test_plot_has_room_for_its_text(count: int) -> None:
    metric = GZSLMeanIoU([f"class {i}" for i in range(count)], seen=range(1, count), unseen=[0])
    metric.update(torch.arange(count), torch.arange(count))  # full bars, beside which there is least room
    figure, ax = metric.plot()
    figure.draw_without_rendering()
    legend = ax.get_legend()
    assert legend is not None
    labels = [label.get_window_extent() for label in ax.get_yticklabels()]
    for box in (*labels, legend.get_window_extent(), ax.title.get_window_extent()):
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1
    assert not legend.get_window_extent().overlaps(ax.bbox)
    numbers = [text.get_window_extent() for text in ax.texts]
    assert all(box.x1 <= ax.bbox.x1 for box in numbers)
    for above, below in pairwise(labels):
        assert below.y1 <= above.y0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"^class names occur twice: cat, dog$"):
        GZSLMeanIoU(["dog", "cat", "sky", "dog", "cat"], [0], [1])
    with pytest.raises(ValueError, match=r"\[1\] occur twice"):
        GZSLMeanIoU(["dog", "cat"], [0, 1], [1])
    with pytest.raises(ValueError, match=r"ids \[2\]"):
        GZSLMeanIoU(["dog", "cat"], [0], [2])
    with pytest.raises(ValueError, match="absent"):
        make_metric(absent="drop")
    with pytest.raises(ValueError, match=r"^expected logits of shape \(1, 5, 2, 2\), got \(1, 4, 2, 2\)$"):
        make_metric().update(torch.zeros(1, 4, 2, 2), torch.zeros(1, 2, 2).long())
    with pytest.raises(ValueError, match="target holds class 5"):
        make_metric().update(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 5))
