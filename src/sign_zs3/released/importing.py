"""A released file as a model of this library: kind, data set and options told by its entries, rows in our order."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.splits import published_protocol
from sign_zs3.embeddings.table import class_vectors
from sign_zs3.errors import UserError, check_choice
from sign_zs3.models.backbones.build import build_backbone
from sign_zs3.models.weights import check_finite, difference, kinds_of, read_saved, tensors_in
from sign_zs3.protocol import Protocol
from sign_zs3.released.names import KINDS, kind_of, network_types, renamed
from sign_zs3.tasks import METHODS, ZeroShotTask

log = logging.getLogger(__name__)

CAFFE: Mapping[str, Any] = {
    "backbone": "resnet101_caffe",
    "image_mean": [value / 255 for value in (122.675, 116.669, 104.008)],
    "image_std": [1 / 255] * 3,
}
"""Options that the weights of deeplab-pytorch, and of all that came from it, need."""
_DATASETS = {"voc": "voc", "context": "pascal_context_33", "coco_stuff": "coco_stuff"}
# numbers of class vectors, among COCO-Stuff's values that never occur; and, with a background, of ZS3Net's rows of C
_COUNTS = ({20: "voc", 33: "context", 182: "coco_stuff"}, {21: "voc", 60: "context"})
MAX_NUMBERS = 500_000_000
_METHODS = {"sign": "SIGN", "cagnet": "CaGNet", "spnet": "SPNet", "zs3": "ZS3"}
_C = "segmenter.classifier.projection.weight"
# entries of a model's state that are no weights
_NO_WEIGHTS = ("known", "image_mean", "image_std", "num_batches_tracked", "vectors", "confusion")


def import_released(
    path: str | Path,
    kind: str | None = None,
    *,
    dataset: str | None = None,
    split: str | None = None,
    network_type: str | None = None,
    across_batch: bool = False,
    phase: str = "transfer",
    vectors: str | None = None,
) -> ZeroShotTask:
    """Make a model of a file that the authors of SIGN, CaGNet, SPNet or ZS3Net released.

    Nothing in the file is run. What is left out is named in the log: C's row of the background, which was never
    trained, rows of values that never occur, and the state of optimisers.

    Args:
        path: The file, as it was released.
        kind: ``sign``, ``cagnet``, ``spnet`` or ``zs3``; None: what its entries say.
        dataset: ``voc``, ``context`` or ``coco_stuff``; None: what the number of its classes says.
        split: Class split of the data set; ZS3Net's files do not tell theirs, such as ``zs3-2``. None: ``default``.
        network_type: SIGN's, see `ReleasedModule`; None: what its entries say, which do not tell 5, 7 and 8 apart.
        across_batch: Of SIGN's types 4 and 6, see `ReleasedModule`: the published scores were made with it.
        phase: That after which the file was written: ``transfer`` or ``self_training``.
        vectors: A table of class vectors, or ``bundled``. SPNet needs its own. For SIGN and CaGNet, whose files have
            them, it says in which order their classes are; None: seen ones first, each half by the data set's ids.

    Returns:
        The model on the CPU, in evaluation mode; `save_model` writes it.

    Raises:
        UserError: The file is not there, damaged or holds code; it is of another kind, type or data set than is said,
            or these cannot be told; or its classes are not those of the table.
    """
    state, beside, kind = _read(path, kind)
    check_choice("phase", phase, "transfer", "self_training")
    found, left_out, odd = renamed(state, kind)
    with_vectors, what = kind in ("sign", "cagnet"), f"import: {path}"
    table, of_c = found.get("class_vectors"), found.get(_C)
    if (with_vectors and (table is None or table.ndim != 2)) or (kind != "spnet" and (of_c is None or of_c.ndim != 4)):
        raise UserError(f"{what} has no whole class vectors or classifier, expected those of {kind}: fetch it again")
    protocol = _protocol(table if with_vectors else of_c, kind, dataset, split)
    options = _options(found, state, kind, network_type, across_batch)
    last, done = "train" if kind == "spnet" and phase == "transfer" else phase, beside.get("iteration")
    options |= {"phases": [last], f"{last}_iterations": done or 1}
    rows: Sequence[int] = protocol.ids
    if table is not None and with_vectors:
        rows = _rows_by_id(protocol)
        if vectors is not None:
            rows = _rows_by_vector(table, class_vectors(vectors, protocol.classes, False), protocol)
        order = vectors or "taken to be seen ones first, each half by its ids; --vectors tells it"
        log.info("order of the file's classes: %s", order)
        table = table[rows]
    elif kind == "spnet" and vectors is None:
        raise UserError(f"--vectors: {path} holds no class vectors: give the table that it was trained with")
    else:
        table = class_vectors(vectors or "bundled", protocol.classes, False)
        dim = len(found.get("segmenter.encoder.head.0.weight", table.T))
        if kind == "spnet" and table.shape[1] != dim:
            fault = f"{table.shape[1]} numbers per class, expected the file's {dim}"
            raise UserError(f"--vectors: found {fault}: give the table that it was trained with")
    for key in (_C, _C.replace("weight", "bias")) if kind != "spnet" else ():
        if (values := found.get(key)) is not None:
            if values.ndim < 1 or len(values) != len(state.get("Em_all.weight", values[1:])) + 1:
                raise UserError(f"{what} has {tuple(values.shape)} as {key}, expected a row per class: fetch it again")
            left_out += [f"row {row} of C" for row in range(len(values)) if key == _C and row not in rows]
            found[key] = values[list(rows)]
    model = METHODS[_METHODS[kind]](protocol=protocol.as_dict(), **options)
    model.class_vectors = table
    model.configure_model()
    untrained = _fill(model, found, odd, what)
    parts = frozenset[str]().union(*model.progress.plan.values())
    model.progress.trained_before = parts - {"generator", "discriminator"} if untrained else parts
    model.schedule.batches = model.schedule.total_batches
    log.info("left out: %s", ", ".join([*left_out, *(name for name, count in beside.items() if count is None)]))
    if untrained:
        log.info("not in the file, so not trained: %s", ", ".join(untrained))
    return model.eval()


def read_backbone(path: str | Path) -> dict[str, Tensor]:
    """Return the ResNet-101 of a file of deeplab-pytorch, or of what is built on it, in torchvision's names, for RGB.

    Errors are those of `import_released`.
    """
    names = {"0": "conv1", "1": "bn1", **{str(3 + number): f"layer{number}" for number in (1, 2, 3, 4)}}
    state = build_backbone(CAFFE["backbone"], weights=str(path)).state_dict()
    check_finite(state, f"import: {path}")
    return {f"{names[key[0]]}{key[1:]}": value for key, value in state.items()}


def _read(path: str | Path, kind: str | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return a file's entries, what stands beside them, and their kind."""
    what = f"import: {path}"
    if not Path(path).is_file():
        raise UserError(f"{what} is not there, expected a released file; correct the path")
    if kind is not None:
        check_choice("--from", kind, *KINDS)
    saved = read_saved(Path(path), "import")
    state = tensors_in(saved, what)
    found = kind_of(state, what)
    if kind not in (None, found):
        raise UserError(f"--from: found {kind}, but {path} is of {found}: leave the option out")
    if found == "deeplab":
        raise UserError(f"{what} is of DeepLab, which knows no class names: import it with --from deeplab")
    for key, value in state.items():
        plain = value.layout == torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
        if not plain or not (value.is_floating_point() or key.endswith("num_batches_tracked")):
            found_kind = f"{key:.100} of {value.dtype}, {value.layout}"
            raise UserError(f"{what} has {found_kind}, expected plain real numbers: fetch it again")
    if (total := sum(value.numel() for value in state.values())) > MAX_NUMBERS:
        raise UserError(f"{what} claims {total:,} numbers, expected at most {MAX_NUMBERS:,} of these networks")
    check_finite(state, what)
    # counts, and the names of the rest: an optimiser's state is as large as the weights
    others = {} if state is saved else {str(k): v for k, v in saved.items() if k != "state_dict"}
    beside = {k: v if type(v) is int and 0 < v < 1 << 31 else None for k, v in others.items()}
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}, beside, found


