"""Weights: read a file safely, name its tensors as the architecture does, and load them strictly."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...core.errors import CheckpointError, some_of
from ..class_names import notes_beside, notes_of
from ..onnx.import_file import is_onnx
from .fetch import html_title
from .parsed_content import read_in_child
from .pickles import explain_damage, is_archive, refuse_other_archives
from .study_checkpoints import KeyRule, ema_names, key_rule

TOP = "top level"
"""The name of a file's own keys, where the tensors lie in no container."""
_EXPORT = "export the network to ONNX with its own library"
_SAVE = "not weights; give a file that torch.save or safetensors wrote"
OTHER_KINDS = {
    f"an HDF5 file, as Keras writes; {_EXPORT}": (0, b"\x89HDF"),
    f"a TensorFlow Lite model; {_EXPORT}": (4, b"TFL3"),
    f"a NumPy array; {_EXPORT}": (0, b"\x93NUMPY"),
    "a tar archive, which torch has not written since 2017; save it with torch": (257, b"ustar"),
    f"a JPEG picture, {_SAVE}": (0, b"\xff\xd8\xff"),
    f"a PNG picture, {_SAVE}": (0, b"\x89PNG"),
    f"a gzip archive, {_SAVE}": (0, b"\x1f\x8b"),
}
"""Files that people take for torch's weights, with what to do, and where they have which bytes."""
MOST_LEVELS = 3
"""Levels of containers in containers that are searched for tensors."""
MAX_KEY_CHARACTERS = 10_000
"""Characters of a key. Wrappers' names are taken off one by one, each of which copies the rest of the key."""


@dataclass(slots=True)
class Weights:
    """Tensors by the architecture's names, and where in the file they lay."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> keys that were left out for it."""
    container: str = TOP
    """The container that they were taken from, such as `state_dict_ema` or `ema.module`."""
    alternatives: list[str] = field(default_factory=list)
    """The file's other containers that hold all of the same names."""
    averaged: bool = False
    """Whether they are an exponential moving average (EMA) of the weights in training."""
    notes: dict[str, Any] = field(default_factory=dict)
    """The file's values that may name its classes: see `class_names.notes_of`."""


