"""Gradients of several processes: their mean, exchanged in pieces while the backward pass still goes on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.distributed import Work

PIECE = 25 * 2**20
"""Bytes of gradients that are sent at once, as by torch's DistributedDataParallel."""


class GradientExchange:
    """Within it, a backward pass leaves each gradient's mean over all processes.

    DistributedDataParallel expects one backward pass over all weights. Here each optimiser has a pass of its own over
    its own, and to find the others unused it would have the host wait for the device in each of them.

    Args:
        parameters: Those of an optimiser. All processes must get gradients for the same ones.
        count: Number of processes.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], count: int) -> None:
        self.count = count
        self._on = False
        self._pieces: list[list[nn.Parameter]] = []
        size = PIECE
        for parameter in reversed(parameters):  # the last layers' gradients are there first
            if size >= PIECE:
                self._pieces.append([])
                size = 0
            self._pieces[-1].append(parameter)
            size += parameter.nbytes
        self._piece_of = {parameter: i for i, piece in enumerate(self._pieces) for parameter in piece}
        for parameter in parameters:
            parameter.requires_grad_(True)  # as a hook wants it; each batch says anew what is frozen
            parameter.register_post_accumulate_grad_hook(self._arrived)  # type: ignore[no-untyped-call]

    def __enter__(self) -> None:
        self._on = True
        self._missing = [sum(parameter.requires_grad for parameter in piece) for piece in self._pieces]
        self._sent: list[tuple[list[Tensor], Tensor, Work]] = []
        self._next = 0

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        self._on = False
        while error is None and self._next < len(self._pieces):
            self._send()
        sent, self._sent = self._sent, []  # nothing of it is kept
        for gradients, flat, work in sent:
            work.wait()  # on a GPU its stream waits, not the host
            parts = torch.split(flat, [gradient.numel() for gradient in gradients])
            means = [part.view_as(gradient) for part, gradient in zip(parts, gradients, strict=True)]
            torch._foreach_copy_(gradients, means)

    def _arrived(self, parameter: nn.Parameter) -> None:
        if not self._on:
            return
        self._missing[self._piece_of[parameter]] -= 1
        # always in the same order, whatever comes first
        while self._next < len(self._pieces) and self._missing[self._next] == 0:
            self._send()

    def _send(self) -> None:
        piece = self._pieces[self._next]
        self._next += 1
        gradients = [p.grad for p in piece if p.requires_grad and p.grad is not None]
        if gradients:
            flat = torch.cat([gradient.flatten() for gradient in gradients]).div_(self.count)
            work = torch.distributed.all_reduce(flat, async_op=True)
            assert work is not None
            self._sent.append((gradients, flat, work))
