"""Write the generated parts of the pages of results, and their pictures, from results files.

Usage: python scripts/results_page.py [STUDY ...]

The studies are reference (docs/results.md), content_decay and zoo (docs/studies/); without a name
all of them. The files are those that `lexp study` adds rows to. A test fails where a page is stale.
"""

import sys
from pathlib import Path
from types import ModuleType

import content_decay_page
import reference_page
import zoo_page
from page_parts import page
from result_cells import ROOT, planned, read

# Each module has `generated` and `picture`.
PAGES: dict[str, ModuleType] = {
    "reference": reference_page, "content_decay": content_decay_page, "zoo": zoo_page,
}  # fmt: skip


def path_of(study: str) -> Path:
    """Return the page of a study."""
    docs = ROOT / "docs"
    return docs / "results.md" if study == "reference" else docs / "studies" / f"{study}.md"


def written(study: str) -> str:
    """Return the text that the page of a study should have."""
    plan = planned(study)
    part = PAGES[study].generated(read(plan.file, plan.schemes), plan)
    return page(path_of(study).read_text(encoding="utf-8"), part)


def main(studies: list[str]) -> None:
    """Write pages and pictures."""
    for study in studies or PAGES:
        if study not in PAGES:
            raise SystemExit(f"{study}: no page; there are {', '.join(PAGES)}")
        plan, path = planned(study), path_of(study)
        results = read(plan.file, plan.schemes)
        path.write_text(written(study), encoding="utf-8")
        if results.cells:
            path.with_suffix(".png").write_bytes(PAGES[study].picture(results, plan))
        print(f"{path.relative_to(ROOT)}: {len(results.rows)} rows of {len(results.runs)} schemes")


if __name__ == "__main__":
    main(sys.argv[1:])
