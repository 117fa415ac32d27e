"""Gradients of two processes, against each one's own and their mean."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from sign_zs3.tasks import exchange


def gradients_of(net: nn.Sequential, rank: int, scale: float) -> list[torch.Tensor | None]:
    images = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(rank)) * scale
    net(images).square().mean().backward()
    return [parameter.grad for parameter in net.parameters()]


def a_net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, 1))
    return net.to(memory_format=torch.channels_last)


def process(rank: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    exchange.PIECE = 64  # bytes: several pieces
    net = a_net()
    exchanged = exchange.GradientExchange(list(net.parameters()), 2)
    found = []
    net[2].requires_grad_(False)
    for step in range(2):  # the second one onto the first one's, as where batches are accumulated
        with exchanged:
            gradients_of(net, 2 * step + rank, 1.0 + rank)
        found.append([None if p.grad is None else p.grad.clone() for p in net.parameters()])
    net.zero_grad(set_to_none=True)
    alone = gradients_of(net, rank, 1.0)  # nothing is sent outside of it
    torch.save({"found": found, "alone": alone}, f"{folder}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(sys.platform == "win32", reason="gloo meets by a file")
def test_each_process_gets_the_mean_in_several_pieces_and_nothing_outside(tmp_path: Path) -> None:
    mp.spawn(process, (str(tmp_path),), nprocs=2)  # type: ignore[attr-defined, no-untyped-call]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    means: list[torch.Tensor] = []
    for step in range(2):
        own = []
        for rank in (0, 1):
            net = a_net()
            net[2].requires_grad_(False)
            own.append(gradients_of(net, 2 * step + rank, 1.0 + rank))
        step_means = [None if a is None or b is None else (a + b) / 2 for a, b in zip(*own, strict=True)]
        assert [mean is None for mean in step_means] == [False, False, True, True, False, False]
        present = [mean for mean in step_means if mean is not None]
        means = present if not means else [a + b for a, b in zip(means, present, strict=True)]
        for found in (first["found"][step], second["found"][step]):
            torch.testing.assert_close([g for g in found if g is not None], means)
    assert not torch.equal(first["alone"][0], second["alone"][0])
