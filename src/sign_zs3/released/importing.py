"""A released file as a model of this library: kind, data set and options told by its entries, rows in our order."""

import logging
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from sign_zs3.data.splits import published_protocol
from sign_zs3.embeddings.table import class_vectors
from sign_zs3.errors import UserError, check_choice
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
# rows of class vectors or, with a background, of C; COCO-Stuff's have values that never occur
_COUNTS = {20: "voc", 33: "context", 182: "coco_stuff", 21: "voc", 60: "context"}
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
            them, it tells in which order their classes are; None: seen ones first, each half by the data set's ids.

    Returns:
        The model on the CPU, in evaluation mode; `save_model` writes it.

    Raises:
        UserError: The file is not there, damaged or holds code; it is of another kind, type or data set than is said,
            or these cannot be told; or its classes are not those of the table.
    """
    state, beside, kind = _read(path, kind)
    if kind == "deeplab":
        raise UserError(
            f"import: {path} is of DeepLab, which knows no class names: use --from deeplab, or --model.weights"
        )
    check_choice("phase", phase, "transfer", "self_training")
    found, left_out, odd = renamed(state, kind)
    protocol = _protocol(found.get("class_vectors", found.get(_C)), kind, dataset, split)
    options = _options(found, state, kind, network_type, across_batch)
    last, done = "train" if kind == "spnet" and phase == "transfer" else phase, beside.get("iteration")
    options |= {"phases": [last], f"{last}_iterations": done if type(done) is int and done > 0 else 1}
    if kind in ("spnet", "zs3"):
        if kind == "spnet" and vectors is None:
            raise UserError(f"--vectors: {path} holds no class vectors: give the table that it was trained with")
        found["class_vectors"] = class_vectors(vectors or "bundled", protocol.classes, False)
        rows: Sequence[int] = protocol.ids if kind == "zs3" else ()
    elif vectors is None:
        rows = _rows_by_id(protocol)
        log.info("order of the file's classes: taken to be seen ones first, each half by its ids; --vectors tells it")
    else:
        rows = _rows_by_vector(found["class_vectors"], class_vectors(vectors, protocol.classes, False), protocol)
    of_c = [key for key in found if key.startswith("segmenter.classifier.projection.")]
    for key in of_c if kind in ("spnet", "zs3") else ["class_vectors", *of_c]:
        left_out += [f"row {row} of C" for row in range(len(found[key])) if key == _C and row not in rows]
        found[key] = found[key][list(rows)]
    model = METHODS[_METHODS[kind]](protocol=protocol.as_dict(), **options)
    model.class_vectors = found["class_vectors"]
    model.configure_model()
    generative = {"generator", "discriminator"}
    untrained = _fill(model, found, odd, str(path))
    parts = frozenset[str]().union(*model.progress.plan.values())
    model.progress.trained_before = parts - generative if untrained else parts
    model.schedule.batches = model.schedule.total_batches
    log.info("left out: %s", ", ".join([*left_out, *(name for name, count in beside.items() if count is None)]))
    if untrained:
        log.info("not in the file, so not trained: %s", ", ".join(untrained))
    return model.eval()


def read_backbone(path: str | Path) -> dict[str, Tensor]:
    """Return the ResNet-101 of a file of deeplab-pytorch in torchvision's names, for RGB images.

    Raises:
        UserError: As `import_released`.
    """
    found, left_out, odd = renamed(_read(path, "deeplab")[0], "deeplab")
    log.info("left out: %s", ", ".join([*left_out, *odd]) or "nothing")
    return found


def _read(path: str | Path, kind: str | None) -> tuple[dict[str, Tensor], dict[str, Any], str]:
    """Return a file's entries, what stands beside them, and their kind."""
    if not Path(path).is_file():
        raise UserError(f"import: {path} is not there, expected a released file; correct the path")
    if kind is not None:
        check_choice("--from", kind, *KINDS)
    saved = read_saved(Path(path), "import")
    state = tensors_in(saved, f"import: {path}")
    found = kind_of(state, f"import: {path}")
    if kind not in (None, found):
        raise UserError(f"--from: found {kind}, but {path} is of {found}: leave the option out")
    check_finite(state, f"import: {path}")
    # counts, and the names of the rest: an optimiser's state is as large as the weights
    beside = {} if state is saved else {k: v if type(v) is int else None for k, v in saved.items() if k != "state_dict"}
    return state, beside, found


def _protocol(rows: Tensor | None, kind: str, dataset: str | None, split: str | None) -> Protocol:
    """Return the classes that the number of rows, or the user, says."""
    told = None if rows is None else _COUNTS.get(len(rows))
    if dataset is not None:
        check_choice("--dataset", dataset, *_DATASETS)
    if rows is not None and (told is None or dataset not in (None, told)):
        expected = f"{dataset}, but the file is of {told}" if told and dataset else f"those of {', '.join(_DATASETS)}"
        raise UserError(f"--dataset: found {len(rows)} classes in the file, expected {expected}: correct it")
    if (dataset := dataset or told) is None:
        raise UserError(f"--dataset: the file does not tell its data set: give one of {', '.join(_DATASETS)}")
    if kind == "zs3" and split is None:
        raise UserError("--split: the file does not tell which classes were unseen: give zs3-2, -4, -6, -8 or -10")
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
    # what is missing is named when all is compared
    dim, hidden_width, of_d, *widths = (len(found.get(f"{layer}.weight", " ")) for layer in layers)
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
        if closeness.min() > 0.99 and len({*rows.tolist()}) == len(rows):
            return [int(row) for row in rows]
        worst = int(closeness.argmin())
        fault = f"no vector of its {protocol.classes[worst]!r} in the file (cosines up to {closeness[worst]:.2f})"
    raise UserError(f"--vectors: found {fault}: give the table that it was made with, or leave the option out")


def _fill(model: ZeroShotTask, found: Mapping[str, Tensor], odd: Sequence[str], path: str) -> list[str]:
    """Load the entries; return the places of G and D without one. A `UserError` where others are, or do not fit."""
    wanted = {key: value for key, value in model.state_dict().items() if not key.endswith(_NO_WEIGHTS)}
    found = {key: value for key, value in found.items() if not key.endswith(_NO_WEIGHTS)}
    missing = [key for key in wanted if key not in found]
    generative = [key for key in wanted if key.startswith(("generator.", "discriminator."))]
    untrained = [] if found.keys() & generative else generative
    extra = [*odd, *(key for key in found if key not in wanted)]
    fault = difference(kinds_of(found), {k: kind for k, kind in kinds_of(wanted).items() if k not in untrained})
    if extra or fault:
        lists = {"entries without a place": extra, "places without an entry": missing}
        told = "; ".join(f"{title}: {', '.join(keys)}" for title, keys in lists.items() if keys) or str(fault)
        raise UserError(
            f"import: {path} does not fit {type(model).__name__} ({textwrap.shorten(told, 2000, placeholder=' ...')}): "
            "give the file as it was released, and its own --network-type and --dataset"
        )
    model.load_state_dict(found, strict=False)
    model.segmenter.known.fill_(True)
    return untrained
