"""What a built site must have: ``python docs/check.py docs/_build/html`` prints each fault and exits with 1 if any.

Every link within the site leads to a page and a heading that are there; no page loads anything from elsewhere; and all
that the first page loads is smaller than a limit.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

MOST_BYTES = 300_000
"""Of the first page with its styles, scripts and pictures."""
_LOADS = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src"}


class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what a tag links to, loads and names."""
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given["id"]} if "id" in given else set()
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        # pages link to the search, to each other and to themselves, which loads nothing
        is_style = tag != "link" or given.get("rel") in ("stylesheet", "icon", "preload")
        if is_style and given.get(_LOADS.get(tag, "")):
            self.loads.append(given[_LOADS[tag]])


def faults_of(site: Path) -> Iterator[str]:
    """Yield what is wrong with a built site."""
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        name = path.relative_to(site)
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = _target(path, parts.path)
            if not target.exists():
                yield f"{name}: links to {link}, which is not there"
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].anchors:
                yield f"{name}: links to {link}, which has no such heading"
        for load in page.loads:
            if urlsplit(load).netloc:
                yield f"{name}: loads {load} from elsewhere"
            elif not load.startswith("data:") and not _target(path, urlsplit(load).path).exists():
                yield f"{name}: loads {load}, which is not there"
    size = first_page_bytes(site)
    if size > MOST_BYTES:
        yield f"index.html: loads {size:,} bytes, expected {MOST_BYTES:,} at most: make its pictures smaller"


def first_page_bytes(site: Path) -> int:
    """Return the bytes of the first page and of all that it loads from the site."""
    first = site / "index.html"
    loads = {urlsplit(load).path for load in Page(first).loads if not load.startswith("data:")}
    files = {first, *(_target(first, load) for load in loads)}
    return sum(file.stat().st_size for file in files if file.exists())


def _target(page: Path, path: str) -> Path:
    return page if not path else (page.parent / unquote(path)).resolve()


if __name__ == "__main__":
    site = Path(sys.argv[1]).resolve()
    found = list(faults_of(site))
    print("\n".join(found) or f"links are whole; the first page is {first_page_bytes(site):,} bytes")
    sys.exit(int(len(found) > 0))
