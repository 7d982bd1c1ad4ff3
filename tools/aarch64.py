"""Has every library a wheel for 64-bit ARM? tools/aarch64.py: resolves core, `onnx` and `llm` as pip would on a board.

pip resolves for Linux on aarch64, Python 3.11 and a glibc no newer than Ubuntu 22.04's (2.35, JetPack 6); nothing is
downloaded but metadata, nothing is installed. Environment markers are still evaluated for this machine: a dependency
that is for ARM alone would be missed. An answer is kept for a week beside the virtual environment. Where the package
index cannot be reached, that is said and nothing fails: this tells of the libraries, not of the network.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
EXTRAS = ("onnx", "llm")
PYTHON = "3.11"
_GLIBC = (17, 24, 26, 27, 28, 31, 34, 35)
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in _GLIBC))
_FRESH_S = 7 * 86400
_LIMIT_S = 300
_NO_NETWORK = re.compile(
    r"ConnectionError|NewConnectionError|Failed to establish|Temporary failure in name resolution|Read timed out"
    r"|ConnectTimeoutError|ProxyError|Max retries exceeded|HTTP error 5\d\d|SSLError|Connection reset"
)


def requirements() -> list[str]:
    """What a gateway installs: of the core and its extras for models."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    return [*project["dependencies"], *(line for extra in EXTRAS for line in extras[extra])]


def resolve(wanted: Sequence[str]) -> tuple[Mapping[str, Any] | None, str]:
    """pip's report, or None and what pip said."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += ["--only-binary=:all:", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none"]
    command += [f"--python-version={PYTHON}", *(f"--platform={each}" for each in PLATFORMS)]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command += [f"--target={folder}/none", f"--report={report}", "--retries=1", "--timeout=20", *wanted]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
        except subprocess.TimeoutExpired:
            return None, "Read timed out"
        if done.returncode:
            return None, done.stderr
        found: Mapping[str, Any] = json.loads(report.read_text(encoding="utf-8"))
        return found, ""


def wheels(report: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Name, version and file of each wheel."""
    rows = []
    for item in report["install"]:
        file = item["download_info"]["url"].rsplit("/", 1)[-1]
        rows.append((item["metadata"]["name"], item["metadata"]["version"], file))
    return sorted(rows)


def main() -> int:
    """Print what was found; exit status 1 where a library has no wheel."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--fresh", action="store_true", help="ask the index although an answer is kept")
    parser.add_argument("wanted", nargs="*", help="instead of what pyproject.toml names")
    asked = parser.parse_args()
    wanted = asked.wanted or requirements()
    digest = hashlib.sha256("\n".join([*wanted, *PLATFORMS]).encode()).hexdigest()[:16]
    kept = Path(sys.prefix) / f"aarch64-{digest}.json"
    if not asked.fresh and kept.exists() and time.time() - kept.stat().st_mtime < _FRESH_S:
        rows = [(name, version, file) for name, version, file in json.loads(kept.read_text(encoding="utf-8"))]
        print("(as found less than a week ago; --fresh asks again)")
    else:
        report, said = resolve(wanted)
        if report is None and _NO_NETWORK.search(said):
            print("aarch64: the package index cannot be reached, so this was not checked")
            return 0
        if report is None:
            print(said.strip(), file=sys.stderr)
            print("aarch64: not every library has a wheel for 64-bit ARM", file=sys.stderr)
            return 1
        rows = wheels(report)
        if not asked.wanted:
            kept.write_text(json.dumps(rows), encoding="utf-8")
    compiled = [row for row in rows if row[2].endswith("aarch64.whl")]
    for name, version, file in compiled:
        print(f"{name:24} {version:14} {file}")
    print(
        f"{len(rows)} libraries for aarch64, all as wheels: {len(compiled)} compiled, {len(rows) - len(compiled)} plain"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
