import json
import re
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from bandlens.analysis.published.figures import (
    BIASES,
    PUBLISHED_GROUPS,
    SHIPPED,
    SOURCE,
    correlation_table,
    figures_from_benchmark,
    read_benchmark,
    shipped_figures,
)
from bandlens.app.commands.published import app
from bandlens.core.errors import StoreError, UsageError

PUBLISHED = Path(__file__).parents[5] / "shared" / "published"
needs_published = pytest.mark.skipif(not PUBLISHED.is_dir(), reason="no published figures at ../shared/published")
COLUMNS = [column for columns in (PUBLISHED_GROUPS | BIASES).values() for column in columns]


@pytest.fixture(scope="module")
def benchmark() -> pl.DataFrame:
    return read_benchmark(PUBLISHED / "benchmark.csv")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A file like the study's: the 48 models and the needed columns, one number each: percents, or shares of one."""
    models = shipped_figures()["model"]
    scales = [1.0 if column.startswith("top1_acc") else 0.01 for column in COLUMNS]
    columns = {
        c: [scale * (i + j) for j in range(48)] for i, (c, scale) in enumerate(zip(COLUMNS, scales, strict=True))
    }
    wide = pl.DataFrame({"model": models} | columns)
    path = tmp_path / "benchmark.csv"
    wide.write_csv(path)
    return path


def check_against_published(table: list[dict[str, object]]) -> None:
    published = {row[:3]: row[3] for row in pl.read_csv(PUBLISHED / "correlations.csv").rows()}
    computed = {(row["bias"], row["group"], row["subset"]): row["spearman"] for row in table}
    assert list(computed) == list(published)
    assert len(computed) == 72
    assert {pair: f"{rho:.2f}" for pair, rho in computed.items()} == {
        pair: f"{rho:.2f}" for pair, rho in published.items()
    }


def test_48_figures_are_shipped_with_their_source() -> None:
    figures = shipped_figures()
    assert figures.shape == (48, 12)
    assert figures["model"].n_unique() == 48
    assert figures["category"].n_unique() == 7
    assert figures.null_count().sum_horizontal().item() == 0
    head = SHIPPED.read_text(encoding="utf-8").split("model,")[0]
    assert "Gavrikov & Keuper 2024" in head
    assert "https://creativecommons.org/licenses/by-sa/4.0/" in head


@needs_published
def test_the_published_table_follows_from_the_shipped_figures() -> None:
    table = correlation_table(shipped_figures())
    check_against_published(table)
    assert {(row["subset"], row["n"]) for row in table} == {("total", 48), ("adversarial_training", 15), ("other", 33)}


@needs_published
def test_the_published_table_follows_from_the_whole_file(benchmark: pl.DataFrame) -> None:
    check_against_published(correlation_table(figures_from_benchmark(benchmark)))


@needs_published
def test_the_shipped_figures_are_those_of_the_whole_file(benchmark: pl.DataFrame) -> None:
    categories = json.loads((PUBLISHED / "categories.json").read_text())
    of_model = {model: category for category, models in categories.items() for model in models}
    made = figures_from_benchmark(benchmark, of_model)
    lines = SHIPPED.read_text(encoding="utf-8").splitlines(keepends=True)
    assert made.write_csv(float_precision=6) == "".join(line for line in lines if not line.startswith("#"))


@needs_published
def test_the_whole_file_is_read(benchmark: pl.DataFrame) -> None:
    assert benchmark.columns == ["model", "metric", "value", "source"]
    assert benchmark["model"].n_unique() == 70
    assert benchmark["source"].unique().to_list() == [SOURCE]
    assert benchmark.null_count().sum_horizontal().item() == 0
    top1 = benchmark.filter(model="tv_resnet50", metric="top1_acc/imagenet")["value"].item()
    assert top1 == pytest.approx(76.146, abs=1e-3)


def test_significance_decides_what_is_shown() -> None:
    table = correlation_table(shipped_figures())
    assert all((row["spearman"] == 0) == (row["p"] >= 0.05) for row in table)
    assert list(table[0]) == ["bias", "group", "subset", "spearman", "p", "n"]


def test_a_bias_that_does_not_vary_has_no_correlation() -> None:
    table = correlation_table(shipped_figures().with_columns(shape_bias=pl.lit(0.5)))
    assert [row["spearman"] for row in table if row["bias"] == "shape_bias"] == [None] * 12


def test_a_small_file_is_read(small: Path) -> None:
    figures = figures_from_benchmark(read_benchmark(small))
    assert figures["Robustness"].to_list()[:2] == pytest.approx([4.0, 5.0])