def _protocol(rows: Tensor | None, kind: str, dataset: str | None, split: str | None) -> Protocol:
    """Return the classes that the number of rows, or the user, says."""
    told = None if rows is None else _COUNTS[kind == "zs3"].get(len(rows))
    if dataset is not None:
        check_choice("--dataset", dataset, *_DATASETS)
    if rows is not None and (told is None or dataset not in (None, told)):
        expected = f"{dataset}, but the file is of {told}" if told and dataset else f"those of {', '.join(_DATASETS)}"
        raise UserError(f"--dataset: found {len(rows)} classes in the file, expected {expected}: correct it")
    if (dataset := dataset or told) is None:
        raise UserError(f"--dataset: the file does not tell its data set: give one of {', '.join(_DATASETS)}")
    if (kind == "zs3") != (split or "default").startswith("zs3-"):
        expected = "zs3-2, -4, -6, -8 or -10, which the file does not tell" if kind == "zs3" else "none"
        raise UserError(f"--split: found {split or 'none'} for a file of {kind}, expected {expected}: correct it")
    name = "pascal_context_59" if kind == "zs3" and dataset == "context" else _DATASETS[dataset]
    return published_protocol(name, None, split or "default")


def _options(
    found: Mapping[str, Tensor], state: Mapping[str, Tensor], kind: str, network_type: str | None, across_batch: bool
) -> dict[str, Any]:
    """Return the options of the model: what names and shapes say, and what the release has."""
    if kind != "sign" and (network_type is not None or across_batch):
        raise UserError(f"--network-type, --across-batch: found with a file of {kind}, expected one of sign: leave out")
    # a name as `weights` keeps the batch norms as they are
    options: dict[str, Any] = {"weights": "released", "vectors": "checkpoint"}
    if kind == "zs3":
        network = {"backbone": "resnet101_multigrid", "output_stride": 16, "head": "deeplabv3plus", "bounded": False}
        return {**options, **network, "feature_dim": 256}
    if kind == "spnet":
        return {**options, **CAFFE, "input_scales": [1.0, 0.5, 0.75], "maximum": "logits"}
    head, hidden, d = "segmenter.encoder.head.0", "segmenter.classifier.hidden.0", "discriminator.layers.0"
    layers = [head, hidden, d, *(f"generator.layers.{3 * number}" for number in range(5))]
    if missing := [layer for layer in layers if found.get(f"{layer}.weight", torch.tensor(0)).ndim != 4]:
        raise UserError(f"import: found no {', '.join(missing)} in the file, expected a whole one: fetch it again")
    dim, hidden_width, of_d, *widths = (len(found[f"{layer}.weight"]) for layer in layers)
    options |= {**CAFFE, "feature_dim": dim, "generator_hidden": widths, "resolution": "feature"}
    options |= {"classifier_hidden": hidden_width, "discriminator_hidden": of_d}
    if kind == "cagnet":
        return {**options, "contextual": "released"}
    types = network_types(state)
    if network_type not in types and (network_type or len(types) > 1):
        given = network_type or "none"
        raise UserError(
            f"--network-type: found {given}, expected {' or '.join(types)}, whose entries the file has: give it"
        )
    network_type = network_type or types[0]
    if across_batch and network_type not in ("4", "6"):
        raise UserError(f"--across-batch: found with type {network_type}, expected 4 or 6: leave it out")
    fault = "_across_batch" if across_batch else ""
    return options | {"encoding": f"released_{network_type}{fault}", "position": "endpoints"}


