"""The page's server: on one address, for whoever has the token; the only files that it gives are images of packed sets.

The address is 127.0.0.1 unless the user names another one of this machine.
"""

from __future__ import annotations

import errno
import hmac
import json
import logging
import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.resources import files
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

import polars as pl
import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...analysis.charts.libraries import begin_libraries
from ...core.errors import BandlensError, UsageError
from ...probes.images.image_set import ImageSet
from ..pictures.conditions import Conditions
from ..pictures.sheet import grid_of
from .answers import Answers, ImageQuery

LOOPBACK = "127.0.0.1"
COOKIE = "bandlens_explorer"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
NAME_ONE = "name the one address of this machine that browsers open"
"""The end of each message about a --host that cannot be listened at."""
log = logging.getLogger("bandlens")
STATIC = {"explore.js": "text/javascript", "explore.css": "text/css"}


class Doorkeeper:
    """Lets nobody in who does not come from this page, and says in every answer what a browser may do with it.

    A page of somebody else's in the same browser can send requests here. It does not have the cookie (SameSite), cannot
    name this host by a name of its own (Host), and says where it comes from (Origin).
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int) -> None:
        """`host` is what `read_host` gives; a browser on this machine may call 127.0.0.1 localhost, too."""
        self._app, self._token, self._name = app, token, f"{COOKIE}_{port}"
        names = (host, "localhost") if host == LOOPBACK else (host,)
        # Browsers leave out the port of plain http.
        self._hosts = [f"{name}:{port}" for name in names] + [name for name in names if port == 80]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (name.encode(), value.encode())
                        for name, value in HEADERS.items()
                        if name.encode() not in present
                    ),
                ]
            await send(message)

        await self._answer(Request(scope))(scope, receive, guarded)

    def _answer(self, request: Request) -> ASGIApp:
        origin = request.headers.get("origin")
        if request.headers.get("host") not in self._hosts:
            return PlainTextResponse(f"This is {self._hosts[0]} alone.\n", 421)
        if origin is not None and origin not in [f"http://{host}" for host in self._hosts]:
            return PlainTextResponse("Another site may not ask here.\n", 403)
        parameters = parse_qs(request.url.query)
        if request.url.path == "/" and self._is_token(parameters.get("token", [""])[0]):
            rest = urlencode({name: values for name, values in parameters.items() if name != "token"}, doseq=True)
            redirect = RedirectResponse(f"/?{rest}" if rest else "/", 303)
            redirect.set_cookie(self._name, self._token, httponly=True, samesite="strict")
            return redirect
        if not self._is_token(request.cookies.get(self._name, "")):
            return PlainTextResponse(
                "Open the address that `bandlens explore` printed, with its token, or add &token=TOKEN to a link.\n",
                403,
            )
        return self._app

    def _is_token(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self._token.encode())


REQUEST_ERRORS = (ValueError, LookupError, TypeError, ArithmeticError, RecursionError, pl.exceptions.PolarsError)
"""Errors of requests that the page does not make."""


async def answer_in_thread(answer: Callable[[], Response]) -> Response:
    """Answer in a thread; a request that cannot be answered gets status 400 and a line that says why."""
    try:
        return await run_in_threadpool(answer)
    except BandlensError as error:
        why = str(error)
    except OSError as error:
        why = f"{error.filename}: {error.strerror}"
    except REQUEST_ERRORS:
        why = "the page asked for what is not there; load it again"
    return _json({"error": why}, 400)


def application(answers: Answers, token: str, host: str, port: int) -> ASGIApp:
    """The page, and the routes that it asks."""
    libraries = begin_libraries().result()

    def asked(answer: Callable[[Request], Response]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            return await answer_in_thread(lambda: answer(request))

        return endpoint

    def static(request: Request) -> Response:
        name = request.path_params["name"]
        if name not in STATIC:
            return PlainTextResponse("no such file\n", 404)
        return Response(_asset(name), media_type=STATIC[name])

    def filters(request: Request) -> Response:
        return _json(answers.filters(request.query_params["study"], request.query_params["set"]))

    def octaves(request: Request) -> Response:
        query = request.query_params
        return _json(answers.octaves(query["study"], query["set"], int(query["index"])))

    def picture(request: Request) -> Response:
        query = request.query_params
        condition, seed = query.get("condition"), int(query.get("seed", "0"))
        content = answers.picture(query["set"], int(query["index"]), condition, seed)
        return _kept(content, "image/png")

    def posted(answer: Callable[..., Any]) -> Callable[[Request], Any]:
        async def endpoint(request: Request) -> Response:
            body = await request.body()
            return await answer_in_thread(lambda: _json(answer(**json.loads(body))))

        return endpoint

    routes = [
        Route("/", asked(lambda _: Response(_asset("page.html"), media_type="text/html"))),
        Route("/static/libraries.js", asked(lambda _: _kept(libraries, "text/javascript"))),
        Route("/static/{name}", asked(static)),
        Route("/api/study", asked(lambda request: _json(answers.study(request.query_params.get("study"))))),
        Route("/api/filters", asked(filters)),
        Route("/api/octaves", asked(octaves)),
        Route("/api/picture", asked(picture)),
        Route("/api/correlation", posted(answers.correlation), methods=["POST"]),
        Route("/api/images", posted(lambda **fields: answers.images(ImageQuery(**fields))), methods=["POST"]),
    ]
    return Doorkeeper(Starlette(routes=routes), token, host, port)


def read_host(text: str) -> str:
    """The address or name of a machine as browsers write it in the Host header; UsageError where it is neither."""
    try:
        address = ip_address(text)
    except ValueError:
        if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", text.lower()):
            raise UsageError(f"--host {text} is neither an address nor a name; {NAME_ONE}") from None
        return text.lower()
    if "%" in text:
        raise UsageError(f"--host {text} has a zone, which no browser takes; {NAME_ONE}")
    if isinstance(address, IPv6Address):
        return str(address.ipv4_mapped or f"[{address}]")
    return str(address)


@contextmanager
def listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket on one address of this machine; port 0 is any that is free.

    Raises UsageError where the host has no address, is another machine's or stands for all addresses, whose Host header
    cannot be compared, and where the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host.strip("[]"), None, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {getattr(error, 'strerror', error)}; {NAME_ONE}") from None
    if ip_address(address[0]).is_unspecified:
        raise UsageError(f"--host {host} stands for all addresses of this machine; {NAME_ONE}")
    with socket.socket(family, socket.SOCK_STREAM) as place:
        place.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            place.bind((address[0], port))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) == errno.EADDRNOTAVAIL:
                raise UsageError(f"--host {host} is no address of this machine; {NAME_ONE}") from None
            raise UsageError(f"cannot listen on port {port}: {error}; choose another --port") from None
        place.listen(64)
        yield place


def serve(
    database: Path,
    sets: dict[str, ImageSet],
    study: Path | None,
    host: str,
    port: int,
    tell: Callable[[str, int], object],
) -> None:
    """Serve the explorer until the process is interrupted, as `api.results.explore` describes it.

    `sets` are image sets by their digest.
    """
    host = read_host(host)
    answers = Answers(database, sets, Conditions(grid_of(study) if study else None))
    answers.study(None)  # a database with faults is refused before anything listens
    token = secrets.token_urlsafe(24)
    with listening(host, port) as place:
        address, number = place.getsockname()[:2]
        config = uvicorn.Config(
            application(answers, token, host, number), log_level="error", access_log=False, lifespan="off"
        )
        server = uvicorn.Server(config)
        if not ip_address(address).is_loopback:
            log.warning(
                f"bandlens: whoever can read the network on the way to {host} sees token and pages: it is plain http"
            )
        tell(f"http://{host}:{number}/?token={token}", len(sets))
        try:
            server.run(sockets=[place])
        finally:
            answers.close()


def _kept(content: str | bytes, kind: str) -> Response:
    """An answer that a browser may keep for an hour."""
    return Response(content, media_type=kind, headers={"cache-control": "private, max-age=3600"})


def _json(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, allow_nan=False, default=str), status, media_type="application/json")


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
