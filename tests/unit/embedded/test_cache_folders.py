"""Where the server's files go: the limit on a socket's path, who can reach them, and whose programs are trusted."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from runner.embedded.programs import Account, make_folder, reachable, write_file
from runner.embedded.server_folders import (
    FOLDER_PREFIX,
    cache_candidates,
    cache_folder,
    choose_base,
    fits_socket,
    is_plain,
)
from runner.errors import EmbeddedServerError

_ME = Account(name="me", uid=os.geteuid(), gid=os.getegid(), drop=False)
_STRANGER = Account(name="stranger", uid=54321, gid=54321, drop=True)


def test_a_base_is_short_enough_exactly_when_the_longest_socket_under_it_is() -> None:
    for length in range(20, 110):
        base = Path("/" + "b" * (length - 1))
        longest = base / f"{FOLDER_PREFIX}abcdefgh" / "s" / ".s.PGSQL.65535.lock"
        assert fits_socket(base) == (len(os.fsencode(longest)) <= 103)


def test_the_limit_counts_bytes() -> None:
    assert fits_socket(Path("/" + "u" * 40))
    assert not fits_socket(Path("/" + "ü" * 40))


@pytest.mark.parametrize("path", ["/srv", "/home/a b/ünï", "/it's"])
def test_blanks_and_accents_are_plain(path: str) -> None:
    assert is_plain(Path(path))


@pytest.mark.parametrize("path", ["/a:b", "/a;b", "/$HOME", '/a"b', "/a`b", "/a\\b", "/a\nb", "/a,b", "/100%"])
def test_what_the_programs_would_cut_or_expand_is_not_plain(path: str) -> None:
    assert not is_plain(Path(path))


def test_an_explicit_cache_is_the_only_one() -> None:
    environ = {"JOBPLAN_CACHE_DIR": "/somewhere", "HOME": "/home/me", "XDG_CACHE_HOME": "/xdg"}
    assert cache_candidates(environ, _ME) == (Path("/somewhere"),)


def test_a_persons_cache_follows_xdg_then_home_then_the_temporary_folder() -> None:
    temporary = Path(tempfile.gettempdir()).resolve() / f"jobplan-cache-{os.geteuid()}"
    both = {"HOME": "/home/me", "XDG_CACHE_HOME": "/xdg"}
    assert cache_candidates(both, _ME) == (Path("/xdg/jobplan"), Path("/home/me/.cache/jobplan"), temporary)
    assert cache_candidates({"XDG_CACHE_HOME": "relative"}, _ME) == (temporary,)
    assert cache_candidates({}, _ME) == (temporary,)


def test_roots_cache_is_not_in_a_home() -> None:
    environ = {"HOME": "/home/somebody", "XDG_CACHE_HOME": "/home/somebody/.cache"}
    assert cache_candidates(environ, _STRANGER)[0] == Path("/var/cache/jobplan")
    assert not any("home" in str(place) for place in cache_candidates(environ, _STRANGER))


def test_the_cache_is_made(tmp_path: Path) -> None:
    assert cache_folder({"HOME": str(tmp_path)}, _ME) == tmp_path / ".cache" / "jobplan"
    assert (tmp_path / ".cache" / "jobplan").stat().st_mode & 0o777 == 0o700


def test_a_home_that_cannot_hold_it_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "home").write_text("a file", encoding="utf-8")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    place = cache_folder({"HOME": str(tmp_path / "home")}, _ME)
    assert place == tmp_path.resolve() / f"jobplan-cache-{os.geteuid()}"


def test_programs_are_not_run_from_where_others_can_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = tmp_path / f"jobplan-cache-{os.geteuid()}"
    planted.mkdir()
    planted.chmod(0o777)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(EmbeddedServerError, match="can be written by another user"):
        cache_folder({}, _ME)


def test_every_refusal_is_reported(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(EmbeddedServerError, match=r"cannot be created.*JOBPLAN_CACHE_DIR"):
        cache_folder({"JOBPLAN_CACHE_DIR": str(tmp_path / "file" / "cache")}, _ME)
    with pytest.raises(EmbeddedServerError, match="a character in its path"):
        cache_folder({"JOBPLAN_CACHE_DIR": str(tmp_path / "a:b")}, _ME)


def test_another_account_needs_every_folder_on_the_way_open(tmp_path: Path) -> None:
    inner = tmp_path / "outer" / "inner"
    inner.mkdir(parents=True)
    inner.chmod(0o755)
    inner.parent.chmod(0o700)
    assert reachable(inner, _ME)
    assert not reachable(inner, _STRANGER)
    assert not reachable(tmp_path / "missing", _STRANGER)


def test_a_long_temporary_folder_gives_way_to_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    base = choose_base(_ME)
    assert base != long
    assert fits_socket(base)


def test_private_files_and_folders_are_private(tmp_path: Path) -> None:
    make_folder(tmp_path / "folder", _ME)
    write_file(tmp_path / "folder" / "file", "secret", _ME)
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "folder" / "file").stat().st_mode & 0o777 == 0o600


def test_a_planted_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before", encoding="utf-8")
    (tmp_path / "link").symlink_to(target)
    write_file(tmp_path / "link", "after", _ME)
    assert target.read_text(encoding="utf-8") == "before"
    assert (tmp_path / "link").read_text(encoding="utf-8") == "after"
