"""`gatewayd init`: ask, look, propose, write, check."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import typer

from gatewayd.checked import handler_problems
from gatewayd.cli.output import print_table, quiet_logs
from gatewayd.cli.setup.answers import AnswerError, BrokerAnswer, broker_answer, gateway_answer, sink_answer
from gatewayd.cli.setup.propose import KnownModel, Proposal, propose, undecodable
from gatewayd.cli.setup.render import Written, render
from gatewayd.cli.setup.streams import Stream, streams_of, streams_under
from gatewayd.config.environment import gateway_id, read_environment
from gatewayd.config.load import check
from gatewayd.config.schema import Config, Models, Secret, Source, Tls
from gatewayd.config.secrets import read_secret
from gatewayd.models.bundle import read_bundle
from gatewayd.models.store import ModelStore
from gatewayd.mqtt.guest import Bounds, Visit, refusal, visit
from gatewayd.routing import matches, validate_filter

T = TypeVar("T")

_PASSWORD_NAME = "mqtt-password"  # noqa: S105 - a file's name
_HANDLERS = ("threshold", "classify_series", "summarize_text", "classify_text")
_CONNECT_S = 5.0
_MAX_SHOWN = 20


@dataclass(slots=True, kw_only=True)
class Asked:
    """What the options said; None: to be asked, or taken at its default with `yes`."""

    config: Path
    gateway: str | None = None
    broker: str | None = None
    results: str | None = None
    topics: list[str] = field(default_factory=list)
    handler: str | None = None
    password_file: Path | None = None
    ca_file: Path | None = None
    state_dir: str = ""
    look_s: float = 5.0
    yes: bool = False
    force: bool = False


def write_config(asked: Asked) -> bool:
    """Ask what is to be asked, and write. True when `gatewayd check` passes what was written."""
    quiet_logs()
    _refuse_to_overwrite(asked)
    gateway = _ask(asked, "1/5 Name of this gateway", asked.gateway, gateway_id(Config()), gateway_answer)
    broker = _ask(asked, "2/5 Broker", asked.broker, str(BrokerAnswer()), broker_answer)
    password = _password(asked, broker)
    sink = _ask(asked, "3/5 Results go to (file, http://…, mqtt://…, none)", asked.results, "file", sink_answer)
    found = asyncio.run(_look(asked, broker, password))
    looked = _say_what_was_found(found, broker)
    streams = _choose_topics(asked, found)
    proposals = _choose_handler(asked, streams)
    written = Written(
        gateway=gateway,
        broker=broker,
        password_file=_password_name(asked, password),
        ca_file="" if asked.ca_file is None else str(asked.ca_file.absolute()),
        sink=sink,
        proposals=proposals,
        looked=looked,
        state_dir=asked.state_dir,
    )
    _write(asked, render(written), password)
    return _check(asked.config, proposals, found)


def _refuse_to_overwrite(asked: Asked) -> None:
    if asked.config.exists() and not asked.force:
        raise AnswerError(f"{asked.config} is there already: name another file with --config, or give --force")
    if not asked.config.absolute().parent.is_dir() or asked.config.is_dir():
        raise AnswerError(f"{asked.config}: not a file in a folder that exists: name another with --config")


def _ask(asked: Asked, question: str, given: str | None, default: str, read: Callable[[str], T]) -> T:
    """An answer that can be used. Raises AnswerError for an option that cannot."""
    if given is not None:
        return read(given)
    while True:
        if asked.yes:
            return read(default)
        try:
            return read(str(typer.prompt(question, default=default)))
        except AnswerError as error:
            typer.echo(f"  {error}", err=True)


def _password(asked: Asked, broker: BrokerAnswer) -> str | None:
    """The password, from its file or typed in; None where there is no user."""
    if asked.password_file is not None:
        secret = Secret(file=str(asked.password_file.absolute()))
        return read_secret(secret, key="password", beside=Path(), environment=read_environment({}))
    if not broker.username or asked.yes:
        return None
    return (
        str(typer.prompt(f"    Password of {broker.username}", default="", hide_input=True, show_default=False)) or None
    )


def _password_name(asked: Asked, password: str | None) -> str:
    if asked.password_file is not None:
        return str(asked.password_file.absolute())
    return "" if password is None else _PASSWORD_NAME


# --- the look


async def _look(asked: Asked, broker: BrokerAnswer, password: str | None) -> Visit:
    source = Source(
        host=broker.host,
        port=broker.port,
        unix_socket=broker.unix_socket or None,
        username=broker.username or None,
        tls=Tls(ca_file=None if asked.ca_file is None else str(asked.ca_file)) if broker.has_tls else None,
        connect_timeout_s=_CONNECT_S,
    )
    filters = _given_filters(asked.topics) or ["#"]
    typer.echo(f"Looking at {broker} for {asked.look_s:g} s …", err=True)
    bounds = Bounds(seconds=asked.look_s)
    found = await visit(source, password, [(name, 0) for name in filters], bounds)
    if found.reason_code in (1, 0x84):  # a broker that speaks 3.1.1 alone: the daemon will say so as well
        found.hint = 'this broker speaks no MQTT 5: add `protocol = "3.1.1"` to [source]'
    return found


def _given_filters(topics: Sequence[str]) -> list[str]:
    for name in topics:
        if problem := validate_filter(name):
            raise AnswerError(f"{name!r}: {problem}")
    return list(topics)


def _say_what_was_found(found: Visit, broker: BrokerAnswer) -> str:
    """Tell it, and put it into a sentence for the file, without a word of what others have published."""
    if found.problem and not found.messages:
        typer.echo(f"The broker was not looked at: {found.problem}", err=True)
        if found.hint:
            typer.echo(f"hint: {found.hint}; a config is written nevertheless", err=True)
        return f"The broker {broker} could not be looked at."
    for name, code in found.granted.items():
        if code >= 0x80:
            words, hint = refusal(code)
            typer.echo(f"The broker refused {name}: {words}; {hint}, or name topics with --topics", err=True)
    n_topics = len({message.topic for message in found.messages})
    said = f"{found.n_heard} messages on {n_topics} topics in {found.seconds:.1f} s"
    typer.echo(f"Seen: {said}.")
    return f"Seen on {broker}: {said}."


# --- topics and handlers


def _choose_topics(asked: Asked, found: Visit) -> list[Stream]:
    """The groups of topics that routes are made for."""
    if asked.topics:
        return streams_under(asked.topics, found.messages, found.counts, found.seconds)
    streams = streams_of(found.messages, found.counts, found.seconds)
    if not streams:
        typer.echo("No topics with measurements or texts were seen.")
    else:
        _show(streams)
    question = "4/5 Topics (all, numbers of the list, or filters such as plant/#; none for an example)"
    return _ask(asked, question, None, "all" if streams else "none", lambda text: _picked(text, streams, found))


def _show(streams: Sequence[Stream]) -> None:
    rows = [
        (n, " ".join(one.filters[:3]), len(one.topics), f"{one.per_s:.3g}", one.form, _in_short(one))
        for n, one in enumerate(streams[:_MAX_SHOWN], start=1)
    ]
    print_table("Seen", ["", "filter", "topics", "a second", "payload", "fields"], rows)
    if len(streams) > _MAX_SHOWN:
        typer.echo(f"… and {len(streams) - _MAX_SHOWN} more")


def _in_short(stream: Stream) -> str:
    """Fields with their types, or the range of a bare number."""
    said = []
    for one in list(stream.fields.values())[:6]:
        if one.kind == "number" and one.numbers:
            said.append(f"{one.name} {min(one.numbers):.4g}..{max(one.numbers):.4g}".strip())
        elif one.kind == "text":
            first = next(iter(one.texts), "")
            said.append(f'{one.name} "{_printable(first)}"'.strip())
        else:
            said.append(f"{one.name} {one.kind}".strip())
    more = len(stream.fields) - len(said)
    return _printable(", ".join(said), 60) + (f", {more} more" if more > 0 else "")


def _printable(text: str, width: int = 24) -> str:
    """No control characters on somebody's terminal."""
    shown = "".join(letter if letter.isprintable() else "?" for letter in text[: width + 1])
    return shown if len(shown) <= width else shown[: width - 1] + "…"


