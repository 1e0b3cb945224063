"""mkdocs hooks: pages whose source is elsewhere (CONTRIBUTING.md, CHANGELOG.md, the commands' own help)."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
INCLUDED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill the pages that are included from outside ``docs/``."""
    name = page.file.src_uri
    if name in INCLUDED:
        text = (ROOT / INCLUDED[name]).read_text(encoding="utf-8").replace("](docs/", "](")
        return text.replace("](CHANGELOG.md)", "](changelog.md)").replace("](CONTRIBUTING.md)", "](contributing.md)")
    if name == "reference/cli.md":
        return markdown + _commands()
    return markdown


def _commands() -> str:
    """Every command with its options, from its own ``--help``."""
    command = [sys.executable, "-m", "typer", "hpc_jepa.cli.app", "utils", "docs", "--name", "hpc-jepa"]
    written = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    examples = re.compile(r"^  (?=\S)", re.M)  # indented lines of an epilog: shown as code
    return examples.sub("    ", written.partition("\n")[2])
