"""The table of a release: exit statuses, formats for people, programs, pull requests and CI services."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from made_up_results import cell, condition, database_of, image_set, model, part, store_study
from small import Command, ask

from bandlens.analysis.database.open import open_store

SETTINGS = [condition(), condition("lowpass", cutoff=0.3), condition("highpass", cutoff=0.3)]
N = 2000


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Releases of one checkpoint: `same` answers as `old` does, `worse` loses one condition, `near` errs elsewhere.

    The study of `worse` asks for no more than 30 points and a condition.
    """
    images, path = image_set(N, labels=np.zeros(N, int)), tmp_path_factory.mktemp("releases") / "results.duckdb"
    first, excess, shift = range(600), range(700), range(30, 638)
    errors = {"old": [first] * 3, "same": [first] * 3, "worse": [first, first, excess], "near": [shift] * 3}
    with open_store(path) as store:
        for name, ranges in errors.items():
            parts = []
            for setting, places in zip(SETTINGS, ranges, strict=True):
                rank = np.isin(np.arange(N), places).astype(int)
                parts.append(part(cell(images, setting, by=model(name)), rank, rank))
            store_study(store, name, images, parts)
        store.execute(
            "UPDATE study SET toml = toml || '\n[gate]\nmargin = 0.3\nconditions = [\"clean\"]' WHERE name = 'worse'"
        )
    return path


@pytest.fixture
def db(releases: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(releases, tmp_path))


def test_what_cannot_be_told_has_a_status_of_its_own_and_says_how_many_images_would_do(
    command: Command, db: Path
) -> None:
    options = ("--against", "old", "--margin", 0.005, "--db", db)
    answer = command("gate", "near", *options)
    assert answer.code == 3
    (line,) = answer.err.splitlines()
    document = json.loads(command("gate", "near", *options, "--format", "json").out)
    count = max(row["needed"] for row in document["rows"])
    assert count > N
    assert line == (
        f"bandlens: near against old: 0 pass, 0 fail, 3 undecided; about {np.ceil(10 * count / N) / 10:.1f} times as "
        "many images would decide all: take more images, or widen the limits"
    )
    assert command("gate", "near", *options, "--format", "markdown").out.startswith("## UNDECIDED: near against old: ")
    assert (document["compared"], document["rows"][0]["margin"]) == ("near against old", 0.005)
    assert document["rule"] == "margin 0.50%; chance of any wrong verdict in the table at most 5 %"
    assert (document["pass"], document["fail"], document["undecided"]) == (0, 0, len(document["rows"]))
    row = document["rows"][0]
    assert (row["before"], row["now"], row["loss"], row["flips"]) == (0.7, 0.696, pytest.approx(0.004), 0.019)
    assert row["relative_flips"] == pytest.approx(0.019 / (0.7 * 0.304))
    assert (row["decides"], row["p"]) == (f"low {row['loss_low']:.3g} < 0", row["p_fail"]), (
        "a loss is nearer than a pass"
    )
    assert row["p_fail"] < row["p_pass"]
    assert document["worst"]["loss_low"] == pytest.approx(row["loss_low"], abs=0.0005), "equal rows are one"
    assert document["checkpoints"][0]["worst_loss"] == pytest.approx(0.004)


def test_a_slice_asks_for_a_multiple_of_its_own_images(command: Command, tmp_path: Path) -> None:
    """The rarest of two classes decides how much larger the set has to be: its own images alone would be too few."""
    images = image_set(N, labels=(np.arange(N) % 20 == 0).astype(int))
    for name, errors in (("old", np.arange(N) < 40), ("new", np.arange(N) >= N - 40)):
        rank = errors.astype(int)
        db = database_of(tmp_path, images, [part(cell(images, by=model(name)), rank, rank)], name)
    options = ("--against", "old", "--margin", 0.01, "--slices", "class", "--db", db)
    rows = json.loads(command("gate", "new", *options, "--format", "json").out)["rows"]
    times = {row["slice"]: row["needed"] / row["n"] for row in rows if row["needed"]}
    assert max(times, key=lambda name: times[name]) == "class 1"
    advice = f"about {np.ceil(10 * times['class 1']) / 10:.1f} times as many images"
    assert advice in command("gate", "new", *options).err


def test_the_study_says_margin_and_conditions_and_options_take_their_place(command: Command, db: Path) -> None:
    def rows(*options: object) -> list[dict[str, object]]:
        answer = command("gate", "worse", "--against", "old", "--db", db, *options, "--format", "json")
        return list(json.loads(answer.out)["rows"])

    assert [(row["probe"], row["margin"]) for row in rows()] == [("clean", 0.3)]
    assert [row["margin"] for row in rows("--margin", 0.02)] == [0.02]
    flips = rows("--flips", 0.001)
    assert [(row["measure"], row["margin"], row["verdict"]) for row in flips] == [
        ("accuracy", 0.3, "pass"),
        ("negative flips", 0.001, "undecided"),
    ]


