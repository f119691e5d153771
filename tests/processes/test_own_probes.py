"""Probes of a user's own run in a process of the program's."""

from __future__ import annotations

import json
from pathlib import Path

from small import bandlens


def test_what_a_probe_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "print('loading')\ndef loud(images, rng):\n    'Says what it does.'\n    print('at work')\n    return images\n"
    )
    study = tmp_path / "study.toml"
    study.write_text('checkpoints = ["a"]\nimages = ["b"]\n[probes]\nloud = { file = "loud.py" }\n')
    listed = bandlens("probes", "list", "--study", study, "--json")
    assert [row["what"] for row in json.loads(listed.stdout)] == ["the images as they are", "Says what it does."]
    assert "loading" in listed.stderr
