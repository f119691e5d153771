"""Custom functions: what identifies their code, and how the modules of a file are found.

A function of a file is identified by the contents of the file, of the modules beside it that it imports, and of the
files that the study declares, and by the `version` that the study gives. Source text cannot identify what a function in
memory has at work, such as globals, attributes and closures: it is identified by its `version`, and a version that
nobody gave is a random one (`private_version`).

The modules of a file are compiled from the bytes that the identity was computed from, as members of a package whose
name follows from it: two versions of a file, and modules of one name beside two files, are different modules, and
neither `sys.path` nor the names of other modules change. An import statement in them looks into that package first.
"""

from __future__ import annotations

import ast
import builtins
import hashlib
import os
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from secrets import token_hex
from types import MethodType, ModuleType
from typing import Any
from weakref import WeakValueDictionary, finalize

from ..errors import UsageError
from ..untrusted import words_of

TABLE_KEYS = ("file", "function", "files", "version")
"""Keys in the table of a custom probe or measure that say which function it is, and are no parameters of it."""
_LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "platstdlib")), *site.getsitepackages(), site.getusersitepackages())
PYTHON = tuple(map(os.path.realpath, _LIBRARIES))
"""Folders of Python's modules and of installed libraries; the user's code may lie beside them, as in /usr/src."""
MODULE_ENDINGS = (".py", *EXTENSION_SUFFIXES)
PRIVATE = "private-"
"""The beginning of versions that nobody gave."""


def is_of_python(file: str) -> bool:
    """Whether a file is Python's, or of a library that is installed."""
    return any(map(Path(os.path.realpath(file)).is_relative_to, PYTHON))


