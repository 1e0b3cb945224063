"""mkdocs hooks: pages generated from other sources (CONTRIBUTING.md, CHANGELOG.md, ``--help``, the configuration)."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel

ROOT = Path(__file__).parents[1]
INCLUDED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md", "security.md": "SECURITY.md"}
PAGES = {name: page for page, name in INCLUDED.items()}


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Fill the generated pages."""
    name = page.file.src_uri
    if name in INCLUDED:
        text = (ROOT / INCLUDED[name]).read_text(encoding="utf-8").replace("](docs/", "](")
        return re.sub(r"\]\((CHANGELOG|CONTRIBUTING|SECURITY)\.md", lambda match: f"]({PAGES[match[1] + '.md']}", text)
    if name == "reference/cli.md":
        return markdown + commands()
    if name == "reference/configuration.md":
        return markdown + configuration()
    return markdown


def commands() -> str:
    """Every command with its options, from its own ``--help``."""
    command = [sys.executable, "-m", "typer", "hpc_jepa.cli.app", "utils", "docs", "--name", "hpc-jepa"]
    written = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout
    examples = re.compile(r"^  (?=\S)", re.M)  # indented lines of an epilog: shown as code
    return examples.sub("    ", written.partition("\n")[2])


def configuration() -> str:
    """Every key with type, default and description, from the configuration classes."""
    from hpc_jepa.config.benchmark import BenchmarkConfig
    from hpc_jepa.config.cluster import ClusterConfig
    from hpc_jepa.config.run import RunConfig
    from hpc_jepa.config.study import StudyConfig
    from hpc_jepa.objectives.registry import primitives

    parts = [
        _section("A run: `hpc-jepa train`", RunConfig),
        _section("A benchmark: `hpc-jepa evaluate`", BenchmarkConfig),
        _section("A study: `hpc-jepa study`", StudyConfig),
        _section("A cluster profile: `--cluster`", ClusterConfig),
        "## Options of the objectives\n\nUsed as `objectives: [fwm, {ld: {hidden: 128}}]`.\n",
        *(_section(name, objective.options_type, level=3) for name, objective in primitives().items()),
    ]
    return "\n".join(parts)


def _section(title: str, config: type[BaseModel], level: int = 2) -> str:
    lines = [f"{'#' * level} {title}", "", "| key | type | default | |", "|---|---|---|---|"]
    return "\n".join([*lines, *_rows(config, ""), ""])


def _rows(config: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in config.model_fields.items():
        models = list(_models(field.annotation))
        if models:
            nested = f"{prefix}{name}{_index(field.annotation)}."
            for model in models:
                yield from _rows(model, nested)
            continue
        default = _default(field) if not field.is_required() else "by preset" if prefix == "semantics." else "required"
        cells = (f"`{prefix}{name}`", _type(field.annotation), default, field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Configuration classes inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)


def _index(annotation: Any) -> str:
    """How an entry of a list or a mapping is named."""
    origins = {get_origin(part) for part in (annotation, *get_args(annotation))}
    return ".<name>" if dict in origins else "[i]" if origins & {tuple, list} else ""


def _default(field: Any) -> str:
    value = field.default_factory() if field.default_factory else field.default
    return f"`{value}`"


def _type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if annotation is type(None):
        return "null"
    if origin is not None and str(origin).endswith("Literal"):
        return ", ".join(f"`{argument}`" for argument in arguments)
    if origin in (tuple, list):
        return f"list of {_type(arguments[0])}" if arguments else "list"
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    if origin is not None and arguments:  # Annotated
        return _type(arguments[0])
    return getattr(annotation, "__name__", str(annotation)).lower()
