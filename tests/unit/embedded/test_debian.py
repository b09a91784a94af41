"""The output and the input of apt: pure text in, pure text out."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.embedded.debian_packages import (
    Package,
    PackageSource,
    find_source,
    newest_package,
    parse_mirror,
    parse_uris,
    render_configuration,
    render_sources,
)
from runner.errors import EmbeddedServerError

_TRANSLATION = "Created-By: Translations\nOrigin: Debian\nSite: http://translations.example/debian\n"
_SECURITY = "Created-By: Packages\nOrigin: Debian\nLabel: Debian-Security\nSite: http://m.example/debian-security\n"
_DEBIAN = "MetaKey: main/binary-amd64/Packages\nCreated-By: Packages\nOrigin: Debian\nLabel: Debian\nSite: http://m.example/deb\n"
_OTHER = "Created-By: Packages\nOrigin: Node Source\nSite: https://node.example/debian\n"
_FRESH = "Created-By: Packages\nRelease: bookworm\nSite: http://fresh.example/debian\n"
_FRESH_SECURITY = "Created-By: Packages\nRelease: bookworm-security\nSite: http://fresh.example/debian-security\n"
_DISC = "Created-By: Packages\nOrigin: Debian\nLabel: Debian\nSite: cdrom://disc/debian\n"


@pytest.mark.parametrize(
    ("targets", "mirror"),
    [
        ([_TRANSLATION, _SECURITY, _OTHER, _DEBIAN], "http://m.example/deb"),
        ([_FRESH_SECURITY, _FRESH], "http://fresh.example/debian"),
        ([_FRESH, _DEBIAN], "http://m.example/deb"),
        ([_OTHER], None),
        ([_SECURITY], None),
        ([_DISC], None),
        ([], None),
    ],
)
def test_the_mirror_is_the_site_of_debians_own_archive(targets: list[str], mirror: str | None) -> None:
    assert parse_mirror("\n".join(targets)) == mirror


def test_the_newest_postgresql_wins_by_number_not_by_text() -> None:
    names = ["postgresql-9-pg-background", "postgresql-18-pg-background", "postgresql-18-pg-background-dbgsym", "x"]
    assert newest_package(names) == "postgresql-18-pg-background"
    assert newest_package(["postgresql-18"]) is None


def test_uris_give_name_version_and_size() -> None:
    listed = (
        "'http://m.example/p/libaudit1_4.1_amd64.deb' libaudit1_1%3a4.1.2-1+b2_amd64.deb 58000 SHA256:ab\n"
        "N: a note\n"
        "'http://m.example/p/tzdata.deb' tzdata_2026a-1_all.deb 300 \n"
    )
    assert parse_uris(listed) == (
        Package(name="libaudit1", version="1%3a4.1.2-1+b2", size=58000),
        Package(name="tzdata", version="2026a-1", size=300),
    )


def test_apt_keeps_to_its_folder_and_to_signed_sources() -> None:
    text = render_configuration(Path("/cache/with a blank"))
    assert 'Dir::State::status "/dev/null";' in text
    assert 'Dir::Etc::sourceparts "/dev/null";' in text
    assert 'Dir::State::lists "/cache/with a blank/lists";' in text
    assert 'APT::Get::AllowUnauthenticated "0";' in text
    assert 'Acquire::AllowInsecureRepositories "0";' in text
    assert "#clear APT::Update::Post-Invoke;" in text


def test_the_source_names_one_architecture_and_the_key() -> None:
    source = PackageSource(
        mirror="http://m.example/debian", suite="forky", architecture="arm64", keyring=Path("/k/d.gpg")
    )
    assert render_sources(source) == (
        "deb [arch=arm64 signed-by=/k/d.gpg target=Packages] http://m.example/debian forky main\n"
    )


def test_on_another_system_the_error_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"not a Debian-family system \(apt-get, "):
        find_source({"PATH": str(tmp_path)})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("JOBPLAN_DEBIAN_MIRROR", "not an address"),
        ("JOBPLAN_DEBIAN_MIRROR", "http://m.example/debian ] evil"),
        ("JOBPLAN_DEBIAN_SUITE", "forky main\ndeb http://evil"),
    ],
)
def test_a_variable_cannot_add_to_the_sources(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, answer in {"apt-get": "", "apt-cache": "", "dpkg-deb": "", "dpkg": "echo amd64"}.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{answer}\n", encoding="utf-8")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(EmbeddedServerError, match=variable):
        find_source({"PATH": str(tmp_path), variable: value})
