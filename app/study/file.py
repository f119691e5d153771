"""Study files: the checkpoints, image sets and probes of a study, from a TOML file or from Python."""

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
    """The keys of a study file and their defaults.

    Create a study in Python, for example with `Study(name="mine", checkpoints=["*"], images=["photos.set"])`, or read
    it from a file with `Study.read`. A study that is created in Python is converted to TOML. This text is validated and
    stored with the results, as the text of a file is. Paths are relative to `folder`, which is the folder of the file.

    Raises:
        UsageError: A key is invalid. The message names the key and what is wrong with it.
    """

    name: str
    """Name of the study in the database. By default the name of the file."""
    checkpoints: list[str]
    """Names of exported models (required). `*` selects all models, `category:NAME` all models of a category."""
    images: list[str]
    """Folders of image sets (required). `*` in a path matches any name, for example `imagenet-c/*/*`. A checkpoint runs
    on the image sets with the size and preprocessing that it requires."""
    probes: Mapping[str, Any] = field(default_factory=lambda: PUBLISHED)
    """Table with one line per probe. The line sets the parameters of the probe, each to a value or a list of values. By
    default the probes of the published grid, without those for which the images are too small. In Python, a custom
    probe may be a function, or a table with the key `function`."""
    measures: Mapping[str, Any] = field(default_factory=dict)
    """Table with one line per custom metric. The line sets the file and the parameters of its function. None by
    default. In Python, a custom metric may be a function."""
    clean_images: list[str] = field(default_factory=list)
    """Folders of image sets that are only run without perturbation. None by default."""
    models: str = ""
    """Folder of exported models. By default the output folder of `bandlens export`."""
    engine: str = AUTO
    """Inference engine, one of those that `bandlens doctor` lists. The default `auto` selects the fastest engine that
    `bandlens export --batch tune` has measured. Without measurements, it selects the first available engine on a GPU,
    or `onnxruntime` on a CPU."""
    precision: str = "fp32"
    """Numeric precision of inference. `fp32` by default."""
    batch: int = 0
    """Batch size, up to 4096. The default 0 selects the tuned batch size, otherwise that of the existing TensorRT
    plans, otherwise 256 on a GPU and 32 on a CPU."""
    threads: int = 0
    """Number of CPU threads of the engine, up to 1024. The default 0 uses all processors available to the process."""
    seed: int = 0
    """Seed of random noise, and of the selection of images if there is a `limit`. From 0 to 2^63 - 1, 0 by default."""
    limit: int = 0
    """Maximum number of images per image set. They are sampled in the same way as by `bandlens images pack --limit`. If
    the limit is increased later, existing predictions are reused. The default 0 runs all images."""
    overlap: str = "refuse"
    """How to handle images on which the classification head of a model was trained. The default `refuse` reports an
    error. `leave out` excludes these images for all models."""
    gate: Limits | Any = field(default_factory=Limits)
    """Table with the limits of precision gates and release gates. See below."""
    folder: Path = Path()
    toml: str = ""
    """TOML text of the study, which is stored with the results."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", Path(self.folder))
        if self.toml:
            return
        where = f"study {self.name}"
        keys = {key: getattr(self, key) for key in KEYS}
        functions = {(key, name): function for key in TABLES for name, function in _functions(keys[key])}
        for (key, name), function in functions.items():
            table = keys[key][name] if isinstance(keys[key][name], Mapping) else {}
            # The stored text only contains the name of the function. It cannot make anybody call a function of this
            # name, because a table without a `file` is rejected when the text is read.
            keys[key] = {**keys[key], name: {**table, "function": getattr(function, "__name__", name)}}
        toml = _write_toml(where, keys)
        checked = _check_table(where, _parse_toml(where, toml))
        for (key, name), function in functions.items():
            # Without a version, the function gets a random one here rather than in each run, so that an interrupted run
            # of this `Study` can be resumed.
            checked[key][name] = {"version": private_version()} | checked[key][name] | {"function": function}
        for key, value in ({"toml": toml} | checked).items():
            object.__setattr__(self, key, value)

    @classmethod
    def read(cls, file: str | os.PathLike[str]) -> Self:
        """Read and validate a study file.

        Args:
            file: Path of the TOML file.

        Raises:
            UsageError: The file cannot be read, or a key is invalid.
        """
        path = Path(file)
        toml = _text(path)
        return cls(**_check_table(path, {"name": path.stem} | _parse_toml(path, toml)), folder=path.parent, toml=toml)

    @property
    def probes_in_memory(self) -> list[str]:
        """Names of the custom probes that are functions in memory."""
        return [name for name, _ in _functions(self.probes)]

    @property
    def programs(self) -> list[str]:
        """Custom probes and metrics that are functions in files, as texts with the name and the file."""
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
"""Keys whose tables may contain custom functions."""
KEYS = [key.name for key in fields(Study) if key.name not in ("folder", "toml")]


def _functions(tables: Any) -> list[tuple[str, Callable[..., Any]]]:
    """Return the names of entries that are, or contain, a function in memory, together with the functions."""
    items = tables.items() if isinstance(tables, Mapping) else ()
    pairs = ((name, table.get("function") if isinstance(table, Mapping) else table) for name, table in items)
    return [(name, function) for name, function in pairs if callable(function)]


def _check_table(where: str | Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """Validate the keys of a study, and return them with `~` expanded in paths."""
    for key in table:
        if key not in KEYS:
            raise UnknownName(f"key in {where}", key, KEYS, f"the keys are {', '.join(KEYS)}")
    for key in ("checkpoints", "images"):
        if key not in table:
            raise UsageError(f"{where}: {key} is missing; it is a list of names, and stands above all tables")
    for key, value in table.items():
        _check_key(where, key, value)
    folders = {key: [*map(os.path.expanduser, table[key])] for key in ("images", "clean_images") if key in table}
    models = os.path.expanduser(table.get("models", ""))  # noqa: PTH111 - `Path.expanduser` raises for an unknown user
    return {**table, **folders, "models": models, "gate": _limits(where, table.get("gate", {}))}


KINDS: Mapping[str, tuple[type[Any], str]] = {
    "checkpoints": (list, "a list of names"),
    "images": (list, "a list of folders"),
    "clean_images": (list, "a list of folders"),
    "probes": (dict, "a table"),
    "measures": (dict, "a table"),
    "gate": (dict, "a table"),
}
"""Key -> the type of its value, and a description for messages. All other keys are strings or are in `RANGES`."""
RANGES: Mapping[str, tuple[int, int]] = {
    "batch": (0, 4096),
    "threads": (0, 1024),
    "seed": (0, 2**63 - 1),
    "limit": (0, 2**31 - 1),
}


OVERLAPS = ("refuse", "leave out")
"""Values of the key `overlap`."""


def is_study_name(text: str) -> bool:
    """Return whether a text is a valid study name: one printable line without `@`, which separates the version."""
    return bool(text) and "@" not in text and text != "*" and text.isprintable()


def is_study_file(study: object) -> bool:
    """Return whether `study` is a `Study` or a study file, rather than the name of a study in a database."""
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
        # In TOML, every key below the line [probes] belongs to this table, including keys that were meant for the
        # study.
        if name in KEYS and not isinstance(table, Mapping):
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
    """Raise UsageError, whose message starts with `where`, if the value of a key in `[gate]` is invalid."""
    if key in ("measures", "conditions", "slices"):
        if not isinstance(value, (list, tuple)) or not all(isinstance(entry, str) for entry in value):
            raise UsageError(f"{where} must be a list of names, not {value!r}")
        return
    limit_words = "of 0 or more" if key == "margin" else "above 0"
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < 1 or (value == 0 and key != "margin"):
        raise UsageError(f"{where} must be a share {limit_words} and below 1, not {value!r}")


def stored_limits(label: str, toml: str) -> Limits:
    """Return the limits in the `[gate]` table of a stored study."""
    where = f"study {label}"
    return _limits(where, _parse_toml(where, toml).get("gate", {}))


NOT_REPEATED = ("name", "checkpoints", "models", "images", "clean_images", "measures")
"""Keys that are not copied when a stored study is repeated with another model and image set."""


def repeated_study(label: str, toml: str, model: Model, images: Path) -> Study:
    """Create a study from the text of a stored one, with another model and another image set.

    Raises:
        UsageError: The stored study has a custom probe, whose code is not in the database.
    """
    table = _parse_toml(f"study {label}", toml)
    keys = {key: value for key, value in table.items() if key not in NOT_REPEATED}
    for name, probe in keys.get("probes", {}).items():
        if isinstance(probe, Mapping) and {"file", "function"} & probe.keys():
            raise UsageError(f"study {label}: {name} is a program, which no database holds; gate with the study's file")
    if model.architecture == FUNCTION:
        keys.pop("engine", None)
    models = str(model.path.parent.absolute())
    return Study("release", [model.name], [str(images.absolute())], models=models, **keys)


# A study file may be untrusted, so its size and its numbers are limited. Its text is stored, so it must not contain
# passwords.
MOST_BYTES = 1 << 18
"""Maximum size of a study file in bytes."""
MOST_DOTS = 1000
"""Maximum number of dots in a line. The time to parse a dotted key grows with the square of its number of parts."""


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
    except (OSError, ValueError) as error:  # text that is not UTF-8 raises a ValueError
        if file.suffix == ".duckdb":
            raise UsageError(f"{file} is a results database; give the study's TOML file, and --db {file}") from None
        raise UsageError(f"{file} cannot be read as TOML: {error}; give the study's TOML file") from None


def _parse_toml(where: str | Path, toml: str) -> dict[str, Any]:
    """Parse the TOML text of a study.

    Raises:
        UsageError: The text is not valid TOML, or contains a secret, which must not be stored in a database.
    """
    try:
        if any(line.count(".") > MOST_DOTS for line in toml.split("\n")):
            raise ValueError(f"a line has more than {MOST_DOTS:,} dots")
        table = tomllib.loads(toml)
    except ValueError as error:  # also raised for an integer with too many digits
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
    """Raise UsageError for an integer of more than 64 bits, which TOML does not allow and a database cannot store."""
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise UsageError(f"{where}: a whole number has more than 64 bits; TOML has none so large")
    for entry in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_huge_numbers(where, entry)


# A study that was created in Python is stored as the text of an equivalent study file.
def _write_toml(where: str, keys: Mapping[str, Any]) -> str:
    """Return the keys as TOML, without those that have their default values."""
    import tomli_w

    try:
        defaults = {key.name: _plain(key.default_factory()) for key in fields(Study) if callable(key.default_factory)}
        defaults |= {key.name: key.default for key in fields(Study) if key.name not in defaults}
        plain = {key: _plain(value, key) for key, value in keys.items()}
        toml = tomli_w.dumps({key: value for key, value in plain.items() if value != defaults[key]})
        size = len(toml.encode())
    except (TypeError, ValueError, RecursionError) as error:  # an unpaired surrogate raises a ValueError
        raise UsageError(f"{where} cannot be written as TOML: {error}; give text, numbers, lists and tables") from None
    if size > MOST_BYTES:
        raise UsageError(f"{where} would take {size:,} bytes as a file, and at most {MOST_BYTES:,} are read")
    return toml


def _plain(value: Any, name: object = "a value") -> Any:
    """Convert a value to a TOML type: paths to text, NumPy arrays to lists, `Limits` to a table."""
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
    """Return the grid of a study file, or the published grid without one."""
    if study is None:
        return make_grid(PUBLISHED, Path())
    parsed = Study.read(study)
    return make_grid(parsed.probes, parsed.folder)
