"""An explorer that is served by a process, and requests to it."""

from __future__ import annotations

import http.client
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from waiting import LIMIT_SECONDS


@dataclass(frozen=True)
class Served:
    address: str
    host: str
    port: int
    token: str

    @property
    def authority(self) -> str:
        """Host and port as a browser writes them."""
        return f"{self.host}:{self.port}"


@contextmanager
def serving(database: Path, sets: Path | None, *options: str) -> Iterator[Served]:
    """Serve a database, and end it by Ctrl-C.

    One image set has to be found in `sets`, or none beside the database.
    """
    images = ["--images", sets] if sets else []
    command = [sys.executable, "-P", "-m", "bandlens", "explore", "--db", database, *images, *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield _read_address(process, bool(sets))
            process.send_signal(signal.SIGINT)
            _, error_text = process.communicate(timeout=LIMIT_SECONDS)
        finally:
            process.kill()  # where something failed, it would outlive the test
    assert process.returncode == 130
    assert error_text == "bandlens: interrupted; what was committed stays, run the same command to go on\n"


def _read_address(process: subprocess.Popen[str], has_images: bool) -> Served:
    """The address that an explorer prints first; its next line has to say whether image sets were found."""
    assert process.stdout
    address, count_line = process.stdout.readline().strip(), process.stdout.readline()
    if not address:
        raise AssertionError(process.communicate(timeout=LIMIT_SECONDS)[1])
    count = "1 image set" if has_images else "0 image sets"
    end = "" if has_images else " beside the database; name their folder with --images (the sample comes without)"
    assert count_line == f"{count} found{end}; Ctrl-C ends it\n"
    match = re.fullmatch(r"http://(\S+):(\d+)/\?token=(\S+)", address)
    assert match, address
    return Served(address, match[1], int(match[2]), match[3])


@dataclass(frozen=True)
class Got:
    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(served: Served, path: str, method: str = "GET", hosts: Sequence[str] | None = None, **headers: str) -> Got:
    """Send a request with these headers; `hosts` are those of its Host headers, by default the one of the page."""
    with closing(http.client.HTTPConnection(served.host, served.port, timeout=LIMIT_SECONDS)) as connection:
        connection.putrequest(method, path, skip_host=True)
        for host in [served.authority] if hosts is None else hosts:
            connection.putheader("Host", host)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        return Got(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())


def post(served: Served, path: str, body: bytes) -> Got:
    with closing(http.client.HTTPConnection(served.host, served.port, timeout=LIMIT_SECONDS)) as connection:
        connection.request("POST", path, body, {"Cookie": cookie(served)})
        answer = connection.getresponse()
        return Got(answer.status, dict(answer.getheaders()), answer.read())


def cookie(served: Served) -> str:
    return f"bandlens_explorer_{served.port}={served.token}"
