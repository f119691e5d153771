"""`bandlens images pack` and `check`."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from benchmark_sets import make_benchmark, make_benchmarks
from PIL import Image
from typer.testing import CliRunner, Result

from bandlens.app.commands.images import app
from bandlens.errors import ImageSetError, UsageError

DOCUMENT = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^bandlens images (pack .*)$", DOCUMENT.replace("\\\n", ""), re.MULTILINE)


def run(*words: object) -> Result:
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for seed, path in enumerate(["n01440764/a.jpg", "n01443537/b.png"]):
        (tmp_path / "photos" / path).parent.mkdir(parents=True)
        array = np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(array).save(tmp_path / "photos" / path)
    (tmp_path / "photos" / "n01440764" / "c.jpg").write_text("not an image")
    return tmp_path / "photos"


def test_pack_and_check(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert isinstance(run("pack", photos, "--out", out).exception, ImageSetError)
    result = run("pack", photos, "--out", out, "--skip-broken", "--workers", 2, "--size", 32, "--resize", 32, "--json")
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["images"], row["labelled"], row["classes"], row["bytes"]) == (2, True, 2, 2 * 3 * 32 * 32)
    assert row["skipped"] == [{"path": "n01440764/c.jpg", "reason": "not a JPEG, PNG, WEBP file"}]
    assert row["images_per_second"] > 0

    checked = run("check", out)
    assert checked.exit_code == 0
    assert row["digest"] in checked.stdout
    assert "left out n01440764/c.jpg: not a JPEG" in checked.stderr
    [again] = json.loads(run("check", out, "--json").stdout)
    assert again["digest"] == row["digest"]


def test_errors_reach_the_command_line(photos: Path, tmp_path: Path) -> None:
    assert isinstance(run("check", photos).exception, UsageError)
    assert isinstance(run("pack", tmp_path / "nowhere", "--out", tmp_path / "set").exception, UsageError)
    assert run("pack", photos).exit_code == 2


@pytest.mark.parametrize("command", ["pack", "kinds", "check"])
def test_help_has_examples(command: str) -> None:
    assert f"Example: bandlens images {command}" in run(command, "--help").output


def test_pack_a_benchmark(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-c", tmp_path / "in", per_class=1, size=16)
    out = tmp_path / "out"
    with pytest.raises(ImageSetError, match="take what is there with --partial"):
        raise run("pack", tmp_path / "in", "--out", out, "--kind", "imagenet-c").exception or AssertionError
    one = run("pack", *miniature.words, "--out", out, "--corruption", "shot_noise", "--severity", 5, "--json")
    assert one.exit_code == 0, one.output
    [row] = json.loads(one.stdout)
    assert (row["name"], row["images"], row["bytes"]) == ("out/shot_noise/5", 3, 3 * 3 * 16 * 16)
    assert f"{out}: 3 images need 2.9e-06 GB on disk; " in one.stderr

    rest = run("pack", *miniature.words, "--out", out)
    assert rest.exit_code == 0, rest.output
    assert f"{out}: 9 images need" in rest.stderr
    assert [line.split()[0] for line in rest.stdout.splitlines()[2:]] == [
        f"out/{corruption}/{severity}" for corruption in ("gaussian_noise", "shot_noise") for severity in (1, 5)
    ]
    [checked] = json.loads(run("check", out / "shot_noise" / "5", "--json").stdout)
    assert checked["digest"] == row["digest"]


def test_pack_every_benchmark(tmp_path: Path) -> None:
    kinds = {row["kind"]: row for row in json.loads(run("kinds", "--json").stdout)}
    miniatures = make_benchmarks(tmp_path / "in", size=16)
    assert list(miniatures) == list(kinds)
    for name, miniature in miniatures.items():
        result = run("pack", *miniature.words, "--out", tmp_path / name, "--json")
        assert result.exit_code == 0, result.output
        rows = json.loads(result.stdout)
        assert (len(rows), {row["images"] for row in rows}) == (kinds[name]["sets"], {3})
        assert result.stderr.startswith(f"{tmp_path / name}: {3 * len(rows)} images need ")
        assert result.stderr.count("images need") == 1


def test_labels_subsets_and_streams_reach_the_pack(tmp_path: Path) -> None:
    miniature = make_benchmark("imagenet-real", tmp_path / "in", per_class=4, size=16)
    given = ["--name", "real", "--limit", 5, "--per-class", 2, "--fast", "--stream", "--json"]
    result = run("pack", *miniature.words, "--out", tmp_path / "set", *given)
    assert result.exit_code == 0, result.output
    [row] = json.loads(result.stdout)
    assert (row["name"], row["images"], row["bytes"]) == ("real", 5, 0)
    about = json.loads((tmp_path / "set" / "set.json").read_text())
    assert about["preprocessing"] == (
        "RGB, shorter side to 16 (bilinear, antialiased, fast), centre crop 16; 5 of 50000 images; "
        "the first 2 of each class"
    )
    assert about["streamed"]["source"] == str(tmp_path / "in")
    assert about["schemes"] == ["real"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--partial"], "--partial belongs to a benchmark; name it with --kind"),
        (["--per-class", 3], "--per-class belongs to a benchmark"),
        (["--kind", "imagenet", "--labels", "x.csv"], "--labels is imagenet's own; leave it out"),
        (["--kind", "stylized", "--decision-space", "sixteen"], "--decision-space is stylized's own"),
        (["--kind", "imagenet-d"], "unknown kind 'imagenet-d'; did you mean"),
    ],
)
def test_options_that_do_not_go_together(words: list[object], message: str, photos: Path, tmp_path: Path) -> None:
    error = run("pack", photos, "--out", tmp_path / "set", *words).exception
    assert isinstance(error, UsageError)
    assert message in str(error)


def test_the_documentation_names_every_kind() -> None:
    lines = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in lines]
    documented = {row[0]: [float(number.replace(",", "")) for number in row[1:5]] for row in rows if len(row) == 7}
    for kind in json.loads(run("kinds", "--json").stdout):
        numbers = [kind[name] for name in ("sets", "images", "classes", "GB")]
        assert documented.pop(kind["kind"]) == pytest.approx(numbers, rel=0.01)
        assert any(f"--kind {kind['kind']} " in f"{command} " for command in COMMANDS)
    assert documented == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_documented_commands_lack_the_data_only(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    error = run(*shlex.split(command)).exception
    assert isinstance(error, UsageError)
    assert re.search(r"no such folder|cannot be read \(No such file", str(error))


def test_kinds_are_listed_with_their_size() -> None:
    rows = {row["kind"]: row for row in json.loads(run("kinds", "--json").stdout)}
    assert rows["imagenet-c"]["images"] == 95 * 50_000
    assert rows["imagenet-c"]["GB"] == pytest.approx(715, abs=1)
    assert rows["imagenet"]["GB"] == pytest.approx(7.53, abs=0.01)
    assert rows["cue-conflict"]["labels"] == "label and texture"
    assert "imagenet-sketch" in run("kinds").stdout
