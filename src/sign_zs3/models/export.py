"""A segmenter as one graph, preprocessing included: an ONNX file, or an archive of `torch.export`."""

import copy
import importlib.util
import io
import itertools
import json
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sign_zs3._version import __version__
from sign_zs3.errors import UserError, pip_install
from sign_zs3.files import refusing, replacing
from sign_zs3.functional.geometry import map_size, resize_map
from sign_zs3.models.inference import label_scores
from sign_zs3.models.segmenter import Segmenter

METADATA = "sign_zs3"
"""Name of the metadata: a property of an ONNX file, and with ``.json`` an extra file of a torch.export archive."""
FORMAT = 1
AGREEMENT = 0.999
_INPUT, _OUTPUTS, _AXES = "images", ["labels", "confidence"], ("batch", "height", "width")


class Labeller(nn.Module):
    """What is exported: raw images in, labels and confidence at their size out."""

    def __init__(self, segmenter: Segmenter, seen_penalty: float) -> None:
        super().__init__()
        self.segmenter, self.seen_penalty = segmenter, seen_penalty

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Map images (N, 3, H, W) uint8 to class indices (N, H, W) uint8 and their softmax, float32 in [0, 1]."""
        label, confidence = label_scores(self.segmenter.scores(images, self.seen_penalty), map_size(images))
        assert confidence is not None
        return label.to(torch.uint8), confidence


def describe(segmenter: Segmenter) -> dict[str, Any]:
    """Return the metadata of an exported file, in plain types."""
    config = segmenter.require_config()
    protocol, mean, std = config.protocol, list(config.image_mean), list(config.image_std)
    return {
        "format": FORMAT,
        "version": __version__,
        "classes": list(protocol.classes),
        "ids": list(protocol.ids),
        "unseen": list(protocol.unseen_classes),
        "known": segmenter.known.tolist(),
        "dataset": protocol.dataset,
        "split": protocol.split,
        "seen_penalty": config.seen_penalty,
        "left_out": {"flip": config.flip, "scales": list(config.scales)},
        "stride": segmenter.encoder.strides[0],
        "window": segmenter.window,
        "preprocessing": {"inside": True, "input": "uint8 RGB (N, 3, H, W)", "divisor": 255, "mean": mean, "std": std},
        "outputs": {"labels": "uint8 (N, H, W), index into classes", "confidence": "float32 (N, H, W), softmax"},
    }


def write_onnx(segmenter: Segmenter, path: Path) -> float:
    """Write an ONNX file of any batch size, height and width; the metadata is its property ``sign_zs3``, as JSON.

    Return the share of the pixels that onnxruntime labels as the segmenter does, NaN where it is not installed. Missing
    packages, a network that cannot be exported and labels that do not agree are UserErrors, and nothing is replaced.
    """
    check_onnx()
    model, program = _trace(segmenter)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the inside of torch and onnxscript, which a user can do nothing about
        made = torch.onnx.export(program, (), dynamo=True, verbose=False, input_names=[_INPUT], output_names=_OUTPUTS)
        assert made is not None
        proto = made.model_proto
    # the exporter calls the free axes s34, s14, s54
    axes = [list(value.type.tensor_type.shape.dim) for value in (*proto.graph.input, *proto.graph.output)]
    names = dict(zip([axis.dim_param for axis in axes[0] if axis.dim_param], _AXES, strict=True))
    for axis in itertools.chain(*axes):
        if axis.dim_param in names:  # setting it would delete a fixed size
            axis.dim_param = names[axis.dim_param]
    # shapes in between have the old names, and are only hints
    del proto.graph.value_info[:]
    proto.metadata_props.add(key=METADATA, value=json.dumps(describe(segmenter)))
    content = proto.SerializeToString()
    return _keep(path, content, model, _onnx_runner(content))


def write_program(segmenter: Segmenter, path: Path) -> float:
    """Write an archive of `torch.export`; the metadata is its extra file ``sign_zs3.json``.

    Batch size is free; height and width must be larger than the network's stride. Arguments, result and errors are
    those of `write_onnx`.
    """
    model, program = _trace(segmenter)
    metadata = describe(segmenter) | {"min_side": max(segmenter.encoder.backbone.strides) + 1}
    archive = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(program, archive, extra_files={f"{METADATA}.json": json.dumps(metadata)})
        archive.seek(0)
        loaded = torch.export.load(archive).module()
    return _keep(path, archive.getvalue(), model, loaded)


def check_onnx() -> None:
    """Raise a UserError where onnx or onnxscript is not installed."""
    if missing := [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]:
        raise UserError(
            f"onnx: {' and '.join(missing)} not installed, expected for an ONNX file: {pip_install('onnx')}"
        )


def _trace(segmenter: Segmenter) -> tuple[Labeller, torch.export.ExportedProgram]:
    """Return the model as it is, and its graph."""
    config = segmenter.require_config()
    if tuple(segmenter.encoder.input_scales) != (1.0,):
        raise UserError(
            f"input_scales: found {list(segmenter.encoder.input_scales)}, expected [1.0], since a graph holds no "
            "rounding of scaled sizes: write --format pretrained"
        )
    if (window := config.spatial.get("window")) is not None:
        raise UserError(
            f"spatial: found attention in windows of {window} cells, whose number follows the image's size as no graph "
            "can: write --format pretrained"
        )
    twin = copy.deepcopy(segmenter).cpu().eval().requires_grad_(False)
    model, traced = (Labeller(x, config.seen_penalty).eval() for x in (copy.deepcopy(twin), twin))
    for name, module in list(twin.named_modules()):
        kind = type(module).__name__
        if not (kind.endswith("Same") and type(module).__module__.startswith("timm.")):
            continue
        sides = module.kernel_size if isinstance(module, nn.Conv2d) else (0,)
        if segmenter.encoder.places.extra != 1 or not all(side % 2 for side in sides):
            raise UserError(
                f"backbone: found {kind} ({name}), which pads by the image's size and cannot be exported: write "
                "--format pretrained, or train with a network of another family"
            )
        # TensorFlow's padding, which depends on the side's parity: the encoder makes all sides odd
        padding = [dilation * (side // 2) for side, dilation in zip(sides, module.dilation, strict=True)]
        plain = nn.Conv2d(1, 1, 1)
        plain.__dict__.update(vars(module) | {"padding": tuple(padding)})
        parent, _, child = name.rpartition(".")
        setattr(twin.get_submodule(parent), child, plain)
    # each side has several cells on the coarsest level, so that no size is taken for a constant 1
    stride = max(segmenter.encoder.backbone.strides)
    images = torch.zeros(2, 3, 4 * stride, 6 * stride, dtype=torch.uint8)
    free = torch.export.Dim.DYNAMIC
    refused = refusing("export: torch.export does not follow this network", ": write --format pretrained")
    with refused, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return model, torch.export.export(traced, (images,), dynamic_shapes={_INPUT: {0: free, 2: free, 3: free}})


def _onnx_runner(content: bytes) -> Callable[[Tensor], Any] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone: its warnings are about its own optimisations
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda images: [torch.from_numpy(found) for found in session.run(None, {_INPUT: images.numpy()})]


def _keep(path: Path, content: bytes, model: Labeller, run: Callable[[Tensor], Any] | None) -> float:
    """Write a file whose graph labels as the model does; return the share of pixels on which they agree."""
    # of a size and number that were not traced; smooth, as photographs are: in noise, pixels lie between two classes
    coarse = torch.rand(3, 3, 9, 12, generator=torch.Generator().manual_seed(0)) * 255
    images = resize_map(coarse, (161, 213)).to(torch.uint8)
    with replacing(path) as beside, torch.no_grad():
        beside.write_bytes(content)
        share = math.nan if run is None else float((model(images)[0] == run(images)[0]).double().mean())
        if share < AGREEMENT:
            raise UserError(
                f"export: the file and the model agree on {100 * share:.2f} % of the pixels, expected at least "
                f"{100 * AGREEMENT} %; nothing is kept: write --format pretrained, and report this network"
            )
    return share
