"""`gatewayd replay FILE.samples.toml`: a handler's golden samples, through the real decoder and the real handler."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import typer

from gatewayd.api import Handler
from gatewayd.cli.models import cache_dir, open_store
from gatewayd.cli.output import quiet_logs
from gatewayd.cli.rewrite import rewrite
from gatewayd.config.load import load
from gatewayd.config.schema import Models
from gatewayd.errors import GatewaydError
from gatewayd.models.store import ModelStore
from gatewayd.registry import find_handlers, load_handler
from gatewayd.testing import Samples, differences, load_samples, run_samples

Answers = Sequence[Sequence[Mapping[str, Any]]]
_INDENT = " " * 10


def run_samples_file(path: Path, config: Path, *, update: bool) -> bool:
    """Run one samples file and say of each sample how it went. True when all came out as written, or are now."""
    quiet_logs()
    samples = _load(path)
    handler, models = _handler(samples, config), _models(config)
    with closing(models):
        answers = run_samples(samples, models, handler=handler)
    wrong = samples_that_differ(samples, answers)
    if update:
        write_anew(path, samples, answers, wrong)
        return True
    tell_samples(path, samples, answers, wrong, mend="handler")
    return not wrong


def write_anew(path: Path, samples: Samples, answers: Answers, wrong: set[int]) -> None:
    """What came out into the file, in place of what stood there; and say so."""
    rewrite(path, samples, answers, wrong)
    typer.echo(f"{path}: {len(wrong)} of {len(answers)} samples written anew")


def tell_samples(
    path: Path, samples: Samples, answers: Answers, wrong: set[int], *, mend: str, where: str = ""
) -> None:
    """Say of each sample how it went, and at the end what to do: `mend` is what may be wrong, `where` they ran."""
    for index, line in enumerate(sample_lines(samples, answers, wrong), start=1):
        typer.echo(f"{'WRONG' if index - 1 in wrong else 'ok   '} {index:3} {line}")
    typer.echo(f"{path}: {len(answers) - len(wrong)} of {len(answers)} samples ok{where}")
    if wrong:
        typer.echo(f"hint: mend the {mend}, or write what came out into the file with --update and review the diff")


def _load(path: Path) -> Samples:
    try:
        return load_samples(path)
    except ValueError as error:
        raise GatewaydError(str(error)) from error


def _handler(samples: Samples, config: Path) -> type[Handler]:
    """The handler's class: an installed one, or one of the site's files that the config names."""
    paths = [config.absolute().parent / path for path in load(config).handlers.paths] if config.exists() else []
    return load_handler(samples.handler, find_handlers(paths), key="handler")


def _models(config: Path) -> ModelStore:
    """The config's models; without a config those of the demo, so that the built-in samples run anywhere."""
    return open_store(config) if config.exists() else ModelStore(cache_dir() / "demo-models", Models())


def samples_that_differ(samples: Samples, answers: Answers) -> set[int]:
    """The indices of those whose answers are not as written."""
    return {index for index in range(len(answers)) if not _holds(samples, answers, index)}


def _holds(samples: Samples, answers: Answers, index: int) -> bool:
    one = msgspec.structs.replace(samples, samples=samples.samples[index : index + 1])
    return not differences(one, answers[index : index + 1])


def sample_lines(samples: Samples, answers: Answers, wrong: set[int]) -> Iterator[str]:
    """One a sample: its answers in short, or what was expected and what came."""
    for index, (sample, given) in enumerate(zip(samples.samples, answers, strict=True)):
        if index not in wrong:
            yield f"{sample.topic}: {_short(given) or 'no answer'}"
        else:
            expected, got = sample.expect or "no answer", _named(sample.expect, given) or "no answer"
            yield f"{sample.topic}\n{_INDENT}expected {expected}\n{_INDENT}got      {got}"


def _short(given: Sequence[Mapping[str, Any]]) -> str:
    """The answers in a few words: their kinds and labels, or why they were rejected."""
    words = [
        f"rejected ({one['rejected']})"
        if "rejected" in one
        else " ".join(filter(None, (one["kind"], one.get("label"))))
        for one in given
    ]
    return ", ".join(words)


def _named(expected: Sequence[Mapping[str, Any]], given: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The answers without the fields that nobody asked for, where the two can be laid side by side."""
    if len(expected) != len(given):
        return [dict(one) for one in given]
    return [
        {key: value for key, value in have.items() if key in want or "rejected" in (*want, *have)}
        for want, have in zip(expected, given, strict=True)
    ]
