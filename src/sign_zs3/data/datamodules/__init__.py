"""Data modules for a Trainer."""

from __future__ import annotations

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.data.datamodules.shapes import ShapesDataModule
from sign_zs3.data.datamodules.voc import VOCDataModule

__all__ = ["ShapesDataModule", "VOCDataModule", "ZeroShotDataModule"]
