"""What ``--help`` shows of the verbs that configurations are for: what most people need, in words of this library.

``--help all`` has the rest, as the parser knows it. Nothing heavy is imported, so that help comes at once. The tests
compare each option and each default with the parser's.
"""

from dataclasses import dataclass

from sign_zs3.commands.configuration import VERBS

COLUMN = 38
"""Characters before the text of an option."""

VERB_GROUPS = {
    "Train": ("new", "fit", "validate", "test"),
    "Use a model": ("predict", "demo", "extend", "rename", "remove", "export", "import"),
    "Data and results": ("data", "embed", "results"),
}
LINES = {
    "fit": "train a model by a configuration, then test it",
    "validate": "score a checkpoint on the validation images",
    "test": "score a checkpoint on the test images",
    "predict": "label images of your own, or the test images of a data set",
} | VERBS
"""Each verb in a line."""

_WHAT = {
    "--config FILE, -c FILE": "options as YAML, or a recipe by its name: msrc, voc (later ones win)",
    "--method NAME": "SIGN, SPNet, ZS3 or CaGNet (default: SIGN, or the checkpoint's)",
}
_SEED = {"--seed_everything N": "seed of weights, order of images and noise (default: 0)"}
_DATA = {
    "--data CLASS": "FolderDataModule (your own images), VOCDataModule,",
    "": "PascalContextDataModule, COCOStuffDataModule, ShapesDataModule",
    "--data.root FOLDER": "where the data set lies",
    "--data.unseen NAMES": "classes without masks in training: cow,motorbike",
    "--data.split NAME": "a published split of the classes, where the data set has some",
    "--data.development N": "choose settings: N seen classes play the unseen ones (default: 0)",
}
_LOADING = {
    "--data.batch_size N": "images in a batch, for each device",
    "--data.num_workers N": "processes that read images (default: null, for 2, beside a GPU up to 8)",
}
_CROPS = {
    "--data.warp_size PIXELS": "training images are resized to this square first",
    "--data.crop_size PIXELS": "side of the training crops",
    "--data.unseen_pixels RULE": "ignore, or drop images that hold any (default: ignore)",
}
_EVALUATION = {
    "--model.seen_penalty NUMBER": "subtracted from the logits of seen classes (default: 0.0)",
    "--model.flip BOOL": "average with the mirror image (default: false)",
    "--model.scales LIST": "average over these image scales (default: [1.0])",
    "--model.resolution SIZE": "score at the label's size, or at feature size (default: label)",
}
_MACHINE = {
    "--trainer.accelerator NAME": "auto, cpu, gpu or mps (default: auto)",
    "--trainer.devices N": "how many GPUs or processes (default: auto)",
    "--trainer.precision NAME": "32-true, 64-true or bf16-mixed",
    "--trainer.default_root_dir FOLDER": "where runs are written, as version_N (default: runs)",
}


@dataclass(frozen=True)
class Page:
    """The help of a verb: its usage, what it does, groups of options with a line each, and examples."""

    usage: str
    what: str
    groups: dict[str, dict[str, str]]
    examples: tuple[str, ...]
    more: str = "--help all lists every option, --data.help CLASS those of a data set."


