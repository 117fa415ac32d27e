"""What the documentation takes from the code; `make docs` builds it."""

from __future__ import annotations

import importlib
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
from docs import check, drawings, options, tables
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Text

from sign_zs3.commands.configuration import TRAINING, VERBS
from sign_zs3.tasks import METHODS

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PUBLIC = ("sign_zs3", "sign_zs3.callbacks", "sign_zs3.data.datamodules", "sign_zs3.data.datasets",
          "sign_zs3.embeddings", "sign_zs3.functional", "sign_zs3.metrics", "sign_zs3.models", "sign_zs3.tasks",
          "sign_zs3.vocabulary")  # fmt: skip
PAGES = [*sorted(ROOT.glob("*.md")),
         *sorted(path for path in DOCS.rglob("*.md") if "/_" not in str(path.relative_to(ROOT)))]  # fmt: skip


def documented() -> list[object]:
    """Return all that the pages of the reference document, once for each time."""
    found: list[object] = []
    for page in sorted((DOCS / "reference").glob("*.md")):
        text = page.read_text(encoding="utf-8")
        for name, left_out in re.findall(r"automodule:: (\S+)\n(?: +:exclude-members: (.*)\n)?", text):
            module = importlib.import_module(name)
            public = getattr(module, "__all__", [key for key in vars(module) if key in ("Axis", "Cells")])
            skipped = left_out.split(", ") if left_out else []
            assert set(skipped) <= set(dir(module)), page
            found += [getattr(module, key) for key in public if key not in skipped]
    return found


def test_every_public_name_is_in_the_reference() -> None:
    names = {id(thing) for thing in [*documented(), importlib.import_module("sign_zs3").__version__]}
    # functions on cells are documented where they are written
    geometry = importlib.import_module("sign_zs3.functional.geometry")
    names |= {
        id(thing) for key, thing in vars(geometry).items() if getattr(thing, "__module__", "") == geometry.__name__
    }
    for name in PUBLIC:
        module = importlib.import_module(name)
        missing = [key for key in module.__all__ if id(getattr(module, key)) not in names]
        assert not missing, name


def test_nothing_is_in_the_reference_twice() -> None:
    ids = [id(thing) for thing in documented() if hasattr(thing, "__qualname__")]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_to_files_are_whole(path: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    # notebooks and pictures of the site are copied by the build
    there = [link for link in links if link and not link.startswith(("notebooks/", "_generated/", "../_generated/"))]
    assert [link for link in there if not (path.parent / link).exists()] == []


def test_every_page_is_in_the_contents() -> None:
    text = (DOCS / "index.md").read_text(encoding="utf-8")
    trees = "\n".join(re.findall(r"```\{toctree\}(.*?)```", text, flags=re.DOTALL))
    listed = {re.sub(r".*<(.*)>", r"\1", line) for line in trees.splitlines() if line and not line.startswith(":")}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in PAGES if path.is_relative_to(DOCS)}
    notebooks = {f"notebooks/{path.stem}" for path in (ROOT / "notebooks").glob("*.ipynb")}
    results = {name for name in pages if name.startswith("results/")}
    assert (pages | notebooks) - results - {"index"} <= listed


# -- what is made of the code ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def verbs() -> str:
    return options.verbs_page()


def test_verbs_and_their_options(verbs: str) -> None:
    assert [name for name in (*TRAINING, *VERBS) if f"\n## {name}\n" not in verbs] == []
    assert "\n### data convert\n" in verbs
    assert re.search(r"\| `--max_pixels` \| .+ \|", verbs)
    assert "%(" not in verbs
    # options of a configuration have a page of their own
    assert "`--model.lr`" not in verbs


def test_keys_of_every_method_and_data_module() -> None:
    text = options.options_page()
    for kind in METHODS.values():
        assert [key for key in kind.defaults() if f"| `{key}` |" not in text] == []
    for name in options.DATA_MODULES:
        assert f"### {name}\n" in text
    assert "| `root` | text | required |" in text
    assert "| `temperature` | number | `2.0` |" in text
    # a default that differs from method to method
    assert re.search(r"\| `adversarial` \|.*\| ZS3: `none`; CaGNet: `non_saturating`; SIGN: `non_saturating` \|", text)


def test_cells_of_tables_are_one_line(verbs: str) -> None:
    for line in (options.options_page() + verbs).splitlines():
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) in (3, 4, 5), line


