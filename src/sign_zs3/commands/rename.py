"""The verb rename: other names for the classes of a checkpoint."""

from sign_zs3.commands.checkpoints import check_output, listed, parser, save
from sign_zs3.errors import UserError


def run(args: list[str]) -> int:
    """Write a checkpoint whose classes have other names; a UserError where one is not there, or two would be one."""
    made = parser("rename", "Give classes of a checkpoint other names.", "OLD=NEW, several by commas")
    options = made.parse_args(args)
    output = check_output(options.output, options.overwrite)
    names: dict[str, str] = {}
    for pair in listed(options.classes):
        old, equals, new = (part.strip() for part in pair.partition("="))
        if not (old and equals and new):
            raise UserError(f"--classes: found {pair!r}, expected OLD=NEW, several by commas, as in 'cow=Friesian cow'")
        if old in names:
            raise UserError(f"--classes: found {old!r} twice, expected one new name for it: leave one out")
        names[old] = new
    from sign_zs3.tasks import load_task
    from sign_zs3.vocabulary import rename

    save(rename(load_task(options.ckpt_path), names), output)
    return 0
