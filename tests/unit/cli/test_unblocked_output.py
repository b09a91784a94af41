"""A stream whose writes never wait: order, limits, closed readers, and what is said where text is missing."""

from __future__ import annotations

import fcntl
import io
import os
import threading
from collections.abc import Iterator
from typing import TextIO

import pytest

from runner.cli.unblocked_output import UnblockedStream, unblocked_output


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """The reading end of a small pipe, and a stream onto its writing end."""
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    stream = os.fdopen(write_end, "w", encoding="ascii")
    yield read_end, stream
    stream.close()
    os.close(read_end)


def read_all(read_end: int) -> tuple[threading.Thread, list[bytes]]:
    """Read in a thread until the last writer closes."""
    pieces: list[bytes] = []

    def work() -> None:
        while piece := os.read(read_end, 1000):
            pieces.append(piece)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, pieces


def test_everything_arrives_in_order_when_it_is_read(pipe: tuple[int, TextIO]) -> None:
    read_end, real = pipe
    stream = UnblockedStream(real, 1 << 20)
    lines = [f"line {number}\n" for number in range(5000)]
    for line in lines:
        assert stream.write(line) == len(line)
    thread, pieces = read_all(read_end)
    stream.drain()
    real.close()
    thread.join()
    assert b"".join(pieces).decode() == "".join(lines)


def test_writes_do_not_wait_for_a_reader_and_the_gap_is_reported(pipe: tuple[int, TextIO]) -> None:
    read_end, real = pipe
    stream = UnblockedStream(real, 10_000)
    for _ in range(1000):
        stream.write("x" * 99 + "\n")  # ten times the limit; nothing is read
    assert stream.dropped
    thread, pieces = read_all(read_end)
    stream.drain()
    real.close()
    thread.join()
    text = b"".join(pieces).decode()
    assert text.startswith("x" * 99 + "\n")
    assert text.endswith("bytes of output are missing here, because they were not read in time.\n")


def test_closing_ends_within_a_limit(pipe: tuple[int, TextIO]) -> None:
    read_end, real = pipe
    stream = UnblockedStream(real, 1 << 20)
    stream.write("x" * 100_000)
    stream.drain(patience=0.1)  # returns, although 96,000 bytes were not read
    unread = 100_000
    while unread:  # else the thread would write them into the pipe of another test, which may get the same descriptor
        unread -= len(os.read(read_end, unread))


def test_a_reader_that_closed_the_pipe_is_an_error_of_a_later_write(pipe: tuple[int, TextIO]) -> None:
    read_end, real = pipe
    stream = UnblockedStream(real, 1 << 20)
    os.dup2(os.open(os.devnull, os.O_RDONLY), read_end)
    stream.write("first\n")
    stream.drain()
    with pytest.raises(BrokenPipeError):
        stream.write("second\n")


def test_a_character_that_the_encoding_lacks_is_written_as_its_escape(pipe: tuple[int, TextIO]) -> None:
    read_end, real = pipe
    stream = UnblockedStream(real, 1 << 20)
    stream.write("grün\n")
    stream.drain()
    assert os.read(read_end, 100) == b"gr\\xfcn\n"


def test_streams_without_a_descriptor_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    captured = io.StringIO()
    monkeypatch.setattr("sys.stderr", captured)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    with unblocked_output():
        import sys  # noqa: PLC0415 - the module whose attribute is replaced

        assert sys.stderr is captured
