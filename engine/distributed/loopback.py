"""A Ray cluster of this machine alone: it listens on loopback, asks for a token, and ends with its driver."""

from __future__ import annotations

import atexit
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ...core.errors import EngineError
from ...core.timeouts import TimedCalls
from .guard import guarded

QUIET = {"log_to_driver": False, "logging_level": "ERROR", "ignore_reinit_error": True}
"""Arguments of `ray.init` with which Ray says nothing on its own."""
START_SECONDS = 300.0
"""Seconds that a cluster of this machine has to start; a first start from a slow disk takes a minute."""
END_SECONDS = 15.0
"""Seconds that Ray has to stop after it is told to."""


@contextmanager
def own_cluster(ray: Any, calls: TimedCalls) -> Iterator[None]:
    """Start a cluster of this machine and connect to it; it is gone when the block ends, whatever its processes do."""
    with guarded(secrets.token_hex(32)) as guard:
        try:
            with _loopback_alone(guard.token):
                calls(
                    lambda: ray.init(address="local", include_dashboard=False, _temp_dir=f"{guard.folder}/r", **QUIET),
                    START_SECONDS,
                )
            yield
        finally:
            disconnect(ray, calls)
            guard.kill()
            _read_settings_again()


def disconnect(ray: Any, calls: TimedCalls) -> None:
    """Disconnect from a cluster; one that does not let go is left as it is."""
    try:
        calls(ray.shutdown, END_SECONDS)
    except EngineError:
        atexit.unregister(ray.shutdown)  # it would wait again


@contextmanager
def _loopback_alone(token: str) -> Iterator[None]:
    """While the block lasts, a cluster that Ray starts listens on the loopback interface and asks for the token.

    The processes of the cluster inherit both, and this process remembers the token; others that it starts need not
    know it.
    """
    from ray._private import ray_constants

    environment, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token}
    _read_settings_again()
    # Ray takes any address that is given for the loopback interface for one of a network; not where it has no networks.
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = clusters
        for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
            os.environ.pop(name)
            os.environ |= {name: environment[name]} if name in environment else {}


def _read_settings_again() -> None:
    """Have Ray read its settings and the token from the environment; it does so only once a process by itself."""
    from ray import _raylet

    native: Any = _raylet
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()
