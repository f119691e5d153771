"""Identify the code of custom functions, and import the modules that it consists of.

A function in a file is identified by a digest. The digest covers the file, the modules in its folder that it imports,
the files that the study declares, and the `version` in the study. The behavior of a function in memory also depends on
globals, attributes and closures, which its source text does not contain. Such a function is therefore identified by its
`version`. If the study has none, a random version is used (`private_version`).

The modules are compiled from exactly the bytes that the digest was computed from. They become members of a package
whose name is derived from the digest. Two versions of a file, or modules with the same name in two folders, are thus
different modules, and neither `sys.path` nor the modules of other packages are affected. Import statements in the
custom code search this package first.
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
"""Keys in the table of a custom probe or metric that select the function. They cannot be names of its parameters."""
_LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "platstdlib")), *site.getsitepackages(), site.getusersitepackages())
PYTHON = tuple(map(os.path.realpath, _LIBRARIES))
"""Folders of the standard library and of installed packages. Custom code may be next to them, as in /usr/src."""
MODULE_ENDINGS = (".py", *EXTENSION_SUFFIXES)
PRIVATE = "private-"
"""Prefix of the random versions of functions for which the study has no version."""


def is_of_python(file: str) -> bool:
    """Return whether a file belongs to the standard library or to an installed package."""
    return any(map(Path(os.path.realpath(file)).is_relative_to, PYTHON))


def parse_declared_files(heading: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the file patterns under `files` in the table of a custom function.

    They declare the files that the function reads, and modules that it imports dynamically, since neither can be found
    from its import statements. Patterns are relative to the folder of the function, and `*` matches any name.

    Raises:
        UsageError: `files` is neither a text nor a list of texts.
    """
    files = table.get("files", [])
    patterns = [files] if isinstance(files, str) else files
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{heading}: files must be a list of files beside its file, not {files!r}")
    return tuple(patterns)


def parse_version(heading: str, table: Mapping[str, Any]) -> str:
    """Return the `version` in the table of a custom function, or an empty text if it has none.

    Raises:
        UsageError: The version is empty or not a text.
    """
    version = table.get("version", "")
    if not isinstance(version, str) or ("version" in table and not version):
        raise UsageError(f'{heading}: version must be text, such as version = "1", not {version!r}')
    return version


def private_version() -> str:
    """Return a random version that is unique across processes."""
    return f"{PRIVATE}{token_hex(16)}"


_registered: dict[tuple[str, str], Callable[..., Any]] = {}
"""Heading and digest -> the function in memory that they identify in this process."""


def register(heading: str, digest: str, version: str, function: Callable[..., Any]) -> None:
    """Register a function in memory under its identity.

    Raises:
        UsageError: Another function is registered under the same identity.
    """
    if version.startswith(PRIVATE):
        return
    registered = _registered.setdefault((heading, digest), function)
    # Each access to a bound method creates a new object, so methods are compared for equality instead of identity.
    if registered is not function and not (isinstance(function, MethodType) and registered == function):
        raise UsageError(
            f"{heading}: version {version!r} is another function in this process; give this one a version of its own"
        )


class MemoryCode:
    """The code of a function in memory, for example from a notebook. Its version and declared files identify it."""

    def __init__(
        self, heading: str, function: Callable[..., Any], folder: Path, files: Sequence[str], version: str
    ) -> None:
        """Compute the identity and register the function.

        Args:
            heading: First words of error messages.
            function: The function.
            folder: Folder to which the declared files are relative.
            files: Patterns of the declared files.
            version: Version of the function. Empty for a random one.

        Raises:
            UsageError: Another function is registered under this version, or a pattern matches no file.
        """
        self._variables = getattr(function, "__globals__", None)
        paths = sorted({path for pattern in files for path in matching_files(folder, pattern, heading)})
        self.names = tuple(path.relative_to(folder).as_posix() for path in paths)
        """Paths of the files that the identity covers, relative to the folder."""
        version = version or private_version()
        digest = hashlib.sha256(f"function in memory\0{version}\0".encode())
        for name, path in zip(self.names, paths, strict=True):
            _add_file(digest, name, path.read_bytes())
        self.digest = digest.hexdigest()
        """SHA-256 digest that identifies the code."""
        register(heading, self.digest, version, function)

    def owns(self, variables: Mapping[str, Any]) -> bool:
        """Return whether a dictionary of global variables belongs to the function."""
        return variables is self._variables


