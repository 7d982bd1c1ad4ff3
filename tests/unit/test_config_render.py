"""gatewayd.config.render: the example and the reference say what the structs say."""

import re

from gatewayd.config import Config
from gatewayd.config.load import examine_text
from gatewayd.config.render import render_example, render_reference


def toggles(lines: list[str]) -> list[tuple[int, int | None]]:
    """Every commented-out key: its line, and the line of its table's header when that is commented out too."""
    found: list[tuple[int, int | None]] = []
    header: int | None = None
    for number, line in enumerate(lines):
        if re.match(r"#?\[", line):
            header = number if line.startswith("#") else None
        elif re.match(r"#[a-z_]+ = ", line):
            found.append((number, header))
    return found


def needed_by(lines: list[str], header: int) -> set[int]:
    """Of a sink's, tier's or page's table that is commented out, or one in it: its head, its type and its required
    keys."""
    match = re.match(r"#\[((?:sinks|tiers)\.\w+|web\.tls)", lines[header])
    if match is None or f"#[{match[1]}]" not in lines:
        return set()
    head = lines.index(f"#[{match[1]}]")
    end = next(at for at in range(head + 1, len(lines)) if not lines[at])
    required = {
        at for at in range(head, end) if re.match(r"#[a-z_]+ = ", lines[at]) and "Required." in comment_above(lines, at)
    }
    has_type = lines[head + 1].startswith("#type = ")
    return {head, *required, *([head + 1] if has_type else [])}


def comment_above(lines: list[str], at: int) -> str:
    words: list[str] = []
    while lines[at - 1].startswith("# "):
        at -= 1
        words.insert(0, lines[at])
    return " ".join(words)


def test_the_example_has_nothing_wrong_with_it() -> None:
    assert examine_text(render_example(), "config.toml")[1] == []


def test_every_key_of_the_example_is_right_when_it_is_switched_on() -> None:
    lines = render_example().split("\n")
    keys = toggles(lines)
    assert len(keys) > 100

    wrong = []
    for number, header in keys:
        changed = {number, header} if header is not None else {number}
        # A sink or tier that is commented out as a whole needs its type and what is required; tables in it need it.
        if header is not None:
            changed |= needed_by(lines, header)
        text = "\n".join(line.removeprefix("#") if at in changed else line for at, line in enumerate(lines))
        wrong += [
            str(problem) for problem in examine_text(text, "config.toml")[1] if problem.allowed != "both or neither"
        ]

    assert wrong == []


def test_a_default_shown_in_the_example_is_the_default() -> None:
    lines = render_example().split("\n")
    without = {number for number, header in toggles(lines) if header is not None}  # of tables that are not there
    shown = [line for number, line in enumerate(lines) if not line.startswith("# ") and number not in without]
    plain = [line.removeprefix("#") if re.match(r"#[a-z_]+ = ", line) else line for line in shown]

    cut = plain.index("[spool]")
    config, problems = examine_text("\n".join(plain[cut:]), "config.toml")

    assert problems == []
    assert config is not None
    default = Config()
    assert (config.spool, config.models, config.web, config.log) == (
        default.spool,
        default.models,
        default.web,
        default.log,
    )


def test_every_key_has_its_anchor_in_the_reference() -> None:
    page = render_reference()

    anchors = set(re.findall(r'<a id="([^"]+)">', page))

    wanted = {"gateway.id", "source.tls.ca_file", "routes.<name>.window.every_s", "sinks.http.token.file"}
    assert wanted | {"sinks.mqtt.reconnect.max_s", "sinks.file.path", "log.repeat_s"} <= anchors
    assert len(anchors) == page.count("<a id=")
