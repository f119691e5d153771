"""Label files of someone else's: any text is labels or one line, in little time and memory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from fuzzing import assert_refused, damaged, fuzz, limited, refusal
from hypothesis import given
from hypothesis import strategies as st
from scipy.io import savemat

from bandlens.core.protocol import VALIDATION as IMAGES
from bandlens.probes.benchmarks.layouts import read_real, read_truth
from bandlens.probes.images.labels import labels_of_csv

PATHS = ["a/x.jpg", "b/y.jpg"]
CSV = "path,class\na/x.jpg,1\nb/y.jpg,65535\n"
TRUTH = "file label\nILSVRC2012_val_00000001.JPEG 65\nILSVRC2012_val_00000002.JPEG n01440764 more\n"

READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "csv": (CSV, lambda file: labels_of_csv(file, PATHS)),
    "truth": (TRUTH, read_truth),
    "real": ("[[1], [2, 3], []]", read_real),
}
texts = st.text(max_size=80) | st.lists(
    st.sampled_from(
        ["path", "class", "a/x.jpg", "b/y.jpg", "1", "-1", "NaN", "1e400", "９", "9" * 5000, '"', ",", "\n", "\r", "\0",
         "ILSVRC2012_val_00000001.JPEG", "ILSVRC2012_val_٠٠٠٠٠٠٠١.JPEG", "n01440764", " ",
         "\ufeff"]
    ),
    max_size=12,
).map("".join)  # fmt: skip


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("labels") / "labels"


@pytest.mark.parametrize("kind", READERS)
@fuzz(33)
@given(data=st.data())
def test_any_file_is_labels_or_one_line(kind: str, file: Path, data: st.DataObject) -> None:
    example, read = READERS[kind]
    content = damaged(example.encode()) | texts.map(lambda text: text.encode(errors="replace")) | st.binary(max_size=50)
    file.write_bytes(data.draw(content))
    refusal(lambda: read(file))


def test_small_files_do_not_become_large(tmp_path: Path) -> None:
    savemat(tmp_path / "meta.mat", {"synsets": np.zeros(1 << 27)}, do_compression=True)
    (tmp_path / "truth.txt").write_text("7\n" * IMAGES)
    (tmp_path / "nested.json").write_text("[" * 10**6)
    (tmp_path / "wide.csv").write_text("path,class\n" + "," * 10**7)
    (tmp_path / "many.csv").write_text("path,class\n" + "x,1\n" * 10**6)
    (tmp_path / "many.json").write_text("[" + "[]," * 10**6 + "[]]")
    code = """
import numpy
from pathlib import Path
from bandlens.probes.benchmarks.layouts import read_real, read_truth
from bandlens.probes.images.labels import labels_of_csv
limit(700)
folder = Path(sys.argv[1])
attempt("zeros as csv", lambda: labels_of_csv(Path("/dev/zero"), ["a"]))
attempt("zeros as real", lambda: read_real(Path("/dev/zero")))
attempt("meta", lambda: read_truth(folder / "truth.txt"))
for name in ("nested.json", "many.json"):
    attempt(name, lambda: read_real(folder / name))
for name in ("wide.csv", "many.csv"):
    attempt(name, lambda: labels_of_csv(folder / name, ["a"]))
"""
    attempts = limited(code, tmp_path)
    assert len(attempts) == 7
    for name, attempt in attempts.items():
        assert_refused({"name": name} | attempt, megabytes=1000)