PAGES = {
    "fit": Page(
        "sign-zs3 fit --config FILE [--SECTION.OPTION VALUE ...]",
        "Train on seen classes and class names, then test. A table of IoU per class after each phase is\n"
        "printed; results.json, panel.png, checkpoints/ and logs are written to version_N in the folder of runs.",
        {
            "What to run": {
                **_WHAT,
                "--ckpt_path FILE": "go on with a run that was stopped; last: the newest one",
                **_SEED,
            },
            "Data": {**_DATA, **_LOADING, **_CROPS},
            "Network": {
                "--model.backbone NAME": "small, a ResNet, timm/NAME or clip/NAME (default: resnet101)",
                "--model.weights FILE": "weights of the backbone; lite: those of timm/tf_efficientnet_lite0",
                "--model.freeze_encoder BOOL": "train only what is on top of the backbone (default: false)",
                "--model.feature_cache FOLDER": "keep the maps of a frozen backbone: each image is read once",
                "--model.head NAME": "deeplab, fcn, fcn16, unet, deeplabv3plus, identity (default: deeplab)",
                "--model.vectors FILE": "class vectors, a table of `embed` (default: bundled)",
                "--model.feature_dim N": "channels of the feature map (default: 600)",
                "--model.encoding NAME": "of SIGN: multihead, self_attention, attention, conv, none",
                "--model.position NAME": "of SIGN: relative, absolute, interpolated, none",
            },
            "Lengths, in iterations": {
                "--model.train_iterations N": "training on seen classes (default: 20000)",
                "--model.generator_iterations N": "the generator alone, afterwards (default: 0)",
                "--model.transfer_iterations N": "the classifier learns unseen classes (default: 6000)",
                "--model.self_training_iterations N": "with pseudo-labels (default: 6000)",
                "--model.phases LIST": "only these: train, generator, transfer, self_training",
                "--model.init_from FILE": "start from the weights of a checkpoint",
            },
            "Losses and rates": {
                "--model.lr RATE": "SGD rate of the backbone; heads take ten times as much (default: 0.00025)",
                "--model.lr_generator RATE": "Adam rate of the generator (default: 0.0002)",
                "--model.lr_transfer RATE": "SGD rate of the classifier in transfer (default: 5e-05)",
                "--model.alpha NUMBER": "of SIGN: weight of the KL loss, eq. 4 (default: 100.0)",
                "--model.beta NUMBER": "weight of the MMD loss, eq. 8 (default: 50.0)",
                "--model.clip_norm NUMBER": "clip gradients at this norm; 0: do not (default: 0.0)",
            },
            "Self-training": {
                "--model.self_training RULE": "annealed, probability, top_fraction or none (default: annealed)",
                "--model.temperature T": "of annealed: low trusts few pseudo-labels (default: 2.0)",
                "--model.top_fraction SHARE": "of top_fraction: share that is kept (default: 0.75)",
                "--model.pseudo_classes WHICH": "unseen or all classes as pseudo-labels (default: unseen)",
            },
            "Evaluation": _EVALUATION,
            "Machine and output": {
                **_MACHINE,
                "--trainer.max_time DD:HH:MM:SS": "stop then, saved, with exit status 75",
                "--trainer.val_check_interval N": "iterations between validations",
                "--trainer.callbacks CLASS": "PictureLogger: pictures while training",
                "--trainer.logger CLASS": "WandbLogger, TensorBoardLogger (default: CSV files)",
                "--checkpoint.every N": "iterations between saves of last.ckpt (default: 500)",
                "--model.compile HOW": "true: torch.compile of the networks; or cudagraphs (default: false)",
                "--model.matmul_precision NAME": "high: TF32 in training (default: null)",
                "--print_config": "print all options as YAML, and do nothing",
            },
        },
        (
            "sign-zs3 fit --config voc --data.root DATA --data.sbd_root DATA",
            "sign-zs3 fit --config mine.yaml --ckpt_path last",
        ),
    ),
    "test": Page(
        "sign-zs3 test --config FILE --ckpt_path FILE [--SECTION.OPTION VALUE ...]",
        "Score a checkpoint on the test images: print IoU per class, write results.json and panel.png.",
        {
            "What to run": {**_WHAT, "--ckpt_path FILE": "the trained model; last: the newest run's"},
            "Data": {**_DATA, **_LOADING},
            "Evaluation": _EVALUATION,
            "Machine and output": _MACHINE,
        },
        (
            "sign-zs3 test --config voc --data.root DATA --ckpt_path runs/voc/version_0/checkpoints/last.ckpt",
            "sign-zs3 test --config mine.yaml --ckpt_path last --model.flip true",
        ),
    ),
    "predict": Page(
        "sign-zs3 predict --config FILE --ckpt_path FILE [--SECTION.OPTION VALUE ...]",
        "Label the test images of a data set, each read whole: index maps, overlays, predictions.json.\n"
        "For images of your own: sign-zs3 predict --images PATH --ckpt_path FILE.",
        {
            "What to run": {**_WHAT, "--ckpt_path FILE": "the trained model; last: the newest run's"},
            "Data": {**_DATA, **_LOADING},
            "How images are read": dict(list(_EVALUATION.items())[:3]),
            "Machine and output": _MACHINE,
        },
        (
            "sign-zs3 predict --config voc --data.root DATA --ckpt_path runs/voc/version_0/checkpoints/last.ckpt",
            "sign-zs3 predict --config mine.yaml --ckpt_path last --model.flip true",
        ),
    ),
    "data check": Page(
        "sign-zs3 data check --config FILE [--data.OPTION VALUE ...] [--report FILE]",
        "Read every image and mask once. Count images and pixels of each class; name what is missing,\n"
        "broken or does not match, and exit with 1 if anything is.",
        {
            "What to read": {**_WHAT, **_DATA, "--data.unseen_pixels RULE": _CROPS["--data.unseen_pixels RULE"]},
            "Output": {"--report FILE": "write the counts as JSON, too"},
        },
        (
            "sign-zs3 data check --config voc --data.root DATA --data.sbd_root DATA",
            "sign-zs3 data check --data FolderDataModule --data.root photos --data.unseen cow,boat",
        ),
    ),
    "data show": Page(
        "sign-zs3 data show --config FILE [--data.OPTION VALUE ...] [--output FILE]",
        "Draw images of a data set, their masks and a legend into one PNG.",
        {
            "What to read": {**_WHAT, **_DATA},
            "Output": {
                "--split PART": "train, val or test (default: test)",
                "--count N": "how many images, evenly over the part (default: 12)",
                "--as_trained BOOL": "as training sees them: cropped, unseen classes hidden (default: false)",
                "--output FILE": "the picture (default: contact_sheet.png)",
            },
        },
        (
            "sign-zs3 data show --config mine.yaml",
            "sign-zs3 data show --data FolderDataModule --data.root photos --split train --count 20",
        ),
    ),
    "embed show": Page(
        "sign-zs3 embed show --config FILE [--data.OPTION VALUE ...]",
        "Show the seen classes nearest to each unseen one by their class vectors: what an unseen class can\n"
        "be told from, before any training. Cosine from -1 to 1.",
        {
            "What to read": {
                **_WHAT,
                **_DATA,
                "--model.vectors FILE": "class vectors, a table of `embed` (default: bundled)",
                "--model.center_vectors BOOL": "subtract the mean over the classes (default: false)",
            },
            "Output": {
                "--nearest N": "seen classes to each unseen one (default: 5)",
                "--output FILE": "the picture (default: nearest.png)",
                "--json FILE": "write the cosines, too",
            },
        },
        (
            "sign-zs3 embed show --config voc --data.root DATA",
            "sign-zs3 embed show --data FolderDataModule --data.root photos --data.unseen cow,boat",
        ),
    ),
}
PAGES["validate"] = Page(
    PAGES["test"].usage.replace(" test ", " validate "),
    "Score a checkpoint on the validation images. Their unseen classes are hidden, so that the score is of\n"
    "seen ones, unless --data.development lets some seen classes play unseen ones.",
    PAGES["test"].groups,
    tuple(example.replace(" test ", " validate ") for example in PAGES["test"].examples),
)


