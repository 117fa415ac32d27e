"""Residual backbones: torchvision's ResNets with dilation in the place of strides, and a small one for small images."""

from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError
from sign_zs3.models.backbones.base import Backbone, ChainBackbone
from sign_zs3.models.backbones.weights import load_weights

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with batch norm around an identity (or 1x1) shortcut; the first one takes the stride."""

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


def resnet(name: str, output_stride: int, weights: str | None, path: Path | None) -> Backbone:
    """Make a ResNet with the weights of torchvision of that name, or of a file; see `build_backbone`."""
    from torchvision.models import get_model, get_model_weights

    published = get_model_weights(name).__members__
    if weights is not None and path is None and weights not in published:
        raise UserError(
            f"weights: found {weights!r} for {name}, expected null, one of {', '.join(published)}, "
            "or a .pth or .safetensors file"
        )
    network = get_model(name, weights=weights if path is None else None)
    channels = int(network.fc.in_features)
    network.fc = nn.Identity()
    if path is not None:
        load_weights(network, path, name)
    dilation = 1
    for stage, dilate in ((network.layer3, output_stride == 8), (network.layer4, output_stride < 32)):
        if dilate:
            _trade_stride(stage, dilation)
            dilation *= 2
    return ChainBackbone(
        list(network.children())[:8],  # all but the pooling and what was the classifier
        taps=(4, 5, 6, 7),
        channels=(channels // 8, channels // 4, channels // 2, channels),
        strides=(4, 8, min(16, output_stride), output_stride),
    )


def small() -> Backbone:
    """Make the network of 0.2 M parameters and one level of stride 4."""
    stem = (nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
    blocks = (ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64), ResidualBlock(64, 64, dilation=2))
    return ChainBackbone((*stem, *blocks), taps=(5,), channels=(64,), strides=(4,))


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
