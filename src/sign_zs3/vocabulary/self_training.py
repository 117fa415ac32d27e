"""Self-training on images without masks."""

import copy
from collections.abc import Sequence
from pathlib import Path

import pytorch_lightning as pl

from sign_zs3.callbacks import ScheduleProgressBar
from sign_zs3.data.datamodules.folder import UnlabelledDataModule
from sign_zs3.errors import UserError, check_at_least
from sign_zs3.tasks.base import ZeroShotTask
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY
from sign_zs3.tasks.loading import task_of
from sign_zs3.tasks.schedule import Phase, Schedule
from sign_zs3.vocabulary.editing import as_checkpoint


def self_train(
    model: ZeroShotTask,
    images: Sequence[str | Path],
    *,
    iterations: int = 200,
    batch_size: int = 8,
    crop_size: int | None = None,
    accelerator: str = "auto",
    progress: bool = False,
) -> ZeroShotTask:
    """Train a model further on images without masks, by its own self-training over all classes.

    Every pixel gets the teacher's best class, with the weight that the model's options give it (by eq. 17 where they
    have no self-training). G is not trained: no label tells it what a feature belongs to.

    Args:
        model: A model that knows all its classes, such as `extend` returns; it is not changed.
        images: Image files, or folders of them.
        iterations: Length.
        batch_size: Crops per iteration.
        crop_size: Side of the crops in pixels; None: 321, or less where no image is larger.
        accelerator: As Lightning's Trainer has it.
        progress: Show a progress bar.

    Returns:
        A new model in evaluation mode.

    Raises:
        UserError: No image is found, one cannot be read, or the model cannot be self-trained.
    """
    check_at_least(1, iterations=iterations)
    if not bool(model.segmenter.known.all()):
        raise UserError("self_train: found classes that C was never taught: transfer or extend the model first")
    seed = int(model.hparams["seed"])
    data = UnlabelledDataModule(model.protocol, images, crop_size=crop_size, batch_size=batch_size, seed=seed)
    checkpoint = copy.deepcopy(as_checkpoint(model))
    options = checkpoint["hyper_parameters"]
    options |= {
        "phases": ["self_training"], "self_training_iterations": iterations, "pseudo_classes": "all", "rounds": 1,
        "init_from": None, "accumulate": 1, "resolution": "label",
    }  # fmt: skip
    if options["self_training"] == "none":
        options["self_training"] = "annealed"
    phase = Phase("self_training", "self_training", iterations)
    checkpoint[CHECKPOINT_KEY]["schedule"] = Schedule([phase], accumulate=1).state_dict()
    student = task_of(checkpoint, "the model")
    trainer = pl.Trainer(
        max_epochs=-1, accelerator=accelerator, devices=1, logger=False, enable_checkpointing=False,
        enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0, enable_progress_bar=progress,
        callbacks=[ScheduleProgressBar()] if progress else [],
    )  # fmt: skip
    trainer.fit(student, data)
    trained = copy.deepcopy(as_checkpoint(model))
    trained["state_dict"] = as_checkpoint(student.cpu())["state_dict"]
    return task_of(trained, "the model")
