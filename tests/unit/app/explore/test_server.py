"""Where the explorer listens."""

from __future__ import annotations

import pytest

from bandlens.app.explore.server import listen
from bandlens.core.errors import UsageError


def test_it_listens_on_this_machine_alone() -> None:
    with listen(0) as listener:
        assert listener.server_address[0] == "127.0.0.1"


def test_a_port_that_is_none_or_taken_is_refused() -> None:
    with listen(0) as listener:
        for port in (1 << 16, listener.server_address[1]):
            with pytest.raises(UsageError, match="choose another --port"), listen(port):
                pass
