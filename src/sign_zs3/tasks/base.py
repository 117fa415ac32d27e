"""`ZeroShotTask`: puts networks, steps, updates and schedule together for Lightning; the methods derive from it."""

import copy
from abc import ABC, abstractmethod
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytorch_lightning as pl
import torch
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn

from sign_zs3.data.datamodules.base import ZeroShotDataModule
from sign_zs3.errors import UserError
from sign_zs3.files import line_of
from sign_zs3.functional.geometry import map_size
from sign_zs3.metrics import GZSLMeanIoU
from sign_zs3.models.inference import Scores, Segmentation, label_scores, segmentations
from sign_zs3.models.segmenter import Inputs, Segmenter
from sign_zs3.models.spatial import SpatialFeatures
from sign_zs3.models.weights import evaluating
from sign_zs3.protocol import Protocol
from sign_zs3.tasks import building, evaluation, run, steps, trainer
from sign_zs3.tasks.checkpoint import CHECKPOINT_KEY, check_checkpoint, has_teacher, read_checkpoint, refusal
from sign_zs3.tasks.options import TaskOptions, check_numbers, defaults_of
from sign_zs3.tasks.schedule import Progress, Schedule, counted_randomness
from sign_zs3.tasks.steps import Batch, PseudoLabels
from sign_zs3.tasks.training import Training
from sign_zs3.tasks.updates import Updates, segmenter_optimizer

_Task = TypeVar("_Task", bound="ZeroShotTask")
SEGMENTER = frozenset({"encoder", "spatial", "classifier"})
"""The parts whose weights the SGD moves."""


