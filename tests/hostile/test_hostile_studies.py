"""Study files of someone else's: any text is a study or one line, in little time and memory, and no secret is kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fuzzing import assert_refused, damaged, fuzz, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from small import make_images, make_model, make_pictures

from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve

STUDY = """\
name = "s"
checkpoints = ["one", "category:own", "*"]
images = ["images.set", "*.set"]
models = "models"
engine = "onnxruntime"
batch = 8
seed = 0x10
gate = { flips = 0.01 }
[probes]
lowpass = { cutoff = [0.1, 1e-1] }
critical_band.noise_sd = 0.1
mine = { file = "mine.py", level = 2 }
[probes.pgd_linf]
eps = "0.5/255"
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, images and a probe."""
    folder = tmp_path_factory.mktemp("studies")
    make_model(folder / "models")
    make_images(folder / "images.set", make_pictures(4))
    (folder / "mine.py").write_text("def mine(images, level=1, more=1):\n    return images\n")
    return folder


def resolve_file(file: Path) -> None:
    resolve(Study.read(file))


@fuzz(20)
@given(content=damaged(STUDY.encode()) | st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_file_is_a_study_or_one_line(folder: Path, content: bytes) -> None:
    (folder / "study.toml").write_bytes(content)
    refusal(lambda: resolve_file(folder / "study.toml"))


NAMES = st.sampled_from(
    ["one", "*", "category:own", "images.set", "*.set", "**/*", "/etc/*", "..", "a\0b", "x" * 300, ""]
)
NUMBERS = st.integers(-(2**80), 2**80) | st.floats() | st.sampled_from([0, 1, 8, 0.5])
SCALARS = NAMES | NUMBERS | st.booleans() | st.text(max_size=8)
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=5), SCALARS, max_size=2)
PARAMETERS = ["cutoff", "noise_sd", "frequency", "draw", "eps", "step", "steps", "file", "function", "level", "odd"]
PROBES = ["clean", "lowpass", "highpass", "critical_band", "pgd_linf", "pgd_any", "mine", "odd"]
KEYS = ["name", "models", "engine", "precision", "batch", "threads", "seed", "clean_images", "odd"]
studies = st.fixed_dictionaries(
    {"checkpoints": st.lists(NAMES, max_size=2) | VALUES, "images": st.lists(NAMES, max_size=2) | VALUES},
    optional=dict.fromkeys(KEYS, VALUES)
    | {
        "gate": VALUES,
        "probes": VALUES
        | st.dictionaries(
            st.sampled_from(PROBES), st.dictionaries(st.sampled_from(PARAMETERS), VALUES, max_size=3) | VALUES
        ),
    },
)


def toml(value: Any) -> str:
    """An inline value; JSON's strings are TOML's too."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    return str(value) if isinstance(value, float) else json.dumps(value)


@fuzz(40)
@given(keys=studies)
def test_any_values_are_a_study_or_one_line(folder: Path, keys: dict[str, Any]) -> None:
    text = "\n".join(f"{key} = {toml(value)}" for key, value in keys.items())
    (folder / "study.toml").write_bytes(text.encode(errors="replace"))
    refusal(lambda: resolve_file(folder / "study.toml"))


LISTS = "[" + ", ".join(f"{k}.0" for k in range(1000)) + "]"
SHARES = "[" + ", ".join(f"{k / 1000}" for k in range(1000)) + "]"
STEPS = "[" + ", ".join(f"{k}" for k in range(1, 1000)) + "]"
BOMBS = {
    "nested lists": "a = " + "[" * 100_000,
    "a key of many parts": ".".join("a" * 100_000) + " = 1",
    "parts between line separators": '"\\u2028".'.join(["a." * 900] * 100) + "a = 1",
    "a number of many digits": "batch = " + "9" * 200_000,
    "more than 64 bits in a probe": 'probes = {mine = {file = "mine.py", level = 0x' + "f" * 5000 + "}}",
    "a billion conditions": f"probes = {{pgd_linf = {{steps = {STEPS}, eps = {SHARES}, step = {SHARES}}}}}",
    "a million conditions of one's own": f'probes = {{mine = {{file = "mine.py", level = {LISTS}, more = {LISTS}}}}}',
    "a large file": "# " + "x" * 10**6,
}


def test_small_files_do_not_become_large(folder: Path, tmp_path: Path) -> None:
    common = 'checkpoints = ["*"]\nimages = ["*.set"]\nmodels = "models"\nengine = "onnxruntime"\n'
    for number, text in enumerate(BOMBS.values()):
        (folder / f"bomb{number}.toml").write_text(common + text, encoding="utf-8")
    code = """
from pathlib import Path
from bandlens.app.study.file import Study
from bandlens.app.study.resolve import resolve
limit(1000)
for file in sys.argv[1:]:
    attempt(file, lambda: resolve(Study.read(Path(file))))
"""
    files = [folder / f"bomb{number}.toml" for number in range(len(BOMBS))]
    attempts = limited(code, *files, "/dev/zero")
    assert len(attempts) == len(BOMBS) + 1
    for attempt in attempts.values():
        assert_refused(attempt)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("checkpoints", ["../models/one"]),
        ("images", ["a**/*"]),
        ("images", ["/proc/self/fd/*/*"]),
        ("models", "\0"),
        ("probes", {"mine": {"file": "mine.py", "function": ["a"]}}),
        ("probes", {"mine": {"file": "null.py"}}),
        ("probes", {"mine": {"file": "deep.py"}}),
        ("name", "\x1b[31mred"),
    ],
)
def test_names_lead_nowhere(folder: Path, key: str, value: Any) -> None:
    (folder / "null.py").write_bytes(b"mine = 1 #\0")
    (folder / "deep.py").write_text("mine = " + "(" * 100_000)
    keys = {"checkpoints": ["one"], "images": ["images.set"], "models": "models", "engine": "onnxruntime", key: value}
    (folder / "study.toml").write_text("\n".join(f"{name} = {toml(entry)}" for name, entry in keys.items()))
    assert refusal(lambda: resolve_file(folder / "study.toml")) is not None
