import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from made_up_results import Images, cell, condition, database_of, image_set, model, part
from small import refused_here, run_here

LOW = [condition("lowpass", cutoff=round(0.05 * k, 2)) for k in range(1, 16)]


def ranks(images: Images, errors: int) -> np.ndarray:
    return (np.arange(images.info.count) < errors).astype(int)


@pytest.fixture
def db(tmp_path: Path) -> Path:
    """Version 1 has twelve cutoffs more than version 2, and one condition in int8 that is worse there."""
    images = image_set(100, labels=[0] * 100)
    clean = part(cell(images), ranks(images, 10), ranks(images, 10))
    low = [part(cell(images, setting), ranks(images, 30), ranks(images, 30)) for setting in LOW]
    worse = part(cell(images, LOW[0], precision="int8"), ranks(images, 60), ranks(images, 60))
    unchanged = part(cell(images, LOW[1], precision="int8"), ranks(images, 30), ranks(images, 30))
    database_of(tmp_path, images, [clean, *low])
    return database_of(tmp_path, images, [clean, worse, unchanged])


def test_what_differs_is_listed_and_the_rest_is_counted(db: Path) -> None:
    page = run_here("compare", "s@1", "s@2", "--db", db)
    assert "Both have 3 cells: 1 is one and the same, 1 differs in accuracy" in page
    assert "13 cells are in A only: net set lowpass below 16 cycles/image; " in page
    assert "and 10 more" in page
    assert "in B only" not in page
    assert "13 cells are in B only: net set lowpass below " in run_here("compare", "s@2", "s@1", "--db", db)
    assert "lowpass below 5 cycles/image" in page
    assert "cutoff=" not in page
    line = f"none of s@1; run `bandlens analyze --db {db} --study s@1` first"
    assert f"Not determined: differences in metrics, since there are {line}.\n" in page
    assert "below 11 cycles/image " not in page
    assert "weaker differences" not in page
    counts = "no difference found: 1 cell; --format csv says what could have been (detectable)"
    assert f"\n{counts}\n\nCompared with s@1, " in page
    assert page.endswith("` first.\n"), "the verdict is last"
    words = ("kappa", "p_holm", "lost", "precision")
    assert not [word for word in words if word in page]
    [head] = [line.split() for line in page.splitlines() if line.startswith("  checkpoint ")]
    [row] = [line for line in page.splitlines() if line.startswith("  net ")]
    assert head == ["checkpoint", "image_set", "name", "A", "B", "difference", "n", "*"]
    assert re.fullmatch(r" +net +set +lowpass below 5 cycles/image +0\.7 +0\.4 +-0\.300 \[.*\] +100 +\*", row), row
    table = run_here("compare", "s@1", "s@2", "--db", db, "--format", "csv")
    assert [word for word in words if word not in table] == []
    assert table.count("\ncells,") == 2


def test_a_database_stands_for_its_last_study(db: Path) -> None:
    copied = shutil.copy(db, db.with_name("copy.duckdb"))
    rows = json.loads(run_here("compare", "s@1", copied, "--db", db, "--format", "json"))["cells"]
    assert min(row["difference"] for row in rows) == pytest.approx(-0.3)
    assert [row["p_holm"] / row["p"] for row in rows if row["changed"]] == [2]


def test_two_checkpoints_of_a_study_are_compared_on_the_same_images(tmp_path: Path) -> None:
    path, images = tmp_path / "results.duckdb", image_set(100, labels=[0] * 100)
    error_counts = {"x": (10, 30), "y": (25, 30), "z": (0, 0)}
    parts = [
        part(cell(images, setting, by=model(name)), ranks(images, number), ranks(images, number))
        for name, numbers in error_counts.items()
        for setting, number in zip((condition(), LOW[0]), numbers, strict=True)
    ]
    database_of(tmp_path, images, parts)
    comparison = json.loads(run_here("compare", "s", "--checkpoints", "x,y", "--db", path, "--format", "json"))
    assert comparison["verdict"]["findings"][0].startswith(
        "Compared with x, y is less accurate without perturbation: -0.150 [-0.2"
    )
    assert [comparison["a"], comparison["b"]] == [f"{path}, s@1, x", f"{path}, s@1, y"]
    clean, low = comparison["cells"]
    assert (clean["checkpoint"], clean["differs_in"], low["difference"]) == ("x, y", "weights or export", 0)
    assert (clean["lost"], clean["gained"], clean["difference"]) == (15, 0, pytest.approx(-0.15))
    assert clean["low"] < -0.15 < clean["high"] < 0
    assert comparison["only_a"] == comparison["only_b"] == []
    assert "give one of A and one of B" in refused_here("compare", "s", "s", "--checkpoints", "x", "--db", path)
    assert "x would be compared with itself" in refused_here("compare", "s", "--checkpoints", "x,x", "--db", path)
    assert "--checkpoints x,y (it has x, y, z), --image-sets X,Y" in refused_here("compare", "s", "--db", path)
    for name, some in (("only_x", parts[:2]), ("only_y", parts[2:4])):
        database_of(tmp_path, images, some, name)
    assert "\nCompared with x, y is less accurate " in run_here("compare", "only_x", "only_y", "--db", path)
    words = refused_here("compare", "s", "--checkpoints", "x,y", "--image-sets", "set,set", "--db", path)
    assert "two checkpoints, two image sets or two precisions; not several" in words