class FileCode:
    """The code of a function in a file: a snapshot of the file and its dependencies, as an importable package."""

    def __init__(self, file: Path, files: Sequence[str] = (), version: str = "") -> None:
        self.folder, self.names = file.parent.absolute(), tuple[str, ...]()
        """`folder` is the folder of the file. `names` are the files that the identity covers, relative to it."""
        self.modules = dict[str, tuple[Path, bytes]]()
        """Name of a module in import statements -> its file and the content of the file."""
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
        """SHA-256 digest that identifies the code: of the sorted file names, their contents, and the version."""
        self.package = f"bandlens_user_{hashlib.sha256(f'{self.folder} {self.digest}'.encode()).hexdigest()[:12]}"

    def load(self, file: Path) -> ModuleType:
        """Return the module of the file. It is imported unless this process has imported it already."""
        return import_module(f"{self.package}.{file.stem}")

    def owns(self, variables: Mapping[str, Any]) -> bool:
        """Return whether a dictionary of global variables belongs to a module of the package."""
        return str(variables.get("__name__")).partition(".")[0] == self.package

    def find_module(self, fullname: str, module: str) -> ModuleSpec | None:
        """Return the import spec of a module of the package, or None if it does not exist.

        Raises:
            ModuleNotFoundError: The module's file exists, but the identity does not cover it.
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
    """Import finder and loader for the modules of all custom code.

    A single finder in `sys.meta_path` serves all packages, so that `sys.meta_path` does not grow with each loaded file.
    It refers to the packages weakly. When the last function of a package is garbage-collected, for example because its
    file has changed, the package is collected as well and its modules are removed from `sys.modules`.
    """

    def __init__(self) -> None:
        self._packages: WeakValueDictionary[str, FileCode] = WeakValueDictionary()

    def add(self, modules: FileCode) -> FileCode:
        """Register a package. If an equal one is registered already, return that one."""
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
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - importing executes code

    def _import(
        self,
        package: str,
        name: str,
        globals: Any = None,  # noqa: A002 - the signature of `__import__`
        locals: Any = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """Execute an import statement of the custom code. Modules of its package take precedence.

        It replaces `__import__` in the built-ins of each custom module. Relative imports need no special treatment.
        """
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
    """Return the code of a file in its current state. If nothing has changed, modules that are loaded are reused."""
    return _finder.add(FileCode(file, files, version))


def _source_files(file: Path, patterns: Sequence[str]) -> list[Path]:
    """Return the file, its declared files and all modules in its folder that they import, also indirectly, sorted."""
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
    """Return the files in a folder that match a declared pattern.

    Args:
        folder: The folder.
        pattern: Path below the folder, which may contain wildcards.
        where: First words of the error message.

    Raises:
        UsageError: No file matches, or the pattern leads out of the folder.
    """
    path = Path(pattern)
    try:
        is_below = path.parts and ".." not in path.parts and not path.is_absolute()
        matches = [match for match in folder.glob(pattern) if match.is_file()] if is_below else []
    except (OSError, ValueError):  # the pattern is not a valid path
        matches = []
    if not matches:
        raise UsageError(
            f"{where} declares '{pattern}', and its folder has no such file; files = […] names files beside it"
        )
    return matches


def _imported_modules(root: Path, file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the modules that a file imports, as tuples of names below the root folder.

    The name in `from package import name` may be a module or a variable, so both readings are yielded.
    """
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
    """Yield the files below the root that importing a module executes: its parent packages and the module itself."""
    for length in range(1, len(module) + 1):
        base = root.joinpath(*module[:length])
        yield from (path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file())
