"""One call to an answer: what it takes, what it leaves, how it goes on, and what it says of what it cannot do."""

from __future__ import annotations

import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import quick_export  # noqa: F401 - a network is exported
import torch
from numpy.typing import NDArray
from PIL import Image
from small import Command, ask, make_model, make_pictures

import bandlens
from bandlens import UsageError
from bandlens.app.cli.commands.look import print_look
from bandlens.export.onnx.parity import join_outputs, run_in_batches, split_batches
from bandlens.probes.images.image_set import open_image_set

PREDICTIONS = "SELECT probe, parameters, path, predicted FROM flip ORDER BY ALL"
NETWORK = ("mine.onnx", "photos")


@pytest.fixture(autouse=True)
def trials_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are tried in this process: that it is another one is tested with the export."""

    def compute(content: bytes, images: NDArray[np.float32], batch: int, file: str) -> NDArray[np.float32]:
        return join_outputs(run_in_batches(content, split_batches(images, batch), file), file)

    monkeypatch.setattr("bandlens.export.onnx.import_file.try_logits", compute)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with mine.onnx and 24 pictures in two folders of `photos`."""
    monkeypatch.setenv("BANDLENS_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    make_model(tmp_path, classes=2).path.rename(tmp_path / "mine.onnx")
    (tmp_path / "one.json").unlink()
    for row, picture in enumerate(make_pictures(24)):
        place = tmp_path / "photos" / ("cat", "dog")[row % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place / f"{row}.png")
    return tmp_path


def brightness(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """Logits of two classes, dark and bright, of (n, height, width, 3)."""
    mean = images.mean((1, 2, 3)) - 0.5
    return np.stack([-mean, mean], 1)


def test_the_commands_that_it_prints_do_the_same(folder: Path, command: Command) -> None:
    answer = command("look", *NETWORK, "--labels", "folders", "--normalization", "none", "--minutes", "60")
    assert answer.code == 0
    assert answer.out.count("cycles/image  ") == 12
    assert re.search(r"accuracy under filters, with 95 % intervals:\n  clean +█+ +[01]\.\d\d \[.*\]\n", answer.out)
    lines = answer.out.splitlines()
    with bandlens.open("look/results.duckdb") as results:
        assert lines[: len(results.verdict("look"))] == results.verdict("look")
    by_hand = [line.strip() for line in lines if line.startswith("  bandlens ")]
    assert [line.split()[1] for line in by_hand] == ["export", "images", "run", "analyze", "report", "explore"]
    assert {"look.toml", "report.html", "flips.png"} <= {file.name for file in Path("look").iterdir()}
    rows = ask(folder / "look/results.duckdb", PREDICTIONS)
    text = Path("look/look.toml").read_text(encoding="utf-8")
    Path("look").rename("first")
    Path("look").mkdir()
    Path("look/look.toml").write_text(text, encoding="utf-8")
    for line in by_hand[:-1]:
        answer = command(*shlex.split(line)[1:])
        assert answer.code == 0
    assert re.search(r"report.html: \d+ sections, \d+ charts, \d(\.\d+)? MB", answer.out)
    assert ask(folder / "look/results.duckdb", PREDICTIONS) == rows != []


def test_it_goes_on_with_more_images(folder: Path) -> None:
    first = bandlens.look(*NETWORK, normalization="none", minutes=60)
    text = first.file.read_text(encoding="utf-8")
    first.database.unlink()
    first.file.write_text(text.replace("limit = 24", "limit = 10"), encoding="utf-8")
    bandlens.run(first.study, first.database, analyze=False)
    (made,) = ask(first.database, "SELECT sum(count) FROM part")
    second = bandlens.look(*NETWORK, minutes=60)  # the normalization is known by now
    assert second.study.limit == 24
    assert second.label == "look@2"
    (every,) = ask(first.database, "SELECT count(*) FROM study_detail JOIN prediction USING (cell)")
    assert (made[0] / 10 * 24,) == every
    assert second.sentences == first.sentences


def files_in(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        *("photos.set/set.json", "photos.set/index.parquet", "models/mine.json", "models/mine.onnx"),
        *("results.duckdb", "report.html", "flips.png"),
    ],
)
def test_what_no_look_made_is_refused_and_stays(folder: Path, name: str) -> None:
    file = folder / "here" / name
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    before = files_in(folder)
    with pytest.raises(UsageError, match=r"here/.* is there already, and no look made it; .*another folder with `out`"):
        bandlens.look(*NETWORK, normalization="none", out="here")
    assert files_in(folder) == before


def test_a_set_and_a_model_of_the_user_stay(folder: Path, command: Command) -> None:
    assert command("images", "pack", "photos", "--out", "photos.set", "--size", "128").code == 0
    make_model(folder, classes=3, name="mine").path.rename(folder / "other.onnx")
    before = files_in(folder)
    for out in (".", folder):
        with pytest.raises(
            UsageError, match=r"photos\.set is there already, and no look made it; give it as the images"
        ):
            bandlens.look(*NETWORK, normalization="none", out=out)
    assert files_in(folder) == before


def test_a_set_that_a_look_made_is_replaced_with_what_lies_in_it(folder: Path) -> None:
    bandlens.look(*NETWORK, normalization="none", minutes=60)
    Path("look/photos.set/notes.txt").write_text("mine")
    Path("photos/cat/0.png").unlink()
    assert bandlens.look(*NETWORK, normalization="none", minutes=60).images.info.count == 23
    assert Path("look/photos.set/notes.txt").read_text() == "mine"
    assert open_image_set(Path("look/photos.set")).info.count == 23


def test_code_that_a_folder_names_is_listed_and_does_not_run_unasked(folder: Path, command: Command) -> None:
    study = bandlens.look(*NETWORK, normalization="none", minutes=60).file
    text = study.read_text(encoding="utf-8")
    Path("look/found.py").write_text("open('ran', 'w').close()\ndef found(image):\n    return image\n")
    study.write_text(text.replace("[probes]", "[probes]\nfound = { file = 'found.py' }"), encoding="utf-8")
    answer = command("look", *NETWORK, "--normalization", "none", "--minutes", "60")
    assert answer.code == 2
    assert "look/look.toml was found there, and runs code (probe found: look/found.py)" in answer.err
    assert "--allow-code" in answer.err
    assert not Path("ran").exists()
    bandlens.look(*NETWORK, normalization="none", minutes=60, allow_code=True)
    assert Path("ran").exists()


def test_a_function_and_images_in_memory(folder: Path) -> None:
    pixels = make_pictures(20)
    labels = [int(picture.mean() > 127.5) for picture in pixels]
    look = bandlens.look(brightness, pixels, labels, name="bright", version="1", image_size=128, minutes=60)
    assert open_image_set(Path("look/images.set")).info.labelled
    with look.results as results:
        assert results.sql("SELECT top1 FROM accuracy WHERE probe = 'clean'").item() == 1
        assert results.sql("SELECT DISTINCT engine FROM cell").item() == "function"
    assert [line.split()[1] for line in look.commands] == ["run", "analyze", "report", "explore"]
    with pytest.raises(
        UsageError, match=r"look holds a look at bright on .*images.set; name another folder with `out`"
    ):
        bandlens.look(*NETWORK, normalization="none")
    for other, pictures, version in (("another bright", pixels, "2"), ("other images", make_pictures(20, 96), "1")):
        with pytest.raises(UsageError, match=f"look holds a look at {other}.* name another folder with `out`"):
            bandlens.look(brightness, pictures, labels, name="bright", version=version, image_size=128)
    assert bandlens.look(brightness, pixels, name="bright", version="1", image_size=128, minutes=60).label == "look@2"
    with pytest.raises(UsageError, match=r"images\.set is packed, and has the labels that it was packed with"):
        bandlens.look("mine.onnx", "look/images.set", "folders", normalization="none", out="labelled")


def test_a_notebook_and_a_terminal_show_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("photos/cat/0.png").rename("photos/cat/<b>.png")
    Path("photos").rename("<b>photos")
    look = bandlens.look("mine.onnx", "<b>photos", normalization="none", minutes=60)
    html = look._repr_html_()
    assert "<svg" in html
    assert "data:image/png;base64," in html
    assert "Dashed: without perturbation. Dotted: chance, " in html
    assert html.count("<b>") == 1  # the sentence
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    print_look(look)
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80 and not line.startswith("  bandlens ")] == []
    assert Path("look/report.html").is_file()
    with look.results as results:
        assert results.verdict(look.label) == look.sentences


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("mine.onnx", "photos"),
            "mine does not say how its images are normalized; give --normalization imagenet, none, or "
            "MEAN:STD; mean probability of the answer on 24 images: ",
        ),
        (("min.onnx", "photos"), "there is no file min.onnx, and no model of this name; did you mean mine.onnx?; give"),
        ((".", "photos"), ". is a folder without config.json; give a file, such as mine.onnx"),
        (("single", "photos"), "single is a folder without config.json; give an ONNX file, a checkpoint's name"),
        (
            ("mine.onnx", "photos", "--normalization", "none", "--minutes", "0"),
            "0.0 s are too short for 20 images under 19 conditions here; give --minutes ",
        ),
        (
            ("mine.onnx", "single", "--normalization", "none"),
            "single has one image, and one has no interval; give 20",
        ),
        (
            ("mine.onnx", "photos/cat/0.png", "--normalization", "none"),
            "photos/cat/0.png is one image; give its folder",
        ),
    ],
)
def test_what_lacks_is_one_line(folder: Path, command: Command, words: tuple[str, ...], message: str) -> None:
    Path("single").mkdir()
    Image.fromarray(make_pictures(1)[0]).save("single/1.png")
    answer = command("look", *words)
    assert answer.code == 2
    line = answer.err.splitlines()[-1]
    assert line.startswith(f"bandlens: {message}")
    assert not Path("look/results.duckdb").exists()
    assert Path("look").exists() == (words[0] == "mine.onnx")  # it is not left empty


