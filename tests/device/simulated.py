"""A device that is simulated: its tensors compute on the CPU, but claim another device and refuse the CPU's.

PyTorch lets a process register one private device. Here it is called ``sim``, and every operation on its tensors runs
on plain CPU tensors inside of them. So a run on it gives the CPU's numbers bit by bit, a tensor that was left on the
CPU is an error as on a GPU, and each place where the host would wait for a GPU is seen. `register` changes the whole
process, so tests run what needs the device in a process of its own.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch
from pytorch_lightning.accelerators import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map
from torch.utils.backend_registration import _DummyBackendModule, _setup_privateuseone_for_python_backend

SOURCE = Path(__file__).parents[2] / "src" / "sign_zs3"
NAME = "sim"

# their results have sizes that depend on values, so the host waits for these
_SIZED_BY_VALUES = {
    "nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive", "bincount",
    "repeat_interleave", "equal", "histc", "combinations",
}  # fmt: skip
_MIXED = {"copy_", "_to_copy", "_copy_from"}
_INDEXED = {"index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"}


class Event(NamedTuple):
    """Something that happened between host and device.

    Attributes:
        kind: ``to device`` or ``to host``: a copy; ``value``: a result whose value or size the host asks for.
        waits: Whether the host waits for the device.
        operation: Of ATen.
        place: ``file:line function`` in the library, the innermost; where none is on the stack, in other code.
        numbers: How many numbers are copied or asked for.
    """

    kind: str
    waits: bool
    operation: str
    place: str
    numbers: int


class SimulatedTensor(torch.Tensor):
    """A tensor that says it is on the simulated device; its numbers are in `held`, on the CPU."""

    held: torch.Tensor

    @staticmethod
    def __new__(cls, held: torch.Tensor, requires_grad: bool = False) -> SimulatedTensor:
        made: SimulatedTensor = torch.Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=torch.device(NAME, 0), requires_grad=requires_grad,
        )  # fmt: skip
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return _dispatch(func, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.cpu().__reduce_ex__(protocol)  # type: ignore[no-untyped-call]

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"{self.held!r} on {NAME}"


class _Events:
    """What happened since recording began; operations of backward passes come from other threads."""

    def __init__(self) -> None:
        self.found: list[Event] = []
        self.on = False
        self.lock = threading.Lock()

    def add(self, kind: str, waits: bool, operation: str, numbers: int) -> None:
        if self.on:
            with self.lock:
                self.found.append(Event(kind, waits, operation, _place(), numbers))


_events = _Events()
_library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]


@contextmanager
def recorded() -> Iterator[list[Event]]:
    """Record what happens between host and device in the block."""
    _events.found, _events.on = [], True
    try:
        yield _events.found
    finally:
        _events.on = False


def _place() -> str:
    frame: FrameType | None = sys._getframe(1)
    other = ""
    while frame is not None:
        path = Path(frame.f_code.co_filename)
        if path.is_relative_to(SOURCE):
            return f"{path.relative_to(SOURCE).as_posix()} {frame.f_code.co_name}"
        if not other and path != Path(__file__) and "_ops" not in path.name and "_dispatch" not in path.name:
            other = f"{'/'.join(path.parts[-2:])} {frame.f_code.co_name}"
        frame = frame.f_back
    return other


def _held(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.held if isinstance(tensor, SimulatedTensor) else tensor


def _is_here(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _dispatch(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name = func.overloadpacket.__name__
    leaves, _ = tree_flatten((args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    here = [t for t in tensors if isinstance(t, SimulatedTensor)]
    others = [t for t in tensors if not isinstance(t, SimulatedTensor) and t.dim() > 0]
    device = kwargs.get("device")
    if not here and not _is_here(device):
        return func(*args, **kwargs)
    if here and others and name not in _MIXED | _INDEXED:
        raise RuntimeError(f"{func}: expected all tensors on one device, found {NAME} and {others[0].device}")
    held = tree_map(lambda x: _held(x) if isinstance(x, torch.Tensor) else x, (args, kwargs))
    if "device" in held[1]:
        held[1]["device"] = torch.device("cpu")
    waits = not (kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2]))
    if name == "_to_copy":
        to_here = here if device is None else _is_here(device)
        if bool(here) != bool(to_here):
            _events.add("to device" if to_here else "to host", waits, name, args[0].numel())
        result = func(*held[0], **held[1])
        if not to_here:
            return result.clone() if result is held[0][0] else result
        return SimulatedTensor(result)
    if name in ("copy_", "_copy_from"):
        into, source = args[:2] if name == "copy_" else args[1::-1]
        if isinstance(into, SimulatedTensor) != isinstance(source, SimulatedTensor) and source.dim() >= 0:
            kind = "to device" if isinstance(into, SimulatedTensor) else "to host"
            _events.add(kind, waits, name, source.numel())
        _held(into).copy_(_held(source))
        return into
    if name in ("_local_scalar_dense", *_SIZED_BY_VALUES) and not kwargs.get("output_size"):
        _events.add("value", True, name, here[0].numel())
    if name in _INDEXED:
        indices = [i for i in args[1] if i is not None]
        if any(i.dtype in (torch.bool, torch.uint8) for i in indices):
            _events.add("value", True, f"{name} by a mask", indices[0].numel())
        if any(not isinstance(i, SimulatedTensor) for i in indices):
            _events.add("to device", True, f"{name} by indices of the host", indices[0].numel())
    results = func(*held[0], **held[1])
    if device is not None and not _is_here(device):  # such as zeros_like for another device
        return results
    return _as_arguments(func, args, kwargs, held, results)


def _as_arguments(func: Any, args: Any, kwargs: dict[str, Any], held: Any, results: Any) -> Any:
    """Wrap results; those that are arguments, changed in place, are the arguments themselves."""
    mine = {}
    for before, inside in zip(tree_flatten((args, kwargs))[0], tree_flatten(held)[0], strict=True):
        if isinstance(before, SimulatedTensor):
            mine[id(inside)] = before

    def wrapped(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        return mine[id(x)] if id(x) in mine else SimulatedTensor(x)

    return tree_map(wrapped, results)


class _Factories(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Make tensors on the simulated device, which no tensor among the arguments asks for."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _dispatch(func, args, kwargs or {})


def _add_kernel(name: str, overload: str) -> None:
    """Let PyTorch's own code, such as that of `torch.tensor`, use an operation past tensors' classes and modes."""
    func = getattr(getattr(torch.ops.aten, name), overload)
    full = f"{name}.{overload}" if overload != "default" else name
    _library.impl(full, lambda *args, **kwargs: _dispatch(func, args, kwargs), "PrivateUse1")  # type: ignore[no-untyped-call]


class _Event:
    """Of a stream, as of ``torch.cuda``: what was asked for before it is done."""

    def record(self) -> None:
        """Do nothing: all is done at once."""

    def synchronize(self) -> None:
        """Say that the host waits, if for work that should be done by now."""
        _events.add("event", True, "synchronize", 0)


class _Module(_DummyBackendModule):
    Event = _Event

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]

    def get_rng_state(self, device: Any = 0) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, device: Any = 0) -> None:
        """Leave it: the CPU's generator is the device's."""


class SimulatedAccelerator(Accelerator):
    """What Lightning needs to know of the device."""

    def setup_device(self, device: torch.device) -> None:
        """Do nothing."""

    def teardown(self) -> None:
        """Do nothing."""

    def get_device_stats(self, device: Any) -> dict[str, Any]:
        """Return nothing."""
        return {}

    @staticmethod
    def parse_devices(devices: Any) -> int:
        """Return how many."""
        return int(devices)

    @staticmethod
    def get_parallel_devices(devices: int) -> list[torch.device]:
        """Return the devices."""
        return [torch.device(NAME, index) for index in range(devices)]

    @staticmethod
    def auto_device_count() -> int:
        """There is one."""
        return 1

    @staticmethod
    def is_available() -> bool:
        """It always is."""
        return True

    @staticmethod
    def name() -> str:
        """Return its name."""
        return NAME


@contextmanager
def registered() -> Iterator[None]:
    """Register the device in this process for good, and have it make tensors in the block."""
    _setup_privateuseone_for_python_backend(NAME, _Module())
    for name, overload in (("empty", "memory_format"), ("empty_strided", "default"), ("_copy_from", "default")):
        _add_kernel(name, overload)
    with _Factories():  # type: ignore[no-untyped-call]
        yield
