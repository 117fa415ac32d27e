"""Lightning callbacks: checkpoints by the schedule, the progress bar, predicted maps as files, pictures."""

from sign_zs3.callbacks.checkpoint import ScheduleCheckpoint
from sign_zs3.callbacks.pictures import PictureLogger
from sign_zs3.callbacks.prediction import PredictionWriter
from sign_zs3.callbacks.progress import ScheduleProgressBar

__all__ = ["PictureLogger", "PredictionWriter", "ScheduleCheckpoint", "ScheduleProgressBar"]
