from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from small import make_model

from bandlens.core.errors import UsageError
from bandlens.core.records import Crop
from bandlens.export import models
from bandlens.export.models import (
    categorize_model,
    check_name,
    class_names_of,
    load_model,
    model_names,
    name_classes,
    save_model,
)


@pytest.mark.parametrize("name", ["my net (v2)", "epoch=3-val_loss=0.12", "a", "7.b+c", "x" * 200])
def test_names_that_can_name_a_file(name: str, tmp_path: Path) -> None:
    assert check_name(name) == name
    model = make_model(tmp_path, name)
    assert model_names(tmp_path) == [name]
    assert load_model(tmp_path, name) == model


@pytest.mark.parametrize(
    "name", ["", " a", "a ", "../up", "a/b", ".hidden", "-option", "a,b", "a\nb", "x" * 201, "a:b"]
)
def test_names_that_cannot(name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a model; use letters, digits, spaces and"):
        check_name(name)


def test_the_crop_of_a_model_is_read_again(tmp_path: Path) -> None:
    model = replace(make_model(tmp_path, "mine"), crop=Crop(128, 144, interpolation="bicubic"))
    save_model(model, model.path.read_bytes(), {})
    assert load_model(tmp_path, "mine") == model


def test_a_category_and_names_of_classes_are_kept_side_by_side(tmp_path: Path) -> None:
    model = make_model(tmp_path, "my net (v2)", classes=3)
    name_classes(model, ["ant", "bee", "cat"])
    assert categorize_model(model, "my nets").category == "my nets"
    stored = load_model(tmp_path, "my net (v2)")
    assert (stored.category, class_names_of(stored)) == ("my nets", ["ant", "bee", "cat"])
    with pytest.raises(UsageError, match="'a/b' cannot name a category"):
        categorize_model(stored, "a/b")
    assert load_model(tmp_path, "my net (v2)") == stored


def test_a_folder_that_may_only_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(tmp_path, "one", classes=2)

    def refuse(path: Path, _content: bytes) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(models, "write_bytes", refuse)
    line = r"^cannot write .*one\.json: Read-only file system; make its folder writable$"
    with pytest.raises(UsageError, match=line):
        name_classes(model, ["ant", "bee"])
    with pytest.raises(UsageError, match=line):
        categorize_model(model, "mine")
    assert load_model(tmp_path, "one") == model
