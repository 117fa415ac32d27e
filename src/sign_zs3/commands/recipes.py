"""The recipes: configurations that come with the package, which `--config` finds by their names."""

import re
from pathlib import Path

from sign_zs3.errors import UserError, did_you_mean

PACKAGE = Path(__file__).resolve().parents[1]
_NAME = re.compile(r"(?:experiments/)?(\w[\w/-]*?)(\.yaml)?")


def recipes_folder() -> Path:
    """Return where the recipes lie: in an installed package, or in the `experiments` of a checkout."""
    installed = PACKAGE / "recipes"
    return installed if installed.is_dir() else PACKAGE.parents[1] / "experiments"


def list_recipes() -> dict[str, str]:
    """Return the name of each recipe that can be run, such as ``table1/voc_spnet``, and what its first comment says."""
    found = {}
    for file in sorted(recipes_folder().rglob("*.yaml"), key=lambda path: (len(path.parts), path)):
        name = file.relative_to(recipes_folder()).with_suffix("").as_posix()
        if not name.startswith(("parts/", "sweeps/")):
            found[name] = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
    return found


def find_recipe(given: str) -> str:
    """Return the file of a recipe where ``--config`` names one, else what is given.

    A file of that name comes first. ``experiments/NAME.yaml`` is the recipe too where there is no such file, so that
    the commands of a checkout serve an installed package. A `UserError` where nothing but a recipe can be meant, and
    there is none of that name.
    """
    match = _NAME.fullmatch(given)
    if match is None or Path(given).is_file():
        return given
    file = recipes_folder() / f"{match[1]}.yaml"
    if file.is_file() and (given.startswith("experiments/") or not match[2]):
        return str(file)
    if match[2] or Path(given).exists():
        return given
    near = did_you_mean(match[1], list_recipes())
    raise UserError(
        f"--config: found {given!r:.100}, expected a YAML file or the name of a recipe{near}; "
        "sign-zs3 new --list lists the recipes"
    )
