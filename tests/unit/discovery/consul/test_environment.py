"""Consul's environment variables, one form after the other."""

from pathlib import Path

import pytest

from discovery.consul.environment import ConsulSettings, consul_settings, is_loopback_url
from discovery.model import SettingsRefused


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1:8500", "http://127.0.0.1:8500"),
        ("consul", "http://consul:8500"),
        ("consul:18500", "http://consul:18500"),
        ("[::1]:8500", "http://[::1]:8500"),
        ("[::1]", "http://[::1]:8500"),
        ("http://consul:8500/", "http://consul:8500"),
        ("http://consul", "http://consul:80"),
        ("https://consul.example", "https://consul.example:443"),
        ("HTTPS://consul.example:8501/prefix/", "https://consul.example:8501/prefix"),
        ("https://[fe80::1]:8501", "https://[fe80::1]:8501"),
        ("tcp://consul:8500", "http://consul:8500"),
        ("unix:///run/consul.sock", "unix:///run/consul.sock"),
        ("  consul:8500  ", "http://consul:8500"),
    ],
)
def test_each_form_of_an_address_becomes_one_url(address: str, url: str) -> None:
    settings = consul_settings({"CONSUL_HTTP_ADDR": address})
    assert settings.url == url
    assert settings.explicit


@pytest.mark.parametrize(
    "address",
    [
        "ftp://consul:21",
        "unix://relative/path",
        "http://",
        ":8500",
        "consul:port",
        "consul:99999",
        "consul:0",
        "::1:8500",
        "http://user:hunter2@consul:8500",
        "http://consul:8500/?dc=x",
        "con sul:8500",
    ],
)
def test_an_address_that_cannot_work_is_refused_by_name_and_without_its_password(address: str) -> None:
    with pytest.raises(SettingsRefused, match="CONSUL_HTTP_ADDR") as refused:
        consul_settings({"CONSUL_HTTP_ADDR": address})
    assert "hunter2" not in str(refused.value)


def test_nothing_set_means_the_local_agent_and_is_not_explicit() -> None:
    assert consul_settings({}) == ConsulSettings()
    assert consul_settings({"CONSUL_HTTP_ADDR": "", "PATH": "/bin"}) == ConsulSettings(url="http://127.0.0.1:8500")
    assert not consul_settings({}).explicit


def test_the_sisters_are_read_and_the_token_stays_out_of_repr(tmp_path: Path) -> None:
    token_file = tmp_path / "token"
    token_file.write_text("from-file\n")
    settings = consul_settings(
        {
            "CONSUL_HTTP_ADDR": "consul:8501",
            "CONSUL_HTTP_SSL": "true",
            "CONSUL_HTTP_SSL_VERIFY": "0",
            "CONSUL_HTTP_TOKEN": "s3cret",
            "CONSUL_HTTP_TOKEN_FILE": str(token_file),
            "CONSUL_CACERT": "/ca.pem",
            "CONSUL_CLIENT_CERT": "/cert.pem",
            "CONSUL_CLIENT_KEY": "/key.pem",
            "CONSUL_TLS_SERVER_NAME": "server.dc1.consul",
            "CONSUL_NAMESPACE": "team",
            "CONSUL_PARTITION": "west",
        }
    )
    assert settings.url == "https://consul:8501"
    assert (settings.token, settings.token_file, settings.verify) == ("s3cret", str(token_file), False)
    assert (settings.ca_cert, settings.client_cert, settings.client_key) == ("/ca.pem", "/cert.pem", "/key.pem")
    assert (settings.tls_server_name, settings.namespace, settings.partition) == ("server.dc1.consul", "team", "west")
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({"CONSUL_HTTP_SSL": "maybe"}, "CONSUL_HTTP_SSL"),
        ({"CONSUL_HTTP_SSL_VERIFY": "nein"}, "CONSUL_HTTP_SSL_VERIFY"),
        ({"CONSUL_CLIENT_CERT": "/cert.pem"}, "CONSUL_CLIENT_KEY"),
        ({"CONSUL_HTTP_TOKEN": "two words"}, "CONSUL_HTTP_TOKEN"),
        ({"CONSUL_HTTP_TOKEN": "a\r\nX-Evil: 1"}, "CONSUL_HTTP_TOKEN"),
        ({"CONSUL_HTTP_TOKEN_FILE": "/"}, "CONSUL_HTTP_TOKEN_FILE"),
        ({"CONSUL_HTTP_AUTH": "user:pass"}, "CONSUL_HTTP_AUTH"),
    ],
)
def test_a_sister_that_cannot_work_is_refused_by_name(environ: dict[str, str], name: str) -> None:
    with pytest.raises(SettingsRefused, match=name):
        consul_settings(environ)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8500", True),
        ("http://127.8.8.8:8500", True),
        ("http://[::1]:8500", True),
        ("http://LOCALHOST:8500", True),
        ("unix:///run/consul.sock", True),
        ("http://10.0.0.1:8500", False),
        ("http://consul:8500", False),
        ("http://localhost.example:8500", False),
    ],
)
def test_only_this_machine_counts_as_loopback(url: str, local: bool) -> None:
    assert is_loopback_url(url) is local
