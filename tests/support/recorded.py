"""Record as text what bandlens says about small studies, and compare two such recordings to the bit.

    python tests/support/recorded.py record FOLDER [--bandlens FILE] [--cue-conflict DIR]
    python tests/support/recorded.py compare FOLDER_A FOLDER_B [--changes FILE]

The program knows bandlens by its command line and the SQL of its databases alone, so that it records any version of the
code. What it draws, runs and asks stands in recorded_studies.toml; DIR is a folder of published cue-conflict images.
Everything runs on one processor, since the number of threads may change the last bit of a confidence.

FILE is a TOML file of what a change means to change: a table `renamed` of words, old = "new", and a list `left_out` of
patterns of recorded files. By default it is recorded.toml beside this program.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from html import unescape
from itertools import count, product
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import polars as pl
from numpy.typing import NDArray
from onnx import numpy_helper, parser
from PIL import Image

DATA: Mapping[str, Any] = tomllib.loads(Path(__file__).with_name("recorded_studies.toml").read_text())
SIZE, CLASSES = 128, 1000
"""Pixels a side of every image but the demo's, and classes of every network."""
SIXTEEN: Mapping[str, int] = DATA["sixteen"]
COLUMNS = """
SELECT table_name, column_name, data_type, table_name IN (SELECT view_name FROM duckdb_views()) AS is_view
FROM duckdb_columns() WHERE NOT internal AND table_name NOT IN ('meta', 'shown_class') ORDER BY table_name, column_index
"""
NAMES = {
    "cell": ("cell clean_cell reference_cell candidate_cell reference candidate", "key[:12]"),
    "checkpoint": ("checkpoint checkpoint_id", "model_sha256[:12]"),
    "image_set": ("image_set image_set_id", "digest[:12]"),
    "condition": ("condition condition_id", "digest[:12]"),
    "study": ("study study_id", "name || '@' || version"),
}
"""Table -> columns of integers that point to its rows, and what names a row whatever its number."""


def draw(shape: int, texture: int, seed: int, noise: int = 1) -> NDArray[np.uint8]:
    """Draw blocks of light by one class under a fine pattern by another, with noise: (SIZE, SIZE, 3)."""
    random_a, random_b = (np.random.default_rng(key) for key in (shape, CLASSES + texture))
    blocks = random_a.integers(-25, 26, (4, 4, 1)) + random_a.integers(-9, 10, (4, 4, 3))
    pattern = random_b.integers(-70, 71, (8, 8, 1)) + random_b.integers(-20, 21, (8, 8, 3))
    random = np.random.default_rng([shape, texture, seed])
    coarse, fine = random.integers(-85, 86, (8, 8, 3)), random.integers(-25, 26, (SIZE, SIZE, 3))
    drawing = 128 + blocks.repeat(32, 0).repeat(32, 1) + np.tile(pattern, (16, 16, 1))
    return np.asarray((drawing + noise * (coarse.repeat(16, 0).repeat(16, 1) + fine)).clip(0, 255), np.uint8)