def test_scores_are_those_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = "method,seeds,unfinished," + ",".join(f"{side}_{what}" for side in tables.SIDES for what in ("mean", "sd"))
    header += ",paper_seen,paper_unseen,paper_harmonic\n"
    path.write_text(f"{header}A_1,2,0,0.5,0.01,0,0,0,0,0.75,,\nB,1,0,0.61,,0,0,0,0,,,\n", encoding="utf-8")
    assert tables.scores_table(path).splitlines()[2:] == [
        "| A\\_1 | 2 | 50.00\u00a0±\u00a01.00 | 75.00 / - / - |",
        "| B | 1 | **61.00** | - / - / - |",
    ]


def test_every_experiment_has_its_row() -> None:
    rows = "\n".join(tables.experiments_tables().values())
    files = [path for path in tables.EXPERIMENTS.rglob("*.yaml") if path.parent.name not in ("parts", "sweeps")]
    assert [path.name for path in files if rows.count(f"`{path.relative_to(tables.EXPERIMENTS)}`") != 1] == []
    assert "<br>Table 1, Pascal VOC, SIGN + AST | 40,000 + 6,000 + 6,000 | 83.49 / 41.29 / 55.26 |" in rows
    line = tables.read_lines(DOCS / "results" / "msrc" / "table1" / "table.csv")[-1]
    assert f"SIGN + AST | 300 + 300 + 150 + 2 x 150 | {100 * float(line['seen_mean']):.2f}" in rows


def test_figures_of_the_benchmark(tmp_path: Path) -> None:
    path = tmp_path / "baseline.json"
    figures = [{"name": "a_b", "value": 0.004, "goal": 1.0, "least": False}, {"name": "c", "value": 2, "goal": None}]
    path.write_text(json.dumps({"figures": figures}), encoding="utf-8")
    assert tables.figures_table(tmp_path / "none.json") == "Not measured: no GPU was there.\n"
    assert tables.figures_table(path).splitlines()[2:] == ["| a\\_b | 0.004 | at most 1 |", "| c | 2.00 |  |"]


# -- drawings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", drawings.DRAWINGS)
def test_no_text_of_a_drawing_covers_another(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    figure = drawings.DRAWINGS[name](drawings.LIGHT)
    boxes: list[tuple[str, Any]] = []
    draw: Any = Text.draw

    def noted(text: Text, renderer: Any) -> None:
        draw(text, renderer)
        box = text.get_window_extent(renderer)
        # the layout is found by drawing without ink first
        if text.get_text().strip() and box.width > 1:
            boxes.append((text.get_text(), box))

    monkeypatch.setattr(Text, "draw", noted)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    assert len(boxes) > 10
    for (one, box), (two, other) in itertools.combinations(boxes, 2):
        assert not box.overlaps(other), (one, two)
    for word, box in boxes:
        assert box.x0 >= 0 and box.x1 <= figure.bbox.width, word
        assert box.y0 >= 0 and box.y1 <= figure.bbox.height, word


def test_a_drawing_is_the_same_each_time(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        drawings.write_all(tmp_path / folder)
    names = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert len(names) == 2 * len(drawings.DRAWINGS)
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


# -- the check of a built site ---------------------------------------------------------------------------------------


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "small.css").write_text("p {}")
    first = '<a href="#top">a</a><h1 id="top">A</h1><a href="sub/b.html#there">b</a>'
    first += '<link rel="stylesheet" href="small.css">'
    (tmp_path / "index.html").write_text(first, encoding="utf-8")
    (tmp_path / "sub" / "b.html").write_text(
        '<h2 id="there">B</h2><a href="https://x.org/none">x</a>', encoding="utf-8"
    )
    assert list(check.faults_of(tmp_path)) == []
    assert check.first_page_bytes(tmp_path) == len(first) + 4
    wrong = '<a href="gone.html">g</a><a href="../index.html#gone">g</a><script src="https://x.org/a.js"></script>'
    (tmp_path / "sub" / "b.html").write_text(f'<h2 id="there">B</h2>{wrong}', encoding="utf-8")
    (tmp_path / "small.css").write_text("p {}" * check.MOST_BYTES)
    faults = "\n".join(check.faults_of(tmp_path))
    assert "sub/b.html: links to gone.html, which is not there" in faults
    assert "sub/b.html: links to ../index.html#gone, which has no such heading" in faults
    assert "sub/b.html: loads https://x.org/a.js from elsewhere" in faults
    assert "index.html: loads 1,2" in faults and "300,000 at most" in faults
