"""Shares of the counts that coverage and mutmut write as JSON, for `make coverage` and `make mutants`.

`shares.py FILE LEAST PART/WHOLE...` prints each share and fails where one lies under the least.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path


def main(file: str, least: str, *pairs: str) -> int:
    counts = json.loads(Path(file).read_text(encoding="utf-8"))
    counts = counts.get("totals", counts)
    enough = True
    for part, whole in (pair.split("/") for pair in pairs):
        share = counts[part] / counts[whole]
        print(f"{part} / {whole}: {counts[part]} / {counts[whole]} = {share:.1%} (at least {float(least):.0%})")
        enough = enough and share >= float(least)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
