"""Record what each stage takes, for the time left that 'probml-tp run' shows.

probml-tp run --results results; python benchmarks/timings.py results
probml-tp run --quick --results quick; python benchmarks/timings.py quick
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from probml_tp.harness.timings import FILE, recorded

TARGET = Path(__file__).resolve().parents[1] / "probml_tp" / "harness" / FILE


def main() -> None:
    """Add the timings of a results folder, rounded, under the preset that it was run with."""
    found = recorded(Path(sys.argv[1]))
    content = json.loads(TARGET.read_text("utf-8")) if TARGET.exists() else {}
    for name, entry in found.items():
        size = entry.pop("preset").partition(" ")[0]
        entry["stages"] = {stage: round(s, 1) for stage, s in entry["stages"].items()}
        content.setdefault(size, {})[name] = entry
    TARGET.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print(f"{len(found)} experiments recorded in {TARGET}")


if __name__ == "__main__":
    main()
