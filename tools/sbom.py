"""The bill of materials of an environment: tools/sbom.py --write FILE | --check FILE, run by that environment's Python.

CycloneDX 1.5 JSON: gatewayd and all that it needs there with its extras, as installed: name, version, licence, purl and
who needs whom. `--check` fails where the file is not what is installed. The same environment gives the same bytes.
"""

import argparse
import importlib.metadata
import json
import re
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

try:
    from packaging.requirements import Requirement
except ImportError:  # a gateway's own environment has pip, and pip carries it
    from pip._vendor.packaging.requirements import Requirement

EXTRAS = ("aiomqtt", "llm", "onnx")
_NAMES = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # RFC 9562's namespace of URLs


def canonical(name: str) -> str:
    """As PEP 503 writes a name."""
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(root: str, extras: Sequence[str]) -> Mapping[str, list[str]]:
    """Distribution -> those it needs here. An extra that is not installed is left out, whole."""
    found: dict[str, list[str]] = {}
    waiting = [(root, tuple(extras))]
    done = set()
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in done:
            continue
        done.add((name, wanted))
        uses = found.setdefault(name, [])
        for requirement in _requirements(name, wanted):
            other = canonical(requirement.name)
            if other not in uses:
                uses.append(other)
            waiting.append((other, tuple(sorted(requirement.extras))))
    return {name: sorted(uses) for name, uses in sorted(found.items())}


def _requirements(name: str, extras: Sequence[str]) -> Iterator[Requirement]:
    lines = importlib.metadata.requires(name) or []
    for extra in ("", *extras):
        here = [r for r in map(Requirement, lines) if r.marker is None or r.marker.evaluate({"extra": extra})]
        if extra:
            here = [r for r in here if r.marker is not None and "extra" in str(r.marker)]
        if not extra or all(_is_installed(requirement.name) for requirement in here):
            yield from here


def _is_installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def component(name: str) -> dict[str, Any]:
    """One distribution, as CycloneDX has it."""
    about = importlib.metadata.metadata(name)
    version = importlib.metadata.version(name)
    made: dict[str, Any] = {"type": "library", "bom-ref": canonical(name), "name": about["Name"], "version": version}
    made["purl"] = f"pkg:pypi/{canonical(name)}@{version}"
    if expression := about.get("License-Expression"):
        made["licenses"] = [{"expression": expression}]
    elif words := [each.split(" :: ")[-1] for each in about.get_all("Classifier", []) if "License ::" in each]:
        made["licenses"] = [{"license": {"name": word}} for word in words]
    return made


def bill() -> dict[str, Any]:
    """The whole document. Raises importlib.metadata.PackageNotFoundError where something needed is not installed."""
    uses = needed("gatewayd", EXTRAS)
    components = [component(name) for name in uses if name != "gatewayd"]
    root = {**component("gatewayd"), "type": "application"}
    serial = uuid.uuid5(_NAMES, " ".join(each["purl"] for each in [root, *components]))
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{serial}",
        "version": 1,
        "metadata": {"component": root},
        "components": components,
        "dependencies": [{"ref": name, "dependsOn": others} for name, others in uses.items()],
    }


def main() -> int:
    """Write, or check."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--write", type=Path)
    what.add_argument("--check", type=Path)
    asked = parser.parse_args()
    text = json.dumps(bill(), indent=1) + "\n"
    if asked.write is not None:
        asked.write.parent.mkdir(parents=True, exist_ok=True)
        asked.write.write_text(text, encoding="utf-8")
        print(f"{asked.write}: {len(json.loads(text)['components'])} components")
        return 0
    if asked.check.read_text(encoding="utf-8") == text:
        return 0
    old = {each["purl"] for each in json.loads(asked.check.read_text(encoding="utf-8"))["components"]}
    new = {each["purl"] for each in json.loads(text)["components"]}
    for purl in sorted(old - new):
        print(f"{asked.check}: {purl} is not installed", file=sys.stderr)
    for purl in sorted(new - old):
        print(f"{asked.check}: {purl} is installed and not listed", file=sys.stderr)
    print(f"{asked.check}: not what is installed; run `make sbom`", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