def _picked(text: str, streams: Sequence[Stream], found: Visit) -> list[Stream]:
    words = [word for word in text.replace(",", " ").split() if word]
    if words in (["all"], ["none"], []):
        return list(streams) if words == ["all"] else []
    picked: list[Stream] = []
    for word in words:
        if word.isascii() and word.isdecimal() and len(word) < 9:
            if not 1 <= int(word) <= len(streams):
                raise AnswerError(f"{word}: the list has 1 to {len(streams)}")
            picked.append(streams[int(word) - 1])
        else:
            picked += streams_under(_given_filters([word]), found.messages, found.counts, found.seconds)
    return picked


def _choose_handler(asked: Asked, streams: Sequence[Stream]) -> list[Proposal]:
    models = _known_models(asked.config.absolute().parent / Models().dir)
    proposals = propose(streams, models)
    for stream in streams:
        if not any(one.stream is stream for one in proposals):
            typer.echo(f"  {' '.join(stream.filters[:3])}: no handler fits ({stream.form}), left out")
    for one in proposals:
        typer.echo(f"  route {one.name}: {one.handler} on {' '.join(one.stream.filters[:3])} - {one.why}")

    def read(text: str) -> str:
        if text not in ("proposed", *_HANDLERS):
            raise AnswerError(f"{text!r}: say `proposed`, or one of {', '.join(_HANDLERS)}")
        return text

    chosen = _ask(asked, "5/5 Handler (proposed, or one for all of them)", asked.handler, "proposed", read)
    if chosen == "proposed":
        return proposals
    others = propose(streams, models, chosen)
    if not others and streams:
        typer.echo(f"{chosen} fits none of these topics: an example is written", err=True)
    return others