def _rows_by_id(protocol: Protocol) -> list[int]:
    """Return the row of each class in a file that has all seen values by their number, then the unseen ones."""
    values = range(182) if protocol.dataset == "coco_stuff" else range(1, protocol.num_classes + 1)
    unseen = sorted(protocol.ids[index] for index in protocol.unseen)
    order = [*(value for value in values if value not in unseen), *unseen]
    return [order.index(value) for value in protocol.ids]


def _rows_by_vector(own: Tensor, given: Tensor, protocol: Protocol) -> list[int]:
    """Return the row of each class in a file by its class vector."""
    fault = f"{given.shape[1]} numbers per class, expected the file's {own.shape[1]}"
    if own.shape[1] == given.shape[1]:
        closeness, rows = (F.normalize(given, dim=1) @ F.normalize(own, dim=1).T).max(dim=1)
        if closeness.min() > 0.9 and len({*rows.tolist()}) == len(rows):
            return [int(row) for row in rows]
        worst = int(closeness.argmin())
        fault = f"no vector of its {protocol.classes[worst]!r} in the file (cosines up to {closeness[worst]:.2f})"
    raise UserError(f"--vectors: found {fault}: give the table that it was made with, or leave the option out")


def _fill(model: ZeroShotTask, found: Mapping[str, Tensor], odd: Sequence[str], what: str) -> list[str]:
    """Load the entries; return the places of G and D without one. A `UserError` where others are, or do not fit."""
    wanted = {key: value for key, value in model.state_dict().items() if not key.endswith(_NO_WEIGHTS)}
    found = {key: value for key, value in found.items() if not key.endswith(_NO_WEIGHTS)}
    missing = [key for key in wanted if key not in found]
    generative = [key for key in wanted if key.startswith(("generator.", "discriminator."))]
    untrained = [] if found.keys() & generative else generative
    extra = [*odd, *(key for key in found if key not in wanted)]
    fault = difference(kinds_of(found), {k: kind for k, kind in kinds_of(wanted).items() if k not in untrained})
    if extra or fault:
        missing = [key for key in missing if key not in untrained]
        lists = {"entries without a place": extra, "places without an entry": missing}
        told = "; ".join(f"{title}: {', '.join(keys)}" for title, keys in lists.items() if keys) or str(fault)
        raise UserError(
            f"{what} does not fit {type(model).__name__} ({textwrap.shorten(told, 2000, placeholder=' ...')}): "
            "give the file as it was released, and its own --network-type and --dataset"
        )
    model.load_state_dict(found, strict=False)
    model.segmenter.known.fill_(True)
    return untrained
