"""A first study file, which names the models and the image sets that are on the disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from ...core.errors import UsageError
from ...core.protocol import CUTOFFS
from ...core.untrusted import words_of
from ...export.model_files import model_names
from .set_lookup import find_sets

MODELS = "models"
"""The folder beside a study file whose models are taken before those of the default folder."""
FILTERS = """\
lowpass = { cutoff = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.9] }  # 0.1 keeps the lowest tenth of frequencies
highpass = { cutoff = [0.1, 0.2, 0.3, 0.4, 0.5, 0.8, 0.9, 0.95, 0.97, 0.99] }  # 0.1 keeps the highest tenth
"""
"""The probes of a first study: 19 conditions with that without perturbation.

The biases take the cutoffs up to 0.5. Most networks lose half of their accuracy at high-passes that cut low.
"""
GRID = f"""\
lowpass = {{}}        # the published cutoffs: 11 conditions
highpass = {{ cutoff = {[*CUTOFFS[:-1], 0.95, 0.97, *CUTOFFS[-1:]]} }}  # two more than published
critical_band = {{}}  # the published levels and octaves of noise: 29
"""
"""The published grid and two high-passes that cut low: 54 conditions with that without perturbation."""
MISSING_MODEL, MISSING_IMAGES = "mine", "photos.set"
"""The names that stand in the file where nothing has been exported or packed; its plan says that they are missing."""


def write_study(file: Path) -> None:
    """Write a study of the models and image sets that are there: see `api.studies.write_study`."""
    folder = file.parent
    beside = bool(model_names(folder / MODELS)) or not model_names(None)
    names = model_names(folder / MODELS if beside else None)
    paths = [images.folder.relative_to(folder).as_posix() for images in find_sets([folder]).values()]
    write_file(file, study_text(file.name, names, paths, MODELS if beside else None))


def write_file(file: Path, text: str) -> None:
    """Write a new file; UsageError where there is one already, or none can be."""
    try:
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise UsageError(f"{file} is there already and stays as it is; name another file") from None
    except OSError as error:
        raise UsageError(f"cannot write {file}: {words_of(error)}; name a file in a folder that is there") from None


def study_text(
    file: str, checkpoints: Sequence[str], images: Sequence[str], models: str | None = None, limit: int | None = None
) -> str:
    """A study file. Its probes come last, so that a line at the end adds one.

    Without `models` it has the default folder, and without a `limit` all images; lines that set them stand ready.
    """
    return f"""\
# Which image frequencies do these models live on?
# `bandlens plan {file}` says what a run would compute, and how long it would take;
# `bandlens run {file}` computes it, into results.duckdb, and says what it found; `bandlens analyze` prints the numbers.
# docs/reference/study.md has all keys.

# Names of exported models; "*" stands for all of them. `bandlens export FILE --out {MODELS}` makes one of your weights.
checkpoints = {json.dumps(checkpoints or [MISSING_MODEL], ensure_ascii=False)}
# Folder of the exported models; without this line it is $BANDLENS_HOME/models.
{"# " if models is None else ""}models = {json.dumps(models or MODELS, ensure_ascii=False)}
# Folders of image sets; * in a path stands for any name. `bandlens images pack` makes one of a folder of pictures.
images = {json.dumps(images or [MISSING_IMAGES], ensure_ascii=False)}
# Number of images of each set that are run, drawn evenly from all classes; without this line all of them.
{"# " if limit is None else ""}limit = {limit or 1000}
# What runs the models, as `bandlens doctor` lists it; without this line the fastest that is ready.
# engine = "onnxruntime"

# What the images go through, a line for each probe; docs/guide/probes.md has all of them, and how to write one.
[probes]
{FILTERS}"""
