"""`gatewayd doctor` against real brokers: TLS with a certificate that ends, a session, a password, rights of files."""

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker

CONFIG = """
[gateway]
id = "test"
state_dir = "state"
[source]
host = "localhost"
port = {port}
{more}
[routes.ovens]
topics = ["ovens/#"]
handler = "threshold"
[[routes.ovens.options.rules]]
above = 80.0
label = "hot"
"""


def doctor(folder: Path, port: int, more: str = "") -> tuple[int, dict[str, Any]]:
    path = folder / "config.toml"
    path.write_text(CONFIG.format(port=port, more=more))
    done = subprocess.run(
        [sys.executable, "-m", "gatewayd", "doctor", "-c", str(path), "--json"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    return done.returncode, {one["what"]: one for one in json.loads(done.stdout)}


def with_tls(new_mosquitto: Callable[..., Mosquitto], folder: Path, days: int) -> Mosquitto:
    authority = trustme.CA()
    ends = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    certificate = authority.issue_cert("localhost", not_after=ends)
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(folder / "server.key"))
    certificate.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    return new_mosquitto(listener=[f"certfile {folder}/server.pem", f"keyfile {folder}/server.key"])


def test_a_broker_is_looked_at_from_all_sides(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    status, found = doctor(tmp_path, new_mosquitto().port)

    assert status == 0, found
    assert found["broker"]["state"] == "ok"
    assert found["broker session"]["words"] == "kept while its client is away"
    assert "mosquitto version" in found["broker version"]["words"]
    assert float(found["fsync"]["words"].split()[0]) > 0


@pytest.mark.parametrize(("days", "state"), [(200, "ok"), (5, "warning")])
def test_a_certificate_that_ends_soon_is_named(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, days: int, state: str
) -> None:
    broker = with_tls(new_mosquitto, tmp_path, days)

    status, found = doctor(tmp_path, broker.port, f'[source.tls]\nca_file = "{tmp_path}/ca.pem"')

    assert status == 0, found
    assert found["broker tls"]["state"] == state
    assert f"{days - 1} days" in found["broker tls"]["words"]


def test_a_certificate_of_nobody_we_trust_is_no_connection(
    new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = with_tls(new_mosquitto, tmp_path, 100)

    status, found = doctor(tmp_path, broker.port, "[source.tls]")
    plain_status, plain = doctor(tmp_path, broker.port)

    assert status == plain_status == 1
    assert "its certificate does not hold" in found["broker"]["words"]
    assert "source.tls.ca_file" in found["broker"]["hint"]
    assert plain["broker"]["state"] == "failed"


def test_secrets_that_others_may_read_are_named(new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x\n")
    (tmp_path / "password").chmod(0o640)
    more = 'username = "me"\npassword = { file = "password" }'

    status, found = doctor(tmp_path, new_mosquitto().port, more)

    assert status == 0
    assert "others may read it, mode 0640" in found["source.password"]["words"]
    assert found["source.password"]["hint"].startswith("chmod 0600")
