"""A head that starts at the principal components of the backbone's maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from sign_zs3 import UserError
from sign_zs3.callbacks import ScheduleCheckpoint
from sign_zs3.data.datasets.shapes import ShapesDataset
from sign_zs3.models.heads import FCNHead
from tests.conftest import quiet_trainer, tiny_data, tiny_model
from tests.tasks.test_sign import StopAt

START: dict[str, Any] = {"head": "fcn", "head_start": "pca"}


def fit(root: Path, *callbacks: Any, ckpt_path: str | None = None, **options: Any) -> Any:
    model = tiny_model(**(START | options))
    quiet_trainer(root, *callbacks).fit(model, tiny_data(), ckpt_path=ckpt_path)
    return model


def weight(model: Any) -> torch.Tensor:
    (layer,) = model.segmenter.encoder.head.projections
    found: torch.Tensor = layer.weight.detach().flatten(1)
    return found


STILL: dict[str, Any] = {"phases": ["train"], "train_iterations": 1, "lr": 0.0}
"""One step that moves nothing: what is left is the start."""


def test_the_start_is_that_of_a_singular_value_decomposition(tmp_path: Path) -> None:
    model = fit(tmp_path, freeze_encoder=True, **STILL).train()
    data = tiny_data()
    data.setup("fit")
    loader: Any = data.train_dataloader()
    rows = []
    with torch.no_grad():
        for first in range(0, len(loader.dataset), loader.batch_size):
            places = range(first, min(first + loader.batch_size, len(loader.dataset)))
            batch = loader.collate_fn([loader.dataset[i] for i in places])
            (level,) = model.segmenter.maps(batch["image"])
            mean, deviation = level.mean((0, 2, 3), keepdim=True), level.var((0, 2, 3), unbiased=False, keepdim=True)
            normalised = (level - mean) / (deviation + 1e-5).sqrt()
            assert bool(batch["valid"].all())
            rows.append(normalised.movedim(1, -1).flatten(0, 2))
    x = torch.cat(rows).double().numpy()
    x = (x - x.mean(0)) / x.std(0)
    _, _, components = np.linalg.svd(x, full_matrices=False)
    dim = len(weight(model))
    scale = torch.cat(rows).double().numpy().std(0)
    got = weight(model).double().numpy()[::-1] * scale  # the largest component first
    cosines = np.abs((got * components[:dim]).sum(1)) / np.linalg.norm(got, axis=1)
    np.testing.assert_allclose(cosines, 1, atol=1e-4)
    # one scale for all components, unit variance on average
    np.testing.assert_allclose((x @ got.T).var(0).mean(), 1, rtol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), np.linalg.norm(got[0]), rtol=1e-4)
    assert (got[np.arange(dim), np.abs(got).argmax(1)] > 0).all()


def test_maps_of_a_cache_give_the_same_start(tmp_path: Path) -> None:
    plain = fit(tmp_path, freeze_encoder=True, **STILL)
    cached = fit(tmp_path, freeze_encoder=True, feature_cache=str(tmp_path / "cache"), **STILL)
    # The borders of crops differ, and components of like variance may mix: what they span is the same.
    span = weight(plain).T @ torch.linalg.pinv(weight(plain).T)
    largest = weight(cached)[-8:]
    assert float((largest @ span).norm() / largest.norm()) > 0.95


def test_no_unseen_label_reaches_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = fit(tmp_path)
    read = ShapesDataset.read
    table = np.arange(256, dtype=np.uint8)
    ids = [straight.protocol.ids[c] for c in straight.protocol.unseen]
    table[ids] = np.roll(ids, 1)
    monkeypatch.setattr(ShapesDataset, "read", lambda self, i: (read(self, i)[0], table[read(self, i)[1]]))
    assert torch.equal(weight(fit(tmp_path)), weight(straight))


def test_only_a_run_from_scratch_starts_the_head(tmp_path: Path) -> None:
    straight = fit(tmp_path)
    stop = straight.schedule.total - 3
    stopped = fit(tmp_path, ScheduleCheckpoint(), StopAt(stop))
    assert stopped.schedule.batches == stop
    resumed = fit(tmp_path, ScheduleCheckpoint(), ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    assert torch.equal(weight(resumed), weight(straight))
    further = fit(tmp_path, init_from=str(tmp_path / "checkpoints" / "train.ckpt"), **STILL)
    trained = fit(tmp_path, phases=["train"])
    assert torch.equal(weight(further), weight(trained))


def test_the_head_has_a_rate_of_its_own(tmp_path: Path) -> None:
    still = fit(tmp_path, head_rate=0.0, phases=["train"])
    moved = fit(tmp_path, phases=["train"])
    start = fit(tmp_path, **STILL)
    assert torch.equal(weight(still), weight(start))
    assert not torch.equal(weight(moved), weight(start))
    sgd = still.configure_optimizers()[0]
    assert [group["multiplier"] for group in sgd.param_groups] == [1, 5, 0, 0, 10, 20]


def test_channels_beyond_the_components_start_at_random(tmp_path: Path) -> None:
    wide, plain = (
        fit(tmp_path, feature_dim=68, **STILL),
        fit(tmp_path, feature_dim=68, **(STILL | {"head_start": "random"})),
    )
    assert torch.equal(weight(wide)[64:], weight(plain)[64:])
    products = weight(wide)[:64] @ weight(wide)[:64].T
    assert not torch.equal(weight(wide)[:64], weight(plain)[:64])
    assert torch.linalg.matrix_rank(products) > 32


def test_what_has_no_components_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="head_start: found pca with head 'unet', expected fcn or fcn16"):
        tiny_model(head="unet", head_start="pca")
    read = ShapesDataset.read
    monkeypatch.setattr(ShapesDataset, "read", lambda self, i: (np.zeros_like(read(self, i)[0]), read(self, i)[1]))
    monkeypatch.setattr(FCNHead, "column", lambda self, maps: torch.zeros_like(maps[0]))
    with pytest.raises(UserError, match="head_start: found no pixels that differ"):
        fit(tmp_path, feature_dim=8)


def test_ranks_share_their_sums() -> None:
    """Sums over parts of the pixels add up to those over all of them."""
    torch.manual_seed(0)
    x = torch.randn(500, 12, dtype=torch.float64) @ torch.randn(12, 12, dtype=torch.float64)

    def start(*parts: torch.Tensor) -> torch.Tensor:
        head = FCNHead((5, 7), (16, 32), 4)
        sums = [(torch.tensor(len(p)), p.sum(0), p.T @ p) for p in parts]
        head.start_at_components(*[torch.stack(s).sum(0) for s in zip(*sums, strict=True)])
        layers = [layer for layer in head.projections if isinstance(layer, nn.Conv2d)]
        return torch.cat([layer.weight for layer in layers], dim=1)

    torch.testing.assert_close(start(x), start(x[:123], x[123:]))
