"""LightningModules: they orchestrate the functions and networks, and hold no equation."""

from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.schedule import Phase, Schedule
from sign_zs3.tasks.sign import SIGNModule

__all__ = ["Phase", "SIGNModule", "Schedule", "ZeroShotTask"]
