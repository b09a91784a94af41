"""What is done to unpacked packages: wrappers, special bits, and what of the cache is trusted."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from runner.embedded import debian_packages
from runner.errors import EmbeddedServerError


def _bin_dir(root: Path) -> Path:
    bin_dir = root / "usr" / "lib" / "postgresql" / "18" / "bin"
    bin_dir.mkdir(parents=True)
    return bin_dir


def test_a_wrapper_gives_the_program_its_own_name_and_loader(tmp_path: Path) -> None:
    bin_dir = _bin_dir(tmp_path / "it's a folder")
    loader = bin_dir.parents[2] / "x86_64-linux-gnu" / "ld-linux-x86-64.so.2"
    loader.parent.mkdir()
    loader.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\n', encoding="utf-8")
    loader.chmod(0o755)
    (bin_dir / "psql").write_bytes(b"\x7fELF...")
    (bin_dir / "script").write_text("#!/bin/sh\n", encoding="utf-8")
    debian_packages.wrap_programs(bin_dir, "amd64")
    done = subprocess.run([bin_dir / "psql", "a b", "$c"], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert words[0] == "--library-path"
    assert words[1].split(":")[1] == f"{bin_dir}/../lib"
    assert words[2:] == ["--argv0", str(bin_dir / "psql"), str(bin_dir / "psql.bin"), "a b", "$c"]
    assert (bin_dir / "psql.bin").read_bytes() == b"\x7fELF..."
    assert (bin_dir / "script").read_text(encoding="utf-8") == "#!/bin/sh\n"


def test_no_file_keeps_a_special_bit(tmp_path: Path) -> None:
    program = tmp_path / "passwd"
    program.touch()
    program.chmod(0o6755)
    plain = tmp_path / "file"
    plain.touch()
    plain.chmod(0o640)
    debian_packages.drop_special_bits(tmp_path)
    assert program.stat().st_mode & 0o7777 == 0o755
    assert plain.stat().st_mode & 0o7777 == 0o640


def test_a_damaged_or_unfinished_cache_is_not_used(tmp_path: Path) -> None:
    _bin_dir(tmp_path / "packages" / "forky_amd64_18.6-3_2.0.3-1" / "root")
    _bin_dir(tmp_path / "packages" / ".new-abc" / "finished" / "root")
    assert debian_packages.find_cached(tmp_path, {}) is None


def test_an_epochs_colon_stays_out_of_paths() -> None:
    assert debian_packages.cache_key("forky", "amd64", "1:18.6-3", "2.0~rc1+b2") == "forky_amd64_1-18.6-3_2.0~rc1+b2"


def test_too_little_room_is_reported_before_anything_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100 * 2**20))
    with pytest.raises(EmbeddedServerError, match=r"100 MB free.*JOBPLAN_CACHE_DIR"):
        debian_packages.check_space(tmp_path)
