"""Probes of a user's own run in a process of the program's."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from own_probes import PIXELS, Write, run
from small import bandlens

from bandlens.core.errors import ProbeError, UsageError
from bandlens.probes.arrays import to_numpy
from bandlens.probes.family import Batch
from bandlens.probes.grid import make_grid
from bandlens.probes.user import ProbeCall, perturb_batch, start_probe, user_family

SUPPORT = str(Path(__file__).parents[1] / "support")


def test_what_a_probe_prints_is_no_part_of_the_json(tmp_path: Path) -> None:
    (tmp_path / "loud.py").write_text(
        "print('loading')\ndef loud(images, rng):\n    'Says what it does.'\n    print('at work')\n    return images\n"
    )
    study = tmp_path / "study.toml"
    study.write_text('checkpoints = ["a"]\nimages = ["b"]\n[probes]\nloud = { file = "loud.py" }\n')
    listed = bandlens("probes", "list", "--study", study, "--format", "json")
    assert [row["what"] for row in json.loads(listed.stdout)] == ["the images as they are", "Says what it does."]
    assert "loading" in listed.stderr


READERS = {
    "as it is loaded": "mask = np.load(HERE / 'masks/0.npy')\ndef mirror(images):\n    return images * mask\n",
    "as it runs": "def mirror(images):\n    return images * np.load(HERE / 'masks/0.npy')\n",
    "below Python's open": (
        "def mirror(images):\n    os.close(os.open(HERE / 'masks/0.npy', os.O_RDONLY))\n    return images\n"
    ),
    "by a link": "def mirror(images):\n    return images * np.load(HERE.with_name('link') / 'masks/0.npy')\n",
    "from where it is": ("def mirror(images):\n    os.chdir(HERE / 'masks')\n    return images * np.load('0.npy')\n"),
    "a module by name, as it is loaded": (
        "part = importlib.import_module('masks.' + 'part')\ndef mirror(images):\n    return images * part.X\n"
    ),
    "a module by name, as it runs": (
        "def mirror(images):\n    return images * importlib.import_module('masks.' + 'part').X\n"
    ),
}


@pytest.mark.parametrize("body", READERS.values(), ids=READERS)
def test_what_it_reads_beside_it_is_part_of_its_identity_or_refused(tmp_path: Path, write: Write, body: str) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "here")
    folder = tmp_path / "here"
    module = "module" if "import_module" in body else ""
    read = "masks/part.py" if module else "masks/0.npy"
    write(
        f"import importlib, os\nimport numpy as np\nfrom pathlib import Path\nHERE = Path(__file__).parent\n{body}",
        "here/mine.py",
    )
    write("X = 0.5\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 0.5)
    with pytest.raises((ProbeError, UsageError)) as caught:
        run(folder, {}, PIXELS)
    assert str(caught.value) == (
        f"probe mirror reads {read}, and nothing says that its results depend on that; add to its table in the study: "
        f'uses = ["{read}"]'
    )
    table = {"file": "mine.py", "uses": [read]}
    before = run(folder, table, PIXELS)
    assert before.keys() == {"mirror"}
    digest = make_grid({"mirror": table}, folder).conditions[1].digest
    write("X = 1.0\n", "here/masks/part.py")
    np.save(folder / "masks/0.npy", 1.0)
    assert make_grid({"mirror": table}, folder).conditions[1].digest != digest
    if "os.open" not in body:
        np.testing.assert_allclose(run(folder, table, PIXELS)["mirror"], before["mirror"] * 2, atol=1e-6)


def test_files_that_it_writes_and_those_of_python_and_its_libraries_are_none_of_its_identity(
    tmp_path: Path, write: Write
) -> None:
    """A hidden folder beside it, such as an environment, is Python's."""
    write("", ".venv/lib/big.py")
    write(
        "import email.mime.text, sys\n"
        "from pathlib import Path\n"
        "HERE = Path(__file__).parent\n"
        "sys.path.append(str(HERE / '.venv/lib'))\n"
        "import big\n"
        "def mirror(images):\n"
        "    (HERE / 'log').write_text('x')\n"
        "    (HERE / '.venv/lib/big.py').read_text()\n"
        "    try:\n"
        "        open(HERE / 'no such file')\n"
        "    except OSError:\n"
        "        return images * (big is sys.modules['big'])\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255, atol=1e-7)


def test_it_runs_as_its_digest_says_whatever_bytecode_lies_there(tmp_path: Path, write: Write) -> None:
    """Bytecode is found by a source's time and length, and these are the same after each of the edits."""
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
folder, made = Path(sys.argv[2]), []
import numpy as np, py_compile
from own_probes import PIXELS, run
for value in (2, 4, 8):
    for name, text in {
        "mine.py": f"import part as a, pack.leaf as b\\ndef mirror(x):\\n    return x / {value} / a.X / b.Y\\n",
        "part.py": f"X = {value}\\n",
        "pack/leaf.py": f"Y = {value}\\n",
    }.items():
        (folder / name).write_text(text)
        os.utime(folder / name, (1, 1))
        if value == 2:
            py_compile.compile(folder / name)
    (images,) = run(folder, {}, PIXELS).values()
    made.append(round(float(PIXELS.max() / 255 / images.max())))
print(made)
"""
    (tmp_path / "pack").mkdir()
    command = [sys.executable, "-P", "-c", code, SUPPORT, str(tmp_path)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout == "[8, 64, 512]\n"


def test_two_probes_of_one_name_have_their_own_modules(tmp_path: Path, write: Write) -> None:
    """Each has its own also where the function imports them as it runs, and where a package has no __init__."""
    for name, value in {"one": 0.25, "two": 0.5}.items():
        write(
            "def mirror(images):\n    import part_of_mine.leaf\n    return images * part_of_mine.leaf.X\n",
            f"{name}/mine.py",
        )
        write(f"X = {value}\n", f"{name}/part_of_mine/leaf.py")
    for name, value in {"one": 0.25, "two": 0.5}.items():
        np.testing.assert_allclose(run(tmp_path / name, {}, PIXELS)["mirror"], PIXELS / 255 * value, atol=1e-6)


def test_the_file_is_a_module_as_it_loads_and_as_it_runs(tmp_path: Path, write: Write) -> None:
    write(
        "from __future__ import annotations\nimport pickle\nfrom dataclasses import dataclass\n\n\n"
        "@dataclass\nclass Mixed:\n    strength: float\n\n\n"
        "def mirror(images):\n"
        "    return images * pickle.loads(pickle.dumps(Mixed(0.5))).strength\n"
    )
    (images,) = run(tmp_path, {}, PIXELS).values()
    np.testing.assert_array_equal(images, PIXELS / np.float32(255) * np.float32(0.5))
    assert "bandlens_probe_mine" not in sys.modules


def test_a_module_imported_as_it_runs_is_loaded_once(tmp_path: Path, write: Write) -> None:
    write("import numpy as np\nRANDOM = np.random.rand()\n", "helper_once.py")
    write("def mirror(images):\n    import helper_once\n    return images * helper_once.RANDOM\n")
    assert run(tmp_path, {}, PIXELS)["mirror"].max() <= 1
    assert "helper_once" not in sys.modules


def test_the_file_runs_with_the_modules_beside_it_as_they_are_now(tmp_path: Path, write: Write) -> None:
    write("import helper_now\ndef mirror(images):\n    return images * helper_now.FACTOR\n")
    for factor in (0.5, 0.25):
        write(f"FACTOR = {factor}\n", "helper_now.py")
        made = run(tmp_path, {}, PIXELS)
        np.testing.assert_allclose(made["mirror"], PIXELS / 255 * factor, atol=1e-6)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            "return images[:, :2]",
            r"probe mirror returned shape \(3, 2, 16, 16\); expected an array of shape \(3, 3, 16, 16\)",
        ),
        ("return None", "probe mirror returned NoneType; expected an array of shape"),
        ("return images * 2", r"returned values in \[0, 2\]; expected finite values in \[0, 1\], so clip them"),
        ("return images * 255", r"in \[0, 255\]; expected finite values in \[0, 1\], so divide them by 255"),
        ("return images * float('nan')", r"returned NaN or infinity; expected finite values in \[0, 1\]: look for a "),
        ("raise ValueError('no such\\nfilter')", "probe mirror failed: ValueError: no such filter"),
        ("return images.astype(object)", "probe mirror returned object values; expected numbers"),
    ],
)
def test_what_is_no_batch_of_images_is_named(tmp_path: Path, write: Write, body: str, message: str) -> None:
    write(f"def mirror(images):\n    {body}\n")
    pixels = PIXELS.copy()
    pixels[0, 0, 0, 0], pixels[0, 0, 0, 1] = 0, 255
    with pytest.raises(ProbeError, match=message) as caught:
        run(tmp_path, {}, pixels)
    assert "\n" not in str(caught.value)


def test_the_example_of_the_documentation_runs(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "guide" / "probes.md").read_text(encoding="utf-8")
    for name, body in re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).write_text(body, encoding="utf-8")
    grid = make_grid(tomllib.loads((tmp_path / "probes.toml").read_text())["probes"], tmp_path)
    perturb = grid.families["salt_and_pepper"].perturb
    assert perturb is not None
    batch = Batch(np.full((2, 3, 64, 64), 99, np.uint8), np.arange(2, dtype=np.uint64), np.arange(2), 0)
    made = perturb(np, batch, grid.conditions[1:], lambda: np.empty((2, 3, 64, 64), np.float32))
    changed = {condition["share"]: (images != np.float32(99 / 255)).mean() for condition, images in made}
    assert changed == {share: pytest.approx(share, rel=0.1) for share in (0.02, 0.1, 0.3)}


def test_what_rng_gives_does_not_change_with_the_program(tmp_path: Path, write: Write) -> None:
    """Bits of the generator itself, which NumPy keeps, unlike those of distributions."""
    write("def mirror(images, rng):\n    return 0 * images + rng.bit_generator.random_raw() % 1000 / 1000\n")
    values = run(tmp_path, {}, PIXELS, seed=3)["mirror"][:, 0, 0, 0]
    np.testing.assert_allclose(values, [0.062, 0.061, 0.213], atol=1e-6)


DEPENDENT = {
    "a global generator": "return np.where(np.random.rand(*images.shape) < level, 0, images)",
    "one mask a call": "return np.where(np.random.rand(*images.shape[2:]) < level, 0, images)",
    "one pixel": "images[:, :, np.random.randint(16), np.random.randint(16)] = np.random.rand()\n    return images",
    "Python's generator": "return images * random.random()",
    "a generator of the batch": "return images * np.random.default_rng(0).random((len(images), 1, 1, 1))",
    "a generator seeded by place": (
        "return np.stack([one * np.random.default_rng(k).random() for k, one in enumerate(images)])"
    ),
    "a mean over the batch": "return np.clip(images - images.mean() + 0.5, 0, 1)",
    "neighbours": "return (images + images[::-1]) / 2",
    "its calls": "calls.append(0)\n    return images / len(calls)",
    "its calls, in an array that it keeps": (
        "calls.append(0)\n    kept[: len(images)] = images / len(calls)\n    return kept[: len(images)]"
    ),
}


KEPT = "calls, kept = [], np.zeros((9, 3, 16, 16), np.float32)"


@pytest.mark.parametrize("body", DEPENDENT.values(), ids=DEPENDENT)
@pytest.mark.parametrize("count", [2, 3])
def test_what_depends_on_more_than_the_image_is_refused(tmp_path: Path, write: Write, body: str, count: int) -> None:
    write(f"import random\nimport numpy as np\n{KEPT}\ndef mirror(images, level=0.5):\n    {body}\n")
    with pytest.raises(ProbeError) as caught:
        run(tmp_path, {}, PIXELS[:count], range(count), range(count))
    line = re.fullmatch(
        r"probe mirror gives image (\d) of the set, counted from 0, other values [a-z ]+; treat each image by itself, "
        r"and draw random numbers from rng alone: def mirror\(images, level, rng\)",
        str(caught.value),
    )
    assert line is not None
    assert int(line[1]) < count


def test_a_function_that_stays_in_range_with_the_images_of_the_set_may_leave_it_with_others(
    tmp_path: Path, write: Write
) -> None:
    write("def mirror(images):\n    return images + 0.5\n")
    assert run(tmp_path, {}, PIXELS // 2)["mirror"].max() <= 1


def test_it_is_looked_for_in_functions_that_take_rng_too(tmp_path: Path, write: Write) -> None:
    write("import numpy as np\ndef mirror(images, rng):\n    return images * np.random.rand() * rng.random()\n")
    with pytest.raises(ProbeError, match=r"from rng alone: def mirror\(images, rng\)$"):
        run(tmp_path, {}, PIXELS)


def test_a_function_may_fill_the_same_array_each_time(tmp_path: Path, write: Write) -> None:
    write(
        f"import numpy as np\n{KEPT}\n"
        "def mirror(images):\n    kept[: len(images)] = images[..., ::-1]\n    return kept[: len(images)]\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS[..., ::-1] / 255, atol=1e-7)


def test_what_a_function_keeps_does_not_matter_if_images_come_out_the_same(tmp_path: Path, write: Write) -> None:
    write(
        "import numpy as np\n"
        "kept = {}\n"
        "def mirror(images):\n"
        "    mask = kept.setdefault('mask', np.random.default_rng(0).random(images.shape[2:]) < 0.2)\n"
        "    return np.round(np.where(mask, 0, images) * 255) / 255\n"
    )
    assert (run(tmp_path, {}, PIXELS)["mirror"] == 0).any()


@pytest.mark.parametrize(
    "body",
    [
        "return torch.from_numpy(images)",
        "return torch.from_numpy(images).double().requires_grad_()",
        "return torch.from_numpy(images.round()).to(torch.uint8)",
        "return torch.from_numpy(images.round()).to(torch.bfloat16)",
    ],
)
def test_tensors_of_torch_may_come_back(tmp_path: Path, write: Write, body: str) -> None:
    write(f"import torch\ndef mirror(images):\n    {body}\n")
    images = PIXELS / np.float32(255)
    expected = images.round() if "round" in body else images
    np.testing.assert_array_equal(run(tmp_path, {}, PIXELS)["mirror"], expected)


RAISED = {
    "GeneratorExit": "GeneratorExit: enough",
    "SystemExit": "SystemExit: enough",
    "KeyboardInterrupt": "KeyboardInterrupt: enough",
    "StopIteration": "StopIteration: enough",
    "Own": "Own: enough",
    "Shy": "Shy",
}


CLASSES = """
class Own(BaseException):
    pass
class Shy(Exception):
    def __str__(self):
        raise ValueError
"""


@pytest.mark.parametrize(("error", "message"), RAISED.items())
def test_whatever_it_raises_is_one_line(tmp_path: Path, write: Write, error: str, message: str) -> None:
    """It is raised in the thread that perturbs, where an interrupt cannot be the user's."""
    raised: list[BaseException] = []

    def attempt(source: str) -> None:
        write(source)
        try:
            run(tmp_path, {}, PIXELS)
        except BaseException as exception:  # noqa: BLE001
            raised.append(exception)

    for source in (
        f"{CLASSES}def mirror(images):\n    raise {error}('enough')\n",
        f"{CLASSES}raise {error}('enough')\n",
    ):
        thread = threading.Thread(target=attempt, args=(source,))
        thread.start()
        thread.join()
    assert [type(exception) for exception in raised] == [ProbeError, UsageError]
    assert str(raised[0]) == f"probe mirror failed: {message}"
    assert str(raised[1]) == f"probe mirror: {tmp_path / 'mine.py'} does not load: {message}"


def test_an_interrupt_that_it_sends_itself_is_its_error(tmp_path: Path, write: Write) -> None:
    write("import signal\nsignal.raise_signal(signal.SIGINT)\ndef mirror(images):\n    return images\n")
    with pytest.raises(UsageError, match=r"mine.py does not load: KeyboardInterrupt:$"):
        run(tmp_path, {}, PIXELS)


LOOK_ALIKES = {
    "shape alone": ("class A:\n    shape = (3, 3, 16, 16)\n", "A()", "returned A; expected an array"),
    "all of it": (
        "class A:\n"
        "    shape, dtype = (3, 3, 16, 16), np.dtype('f4')\n"
        "    def min(self): raise KeyError\n"
        "    max = min\n",
        "A()",
        "returned A; expected an array",
    ),
    "a list": ("", "images.tolist()", "returned list; expected an array"),
    "a class that lies": (
        "class A:\n    __class__ = property(lambda self: 1 / 0)\n",
        "A()",
        "failed: ZeroDivisionError",
    ),
    "a mask over NaN": ("", "np.ma.masked_invalid(images * np.nan)", r"returned NaN or infinity"),
    "complex numbers": ("", "images * 1j", "returned complex64 values"),
    "sparse": ("import torch\n", "torch.from_numpy(images).to_sparse()", "failed: TypeError"),
    "meta": ("import torch\n", "torch.empty(images.shape, device='meta')", "failed: "),
}


@pytest.mark.parametrize(("head", "result", "message"), LOOK_ALIKES.values(), ids=LOOK_ALIKES)
def test_what_looks_like_an_array_is_none(tmp_path: Path, write: Write, head: str, result: str, message: str) -> None:
    write(f"import numpy as np\n{head}def mirror(images):\n    return {result}\n")
    with pytest.raises(ProbeError, match=f"probe mirror {message}") as caught:
        run(tmp_path, {}, PIXELS)
    assert "\n" not in str(caught.value)


def test_what_it_prints_goes_to_standard_error(tmp_path: Path, write: Write, capfd: pytest.CaptureFixture[str]) -> None:
    write(
        "import os, subprocess, sys\n"
        "print('loading')\n"
        "def mirror(images):\n"
        "    print('at work')\n"
        "    print('past it', file=sys.__stdout__)\n"
        "    os.write(1, b'below it\\n')\n"
        "    subprocess.run([sys.executable, '-c', 'print(\"a program\")'], check=True)\n"
        "    return images\n"
    )
    run(tmp_path, {}, PIXELS)
    print("result")
    out, err = capfd.readouterr()
    assert out == "result\n"
    assert {"loading", "at work", "past it", "below it", "a program"} <= set(err.splitlines())


def test_what_it_logs_goes_there_too_however_often_it_is_called(
    tmp_path: Path, write: Write, capfd: pytest.CaptureFixture[str]
) -> None:
    """A handler keeps the stream that was standard error when it was made; a stream may be closed."""
    write(
        "import logging, sys\n"
        "logger = logging.getLogger('mirror')\n"
        "logger.propagate = False\n"
        "logger.addHandler(logging.StreamHandler(sys.stderr))\n"
        "def mirror(images):\n    logger.warning('said')\n    return images\n"
    )
    run(tmp_path, {}, PIXELS)
    assert capfd.readouterr() == ("", "said\n" * 4)
    write("import sys\ndef mirror(images):\n    print('said')\n    sys.stdout.close()\n    return images\n")
    run(tmp_path, {}, PIXELS)
    assert capfd.readouterr() == ("", "said\n" * 4)


def test_it_may_close_and_use_any_number_of_a_descriptor(tmp_path: Path, write: Write) -> None:
    """Those of the command are none of its own."""
    write(
        "import os\nfor number in (1, 2):\n    os.close(number)\n"
        "mine, _ = os.pipe()\nassert mine == 1\nos.close(mine)\n"
        "def mirror(images):\n    os.close(1)\n    return images\n"
    )
    np.testing.assert_allclose(run(tmp_path, {}, PIXELS)["mirror"], PIXELS / 255, atol=1e-7)


SALT = """
def salt(images, share, rng, index, seed):
    images[rng.random(images.shape) < share] = (index + seed) % 2
    return images
def without_abs(images):
    import numpy
    numpy.abs = None
    return images
"""


def test_images_are_those_that_the_function_makes_here(xp: ModuleType, tmp_path: Path, write: Write) -> None:
    file, code = write(SALT), dict[str, Any]()
    family = user_family("salt", start_probe("salt", {"file": file.name}, tmp_path))
    exec(SALT, code)
    conditions = family.conditions({"share": [0.0, 0.5]})
    for count, size in ((2, 16), (5, 16), (1, 32), (2, 16)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 3, size, size), np.uint8)
        host = Batch(pixels, np.arange(count, dtype=np.uint64), np.arange(count), 3)
        batch = replace(host, pixels=xp.asarray(pixels), keys=xp.asarray(host.keys))
        buffers = family.perturb(xp, batch, conditions, lambda: xp.empty(pixels.shape, xp.float32))  # noqa: B023
        for condition, images in buffers:
            how = ProbeCall("probe salt", ("rng", "index", "seed"), "")
            expected = perturb_batch(code["salt"], how, False, host, condition)
            np.testing.assert_array_equal(to_numpy(images), expected)


