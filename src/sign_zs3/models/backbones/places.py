"""Where the cells of a backbone's levels look in an image: measured when it is built, never assumed by its name."""

import copy

import torch
from torch import Tensor, nn
from torch.func import functional_call

from sign_zs3.errors import UserError
from sign_zs3.files import line_of
from sign_zs3.functional.geometry import Axis, Places, map_size
from sign_zs3.models.backbones.base import Backbone
from sign_zs3.models.weights import evaluating

SMALLEST = 64
"""Side in pixels of the images on which a backbone is tried, at least."""
COUNT = 16
"""Images whose gradients say where a network looks whose mirror images do not."""


def measure_places(backbone: Backbone) -> Places:
    """Measure at which sizes the cells of all levels lie evenly in the image, and where they look then.

    Random weights, always the same ones, are made such that each kernel is its own mirror image. At sizes where the
    maps of the mirror image are then the mirrored maps, the outermost cells lie as far from either end. So a
    symmetrically padded network has cells at the first and the last pixel (of sides of a multiple of its stride and
    one more), and one of patches at their middles. Where no size does so, since the network shifts its maps, a cell is
    taken to look at the centre of the gradient of its value with respect to the image, to half a pixel.

    A backbone that knows its places is not measured.

    Raises:
        UserError: It does not give a cell per stride at any size, or its cells look elsewhere along rows than along
            columns.
    """
    if backbone.places is not None:
        return backbone.places
    step, generator = max(backbone.strides), torch.Generator().manual_seed(0)
    side = -(-max(4 * step, SMALLEST) // step) * step
    weights, fits, fault = _random_weights(backbone, generator), None, Exception()
    powers = [2**power for power in range(2, step.bit_length())]
    with evaluating(backbone):
        for extra in (1, 0, -1, *(more for power in powers for more in (power - 1, 1 - power))):
            # far apart, so that no other stride gives as many cells
            places, sides = Places((), step, extra), (side + extra, side + 4 * step + extra)
            counts = [tuple(places.cells(length, stride) for length in sides) for stride in backbone.strides]
            image = torch.empty(1, 3, *sides, dtype=torch.float64)
            image = image if image.is_meta else image.normal_(generator=generator)
            try:
                with torch.no_grad():
                    maps, mirrored = (functional_call(backbone, weights, (x,)) for x in (image, image.flip((-2, -1))))
            except (RuntimeError, ValueError, AssertionError) as error:  # sizes that do not fit together
                fault = error
                continue
            if (found := [map_size(level) for level in maps]) != counts:
                fault = ValueError(f"{sides[0]} x {sides[1]} pixels give maps of {found}, expected {counts}")
                continue
            fits = fits or places
            pairs = zip(maps, (level.flip((-2, -1)) for level in mirrored), strict=True)
            if image.is_meta or all(bool((a - b).norm() <= 1e-3 * a.norm()) for a, b in pairs):
                # as far from the first pixel as from the last
                rest = [sides[0] - 1 - s * (rows - 1) for s, (rows, _) in zip(backbone.strides, counts, strict=True)]
                return places._replace(axes=tuple(Axis(s, r / 2) for s, r in zip(backbone.strides, rest, strict=True)))
        if fits is not None:
            return fits._replace(axes=_by_gradients(backbone, weights, side + fits.extra, generator))
    raise UserError(f"backbone: gives no cell per stride at any size ({line_of(fault)[:200]}): take another network")


def _by_gradients(
    backbone: Backbone, weights: dict[str, Tensor], side: int, generator: torch.Generator
) -> tuple[Axis, ...]:
    """Measure by the centres of the gradients, squared, of a cell in each of some images, at all phases of its level.

    Kernels and pools that take means, so that nothing is cut off and no single input chosen, give gradients that have
    hardly any noise.
    """
    backbone = _with_means(backbone)
    kernels = {name: value.abs() for name, value in weights.items() if value.ndim > 1}
    means = {name: value / value.flatten(1).sum(1).view(-1, *[1] * (value.ndim - 1)) for name, value in kernels.items()}
    images = torch.rand(COUNT, 3, side, side, generator=generator, dtype=torch.float64).requires_grad_()
    axes, pixels = [], torch.arange(side, dtype=torch.float64)
    with torch.enable_grad():
        maps = functional_call(backbone, weights | means, (images,))
        for level, stride in zip(maps, backbone.strides, strict=True):
            period = max(backbone.strides) // stride
            first = level.shape[-1] - period
            # as many on either side of the middle, so that what the border cuts off evens out
            cells = [(first + (image >= COUNT // 2)) // 2 + image % period for image in range(COUNT)]
            channels = torch.rand(level.shape[1], generator=generator, dtype=torch.float64)
            read = torch.stack([channels @ level[image, :, cell, cell] for image, cell in enumerate(cells)]).sum()
            (gradient,) = torch.autograd.grad(read, images, retain_graph=True)
            mass = gradient.square().sum(dim=1)
            centres = (mass.sum(dim) @ pixels / mass.sum((1, 2)) - stride * torch.tensor(cells) for dim in (2, 1))
            rows, columns = (float(centre.nan_to_num().mean()) for centre in centres)
            if abs(rows - columns) > 1:
                raise UserError(
                    f"backbone: found cells of stride {stride} that look at pixel {rows:.1f} of the rows and "
                    f"{columns:.1f} of the columns, expected the same of both: take another network"
                )
            axes.append(Axis(stride, round(rows + columns) / 2))
    return tuple(axes)


def _with_means(backbone: Backbone) -> Backbone:
    """Return a copy that takes means where the backbone takes maxima."""
    twin = copy.deepcopy(backbone)
    for name, pool in list(twin.named_modules()):
        if isinstance(pool, nn.MaxPool2d):
            sides = pool.kernel_size, pool.stride, pool.padding
            above, _, last = name.rpartition(".")
            setattr(twin.get_submodule(above), last, nn.AvgPool2d(*sides, ceil_mode=pool.ceil_mode))
    return twin


def _random_weights(backbone: Backbone, generator: torch.Generator) -> dict[str, Tensor]:
    """Return random weights whose kernels are their own mirror images, norms that do nothing, and no biases.

    They are float64: in a deep network the rounding of float32 grows to a per cent of the maps. Weights of one shape
    are the same tensor, drawn once.
    """
    kernels: dict[torch.Size, Tensor] = {}
    weights = {name: buffer.double() for name, buffer in backbone.named_buffers() if buffer.is_floating_point()}
    for name, value in (*weights.items(), *backbone.named_parameters()):
        if name.endswith(("bias", "running_mean")):
            weights[name] = torch.zeros(value.shape, dtype=torch.float64)
        elif name.endswith("running_var") or value.ndim < 2:
            weights[name] = torch.ones(value.shape, dtype=torch.float64)
        elif name not in weights:
            if value.shape not in kernels:
                drawn = torch.empty(value.shape, dtype=torch.float64)
                std = (2 / value[0].numel()) ** 0.5
                drawn = drawn if drawn.is_meta else drawn.normal_(std=std, generator=generator)
                if value.ndim == 4:
                    drawn = (drawn + drawn.flip(-1) + drawn.flip(-2) + drawn.flip((-2, -1))) / 2
                kernels[value.shape] = drawn
            weights[name] = kernels[value.shape]
    return weights
