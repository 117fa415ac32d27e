"""LightningModules: they orchestrate the functions and networks."""

from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.cagnet import CaGNetModule
from sign_zs3.tasks.generative import GenerativeTask
from sign_zs3.tasks.loading import METHODS, load_segmenter, load_task
from sign_zs3.tasks.schedule import Phase, Schedule
from sign_zs3.tasks.sign import SIGNModule
from sign_zs3.tasks.spnet import SPNetModule
from sign_zs3.tasks.zs3 import ZS3Module

__all__ = [
    "METHODS",
    "CaGNetModule",
    "GenerativeTask",
    "Phase",
    "SIGNModule",
    "SPNetModule",
    "Schedule",
    "ZS3Module",
    "ZeroShotTask",
    "load_segmenter",
    "load_task",
]