def _known_models(folder: Path) -> list[KnownModel]:
    """What lies in the models folder and can be used."""
    if not folder.is_dir():
        return []
    found = []
    for one in ModelStore(folder, Models()).ls():
        if one.state == "ok":
            expects: Any = read_bundle(folder / one.name, name=one.name).manifest.input.get("fields", [])
            fields = tuple(each for each in expects if isinstance(each, str)) if isinstance(expects, list) else ()
            found.append(KnownModel(name=one.name, task=one.task, fields=fields))
    return found


# --- the file


def _write(asked: Asked, text: str, password: str | None) -> None:
    path = asked.config
    if password is not None and asked.password_file is None:
        secret = path.absolute().parent / _PASSWORD_NAME
        _put(secret, password + "\n", mode=0o600)
        typer.echo(f"{secret}: the password, for its owner alone")
    if path.exists():
        path.replace(path.with_name(f"{path.name}.old"))
        typer.echo(f"{path.with_name(path.name + '.old')}: the config that was there")
    _put(path, text, mode=0o644)


def _put(path: Path, text: str, *, mode: int) -> None:
    """All of it or nothing, never readable for others in between."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
    beside.replace(path)


def _check(path: Path, proposals: Sequence[Proposal], found: Visit) -> bool:
    problems = check(path, handler_problems(path))
    for problem in problems:
        typer.echo(str(problem), err=True)
    for one in proposals:
        some = [m for m in found.messages if any(matches(name, m.topic) for name in one.stream.filters)]
        wrong = undecodable(one.payload, some)
        if wrong:
            typer.echo(f"  route {one.name}: {len(wrong)} of {len(some)} samples do not decode, e.g. {wrong[0][1]}")
    if any(not problem.is_warning for problem in problems):
        return False
    n_routes = max(1, len(proposals))
    typer.echo(f"{path}: written, {n_routes} route{'s' if n_routes > 1 else ''}; `gatewayd check` passes it.")
    shown = "" if path == Path("config.toml") else f" --config {path}"
    typer.echo(f"Next: gatewayd check{shown} --against-broker; gatewayd run{shown}")
    return True