def test_who_may_not_read_the_database_may_not_read_the_verdicts(command: Command, db: Path, tmp_path: Path) -> None:
    db.chmod(0o600)
    file = tmp_path / "gate.xml"
    command("gate", "worse", "--against", "old", "--junit", file, "--db", db)
    assert file.stat().st_mode & 0o777 == 0o600


def test_ci_services_read_a_case_for_each_row(command: Command, db: Path, tmp_path: Path) -> None:
    with open_store(db) as store:
        store.execute("UPDATE study SET toml = ''")
    file = tmp_path / "gate.xml"
    answer = command("gate", "worse", "--against", "old", "--flips", 0.001, "--junit", file, "--db", db)
    assert answer.code == 1
    assert answer.err.startswith(
        "bandlens: worse against old: 2 pass, 2 fail, 2 undecided; a row that fails has a loss beyond chance"
    )
    root = ElementTree.parse(file).getroot()
    (suite,) = root
    assert (root.get("name"), suite.get("name")) == ("worse against old", "old, worse on set")
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {
        "tests": "6", "failures": "2", "skipped": "2",
    }  # fmt: skip
    states = {case.get("name"): [child.tag for child in case] for case in suite}
    assert states["clean, accuracy"] == []
    assert states["clean, negative flips"] == ["skipped"]
    assert [name for name, tags in states.items() if tags == ["failure"] and name and "highpass" in name] == [
        name for name, tags in states.items() if tags == ["failure"]
    ]
    failure = next(case for case in suite if case.find("failure") is not None).find("failure")
    assert failure is not None
    message = r"fail: loss 0.05; flips 0.05; low 0.0[34]\S* > 0; p \S+e-\d+ after Holm"
    assert re.fullmatch(message, str(failure.get("message")))


