"""Hooks of mkdocs: pages and pictures that lie outside docs/ become part of the site, and links to them lead there."""

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = (
    "README.md", "MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE",
    "benchmarks/*.md", "benchmarks/*.py", "benchmarks/results/**/*.*", "examples/*.*", "recipes/*.toml",
)  # fmt: skip


def on_files(files: Files, *, config: Any) -> Files:
    """Adds what the pages link to."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            if files.get_file_from_path(name) is None and name != "README.md":
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Links as they are on the site: docs/ is its root, and README.md its first page."""
    if page.file.src_uri in ("MODEL_CARD.md", "CONTRIBUTING.md", "CHANGELOG.md"):
        return re.sub(r"\]\((docs/)?(README\.md)?", lambda m: "](index.md" if m[2] else "](", markdown)
    depth = page.file.src_uri.count("/")
    if depth:
        return re.sub(r"\]\(\.\./docs/", "](../", markdown)
    return re.sub(r"\]\(\.\./(README\.md)?", lambda m: "](index.md" if m[1] else "](", markdown)
