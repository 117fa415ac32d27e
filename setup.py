"""What `setup.cfg` cannot say: the YAML files of `experiments/` go into wheels as `sign_zs3/recipes/`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies the recipes beside the modules; an editable install reads them in `experiments/`."""

    def run(self) -> None:
        """Build the package, then add the recipes."""
        super().run()
        if self.editable_mode:
            return
        source, target = Path("experiments"), Path(self.build_lib) / "sign_zs3" / "recipes"
        shutil.rmtree(target, ignore_errors=True)  # an earlier build may have left files that are gone since
        for file in sorted(source.rglob("*.yaml")):
            (target / file.relative_to(source)).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / file.relative_to(source))


setup(cmdclass={"build_py": BuildWithRecipes})
