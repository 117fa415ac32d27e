"""A GPU that is full, fails, is missing or has an old driver, as torch tells of it: one line each."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sign_zs3 import UserError
from sign_zs3.cli import main
from sign_zs3.commands.trainer import check_accelerator
from sign_zs3.models.segmenter import Segmenter
from sign_zs3.tasks import steps
from tests.conftest import Fit, quiet_trainer, tiny_data
from tests.reliability.programs import write_config

FULL = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 23.64 GiB of which "
    "1.19 GiB is free. Including non-PyTorch memory, this process has 22.44 GiB memory in use."
)
FAILED = """CUDA error: unspecified launch failure
Search for `cudaErrorLaunchFailure' in https://docs.nvidia.com/cuda/cuda-runtime-api for more information.
CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect.
For debugging consider passing CUDA_LAUNCH_BLOCKING=1"""
OLD = """The NVIDIA driver on your system is too old (found version 11040). Please update your GPU driver by downloading
and installing a new version from the URL: http://www.nvidia.com/Download/index.aspx"""


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise error

    return fail


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            FULL,
            "error: batch_size: found 2 crops of 32 x 32 pixels, too much for the GPU's memory (it was asked for 2.00 "
            "GiB more, of 23.64 GiB): lower --data.batch_size, with --model.accumulate N to make up for it, or "
            "--data.crop_size",
        ),
        (
            RuntimeError(FAILED),
            "error: the GPU failed (unspecified launch failure); checkpoints written before stay as they are: look at "
            "it with nvidia-smi, and go on with --ckpt_path last",
        ),
        (
            RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
            "error: the GPU failed (CUDNN_STATUS_EXECUTION_FAILED); checkpoints written before stay as they are: look "
            "at it with nvidia-smi, and go on with --ckpt_path last",
        ),
        (
            RuntimeError("CUDA error: out of memory"),
            "error: the memory of the GPU is full (CUDA error: out of memory): lower sizes, or end other programs on "
            "it",
        ),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
            "error: the memory of the GPU is full (CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling "
            "`cublasCreate(handle)`): lower sizes, or end other programs on it",
        ),
        (
            RuntimeError("NCCL error in: ProcessGroupNCCL.cpp:3690, unhandled system error, NCCL version 2.27.5"),
            "error: the GPU failed (ProcessGroupNCCL.cpp:3690, unhandled system error, NCCL version 2.27.5); "
            "checkpoints written before stay as they are: look at it with nvidia-smi, and go on with --ckpt_path last",
        ),
    ],
)
def test_a_training_that_the_gpu_cannot_go_on_with_ends_in_one_line(
    error: Exception, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(steps, "supervised_losses", raising(error))
    assert main(["fit", "--config", str(write_config(tmp_path, {}))]) == 1
    assert capsys.readouterr().err.strip().splitlines()[-1] == line


def test_images_that_are_too_large_are_named(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, data = fit(), tiny_data()
    monkeypatch.setattr(Segmenter, "scores", raising(FULL))
    with pytest.raises(UserError, match=r"^eval_batch_size: found 2 images of 32 x 32 pixels, too much .*: lower"):
        quiet_trainer(tmp_path).test(model, data, verbose=False)
    with pytest.raises(UserError, match=r"^window: found 48 x 40 pixels, too much .* of 23\.64 GiB\): give a smaller"):
        model.segmenter.segment(torch.zeros(3, 48, 40), window=0)


@pytest.mark.parametrize("found", ["gpu", "cuda"])
def test_a_gpu_that_torch_cannot_use_is_refused_with_its_reason(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for error, why in (
        (RuntimeError(OLD), r"The NVIDIA driver on your system is too old \(found version 11040\)"),
        (
            RuntimeError("Found no NVIDIA driver on your system. Please check that"),
            "Found no NVIDIA driver on your system",
        ),
        (AssertionError("Torch not compiled with CUDA enabled"), "Torch not compiled with CUDA enabled"),
    ):
        monkeypatch.setattr(torch.cuda, "init", raising(error))
        expected = (
            rf"^trainer\.accelerator: found {found}, but torch finds none on this machine \({why}\): use auto or cpu"
        )
        with pytest.raises(UserError, match=expected):
            check_accelerator(found)


def test_an_old_driver_is_told_of_where_the_cpu_takes_its_place(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "init", raising(RuntimeError(OLD)))
    with caplog.at_level(logging.WARNING):
        check_accelerator("auto")
    assert [record.getMessage() for record in caplog.records] == [
        "trainer.accelerator: no GPU is used (The NVIDIA driver on your system is too old (found version 11040)): "
        "update the driver, or go on without"
    ]
    caplog.clear()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for found in ("auto", None, "cpu", "cuda", "gpu"):
        check_accelerator(found)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    check_accelerator("cpu")  # nothing is left idle that was asked for
    assert not caplog.records
