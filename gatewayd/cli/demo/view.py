"""The live view of the demo, in a terminal; plain lines where there is none."""

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from gatewayd.cli.demo.scene import Scene

_BAR = 40


def draw(scene: Scene) -> RenderableType:
    """The whole picture: devices in, labels, summaries, spool depth, cloud."""
    return Group(
        Columns([_devices(scene), _labels(scene)], equal=False, expand=False),
        _summaries(scene),
        _delivery(scene),
        Text("\n".join(scene.events), style="dim"),
        Text(f"{scene.left_s:.0f} s left", style="dim"),
    )


def _devices(scene: Scene) -> Panel:
    table = Table.grid(padding=(0, 2))
    for kind, n_sent in sorted(scene.sent.items()):
        table.add_row(kind, Text(f"{n_sent}", style="bold"), style=None)
    return Panel(table, title="devices -> bus", title_align="left", border_style="blue", width=26)


def _labels(scene: Scene) -> Panel:
    table = Table.grid(padding=(0, 2))
    for route, counts in sorted(scene.labels.items()):
        shown = "  ".join(f"{label} {n}" for label, n in counts.most_common(4))
        table.add_row(Text(route, style="bold"), shown, Text(scene.latest.get(route, ""), style="dim"))
    return Panel(table, title="models -> results on the local bus", title_align="left", border_style="green")


def _summaries(scene: Scene) -> Panel:
    text = "\n".join(scene.summaries) or "the first window closes in a few seconds ..."
    return Panel(Text(text), title="summaries of the PLC's log", title_align="left", border_style="magenta")


def _delivery(scene: Scene) -> Panel:
    scale = max(scene.max_pending, 1)
    bar = "#" * round(_BAR * scene.pending / scale)
    cloud = Text(" up ", style="black on green") if scene.cloud_is_up else Text(" CUT OFF ", style="white on red")
    line = Text.assemble(
        "spool ",
        (f"{bar:<{_BAR}}", "yellow"),
        f" {scene.pending:5d} waiting    cloud ",
        cloud,
        f"  {scene.stored} stored",
    )
    return Panel(line, title="spool -> cloud", title_align="left", border_style="yellow")


def line(scene: Scene) -> str:
    """The same in one line, for a pipe or a log."""
    labels = "; ".join(
        f"{route}: " + ", ".join(f"{label} {n}" for label, n in counts.most_common(3))
        for route, counts in sorted(scene.labels.items())
    )
    cloud = "up" if scene.cloud_is_up else "CUT OFF"
    return (
        f"{sum(scene.sent.values()):5d} messages in | {labels} | {len(scene.summaries)} summaries | "
        f"spool {scene.pending} | cloud {cloud}, {scene.stored} stored"
    )
