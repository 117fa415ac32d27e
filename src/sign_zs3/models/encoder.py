"""E: DeepLab-v2 on a residual backbone (section 3.2; Chen et al., "DeepLab", TPAMI 2017)."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
BACKBONES = (*RESNETS, "small")


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


def build_backbone(name: str, output_stride: int = 8, weights: str | None = None) -> tuple[nn.Module, int]:
    """Build a fully convolutional backbone.

    Any module that maps (N, 3, H, W) to (N, channels, H / stride, W / stride) serves `Encoder`; this
    function makes the ones that come with the library.

    A ResNet's last stages trade their stride for dilation. As in torchvision, whose residual blocks stride in
    the 3x3 convolution, the first block of such a stage keeps the dilation before it: then the dilated network,
    sampled on the coarse grid, computes exactly what the strided one does, and ImageNet weights fit. (The Caffe
    DeepLab-v2 strides in the 1x1 and dilates every block: the same identity for its blocks.)

    Args:
        name: One of ``resnet18 resnet34 resnet50 resnet101 resnet152`` (torchvision), or ``small``: a residual
            network of 0.2 M parameters and stride 4 for images of some 64 pixels, trained from scratch.
        output_stride: 8 or 16 for a ResNet; ``small`` has 4 and leaves this alone.
        weights: None, the name of a torchvision weights enum member (``IMAGENET1K_V2``, ``DEFAULT``), or a
            local file: a ``.pth`` state dict (read with ``weights_only=True``) or ``.safetensors``.

    Returns:
        The backbone and its number of output channels.

    Raises:
        UserError: Unknown name or stride, or weights that are not there or do not fit.
    """
    if name == "small":
        if weights is not None:
            raise UserError(f"weights: found {weights!r} for the backbone 'small', which has none: leave it null")
        return _small_backbone(), 64
    if name not in RESNETS:
        near = difflib.get_close_matches(name, BACKBONES, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"backbone: found {name!r}, expected one of {', '.join(BACKBONES)}{hint}")
    if output_stride not in (8, 16):
        raise UserError(f"output_stride: found {output_stride}, expected 8 or 16")

    from torchvision.models import get_model, get_model_weights

    local = weights is not None and Path(weights).suffix in {".pth", ".pt", ".safetensors"}
    enum = None
    if weights is not None and not local:
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
    if local:
        assert weights is not None
        _load_local(network, Path(weights))
    dilation = 1
    stages = [(network.layer3, output_stride == 8), (network.layer4, True)]
    for stage, dilate in stages:
        if dilate:
            _trade_stride(stage, dilation)
            dilation *= 2
    backbone = nn.Sequential(
        network.conv1, network.bn1, network.relu, network.maxpool,
        network.layer1, network.layer2, network.layer3, network.layer4,
    )  # fmt: skip
    return backbone, int(network.fc.in_features)


def _small_backbone() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, 2, 1, bias=False),
        nn.BatchNorm2d(32),
        nn.ReLU(inplace=True),
        ResidualBlock(32, 64, stride=2),
        ResidualBlock(64, 64),
        ResidualBlock(64, 64, dilation=2),
    )


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


def _load_local(network: nn.Module, path: Path) -> None:
    if not path.is_file():
        raise UserError(f"weights: {path} is not there: give a torchvision weights name or an existing file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"weights: {path} cannot be read as a plain state dict: {reason}") from error
    wanted = network.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    missing = [key for key in wanted if not key.startswith("fc.") and key not in state]
    misfit = [k for k, v in state.items() if k not in wanted or v.shape != wanted[k].shape]
    if missing or misfit:
        first = (missing + misfit)[0]
        raise UserError(
            f"weights: {path} does not fit the backbone: {len(missing)} entries missing and {len(misfit)} that do "
            f"not fit, the first {first!r}: give a state dict of the same torchvision ResNet"
        )
    network.load_state_dict(state, strict=False)


class Encoder(nn.Module):
    """DeepLab-v2: a dilated backbone and the *sum* of parallel dilated 3x3 convolutions.

    Args:
        backbone: A name known to `build_backbone`, or a pair of a module (N, 3, H, W) -> (N, channels, h, w)
            and its number of channels.
        feature_dim: D, the channels of E(x); 600 in the published models.
        output_stride: 8 or 16 (ResNets).
        weights: See `build_backbone`.
        freeze_batch_norm: Keep batch-norm statistics and parameters of the backbone as they are. None: frozen
            where `weights` are given, as in DeepLab-v2; trained where the network starts from scratch, since
            normalisation by its initial statistics would be none.
        dilations: Dilations of the head's convolutions.
        input_scales: Scales at which the image is read; the maximum over scales is taken per element (the
            released code uses 1, 0.75 and 0.5; the paper does not mention it).
    """

    def __init__(
        self,
        backbone: str | tuple[nn.Module, int] = "resnet101",
        feature_dim: int = 600,
        output_stride: int = 8,
        weights: str | None = None,
        freeze_batch_norm: bool | None = None,
        dilations: Sequence[int] = (6, 12, 18, 24),
        input_scales: Sequence[float] = (1.0,),
    ) -> None:
        super().__init__()
        if isinstance(backbone, str):
            backbone = build_backbone(backbone, output_stride, weights)
        self.backbone, channels = backbone
        self.head = nn.ModuleList(
            nn.Conv2d(channels, feature_dim, 3, padding=dilation, dilation=dilation) for dilation in dilations
        )
        for convolution in self.head:
            assert isinstance(convolution, nn.Conv2d) and convolution.bias is not None
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)
        self.input_scales = tuple(input_scales)
        self.freeze_batch_norm = weights is not None if freeze_batch_norm is None else freeze_batch_norm
        if self.freeze_batch_norm:
            for module in self._batch_norms():
                module.requires_grad_(False)
        self.train(self.training)

    def _batch_norms(self) -> list[nn.Module]:
        return [m for m in self.backbone.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]

    def train(self, mode: bool = True) -> Encoder:
        """Switch to training or evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self._batch_norms():
                module.eval()
        return self

    def _encode(self, images: Tensor) -> Tensor:
        x = self.backbone(images)
        total: Tensor = self.head[0](x)
        for convolution in self.head[1:]:
            total = total + convolution(x)
        return total

    def forward(self, images: Tensor) -> Tensor:
        """Encode images.

        Args:
            images: (N, 3, H, W) float, normalised.

        Returns:
            E(x): (N, D, h, w) with h = ceil(H / stride), unbounded.
        """
        if self.input_scales == (1.0,):
            return self._encode(images)
        maps: list[Tensor] = []
        for scale in self.input_scales:
            size = [max(1, round(side * scale)) for side in images.shape[-2:]]
            scaled = F.interpolate(images, size, mode="bilinear", align_corners=False)
            x = self._encode(images if scale == 1.0 else scaled)
            if maps:
                x = F.interpolate(x, maps[0].shape[-2:], mode="bilinear", align_corners=False)
            maps.append(x)
        return torch.stack(maps).amax(dim=0)
