"""A user's code: what its identity covers, what it reads beside that, and the import of its modules.

The identity of a file covers the modules beside it that it imports, and what the study says it uses. Its modules are
compiled from the bytes that the identity was computed of, as members of a package whose name follows from it: so two
versions of a file, and modules of one name beside two files, are different modules, and neither `sys.path` nor the
names of other modules change. An import statement in them looks into that package first.
"""

from __future__ import annotations

import ast
import builtins
import dis
import hashlib
import inspect
import io
import os
import pickle
import site
import sys
import sysconfig
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from importlib.util import find_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any
from weakref import WeakValueDictionary, finalize

from ..errors import BandlensError, UsageError
from ..untrusted import words_of

TABLE_KEYS = ("file", "function", "uses")
"""Keys in the table of a user's probe or measure that say where its function is, and are no parameters of it."""
PACKAGE = __name__.partition(".")[0]
_LIBRARIES = (*map(sysconfig.get_path, ("stdlib", "platstdlib")), *site.getsitepackages(), site.getusersitepackages())
PYTHON = tuple(map(os.path.realpath, _LIBRARIES))
"""Folders of Python's modules and of installed libraries; the user's code may lie beside them, as in /usr/src."""
MODULE_ENDINGS = (".py", *EXTENSION_SUFFIXES)


class _Thread(threading.local):
    """A thread, as it runs a user's code or none."""

    code: UserCode | None = None


_thread = _Thread()


def runs_users_code() -> bool:
    """Whether a user's code runs in this thread."""
    return _thread.code is not None


class UserCode(ABC):
    """Code of a user's with an identity, in a folder whose other files it must not read."""

    def __init__(self, folder: Path, uses: Sequence[str], names: Sequence[str], digest: str) -> None:
        self.folder, self.uses = folder, tuple(uses)
        self.names = tuple(names)
        """The files that the identity covers, relative to the folder."""
        self.digest = digest
        """The identity."""
        self.opened_files = set[str]()
        """Files that it has opened to read since they were looked at."""
        self._files_beside = set[str]()
        _listen()

    @contextmanager
    def at_work(self, heading: str, error: type[BandlensError]) -> Iterator[None]:
        """Run the code, which errors call `heading`, in the block.

        `error` where it has read a file in the folder that its identity lacks, whatever it raised. It may have kept
        what it read, so a file counts for all calls that follow.
        """
        outer_code, _thread.code = _thread.code, self
        failure: BandlensError | None = None
        try:
            yield
        except BandlensError as error_of_code:
            failure = error_of_code
        finally:
            _thread.code = outer_code
        paths, self.opened_files = self.opened_files, set()
        names = (_relative_to_folder(self.folder, file) for file in paths if Path(file).is_file())
        self._files_beside |= {name for name in names if name and name not in self.names}
        if files := sorted(self._files_beside):
            uses = ", ".join(f'"{name}"' for name in [*self.uses, *files])
            raise error(
                f"{heading} reads {', '.join(files)}, and nothing says that its results depend on that; add to its "
                f"table in the study: uses = [{uses}]"
            ) from failure
        if failure:
            raise failure

    @abstractmethod
    def owns(self, variables: Mapping[str, Any]) -> bool:
        """Whether global variables are those of a module of the code."""


@cache
def _listen() -> None:
    """Note what the code of users opens. Python reports it in the thread that does it, before it is done (PEP 578)."""

    def note(event: str, arguments: tuple[Any, ...], thread: _Thread = _thread) -> None:
        if event == "open" and (code := thread.code) is not None:
            path, _, flags = arguments
            if not isinstance(path, int) and not flags & os.O_WRONLY:
                code.opened_files.add(os.path.abspath(os.fsdecode(path)))  # noqa: PTH100 - a link counts where it lies

    sys.addaudithook(note)


def is_of_python(file: str) -> bool:
    """Whether a file is Python's, or of a library that is installed."""
    return any(map(Path(os.path.realpath(file)).is_relative_to, PYTHON))


def _relative_to_folder(folder: Path, file: str) -> str | None:
    """The path of a file relative to the folder; None for one that lies elsewhere, or that is there for Python.

    Such are compiled modules, hidden folders, and Python with its libraries.
    """
    environments = [prefix for prefix in (sys.prefix, sys.base_prefix) if folder in Path(prefix).parents]
    if is_of_python(file) or any(map(Path(file).is_relative_to, environments)):
        return None
    for path, root in ((file, folder), (os.path.realpath(file), os.path.realpath(folder))):
        if Path(path).is_relative_to(root):
            relative = Path(path).relative_to(root)
            is_hidden = any(part.startswith(".") or part == "__pycache__" for part in relative.parts)
            return None if is_hidden else relative.as_posix()
    return None