def test_a_file_of_an_open_quotation_is_refused(tmp_path: Path) -> None:
    (tmp_path / "benchmark.csv").write_text('"\n')
    with pytest.raises(StoreError, match="neither models nor metrics"):
        read_benchmark(tmp_path / "benchmark.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda wide: wide.drop("shape-bias"), "lacks the columns shape-bias; give"),
        (lambda wide: wide.drop(COLUMNS[:5]), "and 2 more; give"),
        (lambda wide: wide.head(44), r"lacks the models .* and 1 more"),
        (lambda wide: wide.select("model"), "neither models nor metrics"),
        (lambda wide: wide.rename({"model": "name"}), "neither models nor metrics"),
        (lambda wide: wide.with_columns(pl.lit("n/a").alias("shape-bias")), "not a number"),
    ],
)
def test_another_file_is_refused_with_the_reason(small: Path, change, message: str) -> None:
    change(pl.read_csv(small)).write_csv(small)
    with pytest.raises(StoreError, match=message) as raised:
        read_benchmark(small)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("shape-bias", "NaN", "'NaN' is not a finite number"),
        ("top1_acc/imagenet", "inf", "'inf' is not a finite number"),
        (BIASES["critical_bandwidth"][0], "-inf", "'-inf' is not a finite number"),
        ("top1_acc/imagenet", "n/a", "'n/a' is not a number"),
        ("top1_acc/imagenet", "-5", r"'-5' is not an accuracy in percent, from 0 to 100"),
        ("top1_acc/imagenet-a", "250", r"'250' is not an accuracy in percent, from 0 to 100"),
        ("shape-bias", "33.5", r"'33.5' is not a share, from 0 to 1"),
        (BIASES["low_frequency_bias"][0], "45.1", r"'45.1' is not a ratio to the clean accuracy, from 0 to 11.12"),
        (BIASES["critical_center_frequency"][0], "-1", r"'-1' is not a .*, at least 0"),
    ],
)
def test_a_value_that_cannot_be_is_named_and_nothing_is_imported(
    column: str, value: str, message: str, small: Path, tmp_path: Path
) -> None:
    wide = pl.read_csv(small, infer_schema=False)
    model = wide["model"][9]
    wide.with_columns(pl.when(model=model).then(pl.lit(value)).otherwise(column).alias(column)).write_csv(small)
    db = tmp_path / "results.duckdb"
    imported = CliRunner().invoke(app, ["import", str(small), "--db", str(db)])
    assert isinstance(imported.exception, StoreError)
    assert re.search(rf"^{small}: model {model}, column {column}: {message}; ", str(imported.exception))
    assert "\n" not in str(imported.exception)
    assert not db.exists()


def test_shares_in_the_place_of_percents_are_told(small: Path) -> None:
    wide = pl.read_csv(small)
    wide.with_columns(pl.col("top1_acc/imagenet") / 100).write_csv(small)
    with pytest.raises(StoreError, match="column top1_acc/imagenet holds shares, none above 1, instead of percents"):
        read_benchmark(small)


def test_a_column_or_model_that_is_there_twice_is_named(small: Path) -> None:
    header, *lines = small.read_text().splitlines()
    small.write_text("\n".join([header, *lines, lines[3]]))
    with pytest.raises(StoreError, match=f"has the model {lines[3].partition(',')[0]} more than once"):
        read_benchmark(small)
    small.write_text("\n".join([f"{header},shape-bias", *(f"{line},0.5" for line in lines)]))
    with pytest.raises(StoreError, match="has the column shape-bias more than once"):
        read_benchmark(small)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no file"):
        read_benchmark(tmp_path / "absent.csv")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "ragged.csv").write_text("a,b\n1,2,3\n")
    (tmp_path / "binary.csv").write_bytes(b"model\xff\xfe\n\x00\x80,1\n")
    for name in ("empty.csv", "ragged.csv", "binary.csv"):
        with pytest.raises(StoreError, match=r"benchmark\.csv") as raised:
            read_benchmark(tmp_path / name)
        assert "\n" not in str(raised.value)
    with pytest.raises(StoreError, match="not a CSV file"):
        read_benchmark(tmp_path)


def test_gaps_and_doubles_in_imported_figures_are_told(small: Path) -> None:
    published = read_benchmark(small)
    with pytest.raises(StoreError, match=r"no value for tv_resnet50 shape-bias; import"):
        figures_from_benchmark(
            published.filter(~((pl.col("model") == "tv_resnet50") & (pl.col("metric") == "shape-bias")))
        )
    with pytest.raises(StoreError, match="more than once"):
        figures_from_benchmark(pl.concat([published, published.head(1)]))


def test_the_table_command_prints_three_tables_or_one_list() -> None:
    printed = CliRunner().invoke(app, ["table"]).output
    for word in ("All models (n = 48)", "Adversarially trained models (n = 15)", "Other models (n = 33)", "Concepts"):
        assert word in printed
    assert printed.count("critical_bandwidth") == 3
    rows = json.loads(CliRunner().invoke(app, ["table", "--format", "json"]).output)
    assert rows == correlation_table(shipped_figures())


def test_figures_go_through_a_database(small: Path, tmp_path: Path) -> None:
    db = tmp_path / "results.duckdb"
    imported = CliRunner().invoke(app, ["import", str(small), "--db", str(db)])
    assert imported.exception is None
    assert f"{48 * len(COLUMNS)} published values of 48 models" in imported.output
    rows = json.loads(CliRunner().invoke(app, ["table", "--format", "json", "--db", str(db)]).output)
    assert rows == correlation_table(figures_from_benchmark(read_benchmark(small)))


def test_a_database_without_published_figures_is_told(small: Path, tmp_path: Path) -> None:
    absent = CliRunner().invoke(app, ["table", "--db", str(tmp_path / "absent.duckdb")])
    assert isinstance(absent.exception, UsageError)
    assert "bandlens published import" in str(absent.exception)
    assert not (tmp_path / "absent.duckdb").exists()
