"""Who gets in, who may change, and who is turned away."""

from pathlib import Path
from typing import Any

import pytest

from gatewayd.config.schema import Secret, Web
from gatewayd.errors import ConfigError
from gatewayd.web.access import Allowance
from gatewayd.web.server import Views, WebServer
from tests.sim.clock import ManualClock
from tests.sim.page import OWN, page

TOKEN = "a token of some length"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
PROTECTED = ["/", "/flow", "/flow/events", "/status", "/books", "/metrics", "/dead", "/dead/d:1", "/page.js"]


def views() -> Views:
    async def books() -> Any:
        return {}

    return Views(metrics=bytes, stuck=lambda: None, ready=lambda: None, status=dict, books=books)


@pytest.mark.parametrize("path", PROTECTED)
async def test_with_a_token_nothing_is_shown_without_it(tmp_path: Path, path: str) -> None:
    async with page(tmp_path, token=TOKEN) as served:
        assert (await served.ask("GET", path))[0] == 401
        assert (await served.ask("GET", path, headers={"Authorization": "Bearer wrong"}))[0] == 401
        if path not in ("/flow/events", "/dead/d:1"):
            assert (await served.ask("GET", path, headers=BEARER))[0] == 200


async def test_health_stays_open_for_who_watches_the_box(tmp_path: Path) -> None:
    async with page(tmp_path, token=TOKEN) as served:
        assert (await served.ask("GET", "/healthz"))[0] == 200
        assert (await served.ask("GET", "/readyz"))[0] == 200


async def test_a_browser_is_sent_to_the_login_and_gets_a_cookie_that_no_script_and_no_other_site_uses(
    tmp_path: Path,
) -> None:
    async with page(tmp_path, token=TOKEN) as served:
        asked = {"Accept": "text/html"}
        assert (await served.ask("GET", "/", headers=asked))[0] == 303
        assert (await served.ask("GET", "/login", headers=asked))[0] == 200
        status, _ = await served.ask("POST", "/login", data={"token": "wrong"})
        assert (status, served.denied) == (303, ["wrong_token"])
        assert (await served.ask("GET", "/flow"))[0] == 401

        url = served.url + "/login"
        async with served.client.post(url, data={"token": TOKEN}, allow_redirects=False) as answer:
            cookie = answer.headers["Set-Cookie"]

        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert TOKEN not in cookie
        value = cookie.split(";")[0]
        assert (await served.ask("GET", "/flow", headers={"Cookie": value}))[0] == 200
        assert (await served.ask("GET", "/session", headers={"Cookie": value})) == (200, {"login": True})
        await served.ask("POST", "/logout", headers={"Cookie": value})
        assert (await served.ask("GET", "/flow", headers={"Cookie": value}))[0] == 401


async def test_who_guesses_waits_and_the_right_token_does_not_help_meanwhile(tmp_path: Path) -> None:
    async with page(tmp_path, token=TOKEN, max_failed_logins=3) as served:
        for _ in range(3):
            assert (await served.ask("GET", "/flow", headers={"Authorization": "Bearer x"}))[0] == 401

        assert (await served.ask("GET", "/flow", headers=BEARER))[0] == 429
        assert (await served.ask("POST", "/login", data={"token": TOKEN}))[0] == 429
        assert served.denied == ["wrong_token"] * 3 + ["too_many_failures"] * 2


def test_an_allowance_is_for_a_minute_and_remembers_a_bounded_number_of_names() -> None:
    clock = ManualClock()
    allowance = Allowance(2, clock.monotonic)
    for n in range(1000):
        allowance.spend(f"address {n}")
    assert len(allowance._spent) <= 256
    allowance.spend("a")
    assert not allowance.is_used_up("a")
    allowance.spend("a")
    assert allowance.is_used_up("a")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        ({"Content-Type": "application/json"}, 403),
        ({**OWN, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**OWN, "Sec-Fetch-Site": "same-site"}, 403),
        ({**OWN, "Origin": "https://evil.example"}, 403),
        ({**OWN, "Origin": "null"}, 403),
        ({**OWN, "Origin": "http://[::1"}, 403),
        ({"X-Gatewayd": "1", "Content-Type": "text/plain"}, 415),
        (OWN, 200),
        ({**OWN, "Sec-Fetch-Site": "same-origin", "Origin": "self"}, 200),
    ],
)
async def test_only_our_own_page_or_a_program_changes_something(
    tmp_path: Path, headers: dict[str, str], status: int
) -> None:
    async with page(tmp_path) as served:
        await served.bury(b"{not json")
        if headers.get("Origin") == "self":
            headers = {**headers, "Origin": served.url}

        done, _ = await served.ask("POST", "/dead/purge", data=b'{"ids": ["d:1"]}', headers=headers)

        assert done == status
        assert len(served.rig.dead()) == (0 if status == 200 else 1)