def parse_declared_files(heading: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the patterns under `files` in the table of a custom function.

    They are files beside it that it reads, or imports by a name that is made as it runs: paths relative to its folder,
    where `*` stands for any name.
    """
    files = table.get("files", [])
    patterns = [files] if isinstance(files, str) else files
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{heading}: files must be a list of files beside its file, not {files!r}")
    return tuple(patterns)


def parse_version(heading: str, table: Mapping[str, Any]) -> str:
    """Return the version that the table of a custom function gives; empty without one."""
    version = table.get("version", "")
    if not isinstance(version, str) or ("version" in table and not version):
        raise UsageError(f'{heading}: version must be text, such as version = "1", not {version!r}')
    return version


def private_version() -> str:
    """Return a version that no other function has, in this process or in another one."""
    return f"{PRIVATE}{token_hex(16)}"


_registered: dict[tuple[str, str], Callable[..., Any]] = {}
"""The function in memory that each identity stands for in this process, by its heading and digest."""


def register(heading: str, digest: str, version: str, function: Callable[..., Any]) -> None:
    """Have an identity stand for a function in memory; UsageError where it stands for another one."""
    if version.startswith(PRIVATE):
        return
    registered = _registered.setdefault((heading, digest), function)
    # Each look-up of a method makes another object.
    if registered is not function and not (isinstance(function, MethodType) and registered == function):
        raise UsageError(
            f"{heading}: version {version!r} is another function in this process; give this one a version of its own"
        )


class MemoryCode:
    """A function that was made in this process, as in a notebook: its version and declared files identify it."""

    def __init__(
        self, heading: str, function: Callable[..., Any], folder: Path, files: Sequence[str], version: str
    ) -> None:
        """UsageError, which begins with `heading`, where the version is that of another function."""
        self._variables = getattr(function, "__globals__", None)
        paths = sorted({path for pattern in files for path in matching_files(folder, pattern, heading)})
        self.names = tuple(path.relative_to(folder).as_posix() for path in paths)
        """The files that the identity covers, relative to the folder."""
        version = version or private_version()
        digest = hashlib.sha256(f"function in memory\0{version}\0".encode())
        for name, path in zip(self.names, paths, strict=True):
            _add_file(digest, name, path.read_bytes())
        self.digest = digest.hexdigest()
        """The identity."""
        register(heading, self.digest, version, function)

    def owns(self, variables: Mapping[str, Any]) -> bool:
        """Whether global variables are those of the function."""
        return variables is self._variables


class FileCode:
    """A file and the files that belong to it, as they are now, and the package of their modules."""

    def __init__(self, file: Path, files: Sequence[str] = (), version: str = "") -> None:
        self.folder, self.names = file.parent.absolute(), tuple[str, ...]()
        """The folder of the file, and the files that the identity covers, relative to it."""
        self.modules = dict[str, tuple[Path, bytes]]()
        """The file of each module and its content, by the name that import statements call the module."""
        digest = hashlib.sha256()
        for path in _source_files(file, files):
            name, content = path.relative_to(file.parent).as_posix(), path.read_bytes()
            self.names += (name,)
            _add_file(digest, name, content)
            if ending := next(filter(name.endswith, MODULE_ENDINGS), None):
                module = name.removesuffix(ending).removesuffix("/__init__").replace("/", ".")
                self.modules[module] = path.absolute(), content
        if version:
            digest.update(f"version\0{version}".encode())
        self.digest = digest.hexdigest()
        """The identity: that of the names and contents of the files, in a fixed order, and of the version."""
        self.package = f"bandlens_user_{hashlib.sha256(f'{self.folder} {self.digest}'.encode()).hexdigest()[:12]}"

    def load(self, file: Path) -> ModuleType:
        """Import the file, unless this process has done so."""
        return import_module(f"{self.package}.{file.stem}")

    def owns(self, variables: Mapping[str, Any]) -> bool:
        """Whether global variables are those of a module of the package."""
        return str(variables.get("__name__")).partition(".")[0] == self.package

    def find_module(self, fullname: str, module: str) -> ModuleSpec | None:
        """Return the spec of a module of the package; None where there is none.

        Raises ModuleNotFoundError for a file that is there, and that the identity does not cover.
        """
        if module not in self.modules:
            path = self.folder.joinpath(*module.split("."))
            for ending in MODULE_ENDINGS if module else ():
                if path.with_name(f"{path.name}{ending}").is_file():
                    name = f"{path.relative_to(self.folder).as_posix()}{ending}"
                    advice = f'add it to the table of the function: files = ["{name}"]'
                    raise ModuleNotFoundError(f"{name} is not declared; {advice}", name=fullname)
            return ModuleSpec(fullname, None, is_package=True) if path.is_dir() else None
        path, _ = self.modules[module]
        if path.suffix != ".py":
            return spec_from_file_location(fullname, path)
        spec = ModuleSpec(fullname, _finder, origin=str(path), is_package=path.name == "__init__.py")
        spec.has_location = True
        return spec


Code = FileCode | MemoryCode


def _add_file(digest: Any, name: str, content: bytes) -> None:
    digest.update(f"{name}\0".encode() + content + b"\0")


class _Finder(MetaPathFinder, Loader):
    """Finds and loads the modules of all users' files. One is installed, whatever number of files is loaded.

    It holds no package: one that no function needs any more, such as an older version of a file, is collected, and its
    modules leave `sys.modules`.
    """

    def __init__(self) -> None:
        self._packages: WeakValueDictionary[str, FileCode] = WeakValueDictionary()

    def add(self, modules: FileCode) -> FileCode:
        """Return the modules of that package which are registered, or register these."""
        if self not in sys.meta_path:
            sys.meta_path.append(self)
        registered = self._packages.setdefault(modules.package, modules)
        if registered is modules:
            finalize(modules, _forget_modules, modules.package).atexit = False
        return registered

    def find_spec(self, fullname: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        package, _, module = fullname.partition(".")
        modules = self._packages.get(package)
        return None if modules is None else modules.find_module(fullname, module)

    def exec_module(self, module: ModuleType) -> None:
        package, _, name = module.__name__.partition(".")
        path, content = self._packages[package].modules[name]
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": partial(self._import, package)}
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - it is an import

    def _import(
        self,
        package: str,
        name: str,
        globals: Any = None,  # noqa: A002 - as __import__ has it
        locals: Any = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Import what a statement of the user's names, from the package where it is there."""
        top = name.partition(".")[0]
        modules = self._packages.get(package)
        if level or modules is None or not any(module.partition(".")[0] == top for module in modules.modules):
            return __import__(name, globals, locals, fromlist or (), level)
        module = __import__(f"{package}.{name}", globals, locals, fromlist or ())
        return module if fromlist else sys.modules[f"{package}.{top}"]


def _forget_modules(package: str) -> None:
    """Remove the modules of a package from `sys.modules`."""
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        del sys.modules[name]


_finder = _Finder()


def load_file(file: Path, files: Sequence[str] = (), version: str = "") -> FileCode:
    """Return the modules of a file as it is now: those that are loaded already where nothing of it has changed."""
    return _finder.add(FileCode(file, files, version))


def _source_files(file: Path, patterns: Sequence[str]) -> list[Path]:
    """The file, those that it declares, and every module beside it that these import, directly or not, sorted."""
    root, files = file.parent, set[Path]()
    pending = [file, *(path for pattern in patterns for path in matching_files(root, pattern, file))]
    while pending:
        current = pending.pop()
        if current not in files:
            files.add(current)
            if current == file or current.suffix == ".py":
                pending += [path for module in _imported_modules(root, current) for path in _module_files(root, module)]
    return sorted(files)


def matching_files(folder: Path, pattern: str, where: object) -> list[Path]:
    """The files in the folder that match the pattern of a user's code, which errors call `where`."""
    path = Path(pattern)
    try:
        is_below = path.parts and ".." not in path.parts and not path.is_absolute()
        matches = [match for match in folder.glob(pattern) if match.is_file()] if is_below else []
    except (OSError, ValueError):  # no file can have such a path
        matches = []
    if not matches:
        raise UsageError(
            f"{where} declares '{pattern}', and its folder has no such file; files = […] names files beside it"
        )
    return matches


def _imported_modules(root: Path, file: Path) -> Iterator[tuple[str, ...]]:
    """The modules that a file imports, or may import, as paths of names from the root."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"), filename=str(file))
    except OSError as error:
        raise UsageError(f"{file} cannot be read ({words_of(error)}); make it readable, or name another file") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UsageError(f"{file} is not Python: {error}") from None
    place = file.relative_to(root).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = place[: -node.level] if node.level else ()
            module = (*package, *(node.module.split(".") if node.module else ()))
            yield module
            yield from ((*module, alias.name) for alias in node.names)


def _module_files(root: Path, module: tuple[str, ...]) -> Iterator[Path]:
    """The files below the root that an import of the module runs: the packages that it lies in, and itself."""
    for length in range(1, len(module) + 1):
        base = root.joinpath(*module[:length])
        yield from (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