def test_what_fails_around_the_function_is_one_line_too(tmp_path: Path, write: Write) -> None:
    write(SALT)
    grid = make_grid({"without_abs": {"file": "mine.py"}}, tmp_path)
    batch = Batch(PIXELS, np.arange(3, dtype=np.uint64), np.arange(3), 0)
    message = r"^probe without_abs failed: TypeError: 'NoneType' object is not callable$"
    for _ in range(2):
        with pytest.raises(ProbeError, match=message):
            list(grid.families["without_abs"].perturb(np, batch, grid.conditions[1:], lambda: np.empty(PIXELS.shape)))


def test_what_it_read_at_any_time_spoils_what_comes_after(tmp_path: Path, write: Write) -> None:
    """It may have kept what it read."""
    write("0.5", "mask.txt")
    write(
        "from pathlib import Path\nmasks = []\n"
        "def mirror(images, strength):\n"
        "    masks[:] = masks or [float(Path(__file__).with_name('mask.txt').read_text())]\n"
        "    return images * masks[0]\n"
    )
    grid = make_grid({"mirror": {"file": "mine.py", "strength": [1, 2]}}, tmp_path)
    batch = Batch(PIXELS, np.arange(3, dtype=np.uint64), np.arange(3), 0)
    for condition in grid.conditions[1:]:
        with pytest.raises(ProbeError, match=r"^probe mirror reads mask.txt, and nothing says that"):
            list(grid.families["mirror"].perturb(np, batch, [condition], lambda: np.empty(PIXELS.shape)))
