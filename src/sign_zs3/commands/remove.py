"""The verb remove: a checkpoint without some of its classes."""

from sign_zs3.commands.checkpoints import check_output, listed, parser, save


def run(args: list[str]) -> int:
    """Write a checkpoint without some classes; a UserError where one is not there, or none that is seen is left."""
    options = parser("remove", "Take classes out of a checkpoint.", "names of the classes, by commas").parse_args(args)
    output = check_output(options.output, options.overwrite)
    from sign_zs3.tasks import load_task
    from sign_zs3.vocabulary import remove

    save(remove(load_task(options.ckpt_path), listed(options.classes)), output)
    return 0
