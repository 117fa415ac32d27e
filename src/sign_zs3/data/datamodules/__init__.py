"""Data modules for a Trainer."""

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datamodules.folder import FolderDataModule
from sign_zs3.data.datamodules.images import ImageDataModule
from sign_zs3.data.datamodules.published import COCOStuffDataModule, PascalContextDataModule, VOCDataModule
from sign_zs3.data.datamodules.shapes import ShapesDataModule

__all__ = [
    "COCOStuffDataModule",
    "FolderDataModule",
    "ImageDataModule",
    "PascalContextDataModule",
    "ShapesDataModule",
    "VOCDataModule",
    "ZeroShotDataModule",
]
