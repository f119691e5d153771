"""BibTeX of the program, and of a study with its models, its images and their licences."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from ..analysis.database.store import Store
from ..core import __version__
from ..core.protocol import CUE_CONFLICT, STIMULI
from ..core.untrusted import printable
from ..export.weights.study_checkpoints import checkpoints
from ..probes.grid import PROBES
from .printing import escape_latex

SOFTWARE = {
    "author": "{The bandlens maintainers}",
    "title": "bandlens: which image frequencies a classifier lives on",
    "version": __version__,
    "year": "2026",
}
PUBLISHED = {
    "author": "Gavrikov, Paul and Keuper, Janis",
    "title": "Can Biases in ImageNet Models Explain Generalization?",
    "booktitle": "IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)",
    "year": "2024",
    "url": "https://arxiv.org/abs/2404.01509",
}
"""The study that the published figures and the published grid are of."""
IMAGENET = "for non-commercial research and teaching, by the terms of ImageNet"
DIGITS = 8
"""Digits of a digest that a key has."""
WEB = "found on the web, each under terms of its own"
TERMS: Mapping[str, str] = {
    **dict.fromkeys(("imagenet", "imagenet-real", "imagenet-c", "imagenet-cbar"), IMAGENET),
    "imagenet-v2": "from Flickr, each under terms of its own",
    **dict.fromkeys(("imagenet-a", "imagenet-r", "imagenet-sketch"), WEB),
    **dict.fromkeys(STIMULI, "CC BY 4.0 where the study that made them states a licence"),
    CUE_CONFLICT: "CC BY 4.0",
}
"""Benchmark -> the terms of its images, where they are known."""


def software_entry() -> str:
    """The entry of this version of the program."""
    return _entry("software", "bandlens", SOFTWARE)


def study_entries(store: Store, label: str) -> Iterator[str]:
    """Yield entries of the program, of published work, and of a version of a study, its models and its image sets."""
    yield software_entry()
    yield _entry("inproceedings", "gavrikov2024biases", PUBLISHED)
    probes = store.frame("SELECT DISTINCT probe FROM study_detail_of(?) ORDER BY probe", [label])["probe"]
    works = {key: work for probe in probes if probe in PROBES for key, work in PROBES[probe].works.items()}
    yield from (_entry("article", key, work) for key, work in works.items())
    (study,) = store.frame(
        "SELECT year(last_run) AS year, study.digest, study.bandlens, count(DISTINCT checkpoint) AS models, "
        "count(DISTINCT image_set) AS image_sets, count(DISTINCT condition) AS conditions, count(*) AS cells "
        "FROM study_version JOIN study ON study.id = study_id JOIN study_cell ON study_cell.study = study_id "
        "JOIN cell ON cell.id = study_cell.cell WHERE label = ? GROUP BY ALL",
        [label],
    ).to_dicts()
    counts = ", ".join(f"{name.replace('_', ' ')}: {study[name]:,}" for name in ("models", "image_sets", "conditions"))
    note = f"Run by bandlens {study['bandlens']}; digest of its {study['cells']:,} cells: {study['digest']}"
    yield _misc(f"study-{label}", study["digest"], f"Study {label} ({counts})", note, str(study["year"]))
    licences = {checkpoint.source: checkpoint.licence for checkpoint in checkpoints()}
    for name, source, weights, model in store.frame(
        "SELECT named.name, source, weights_sha256, model_sha256 FROM study_version JOIN study_checkpoint AS named "
        "ON named.study = study_id JOIN checkpoint ON checkpoint.id = named.checkpoint WHERE label = ? ORDER BY 1",
        [label],
    ).rows():
        note = f"Source {source}; SHA-256 of the weights: {weights}; licence: {licences.get(source, 'unstated')}"
        yield _misc(f"model-{name}", model, f"Weights {name}", note)
    for name, benchmark, count, digest in store.frame(
        "SELECT shown.name, shown.benchmark, count, digest FROM study_version JOIN study_image_set AS shown "
        "ON shown.study = study_id JOIN image_set ON image_set.id = shown.image_set WHERE label = ? ORDER BY 1",
        [label],
    ).rows():
        note = f"{count:,} images of {benchmark}; digest: {digest}; licence: {TERMS.get(benchmark, 'unstated')}"
        yield _misc(f"images-{name}", digest, f"Image set {name}", note)


def _misc(name: str, digest: str, title: str, note: str, year: str = "") -> str:
    """An entry whose key tells it from all of another digest, whatever they are called."""
    fields = {"title": title, "year": year, "note": note}
    # BibTeX counts braces though a backslash stands before them.
    plain = {name: printable(text).translate({ord("{"): "(", ord("}"): ")"}) for name, text in fields.items() if text}
    return _entry("misc", f"{name}-{digest[:DIGITS]}", {name: escape_latex(text) for name, text in plain.items()})


def _entry(kind: str, key: str, fields: Mapping[str, str]) -> str:
    lines = "".join(f",\n  {name} = {{{text}}}" for name, text in fields.items())
    return f"@{kind}{{{re.sub('[^A-Za-z0-9.-]+', '-', key)}{lines}\n}}"
