"""The page is never open by accident: what the config check refuses, and what it lets through."""

import pytest

from gatewayd.config.load import examine_text

CERTIFICATE = '[web.tls]\ncert_file = "c.pem"\nkey_file = "k.pem"\n'


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "gateway.local", ""])
def test_an_address_of_the_network_is_refused_without_a_token_or_client_certificates(host: str) -> None:
    for more in ("", CERTIFICATE):
        _, [problem] = examine_text(f'[web]\nhost = "{host}"\n{more}', "config.toml")

        assert (problem.key, problem.line, problem.is_warning) == ("web.host", 2, False)
        assert "token" in problem.allowed


@pytest.mark.parametrize(
    "more",
    [
        'token = { file = "page-token" }\n' + CERTIFICATE,
        CERTIFICATE + 'client_ca_file = "ca.pem"\n',
        "enabled = false\n",
    ],
)
def test_an_address_of_the_network_is_taken_where_only_those_get_in_who_may(more: str) -> None:
    _, problems = examine_text(f'[web]\nhost = "0.0.0.0"\n{more}', "config.toml")

    assert problems == []


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_nothing(host: str) -> None:
    _, problems = examine_text(f'[web]\nhost = "{host}"\n', "config.toml")

    assert problems == []
