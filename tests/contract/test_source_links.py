"""Every way to reach a broker, and what a refusal looks like."""

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from subprocess import run

import pytest
import trustme
from structlog.testing import capture_logs

from gatewayd.config import schema
from gatewayd.errors import ConfigError
from gatewayd.mqtt.aiomqtt_source import AiomqttSource
from gatewayd.mqtt.mqttium_source import MqttiumSource
from tests.contract.source_rig import Rigs, until
from tests.sim.mosquitto import Mosquitto

pytestmark = pytest.mark.broker


@pytest.fixture(params=[MqttiumSource, AiomqttSource], ids=["mqttium", "aiomqtt"])
async def rigs(request: pytest.FixtureRequest) -> AsyncIterator[Rigs]:
    made = Rigs(request.param, "5")
    yield made
    await made.stop()


class Certificates:
    """An authority, and what it signed: a broker's and a gateway's certificate."""

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.ca = folder / "ca.pem"
        authority.cert_pem.write_to_path(self.ca)
        for name, host in (("broker", "broker.test"), ("gateway", "gateway.test")):
            issued = authority.issue_cert(host)
            issued.private_key_pem.write_to_path(folder / f"{name}.key")
            issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
        self.folder = folder

    def broker_lines(self, *, mutual: bool) -> list[str]:
        return [
            f"cafile {self.ca}",
            f"certfile {self.folder}/broker.pem",
            f"keyfile {self.folder}/broker.key",
            f"require_certificate {'true' if mutual else 'false'}",
        ]

    def gateway_files(self) -> dict[str, str]:
        return {"cert_file": f"{self.folder}/gateway.pem", "key_file": f"{self.folder}/gateway.key"}


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


async def test_tls_with_the_name_in_the_certificate(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], certificates: Certificates
) -> None:
    broker = new_mosquitto(listener=certificates.broker_lines(mutual=False))
    tls = schema.Tls(ca_file=str(certificates.ca), server_name="broker.test")

    rig = rigs.start(broker, tls=tls)

    await until(lambda: rig.source.is_connected or rig.run.done())
    assert rig.source.is_connected


async def test_tls_with_a_wrong_name_is_no_connection(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], certificates: Certificates
) -> None:
    broker = new_mosquitto(listener=certificates.broker_lines(mutual=False))

    rig = rigs.start(broker, tls=schema.Tls(ca_file=str(certificates.ca)))

    await until(lambda: rig.n_events("lost") > 0 or rig.run.done())
    assert not rig.run.done()
    assert rig.n_events("connected") == 0


async def test_mutual_tls(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], certificates: Certificates) -> None:
    broker = new_mosquitto(listener=certificates.broker_lines(mutual=True))
    files = certificates.gateway_files()

    rig = rigs.start(broker, tls=schema.Tls(ca_file=str(certificates.ca), server_name="broker.test", **files))

    await until(lambda: rig.source.is_connected or rig.run.done())
    assert rig.source.is_connected


async def test_a_missing_certificate_file_ends_the_run_with_its_key(rigs: Rigs, mosquitto: Mosquitto) -> None:
    rig = rigs.start(mosquitto, tls=schema.Tls(ca_file="/nowhere/ca.pem"))

    with pytest.raises(ConfigError) as caught:
        await rig.run

    assert caught.value.key == "source.tls.ca_file"


def with_password(new_mosquitto: Callable[..., Mosquitto], folder: Path) -> Mosquitto:
    passwords = folder / "passwords"
    passwords.touch(mode=0o600)
    run(["mosquitto_passwd", "-b", str(passwords), "gw", "right"], check=True, capture_output=True)
    return new_mosquitto(anonymous=False, settings=[f"password_file {passwords}"])


async def test_user_name_and_password(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    broker = with_password(new_mosquitto, tmp_path)

    rig = rigs.start(broker, username="gw", password="right")

    await until(lambda: rig.source.is_connected or rig.run.done())
    assert rig.source.is_connected


@pytest.mark.parametrize("protocol", ["5", "3.1.1"])
async def test_a_wrong_password_is_an_error_with_a_hint_and_is_tried_again(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], tmp_path: Path, protocol: str
) -> None:
    broker = with_password(new_mosquitto, tmp_path)

    with capture_logs() as logs:
        rig = rigs.start(broker, username="gw", password="wrong", protocol=protocol)
        await until(lambda: rig.n_events("retry") >= 2 or rig.run.done())

    assert not rig.run.done()
    assert logs[0]["log_level"] == "error"
    assert "password" in logs[0]["hint"] or "access rules" in logs[0]["hint"]
    assert "wrong" not in str(logs)


async def test_a_unix_socket(rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    broker = new_mosquitto(unix_socket=path)

    rig = rigs.start(broker, unix_socket=str(path))

    await until(lambda: rig.source.is_connected or rig.run.done())
    assert rig.source.is_connected


def only_open_topics(folder: Path) -> list[str]:
    """Settings of a broker that refuses subscriptions (an `acl_file` does not: it lets them stand, and empty)."""
    plugins = list(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"))
    if not plugins:
        pytest.skip("this Mosquitto has no dynamic security plugin")
    rules = [{"acltype": "subscribePattern", "topic": topic, "allow": True} for topic in ("open/#", "gatewayd/#")]
    everybody = {"groupname": "everybody", "roles": [{"rolename": "reader"}]}
    settings = {
        "defaultACLAccess": {"publishClientSend": True, "publishClientReceive": True, "subscribe": False},
        "roles": [{"rolename": "reader", "acls": rules}],
        "groups": [everybody],
        "anonymousGroup": "everybody",
    }
    (folder / "security.json").write_text(json.dumps(settings))
    return [f"plugin {plugins[0]}", f"plugin_opt_config_file {folder}/security.json"]


async def test_a_refused_subscription_is_an_error_and_the_others_go_on(
    rigs: Rigs, new_mosquitto: Callable[..., Mosquitto], tmp_path: Path
) -> None:
    broker = new_mosquitto(settings=only_open_topics(tmp_path))

    with capture_logs() as logs:
        rig = await rigs.make(broker, filters=[("secret/#", 1), ("open/#", 1)], root="open")

    (entry,) = [entry for entry in logs if entry["log_level"] == "error"]
    assert entry["filters"] == ["secret/#"]
    assert "access rules" in entry["hint"]
    assert rig.source.is_connected
    assert not rig.source.is_subscribed
    await rig.send("still here")
    assert await rig.take_texts(1) == ["still here"]


async def test_no_broker_is_tried_again_after_a_delay_from_zero_up_to_the_ceiling(rigs: Rigs, tmp_path: Path) -> None:
    rig = rigs.start(Mosquitto(tmp_path))  # made and never started
    await until(lambda: rig.n_events("retry") >= 3 or rig.run.done())

    delays = [attributes["delay_s"] for name, attributes in rig.events if name == "retry"]
    assert delays[:3] == [0.05, 0.1, 0.1]  # half of 0.1, 0.2, 0.2: the draw is 0.5 throughout