def parse_uses(heading: str, table: Mapping[str, Any]) -> tuple[str, ...]:
    """The patterns under `uses` in the table of a user's function.

    They are files beside it that it reads, or imports by a name that is made as it runs: paths relative to its folder,
    where `*` stands for any name.
    """
    uses = table.get("uses", [])
    patterns = [uses] if isinstance(uses, str) else uses
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise UsageError(f"{heading}: uses must be a list of files beside its file, not {uses!r}")
    return tuple(patterns)


class _Finder(MetaPathFinder, Loader):
    """Finds and loads the modules of all users' files. One is installed, whatever number of files is loaded.

    It holds no package: one that no function needs any more, such as an older version of a file, is collected, and its
    modules leave `sys.modules`.
    """

    def __init__(self) -> None:
        self._packages: WeakValueDictionary[str, UserModules] = WeakValueDictionary()

    def add(self, modules: UserModules) -> UserModules:
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


def load_file(file: Path, uses: Sequence[str] = ()) -> UserModules:
    """The modules of a file as it is now: those that are loaded already where nothing of it has changed."""
    return _finder.add(UserModules(file, uses))


class UserModules(UserCode):
    """A user's file and the files that belong to it, as they are now, and the package of their modules.

    The digest is that of the names and contents of the files, in a fixed order.
    """

    def __init__(self, file: Path, uses: Sequence[str] = ()) -> None:
        root, names, digest = file.parent, list[str](), hashlib.sha256()
        self.modules = dict[str, tuple[Path, bytes]]()
        """The file of each module and its content, by the name that import statements call the module."""
        for path in _source_files(file, uses):
            name, content = path.relative_to(root).as_posix(), path.read_bytes()
            names.append(name)
            digest.update(f"{name}\0".encode() + content + b"\0")
            if ending := next(filter(name.endswith, MODULE_ENDINGS), None):
                module = name.removesuffix(ending).removesuffix("/__init__").replace("/", ".")
                self.modules[module] = path.absolute(), content
        super().__init__(root.absolute(), uses, names, digest.hexdigest())
        self.package = f"bandlens_user_{hashlib.sha256(f'{self.folder} {self.digest}'.encode()).hexdigest()[:12]}"

    def load(self, file: Path) -> ModuleType:
        """Import the file, unless this process has done so."""
        return import_module(f"{self.package}.{file.stem}")

    def owns(self, variables: Mapping[str, Any]) -> bool:
        return str(variables.get("__name__")).partition(".")[0] == self.package

    def find_module(self, fullname: str, module: str) -> ModuleSpec | None:
        """The spec of a module of the package; None where the identity has no such module."""
        if module not in self.modules:
            path = self.folder.joinpath(*module.split("."))
            if _thread.code:  # an import of a file counts as its reading
                _thread.code.opened_files |= {f"{path}{ending}" for ending in MODULE_ENDINGS}
            return ModuleSpec(fullname, None, is_package=True) if path.is_dir() else None
        path, _ = self.modules[module]
        if path.suffix != ".py":
            return spec_from_file_location(fullname, path)
        spec = ModuleSpec(fullname, _finder, origin=str(path), is_package=path.name == "__init__.py")
        spec.has_location = True
        return spec


def _source_files(file: Path, uses: Sequence[str]) -> list[Path]:
    """The file, what it uses, and every module beside it that these import, directly or not, sorted."""
    root, files = file.parent, set[Path]()
    pending = [file, *(path for pattern in uses for path in matching_files(root, pattern, file))]
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
        raise UsageError(f"{where} uses '{pattern}', and its folder has no such file; uses = […] names files beside it")
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


