"""The files for a package index: what they contain, what the index demands of them, and that tools run them at once."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email.parser import HeaderParser
from pathlib import Path

import pytest

from runner import __version__
from runner.codes import CODES
from tests.acceptance.console import clean_environment

ROOT = Path(__file__).parents[2]
TOOLS = ("build", "twine", "check-wheel-contents", "pipx", "uv")

pytestmark = pytest.mark.slow


class Workshop:
    """Tools in an environment of their own, the two files that they build, and wheels of all dependencies."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "tools" / "bin"
        self.run(sys.executable, "-m", "venv", str(folder / "tools"))
        self.tool("pip", "install", "--quiet", *TOOLS)
        source = folder / "source"
        names = ("pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "runner", "schemas", "docs", "plans")
        for name in names:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            source.mkdir(exist_ok=True)
            copy(ROOT / name, source / name)
        self.tool("python", "-m", "build", "--outdir", str(folder / "dist"), str(source))
        (self.wheel,) = (folder / "dist").glob("*.whl")
        (self.sdist,) = (folder / "dist").glob("*.tar.gz")
        self.tool("pip", "download", "--quiet", "--dest", str(folder / "wheels"), str(self.wheel))

    def tool(self, name: str, *arguments: str) -> str:
        """Run a tool, which has to succeed, and return its output."""
        return self.run(str(self.bin / name), *arguments)

    def run(self, *command: str) -> str:
        home = {
            "HOME": str(self.folder),
            "PIPX_HOME": str(self.folder / "pipx"),
            "UV_CACHE_DIR": str(self.folder / "uv"),
        }
        offline = {"UV_OFFLINE": "1", "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(self.folder / "wheels")}
        environment = clean_environment(
            {"PATH": os.environ["PATH"], "PYTHONPATH": "", "PYTHONWARNINGS": "", **home, **offline}
        )
        done = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return Workshop(tmp_path_factory.mktemp("packaging"))


def test_the_index_would_take_both_files(workshop: Workshop) -> None:
    said = workshop.tool("twine", "--no-color", "check", "--strict", str(workshop.wheel), str(workshop.sdist))
    assert said.count("PASSED") == 2
    assert workshop.tool("check-wheel-contents", str(workshop.wheel)).endswith(": OK\n")


def test_the_metadata_says_what_it_is_and_what_it_needs(workshop: Workshop) -> None:
    with zipfile.ZipFile(workshop.wheel) as wheel:
        name = f"jobplan-{__version__}.dist-info/METADATA"
        metadata = HeaderParser().parsestr(wheel.read(name).decode())
    assert metadata["Name"] == "jobplan"
    assert metadata["Version"] == __version__
    assert metadata["License-Expression"] == "PostgreSQL"
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["Description-Content-Type"] == "text/markdown"
    classifiers = metadata.get_all("Classifier") or []
    assert {"Typing :: Typed", "Topic :: Database", "Programming Language :: Python :: 3.11"} <= set(classifiers)
    assert not any(one.startswith("License ::") for one in classifiers)  # the index refuses both forms together


def test_the_files_have_what_the_program_reads(workshop: Workshop) -> None:
    with zipfile.ZipFile(workshop.wheel) as wheel:
        names = set(wheel.namelist())
    schemas = {f"runner/schemas/{path.name}" for path in (ROOT / "schemas").glob("*.json")}
    assert len(schemas) >= 4
    assert schemas | {"runner/py.typed"} <= names
    assert sum(name.startswith("runner/rules/JP") for name in names) == len(CODES)
    assert not [name for name in names if name.startswith("tests/")]
    with tarfile.open(workshop.sdist) as sdist:
        top = {name.split("/")[1] for name in sdist.getnames()}
    assert {"runner", "schemas", "plans", "docs", "README.md", "LICENSE", "CHANGELOG.md", "pyproject.toml"} <= top


def test_uvx_and_pipx_run_the_wheel_without_an_installation(workshop: Workshop) -> None:
    plan = str(ROOT / "plans" / "quickstart.yaml")
    wheel = str(workshop.wheel)
    said = workshop.tool("uvx", "--python", sys.executable, "--from", wheel, "jobplan", "validate", plan)
    assert ": valid, " in said
    offline = f"--no-index --find-links {workshop.folder / 'wheels'}"
    spec = ("--spec", wheel, "--pip-args", offline)
    assert workshop.tool("pipx", "run", *spec, "jobplan", "--version") == f"jobplan {__version__}\n"