class ZeroShotTask(pl.LightningModule, ABC):
    """Base of the methods: E, a spatial module and C, trained on seen classes, then on their own pseudo-labels.

    A method declares its options (plain scalars, strings, lists) in its constructor and passes the rest on; all become
    hyperparameters here. It says what each phase trains, what the spatial module and C are, and its `further_steps`.

    Args:
        protocol: Classes and their split, a `Protocol` or its `as_dict`; null takes those of the trainer's data.
        **kwargs: See `TaskOptions`.

    Attributes:
        segmenter: E, the spatial module and C; there once the model is built.
        teacher: A copy of the segmenter that gives pseudo-labels; None before self-training.
        progress: Schedule, counts and origins: what checkpoints tell beside weights.
        training_run: Freezing, rates, updates and counting; there once a run trains.
        scores: What the last test computed: `GZSLMeanIoU.compute()`.
        confusion: (C, C) int64, the last test's confusion matrix, rows = truth; None before any.
    """

    architecture: ClassVar[tuple[str, ...]] = (
        "backbone", "backbone_levels", "output_stride", "head", "dilations", "input_scales", "image_mean", "image_std",
        "dense", "unit_features",
    )  # fmt: skip
    """Options that change what the network computes but not the shapes of its weights; `init_from` compares them."""

    segmenter: Segmenter
    metric: GZSLMeanIoU
    class_vectors: Tensor
    training_run: Training

    def __init__(self, protocol: dict[str, Any] | None = None, **kwargs: Any) -> None:
        super().__init__()
        options = TaskOptions(**kwargs)
        # Reads the arguments of every constructor on the way here, so those of the methods too.
        self.save_hyperparameters(ignore=["protocol", "_instantiator"])
        self.save_hyperparameters(dict(self.hparams) | vars(options))
        check_numbers(self.hparams, self.defaults())
        self.automatic_optimization = False
        self.register_buffer("class_vectors", None)
        self._protocol: Protocol | None = None
        self._is_open = protocol is None
        self.hparams["protocol"] = None
        if protocol is not None:
            self._take(protocol if isinstance(protocol, Protocol) else Protocol.from_dict(protocol))
        plan = self.phase_plan()
        lengths = {kind: int(self.hparams[f"{kind}_iterations"]) for kind in plan}
        if options.self_training == "none":
            lengths["self_training"] = 0
        self.progress = Progress(Schedule.build(lengths, options.phases, options.rounds, options.accumulate), plan)
        self.scores: dict[str, Any] = {}
        self.confusion: Tensor | None = None
        self.teacher: Segmenter | None = None

    @classmethod
    def defaults(cls) -> dict[str, Any]:
        """Return every option of the class, its parents' included, with its default."""
        return defaults_of(cls, ZeroShotTask)

    # -- what a method says -----------------------------------------------------------------------------------

    @abstractmethod
    def spatial_options(self) -> dict[str, Any]:
        """Return what stands between E and C: arguments of `build_spatial`."""

    def classifier_options(self) -> dict[str, Any]:
        """Return what C is: arguments of `build_classifier`."""
        return {"name": "linear"}

    def feature_dim(self, word_dim: int) -> int:
        """Return D, the channels of E(x), where class vectors have `word_dim` numbers: as many."""
        return word_dim

    @property
    def kl_weight(self) -> float | None:
        """Weight of the KL loss (eq. 4); None where the spatial module learns no latent."""
        return None

    def phase_plan(self) -> dict[str, frozenset[str]]:
        """Return the kinds of phase in the order in which they run, each with the names of the parts it trains."""
        return {"train": SEGMENTER, "self_training": SEGMENTER}

    def parts(self) -> dict[str, nn.Module]:
        """Return the trainable parts by name."""
        return {name: getattr(self.segmenter, name) for name in ("encoder", "spatial", "classifier")}

    def rates(self, kind: str) -> dict[str, float]:
        """Return the base learning rate of each optimiser in a kind of phase."""
        return {"segmenter": float(self.hparams["lr_self_training" if kind == "self_training" else "lr"])}

    def optimizers_by_name(self) -> dict[str, torch.optim.Optimizer]:
        """Make the optimisers: SGD for E, the spatial module and C."""
        return {"segmenter": segmenter_optimizer(self.segmenter, self.hparams)}

    @property
    def schedule(self) -> Schedule:
        """The phases and where the run stands."""
        return self.progress.schedule

    # -- classes and networks ---------------------------------------------------------------------------------

    @property
    def protocol(self) -> Protocol:
        """Classes and their split; a `UserError` where there are none yet."""
        if self._protocol is None:
            raise UserError("model: found one without classes, expected a trained one: fit it, or load a checkpoint")
        return self._protocol

    @property
    def is_built(self) -> bool:
        """Whether the networks are made."""
        return "segmenter" in self._modules

    @property
    def _is_fitting(self) -> bool:
        return self._trainer is not None and self.trainer.state.fn == TrainerFn.FITTING

    def _take(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self.hparams["protocol"] = protocol.as_dict()

    def setup(self, stage: str) -> None:
        """Take or compare the data module's classes, and refuse what cannot be run, before networks are made."""
        data, protocol = getattr(self.trainer, "datamodule", None), run.protocol_of(self.trainer)
        run.check_data(data, self.hparams)
        if self.is_built:
            self._adopt(protocol)
        elif self._is_open or protocol == self.protocol:  # which may have colours that the model's lacks
            self._take(protocol)
        building.check_classes(self.protocol, protocol, "the data")
        if stage == "fit":
            trainer.check_trainer(self.trainer, self.hparams["compile"])
            run.check_schedule(self.schedule, self.protocol, self.hparams["pseudo_top_p"])

    def configure_model(self) -> None:
        """Make the networks, the only place where a model gets them, and tell the data module what its loaders give.

        Class vectors that are there already are a checkpoint's, which brings all weights. Otherwise both are read.
        """
        if not self.is_built:
            hp, protocol, sources = self.hparams, self.protocol, None
            self.progress.looked_up = self.progress.centered_on = protocol.classes
            if self._buffers["class_vectors"] is None:
                sources = building.Sources.read(hp, protocol, type(self).__name__, self.defaults(), self.architecture)
                self.class_vectors = sources.class_vectors
            try:
                # Lightning would make them where they run; a seed is to give the same weights on every device
                with torch.device("cpu"), counted_randomness(torch.device("cpu"), hp["seed"], "initial weights"):
                    self.build_networks(self.class_vectors.shape[1], sources.weights if sources else None)
                if sources is not None and sources.checkpoint is not None:
                    self.progress.start_from(sources.checkpoint)
                    self.load_state_dict(sources.state_for(self.state_dict()))
            except BaseException:  # the next run would take half a model for a whole one
                self._modules.pop("segmenter", None)
                self._buffers["class_vectors"] = None
                raise
            self.metric = GZSLMeanIoU(protocol.classes, protocol.seen, protocol.unseen)
        if self._trainer is not None and not self._is_fitting:
            self._tell_loaders()

    def build_networks(self, word_dim: int, weights: str | None) -> None:
        """Make `segmenter` for class vectors of length `word_dim`; `weights` are the backbone's, if a file has them."""
        dim, spatial, classifier = self.feature_dim(word_dim), self.spatial_options(), self.classifier_options()
        config = building.segmenter_config(self.hparams, self.protocol, dim, spatial, classifier)
        self.segmenter = Segmenter.build(config, weights)
        if self.hparams["channels_last"]:
            self.segmenter.encoder.to(memory_format=torch.channels_last)

    def _adopt(self, protocol: Protocol) -> None:
        """Take ids and order of the data's classes, where they are those of the model."""
        rows = building.order_from(self.protocol, protocol)
        if rows is None or (protocol == self.protocol and protocol.palette in ("", self.protocol.palette)):
            return
        self.load_state_dict(building.in_order(self.state_dict(), rows))
        self.progress.looked_up = tuple(self.progress.looked_up[row] for row in rows)
        self._take(protocol)
        self.metric = GZSLMeanIoU(protocol.classes, protocol.seen, protocol.unseen).to(self.device)
        self.segmenter.config = replace(self.segmenter.require_config(), protocol=protocol)

    # -- checkpoints ------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add classes, progress and a partly accumulated gradient, all as plain types and tensors."""
        if self._is_fitting and "training_run" in vars(self):
            self.updates.settle()
        checkpoint[CHECKPOINT_KEY] = self.progress.stored(type(self).__name__, self.protocol, self.named_parameters())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take up a checkpoint that a trainer read, by whatever reader: classes, networks and progress."""
        check_checkpoint(checkpoint, "the checkpoint")
        if self._is_fitting:
            building.check_resumable(checkpoint)
        self.take_up(checkpoint)

    def take_up(self, checkpoint: dict[str, Any]) -> None:
        """Take up all of a checked checkpoint but its weights; the networks are made where there are none yet."""
        if self._protocol is None:
            self._take(Protocol.from_dict(checkpoint[CHECKPOINT_KEY]["protocol"]))
        building.reorder(checkpoint, self.protocol, "the checkpoint")
        state: dict[str, Tensor] = checkpoint["state_dict"]
        if not self.is_built:
            building.check_fits(checkpoint, building.expected_state(self, state))
            self.class_vectors = torch.zeros_like(state["class_vectors"], device="cpu")
            self.configure_model()
        if (found := state["class_vectors"].shape[1]) != (mine := self.class_vectors.shape[1]):
            raise UserError(f"vectors: the checkpoint's have {found} numbers, those given {mine}: give its own file")
        self.set_teacher(has_teacher(state))
        building.check_fits(checkpoint, self.state_dict())
        self.progress.resume(checkpoint, self.named_parameters())

    @classmethod
    def load_from_checkpoint(  # type: ignore[override]
        cls: type[_Task], checkpoint_path: str | Path, map_location: torch.device | str | None = None, **options: Any
    ) -> _Task:
        """Load a ``.ckpt`` file of this method, as `load_task` for any; `options` take the place of stored ones."""
        if not options.pop("weights_only", True):
            raise UserError("weights_only: found false, expected true: nothing in a file is ever run")
        checkpoint = read_checkpoint(Path(checkpoint_path))
        return cls.restored(checkpoint, f"checkpoint: {checkpoint_path}", **options).to(map_location or "cpu")

    @classmethod
    def restored(cls: type[_Task], checkpoint: dict[str, Any], what: str, **given: Any) -> _Task:
        """Return the model of a checkpoint of `read_checkpoint`, in evaluation mode; `what` names it in errors."""
        try:
            model = cls(**building.options_from(checkpoint, cls, given))
            model.take_up(checkpoint)
        except UserError as error:
            raise UserError(f"{what}: {line_of(error)}") from error
        except MemoryError:
            raise
        except Exception as error:  # whatever the networks make of a value that `fit` did not write
            raise refusal(f"{what} cannot be built ({type(error).__name__}: {line_of(error)[:200]})") from error
        model.load_state_dict(checkpoint["state_dict"])  # of the same names and shapes, or it would have been refused
        return model.eval()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a run: Lightning's optimisers cannot be pickled."""
        return {name: value for name, value in super().__getstate__().items() if name != "training_run"}

    # -- training ---------------------------------------------------------------------------------------------

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return the optimisers, which Lightning knows by number alone."""
        named = self.optimizers_by_name()
        self._optimizer_names = list(named)
        return list(named.values())

    def configure_callbacks(self) -> list[Any]:
        """Add what CUDA graphs need; of all hooks this is the first to see the trainer's options."""
        if self._is_fitting:
            trainer.check_options(self.trainer)
        return run.callbacks(self.trainer, self.hparams["compile"])

    def _tell_loaders(self) -> None:
        if isinstance(data := self.trainer.datamodule, ZeroShotDataModule):  # type: ignore[attr-defined]
            data.follow(run.loader_plan(self.segmenter, self.schedule, self.hparams))

    def on_fit_start(self) -> None:
        """Refuse a schedule that the weights are not ready for; tell the loaders where the run begins."""
        run.check_ready(self.schedule, self.segmenter.known)
        self._tell_loaders()
        if self.hparams["compile"]:
            run.compile_networks(self.hparams["compile"] == "cudagraphs", self.segmenter, self.teacher)

    def on_train_start(self) -> None:
        """Connect the optimisers, and put back a partly accumulated gradient."""
        parts, names = self.parts(), self._optimizer_names
        self.training_run = Training(self, self.progress, parts, names, self.rates, self.enter_phase)

    @property
    def updates(self) -> Updates:
        """How losses move weights; there once a run trains."""
        return self.training_run.updates

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        """Train on a batch as its phase says."""
        if self.schedule.done:
            return
        with self.training_run.batch(batch) as kind:
            if kind is not None:
                spatial, losses = self.segmentation_step(kind, batch)
                self.training_run.record(losses | self.further_steps(kind, batch, spatial), batch)

    def segmentation_step(self, kind: str, batch: Batch) -> tuple[SpatialFeatures, dict[str, Tensor]]:
        """Train E, the spatial module and C (eq. 3, 4, section 3.4); return the batch's features and losses by name."""
        alpha, balance, report = self.kl_weight, self.hparams["class_balance"], dict[str, Tensor]()
        with self.updates.only("segmenter"):
            if kind == "train":
                spatial, losses = steps.supervised_losses(self.segmenter, batch, self.protocol.num_seen, alpha, balance)
            else:
                pseudo = self.pseudo_labels(batch)
                spatial, losses, report = steps.self_training_losses(self.segmenter, batch, pseudo, alpha, balance)
            self.updates.apply("segmenter", losses)
        return spatial, losses.terms | report

    def further_steps(self, kind: str, batch: Batch, spatial: SpatialFeatures) -> dict[str, Tensor]:
        """Train what a method has beside these, on the same features; return losses by name."""
        return {}

    def enter_phase(self, kind: str) -> None:
        """Prepare for a phase that starts now: renew the teacher for self-training."""
        self.set_teacher(kind == "self_training")
        if self.hparams["compile"]:
            run.compile_networks(self.hparams["compile"] == "cudagraphs", self.teacher)

    def set_teacher(self, wanted: bool) -> None:
        """Copy the segmenter as it is, or forget the copy."""
        self.teacher = copy.deepcopy(self.segmenter).eval().requires_grad_(False) if wanted else None

    def pseudo_labels(self, batch: Batch) -> PseudoLabels:
        """Let the teacher label the ignored pixels of a batch, see `steps.pseudo_labels`."""
        assert self.teacher is not None
        return steps.pseudo_labels(self.teacher, batch, self.protocol.num_seen, self.hparams)

    def on_validation_model_zero_grad(self) -> None:
        """Keep gradients: a validation may fall into a partly accumulated iteration."""

    # -- evaluation -------------------------------------------------------------------------------------------

    def forward(self, images: Inputs) -> Tensor:
        """Return logits (N, C, h, w) of images (N, 3, H, W) in [0, 255], or of their maps."""
        logits: Tensor = self.segmenter(images, self.hparams["seen_penalty"])
        return logits

    @property
    def evaluation_options(self) -> dict[str, Any]:
        """`seen_penalty`, `flip` and `scales`, as `Segmenter.segment` takes them."""
        return {name: self.hparams[name] for name in ("seen_penalty", "flip", "scales")}

    def _scores(self, batch: Batch) -> Scores:
        return evaluation.score_batch(self.segmenter, batch, self.hparams["resolution"], self.evaluation_options)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch into the confusion matrix."""
        self.metric.update(*evaluation.labels_and_truth(self._scores(batch), batch["mask"], self.hparams["resolution"]))

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log ``val/...``; unseen scores only where the validation set labels unseen classes."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Log ``test/...``, and keep the scores and what they were computed from."""
        with self.metric.sync_context():
            self.confusion = self.metric.confusion.cpu().clone()
        self.scores = self._log_scores("test")

    def _log_scores(self, stage: str) -> dict[str, Any]:
        scores: dict[str, Any] = self.metric.compute()
        self.metric.reset()
        self.log_dict(evaluation.logged(scores, stage), sync_dist=True)  # they agree; without it Lightning warns
        return scores

    def predict_step(self, batch: Batch, batch_idx: int) -> list[tuple[str, Segmentation]]:
        """Return each image's id and what was found in it, at the size it had before the data set's transform."""
        sizes = batch["size"].tolist() if "size" in batch else [map_size(batch["mask"])] * len(batch["id"])
        return list(zip(batch["id"], segmentations(self._scores(batch), [(h, w) for h, w in sizes]), strict=True))

    @torch.no_grad()
    def label_image(self, image: Tensor) -> Tensor:
        """Label one image (3, H, W) in [0, 255] with the options of the evaluation: (H, W) int64, on the CPU."""
        with evaluating(self):
            scores = self._scores({"image": image.unsqueeze(0).to(self.device)})
        return label_scores(scores, map_size(image), confidence=False).label[0].cpu()
