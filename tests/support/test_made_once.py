from __future__ import annotations

from pathlib import Path

import pytest
from made_once import make_once


def test_a_folder_is_made_once_and_again_after_a_failure(tmp_path_factory: pytest.TempPathFactory) -> None:
    calls = list[Path]()

    def make(folder: Path) -> None:
        calls.append(folder)
        (folder / f"{len(calls)}").touch()
        if len(calls) == 1:
            raise OSError("no room")

    with pytest.raises(OSError, match="no room"):
        make_once(tmp_path_factory, "numbers", make)
    folders = {make_once(tmp_path_factory, "numbers", make) for _ in range(3)}
    assert folders == {*calls}
    assert sorted(file.name for file in folders.pop().iterdir()) == ["1", "2"]
