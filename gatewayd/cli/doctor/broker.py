"""The broker: is it there, does it let us in, does it keep sessions, what is known of its kind; and its TLS."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path

from gatewayd.cli.check_broker import source_password
from gatewayd.cli.doctor.finding import Finding, failed, good, warning
from gatewayd.config import schema
from gatewayd.config.schema import Config
from gatewayd.errors import ConfigError
from gatewayd.mqtt.guest import Bounds, keeps_sessions, visit

_VERSION_TOPIC = "$SYS/broker/version"
_VERSION_S = 0.5
_TLS_WAIT_S = 5.0
_SOON_DAYS = 21
_DAY_S = 86400.0
MOSQUITTO_CONFIGS = (Path("/etc/mosquitto/mosquitto.conf"), *Path("/etc/mosquitto/conf.d").glob("*.conf"))


async def examine_broker(config: Config, config_path: Path) -> AsyncIterator[Finding]:
    """Findings; the later ones only where the earlier ones let them."""
    source = config.source
    where = source.unix_socket or f"{source.host}:{source.port}"
    try:
        password = source_password(config, config_path)
        found = await visit(source, password, [(_VERSION_TOPIC, 0)], Bounds(seconds=_VERSION_S))
    except ConfigError as error:
        yield failed("broker", str(error), error.hint)
        return
    if found.problem:
        yield failed("broker", found.problem, found.hint or "see the broker's log")
        if source.tls is not None and found.reason_code is None:
            yield await _certificate(source)
        return
    user = f" as {source.username}" if source.username else ""
    yield good("broker", f"{where} accepts connections and lets us in{user}")
    if source.tls is not None:
        yield await _certificate(source)
    elif source.username and not _is_local(source):
        hint = "anybody on the way can read the password: set [source.tls], port 8883"
        yield warning("broker tls", "user name and password travel unencrypted", hint)
    yield await _sessions(source, password)
    version = next((m.payload.decode(errors="replace") for m in found.messages if m.topic == _VERSION_TOPIC), "")
    yield _kind(version, is_local=_is_local(source))


def _is_local(source: schema.Source) -> bool:
    return bool(source.unix_socket) or source.host in ("localhost", "::1") or source.host.startswith("127.")


async def _sessions(source: schema.Source, password: str | None) -> Finding:
    kept = await keeps_sessions(source, password)
    if kept is None:
        return warning("broker session", "could not be tried", "see the broker's log")
    if kept:
        return good("broker session", "kept while its client is away")
    hint = "QoS 1 messages sent while gatewayd is stopped are lost: allow persistent sessions in the broker"
    return failed("broker session", "the broker forgot ours as soon as we left", hint)


def _kind(version: str, *, is_local: bool) -> Finding:
    """What the broker says of itself, and what is known of that (docs/guides/broker.md)."""
    shown = "".join(letter for letter in version if letter.isprintable())[:60]
    if not shown:
        return good("broker version", "it does not tell")
    number = re.search(r"mosquitto version (\d+)\.(\d+)\.(\d+)", shown)
    said = _local_settings() if is_local and number else None
    if said is not None:
        missing, hint = said
        if missing:
            return warning("broker version", f"{shown}; its config lacks {', '.join(missing)}", hint)
        return good("broker version", f"{shown}; its config keeps what it took over a restart")
    if number and tuple(map(int, number.groups())) <= (2, 0, 11):
        hint = "it overruns Receive Maximum (we bound memory ourselves); set persistence and max_queued_messages: "
        return good("broker version", shown, f"{hint}docs/guides/broker.md")
    return good("broker version", shown)


def _local_settings() -> tuple[list[str], str] | None:
    """What a Mosquitto on this box is not told (docs/guides/broker.md); None when its config cannot be read."""
    text = ""
    for path in MOSQUITTO_CONFIGS:
        try:
            text += path.read_text(encoding="utf-8", errors="replace") + "\n"
        except OSError:
            continue
    if not text:
        return None
    set_to = dict(re.findall(r"^[ \t]*([a-z_0-9]+)[ \t]+(\S.*?)[ \t]*$", text, re.MULTILINE))
    missing = []
    if set_to.get("persistence") != "true":
        missing.append("`persistence true` (a restart of the broker forgets what it holds for us)")
    if "max_queued_messages" not in set_to:
        missing.append("`max_queued_messages 100000` (1,000 a client else, then dropped without a word)")
    return missing, "add it to /etc/mosquitto/conf.d/gatewayd.conf, see docs/guides/broker.md"


# --- TLS


async def _certificate(source: schema.Source) -> Finding:
    """The broker's certificate, looked at without trusting it: dates and names. Whether it holds, the visit says."""
    try:
        der = await _fetch(source)
    except (OSError, ssl.SSLError, TimeoutError) as error:
        return failed("broker tls", f"no handshake: {error or 'no answer in time'}", "does this port speak TLS?")
    dates = _dates(der)
    if dates is None:
        return warning("broker tls", "its certificate cannot be read here", "openssl s_client -connect HOST:PORT")
    begins, ends = dates
    return judge_dates("broker tls", begins, ends, time.time(), insecure=bool(source.tls and source.tls.insecure))


