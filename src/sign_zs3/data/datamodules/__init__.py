"""Data modules for a Trainer."""

from sign_zs3.data.datamodules.base import ZeroShotDataModule as ZeroShotDataModule
from sign_zs3.data.datamodules.coco_stuff import COCOStuffDataModule as COCOStuffDataModule
from sign_zs3.data.datamodules.folder import FolderDataModule as FolderDataModule
from sign_zs3.data.datamodules.images import ImageDataModule as ImageDataModule
from sign_zs3.data.datamodules.pascal_context import PascalContextDataModule as PascalContextDataModule
from sign_zs3.data.datamodules.shapes import ShapesDataModule as ShapesDataModule
from sign_zs3.data.datamodules.voc import VOCDataModule as VOCDataModule
