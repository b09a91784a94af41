"""A cluster's settings, password and locale, without a cluster."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from pathlib import Path

import msgspec
import pytest

from runner.embedded.cluster import (
    ensure_template,
    is_ours,
    locale_options,
    render_settings,
    scram_verifier,
    server_settings,
    template_name,
)
from runner.embedded.installations import Installation
from runner.embedded.programs import Account
from runner.errors import EmbeddedServerError


def test_the_servers_settings_are_those_of_its_contract() -> None:
    settings = server_settings(port=5000, socket_dir=Path("/s"), extra={})
    assert settings["max_worker_processes"] == "64"
    assert settings["fsync"] == "off"
    assert settings["autovacuum"] == "on"
    assert settings["listen_addresses"] == "127.0.0.1"
    assert settings["unix_socket_directories"] == "/s"
    assert settings["port"] == "5000"


def test_the_callers_settings_win() -> None:
    extra = {"max_worker_processes": "8", "pg_background.max_workers": "4"}
    settings = server_settings(port=5000, socket_dir=Path("/s"), extra=extra)
    assert settings["max_worker_processes"] == "8"
    assert settings["pg_background.max_workers"] == "4"


@pytest.mark.parametrize("name", ["port", "PORT", "listen_addresses", "x = 1\nfsync", "", "a b", "a.b.c"])
def test_a_setting_that_is_no_name_or_is_ours_is_refused(name: str) -> None:
    with pytest.raises(EmbeddedServerError):
        server_settings(port=5000, socket_dir=Path("/s"), extra={name: "1"})


def test_values_are_quoted() -> None:
    assert render_settings({"a": "it's", "b": "back\\slash"}).splitlines()[1:] == ["a = 'it''s'", "b = 'back\\\\slash'"]


def test_a_value_cannot_begin_a_new_line() -> None:
    with pytest.raises(EmbeddedServerError, match="line break"):
        render_settings({"a": "1\nfsync = on"})


def test_the_verifier_is_the_one_of_rfc_7677() -> None:
    salt = "W22ZaJ0SNY7soEsUEjb6gQ=="
    verifier = scram_verifier("pencil", base64.b64decode(salt))
    head, keys = verifier.rsplit("$", 1)
    assert head == f"SCRAM-SHA-256$4096:{salt}"
    stored, server = (base64.b64decode(key) for key in keys.split(":"))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s={salt},i=4096,c=biws,r={nonce}".encode()
    signature = base64.b64encode(hmac.digest(server, message, "sha256")).decode()
    assert signature == "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    mask = hmac.digest(stored, message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, mask, strict=True))
    assert hashlib.sha256(client_key).digest() == stored


@pytest.mark.parametrize(
    ("major", "known", "options"),
    [
        (18, frozenset(), ["--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8"]),
        (16, frozenset({"C", "C.utf8"}), ["--locale=C.utf8"]),
        (14, frozenset({"C"}), ["--locale=C"]),
    ],
)
def test_the_locale_is_utf_8_where_there_is_one(major: int, known: frozenset[str], options: list[str]) -> None:
    assert locale_options(major, known) == options


def test_a_template_is_for_one_build_and_one_account() -> None:
    installation = Installation(bin_dir=Path("/b"), version="18.6", major=18, build="one", extension="2.0")
    account = Account(name="me", uid=1, gid=1, drop=False)
    names = {
        template_name(installation, account),
        template_name(msgspec.structs.replace(installation, build="two"), account),
        template_name(msgspec.structs.replace(installation, extension="2.1"), account),
        template_name(msgspec.structs.replace(installation, bin_dir=Path("/c")), account),
        template_name(installation, msgspec.structs.replace(account, uid=2)),
    }
    assert len(names) == 5


def test_only_a_cluster_with_our_file_is_ours(tmp_path: Path) -> None:
    (tmp_path / "postgresql.conf").write_text("", encoding="utf-8")
    assert not is_ours(tmp_path)
    (tmp_path / "jobplan.conf").write_text("", encoding="utf-8")
    assert is_ours(tmp_path)


def test_a_user_without_a_name_gets_an_error_before_initdb_refuses(tmp_path: Path) -> None:
    installation = Installation(bin_dir=tmp_path, version="18.6", major=18, build="one", extension="2.0")
    nameless = Account(name=str(os.geteuid()), uid=os.geteuid(), gid=os.getegid(), drop=False)
    with pytest.raises(EmbeddedServerError, match="needs a name for the user"):
        ensure_template(tmp_path, installation, nameless, lambda _: None)
    assert list((tmp_path / "templates").iterdir()) == []
