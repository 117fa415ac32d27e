"""LightningModules: they orchestrate the functions and networks, and hold no equation."""

from sign_zs3.tasks.base import ZeroShotTask as ZeroShotTask
from sign_zs3.tasks.cagnet import CaGNetModule as CaGNetModule
from sign_zs3.tasks.generative import GenerativeTask as GenerativeTask
from sign_zs3.tasks.loading import METHODS as METHODS
from sign_zs3.tasks.loading import load_segmenter as load_segmenter
from sign_zs3.tasks.loading import load_task as load_task
from sign_zs3.tasks.schedule import Phase as Phase
from sign_zs3.tasks.schedule import Schedule as Schedule
from sign_zs3.tasks.sign import SIGNModule as SIGNModule
from sign_zs3.tasks.spnet import SPNetModule as SPNetModule
from sign_zs3.tasks.zs3 import ZS3Module as ZS3Module
