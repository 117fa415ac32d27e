"""SIGN for PyTorch Lightning: generalised zero-shot semantic segmentation.

Names are imported when they are first used, so that ``import sign_zs3`` costs little more than torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

from sign_zs3._version import __version__ as __version__

if TYPE_CHECKING:
    from sign_zs3.callbacks import ScheduleProgressBar as ScheduleProgressBar
    from sign_zs3.commands.configuration import load_recipe as load_recipe
    from sign_zs3.data.datamodules import COCOStuffDataModule as COCOStuffDataModule
    from sign_zs3.data.datamodules import FolderDataModule as FolderDataModule
    from sign_zs3.data.datamodules import PascalContextDataModule as PascalContextDataModule
    from sign_zs3.data.datamodules import ShapesDataModule as ShapesDataModule
    from sign_zs3.data.datamodules import VOCDataModule as VOCDataModule
    from sign_zs3.data.datamodules import ZeroShotDataModule as ZeroShotDataModule
    from sign_zs3.embeddings import ClassTable as ClassTable
    from sign_zs3.errors import UserError as UserError
    from sign_zs3.metrics import GZSLMeanIoU as GZSLMeanIoU
    from sign_zs3.models import Segmenter as Segmenter
    from sign_zs3.protocol import Protocol as Protocol
    from sign_zs3.released import import_released as import_released
    from sign_zs3.tasks import CaGNetModule as CaGNetModule
    from sign_zs3.tasks import SIGNModule as SIGNModule
    from sign_zs3.tasks import SPNetModule as SPNetModule
    from sign_zs3.tasks import ZeroShotTask as ZeroShotTask
    from sign_zs3.tasks import ZS3Module as ZS3Module
    from sign_zs3.tasks import load_segmenter as load_segmenter
    from sign_zs3.tasks import load_task as load_task
    from sign_zs3.vocabulary import extend as extend
    from sign_zs3.vocabulary import remove as remove
    from sign_zs3.vocabulary import rename as rename
    from sign_zs3.vocabulary import save_model as save_model
    from sign_zs3.vocabulary import self_train as self_train
    from sign_zs3.vocabulary import weigh as weigh

_HOMES = {
    "callbacks": "ScheduleProgressBar",
    "commands.configuration": "load_recipe",
    "data.datamodules": "COCOStuffDataModule FolderDataModule PascalContextDataModule ShapesDataModule VOCDataModule "
    "ZeroShotDataModule",
    "embeddings": "ClassTable",
    "errors": "UserError",
    "metrics": "GZSLMeanIoU",
    "models": "Segmenter",
    "protocol": "Protocol",
    "released": "import_released",
    "tasks": "CaGNetModule SIGNModule SPNetModule ZS3Module ZeroShotTask load_segmenter load_task",
    "vocabulary": "extend remove rename save_model self_train weigh",
}
_HOME = {name: home for home, names in _HOMES.items() for name in names.split()}
__all__ = sorted(["__version__", *_HOME])


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'sign_zs3' has no attribute {name!r}")
    return getattr(importlib.import_module(f"sign_zs3.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