@pytest.mark.parametrize(
    ("model", "images", "settings", "message"),
    [
        (3, np.zeros((3, 8, 8, 3), np.uint8), {}, "model is of int; give a path, a name, a network or a function"),
        (torch.nn.Flatten, "photos", {}, r"model is the class Flatten; give Flatten\(\), an instance"),
        (brightness, "photos", {"version": "1", "normalization": "none"}, "leave out `normalization`, and norm"),
        (brightness, "photos", {"version": "1", "labels": [0, 1]}, "labels of a folder are 'folders'"),
        (brightness, make_pictures(3), {"version": "1", "minutes": float("nan")}, "minutes is nan; give 0 or more"),
    ],
)
def test_arguments_of_python_that_are_none(
    folder: Path, model: Any, images: Any, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        bandlens.look(model, images, image_size=128, **settings)


def test_a_network_in_memory_says_nothing_of_its_normalization(folder: Path) -> None:
    torch.manual_seed(0)  # other weights may give logits without a sign, which are refused as features
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    message = "Sequential does not say how its images .*; give `normalization` imagenet, .*; mean .* on 24 images"
    with pytest.raises(UsageError, match=message):
        bandlens.look(network, "photos", image_size=64)


def test_a_file_that_was_exported_keeps_its_normalization(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    exported = bandlens.export_model("mine.onnx", "again", mean=0, std=0.5, out="look/models")
    first = bandlens.look("again", "photos", minutes=60)
    assert first.commands[0] == "bandlens export again --out look/models"
    assert first.sentences == bandlens.look(exported.path, "photos", normalization="imagenet", minutes=60).sentences
    assert "look/models/again.onnx was exported with its normalization, which is taken" in caplog.text
    with pytest.raises(UsageError, match="again has its own name and normalization; leave out `name` and `normal"):
        bandlens.look("again", "photos", normalization="none")


def test_folders_named_as_classes_of_imagenet_are_no_labels_of_other_classes(folder: Path) -> None:
    for old, new in (("cat", "n02123045"), ("dog", "n02085620")):
        Path("photos", old).rename(Path("photos", new))
    look = bandlens.look(*NETWORK, normalization="none", minutes=60)
    assert set(look.curve["measure"]) == {"agreement"}
    assert all(f" {column} " in str(look.curve) for column in ("probe", "cutoff", "top1", "low", "high", "n"))
    assert "--labels none" in look.commands[1]
    assert str(look).startswith(look.sentences[0])


def test_labels_are_matched_by_name_or_refused(folder: Path, command: Command) -> None:
    make_model(folder, "seven", classes=7)
    answer = command("look", "seven.onnx", "photos", "--labels", "folders")
    assert re.search(r"\nbandlens: .* photos has labels of 2 classes and seven has 7, .*: --labels none\n$", answer.err)
    pixels = torch.from_numpy(make_pictures(20))
    dataset = torch.utils.data.TensorDataset(pixels, (pixels.float().mean((1, 2, 3)) < 127.5).int())
    dataset.classes = ["bright", "dark"]
    with pytest.raises(UsageError, match=r"and seven has 7, so .*; or measure agreement: `labels` none"):
        bandlens.look("seven.onnx", dataset)
    assert set(bandlens.look("seven.onnx", dataset, "none", minutes=60).curve["measure"]) == {"agreement"}
    model = bandlens.export_function(brightness, "bright", "named", image_size=128, out="named/models")
    bandlens.name_classes(model, ["dark", "bright"])
    with bandlens.look(model, dataset, minutes=60, out="named").results as results:
        assert results.sql("SELECT top1 FROM accuracy WHERE probe = 'clean'").item() == 1


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch.compile warns so.
def test_arrays_and_datasets_say_what_they_are(folder: Path) -> None:
    pixels, seen = make_pictures(20, 32), set[tuple[int, ...]]()

    def answer(images: NDArray[np.float32]) -> NDArray[np.float32]:
        seen.add(images.shape[1:])
        return brightness(images)

    for number, images in enumerate((pixels, [*map(Image.fromarray, pixels)], [*map(torch.tensor, pixels)])):
        look = bandlens.look(answer, images, version="1", out=f"look{number}", minutes=60)
        assert len(look.notes) == 1
        packed = open_image_set(Path(f"look{number}/images.set"))
        assert seen == {(32, 32, 3)}
        assert sorted(packed.take(np.arange(20)).sum((1, 2, 3)).tolist()) == sorted(pixels.sum((1, 2, 3)).tolist())
    network = torch.nn.Sequential(torch.nn.AvgPool2d(16), torch.nn.Flatten(), torch.nn.Linear(12, 2))
    network[2].weight.data = torch.tensor([[1.0], [-1]]).repeat(1, 12)
    look = bandlens.look(torch.compile(network), pixels, normalization="0.5:0.5", out="net", minutes=60)
    assert (look.images.info.size, look.study.checkpoints) == (32, ["Sequential"])
    tiny = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(768, 2))
    look = bandlens.look(tiny, pixels[:, ::2, ::2], normalization="none", out="tiny", minutes=60)
    assert len({line.partition("  ")[0] for line in look.curve_lines}) == len(look.curve_lines)
    assert open_image_set(Path("tiny/images.set")).info.size == 16
    enlarged = bandlens.look(brightness, pixels, version="1", image_size=64, out="enlarged", minutes=60)
    assert enlarged.notes[1].startswith("images: more than a tenth of its images were enlarged, and have nothing")
