"""How the source is laid out: who imports whom, how long files are, and what stands in one place alone.

``python -m tests.test_house`` prints all offences; a folder as argument is read instead of ``src/sign_zs3``.
"""

from __future__ import annotations

import ast
import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PACKAGE = "sign_zs3"
SOURCE = Path(__file__).parents[1] / "src" / PACKAGE
MOST_LINES = 400
# a feature that needs room says what it made smaller; 1,600 of them read, convert or refuse what people bring
MOST_LINES_OF_ALL = 21_315
MOST_OPTIONS = 64

FLOORS = (
    ("",),
    ("__main__",),
    ("cli",),
    ("commands",),
    ("vocabulary", "released"),
    ("callbacks",),
    ("tasks",),
    ("reports",),
    ("data", "embeddings"),
    ("models",),
    ("metrics",),
    ("functional", "drawing"),
    ("protocol",),
    ("images",),
    ("files",),
    ("checks", "compat", "limits"),
    ("errors", "_version"),
)
"""From the top: the rooms on each floor, folders or single files of the package; "" is the package's own __init__."""

RESIZING = {
    "functional/geometry.py": "feature maps, scores and label maps",
    "functional/positional.py": "an encoding, along one axis",
    "callbacks/pictures.py": "an image, to be drawn",
}
"""The files that call ``F.interpolate``, and on what."""

NETWORKS = {
    "tasks/base.py": {"Segmenter.build"},
    "tasks/generative.py": {"Generator", "Discriminator"},
}
"""Outside models/, the files whose method `build_networks`, which `configure_model` calls, makes networks."""

PARTS = {"Segmenter", "Encoder", "SpatialInformationModule", "Generator", "Discriminator", "build_spatial"}


class Module:
    """A file of the package.

    Attributes:
        name: As it is imported, e.g. ``sign_zs3.data.stream``; a package is its ``__init__``.
        path: Below the package's folder, e.g. ``data/stream.py``.
        text: Its content.
        tree: Its syntax.
    """

    def __init__(self, root: Path, file: Path) -> None:
        self.path = file.relative_to(root).as_posix()
        parts = [PACKAGE, *file.relative_to(root).with_suffix("").parts]
        self.is_package = parts[-1] == "__init__"
        self.name = ".".join(parts[:-1] if self.is_package else parts)
        self.text = file.read_text(encoding="utf-8")
        self.tree = ast.parse(self.text)

    @property
    def room(self) -> str:
        """Folder or single file at the top of the package, as in `FLOORS`."""
        return [*self.name.split("."), ""][1]

    def calls(self) -> Iterator[ast.Call]:
        yield from (node for node in ast.walk(self.tree) if isinstance(node, ast.Call))

    def line(self, node: ast.expr | ast.stmt) -> str:
        return f"{self.path}:{node.lineno}"