async def _fetch(source: schema.Source) -> bytes:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    async with asyncio.timeout(_TLS_WAIT_S):
        _, writer = await asyncio.open_connection(
            source.host,
            source.port,
            ssl=context,
            server_hostname=(source.tls and source.tls.server_name) or source.host,
        )
    found = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return bytes(found or b"")


def judge_dates(what: str, begins: float, ends: float, now: float, *, insecure: bool = False) -> Finding:
    """A certificate by its dates (seconds since the epoch)."""
    day = time.strftime("%Y-%m-%d", time.gmtime(ends))
    if now > ends:
        return failed(what, f"the certificate ended on {day}", "renew it; is the clock right?")
    if now < begins:
        hint = "is the clock right? else wait for it"
        return failed(what, f"the certificate begins on {time.strftime('%Y-%m-%d', time.gmtime(begins))}", hint)
    days = int((ends - now) / _DAY_S)
    if days < _SOON_DAYS:
        return warning(what, f"the certificate ends in {days} days, on {day}", "renew it before that")
    if insecure:
        return warning(what, f"any certificate is accepted (this one: until {day})", "remove tls.insecure")
    return good(what, f"certificate until {day}, {days} days")


def _dates(der: bytes) -> tuple[float, float] | None:
    """notBefore and notAfter of a DER certificate: the only two times in its first 64 KiB (RFC 5280, 4.1.2.5)."""
    times = re.findall(rb"\x17\x0d(\d{12})Z|\x18\x0f(\d{14})Z", der[:65536])
    if len(times) < 2:
        return None
    found = [_time(short, long) for short, long in times[:2]]
    return None if None in found else (float(found[0] or 0), float(found[1] or 0))


def _time(short: bytes, long: bytes) -> float | None:
    import calendar

    text = (long or (b"20" if short[:2] < b"50" else b"19") + short).decode()
    try:
        return float(calendar.timegm(time.strptime(text, "%Y%m%d%H%M%S")))
    except ValueError:
        return None


def own_certificates(config: Config) -> list[Finding]:
    """The PEM files that we show others: client certificates, and the page's."""
    tls = config.source.tls
    files: dict[str, str | None] = {"source.tls.cert_file": None if tls is None else tls.cert_file}
    for name, sink in config.sinks.items():
        sink_tls = getattr(sink, "tls", None)
        files[f"sinks.{name}.tls.cert_file"] = sink_tls and sink_tls.cert_file
    files["web.tls.cert_file"] = None if config.web.tls is None else config.web.tls.cert_file
    return [_own(key, Path(path)) for key, path in files.items() if path]


def _own(key: str, path: Path) -> Finding:
    try:
        der = ssl.PEM_cert_to_DER_cert(_first_pem(path.read_text(encoding="ascii", errors="replace")))
    except (OSError, ValueError) as error:
        return failed(key, f"{path}: {getattr(error, 'strerror', None) or 'holds no certificate'}", f"set {key}")
    dates = _dates(der)
    if dates is None:
        return warning(key, f"{path}: its dates cannot be read", f"openssl x509 -in {path} -noout -dates")
    return judge_dates(key, *dates, time.time())


def _first_pem(text: str) -> str:
    begin, end = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"
    if begin not in text or end not in text:
        raise ValueError
    return begin + text.partition(begin)[2].partition(end)[0] + end
