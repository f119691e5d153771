from __future__ import annotations

import subprocess

import pytest
import waiting
from made_up_results import python
from waiting import wait_until


def test_it_asks_until_the_answer_is_true() -> None:
    answers = iter([0, None, "", [3]])
    wait_until(lambda: next(answers))
    assert next(answers, "none left") == "none left"


def test_it_gives_up_where_the_process_has_ended() -> None:
    with subprocess.Popen(python(""), text=True) as ended:
        pass
    with pytest.raises(AssertionError, match="the process has ended before the event"):
        wait_until(lambda: False, ended)


def test_it_gives_up_after_its_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LIMIT_SECONDS", 0.05)
    with pytest.raises(AssertionError, match="no event in 0 s"):
        wait_until(lambda: False)
