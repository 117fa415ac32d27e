"""The verb import: a checkpoint from a file that the authors of SIGN, CaGNet, SPNet or ZS3Net released."""

from sign_zs3.commands.checkpoints import check_output, save
from sign_zs3.commands.parsing import VerbParser
from sign_zs3.files import replacing

DESCRIPTION = """\
Make a checkpoint of networks that the authors of SIGN, CaGNet, SPNet or ZS3Net released, for `test`, `predict`,
`extend`, `export` and --model.init_from; or a file for --model.weights of those of deeplab-pytorch."""


def run(args: list[str]) -> int:
    """Write a checkpoint, or a backbone's weights; a UserError where the file is none of these, or does not fit."""
    made = VerbParser("import", description=DESCRIPTION)
    add = made.add_argument
    add("file", metavar="FILE", help="the file, as it was released")
    add("--from", dest="kind", metavar="KIND", help="sign, cagnet, spnet, zs3 or deeplab (default: as its entries say)")
    add("--dataset", metavar="NAME", help="voc, context or coco_stuff (default: as its number of classes says)")
    add("--split", metavar="NAME", help="split of the classes, such as ZS3's zs3-2 (default: default)")
    add(
        "--network-type", metavar="TYPE", help="of SIGN, 1 to 8 (default: as its entries say; they do not tell 5, 7, 8)"
    )
    add("--across-batch", action="store_true", help="of SIGN's 4 and 6: attention across the batch, as in the release")
    add("--phase", default="transfer", metavar="NAME", help="after which it was written: transfer or self_training")
    add("--vectors", metavar="TABLE", help="class vectors: SPNet's; of SIGN, CaGNet they tell the order of the classes")
    add("--output", required=True, metavar="FILE", help="checkpoint to write (.ckpt; with deeplab .safetensors)")
    add("--overwrite", action="store_true", help="replace the output where it exists")
    options = vars(made.parse_args(args))
    kind, deeplab = options.pop("kind"), ".safetensors"
    output = check_output(options.pop("output"), options.pop("overwrite"), deeplab if kind == "deeplab" else ".ckpt")
    file = options.pop("file")
    unfit = [name for name, value in options.items() if value not in (None, False, "transfer")]
    if kind == "deeplab" and unfit:
        made.error(f"--{unfit[0].replace('_', '-')}: found with --from deeplab, expected none: leave it out")
    from sign_zs3.released.importing import CAFFE, import_released, read_backbone

    if kind != "deeplab":
        save(import_released(file, kind, **options), output)
        return 0
    from safetensors.torch import save_file

    weights = {name: value.contiguous() for name, value in read_backbone(file).items()}
    with replacing(output) as beside:
        save_file(weights, beside)
    given = " ".join(f"--model.{name} {value}".replace(", ", ",") for name, value in CAFFE.items())
    print(f"written:  {output}\ntrain with --model.weights {output} {given}")
    return 0
