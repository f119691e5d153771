from __future__ import annotations

import pytest
from required import miss


@pytest.mark.parametrize("named", ["", "browser"])
def test_what_nobody_asked_for_is_skipped(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDLENS_REQUIRE", named)
    with pytest.raises(pytest.skip.Exception, match="no g"):
        miss("gcc", "no gcc")


@pytest.mark.parametrize("named", ["gcc", "browser,gcc", "browser gcc"])
def test_what_was_asked_for_fails(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANDLENS_REQUIRE", named)
    with pytest.raises(pytest.fail.Exception, match="no gcc"):
        miss("gcc", "no gcc")
