"""Imported networks compute what the released ones do: `Oracle` is plain arithmetic on the files' own entries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from sign_zs3 import import_released, load_task, save_model
from sign_zs3.models.spatial import build_spatial
from sign_zs3.released.names import renamed
from tests.released import files
from tests.released.files import D, Drawn, Oracle, spatial_part


def close(found: torch.Tensor, wanted: torch.Tensor, within: float = 1e-5) -> None:
    torch.testing.assert_close(found, wanted, rtol=within, atol=within)


@pytest.mark.parametrize(
    ("network_type", "across_batch"),
    [(None, False), *((kind, False) for kind in files.TYPES), ("4", True), ("6", True)],
)
def test_each_spatial_part_is_the_released_one(network_type: str | None, across_batch: bool) -> None:
    drawn = Drawn(1)
    spatial_part(drawn, network_type)
    found, _, odd = renamed(drawn, "cagnet" if network_type is None else "sign")
    module = build_spatial("released", D, encoding=network_type or "none", across_batch=across_batch).double()
    state = {key.removeprefix("segmenter.spatial."): value.double() for key, value in found.items()}
    module.load_state_dict(state)
    assert not odd
    a = torch.randn(3, D, 5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    with torch.no_grad():
        mine, wanted = module.eval()(a), Oracle(drawn).spatial(a, network_type, across_batch)
    for name, value in wanted.items():
        close(getattr(mine, name), value)
    # something is told apart by each part: no map is flat
    assert float(wanted["features"].std()) > 0.01


def images(height: int = 65, width: int = 81, count: int = 2) -> torch.Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(3)) * 255


def test_sign_as_a_whole(tmp_path: Path) -> None:
    entries = files.sign_entries("1")
    model = import_released(files.written(tmp_path / "voc.pth", entries, "sign"))
    oracle, x = Oracle(entries), images()
    save_model(model, tmp_path / "released.ckpt")
    again: Any = load_task(tmp_path / "released.ckpt").double()
    with torch.no_grad():
        a = oracle.caffe_features(x, "back.scale.", "back.scale.aspp.stages.")
        wanted = oracle.spatial(a, "1")["features"]
        close(again.segmenter.features(x.double(), False).features, wanted)
        close(again.segmenter(x.double()), oracle.classified(wanted)[:, :20])
        words = torch.randn(1, files.WORDS, 2, 3, dtype=torch.float64)
        latent = torch.randn(1, D, 2, 3, dtype=torch.float64)
        close(again.generator(words, latent), oracle.generated(words, latent))
        close(again.discriminator(wanted), oracle.discriminated(wanted))
    torch.testing.assert_close(model.class_vectors, entries["Em_all.weight"])
    # in float32, as it is used, too
    with torch.no_grad():
        close(model.segmenter(x).double(), oracle.classified(wanted)[:, :20], 1e-3)


def test_cagnet_as_a_whole_from_the_older_format(tmp_path: Path) -> None:
    entries = files.sign_entries(None, "context")
    model = import_released(files.written(tmp_path / "context.pth", entries, "cagnet", older=True)).double()
    oracle, x = Oracle(entries), images()
    with torch.no_grad():
        a = oracle.caffe_features(x, "back.scale.", "back.scale.aspp.stages.")
        wanted = oracle.classified(oracle.spatial(a, None)["features"])[:, :33]
        close(model.segmenter(x.double()), wanted)


def test_spnet_takes_the_maximum_of_logits_over_scales(tmp_path: Path) -> None:
    entries = files.spnet_entries()
    path, table = files.written(tmp_path / "spnet.pth", entries, "spnet"), files.table(tmp_path / "table.npz")
    model = import_released(path, dataset="voc", vectors=str(table)).double()
    oracle, x = Oracle(entries), images(129, 161, 1).double()
    with torch.no_grad():
        logits = []
        for scale in (1.0, 0.5, 0.75):
            sides = [round(side * scale) for side in x.shape[-2:]]
            resized = F.interpolate(x, sides, mode="bilinear", align_corners=False)
            # to 8k + 1 pixels, with the mean colour
            mean = torch.tensor([122.675, 116.669, 104.008], dtype=torch.float64).view(1, 3, 1, 1)
            beyond = [-(side - 1) % 8 for side in sides]
            padded = F.pad(resized - mean, (0, beyond[1], 0, beyond[0])) + mean
            features = oracle.caffe_features(padded, "module.scale.", "module.scale.aspp.stages.")
            found = torch.einsum("nchw,kc->nkhw", features, model.class_vectors.double())
            for dim, side, full in ((2, sides[0], 129), (3, sides[1], 161)):
                found = at_cells(found, dim, side / full, full // 8 + 1)
            logits.append(found)
        wanted = torch.stack(logits).amax(0)
        # places in an image are float32
        close(model.segmenter(x), wanted, 1e-4)
    # no scale is always the largest
    assert all(bool((each == wanted).any()) for each in logits)


def at_cells(maps: torch.Tensor, dim: int, factor: float, count: int) -> torch.Tensor:
    """Interpolate a resized image's cells, 8 pixels apart, at those of the image itself."""
    at = (((8 * torch.arange(count, dtype=torch.float64) + 0.5) * factor - 0.5) / 8).clamp(0, maps.shape[dim] - 1)
    below = at.floor().long()
    above = (below + 1).clamp(max=maps.shape[dim] - 1)
    share = (at - below).view([-1 if d == dim else 1 for d in range(4)])
    return maps.index_select(dim, below) * (1 - share) + maps.index_select(dim, above) * share


def test_zs3_as_a_whole(tmp_path: Path) -> None:
    entries = files.zs3_entries()
    model = import_released(files.written(tmp_path / "zs3.pth.tar", entries, "zs3"), split="zs3-2").double()
    oracle, x = Oracle(entries), images()
    with torch.no_grad():
        wanted = oracle.conv(oracle.zs3_features(x), "decoder.pred_conv")[:, list(model.protocol.ids)]
        close(model.segmenter(x.double()), wanted)
    assert model.protocol.classes[0] == "background"
    assert model.protocol.unseen_classes == ("cow", "motorbike")