EXAMPLES = {
    "data convert": (
        "sign-zs3 data convert annotations.json --output photos",
        "sign-zs3 data convert SegmentationClass --colours labelmap.txt --output photos",
    ),
    "demo": (
        "sign-zs3 demo --ckpt_path runs/shapes/version_0/checkpoints/last.ckpt",
        "sign-zs3 demo --ckpt_path last.ckpt --host 0.0.0.0 --port 8000",
    ),
    "embed": (
        "sign-zs3 embed --classes photos/classes.txt --source glove.6B.300d.txt --output vectors.npz",
        "sign-zs3 embed --classes 'cow,traffic light' --source cc.en.300.bin --source GoogleNews.bin.gz "
        "--output vectors.npz",
    ),
    "export": (
        "sign-zs3 export --ckpt_path last.ckpt --output model.onnx",
        "sign-zs3 export --ckpt_path last.ckpt --output model_folder",
    ),
    "extend": (
        "sign-zs3 extend --ckpt_path last.ckpt --classes 'zebra,polar bear' --output more.ckpt",
        "sign-zs3 extend --ckpt_path last.ckpt --classes zebra --output more.ckpt --config mine.yaml",
    ),
    "import": (
        "sign-zs3 import voc_ST_6000.pth --phase self_training --output released.ckpt",
        "sign-zs3 import deeplabv1_resnet101-coco.pth --from deeplab --output deeplab.safetensors",
    ),
    "predict": (
        "sign-zs3 predict --ckpt_path last.ckpt --images photos/ street.jpg",
        "sign-zs3 predict --ckpt_path last.ckpt --images photos/ --output labelled --flip true",
    ),
    "new": (
        "sign-zs3 new photos",
        "sign-zs3 new photos --unseen cow,boat --output mine.yaml",
    ),
    "remove": (
        "sign-zs3 remove --ckpt_path last.ckpt --classes zebra --output fewer.ckpt",
        "sign-zs3 remove --ckpt_path last.ckpt --classes 'zebra,polar bear' --output last.ckpt --overwrite",
    ),
    "rename": (
        "sign-zs3 rename --ckpt_path last.ckpt --classes 'zebra=striped horse' --output renamed.ckpt",
        "sign-zs3 rename --ckpt_path last.ckpt --classes 'cow=cattle,bike=bicycle' --output renamed.ckpt",
    ),
    "results": (
        "sign-zs3 results runs/ --output results",
        "sign-zs3 results runs/sign runs/spnet --panels 6 --output compared",
    ),
}
"""Examples of the verbs that have a parser of their own."""


