"""SIGN for PyTorch Lightning: generalised zero-shot semantic segmentation.

Names are imported when they are first used, so that ``import sign_zs3`` costs little more than torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sign_zs3._version import __version__

if TYPE_CHECKING:
    from sign_zs3.data.datamodules import (
        COCOStuffDataModule,
        FolderDataModule,
        PascalContextDataModule,
        ShapesDataModule,
        VOCDataModule,
        ZeroShotDataModule,
    )
    from sign_zs3.embeddings import ClassTable
    from sign_zs3.errors import UserError
    from sign_zs3.metrics import GZSLMeanIoU
    from sign_zs3.models import Segmenter
    from sign_zs3.protocol import Protocol
    from sign_zs3.tasks import (
        CaGNetModule,
        SIGNModule,
        SPNetModule,
        ZeroShotTask,
        ZS3Module,
        load_segmenter,
        load_task,
    )
    from sign_zs3.vocabulary import extend, remove, rename, save_model, self_train

_HOMES = {
    "COCOStuffDataModule": "data.datamodules",
    "CaGNetModule": "tasks",
    "ClassTable": "embeddings",
    "FolderDataModule": "data.datamodules",
    "GZSLMeanIoU": "metrics",
    "PascalContextDataModule": "data.datamodules",
    "Protocol": "protocol",
    "SIGNModule": "tasks",
    "SPNetModule": "tasks",
    "Segmenter": "models",
    "ShapesDataModule": "data.datamodules",
    "UserError": "errors",
    "VOCDataModule": "data.datamodules",
    "ZS3Module": "tasks",
    "ZeroShotDataModule": "data.datamodules",
    "ZeroShotTask": "tasks",
    "extend": "vocabulary",
    "load_segmenter": "tasks",
    "load_task": "tasks",
    "remove": "vocabulary",
    "rename": "vocabulary",
    "save_model": "vocabulary",
    "self_train": "vocabulary",
}

__all__ = [
    "COCOStuffDataModule",
    "CaGNetModule",
    "ClassTable",
    "FolderDataModule",
    "GZSLMeanIoU",
    "PascalContextDataModule",
    "Protocol",
    "SIGNModule",
    "SPNetModule",
    "Segmenter",
    "ShapesDataModule",
    "UserError",
    "VOCDataModule",
    "ZS3Module",
    "ZeroShotDataModule",
    "ZeroShotTask",
    "__version__",
    "extend",
    "load_segmenter",
    "load_task",
    "remove",
    "rename",
    "save_model",
    "self_train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sign_zs3' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sign_zs3.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
