"""The program: picks the verb, and turns bad input into one line."""

import errno
import importlib
import logging
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from sign_zs3._version import __version__
from sign_zs3.commands import help, predict
from sign_zs3.commands.configuration import VERBS, at_home
from sign_zs3.errors import UserError

SPIN = "1000"
"""Turns for which a thread looks out for work before it sleeps, some microseconds."""


def main(args: list[str] | None = None) -> int:
    """Run a command line, that of the process by default; return its status.

    0, or 1 after one line on bad input, 2 for usage, 75 for a training that is to be gone on with (--trainer.max_time),
    130 and 143 after signals.
    """
    # albumentations asks a server for updates when it is imported.
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    # Lightning 2.6 calls jsonargparse 4.49 and later by old names; a user can do nothing about it.
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    _let_threads_sleep()
    given = list(sys.argv[1:] if args is None else args)
    debug = "--debug" in given
    given = [at_home(arg) for arg in given if arg != "--debug"]
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_AboveBars()])
    logging.getLogger("sign_zs3").setLevel(logging.INFO)
    # which process of several died, and how, before the others are killed
    logging.getLogger("lightning_fabric.strategies.launchers").setLevel(logging.INFO)
    # Hints on the own code of Lightning and of torch.compile, and on speed, which a user can do nothing about.
    warnings.filterwarnings("ignore", ".*LeafSpec.*")
    warnings.filterwarnings("ignore", ".*no pre-optimization state was saved")
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    warnings.filterwarnings("ignore", "Total length of `list` across ranks is zero")  # the log counts them
    warnings.filterwarnings("ignore", ".*smaller than the logging interval.*")
    warnings.filterwarnings("ignore", ".*in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")
    try:
        return _run(given)
    except SystemExit as stop:
        interrupted = isinstance(stop.__context__, KeyboardInterrupt)  # Lightning makes 1 of it
        # Lightning's exception is not imported here, since that takes seconds
        if not interrupted and type(stop).__name__ != "SIGTERMException":
            raise
        if any(int(os.environ.get(name, "0")) > 0 for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID")):
            return 0  # another status than 0 would have Lightning or srun kill rank 0, which may not be through yet
        if interrupted:
            return 130
        print(f"stopped by {stop.code or 'SIGTERM'}", file=sys.stderr)
        return 143
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        print(_one_line(error), file=sys.stderr)
        return 1


class _AboveBars(logging.Handler):
    """Write each message on a line of its own, above the progress bars that are on the screen."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        tqdm.write(self.format(record), file=sys.stderr)


def _let_threads_sleep() -> None:
    """Have OpenMP's threads sleep soon where they wait for each other, unless the user has said how they wait.

    By default they spin, which gains a few percent alone and costs a multiple beside another busy process.
    Read when torch is loaded, by this process and those that it starts.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN  # of GNU's library, in torch's wheels for Linux
        os.environ["KMP_BLOCKTIME"] = "0"  # milliseconds; of LLVM's and Intel's


def _run(args: list[str]) -> int:
    if args == ["--version"]:
        print(f"sign-zs3 {__version__}")
        return 0
    own = args[:1] == ["predict"] and predict.takes(args[1:])
    page, args = help.asked(args, own)
    if page:
        print(page)
        return 0
    if own or (args[:1] and args[0] in VERBS):
        with _ended_by_sigterm():  # of trainings, checkpoints look out for it
            return int(importlib.import_module(f"sign_zs3.commands.{args[0]}").run(args[1:]))
    from sign_zs3.commands.training import ZeroShotCLI

    # their import has set both to INFO: whether there is a GPU, a tip for another product, what is restored
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return ZeroShotCLI(args).status


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let SIGTERM end the program as an exception does, so that files are closed, and what is half done is removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: object) -> None:
        print("stopped by SIGTERM", file=sys.stderr)
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _one_line(error: Exception) -> str:
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, UserError):
        cause = cause.__cause__ or cause.__context__
    text = " ".join(str(cause or error).split())
    if cause is not None:
        return f"error: {text}"
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return f"error: {str(error.filename)[:100]}...: found a name longer than a file's may be; correct the path"
    # jsonargparse keeps only the text of what a constructor raised; what it would have taken too, such as null, stands
    # first in older versions, last in newer ones
    skipped, end = r"(?:- Expected a <class '\w+'> )*", "(?: Given value| - Expected| - Not a valid|$)"
    if wrapped := re.search(f"Errors: {skipped}- (.*?){end}", text):
        kind = re.search(r"class_path='(?:[\w.]+\.)?(\w+)'", text)
        whose = f"{kind[1]}: " if kind and ": found " not in wrapped[1] and kind[1] not in wrapped[1] else ""
        return f"error: {whose}{wrapped[1]}"
    if re.search(r"gloo.*(closed|reset) by peer|NCCL.*remote process exited", text):
        return "error: another process of this run has ended: see its own error, and go on with --ckpt_path last"
    if type(error).__name__ == "OutOfMemoryError" or re.search("_STATUS_ALLOC_FAILED|CUDA error: out of memory", text):
        full = f"the memory of the GPU is full ({text.split('. ')[0][:200]})"
        return f"error: {full}: lower sizes, or end other programs on it"
    ends = "(?: Search for | CUDA kernel errors | Compile with |$)"
    if failed := re.search(rf"(?:CUDA(?: driver)?|cuDNN|NCCL) error(?: in)?: (.+?){ends}", text):
        return (
            f"error: the GPU failed ({failed[1][:200]}); checkpoints written before stay as they are: look at it with "
            "nvidia-smi, and go on with --ckpt_path last"
        )
    if "Expected more than 1 value per channel" in text:
        cell = "one cell in a batch of one image, which has no variance for batch normalisation"
        return f"error: crop_size: found {cell}, expected more: raise it, or batch_size"
    # raised by torch wherever the program is when a worker ends
    if worker := re.search(r"DataLoader worker \(pid.*? (?:killed by signal: \w+|exited unexpectedly)", text):
        return f"error: num_workers: {worker.group(0)}: lower --data.num_workers if memory ran out"
    return f"error: {type(error).__name__}: {text or 'no message'} (--debug shows the traceback)"
