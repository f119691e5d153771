"""Read weights files safely, map their keys to those of an architecture, and load them strictly."""

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
"""Name of the outermost container, if tensors are not nested in another one."""
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
"""File types that are often mistaken for PyTorch weights, with advice -> offset and value of their signature bytes."""
MOST_LEVELS = 3
"""Nesting depth up to which containers are searched for tensors."""
MAX_KEY_CHARACTERS = 10_000
"""Maximum length of a key.

Prefixes of wrappers are removed one at a time, and each removal copies the rest of the key.
"""


@dataclass(slots=True)
class Weights:
    """Tensors under the architecture's keys, and the place in the file from which they were loaded."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    """Reason -> keys that were dropped for it."""
    container: str = TOP
    """Container of the tensors in the file, such as `state_dict_ema` or `ema.module`."""
    alternatives: list[str] = field(default_factory=list)
    """Other containers in the file that have all of the same keys."""
    averaged: bool = False
    """Whether the tensors are an exponential moving average (EMA) of the training weights."""
    notes: dict[str, Any] = field(default_factory=dict)
    """Metadata in the file that may contain class names; see `class_names.notes_of`."""


def read(path: Path, trust: bool = False) -> Any:
    """Read a weights file.

    Args:
        path: A safetensors file, or a file of `torch.save` in the zip or the legacy format.
        trust: Load a torch file with pickle, which can execute code.

    Returns:
        Nested mappings with tensors on the CPU.

    Raises:
        CheckpointError: The file is missing, damaged or of another type, or loading it would execute code and `trust`
            is false.
    """
    if not path.is_file():
        raise CheckpointError(f"no weights at {path}; check the path")
    with explain_damage(path):
        with path.open("rb") as file:
            head = file.read(1 << 12)
        _refuse_other_kinds(path, head)
        if head[8:9] == b"{":  # safetensors: eight bytes with the length of the JSON header, then the header
            return _read_safetensors(path)
        if not trust:
            return read_in_child(path)
        if is_archive(head):
            refuse_other_archives(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what torch warns about either loads or raises an exception
            return torch.load(path, map_location="cpu", weights_only=False)


def _read_safetensors(path: Path) -> dict[str, Any]:
    """Read the tensors, and metadata that may contain class names.

    Class names can be in the metadata of the file, or in config.json next to it, which timm writes with `label_names`.
    That file need not belong to these weights, so names that do not fit are ignored later.
    """
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, framework="pt") as file:
        notes = notes_of(file.metadata())
    return notes_beside(path) | notes | load_file(path)


def _refuse_other_kinds(path: Path, head: bytes) -> None:
    """Reject web pages and files of other libraries, which are recognized by their first bytes.

    Raises:
        CheckpointError: The file does not contain PyTorch weights.
    """
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
    """A container in a file that holds named tensors, possibly next to other values."""

    name: str
    values: Mapping[str, Any]
    averaged: bool


def candidates(content: Mapping[Any, Any]) -> list[Candidate]:
    """Return all containers in the file that hold tensors, outer ones first.

    Keys that start with the name of an EMA and a dot form a container of their own. An example is
    `ema_model.fc.weight`, next to `model.fc.weight`.
    """
    names = ema_names()
    containers: list[Candidate] = []
    level: list[tuple[tuple[str, ...], Mapping[Any, Any]]] = [((), content)]
    container_ids = {id(content)}  # visit each container once: a small file can refer to the same one a million times
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
    """Select a container of a file, and map its keys to those of the architecture.

    Args:
        rule: The key rule.
        content: Content of the file.
        file: Name of the file, for error messages.
        choice: `ema`, `raw` or the name of a container. By default, EMA weights are preferred, as in timm's loader.
        expected: Keys of the architecture.

    Returns:
        The tensors under the architecture's keys.

    Raises:
        CheckpointError: The file has no such container, or no tensors, or two keys are mapped to the same one.
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
    """Return the container that `choice` refers to.

    Raises:
        CheckpointError: There is none. The message lists the containers in the file.
    """
    if choice in (None, "ema"):
        for name in ema_names():
            for container in containers:
                # Skip EMA containers that hold only a decay rate or a step counter.
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
    """Return the architecture's key for a key in the file.

    The patterns of the rule are applied first. Then wrapper prefixes are removed until the key is among `expected`.
    """
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
    """Read the weights of one network from one or several files.

    Args:
        files: Paths, each with the name of its key rule.
        trust: Load torch files with pickle, which can execute code.
        choice: Which weights to load; see `apply_rule`.
        expected: Keys of the architecture.

    Returns:
        The tensors of all files.

    Raises:
        CheckpointError: A file cannot be read, or two files contain the same key.
    """
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
    """Return the number of classes of the weights, or None if it cannot be determined from tensor shapes.

    It can be determined if all tensors whose shapes differ between network and file differ only in the first dimension,
    and all by the same pair of numbers.

    Args:
        initial: State dict of the network with its default number of classes.
        tensors: Tensors of the file under the architecture's keys.
    """
    shapes = [(tuple(initial[name].shape), tuple(tensors[name].shape)) for name in initial.keys() & tensors.keys()]
    changes = [(initial_shape, shape) for initial_shape, shape in shapes if initial_shape != shape]
    if any(not initial_shape or not shape or initial_shape[1:] != shape[1:] for initial_shape, shape in changes):
        return None
    numbers = {(initial_shape[0], shape[0]) for initial_shape, shape in changes}
    return numbers.pop()[1] if len(numbers) == 1 else None


def load_strictly(network: nn.Module, weights: Weights, file: str) -> None:
    """Load all tensors into the network.

    Only the step counters of BatchNorm (`num_batches_tracked`) may be missing, because inference does not use them.

    Args:
        network: The network, which is modified.
        weights: The tensors.
        file: Name of the file, for error messages.

    Raises:
        CheckpointError: Any other key is missing or unexpected, or a tensor has another shape, is complex or is not
            finite.
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
        # torch would silently drop the imaginary parts.
        "complex instead of real": [
            name for name in shared_names if tensors[name].is_complex() and not state[name].is_complex()
        ],
        # Check values only if the shape fits: with strides of 0, a small file can describe a tensor of any size.
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
