"""The generated files: config.toml, docs/reference, man page and completion, each made from the code it describes.

    python -m gatewayd.reference --check    exit status 1 when a file is stale
    python -m gatewayd.reference --write

Run in the repository's root.
"""

import argparse
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gatewayd import cli, errors
from gatewayd.config.render import render_example, render_reference
from gatewayd.instruments import INSTRUMENTS, Instrument
from gatewayd.manual import SHELLS, render_completion, render_man

_NOTE = "<!-- Generated from {source}: change it there, then `make docs`. -->\n"

EXIT_CODES: Mapping[int, str] = {
    0: "Done.",
    cli.EXIT_FAILED: "Not so: a check found something, the books do not balance, or an error that was told.",
    cli.EXIT_USAGE: "Wrong usage of the command line.",
    cli.EXIT_UNAVAILABLE: "The daemon cannot be reached.",
    cli.EXIT_CONFIG: "The config is wrong. systemd does not restart (`RestartPreventExitStatus=78`).",
}


def pages() -> Mapping[str, Callable[[], str]]:
    """Every generated file, by its path from the repository's root."""
    return {
        "config.toml": render_example,
        "docs/reference/config.md": render_reference,
        "docs/reference/metrics.md": render_metrics,
        "docs/reference/errors.md": render_errors,
        "docs/reference/cli.md": render_cli,
        "man/gatewayd.1": partial(render_man, EXIT_CODES),
        **{str(path): partial(render_completion, shell) for shell, path in SHELLS.items()},
    }


def stale(root: Path) -> list[str]:
    """The generated files that are not there, or not what the code says."""
    return [path for path, render in pages().items() if not _is_current(root / path, render())]


def write(root: Path) -> None:
    """Write all of them."""
    for path, render in pages().items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(render(), encoding="utf-8")


def _is_current(path: Path, text: str) -> bool:
    return path.exists() and path.read_text(encoding="utf-8") == text


def render_metrics() -> str:
    """docs/reference/metrics.md."""
    head = (
        _NOTE.format(source="gatewayd/instruments.py") + "\n# Metrics and spans\n\n"
        "On `/metrics` (Prometheus) under the first name, at an OTLP receiver under the second. Names of `messaging.*` "
        "and `gen_ai.*` follow OpenTelemetry's semantic conventions. A metric appears with its first value.\n\n"
        "Besides, each figure that a handler tells of itself (`stats` of gatewayd.api.TellsStats) is a metric "
        "`gatewayd_handler_<name>`, attribute `route`: handlers/README.md names those of the built-in ones.\n"
    )
    table = [
        "| Prometheus | OpenTelemetry | Kind | Unit | Attributes | Meaning |",
        "| --- | --- | --- | --- | --- | --- |",
        *(_metric_row(each) for each in sorted(INSTRUMENTS.values(), key=lambda each: each.prometheus_name)),
    ]
    return head + "\n" + "\n".join(table) + "\n" + _SPANS


def _metric_row(instrument: Instrument) -> str:
    fixed = [f'`{name}="{value}"`' for name, value in instrument.fixed.items()]
    attributes = ", ".join([*(f"`{name}`" for name in instrument.attributes), *fixed])
    cells = [
        f'<a id="{instrument.prometheus_name}"></a>`{instrument.prometheus_name}`',
        f"`{instrument.name}`",
        instrument.kind,
        f"`{instrument.unit}`" if instrument.unit else "",
        attributes,
        instrument.description,
    ]
    return "| " + " | ".join(cells) + " |"


_SPANS = """
## Spans

Sent where an OTLP endpoint is configured. `$OTEL_TRACES_SAMPLER` is obeyed. No span carries a payload or a topic.
With `telemetry.join_publisher` a batch whose messages all carry the same context is a child of it, so that one trace
goes from the device to the cloud's answer, however long the cloud was away.
A span costs about 0.1 ms a batch (64 messages, two x86 cores): sample where batches are small and many.

| Span | Kind | Links | Attributes |
| --- | --- | --- | --- |
| `process <route>` | CONSUMER | the publishers' contexts of the batch's messages, at most `telemetry.max_links`, \
each with `messaging.message.id` | `messaging.system`, `messaging.operation.name`, `messaging.operation.type`, \
`messaging.batch.message_count` (of a single message `messaging.message.id`), `gatewayd.route`, `error.type` |
| `text_completion <model>` | INTERNAL, beneath `process <route>` | | `gen_ai.operation.name`, \
`gen_ai.provider.name`, `gen_ai.request.model` |
| `upload <sink>` | CLIENT; its parent is the context stored with the results when they share one | else those \
contexts | `gatewayd.results`, `gatewayd.sink`, `gatewayd.route`, `error.type` |
"""


def render_errors() -> str:
    """docs/reference/errors.md."""
    parts = [_NOTE.format(source="gatewayd/errors.py"), "# Errors and exit codes\n"]
    parts += ["A class says what happens next.\n", "| Error | Is a | What happens |", "| --- | --- | --- |"]
    for name, cls in inspect.getmembers(errors, inspect.isclass):
        if cls.__module__ == errors.__name__:
            meaning = (cls.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")
            parts.append(f'| <a id="{name}"></a>`{name}` | `{cls.__bases__[0].__name__}` | {meaning} |')
    parts += ["\n## Exit codes\n", "| Code | Meaning |", "| --- | --- |"]
    parts += [f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items()]
    return "\n".join(parts) + "\n"


def render_cli() -> str:
    """docs/reference/cli.md."""
    import typer

    from gatewayd.cli.app import app

    parts = [_NOTE.format(source="gatewayd/cli/app.py"), "# Commands\n"]
    parts += _commands(typer.main.get_command(app), ("gatewayd",))
    return "\n".join(parts)


def _commands(command: Any, path: tuple[str, ...]) -> Iterator[str]:
    """A section for each command. `command` is Click's; Typer carries its own copy of it, so it has no type here."""
    yield f"## `{' '.join(path)}`\n"
    yield f"{inspect.cleandoc(command.help or '')}\n"
    shown = [param for param in command.params if not getattr(param, "hidden", False)]
    if shown:
        yield "| Argument or option | Default | Meaning |\n| --- | --- | --- |"
        yield from (_parameter_row(param) for param in shown)
        yield ""
    for name, each in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(each, (*path, name))


def _parameter_row(param: Any) -> str:
    is_option = param.param_type_name == "option"
    names = ", ".join(f"`{name}`" for name in [*param.opts, *param.secondary_opts]) if is_option else f"`{param.name}`"
    shown = getattr(param, "show_default", None)
    default = shown if isinstance(shown, str) else "" if callable(param.default) else param.default
    if param.required:
        default = "required"
    elif default in (None, "", False, ()):
        default = ""
    meaning = (getattr(param, "help", "") or "").replace("|", "\\|")
    return f"| {names} | {default} | {meaning} |"


def main() -> int:
    """Check or write, as asked for."""
    parser = argparse.ArgumentParser(prog="python -m gatewayd.reference", description=(__doc__ or "").split("\n")[0])
    wanted = parser.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--check", action="store_true", help="exit status 1 when a file is stale")
    wanted.add_argument("--write", action="store_true", help="write the files")
    if parser.parse_args().write:
        write(Path())
        return 0
    old = stale(Path())
    for path in old:
        print(f"{path}: stale, run `make docs`", file=sys.stderr)
    return 1 if old else 0


if __name__ == "__main__":
    sys.exit(main())
