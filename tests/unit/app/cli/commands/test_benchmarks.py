"""`bandlens benchmarks list` and `pack`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import make_benchmark
from PIL import Image
from small import invoke, make_pictures

from bandlens.core.errors import ImageSetError, UsageError
from bandlens.core.records import Crop
from bandlens.probes.images.decision_spaces import imagenet_classes
from bandlens.probes.images.image_set import open_image_set
from bandlens.probes.images.pack import pack

DOCUMENT = (Path(__file__).parents[5] / "docs" / "guide" / "published.md").read_text(encoding="utf-8")
LOOP = re.compile(r"^for name in (.*?); do\n  (.*)\ndone$", re.MULTILINE)
LINES = LOOP.sub(
    lambda loop: "\n".join(loop[2].replace("$name", name) for name in loop[1].split()), DOCUMENT.replace("\\\n", "")
)
COMMANDS = re.findall(r"^bandlens benchmarks (pack .*)$", LINES, re.MULTILINE)


def test_pack_a_benchmark(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-c", tmp_path / "in", per_class=1, size=16)
    out = tmp_path / "out"
    with pytest.raises(ImageSetError, match="take what is there with --partial"):
        raise invoke("benchmarks", "pack", "imagenet-c", tmp_path / "in", "--out", out).exception or AssertionError
    first = invoke(
        "benchmarks", "pack", *miniature.words, "--out", out, "--only", "shot_noise", "--only", 5, "--format", "json"
    )
    assert first.exit_code == 0, first.output
    [row] = json.loads(first.stdout)
    assert (row["name"], row["images"], row["bytes"]) == ("out/shot_noise/5", 3, 3 * 3 * 16 * 16)
    assert f"{out}: 3 images need 2.9 kB on disk; " in first.stderr

    rest = invoke("benchmarks", "pack", *miniature.words, "--out", out)
    assert rest.exit_code == 0, rest.output
    assert f"{out}: 9 images need" in rest.stderr
    assert [line.split()[0] for line in rest.stdout.splitlines()[2:]] == [
        f"out/{corruption}/{severity}" for corruption in ("gaussian_noise", "shot_noise") for severity in (1, 5)
    ]
    [checked] = json.loads(invoke("images", "check", out / "shot_noise" / "5", "--format", "json").stdout)
    assert checked["digest"] == row["digest"]


def test_labels_subsets_and_streams_reach_the_pack(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-real", tmp_path / "in", per_class=4, size=16)
    options = ["--name", "real", "--limit", 5, "--stream", "--format", "json"]
    result = invoke("benchmarks", "pack", *miniature.words, "--out", tmp_path / "set", *options)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["name"], row["images"], row["bytes"]) == ("real", 5, 0)
    about = json.loads((tmp_path / "set" / "set.json").read_text())
    assert about["preprocessing"] == (
        "RGB, shorter side to 16 (bilinear, antialiased), centre crop 16; 5 of 50000 images"
    )
    assert about["streamed"] == str(tmp_path / "in")
    assert about["schemes"] == ["real"]


def test_the_documentation_names_every_benchmark() -> None:
    rows = re.findall(r"^(\S+(?:, \S+)*)\s+(\d+) +([\d,]+) +(\d+) +([\d.]+) +\d+$", DOCUMENT, re.MULTILINE)
    documented = {
        name: [float(number.replace(",", "")) for number in numbers]
        for names, *numbers in rows
        for name in names.split(", ")
    }
    for row in json.loads(invoke("benchmarks", "list", "--format", "json").stdout):
        numbers = [row[name] for name in ("sets", "images", "classes", "GB")]
        assert documented.pop(row["benchmark"]) == pytest.approx(numbers, rel=0.01)
        assert any(command.startswith(f"pack {row['benchmark']} ") for command in COMMANDS)
    assert documented == {}


def test_documented_commands_lack_the_data_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in COMMANDS:
        error = invoke("benchmarks", *shlex.split(command)).exception
        assert isinstance(error, UsageError), command
        assert re.search(r"no such folder|cannot be read \(No such file", str(error)), command


def test_the_program_of_the_document_lists_the_classes_of_refined_bias(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ImageNet has three clocks, two cameras and two elephants; packing takes all of them for right."""
    monkeypatch.chdir(tmp_path)
    counts = {"refined_bias_shape": {"camera": 2, "clock": 3, "mouse": 1}, "refined_bias_texture": {"elephant": 2}}
    for cue, things in counts.items():
        for seed, thing in enumerate(things):
            (tmp_path / cue / thing).mkdir(parents=True)
            Image.fromarray(make_pictures(1, 32, seed)[0]).save(tmp_path / cue / thing / f"{thing}_0.png")
    [program] = re.findall(r"^```python\n(.*?)^```$", DOCUMENT, re.MULTILINE | re.DOTALL)
    exec(program, {})
    for cue, things in counts.items():
        pack(Path(cue), Path(f"{cue}.set"), crop=Crop(32, 32), labels=Path(f"{cue}.csv"))
        images = open_image_set(Path(f"{cue}.set"))
        rows, classes = images.schemes["several"]
        assert dict(zip(things, np.bincount(rows), strict=True)) == things
        assert images.class_names is not None
        assert {images.class_names[number] for number in classes} <= {*imagenet_classes()}
