"""The live view of the demo, in a terminal from 80 by 24 on; plain lines where there is none."""

from rich.box import ROUNDED
from rich.console import ConsoleDimensions, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gatewayd.cli.demo.scene import LOG_LINES, Scene

_BLOCKS = "▁▂▃▄▅▆▇█"
_SEVERITY = {"info": "green", "warning": "yellow", "critical": "bold red"}
_CALM = {"normal": "green", "routine": "green"}
_MAX_WIDTH = 120
_AFTER_S = 3.0  # the picture goes on a little after the devices stop
_ROUTES = (("pumps", "pump readings"), ("freezers", "freezer readings"), ("log_lines", LOG_LINES))


def draw(scene: Scene, size: ConsoleDimensions) -> RenderableType:
    """The whole picture: devices in, labels, summaries, spool depth, cloud."""
    width = min(size.width, _MAX_WIDTH)
    spare = max(0, size.height - 24)
    n_summaries = 3 + min(3, spare // 3)
    return Group(
        _head(scene, width),
        _box(_routes(scene, width), "devices → models → results on the local bus", "green", width),
        _box(_summaries(scene, n_summaries), "summaries of the PLC's log", "magenta", width),
        _box(_delivery(scene, width - 4), "spool → cloud", "yellow", width),
        _box(_events(scene, 4 + min(10, spare - spare // 3)), "what happened", "bright_black", width),
    )


def _box(inside: RenderableType, title: str, color: str, width: int) -> Panel:
    return Panel(inside, title=title, title_align="left", border_style=color, width=width, box=ROUNDED)


def _head(scene: Scene, width: int) -> Table:
    cloud = Text(" cloud up ", style="black on green") if scene.cloud_is_up else Text(" CLOUD CUT OFF ", "white on red")
    left = Text(f"{scene.left_s:.0f} s left" if scene.left_s > 0 else "draining", style="dim")
    table = Table.grid(expand=False, padding=(0, 1))
    table.width = width
    table.add_column(ratio=1)
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_row(Text(" gatewayd demo", style="bold"), cloud, left)
    return table


def _routes(scene: Scene, width: int) -> Table:
    table = Table(box=None, padding=(0, 1), pad_edge=False, header_style="dim", expand=True)
    table.add_column("device", no_wrap=True)
    table.add_column("messages", justify="right")
    table.add_column("route", no_wrap=True, style="bold")
    table.add_column("live results", ratio=1, no_wrap=True, overflow="ellipsis")
    is_wide = width >= 110
    if is_wide:
        table.add_column("latest", style="dim", no_wrap=True, overflow="ellipsis", ratio=1)
    for route, kind in _ROUTES:
        row: list[RenderableType] = [kind, str(scene.sent[kind]), route, _labels(scene, route)]
        table.add_row(*row, *([scene.latest.get(route, "")] if is_wide else []))
    n_summaries = scene.results["log_summaries"]
    table.add_row("", "", "log_summaries", f"{n_summaries} summaries", *([""] if is_wide else []))
    return table


def _labels(scene: Scene, route: str) -> Text:
    counts = scene.labels.get(route, {}).items()
    parts = [Text.assemble((f"{label} ", _CALM.get(label, "yellow")), (str(n), "bold")) for label, n in counts]
    return Text("  ").join(parts)


def _summaries(scene: Scene, n_lines: int) -> Text:
    lines = [
        Text.assemble(
            (f"{told.severity:8} ", _SEVERITY.get(told.severity, "")), told.headline, (f"  {told.about}", "dim")
        )
        for told in list(scene.summaries)[-n_lines:]
    ]
    return _fixed(lines or [Text("the first window closes in a few seconds ...", style="dim")], n_lines)


def _delivery(scene: Scene, width: int) -> Text:
    line = Text.assemble(
        (f"{scene.pending}", "bold"), " waiting (most ", f"{scene.max_pending})", "   ",
        (f"{scene.stored}", "bold"),
        " in the cloud",
    )  # fmt: skip
    latency = scene.latency_ms()
    if latency is not None:
        line.append("   results after ")
        line.append(f"{latency[0]:.1f} ms", style="bold")
        line.append(" (median)")
    return _fixed([_curve(scene, width), line], 2)


def _curve(scene: Scene, width: int) -> Text:
    """The spool's depth over the whole show: red while the cloud is away."""
    columns: dict[int, tuple[int, bool]] = {}
    span_s = max(scene.seconds + _AFTER_S, scene.age_s)
    for age_s, pending, is_up in scene.depths:
        column = min(width - 1, int(age_s / span_s * width))
        columns[column] = max(columns.get(column, (0, is_up)), (pending, is_up))
    scale = max(scene.max_pending, 1)
    text = Text()
    shown = (0, True)
    for column in range(max(columns, default=-1) + 1):
        shown = columns.get(column, shown)
        pending, is_up = shown
        text.append(_BLOCKS[round(pending / scale * (len(_BLOCKS) - 1))], style="yellow" if is_up else "red")
    return text


def _events(scene: Scene, n_lines: int) -> Text:
    return _fixed([Text(words) for words in list(scene.events)[-n_lines:]], n_lines)


def _fixed(lines: list[Text], n_lines: int) -> Text:
    """Exactly so many lines, none wrapped: the picture does not jump."""
    blank = [Text() for _ in range(n_lines - len(lines))]
    text = Text("\n").join([*lines, *blank])
    text.no_wrap, text.overflow = True, "ellipsis"
    return text


def line(scene: Scene) -> str:
    """The same in one line, for a pipe or a log."""
    labels = "; ".join(
        f"{route}: " + ", ".join(f"{label} {n}" for label, n in counts.most_common(3))
        for route, counts in sorted(scene.labels.items())
    )
    cloud = "up" if scene.cloud_is_up else "CUT OFF"
    return (
        f"{scene.age_s:4.0f} s  {sum(scene.sent.values())} messages in | {labels or 'no labels yet'} | "
        f"{scene.results['log_summaries']} summaries | spool {scene.pending} | cloud {cloud}, {scene.stored} stored"
    )
