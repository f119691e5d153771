"""BibTeX that says what CITATION.cff, the README and the checkpoints' licences say."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import yaml
from imports_of_folders import PACKAGE
from made_up_results import cell, condition, database_of, image_set, model, part
from small import Command

from bandlens.app.citation import PUBLISHED, SOFTWARE, TERMS, software_entry
from bandlens.core.protocol import BENCHMARKS
from bandlens.export.weights.study_checkpoints import checkpoint

ENTRY = re.compile(r"^@\w+\{([^,\s]+),\n((?:  \w+ = \{.*\},?\n)+)\}$", re.MULTILINE)
CHECKPOINT = "tv_resnet50"


def entries(text: str) -> dict[str, dict[str, str]]:
    """Key -> fields, of BibTeX with a field a line."""
    fields = re.compile(r"^  (\w+) = \{(.*)\},?$", re.MULTILINE)
    return {key: dict(fields.findall(body)) for key, body in ENTRY.findall(text)}


def test_the_program_and_the_study_are_those_of_the_citation_file_and_the_readme() -> None:
    citation = yaml.safe_load((PACKAGE / "CITATION.cff").read_text(encoding="utf-8"))
    (study,) = citation["references"]
    assert (SOFTWARE["title"], SOFTWARE["version"]) == (citation["title"], citation["version"])
    assert SOFTWARE["author"] == f"{{{citation['authors'][0]['name']}}}"
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in study["authors"])
    assert {
        "author": authors,
        "title": study["title"],
        "booktitle": study["collection-title"],
        "year": str(study["year"]),
        "url": study["url"],
    } == PUBLISHED
    readme = (PACKAGE / "README.md").read_text(encoding="utf-8")
    assert "".join(software_entry().split()) in "".join(readme.split())


def test_a_study_is_cited_with_its_models_and_images_and_their_licences(command: Command, tmp_path: Path) -> None:
    odd = "a_b{50 %}"
    images = image_set(20, labels=[0] * 20, benchmark="imagenet-v2", name="v2.set")
    models = [replace(model(CHECKPOINT), source=checkpoint(CHECKPOINT).source), model(odd)]
    parts = [
        part(cell(images, setting, by=by), [0] * 20, [0] * 20)
        for by in models
        for setting in (condition(), condition("lowpass", cutoff=0.3))
    ]
    db = database_of(tmp_path, images, parts, "mine")
    answer = command("cite", "mine", "--db", db)
    assert answer.code == 0
    cited = entries(answer.out)
    study, odd_model, published, cited_images = (key for key in cited if key not in ("bandlens", "gavrikov2024biases"))
    assert odd_model == f"model-a-b-50--{models[1].sha256[:8]}"
    assert published == f"model-{CHECKPOINT.replace('_', '-')}-{models[0].sha256[:8]}"
    assert cited_images == f"images-v2.set-{images.info.digest[:8]}"
    assert study.startswith("study-mine-1-")
    assert cited[study]["title"] == "Study mine@1 (models: 2, image sets: 1, conditions: 2)"
    assert cited[odd_model]["title"] == r"Weights a\_b(50 \%)"
    assert cited[odd_model]["note"].endswith("licence: unstated")
    note = cited[published]["note"].replace("\\", "")
    assert note == (
        f"Source {checkpoint(CHECKPOINT).source}; SHA-256 of the weights: {models[0].weights_sha256}; "
        f"licence: {checkpoint(CHECKPOINT).licence}"
    )
    assert "licence: from Flickr, each under terms of its own" in cited[cited_images]["note"]
    assert images.info.digest in cited[cited_images]["note"]


def test_a_study_of_octaves_cites_what_it_follows(command: Command, tmp_path: Path) -> None:
    images = image_set(2, labels=[0, 0])
    parts = [part(cell(images, setting), [0, 0], [0, 0]) for setting in (condition(), condition("octaves", keep="34"))]
    cited = entries(command("cite", "mine", "--db", database_of(tmp_path, images, parts, "mine")).out)
    assert "arxiv.org/abs/2408.01139" in cited["luo2024interpreting"]["url"]
    assert "arxiv.org/abs/2305.14979" in cited["kasmi2023assessment"]["url"]


def test_the_images_of_every_benchmark_have_terms() -> None:
    assert BENCHMARKS.keys() == TERMS.keys()
