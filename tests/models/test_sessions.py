"""Sessions of every engine: what they compute, what they refuse, and that they do not disturb each other.

Those of the CPU are always tested; `--engine onnxruntime-cuda` and the like add one of a GPU.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from small import CLASSES, make_batch, make_model

from bandlens.core.errors import BandlensError, EngineError, ExportError, UnknownName, UsageError
from bandlens.core.records import Model
from bandlens.engine.backends.base import ENGINES, arrays_of, open_session, variant_of
from bandlens.export.model_files import save_model
from bandlens.probes.arrays import Array, to_numpy

Images = NDArray[np.float32]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "engine" in metafunc.fixturenames:
        engine = metafunc.config.getoption("--engine")
        metafunc.parametrize("engine", dict.fromkeys(["onnxruntime", "openvino", engine]), indirect=True)


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    if request.param == "openvino" and find_spec("openvino") is None:
        pytest.skip("the extra openvino is not installed")
    return str(request.param)


def place_images(engine: str, images: Images) -> Array:
    """The images where the engine takes them."""
    return arrays_of(engine).asarray(images)


def logits(engine: str, model: Model, images: Images, precision: str = "fp32") -> Images:
    with open_session(variant_of(model, engine, precision), len(images), 1) as session:
        return to_numpy(session.infer(place_images(engine, images))).copy()


def test_equals_the_reference_implementation_of_onnx(engine: str, tmp_path: Path) -> None:
    model, images = make_model(tmp_path, size=32), make_batch(4, 32)
    [expected] = ReferenceEvaluator(onnx.load(model.path)).run(None, {"images": images})
    np.testing.assert_allclose(logits(engine, model, images), expected, rtol=1e-4, atol=1e-4)


def test_position_and_batch_size_make_no_difference(engine: str, tmp_path: Path) -> None:
    model, images = make_model(tmp_path), make_batch(8)
    batch_logits = logits(engine, model, images)
    order = np.random.default_rng(0).permutation(8)
    np.testing.assert_array_equal(logits(engine, model, images[order]), batch_logits[order])
    for k in range(8):
        np.testing.assert_allclose(logits(engine, model, images[k : k + 1])[0], batch_logits[k], rtol=1e-5, atol=1e-5)


def test_sessions_that_share_memory_do_not_disturb_each_other(engine: str, tmp_path: Path) -> None:
    models = [make_model(tmp_path, f"m{k}", seed=k) for k in range(4)]
    images = make_batch(8)
    answers = [logits(engine, model, images) for model in models]
    sessions = [open_session(variant_of(model, engine, "fp32"), 8, 2) for model in models]
    for turn in ([0, 1, 2, 3], [3, 1, 0, 2]):
        for k in turn:
            np.testing.assert_array_equal(to_numpy(sessions[k].infer(place_images(engine, images))), answers[k])
    arrays = [sessions[k].infer(place_images(engine, images)) for k in range(4)]
    for k in range(4):
        np.testing.assert_array_equal(to_numpy(arrays[k]), answers[k], "another session wrote into this one's logits")


def test_images_are_read_where_they_lie(engine: str, tmp_path: Path) -> None:
    """A buffer that holds other images by the next call gives their logits, and another buffer its own."""
    model, images, other_images = make_model(tmp_path), make_batch(4), make_batch(4, seed=6)
    expected = [logits(engine, model, images), logits(engine, model, other_images)]
    with open_session(variant_of(model, engine, "fp32"), 4, 1) as session:
        buffer, second = place_images(engine, images.copy()), place_images(engine, other_images.copy())
        np.testing.assert_array_equal(to_numpy(session.infer(buffer)), expected[0])
        np.testing.assert_array_equal(to_numpy(session.infer(second)), expected[1])
        buffer[...] = second
        np.testing.assert_array_equal(to_numpy(session.infer(buffer)), expected[1])


def test_says_how_it_runs(engine: str, tmp_path: Path) -> None:
    with open_session(variant_of(make_model(tmp_path), engine, "fp32"), 8, 1) as session:
        info = session.info
    assert (info.batch, info.threads) == (8, 1 if arrays_of(engine) is np else 0)
    assert info.device
    assert engine.partition("-")[0] in info.versions


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (make_batch(3), "(3, 3, 128, 128)"),
        (make_batch(4).astype(np.float64), "float64"),
        (make_batch(4, 64), "(4, 3, 64, 64)"),
        (make_batch(4).transpose(0, 1, 3, 2), "contiguous"),
    ],
    ids=["batch", "type", "size", "order"],
)
def test_another_input_than_its_own_is_refused(engine: str, images: Images, received: str, tmp_path: Path) -> None:
    with open_session(variant_of(make_model(tmp_path), engine, "fp32"), 4, 1) as session:
        with pytest.raises(EngineError) as error:
            session.infer(place_images(engine, images))
        assert received in str(error.value)
        assert "(4, 3, 128, 128)" in str(error.value)
        assert session.infer(place_images(engine, make_batch(4))).shape == (4, CLASSES), "the session still works"


# Files that cannot be run


def one_line(error: BandlensError) -> str:
    assert "\n" not in str(error)
    return str(error)


def written(folder: Path, content: bytes) -> Model:
    """A model whose file is this, whatever it is."""
    model = replace(make_model(folder), sha256=hashlib.sha256(content).hexdigest())
    save_model(model, content, {})
    return model


def one_node_model(folder: Path, operator: str) -> Model:
    """A model whose one operator is of a domain that nobody knows."""
    text = f"""<ir_version: 8, opset_import: ["": 17, "mine": 1]>
    case (float[batch, 3, 128, 128] images) => (float[batch, 3, 128, 128] logits) {{
        logits = mine.{operator} (images)
    }}"""
    return written(folder, onnx.parser.parse_model(text).SerializeToString())


def test_a_damaged_file_is_refused(engine: str, tmp_path: Path) -> None:
    model = make_model(tmp_path)
    content = bytearray(model.path.read_bytes())
    content[len(content) // 2] ^= 1
    model.path.write_bytes(content)
    with pytest.raises(ExportError, match=r"one\.onnx has sha256 .* bandlens export one") as error:
        open_session(variant_of(model, engine, "fp32"), 4, 1)
    one_line(error.value)


def test_a_file_that_is_no_model_is_refused_and_nothing_printed(
    engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model = written(tmp_path, b"not a model")
    with pytest.raises(EngineError, match=r"one\.onnx: .* cannot open it: .*; .*export one again$") as error:
        open_session(variant_of(model, engine, "fp32"), 4, 1)
    one_line(error.value)
    assert capfd.readouterr() == ("", "")


def test_an_operator_that_there_is_not_is_named(engine: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(EngineError, match=r"(cannot open it|its ONNX file uses).*Unheard") as error:
        open_session(variant_of(one_node_model(tmp_path, "Unheard"), engine, "fp32"), 4, 1)
    one_line(error.value)
    assert capfd.readouterr() == ("", "")


def test_unknown_engines_and_precisions_are_named(tmp_path: Path) -> None:
    model = make_model(tmp_path)
    with pytest.raises(UnknownName, match="unknown engine 'onnxruntim'; did you mean onnxruntime"):
        open_session(variant_of(model, "onnxruntim", "fp32"), 4, 1)
    with pytest.raises(UsageError, match=r"onnxruntime runs .*, not bf16; set precision"):
        open_session(variant_of(model, "onnxruntime", "bf16"), 4, 1)


ROOT = Path(__file__).parents[2]


def test_the_page_has_every_engine_and_its_precisions() -> None:
    table = (
        (ROOT / "docs" / "guide" / "scale.md")
        .read_text(encoding="utf-8")
        .split("| `engine` | runs on | precisions")[1]
        .split("\n\n")[0]
    )
    rows = [line.split("|")[1:] for line in table.splitlines()[2:]]
    documented = {
        name: (where.split()[-1].removesuffix("s"), precisions.strip())
        for names, where, precisions, *_ in rows
        for name in re.findall(r"`(\S+?)`", names)
    }
    places = {"numpy": {"CPU"}, "cupy": {"GPU", "card"}}
    assert documented.keys() == ENGINES.keys()
    for name, engine in ENGINES.items():
        assert documented[name][0] in places[engine.arrays]
        assert documented[name][1] == ", ".join(engine.precisions)


SESSION = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from small import make_model
from bandlens.engine.backends.base import open_session, variant_of
with open_session(variant_of(make_model(Path(sys.argv[2])), sys.argv[3], "fp32"), 1, 1) as session:
    print(session.info.batch)
"""


def test_nothing_is_written_into_the_home_folder_and_nothing_printed(engine: str, tmp_path: Path) -> None:
    """Both libraries would leave an identity there, under which they tell their makers of this use."""
    home, support = tmp_path / "home", ROOT / "tests" / "support"
    home.mkdir()
    command = [sys.executable, "-P", "-c", SESSION, str(support), str(tmp_path / "models"), engine]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env={"HOME": str(home)})
    assert (result.stdout, result.stderr) == ("1\n", "")
    assert list(home.iterdir()) == []