def read(path: Path, trust: bool = False) -> Any:
    """The content of a file: nested mappings with tensors on the CPU.

    The file is safetensors, or one of `torch.save` in the zip or the older format. `trust` lets a pickle run its code.
    Raises CheckpointError for a file that is missing, damaged, of another library, a web page, a TorchScript program,
    or not to be trusted.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; check the path")
    with explain_damage(path):
        with path.open("rb") as file:
            head = file.read(1 << 12)
        _refuse_other_kinds(path, head)
        if head[8:9] == b"{":  # the length of the JSON header in eight bytes, then the header
            return _read_safetensors(path)
        if not trust:
            return read_in_child(path)
        if is_archive(head):
            refuse_other_archives(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of what it then reads, or refuses, all the same
            return torch.load(path, map_location="cpu", weights_only=False)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """The tensors, and values that may name their classes: texts of the file's metadata, and config.json beside it.

    timm writes the latter, with `label_names`. It need not be of these weights, so names that do not fit are no error.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        notes = notes_of(file.metadata())
    return notes_beside(path) | notes | load_file(path)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """CheckpointError for a web page, and for files of other libraries, by their first bytes."""
    if is_onnx(path):
        raise CheckpointError(f"{path} is an ONNX file; it needs no architecture, and its name ends in .onnx")
    title = html_title(path)
    if title is not None:
        raise CheckpointError(f"{path} is a web page ('{title}'), not weights; download the file itself")
    for kind, (place, sign) in OTHER_KINDS.items():
        if head[place:].startswith(sign):
            raise CheckpointError(f"{path} is {kind}")
    if head and head.isascii() and "".join(head.decode().split()).isprintable():
        raise CheckpointError(f"{path} is text, {_SAVE}")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One container of a file: named tensors, and the values beside them."""

    name: str
    values: Mapping[str, Any]
    averaged: bool


def candidates(content: Mapping[Any, Any]) -> list[Candidate]:
    """Every container in the file that holds tensors; those on a higher level come first.

    Keys that begin with the name of an EMA and a point, as in `ema_model.fc.weight` beside `model.fc.weight`, are a
    container of their own.
    """
    names = ema_names()
    containers: list[Candidate] = []
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    container_ids = {id(content)}  # a small file can hold one container a million times
    for _ in range(MOST_LEVELS + 1):
        next_level = []
        for path, container in level:
            groups: dict[str, dict[str, Any]] = {}
            for key, value in container.items():
                if isinstance(value, Mapping) and id(value) not in container_ids:
                    container_ids.add(id(value))
                    next_level.append(((*path, str(key)), value))
                start, point, rest = str(key).partition(".")
                averaged = bool(point) and start in names
                groups.setdefault(start if averaged else "", {})[rest if averaged else str(key)] = value
            for start, values in groups.items():
                if any(isinstance(value, Tensor) for value in values.values()):
                    full_path = (*path, start) if start else path
                    is_average = any(part in names for part in full_path)
                    containers.append(Candidate(".".join(full_path) or TOP, values, is_average))
        level = next_level
    return containers


def apply_rule(
    rule: KeyRule, content: Any, file: str, choice: str | None = None, expected: Collection[str] = ()
) -> Weights:
    """The tensors of `content` under the architecture's names, which `expected` lists; `file` is named in errors.

    `choice` is `ema`, `raw`, or the name of a container; without a choice, it is the EMA where there is one, as in
    timm's loader. Raises CheckpointError where the file does not hold it.
    """
    if not isinstance(content, Mapping):
        raise CheckpointError(
            f"{file} holds one {type(content).__name__} and no named tensors; save the module's state_dict() instead"
        )
    containers = candidates(content)
    if not containers:
        values = some_of(f"{key!s} ({type(value).__name__})" for key, value in content.items())
        raise CheckpointError(
            f"{file} holds no tensors, only {values or 'an empty mapping'}; give the file that the module's "
            "state_dict() was saved to"
        )
    longest = max(len(key) for container in containers for key in container.values)
    if longest > MAX_KEY_CHARACTERS:
        raise CheckpointError(
            f"{file} has a key of {longest:,} characters, and {MAX_KEY_CHARACTERS:,} are the most; give the file that "
            "the module's state_dict() was saved to"
        )
    container = _choose(rule, content, containers, file, choice, expected)
    weights = Weights(container=container.name, averaged=container.averaged)
    keys: dict[str, str] = {}
    for key, value in container.values.items():
        reason = next((reason for pattern, reason in rule.drop if re.search(pattern, key)), None)
        if reason is None and not isinstance(value, Tensor):
            reason = "not a tensor"
        if reason is not None:
            weights.dropped.setdefault(reason, []).append(key)
            continue
        name = rename(rule, key, expected)
        if name in weights.tensors:
            raise CheckpointError(
                f"{file}: two keys become '{name}' by rule '{rule.name}', {keys[name]} and {key}; choose another "
                "key rule, or say with --weights how the keys begin that are meant"
            )
        weights.tensors[name], keys[name] = value.detach(), key
    if not weights.tensors:
        raise CheckpointError(
            f"{file}: rule '{rule.name}' finds no tensors among {some_of(container.values)}; choose another key rule"
        )
    weights.alternatives = [
        candidate.name
        for candidate in containers
        if candidate.name != container.name
        and weights.tensors.keys() <= {rename(rule, key, expected) for key in candidate.values}
    ]
    return weights


def _choose(
    rule: KeyRule,
    content: Mapping[Any, Any],
    containers: list[Candidate],
    file: str,
    choice: str | None,
    expected: Collection[str],
) -> Candidate:
    """The container that `choice` names; CheckpointError, with the names of the file's containers, if there is none."""
    if choice in (None, "ema"):
        for name in ema_names():
            for container in containers:
                # An EMA's decay or counter alone is no network.
                fits = not expected or any(rename(rule, key, expected) in expected for key in container.values)
                if name in container.name.split(".") and fits:
                    return container
    if choice in (None, "raw"):
        for name in (*rule.containers, TOP):
            for container in containers:
                if not container.averaged and f"{container.name}.".startswith(f"{name}."):
                    return container
    elif choice != "ema":
        for container in containers:
            if f"{container.name}.".startswith(f"{choice}."):
                return container
        for container in containers:
            prefix = f"{choice}."
            values = {
                key.removeprefix(prefix): value for key, value in container.values.items() if key.startswith(prefix)
            }
            if values:
                return Candidate(choice, values, container.averaged)
    missing = f"no weights '{choice}'" if choice else f"no weights where rule '{rule.name}' looks for them"
    names = ", ".join(container.name for container in containers[:5]) or "none of them"
    raise CheckpointError(
        f"{file} holds {missing}, only the keys {some_of(map(str, content))}; "
        f"name with --weights KEY one that holds tensors: {names}"
    )


