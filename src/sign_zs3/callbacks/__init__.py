"""Lightning callbacks: checkpoints by the schedule, the progress bar, predicted maps as files."""

from sign_zs3.callbacks.checkpoint import ScheduleCheckpoint
from sign_zs3.callbacks.prediction import PredictionWriter
from sign_zs3.callbacks.progress import ScheduleProgressBar

__all__ = ["PredictionWriter", "ScheduleCheckpoint", "ScheduleProgressBar"]