class House:
    """All files of the package, and the imports between them.

    Attributes:
        modules: By name.
        imports: By name of the importing module and of the imported one, the line.
    """

    def __init__(self, root: Path = SOURCE) -> None:
        files = sorted(root.rglob("*.py"))
        self.modules = {module.name: module for module in (Module(root, file) for file in files)}
        self.imports = {name: self._imports(module) for name, module in self.modules.items()}

    def _imports(self, module: Module) -> dict[str, int]:
        """Find imports wherever they stand: in functions and under ``if TYPE_CHECKING:`` too."""
        found: dict[str, int] = {}
        for node in ast.walk(module.tree):
            if not isinstance(node, (ast.Import, ast.ImportFrom, ast.Call)):
                continue
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                base = self._base(module, node)
                submodules = [f"{base}.{alias.name}" for alias in node.names]
                names = [name if name in self.modules else base for name in submodules]
            elif isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in (
                "import_module",
                "__import__",
            ):
                names = self._by_name(node)
            for name in names:
                if name in self.modules and name != module.name:
                    found.setdefault(name, node.lineno)
        return found

    @staticmethod
    def _base(module: Module, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        package = module.name.split(".")
        package = package[: len(package) - node.level + module.is_package]
        return ".".join([*package, *([node.module] if node.module else [])])

    def _by_name(self, call: ast.Call) -> list[str]:
        """Return the modules that ``import_module`` may be asked for: all that begin as an f-string does."""
        name = call.args[0] if call.args else None
        if isinstance(name, ast.Constant):
            return [str(name.value)]
        if isinstance(name, ast.JoinedStr) and isinstance(name.values[0], ast.Constant):
            beginning = str(name.values[0].value)
            return [known for known in self.modules if beginning.startswith(PACKAGE) and known.startswith(beginning)]
        return []

    def circles(self) -> list[list[str]]:
        """Return one shortest circle through each group of files that reach each other."""
        reached = {name: self._reached(name) for name in self.imports}
        found: list[list[str]] = []
        seen: set[str] = set()
        for name in self.imports:
            if name in reached[name] and name not in seen:
                seen |= {other for other in reached[name] if name in reached[other]}
                found.append(self._way_back(name))
        return found

    def _reached(self, start: str) -> set[str]:
        reached: set[str] = set()
        left = [start]
        while left:
            for name in self.imports[left.pop()]:
                if name not in reached:
                    reached.add(name)
                    left.append(name)
        return reached

    def _way_back(self, start: str) -> list[str]:
        ways = [[start]]
        for way in ways:
            for name in self.imports[way[-1]]:
                if name == start:
                    return [*way, start]
                if all(name not in other for other in ways):
                    ways.append([*way, name])
        raise AssertionError(f"no circle through {start}")


# -- the checks: each returns its offences, in words that say what to do -----------------------------------------------


def circles(house: House) -> list[str]:
    """No files import each other, by whatever detour, not even in functions or for types."""
    advice = "move what both need into a file below them, or pass it as an argument"
    return [f"{' -> '.join(house.modules[name].path for name in way)}: {advice}" for way in house.circles()]


def floors(house: House) -> list[str]:
    """A file imports from floors below its own, or from its own folder."""
    level = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
    found = []
    for module in house.modules.values():
        if module.room not in level:
            found.append(f"{module.path}: stands on no floor: put it into a folder, or name it in FLOORS")
            continue
        for name, line in house.imports[module.name].items():
            other = house.modules[name]
            if other.room == module.room or other.room not in level or level[other.room] > level[module.room]:
                continue
            where = "across to" if level[other.room] == level[module.room] else "up to"
            found.append(
                f"{module.path}:{line}: imports {where} {other.path}: pass it as an argument, or move one of the two"
            )
    return found


def own_package(house: House) -> list[str]:
    """A file names the module that it needs, not a package that it lies in: that one may import the file itself."""
    return [
        f"{module.path}:{line}: imports its own package {name}: import from the module that defines the name"
        for module in house.modules.values()
        for name, line in house.imports[module.name].items()
        if module.name.startswith(f"{name}.")
    ]


def long_files(house: House) -> list[str]:
    """No file has more than `MOST_LINES` lines."""
    lengths = {module.path: module.text.count("\n") for module in house.modules.values()}
    return [
        f"{path}: {length} lines, expected at most {MOST_LINES}: split it by what it is about"
        for path, length in lengths.items()
        if length > MOST_LINES
    ]


def all_lines(house: House) -> list[str]:
    """All files together have no more than `MOST_LINES_OF_ALL` lines."""
    total = sum(module.text.count("\n") for module in house.modules.values())
    advice = "take out what nothing uses, and write once what stands twice"
    return (
        [f"src: {total:,} lines, expected at most {MOST_LINES_OF_ALL:,}: {advice}"] if total > MOST_LINES_OF_ALL else []
    )


def resizing(house: House) -> list[str]:
    """Maps, scores and label maps are resized in functional/geometry.py alone."""
    return [
        f"{module.line(call)}: resizes: call a function of functional/geometry.py (or name the file in RESIZING, if it "
        "resizes neither maps, scores nor labels)"
        for module in house.modules.values()
        for call in module.calls()
        if module.path not in RESIZING
        and ast.unparse(call.func).rpartition(".")[2] in ("interpolate", "upsample", "Upsample")
    ]


def ignored_labels(house: House) -> list[str]:
    """The label of a pixel without a class is `IGNORE_INDEX`, not a number of its own in each file."""
    filling = {"full", "new_full", "full_like", "fill_", "fill", "masked_fill", "masked_fill_", "where"}
    found = []
    for module in house.modules.values():
        if module.path == "protocol.py":
            continue
        suspects: list[ast.expr | None] = []
        for node in ast.walk(module.tree):
            if isinstance(node, ast.arguments):
                named = [*node.posonlyargs, *node.args][::-1]
                pairs = [*zip(named, node.defaults[::-1], strict=False)]
                pairs += [(arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True) if value]
                suspects += [value for arg, value in pairs if "ignore" in arg.arg]
            elif isinstance(node, ast.Call):
                suspects += [word.value for word in node.keywords if word.arg and "ignore" in word.arg]
                if ast.unparse(node.func).rpartition(".")[2] in filling:
                    suspects += [*node.args, *(word.value for word in node.keywords)]
            elif isinstance(node, ast.Compare):
                if isinstance(node.ops[0], (ast.Eq, ast.NotEq)):
                    suspects += [node.left, *node.comparators]
            elif isinstance(node, ast.Assign):
                if any(isinstance(target, ast.Subscript) for target in node.targets):
                    suspects.append(node.value)
            elif isinstance(node, ast.Subscript):
                suspects.append(node.slice)
            elif isinstance(node, ast.Set):
                suspects += node.elts
        found += [
            f"{module.line(node)}: 255 as a label: write IGNORE_INDEX of protocol.py"
            for node in sorted(filter(None, suspects), key=lambda node: node.lineno)
            if isinstance(node, ast.Constant) and type(node.value) is int and node.value == 255
        ]
    return found


def networks(house: House) -> list[str]:
    """Networks are made by `configure_model` alone, which calls `build_networks`."""
    found = []
    for module in house.modules.values():
        if module.room == "models":
            continue
        inside = {
            call: function.name
            for function in ast.walk(module.tree)
            if isinstance(function, ast.FunctionDef)
            for call in ast.walk(function)
            if isinstance(call, ast.Call)
        }
        for call in module.calls():
            name = ast.unparse(call.func)
            if name not in PARTS and name != "Segmenter.build":
                continue
            if name not in NETWORKS.get(module.path, ()) or inside.get(call) not in (
                "build_networks",
                "configure_model",
            ):
                found.append(
                    f"{module.line(call)}: {name} makes a network: leave that to configure_model, or read a stored one "
                    "with load_task"
                )
    return found


def options(house: House) -> list[str]:
    """SIGN has no more than `MOST_OPTIONS` options."""
    from sign_zs3 import SIGNModule

    count = len(set(SIGNModule.defaults()) - {"protocol"})
    advice = "take out one that no experiment and no user would miss"
    return [f"SIGNModule: {count} options, expected at most {MOST_OPTIONS}: {advice}"] if count > MOST_OPTIONS else []


Check = Callable[[House], list[str]]
CHECKS: tuple[Check, ...] = (
    circles, floors, own_package, long_files, all_lines, resizing, ignored_labels, networks, options,
)  # fmt: skip


@functools.cache
def _house() -> House:
    return House()


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_the_house_is_in_order(check: Check) -> None:
    found = check(_house())
    assert not found, "\n" + "\n".join(found)


# -- the checks see what they are for ----------------------------------------------------------------------------------

SOUND = {
    "__init__.py": "from sign_zs3._version import __version__",
    "_version.py": "__version__ = '1'",
    "protocol.py": "IGNORE_INDEX = 255",
    "functional/__init__.py": "from sign_zs3.functional.gzsl import confusion",
    "functional/gzsl.py": "from sign_zs3.protocol import IGNORE_INDEX\ndef confusion(ignore=IGNORE_INDEX): pass",
    "models/__init__.py": "",
    "models/segmenter.py": "import sign_zs3.functional\nwhite = image.clip(0, 255) * 255",
    "tasks/__init__.py": "from sign_zs3.tasks.base import Task",
    "tasks/base.py": "from sign_zs3.models import segmenter\ndef build_networks(): Segmenter.build(1)",
    "data/__init__.py": "",
    "data/stream.py": "from sign_zs3 import protocol",
    "data/base.py": "from .stream import read\nfrom . import stream",
}
PLANTED: dict[str, tuple[Check, dict[str, str], list[str]]] = {
    "nothing": (circles, {}, []),
    "a circle for types": (
        circles,
        {"data/stream.py": "if TYPE_CHECKING:\n    from sign_zs3.data.base import Data"},
        ["data/base.py -> data/stream.py -> data/base.py"],
    ),
    "a circle by a function": (
        circles,
        {"data/stream.py": "def f():\n    from sign_zs3.data import a", "data/a.py": "import sign_zs3.data.base"},
        ["data/a.py -> data/base.py -> data/stream.py -> data/a.py"],
    ),
    "a circle by a package": (
        circles,
        {"functional/gzsl.py": "from sign_zs3.functional import confusion"},
        ["functional/__init__.py -> functional/gzsl.py -> functional/__init__.py"],
    ),
    "a circle by name": (
        circles,
        {"data/stream.py": "importlib.import_module(f'sign_zs3.data.{name}')"},
        ["data/base.py -> data/stream.py -> data/base.py"],
    ),
    "up": (floors, {"models/heads.py": "\nfrom sign_zs3.tasks import Task"}, ["models/heads.py:2: imports up to"]),
    "across": (floors, {"data/names.py": "from sign_zs3.embeddings import x", "embeddings/__init__.py": ""},
               ["data/names.py:1: imports across to embeddings/__init__.py"]),
    "the face": (floors, {"data/names.py": "from sign_zs3 import VOC"}, ["data/names.py:1: imports up to __init__.py"]),
    "no floor": (floors, {"misc.py": ""}, ["misc.py: stands on no floor"]),
    "own package": (own_package, {"data/a.py": "from sign_zs3.data import x"}, ["data/a.py:1: imports its own"]),
    "a long file": (long_files, {"files.py": "\n" * 401}, ["files.py: 401 lines"]),
    "many lines": (all_lines, {"files.py": "\n" * (MOST_LINES_OF_ALL + 1)}, ["src: "]),
    "resizing": (resizing, {"files.py": "F.interpolate(x)\ninterpolate(x)"}, ["files.py:1: resizes", "files.py:2: "]),
    "255": (
        ignored_labels,
        {"files.py": "def f(a, ignore=255): x[y == 255] = 255\ntorch.full((2,), 255)\n255 in {0, 255}\ncounts[255]"},
        ["files.py:1: ", "files.py:1: ", "files.py:1: ", "files.py:2: ", "files.py:3: ", "files.py:4: "],
    ),
    "a network": (
        networks,
        {"commands/demo.py": "Segmenter.build(1)", "tasks/base.py": "def teach(): Segmenter.build(1)"},
        ["commands/demo.py:1: Segmenter.build", "tasks/base.py:1: Segmenter.build"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", PLANTED)
def test_a_check_finds_what_is_planted(case: str, tmp_path: Path) -> None:
    check, files, expected = PLANTED[case]
    for path, text in (SOUND | files).items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    found = check(House(tmp_path))
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected


def test_a_sound_house_has_no_offence(tmp_path: Path) -> None:
    for path, text in SOUND.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    assert [offence for check in CHECKS for offence in check(House(tmp_path))] == []


if __name__ == "__main__":
    looked_at = House(*(Path(folder) for folder in sys.argv[1:]))
    for one in CHECKS:
        for offence in one(looked_at):
            print(f"{one.__name__}: {offence}")
