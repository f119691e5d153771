"""A cluster of one's own: who can reach it, and that nothing of it stays behind."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import psutil
import pytest
from ray_clusters import ray_cluster
from small import Command, make_study
from waiting import LIMIT_SECONDS, wait_until

from bandlens.core.errors import EngineError
from bandlens.engine.distributed import cluster
from bandlens.engine.distributed.cluster import RayOptions, asks_for_token, connected

PROBE = """
import time
from pathlib import Path
def waits(images, level):
    Path(__file__).with_name("started").touch()
    time.sleep(600)
    return images
"""


@pytest.fixture
def driver(workplace: Path) -> Iterator[subprocess.Popen[str]]:
    """A run on a cluster of its own whose worker is busy."""
    (workplace / "waits.py").write_text(PROBE)
    study = make_study(workplace, probes="waits = {file = 'waits.py', level = 1}")
    words = ["run", str(study), "--executor", "ray", "--workers", "1", "--db", str(workplace / "r.duckdb")]
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "bandlens", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until((workplace / "started").exists, process)
            yield process
        finally:
            process.kill()


def processes_of(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """All processes that the run started: their parents may be gone, so by their environment."""
    raylet = next(child for child in psutil.Process(driver.pid).children() if child.name() == "raylet")
    token = raylet.environ()["RAY_AUTH_TOKEN"]
    return [process for process in psutil.process_iter() if environment(process).get("RAY_AUTH_TOKEN") == token]


def environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGKILL])
def test_a_cluster_of_ones_own_is_reached_from_here_alone_and_ends_with_its_driver(
    driver: subprocess.Popen[str], number: signal.Signals
) -> None:
    members = processes_of(driver)
    assert len(members) > 5
    sockets = [
        socket
        for process in (*members, psutil.Process(driver.pid))
        for socket in process.net_connections("tcp")
        if socket.status == psutil.CONN_LISTEN
    ]
    hosts = [ip_address(socket.laddr.ip) for socket in sockets]
    assert len(hosts) > 3
    assert all((getattr(host, "ipv4_mapped", None) or host).is_loopback for host in hosts)
    control = next(process for process in members if process.name() == "gcs_server")
    ports = [
        connection.laddr.port
        for connection in control.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert True in [asks_for_token(f"127.0.0.1:{port}") for port in ports]
    folder = Path(control.cmdline()[1].removeprefix("--log_dir=")).parents[2]
    assert folder.stat().st_mode & 0o077 == 0, "others can neither read its logs nor take the place of its sockets"
    members[-1].suspend()  # one that cannot end by itself
    driver.send_signal(number)
    driver.communicate(timeout=LIMIT_SECONDS)
    _, survivors = psutil.wait_procs(members, timeout=LIMIT_SECONDS)
    assert survivors == []
    wait_until(lambda: not folder.exists())


def test_a_cluster_that_is_stopped_is_told_from_one_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system takes connections for a process that is stopped; Ray would warn again and again."""
    monkeypatch.setattr(cluster, "HELLO_SECONDS", 1.0)
    with socket.create_server(("127.0.0.1", 0)) as stopped:
        address = f"127.0.0.1:{stopped.getsockname()[1]}"
        message = rf"^cannot reach a Ray cluster at {address}: Ray has not answered for 1 s: .*; `ray status` shows"
        with pytest.raises(EngineError, match=message), connected(RayOptions(address), "onnxruntime", 1):
            pass
    with pytest.raises(EngineError, match="Connection refused"), connected(RayOptions(address), "onnxruntime", 1):
        pass


def test_doctor_warns_of_a_cluster_without_a_token(monkeypatch: pytest.MonkeyPatch, command: Command) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with ray_cluster(1):
        import ray

        address = ray.get_runtime_context().gcs_address
        monkeypatch.setenv("RAY_ADDRESS", address)
        states = {row["what"]: row["found"] for row in json.loads(command("doctor", "--format", "json").out)}
    assert states[f"Ray cluster {address}"].startswith("WARNING: it asks for no token")
    assert asks_for_token("127.0.0.1:1") is None
