"""Where the cells of a backbone's levels look in an image: measured when it is built, never assumed by its name."""

from statistics import median
from typing import NamedTuple

import torch
from torch import Tensor
from torch.func import functional_call

from sign_zs3.errors import UserError
from sign_zs3.files import line_of
from sign_zs3.functional.geometry import Axis, map_size
from sign_zs3.models.backbones.build import Backbone
from sign_zs3.models.weights import evaluating

SMALLEST = 64
"""Side in pixels of the images on which a backbone is tried, at least."""


class Places(NamedTuple):
    """Where a backbone looks, and what sizes it takes.

    Attributes:
        axes: Where the cells of each level look, along either side of the image.
        step: Images are padded at the right and at the bottom, to the next multiple of `step` and `extra` more.
        extra: 1 where a cell looks at the image's first pixel and one at its last; else 0.
    """

    axes: tuple[Axis, ...]
    step: int
    extra: int

    def padded(self, length: int) -> int:
        """Return the length of a side of `length` pixels once it is padded."""
        # no negative numbers, which graphs of ONNX round the other way
        return (length - self.extra + self.step - 1) // self.step * self.step + self.extra


def measure_places(backbone: Backbone) -> Places:
    """Measure where the cells of all levels look.

    A cell looks at the centre of the gradient of its value with respect to the image. The weights are random numbers,
    always the same ones, so that the places of a network do not depend on its training. A symmetrically padded network
    has a cell at the first pixel, one of patches at the middle of the first patch; the nearer of the two is taken,
    unless what is measured lies beyond both: there are networks that shift their maps.

    Raises:
        UserError: It does not give a cell per stride at any size.
    """
    step, fault = max(backbone.strides), Exception()
    with evaluating(backbone), torch.enable_grad():
        for extra in (1, 0):
            side = -(-max(4 * step, SMALLEST) // step) * step
            sides = (side + extra, side + step + extra)
            wanted = [(side // stride + extra, (side + step) // stride + extra) for stride in backbone.strides]
            try:
                maps = [map_size(level) for level in backbone(torch.zeros(1, 3, *sides))]
            except RuntimeError as error:  # sizes that do not fit together
                fault = error
                continue
            if maps == wanted:
                return Places(tuple(_axes(backbone, side + extra)), step, extra)
            fault = ValueError(f"{sides[0]} x {sides[1]} pixels give maps of {maps}, expected {wanted}")
    raise UserError(f"backbone: gives no cell per stride at any size ({line_of(fault)[:200]}): take another network")


def _axes(backbone: Backbone, side: int) -> list[Axis]:
    strides, step = backbone.strides, max(backbone.strides)
    count = max(2, step // min(strides))  # the cells between two of the coarsest level
    generator = torch.Generator().manual_seed(0)
    images = torch.empty(count, 3, side, side)
    if images.is_meta:  # nothing can be measured, and nothing will be read
        return [Axis(stride) for stride in strides]
    images.normal_(generator=generator).requires_grad_()
    maps = functional_call(backbone, _random_weights(backbone, generator), (images,))
    offsets, pixels = [], torch.arange(side, dtype=torch.float64)
    for level, stride in zip(maps, strides, strict=True):
        middle, period = level.shape[-1] // 2, step // stride
        cells = [middle - period // 2 + image % period for image in range(count)]
        channels = torch.randn(level.shape[1], generator=generator)
        read = torch.stack([channels @ level[image, :, cell, cell] for image, cell in enumerate(cells)]).sum()
        (gradient,) = torch.autograd.grad(read, images, retain_graph=True)
        energy = gradient.double().square().sum(dim=1)
        centre = sum((energy.sum(dim) @ pixels) / energy.sum((1, 2)) for dim in (1, 2)) / 2
        offsets.append(float((centre - stride * torch.tensor(cells)).nan_to_num().mean()))
    # as part of the way from the first pixel to the middle of a patch; a single level says little
    part = median(2 * offset / max(stride - 1, 1) for offset, stride in zip(offsets, strides, strict=True))
    if -0.5 <= part < 1.5:
        return [Axis(stride, (stride - 1) / 2 if part >= 0.5 else 0) for stride in strides]
    return [Axis(stride, round(2 * offset) / 2) for stride, offset in zip(strides, offsets, strict=True)]


def _random_weights(backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for name, value in backbone.named_parameters():
        if value.ndim > 1:
            weights[name] = torch.randn(value.shape, generator=generator) * (2 / value[0].numel()) ** 0.5
        else:
            weights[name] = torch.zeros_like(value) if name.endswith("bias") else torch.ones_like(value)
    for name, buffer in backbone.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            weights[name] = torch.zeros_like(buffer) if name.endswith("mean") else torch.ones_like(buffer)
    return weights
