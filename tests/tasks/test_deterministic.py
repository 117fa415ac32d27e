"""`--trainer.deterministic true`: no step runs an operation that PyTorch refuses then on CUDA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from sign_zs3 import SIGNModule, ZeroShotTask
from tests.conftest import quiet_trainer, tiny_data
from tests.tasks.test_methods import METHODS, tiny

# The list of `torch.use_deterministic_algorithms` by the names of ATen, and of its backward passes. Cross-entropy of
# maps is refused where it sums.
REFUSED = {
    *("upsample_bilinear2d_backward", "_upsample_bilinear2d_aa_backward", "upsample_nearest2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_linear1d_backward", "grid_sampler_2d_backward"),
    *("_adaptive_avg_pool2d_backward", "adaptive_max_pool2d_backward", "reflection_pad2d_backward"),
    *("fractional_max_pool2d_backward", "max_unpool2d", "_embedding_bag", "put_", "histc", "kthvalue", "median"),
}
SUMMED = {"nll_loss2d_forward", "nll_loss2d_backward"}


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Collects the names of the operations that run, and whether an NLL loss of maps is summed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.refused: set[str] = set()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        self.count += 1
        if name in REFUSED or (name in SUMMED and args[{"nll_loss2d_forward": 3, "nll_loss2d_backward": 4}[name]]):
            self.refused.add(name)
        if name == "bincount" and len(args) > 1 and args[1] is not None:
            self.refused.add("bincount with weights")
        return func(*args, **(kwargs or {}))


def operations_of(model: ZeroShotTask, root: Path, **data: Any) -> Operations:
    trainer, scenes, found = quiet_trainer(root), tiny_data(**data), Operations()
    with found:
        trainer.fit(model, scenes)
        trainer.test(model, scenes, verbose=False)
    assert model.schedule.done
    assert found.count > 1000
    return found


@pytest.mark.parametrize("method", METHODS)
def test_all_phases_of_a_method(method: type[ZeroShotTask], tmp_path: Path) -> None:
    assert operations_of(tiny(method), tmp_path).refused == set()


@pytest.mark.parametrize(
    "options",
    [
        {"head": "unet"}, {"head": "fcn16"}, {"head": "fcn"}, {"input_scales": [1.0, 0.5]}, {"backbone": "resnet18"},
        {"flip": True, "scales": [1.0, 0.75]}, {"resolution": "feature", "spatial_window": 16},
        {"encoding": "conv"}, {"spatial_window": 4},
        {"position": "interpolated", "train_size": [8, 8]}, {"self_training": "top_fraction"},
    ],
    ids=str,
)  # fmt: skip
def test_every_part(options: dict[str, Any], tmp_path: Path) -> None:
    assert operations_of(tiny(SIGNModule, **options), tmp_path, scene_size=48).refused == set()


def test_the_operations_are_seen() -> None:
    image, labels = torch.rand(1, 2, 4, 4, requires_grad=True), torch.zeros(1, 4, 4, dtype=torch.long)
    with Operations() as found:
        torch.autograd.grad(F.cross_entropy(image, labels, reduction="none").sum(), image)
    assert found.refused == set()
    with Operations() as found:
        resized, pooled = F.interpolate(image, (8, 8), mode="bilinear"), F.adaptive_avg_pool2d(image, 2)
        torch.autograd.grad(resized.sum() + pooled.sum() + F.cross_entropy(image, labels), image)
    assert found.refused == {"upsample_bilinear2d_backward", "_adaptive_avg_pool2d_backward", *SUMMED}
