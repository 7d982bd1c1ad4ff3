"""The bill of materials, the audit and the look for wheels: run as CI runs them."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.sim.mosquitto import free_port

ROOT = Path(__file__).parents[2]


def tool(name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / name, *arguments],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture
def sbom(tmp_path: Path) -> Path:
    made = tool("sbom.py", "--write", str(tmp_path / "sbom.json"))
    assert made.returncode == 0, made.stderr
    return tmp_path / "sbom.json"


def test_the_bill_lists_what_is_installed_and_who_needs_it(sbom: Path) -> None:
    bill = json.loads(sbom.read_text())
    names = {each["bom-ref"] for each in bill["components"]}

    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert {"apsw", "mqttium", "aiohttp", "msgspec", "opentelemetry-sdk"} <= names
    assert {"pytest", "ruff", "hypothesis"} & names == set()  # what only developers have
    refs = {"gatewayd", *names}
    needs = {each["ref"]: set(each["dependsOn"]) for each in bill["dependencies"]}
    assert needs.keys() == refs
    assert all(others <= refs for others in needs.values())
    assert {"apsw", "mqttium"} <= needs["gatewayd"]
    for each in bill["components"]:
        assert each["purl"] == f"pkg:pypi/{each['bom-ref']}@{each['version']}"


def test_a_bill_that_is_not_what_is_installed_is_named(sbom: Path) -> None:
    assert tool("sbom.py", "--check", str(sbom)).returncode == 0
    bill = json.loads(sbom.read_text())
    [apsw] = [each for each in bill["components"] if each["bom-ref"] == "apsw"]
    installed, apsw["purl"] = apsw["purl"], "pkg:pypi/apsw@3.0.0"
    sbom.write_text(json.dumps(bill))

    checked = tool("sbom.py", "--check", str(sbom))

    assert checked.returncode == 1
    assert "pkg:pypi/apsw@3.0.0 is not installed" in checked.stderr
    assert f"{installed} is installed and not listed" in checked.stderr


class Osv(BaseHTTPRequestHandler):
    """Answers as OSV's querybatch does: apsw has a vulnerability, nothing else."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        purls = [each["package"]["purl"] for each in asked["queries"]]
        results = [{"vulns": [{"id": "PYSEC-2026-1"}]} if "/apsw@" in purl else {} for purl in purls]
        body = json.dumps({"results": results}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def osv() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Osv)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/querybatch"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_known_vulnerability_fails_the_audit_until_it_is_ignored_by_name(sbom: Path, osv: str) -> None:
    found = tool("audit.py", "--sbom", str(sbom), "--url", osv)
    ignored = tool("audit.py", "--sbom", str(sbom), "--url", osv, "--ignore", "PYSEC-2026-1")

    assert (found.returncode, ignored.returncode) == (1, 0), found.stderr + ignored.stderr
    assert "PYSEC-2026-1" in found.stdout
    assert "1 known vulnerabilities" in found.stdout
    assert "0 known vulnerabilities" in ignored.stdout


def test_an_audit_that_reached_nobody_says_that_nothing_was_audited(sbom: Path) -> None:
    away = f"http://127.0.0.1:{free_port()}/"

    audited = tool("audit.py", "--sbom", str(sbom), "--url", away)

    assert audited.returncode == 0
    assert "were NOT audited" in audited.stdout
    assert tool("audit.py", "--sbom", str(sbom), "--url", away, "--strict").returncode == 1


def test_an_index_that_cannot_be_reached_is_no_library_without_wheels() -> None:
    environment = {
        "PIP_CONFIG_FILE": "/dev/null",
        "PIP_INDEX_URL": f"http://127.0.0.1:{free_port()}/simple",
        "PIP_FIND_LINKS": "",
        "PIP_RETRIES": "0",
    }

    looked = tool("aarch64.py", "--fresh", "apsw", **environment)

    assert looked.returncode == 0, looked.stderr
    assert "cannot be reached, so this was not checked" in looked.stdout


def test_a_library_without_a_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "plain-1.0.tar.gz").write_bytes(b"")  # a source archive, for which no wheel is beside it

    looked = tool("aarch64.py", "--fresh", "plain", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))

    assert looked.returncode == 1
    assert "No matching distribution found for plain" in looked.stderr
