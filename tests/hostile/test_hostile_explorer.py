"""Who should not come into an explorer: wrong tokens, other hosts, pages of other sites."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_up_results import cell, database_of, image_set, part
from served import Served, ask, cookie, serving

HOST = "127.0.0.1"
PATHS = ("/", "/api/study", "/api/picture?set=x&index=0", "/static/explore.js", "/static/libraries.js", "/nothing")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    images = image_set(3, labels=[0, 1, 2])
    return database_of(tmp_path_factory.mktemp("hosted"), images, [part(cell(images), [0, 1, 1], [0, 0, 3])]).parent


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    digest = hashlib.sha256((folder / "results.duckdb").read_bytes()).digest()
    with serving(folder / "results.duckdb", None) as server:
        yield server
    assert hashlib.sha256((folder / "results.duckdb").read_bytes()).digest() == digest, "the database was written to"
    assert [file.name for file in folder.iterdir()] == ["results.duckdb"]


def wrong_tokens(token: str) -> list[str]:
    return ["", "x", token.swapcase(), token.lower(), token[:-1], f"{token}x", f"%20{token}", f"{token}%00", "%FF%FE"]


def test_the_token_lets_in_and_is_then_a_cookie(served: Served) -> None:
    answer = ask(served, f"/?token={served.token}&probe=lowpass")
    assert (answer.status, answer.headers["location"]) == (303, "/?probe=lowpass")
    (name, value), *attributes = (
        field.strip().partition("=")[::2] for field in answer.headers["set-cookie"].split(";")
    )
    assert f"{name}={value}" == cookie(served)
    settings = {key.lower(): text.lower() for key, text in attributes}
    assert settings.keys() == {"httponly", "path", "samesite"}, "it ends with the browser, and no other host has it"
    assert settings["samesite"] == "strict"
    assert ask(served, "/api/study", Cookie=cookie(served)).status == 200


def test_wrong_tokens_stay_outside(served: Served) -> None:
    assert len(served.token) >= 22, "128 bits in base64"
    name = cookie(served).partition("=")[0]
    for token in wrong_tokens(served.token):
        answers = [ask(served, f"/?token={token}")]
        if "%" not in token:
            answers += [ask(served, path, Cookie=f"{name}={token}") for path in PATHS]
        for answer in answers:
            assert answer.status == 403, token
            assert answer.body.count(b"\n") == 1
            assert "set-cookie" not in answer.headers
            assert served.token.encode() not in answer.body


def test_the_token_counts_in_its_place_alone(served: Served) -> None:
    for path in PATHS[1:]:
        separator = "&" if "?" in path else "?"
        assert ask(served, f"{path}{separator}token={served.token}").status == 403
    assert ask(served, "/", Authorization=f"Bearer {served.token}").status == 403
    assert ask(served, "/", Cookie=f"bandlens_explorer_{served.port + 1}={served.token}").status == 403
    assert ask(served, "/", Cookie=f"BANDLENS_EXPLORER_{served.port}={served.token}").status == 403
    assert ask(served, f"/?token=x&token={served.token}").status == 403


def test_no_method_comes_in_without_the_token_and_none_changes_anything_with_it(served: Served) -> None:
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        assert ask(served, "/api/study", method).status == 403
        assert ask(served, "/api/study", method, Cookie=cookie(served)).status == (200 if method == "HEAD" else 405)


def test_requests_under_another_host_are_refused(served: Served) -> None:
    hosts = [
        *(f"127.0.0.2:{served.port}", f"evil.example:{served.port}", "evil.example"),
        *(HOST, f"{HOST}:{served.port + 1}", f"{HOST}.:{served.port}", f"x@{HOST}:{served.port}", ""),
    ]
    for host in hosts:
        for path in ("/", f"/?token={served.token}", "/api/study"):
            answer = ask(served, path, hosts=[host], Cookie=cookie(served))
            assert answer.status == 421, host
            assert "set-cookie" not in answer.headers
    assert ask(served, "/", hosts=[served.authority, "evil.example"], Cookie=cookie(served)).status == 400
    assert ask(served, "/", hosts=[], Cookie=cookie(served)).status == 400


def test_pages_of_other_sites_are_refused(served: Served) -> None:
    origins = ["http://evil.example", f"http://127.0.0.2:{served.port}", f"https://{served.authority}", "null", ""]
    for origin in origins:
        for method in ("GET", "OPTIONS"):
            answer = ask(served, "/api/study", method, Origin=origin, Cookie=cookie(served))
            assert answer.status == 403, origin
            assert not [name for name in answer.headers if name.startswith("access-control")]
    answer = ask(served, "/api/study", Origin=f"http://{served.authority}", Cookie=cookie(served))
    assert answer.status == 200
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_each_start_has_a_token_of_its_own(served: Served, folder: Path) -> None:
    with serving(folder / "results.duckdb", None) as second_server:
        assert second_server.token != served.token
        assert ask(second_server, "/", Cookie=cookie(second_server)).status == 200
        assert ask(second_server, f"/?token={served.token}").status == 403