def write_image(file: Path, pixels: NDArray[np.uint8]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(file, "PNG")  # whatever the name ends in: the content decides


def draw_benchmarks(folder: Path) -> None:
    """Write miniatures of the benchmarks, in the layouts in which they are published; no two images are the same."""
    seeds = count()
    for benchmark, classes in DATA["folders"].items():
        corruptions = DATA["corruptions"].get(benchmark, "").split()
        places = [f"{name}/{severity}/" for name in corruptions for severity in range(1, 6)] or [""]
        per_class = 10 if benchmark == "imagenet-real" else 1 if corruptions else 2
        for number, (place, name, _) in enumerate(product(places, classes, range(per_class)), 1):
            file = folder / benchmark / f"{place}{name}/ILSVRC2012_val_{number:08d}.JPEG"
            write_image(file, draw(classes[name], classes[name], next(seeds)))
    real = [[[0], [0, 1], [1], []][k % 4] if k < 30 else [] for k in range(50_000)]
    (folder / "real.json").write_text(json.dumps(real))
    for number, (benchmark, name, _) in enumerate(product(("colour", "stylized"), SIXTEEN, range(6))):
        file = folder / benchmark / f"{number:04d}_set_dnn_0_{name}_10_{number}.png"
        write_image(file, draw(SIXTEEN[name], SIXTEEN[name], next(seeds)))
    for number, (shape, texture, _) in enumerate(product(SIXTEEN, SIXTEEN, range(3))):
        file = folder / "cue-conflict" / shape / f"{shape}{number}-{texture}{number}.png"
        write_image(file, draw(SIXTEEN[shape], SIXTEEN[texture], next(seeds)))


def as_onnx(output: str, last: str, arrays: Mapping[str, NDArray[np.float64]]) -> bytes:
    model = parser.parse_model(DATA["network"].format(output=output, last=last))
    model.graph.initializer.extend(numpy_helper.from_array(arrays[k].astype(np.float32), k) for k in arrays)
    return bytes(model.SerializeToString())


def make_network(low: float, high: float, seed: int) -> bytes:
    """Give an ONNX file that names the class whose drawing is most like an image, by light and by patterns."""
    kernels = np.random.default_rng(seed).normal(size=(16, 3, 5, 5))
    kernels -= kernels.mean(axis=(1, 2, 3), keepdims=True)
    session = onnxruntime.InferenceSession(as_onnx("float[batch, 448] features", "", {"kernels": kernels}))
    drawings = np.stack([draw(k, k, 0, noise=0) for k in range(CLASSES)]).transpose(0, 3, 1, 2)
    features = session.run(None, {"images": drawings.astype(np.float32) / 255})[0].astype(np.float64)
    directions = []
    for part, weight in ((features[:, :192], low), (features[:, 192:], high)):
        mean = part.mean(axis=0)  # directions orthogonal to it leave brightness and contrast without a say
        part = part - np.outer(part @ mean, mean) / (mean @ mean)
        lengths = np.linalg.norm(part, axis=1)
        directions.append(18 * weight * part / lengths[:, None] / lengths.mean())
    arrays = {"kernels": kernels, "matrix": np.hstack(directions).T.round(4)}
    return as_onnx("float[batch, 1000] logits", "logits = MatMul (features, matrix)", arrays)


def draw_trials(folder: Path) -> None:
    """Write trials of people on two of the benchmarks."""
    random = np.random.default_rng(0)
    random.random(1152)  # recordings of earlier versions drew the figures of a study before
    stimuli = [("colour", name, f"{number}.png") for number, (name, _) in enumerate(product(SIXTEEN, range(6)))]
    for number, (shape, texture, _) in enumerate(product(SIXTEEN, SIXTEEN, range(3))):
        stimuli.append(("cue-conflict", shape, f"{shape}{number}-{texture}{number}.png"))
    trials = [
        {"set": benchmark, "file": "drawn.csv", "subj": f"subject-0{subject}", "session": "1", "trial": str(trial)}
        | {"rt": "0.5", "object_response": [name, name, *SIXTEEN, "na"][random.integers(7)], "category": name}
        | {"condition": "0", "imagename": f"0001_set_s0{subject}_0_{name}_10_{image}"}
        for subject, (trial, (benchmark, name, image)) in product((1, 2, 3), enumerate(stimuli))
    ]
    (folder / "humans").mkdir()
    pl.DataFrame(trials).write_parquet(folder / "humans" / "trials.parquet")


@dataclass(frozen=True)
class Recording:
    """Commands are run in `scratch`, and what they say is written below `out`."""

    bandlens: Path
    scratch: Path
    out: Path

    def run(self, line: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        environment = {name: text for name, text in os.environ.items() if name not in ("BANDLENS_DB", "COLUMNS")}
        environment |= {"BANDLENS_HOME": str(self.scratch / "home"), "TZ": "UTC"}
        options: dict[str, Any] = {"cwd": self.scratch, "env": environment, "text": True, "capture_output": True}
        return subprocess.run([str(self.bandlens), *line.split()], input=stdin, **options)

    def write(self, place: str, text: str) -> None:
        for pattern, word in DATA["volatile_text"].items():
            text = re.sub(pattern, word, text, flags=re.MULTILINE)
        text = text.replace(str(self.scratch), "SCRATCH").replace(socket.gethostname(), "HOST")
        (self.out / place).parent.mkdir(parents=True, exist_ok=True)
        (self.out / place).write_text(text)

    def ask(self, folder: str, line: str) -> None:
        """Run a command, and write what it printed, its notes and its exit status to a file named by it."""
        answer = self.run(line)
        text = answer.stdout
        if "--format json" in line and text:
            value = json.loads(text, object_hook=without_volatile)
            text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        place = f"{folder}/{re.sub(r'[^-@.,a-zA-Z0-9]+', '_', line)}"
        while (self.out / f"{place}.txt").exists():
            place += "_again"
        self.write(f"{place}.txt", f"$ bandlens {line}\n{text}{answer.stderr}exit status {answer.returncode}\n")

    def query(self, database: str, sql: str) -> list[dict[str, Any]]:
        answer = self.run(f"sql -f - --db {database} --format json --timeout 0", sql)
        if answer.returncode:
            raise SystemExit(f"{database}: {answer.stderr}")
        return list(json.loads(answer.stdout))

    def rows(self, folder: str, database: str) -> None:
        """Write the rows of every table and view as lines of JSON; they are sorted, since they have no order."""
        relations: dict[str, list[dict[str, Any]]] = {}
        fields = self.query(database, COLUMNS)
        for column in fields:
            relations.setdefault(column["table_name"], []).append(column)
        lines: dict[str, list[str]] = {name: [] for name in relations}
        for row in self.query(database, "\nUNION ALL ".join(row_as_json(*item) for item in relations.items())):
            lines[row["name"]].append(f"{row['row']}\n")
        for name, rows in lines.items():
            self.write(f"{folder}/rows/{name}.jsonl", "".join(sorted(rows)))
        view_columns = ("{table_name}.{column_name} {data_type}\n".format_map(row) for row in fields if row["is_view"])
        self.write(f"{folder}/columns_of_views.txt", "".join(view_columns))

    def page(self, place: str, file: str) -> None:
        """Write a report's text, a line an element, and its charts as JSON; images and libraries are left out."""
        html = (self.scratch / file).read_text()
        charts = [json.loads(text) for text in re.findall(r'id="specs">(.*?)</script>', html, re.DOTALL)]
        html = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
        text = unescape(re.sub(r"(\s*<[^>]*>)+\s*", "\n", html))
        self.write(f"{place}.txt", f"{text}{json.dumps(charts, indent=1)}\n")


def without_volatile(record: dict[str, Any]) -> dict[str, Any]:
    return {name: "…" if name in DATA["volatile"] else value for name, value in record.items()}


def row_as_json(relation: str, columns: Sequence[Mapping[str, Any]]) -> str:
    """Give a SELECT of each row of a table or view as JSON, with names of rows in place of their numbers."""
    fields = []
    for column, kind in ((column["column_name"], column["data_type"]) for column in columns):
        value = f'shown."{column}"'
        for table, (references, name) in NAMES.items():
            if kind == "INTEGER" and column in references.split():
                value = f"(SELECT {name} FROM {table} AS named WHERE named.id = {value})"
        if column not in DATA["volatile"] and f"{relation}.{column}" not in DATA["volatile"]:
            fields.append(f"'{column}': {value}")
    return f"SELECT '{relation}' AS name, to_json({{{', '.join(fields)}}})::VARCHAR AS row FROM \"{relation}\" AS shown"


def prepare(recording: Recording, cue_conflict: Path | None) -> None:
    """Make image sets, models, probes and studies; models2 has the names of models for other networks."""
    scratch = recording.scratch
    for folder in ("sets", "models", "models2"):
        (scratch / folder).mkdir()
    for folder, weight in (("before", 0.5), ("after", 0.4)):
        (scratch / folder).mkdir()
        (scratch / folder / "blur.py").write_text(DATA["own_probe"].format(weight=weight))
    draw_benchmarks(scratch / "raw")
    draw_trials(scratch)
    sources = {name: name for name in (*DATA["folders"], "colour", "stylized", "cue-conflict")}
    for file in sorted(cue_conflict.glob("*/*1-*.png")) if cue_conflict else ():
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB").resize((SIZE, SIZE)))
        write_image(scratch / "raw" / "photographed" / file.parent.name / file.name, pixels)
        sources["photographed"] = "cue-conflict"
    for source, benchmark in sources.items():
        line = f"benchmarks pack {benchmark} raw/{source} --partial --size {SIZE} --format json"
        line += f" --resize {SIZE}" if source in DATA["folders"].keys() - DATA["corruptions"] else ""
        line += " --real raw/real.json" if source == "imagenet-real" else ""
        name = source.removesuffix("-real")
        recording.ask("sets", f"{line} --name {name} --out sets/{name}")
    line = "images frequency-conflict sets/colour --cutoff 0.1 --out sets/frequency-conflict --format json"
    recording.ask("sets", line)
    names = list(DATA["checkpoints"])
    for number, about in enumerate(DATA["checkpoints"].values()):
        (scratch / "drawn.onnx").write_bytes(make_network(about["blocks"], about["patterns"], number))
        line = f"export drawn.onnx --name drawn{number} --normalization none --out exported --format json"
        recording.ask("models", line)
        description, content = (scratch / f"exported/drawn{number}.{suffix}" for suffix in ("json", "onnx"))
        for folder, name in (("models", names[number]), ("models2", names[number - 1])):
            fields = {"name": name, "path": f"{name}.onnx", "category": DATA["checkpoints"][name]["category"]}
            (scratch / folder / f"{name}.json").write_text(json.dumps(json.loads(description.read_text()) | fields))
            (scratch / folder / f"{name}.onnx").write_bytes(content.read_bytes())
    write_studies(recording)


def write_studies(recording: Recording) -> None:
    """Write the studies that come with bandlens, with less of everything, and those of DATA."""
    texts = {}
    for name in DATA["shipped"]:
        recording.run(f"init {name}.toml --study {name}")
        texts[name] = (recording.scratch / f"{name}.toml").read_text()
    texts["fourier-map"] = texts["fourier-map"].replace("= 1000", "= 4").replace("\nfourier = {}", DATA["waves"])
    for name in ("frequency-conflict", "photographed"):
        texts[name] = texts["shape-under-filters"].replace("cue-conflict", name).replace("shape-under-filters", name)
    texts |= {name: f'name = "{name}"\ncheckpoints = ["*"]\n{text}' for name, text in DATA["studies"].items()}
    texts["after"] = texts["before"].replace("before", "after").replace("[1, 2]", "[2, 3]")
    texts["narrow"] = f'precision = "bf16"\n{texts["precise"]}'
    for name, text in texts.items():
        engine = "torch" if name in ("precise", "narrow") else "onnxruntime"
        header = f'models = "models{"2" * (name == "after")}"\nengine = "{engine}"\nbatch = 16\nthreads = 1\n'
        checkpoints = DATA["chosen"].get(name, DATA["chosen"]["others"])
        (recording.scratch / f"{name}.toml").write_text(header + text.replace('"*"', checkpoints))


def record(recording: Recording, cue_conflict: Path | None) -> None:
    prepare(recording, cue_conflict)
    for line in DATA["anywhere"]:
        recording.ask("anywhere", line)
    recording.ask("demo", "demo --out demo")
    recording.page("demo/report", "demo/report.html")
    for folder, database in DATA["databases"].items():
        names = [name for name in database["studies"] if name != "photographed" or cue_conflict]
        runs = [line.format(name) for name in names for line in DATA["of_each_study"]]
        for line in (*runs, *DATA["of_each_database"], *database["questions"], *DATA["at_the_end"]):
            recording.ask(folder, f"{line} --db {database['file']}")
        recording.rows(folder, database["file"])
    recording.page("two/report", "two.html")


def differences(lines_a: Sequence[str], lines_b: Sequence[str], are_rows: bool) -> Iterator[str]:
    """Yield the lines that only one of two files has; rows have no order, and are compared in the columns of both."""
    if not are_rows:
        yield from list(difflib.unified_diff(lines_a, lines_b, n=0, lineterm=""))[2:]
        return
    rows_a, rows_b = ([json.loads(line) for line in lines] for lines in (lines_a, lines_b))
    columns_a, columns_b = (list(rows[0]) if rows else [] for rows in (rows_a, rows_b))
    if rows_a and rows_b and columns_a != columns_b:
        yield f"columns {', '.join(columns_a)} became {', '.join(columns_b)}"
    columns = [name for name in columns_a if name in columns_b] or columns_a or columns_b
    counts_a, counts_b = (
        Counter(json.dumps({name: row[name] for name in columns}) for row in rows) for rows in (rows_a, rows_b)
    )
    yield from (f"-{line}" for line in sorted((counts_a - counts_b).elements()))
    yield from (f"+{line}" for line in sorted((counts_b - counts_a).elements()))


def compare(folder_a: Path, folder_b: Path, changes: Mapping[str, Any]) -> bool:
    """Print every difference between two recordings, after the changes that are meant; true where there is none."""
    renamed, left_out = changes.get("renamed", {}), changes.get("left_out", [])
    words = re.compile(rf"(?<!\w)({'|'.join(map(re.escape, renamed)) or '(?!)'})(?!\w)")
    files_a, files_b = (
        {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}
        for folder in (folder_a, folder_b)
    )
    files_a = {words.sub(lambda word: renamed[word[0]], name): text for name, text in files_a.items()}
    files_a = {name: words.sub(lambda word: renamed[word[0]], text) for name, text in files_a.items()}
    names = sorted(name for name in {*files_a, *files_b} if not any(fnmatch(name, pattern) for pattern in left_out))
    differing = 0
    for name in names:
        lines = [f"only in {folder_b if name in files_b else folder_a}"]
        if name in files_a and name in files_b:
            lines_a, lines_b = files_a[name].splitlines(), files_b[name].splitlines()
            lines = [] if lines_a == lines_b else list(differences(lines_a, lines_b, name.endswith(".jsonl")))
        differing += bool(lines)
        print("".join(f"{name}: {line}\n" for line in lines), end="")
    print(f"{len(names)} files, {differing} of them differ")
    return not differing


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = arguments.add_subparsers(dest="command", required=True)
    recorder, comparer = commands.add_parser("record"), commands.add_parser("compare")
    recorder.add_argument("folder", type=Path)
    recorder.add_argument("--bandlens", type=Path, default=Path(sys.executable).with_name("bandlens"))
    recorder.add_argument("--cue-conflict", type=Path)
    comparer.add_argument("folder_a", type=Path)
    comparer.add_argument("folder_b", type=Path)
    comparer.add_argument("--changes", type=Path, default=Path(__file__).with_suffix(".toml"))
    options = arguments.parse_args()
    if options.command == "compare":
        changes = tomllib.loads(options.changes.read_text()) if options.changes.exists() else {}
        sys.exit(0 if compare(options.folder_a, options.folder_b, changes) else 1)
    if options.folder.exists():
        arguments.error(f"{options.folder} is there already; name a new folder")
    if options.cue_conflict is None or not options.cue_conflict.is_dir():
        print(f"no published cue-conflict images in {options.cue_conflict}: drawn ones alone are recorded")
        options.cue_conflict = None
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory(prefix="bandlens-recorded-") as scratch:
        record(Recording(options.bandlens.absolute(), Path(scratch), options.folder), options.cue_conflict)


if __name__ == "__main__":
    main()
