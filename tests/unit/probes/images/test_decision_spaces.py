"""Decision spaces against torchvision's names and the published lists."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from torchvision.models._meta import _IMAGENET_CATEGORIES

from bandlens.core.errors import UnknownName
from bandlens.core.protocol import SPACE_CLASSES
from bandlens.core.records import MULTILABEL
from bandlens.probes.images.decision_spaces import NAMES, decision_space, imagenet_classes, names_of, wnids_of


def test_the_thousand_classes_have_torchvisions_names() -> None:
    space = decision_space("all")
    assert list(space.names) == list(_IMAGENET_CATEGORIES)
    assert space.ids == tuple(range(1000))
    assert space.members == tuple((index,) for index in range(1000))


@pytest.mark.parametrize("name", ["imagenet-a", "imagenet-r"])
def test_two_hundred_classes_keep_their_indices(name: str, shared: Path) -> None:
    space = decision_space(name)
    wnids = (shared / "facts" / f"{name.replace('-', '_')}_wnids.txt").read_text().split()
    assert list(wnids_of(space)) == sorted(wnids)
    assert space.ids == tuple(sorted(imagenet_classes()[wnid] for wnid in wnids))
    assert len(space.ids) == 200
    assert space.members == tuple((index,) for index in space.ids)
    assert space.names == tuple(_IMAGENET_CATEGORIES[index] for index in space.ids)


def test_sixteen_classes_are_numbered_by_name(shared: Path) -> None:
    space = decision_space("sixteen")
    members = json.loads((shared / "facts" / "sixteen_classes.json").read_text())
    assert space.names == tuple(sorted(members))
    assert space.ids == tuple(range(16))
    assert space.members == tuple(tuple(members[name]) for name in space.names)
    assert names_of(space)["truck"] == 15
    assert {_IMAGENET_CATEGORIES[index] for index in space.members[1]} == {
        "brown bear",
        "American black bear",
        "ice bear",
        "sloth bear",
    }


@pytest.mark.parametrize("name", SPACE_CLASSES)
def test_the_protocol_knows_how_many_classes_a_space_has(name: str) -> None:
    assert SPACE_CLASSES[name] == len(decision_space(name).ids)
    assert set(SPACE_CLASSES) == {*NAMES} - {"all", MULTILABEL}


def test_unknown_spaces_name_the_known_ones() -> None:
    with pytest.raises(UnknownName, match="'imagenet'; all has ImageNet's 1,000 classes; known: all, imagenet-a,"):
        decision_space("imagenet")
