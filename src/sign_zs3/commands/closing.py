"""What a training or a test ends with: the table, ``results.json``, pictures, and what to do next."""

import shutil
import sys
from pathlib import Path
from typing import Any

from sign_zs3.data.datamodules import ZeroShotDataModule
from sign_zs3.files import write_json
from sign_zs3.reports.run import as_results, print_table
from sign_zs3.tasks import ZeroShotTask


def report(folder: Path, scores: dict[str, Any], method: str, model: ZeroShotTask, data: ZeroShotDataModule) -> None:
    """Print the scores after each phase, and write ``results.json`` and ``panel.png`` into the folder of the run."""
    from sign_zs3.callbacks.pictures import save_panel

    assert data.test_set is not None
    ignored, unseen = (model.progress.counts.tallies.get(name, 0) for name in ("ignored_pixels", "unseen_pixels"))
    share = unseen / ignored if ignored else None
    options = {name: model.hparams[name] for name in model.defaults() if name != "protocol"}
    results = as_results(model.protocol, method, model.hparams["seed"], scores, share, options)
    write_json(folder / "results.json", results)
    save_panel(folder / "panel.png", model, data.test_set)
    print_table(model.protocol, scores, share)
    print(f"results:  {folder / 'results.json'}\npictures: {folder / 'panel.png'}")


def suggest(checkpoint: Path) -> None:
    """Print where the trained model is, and three commands to go on with."""
    print(f"model:    {checkpoint} ({checkpoint.stat().st_size / 1e6:.1f} MB)")
    program = f"{_program()} {{}} --ckpt_path {checkpoint}"
    print("next:")
    print(f"  {program.format('predict')} --images FOLDER      # label images of your own")
    print(f"  {program.format('extend')} --classes NAMES --output more.ckpt      # teach classes by name")
    print(f"  {program.format('demo')}      # try it in the browser")


def _program() -> str:
    """Return how the program is called from here: by its name where that is on the path."""
    if shutil.which("sign-zs3"):
        return "sign-zs3"
    beside = Path(sys.executable).with_name("sign-zs3")
    if not beside.is_file():
        return "python -m sign_zs3"
    return str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside)
