"""A study: a TOML file, or keys in Python, that name checkpoints, image sets and probes."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from ...analysis.comparison.gates import Limits
from ...core.custom.load import private_version
from ...core.errors import UnknownName, UsageError, did_you_mean, some_of
from ...core.jobs import processors
from ...core.records import Model
from ...core.untrusted import read_text, without_secrets
from ...export.model_files import FUNCTION
from ...probes.grid import PUBLISHED, Grid, make_grid

AUTO = "auto"


@dataclass(frozen=True, slots=True)
class Study:
    """The keys of a study file, with their defaults. Paths are relative to `folder`, which is the file's.

    `Study(name="mine", checkpoints=["*"], images=["photos.set"])` is written as TOML, and that text is checked and kept
    as a file's is. Raises UsageError, which says what is wrong with which key.
    """

    name: str
    """The study's name in the database; by default the name of the file."""
    checkpoints: list[str]
    """Names of exported models, needed; `*` stands for all of them, `category:NAME` for those of a category."""
    images: list[str]
    """Folders of image sets, needed; `*` in a path stands for any name: `imagenet-c/*/*`. A checkpoint runs on the sets
    whose size and preprocessing are its own."""
    probes: Mapping[str, Any] = field(default_factory=lambda: PUBLISHED)
    """A table with a line for each probe: its parameters, each a value or a list; by default what images are
    large enough for of the published grid. In Python a function may stand for a probe of your own, or as `function` in
    its table."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """A table with a line for each measure of your own: its file, and values of its function's parameters; none by
    default. In Python a function may stand here, too."""
    clean_images: list[str] = field(default_factory=list)
    """Image sets that are run without perturbation alone; none by default."""
    models: str = ""
    """Folder of exported models; by default where `bandlens export` puts them."""
    engine: str = AUTO
    """An engine that `doctor` lists; by default `auto`: the fastest that `export --batch tune` has measured, else the
    first that is ready on a GPU, and `onnxruntime` without one."""
    precision: str = "fp32"
    """Precision of the model's arithmetic; `fp32` by default."""
    batch: int = 0
    """Number of images that a model sees at once, up to 4096; by default 0: the tuned one, else that of the TensorRT
    plans that exist, else 256 on a GPU and 32 on a CPU."""
    threads: int = 0
    """Threads of the engine, up to 1024; by default 0, all that the process may use."""
    seed: int = 0
    """Seed of noise, and of the choice of images where there is a limit, 0 to 2^63 - 1; 0 by default."""
    limit: int = 0
    """Number of images of each set that are run, drawn as `images pack --limit` draws them; a larger one goes on with
    the predictions of a smaller one; by default 0: all images."""
    overlap: str = "refuse"
    """The treatment of images that a model's head was trained on: `refuse`, by default; `leave out` runs the others for
    all models."""
    gate: Limits | Any = field(default_factory=Limits)
    """A table of what gates of a precision or a release let pass; see below."""
    folder: Path = Path()
    toml: str = ""
    """The text that is kept with the results."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.toml:
            return
        where = f"study {self.name}"
        keys = {key: getattr(self, key) for key in KEYS}
        functions = {(key, name): function for key in TABLES for name, function in _functions(keys[key])}
        for (key, name), function in functions.items():
            table = keys[key][name] if isinstance(keys[key][name], Mapping) else {}
            # The name in the text makes nobody call the function: without a `file`, such a table is refused.
            keys[key] = {**keys[key], name: {**table, "function": getattr(function, "__name__", name)}}
        toml = _write_toml(where, keys)
        checked = _check_table(where, _parse_toml(where, toml))
        for (key, name), function in functions.items():
            # A version that nobody gave lasts as long as the study, so that an interrupted run can be continued.
            checked[key][name] = {"version": private_version()} | checked[key][name] | {"function": function}
        for key, value in ({"toml": toml} | checked).items():
            object.__setattr__(self, key, value)

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Self:
        """Parse and check a study file; UsageError says what is wrong with which key."""
        path = Path(file)
        toml = _text(path)
        return cls(**_check_table(path, {"name": path.stem} | _parse_toml(path, toml)), folder=path.parent, toml=toml)

    @property
    def probes_in_memory(self) -> list[str]:
        """The names of probes that are functions in memory."""
        return [name for name, _ in _functions(self.probes)]

    @property
    def programs(self) -> list[str]:
        """The probes and measures that are functions in files, each with its file."""
        tables = {f"{key[:-1]} {name}": table for key in TABLES for name, table in getattr(self, key).items()}
        return [
            f"{name}: {self.folder / str(table['file'])}"
            for name, table in tables.items()
            if isinstance(table, Mapping) and "file" in table
        ]

    @property
    def thread_count(self) -> int:
        return self.threads or processors()


TABLES = ("probes", "measures")
"""The keys whose tables may have functions."""
KEYS = [key.name for key in fields(Study) if key.name not in ("folder", "toml")]


def _functions(tables: Any) -> list[tuple[str, Callable[..., Any]]]:
    """The names of tables that have, or are, a function in memory, and the functions."""
    items = tables.items() if isinstance(tables, Mapping) else ()
    pairs = ((name, table.get("function") if isinstance(table, Mapping) else table) for name, table in items)
    return [(name, function) for name, function in pairs if callable(function)]


def _check_table(where: str | Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of a study, checked."""
    for key in table:
        if key not in KEYS:
            raise UnknownName(f"key in {where}", key, KEYS, f"the keys are {', '.join(KEYS)}")
    for key in ("checkpoints", "images"):
        if key not in table:
            raise UsageError(f"{where}: {key} is missing; it is a list of names, and stands above all tables")
    for key, value in table.items():
        _check_key(where, key, value)
    folders = {key: [*map(os.path.expanduser, table[key])] for key in ("images", "clean_images") if key in table}
    models = os.path.expanduser(table.get("models", ""))  # noqa: PTH111 - Path's raises for an unknown user
    return {**table, **folders, "models": models, "gate": _limits(where, table.get("gate", {}))}