def asked(args: list[str], own: bool) -> tuple[str | None, list[str]]:
    """Return the page that a command line asks for, and the command line without the ``all`` of ``--help all``.

    None where it asks for no help, for all of it, or for that of a verb that shows its `own`.
    """
    at = next((index for index, arg in enumerate(args) if arg in ("--help", "-h")), None)
    if at is None:
        return None, args
    if args[at + 1 : at + 2] == ["all"]:
        return None, [*args[: at + 1], *args[at + 2 :]]
    if at == 0:
        return overview(), args
    page = next((page for name, page in PAGES.items() if args[: len(name.split())] == name.split()), None)
    return None if page is None or own else render(page), args


def overview() -> str:
    """Return the help of the program: each verb in a line."""
    parts = [
        "usage: sign-zs3 VERB [options]",
        "Generalised zero-shot semantic segmentation: train on masks of seen classes and on class names, then\n"
        "label unseen classes too. `lightning VERB` and `python -m sign_zs3 VERB` are the same program.",
    ]
    for group, verbs in VERB_GROUPS.items():
        lines = [f"  {verb:<10}{LINES[verb]}" for verb in verbs]
        parts.append("\n".join([f"{group}:", *lines]))
    parts += [
        "For all verbs:\n  --help    options and examples of a verb: sign-zs3 fit --help\n"
        "  --debug   show the traceback of an error\n  --version print the version",
        examples(
            "sign-zs3 fit --config quickstart",
            "sign-zs3 predict --images photo.jpg --ckpt_path last.ckpt",
        ),
    ]
    return "\n\n".join(parts)


def render(page: Page) -> str:
    """Return a page as text of at most 110 columns."""
    parts = [f"usage: {page.usage}", page.what]
    for title, options in page.groups.items():
        parts.append("\n".join([f"{title}:", *(f"  {name:<{COLUMN - 2}}{text}" for name, text in options.items())]))
    return "\n\n".join([*parts, examples(*page.examples), page.more])


def examples(*commands: str) -> str:
    """Return the last lines of a verb's help."""
    return "\n".join(["Examples:", *(f"  {command}" for command in commands)])
