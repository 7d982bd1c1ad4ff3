"""`gatewayd route test ROUTE`: golden samples through the route as it stands in the config.

A samples file is that of `gatewayd replay` (see handlers/samples); here `handler`, `options` and `payload` are the
route's, so the file may leave them out, and each sample's topic must be one that the route takes.
"""

from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import tomli

from gatewayd.cli.models import open_store
from gatewayd.cli.output import print_json, quiet_logs
from gatewayd.cli.samples import Answers, samples_that_differ, tell_samples, write_anew
from gatewayd.config.load import load
from gatewayd.config.schema import Config, Route
from gatewayd.errors import ConfigError, GatewaydError
from gatewayd.registry import find_handlers, load_handler
from gatewayd.routing import matches
from gatewayd.testing import Samples, run_samples


def run_route_test(config_path: Path, name: str, file: Path | None, *, update: bool, as_json: bool) -> bool:
    """Run them and say of each how it went. True when all came out as written, or are now."""
    quiet_logs()
    config = load(config_path)
    route = _route(config, name)
    path = file or config_path.absolute().parent / "samples" / f"{name}.samples.toml"
    samples = _samples(path, name, route)
    paths = [config_path.absolute().parent / one for one in config.handlers.paths]
    handler = load_handler(route.handler, find_handlers(paths), key=f"routes.{name}.handler")
    with closing(open_store(config_path)) as models:
        answers = run_samples(samples, models, handler=handler)
    wrong = samples_that_differ(samples, answers)
    if update:
        write_anew(path, samples, answers, wrong)
        return True
    if as_json:
        print_json(_rows(samples, answers, wrong))
    else:
        tell_samples(path, samples, answers, wrong, mend="route", where=f" on route {name} ({route.handler})")
    return not wrong


def _route(config: Config, name: str) -> Route:
    route = config.routes.get(name)
    if route is None:
        raise ConfigError("routes", f"there is no route {name!r}; there are: {', '.join(config.routes) or 'none'}")
    if route.tiers:
        raise GatewaydError(f"route {name!r} has tiers: `gatewayd route explain {name}` shows what each would say")
    return route


def _samples(path: Path, name: str, route: Route) -> Samples:
    """The file's samples with the route's own handler, options and payload."""
    try:
        data = tomli.loads(path.read_bytes().decode())
        samples = msgspec.convert({"handler": route.handler, **data}, Samples)
    except (tomli.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise GatewaydError(f"{path}: {error}") from error
    if samples.handler != route.handler:
        raise GatewaydError(f"{path}: is for the handler {samples.handler}, route {name!r} has {route.handler}")
    if not samples.samples:
        raise GatewaydError(f"{path}: holds no [[sample]]")
    for index, sample in enumerate(samples.samples, start=1):
        if not any(matches(each, sample.topic) for each in route.topics):
            takes = ", ".join(route.topics)
            raise GatewaydError(
                f"{path}: sample {index}: route {name!r} does not take {sample.topic!r} (it takes {takes})"
            )
    return msgspec.structs.replace(samples, options=route.options, payload=route.payload)


def _rows(samples: Samples, answers: Answers, wrong: set[int]) -> list[dict[str, Any]]:
    return [
        {"sample": index + 1, "topic": sample.topic, "ok": index not in wrong, "expected": sample.expect, "got": given}
        for index, (sample, given) in enumerate(zip(samples.samples, answers, strict=True))
    ]