KINDS: Mapping[str, tuple[type[Any], str]] = {
    "checkpoints": (list, "a list of names"),
    "images": (list, "a list of folders"),
    "clean_images": (list, "a list of folders"),
    "probes": (dict, "a table"),
    "measures": (dict, "a table"),
    "gate": (dict, "a table"),
}
"""The type of each key's value, and its words; other keys are whole numbers of RANGES, or strings."""
RANGES: Mapping[str, tuple[int, int]] = {
    "batch": (0, 4096),
    "threads": (0, 1024),
    "seed": (0, 2**63 - 1),
    "limit": (0, 2**31 - 1),
}


OVERLAPS = ("refuse", "leave out")
"""The treatments of images that a head was trained on."""


def is_study_name(text: str) -> bool:
    """Whether a study may be called so: a line of text that asks for no version."""
    return bool(text) and "@" not in text and text != "*" and text.isprintable()


def is_study_file(study: object) -> bool:
    """Whether a study is a file or made in Python, and not the name of one that was run."""
    return isinstance(study, Study) or Path(str(study)).suffix == ".toml" or Path(str(study)).is_file()


def _check_key(where: str | Path, key: str, value: Any) -> None:
    number: tuple[type[Any], str] = (int, "a whole number")
    kind, words = number if key in RANGES else KINDS.get(key, (str, "a string"))
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UsageError(f"{where}: {key} must be {words}, not {value!r}")
    if isinstance(value, list) and not (value and all(isinstance(entry, str) for entry in value)):
        raise UsageError(f"{where}: {key} must be {words}, and at least one, not {value!r}")
    if key in RANGES and not RANGES[key][0] <= value <= RANGES[key][1]:
        raise UsageError(f"{where}: {key} must be in [{RANGES[key][0]}, {RANGES[key][1]}], not {value}")
    for name, table in value.items() if key in TABLES else ():
        if name in KEYS and not isinstance(table, Mapping):  # whatever stands below [probes] belongs to it
            raise UsageError(f"{where}: {name} is a key of the study, and stands in [{key}]; write it above all tables")
    if key == "overlap" and value not in OVERLAPS:
        raise UnknownName(f"overlap in {where}", value, OVERLAPS)
    if key == "name" and not is_study_name(value):
        raise UsageError(f"{where}: name must be a line of text without @, which asks for a version, not {value!r}")


def _limits(where: str | Path, table: Mapping[str, Any]) -> Limits:
    limits = [limit.name for limit in fields(Limits)]
    for key, value in table.items():
        if key not in limits:
            raise UnknownName(f"key in [gate] of {where}", key, limits)
        check_limit(f"{where}: gate.{key}", value, key)
    return Limits(**table)


def check_limit(where: str, value: Any, key: str) -> None:
    """UsageError, which begins with `where`, unless a key of [gate] may have the value."""
    if key in ("measures", "conditions", "slices"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f"{where} must be a list of names, not {value!r}")
        return
    limit_words = "of 0 or more" if key == "margin" else "above 0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1 or (value == 0 and key != "margin"):
        raise UsageError(f"{where} must be a share {limit_words} and below 1, not {value!r}")


def stored_limits(label: str, toml: str) -> Limits:
    """The table [gate] of the text that a study was stored with."""
    where = f"study {label}"
    return _limits(where, _parse_toml(where, toml).get("gate", {}))


NOT_REPEATED = ("name", "checkpoints", "models", "images", "clean_images", "measures")
"""The keys that a repeated study does not take over."""


