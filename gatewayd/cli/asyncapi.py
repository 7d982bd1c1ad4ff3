"""`gatewayd asyncapi`."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from gatewayd.asyncapi import document
from gatewayd.checked import load_checked
from gatewayd.config.environment import gateway_id


def print_document(config: Path, *, as_json: bool) -> None:
    """Print it as YAML or as JSON. Raises ConfigErrors."""
    loaded = load_checked(config)
    made = document(loaded, gateway_id(loaded))
    typer.echo(json.dumps(made, indent=2, ensure_ascii=False) if as_json else to_yaml(made), nl=as_json)


def to_yaml(value: Any) -> str:
    """A tree of mappings, lists and scalars as YAML 1.2 in block style: every scalar is as in JSON, of which YAML is a
    superset, so no text is taken for something else."""
    return "".join(f"{line}\n" for line in _lines(value))


# What YAML 1.1 takes for a truth value or for nothing.
_NO_PLAIN_KEYS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}


def _key(name: str) -> str:
    is_plain = name.isascii() and name.isidentifier() and name.lower() not in _NO_PLAIN_KEYS
    return name if is_plain else json.dumps(name)


def _lines(value: Any) -> Iterator[str]:
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from _entry(f"{_key(name)}:", item)
    elif isinstance(value, list) and value:
        for item in value:
            first, *rest = _lines(item)
            yield f"- {first}"
            yield from (f"  {line}" for line in rest)
    else:
        yield json.dumps(value, ensure_ascii=False)


def _entry(name: str, item: Any) -> Iterator[str]:
    if isinstance(item, dict | list) and item:
        yield name
        yield from (f"  {line}" for line in _lines(item))
    else:
        yield f"{name} {json.dumps(item, ensure_ascii=False)}"
