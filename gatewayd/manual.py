"""The man page and the completion of the three shells, made from the command line itself; see `reference`.

The page is written for man(7), as groff and mandoc read it. The completion scripts are Typer's: they ask the program
what may come next, so they know every command of the version that is installed.
"""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gatewayd import __version__

SHELLS: Mapping[str, Path] = {
    "bash": Path("completion/gatewayd.bash"),
    "zsh": Path("completion/_gatewayd"),
    "fish": Path("completion/gatewayd.fish"),
}
_FILES = (
    ("/etc/gatewayd/gatewayd.toml", "The config; `--config` names another. docs/reference/config.md has every key."),
    ("/etc/gatewayd/gatewayd.env", "Environment of the service, optional."),
    ("/var/lib/gatewayd", "The spool, the audit trail and the models of the service."),
    ("/usr/lib/systemd/system/gatewayd.service", "The unit; change it with `systemctl edit gatewayd`."),
)
_ENVIRONMENT = (
    ("STATE_DIRECTORY", "Folder of the spool where `gateway.state_dir` is not set; systemd gives it."),
    ("CREDENTIALS_DIRECTORY", "Where files of secrets are looked for first; systemd gives it, see LoadCredential=."),
    ("OTEL_EXPORTER_OTLP_ENDPOINT", "Where traces and metrics go, unless `telemetry.otlp_endpoint` says so."),
)


def render_man(exit_codes: Mapping[int, str]) -> str:
    """man/gatewayd.1."""
    lines = [
        '.\\" Generated from gatewayd/cli: change it there, then `make docs`.',
        f'.TH GATEWAYD 1 "" "gatewayd {__version__}" "User Commands"',
        ".SH NAME",
        "gatewayd \\- inference daemon of an IoT gateway",
        ".SH SYNOPSIS",
        ".B gatewayd",
        ".RI [ options ]",
        ".I command",
        ".RI [ arguments ]",
        ".SH DESCRIPTION",
        "Takes messages off an MQTT bus, answers them with models that run on the gateway itself, never loses what it",
        "has acknowledged, and delivers the results to the cloud whenever there is a cloud.",
        ".SH COMMANDS",
        *_commands(_root(), ("gatewayd",)),
        ".SH FILES",
        *_table(_FILES),
        ".SH ENVIRONMENT",
        *_table(_ENVIRONMENT),
        '.SH "EXIT STATUS"',
        *_table([(str(code), meaning) for code, meaning in exit_codes.items()]),
        '.SH "SEE ALSO"',
        ".BR mosquitto (8),",
        ".BR mosquitto_pub (1),",
        ".BR journalctl (1)",
        ".PP",
        "/usr/share/doc/gatewayd holds the guides and the reference.",
    ]
    return "\n".join(lines) + "\n"


def render_completion(shell: str) -> str:
    """The completion script of a shell: bash, zsh or fish."""
    from typer._completion_shared import get_completion_script

    script = get_completion_script(prog_name="gatewayd", complete_var="_GATEWAYD_COMPLETE", shell=shell)
    if shell == "zsh":  # installed as a file that is loaded at the first TAB: it must answer that one as well
        script = script.replace("compdef _gatewayd_completion gatewayd", '_gatewayd_completion "$@"')
    return script.strip() + "\n"


def _root() -> Any:
    import typer

    from gatewayd.cli.app import app

    return typer.main.get_command(app)


def _commands(command: Any, path: Sequence[str]) -> Iterator[str]:
    """A paragraph for each command. `command` is Click's; see `reference` for why it has no type here."""
    words = list(path)
    if len(words) > 1:
        arguments = [_argument(param) for param in command.params if param.param_type_name == "argument"]
        yield f'.SS "{_text(" ".join([*words, *arguments]))}"'
        yield from _paragraphs(command.help or "")
    for param in command.params:
        if param.param_type_name == "option" and not getattr(param, "hidden", False):
            yield ".TP"
            yield f".B {_text(_option(param))}"
            yield _line(getattr(param, "help", "") or "")
    for name, each in sorted(getattr(command, "commands", {}).items()):
        yield from _commands(each, (*words, name))


def _argument(param: Any) -> str:
    name = f"{param.name.upper()}{'...' if param.nargs == -1 else ''}"
    return name if param.required else f"[{name}]"


def _option(param: Any) -> str:
    names = ", ".join([*param.opts, *param.secondary_opts])
    return names if param.is_flag else f"{names} {param.name.upper()}"


def _table(rows: Sequence[tuple[str, str]]) -> Iterator[str]:
    for name, meaning in rows:
        yield ".TP"
        yield f".B {_text(name)}"
        yield _line(meaning)


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        yield _line(" ".join(paragraph.split()))


def _line(text: str) -> str:
    """A line of text: one that begins with a dot or a quote would be a request."""
    line = _text(text)
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _text(text: str) -> str:
    """Escaped for roff: backslashes, hyphens that can be copied, quotes that stay straight; ASCII alone."""
    for char, escape in (("\\", "\\e"), ("-", "\\-"), ('"', "\\(dq"), ("`", "\\(ga"), ("…", "..."), ("→", "\\(->")):
        text = text.replace(char, escape)
    return text