async def test_dead_letters_are_read_requeued_and_purged_and_it_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with page(tmp_path) as served:
        await served.bury(b"{one", b"{two", b"{three")
        _, found = await served.ask("GET", "/dead?limit=2")
        assert [letter["id"] for letter in found["letters"]] == ["d:3", "d:2"]
        assert found["more"]

        purged = await served.ask("POST", "/dead/purge", json={"ids": ["d:1", "d:9"]}, headers=OWN)
        requeued = await served.ask("POST", "/dead/requeue", json={"all": True, "route": "r"}, headers=OWN)

        assert (purged[0], purged[1]["n"], purged[1]["missing"]) == (200, 1, 1)
        assert (requeued[0], requeued[1]["n"]) == (200, 2)
        assert served.changed == [("purge", 1), ("requeue", 2)]
        assert "dead letters changed over the page" in capsys.readouterr().out


async def test_a_payload_is_shown_only_where_the_route_shows_it_anyway(tmp_path: Path) -> None:
    async with page(tmp_path) as served:
        await served.bury(b"{secret r")
        served.rig.source.offer("o/a", b"{open \xff")
        await served.rig.acked(2)
        _, found = await served.ask("GET", "/dead")
        by_route = {letter["route"]: letter["id"] for letter in found["letters"]}

        _, hidden = await served.ask("GET", f"/dead/{by_route['r']}")
        _, shown = await served.ask("GET", f"/dead/{by_route['open']}")

        assert hidden["payload"] is None
        assert "include_input" in hidden["hidden"]
        assert "secret" not in str(hidden)
        assert shown["payload"].startswith("{open")


async def test_changes_are_bounded_by_the_minute_and_bodies_in_size(tmp_path: Path) -> None:
    async with page(tmp_path, max_changes=2, max_body_bytes=1024) as served:
        assert (await served.ask("POST", "/dead/purge", data=b" " * 2000, headers=OWN))[0] == 413
        assert (await served.ask("POST", "/dead/purge", data=b"{}", headers=OWN))[0] == 400
        assert (await served.ask("POST", "/dead/purge", json={"ids": ["d:1"]}, headers=OWN))[0] == 429
        assert served.denied == ["too_many_changes"]


async def test_a_daemon_that_was_given_no_switch_has_none(tmp_path: Path) -> None:
    async with page(tmp_path) as served:
        assert (await served.ask("POST", "/switch/cloud", json={"on": True}, headers=OWN))[0] == 404
        assert "switches" not in (await served.ask("GET", "/flow"))[1]


async def test_every_answer_forbids_frames_inline_scripts_and_guessing_of_types(tmp_path: Path) -> None:
    async with page(tmp_path) as served:
        for path in ("/", "/nothing", "/flow", "/page.js"):
            async with served.client.get(served.url + path, headers={"Accept": "text/html"}) as answer:
                policy = answer.headers["Content-Security-Policy"]
                assert "default-src 'none'" in policy
                assert "unsafe-inline" not in policy
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
                assert answer.headers["Server"] == "gatewayd"


async def test_the_page_is_light_and_comes_compressed_once(tmp_path: Path) -> None:
    async with page(tmp_path) as served:
        total = zipped = 0
        for path in ("/", "/page.css", "/page.js", "/draw.js", "/icon.svg", "/login"):
            async with served.client.get(served.url + path, headers={"Accept": "text/html"}) as answer:
                body = await answer.read()
                assert answer.headers["Content-Encoding"] == "gzip"
                total += len(body)
                zipped += int(answer.headers["Content-Length"])
                etag = answer.headers["ETag"]
                assert b"http://" not in body.replace(b"http://www.w3.org/2000/svg", b"")
                assert b"https://" not in body
            asked = {"Accept": "text/html", "If-None-Match": etag}
            assert (await served.ask("GET", path, headers=asked))[0] == 304

        assert total < 60_000
        assert zipped < 20_000


@pytest.mark.parametrize(
    ("config", "token", "words"),
    [
        (Web(host="0.0.0.0", port=0), None, "needs `token`"),
        (Web(port=0, token=Secret(env="T")), "short", "too short"),
    ],
)
def test_what_would_be_open_by_accident_does_not_start(config: Web, token: str | None, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        WebServer(config, views(), token=token)