class UserObject(UserCode):
    """The code of a function that was made in this process, as in a notebook, and is given to a study as it is.

    Its identity covers the source of the function and of the user's helpers and classes that it takes from its module,
    the pickles of other values that it takes from there, and the names of libraries. A closure is refused: nobody could
    tell what its function had when it was made.
    """

    def __init__(self, heading: str, function: Callable[..., Any], folder: Path, uses: Sequence[str]) -> None:
        """UsageError, which begins with `heading`, where the identity cannot be told; `uses` are patterns of files."""
        self._variables = getattr(function, "__globals__", None)
        files = {file for pattern in uses for file in matching_files(folder, pattern, heading)}
        names = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
        content = io.BytesIO()
        try:
            _Identity(content, protocol=5).dump((function, sorted(names.items())))
        except BandlensError as error:
            raise UsageError(f"{heading}: {error}") from None
        except Exception as error:  # pickling calls code of the values
            raise UsageError(
                f"{heading}: its function uses a value that cannot be pickled ({words_of(error)}); make the value in "
                "the function, or put both into a file"
            ) from error
        digest = hashlib.sha256(content.getvalue()).hexdigest()
        super().__init__(folder.absolute(), uses, sorted(names), digest)

    def owns(self, variables: Mapping[str, Any]) -> bool:
        return variables is self._variables


class _Identity(pickle.Pickler):
    """Writes what the results of a function depend on."""

    def __init__(self, file: io.BytesIO, protocol: int) -> None:
        super().__init__(file, protocol)
        self._places = dict[int, int]()
        """The order in which functions and classes came first, by their id."""

    def persistent_id(self, value: Any) -> Any:
        """A token in place of a module, a function or a class; None for values, which are pickled."""
        if isinstance(value, ModuleType):
            file = getattr(value, "__file__", None) or ""  # modules that are built in have none
            is_users = file.endswith(".py") and not (is_of_python(file) or value.__name__.partition(".")[0] == PACKAGE)
            return ("module", value.__name__, *([UserModules(Path(file)).digest] if is_users else []))
        if isinstance(value, (set, frozenset)):  # their order differs from one process to the next
            return (type(value).__name__, sorted(value, key=repr))
        if not isinstance(value, (FunctionType, type)):
            function = getattr(value, "__wrapped__", None) if callable(value) else None
            return None if function is None else ("wrapper", type(value), function)
        if _is_of_library(value.__module__):
            return ("library", value.__module__, value.__qualname__)
        if id(value) in self._places:
            return ("again", self._places[id(value)])
        self._places[id(value)] = len(self._places)
        if isinstance(value, type):
            members = (getattr(member, "fget", getattr(member, "__func__", member)) for member in vars(value).values())
            methods = [member for member in members if isinstance(member, FunctionType)]
            return ("class", _source_of(value), value.__bases__, _values_used(methods))
        if value.__closure__:
            names = ", ".join(value.__code__.co_freevars)
            raise UsageError(
                f"{value.__name__} takes {names} from the function that made it, and a closure has no identity; make "
                "them parameters, or put all into a file"
            )
        return ("function", _source_of(value), value.__defaults__, value.__kwdefaults__, _values_used([value]))


def _source_of(value: Any) -> str:
    try:
        return inspect.getsource(value)
    except (OSError, TypeError):
        raise UsageError(f"the source of {value.__qualname__} is not known; put it into a file") from None


def _values_used(functions: Iterable[FunctionType]) -> list[tuple[str, Any]]:
    """Names and values that the code of functions, and of functions in them, takes from their modules or imports."""
    values = dict[str, Any]()
    for function in functions:
        pending = [function.__code__]
        while pending:
            code = pending.pop()
            pending += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
            for step in dis.get_instructions(code):
                if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and step.argval in function.__globals__:
                    values[step.argval] = function.__globals__[step.argval]
                elif step.opname == "IMPORT_NAME" and (module := _imported(step.argval)):
                    values[step.argval] = module
    return sorted(values.items())


def _imported(name: str) -> ModuleType | None:
    """The module of a name, without its content where it is yet to be imported; None where there is none."""
    with suppress(ImportError, ValueError):  # its package is not there, or the name is of a relative import
        spec = None if name in sys.modules else find_spec(name.partition(".")[0])
        if spec and not is_of_python(spec.origin or ""):
            spec = find_spec(name)  # which imports the packages that it is in: no library, which can take seconds
        if spec:
            module = ModuleType(name)
            module.__file__ = spec.origin
            return module
    return sys.modules.get(name)


def _is_of_library(module: str | None) -> bool:
    """Whether a module is Python's, bandlens's or a library's, whose versions are no part of an identity."""
    file = getattr(sys.modules.get(module or ""), "__file__", None)
    if module == "__main__" or file is None:
        return module != "__main__"
    return is_of_python(file) or str(module).partition(".")[0] == PACKAGE
