"""Data modules for a Trainer."""

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datamodules.coco_stuff import COCOStuffDataModule
from sign_zs3.data.datamodules.folder import FolderDataModule
from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datamodules.pascal_context import PascalContextDataModule
from sign_zs3.data.datamodules.shapes import ShapesDataModule
from sign_zs3.data.datamodules.voc import VOCDataModule

__all__ = [
    "COCOStuffDataModule",
    "FolderDataModule",
    "ImageDataModule",
    "PascalContextDataModule",
    "ShapesDataModule",
    "VOCDataModule",
    "ZeroShotDataModule",
]
