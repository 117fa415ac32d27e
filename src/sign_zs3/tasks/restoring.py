"""From a checkpoint in memory to a model, whatever its method."""

from inspect import isabstract
from typing import Any, TypeVar

import pytorch_lightning as pl

from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.files import line_of
from sign_zs3.tasks.checkpoint import GIVE, stored_options, stored_protocol

_Task = TypeVar("_Task", bound=pl.LightningModule)


def restored(task: type[_Task], checkpoint: dict[str, Any], what: str, **given: Any) -> _Task:
    """Return the model that a checkpoint of `read_checkpoint` holds, in evaluation mode on the CPU.

    Args:
        task: The class of the model.
        checkpoint: Its weights become the model's.
        what: Names the checkpoint in errors.
        **given: Options in place of stored ones.

    Raises:
        UserError: It cannot be built, or does not fit the method `task`.
    """
    if isabstract(task):
        raise UserError(f"{task.__name__}: found no method, expected one such as SIGNModule: use it, or load_task")
    try:
        known = task.defaults()  # type: ignore[attr-defined]
        if odd := [name for name in given if name not in known]:
            raise UserError(f"{odd[0]}: found no such option of {task.__name__}{did_you_mean(odd[0], known)}")
        options = {name: value for name, value in stored_options(checkpoint).items() if name in known} | given
        model: Any = task(**options, protocol=stored_protocol(checkpoint).as_dict())
        model.take_up(checkpoint)
    except UserError as error:
        raise UserError(f"{what}: {line_of(error)}") from error
    except MemoryError:
        raise
    except Exception as error:  # whatever the networks make of a value that `fit` did not write
        raise UserError(f"{what} cannot be built ({type(error).__name__}: {line_of(error)[:200]}): {GIVE}") from error
    model.load_state_dict(checkpoint["state_dict"])  # of the same names and shapes, or it would have been refused
    restored_model: _Task = model.eval()
    return restored_model
