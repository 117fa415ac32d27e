"""A run of several processes, each of which notes what it holds after every batch.

Arguments of ``python -m tests.reliability.ranks``: folder, processes, images to test on, options of the model (JSON).
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch

from sign_zs3 import SIGNModule
from sign_zs3.callbacks import ScheduleCheckpoint
from tests.conftest import quiet_trainer, tiny_data, tiny_model


def digest(model: SIGNModule, trainer: pl.Trainer) -> str:
    """Return what stands for all weights, buffers and optimiser states, to the bit."""
    hashed = hashlib.sha256()
    states: list[tuple[str, Any]] = list(model.state_dict().items())
    for number, optimizer in enumerate(trainer.optimizers):
        for key, state in optimizer.state_dict()["state"].items():
            states += [(f"{number}.{key}.{name}", value) for name, value in state.items()]
    for name, value in states:
        hashed.update(name.encode())
        if isinstance(value, torch.Tensor):
            hashed.update(value.detach().contiguous().numpy().tobytes())
    return hashed.hexdigest()


class Digests(pl.Callback):
    """Note the phase and the digest after every batch."""

    def __init__(self) -> None:
        self.found: list[tuple[str, str]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SIGNModule)
        finished = pl_module.schedule.just_finished()
        self.found.append(((finished or pl_module.schedule.phase).name, digest(pl_module, trainer)))


def main(folder: str, processes: int, test_size: int, options: dict[str, Any]) -> None:
    """Train, test, and write what each rank found."""
    root, digests = Path(folder), Digests()
    data_options = options.pop("data", {})
    model = tiny_model(**options)
    trainer = quiet_trainer(root, digests, ScheduleCheckpoint(), devices=processes)
    data = tiny_data(**data_options)
    trainer.fit(model, data)
    trainer.test(model, tiny_data(test_size=test_size, **data_options), verbose=False)
    assert model.confusion is not None
    found = {
        "digests": digests.found, "scores": model.scores, "confusion": model.confusion.tolist(),
        "dropped": data.dropped_indices,
    }  # fmt: skip
    (root / f"rank{trainer.global_rank}.json").write_text(json.dumps(found), encoding="utf-8")
    trainer.strategy.barrier()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4]))
