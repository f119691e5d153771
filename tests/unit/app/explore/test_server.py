"""Where the explorer listens, and under which name."""

from __future__ import annotations

import pytest

from bandlens.app.explore.server import listen, read_host
from bandlens.core.errors import UsageError


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("MyBox.Example", "mybox.example"),
        ("FD00:0:0::2", "[fd00::2]"),
        ("::ffff:192.0.2.2", "192.0.2.2"),
    ],
)
def test_a_host_is_written_as_browsers_write_it(host: str, written: str) -> None:
    assert read_host(host) == written


@pytest.mark.parametrize(
    ("host", "message"),
    [
        ("0.0.0.0", "stands for all addresses of this machine"),
        ("0", "stands for all addresses of this machine"),
        ("::", "stands for all addresses of this machine"),
        ("::ffff:0.0.0.0", "stands for all addresses of this machine"),
        ("192.0.2.77", "is no address of this machine"),
        ("fe80::1%lo", "has a zone, which no browser takes"),
        ("a..b", "a..b: "),
        ("a/b", "is neither an address nor a name"),
        ("x\ny", "is neither an address nor a name"),
        ("", "is neither an address nor a name"),
    ],
)
def test_a_host_that_no_browser_can_name_is_refused(host: str, message: str) -> None:
    with (
        pytest.raises(UsageError, match=r"name the one address of this machine that browsers open$") as refusal,
        listen(read_host(host), 0),
    ):
        pass
    assert message in str(refusal.value)


@pytest.mark.parametrize("host", ["127.0.0.2", "localhost"])
def test_it_listens_at_the_named_address(host: str) -> None:
    with listen(read_host(host), 0) as listener:
        assert listener.server_address[0] in (host, "127.0.0.1", "::1")


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(UsageError, match="choose another --port"), listen("127.0.0.1", 1 << 16):
        pass