def test_what_a_pull_request_shows_says_the_limits_and_what_was_not_judged(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two databases call their studies alike, the sets are other ones, and each lacks something of the other."""
    monkeypatch.chdir(tmp_path.parent)
    folder = tmp_path.name
    rank, cutoffs = np.zeros(N, int), {"old": (0.3, 0.7), "new": (0.3, 0.5)}
    for side in cutoffs:
        images, namesakes = image_set(N, labels=rank, benchmark=side), image_set(N, name="other", labels=rank)
        cells = [cell(images, condition("lowpass", cutoff=cutoff)) for cutoff in cutoffs[side]]
        cells += [cell(namesakes, condition("highpass", cutoff=0.3))] if side == "new" else []
        parts = [part(cell, rank, rank) for cell in cells]
        database_of(tmp_path, [images, namesakes], parts, "mine", file=f"{side}.duckdb")
    answer = command(
        "gate", "mine", "--against", f"{folder}/old.duckdb", "--db", f"{folder}/new.duckdb", "--format", "markdown"
    )
    assert answer.code == 0
    assert answer.out.startswith(f"## PASS: mine@1 of {folder}/new.duckdb against mine@1 of {folder}/old.duckdb: ")
    limits = answer.out.split("## Limits, and what is not judged")[1]
    assert "margin 1.00%" in limits
    assert "images or labels" in limits
    assert f"1 cell of mine@1 of {folder}/old.duckdb alone (lowpass cutoff=0.7); 2 cells of mine@1 of " in limits
    assert "(image set other, probe highpass, lowpass cutoff=0.5)" in limits


def test_a_study_of_another_database_is_named_behind_its_file(command: Command, db: Path, tmp_path: Path) -> None:
    other = shutil.copy(db, tmp_path / "other.duckdb")
    for name in ("old@1", "old"):
        answer = command("gate", "worse", "--against", f"{other}:{name}", "--margin", 0.3, "--db", db)
        assert answer.code == 0
        assert f"worse of {db} against old of {other}: 1 pass, 0 fail, 0 undecided" in answer.out
    answer = command("gate", "worse", "--against", f"{other}:olds", "--db", db)
    assert (answer.code, "unknown study 'olds'; did you mean old or old@1?" in answer.err) == (2, True)


def test_images_that_one_side_lacks_are_counted(command: Command, tmp_path: Path) -> None:
    for side, count in (("old", N), ("new", N + 42)):
        images, rank = image_set(count, labels=np.zeros(count, int)), np.zeros(count, int)
        cells = [cell(images, setting) for setting in SETTINGS]
        parts = [part(of, rank, rank) for of in cells]
        database_of(tmp_path, [images], parts, "mine", file=f"{side}.duckdb")
    words = ("gate", "mine", "--against", tmp_path / "old.duckdb", "--db", tmp_path / "new.duckdb", "--format", "json")
    document = json.loads(command(*words).out)
    assert {row["n"] for row in document["rows"]} == {N}
    assert document["lacking"] == f"42 images of set of mine@1 of {tmp_path / 'new.duckdb'} alone"


def test_a_release_that_was_broken_off_does_not_pass_by_what_it_has(command: Command, db: Path) -> None:
    images = image_set(N, labels=np.zeros(N, int))
    cells = [cell(images, setting, by=model("broken")) for setting in SETTINGS]
    rank = (np.arange(N) < 600).astype(int)
    with open_store(db) as store:
        store_study(store, "broken", images, [part(cells[0], rank, rank)])
        store.begin_study("broken", "", cells, [images])
    answer = command("gate", "broken", "--against", "old", "--db", db)
    assert (answer.code, answer.out) == (2, "")
    assert (
        f"broken@2 lacks 2 of its 3 cells in {db} (highpass cutoff=0.3, lowpass cutoff=0.3), which would pass "
        "unjudged; run them, or name"
    ) in answer.err
    with open_store(db) as store:
        store.execute("UPDATE study SET toml = '[gate]\nconditions = [\"clean\"]' WHERE name = 'broken'")
    assert command("gate", "broken", "--against", "old", "--db", db).code == 0, "what is not judged may lack"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--slices", "clas"], "unknown name in gate.slices (--slices) 'clas'; did you mean class?"),
        (
            ["--junit", "/dev/null/gate.xml"],
            "cannot write /dev/null/gate.xml: File exists; name another with --junit",
        ),
        (["--against", "same"], "same@1 would be compared with itself; name the release before it"),
        (
            ["--against", ""],
            "same is judged by the release before it: --against NAME, which --db DB holds, or another database; a "
            "precision by another: bandlens gate precision STUDY.toml --candidate ENGINE:PRECISION",
        ),
        (["--against", "own"], "unknown study 'own'; known: "),
        (["--against", "own"], "results.duckdb` lists all"),
        (["--against", "old", "--candidate", "int8"], "--against judges a release, and --candidate and --reference a"),
        (
            ["--candidate", "int8"],
            "`bandlens init same.toml` writes one, and `bandlens studies show same --db DB > same.toml` that",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_one_line(command: Command, db: Path, words: list[str], message: str) -> None:
    is_complete = {"--against", "--candidate", "--reference"} & {*words}
    answer = command("gate", "same", *([] if is_complete else ["--against", "old"]), *words, "--db", db)
    assert (answer.code, answer.out) == (2, "")
    assert message in answer.err
    assert len(answer.err.splitlines()) == 1


def test_verdicts_are_kept_until_a_later_gate_takes_their_place(command: Command, db: Path) -> None:
    columns = ("probe", "slice", "measure", "n", "before", "now", "loss", "loss_low", "loss_high", "margin")
    columns += ("p_pass", "p_fail", "verdict", "needed", "flips", "relative_flips", "cell")
    options = ("near", "--against", "old", "--db", db, "--format", "json")
    rows = json.loads(command("gate", *options, "--flips", 0.03).out)["rows"]
    verdicts = ask(db, f"SELECT {', '.join(columns)} FROM release_gate ORDER BY cell, measure")
    assert len(rows) == 6
    assert verdicts == [
        tuple(row[name] for name in columns) for row in sorted(rows, key=lambda row: (row["cell"], row["measure"]))
    ]
    assert ask(db, "SELECT DISTINCT study, version, against, checkpoint, image_set FROM release_gate") == [
        ("near", "near@1", "old@1", "near", "set")
    ]
    assert ask(db, "SELECT count(*) FROM cell_detail JOIN release_gate USING (cell, probe, parameters)") == [(6,)]
    command("gate", "same", "--against", "old", "--db", db)
    command("gate", *options, "--margin", 0.3)
    assert ask(db, "SELECT version, margin, verdict, count(*) FROM release_gate GROUP BY ALL ORDER BY ALL") == [
        ("near@1", 0.3, "pass", 3), ("same@1", 0.01, "pass", 3),
    ]  # fmt: skip
    assert command("studies", "rename", "old", "first", "--db", db).code == 0
    assert ask(db, "SELECT DISTINCT against FROM release_gate") == [("first@1",)], "a release keeps its newest name"
    command("studies", "delete", "near", "--yes", "--db", db)
    assert ask(db, "SELECT count(*) FROM release_verdict") == [(3,)]


def test_a_database_that_cannot_be_written_is_judged_all_the_same(command: Command, db: Path) -> None:
    with open_store(db, read_only=True):
        answer = command("gate", "same", "--against", "old", "--db", db)
    assert answer.code == 0
    assert "3 pass, 0 fail" in answer.out
    (line,) = answer.err.splitlines()
    assert line.startswith(f"bandlens: warning: the verdicts are not kept: {db} is open in this program")
    assert ask(db, "SELECT count(*) FROM release_verdict") == [(0,)]