def test_without_labels_it_is_agreement_that_differs(tmp_path: Path) -> None:
    images, answers = image_set(100), np.arange(100) % 7
    same = [part(cell(images, by=model(name)), answers) for name in "xy"]
    low = [part(cell(images, LOW[0], by=model(name)), kept * answers) for name, kept in (("x", 1), ("y", 0))]
    database_of(tmp_path, images, [*same, *low])
    page = run_here("compare", "s", "--checkpoints", "x,y", "--db", tmp_path / "results.duckdb")
    assert "1 differs in agreement (p < 0.05 after Holm)" in page
    assert "\n*: p below 0.05 after Holm, of agreement alone\n" in page
    assert "accura" not in page


def test_two_image_sets_of_a_study_are_compared_on_the_photographs_of_both(tmp_path: Path) -> None:
    """The second has 80 of the first one's 100 photographs, of which 20 more are wrong there."""
    path, paths = tmp_path / "results.duckdb", [f"{k}.png" for k in range(100)]
    sets = [
        image_set(100, name="clear", labels=[0] * 100),
        image_set(80, name="fog", labels=[0] * 80, paths=paths[20:]),
    ]
    nets = [model("x"), model("y")]
    parts = [
        part(cell(images, by=by), ranks(images, errors), ranks(images, errors))
        for images, errors in zip(sets, (30, 30), strict=True)
        for by in nets
    ]
    database_of(tmp_path, sets, parts)
    comparison = json.loads(run_here("compare", "s", "--image-sets", "clear,fog", "--db", path, "--format", "json"))
    assert [comparison["a"], comparison["b"]] == [f"{path}, s@1, clear", f"{path}, s@1, fog"]
    assert [
        (row["checkpoint"], row["image_set"], row["n"], row["lost"], row["gained"]) for row in comparison["cells"]
    ] == [(name, "clear, fog", 80, 20, 0) for name in ("x", "y")]
    sentence = "Compared with clear, fog is less accurate without perturbation in 2 of 2 cases, at most by -0.250 ["
    assert comparison["verdict"]["findings"][0].startswith(sentence)


def test_two_precisions_of_a_study_are_its_newest_versions_in_them(tmp_path: Path) -> None:
    images, path = image_set(100, labels=[0] * 100), tmp_path / "results.duckdb"
    attack = part(cell(images, condition("pgd_linf", eps=0.1)), ranks(images, 90), ranks(images, 90))
    for conditions, error_counts in ((LOW[:1], {"fp32": 30}), (LOW[:2], {"fp32": 30, "int8": 50})):
        for precision, count in error_counts.items():
            cells = [cell(images, setting, precision=precision) for setting in (condition(), *conditions)]
            parts = [part(cell, ranks(images, count), ranks(images, count)) for cell in cells]
            database_of(tmp_path, images, [*parts, attack])  # an attack is in fp32 whatever the study is in
    comparison = json.loads(run_here("compare", "s", "--precisions", "fp32,int8", "--db", path, "--format", "json"))
    assert [comparison["a"], comparison["b"]] == [f"{path}, s@2, fp32", f"{path}, s@3, int8"]
    assert [(row["differs_in"], row["lost"]) for row in comparison["cells"]] == [("precision", 20)] * 3
    assert comparison["same"] == 1
    assert comparison["verdict"]["findings"][0].startswith(
        "Compared with fp32, net in int8 is less accurate without perturbation: -0.200 ["
    )
    words = (path, "s@1", "--db", path, "--study", "s@3", "--precisions", "int8,fp32", "--format", "json")
    assert [json.loads(run_here("compare", *words))[side] for side in "ab"] == [
        f"{path}, s@3, int8",
        f"{path}, s@1, fp32",
    ]
    refusal = refused_here("compare", "s", "--precisions", "fp32,bf16", "--db", path)
    assert refusal == f"{path}: s was run in fp32, int8, and not in bf16; set that precision in its file and run it"