def repeated_study(label: str, toml: str, model: Model, images: Path) -> Study:
    """The text that a study was stored with, for another model and image set; UsageError for a probe of the user's."""
    table = _parse_toml(f"study {label}", toml)
    keys = {key: value for key, value in table.items() if key not in NOT_REPEATED}
    for name, probe in keys.get("probes", {}).items():
        if isinstance(probe, Mapping) and {"file", "function"} & probe.keys():
            raise UsageError(f"study {label}: {name} is a program, which no database holds; gate with the study's file")
    if model.architecture == FUNCTION:
        keys.pop("engine", None)
    models = str(model.path.parent.absolute())
    return Study("release", [model.name], [str(images.absolute())], models=models, **keys)


# A study file may come from a stranger: its size and its numbers have limits, and it must hold no password.
MOST_BYTES = 1 << 18
"""The most bytes that a study file may have."""
MOST_DOTS = 1000
"""The most dots that a line may have: the time that a dotted key takes grows with the square of its parts."""


def _text(file: Path) -> str:
    try:
        return read_text(file, MOST_BYTES, pipe=True)
    except FileNotFoundError:
        toml_file = file if file.suffix == ".toml" else file.with_name(f"{file.name}.toml")
        near = [str(path) for path in sorted(file.parent.glob("*.toml")) if did_you_mean(file.stem, [path.stem])]
        advice = f"did you mean {some_of(near, 3, ' or ')}?" if near else f"`bandlens init {toml_file}` writes one"
        if not file.suffix and not near:
            advice += f", and `bandlens studies show {file.name} --db DB > {toml_file}` that of a study that was run"
        if file.suffix == ".duckdb":
            advice = f"a results database is given with --db {file}"
        raise UsageError(f"no study file {file}; {advice}") from None
    except IsADirectoryError:
        raise UsageError(f"{file} is a folder; give the study's TOML file") from None
    except (OSError, ValueError) as error:  # text that is no UTF-8 raises a ValueError
        if file.suffix == ".duckdb":
            raise UsageError(f"{file} is a results database; give the study's TOML file, and --db {file}") from None
        raise UsageError(f"{file} cannot be read as TOML: {error}; give the study's TOML file") from None


def _parse_toml(where: str | Path, toml: str) -> dict[str, Any]:
    """The table that the text of a study holds; UsageError where it is no TOML, or holds what must not be stored."""
    try:
        if any(line.count(".") > MOST_DOTS for line in toml.split("\n")):
            raise ValueError(f"a line has more than {MOST_DOTS:,} dots")
        table = tomllib.loads(toml)
    except ValueError as error:  # a huge number raises one, too
        raise UsageError(f"{where} cannot be read as TOML: {error}") from None
    except RecursionError:
        raise UsageError(f"{where} cannot be read as TOML: it is nested too deeply") from None
    if without_secrets(toml) != toml:
        raise UsageError(
            f"{where} holds a password or token, and a study is kept in the results database; take it out, and let a "
            "probe of yours read it from the environment"
        )
    _refuse_huge_numbers(where, table)
    return table


def _refuse_huge_numbers(where: str | Path, value: Any) -> None:
    """UsageError for a whole number beyond TOML's 64 bits, which neither a database nor a message could hold."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UsageError(f"{where}: a whole number has more than 64 bits; TOML has none so large")
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_huge_numbers(where, entry)


# A study that is made in Python is written as the file that would say the same.
def _write_toml(where: str, keys: Mapping[str, Any]) -> str:
    """The keys as TOML, without those that have their defaults."""
    import tomli_w

    try:
        defaults = {key.name: _plain(key.default_factory()) for key in fields(Study) if callable(key.default_factory)}
        defaults |= {key.name: key.default for key in fields(Study) if key.name not in defaults}
        plain = {key: _plain(value, key) for key, value in keys.items()}
        toml = tomli_w.dumps({key: value for key, value in plain.items() if value != defaults[key]})
        size = len(toml.encode())
    except (TypeError, ValueError, RecursionError) as error:  # half of a surrogate pair is a ValueError
        raise UsageError(f"{where} cannot be written as TOML: {error}; give text, numbers, lists and tables") from None
    if size > MOST_BYTES:
        raise UsageError(f"{where} would take {size:,} bytes as a file, and at most {MOST_BYTES:,} are read")
    return toml


def _plain(value: Any, name: object = "a value") -> Any:
    """Give a value as TOML can hold it: paths as text, arrays of NumPy as lists, limits as a table."""
    if value is None or isinstance(value, (set, frozenset)):
        raise TypeError(f"{name} is {value}")
    if getattr(value, "ndim", 0) > 2:
        raise TypeError(f"{name} is an array of shape {tuple(value.shape)}")
    if isinstance(value, Limits):
        usual = asdict(Limits())
        return {key: _plain(limit) for key, limit in asdict(value).items() if limit != usual[key]}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry, key) for key, entry in value.items()}
    if hasattr(value, "tolist"):
        value = value.tolist()
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def grid_of(study: Path | None) -> Grid:
    """The grid of a study file, or the published one."""
    if study is None:
        return make_grid(PUBLISHED, Path())
    parsed = Study.read(study)
    return make_grid(parsed.probes, parsed.folder)