def rename(rule: KeyRule, key: str, expected: Collection[str] = ()) -> str:
    """The architecture's name for a key: by the rule's patterns, and without wrappers, until it is an expected one."""
    for pattern, replacement in rule.rename:
        key = re.sub(pattern, replacement, key)
    while key not in expected:
        wrapper = next((wrapper for wrapper in rule.wrappers if key.startswith(wrapper)), None)
        if wrapper is None:
            break
        key = key.removeprefix(wrapper)
    return key


def read_weights(
    files: list[tuple[Path, str]], trust: bool = False, choice: str | None = None, expected: Collection[str] = ()
) -> Weights:
    """Read one file, or several that make up one network, each with the name of its key rule; see `apply_rule`."""
    weights = Weights()
    for number, (path, rule) in enumerate(files):
        content = read(path, trust)
        part = apply_rule(key_rule(rule), content, str(path), choice, expected)
        weights.notes |= notes_of(content)
        duplicates = weights.tensors.keys() & part.tensors.keys()
        if duplicates:
            raise CheckpointError(
                f"{path}: {some_of(sorted(duplicates))} also came from the file before it; use one of them"
            )
        weights.tensors |= part.tensors
        for reason, keys in part.dropped.items():
            weights.dropped.setdefault(reason, []).extend(keys)
        weights.container = f"{weights.container} + {part.container}" if number else part.container
        weights.alternatives += part.alternatives
        weights.averaged = part.averaged
    return weights


def count_classes_of_head(initial: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> int | None:
    """How many classes the tensors have, where that alone tells them from the network's initial ones; else None.

    Then all tensors of the same name that differ in shape differ in their first dimension, from one number to another.
    """
    shapes = [(tuple(initial[name].shape), tuple(tensors[name].shape)) for name in initial.keys() & tensors.keys()]
    changes = [(initial_shape, shape) for initial_shape, shape in shapes if initial_shape != shape]
    if any(not initial_shape or not shape or initial_shape[1:] != shape[1:] for initial_shape, shape in changes):
        return None
    numbers = {(initial_shape[0], shape[0]) for initial_shape, shape in changes}
    return numbers.pop()[1] if len(numbers) == 1 else None


def load_strictly(network: nn.Module, weights: Weights, file: str) -> None:
    """Load every tensor; `file` is named in errors.

    Step counters of BatchNorm (`num_batches_tracked`) may be absent, since nothing is computed from them. Raises
    CheckpointError for any other key that is missing, surplus, of another shape, complex, or not finite.
    """
    state, tensors = network.state_dict(), weights.tensors
    required_names = {name for name in state if not name.endswith("num_batches_tracked")}
    shared_names = sorted(tensors.keys() & state.keys())
    problems = {
        "missing": sorted(required_names - tensors.keys()),
        "surplus": sorted(tensors.keys() - state.keys()),
        "misshapen": [
            f"{name} {tuple(tensors[name].shape)} instead of {tuple(state[name].shape)}"
            for name in shared_names
            if tensors[name].shape != state[name].shape
        ],
        # torch would drop their imaginary parts.
        "complex instead of real": [
            name for name in shared_names if tensors[name].is_complex() and not state[name].is_complex()
        ],
        # Tensors of another shape are not looked into: a small file can describe a tensor of any size.
        "not finite": [
            name
            for name in shared_names
            if tensors[name].shape == state[name].shape and not bool(torch.isfinite(tensors[name]).all())
        ],
    }
    counts = [f"{len(names)} {problem} ({some_of(names)})" for problem, names in problems.items() if names]
    if counts:
        names = some_of(weights.alternatives)
        hint = f", or take others of the file with --weights: {names}" if weights.alternatives else ""
        if len(counts) == 1 and (infinite := problems["not finite"]):
            raise CheckpointError(
                f"{file} holds values that are not finite, in {some_of(infinite)}; take weights from before its "
                f"training diverged{hint}"
            )
        raise CheckpointError(
            f"{file} does not fit the architecture: {'; '.join(counts)}; name the --architecture that they are of{hint}"
        )
    network.load_state_dict(state | tensors, strict=True)
