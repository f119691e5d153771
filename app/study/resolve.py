"""A study as this machine runs it: its models, image sets, conditions and cells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from ...engine.backends.base import attack_variant, variant_of
from ...engine.device.devices import choose_engine
from ...engine.run import check_attackable, check_labels
from ...errors import UnknownName, UsageError
from ...export.files import models_folder
from ...export.models import load_model, model_names
from ...probes.attacks import is_attack
from ...probes.grid import Grid, make_grid
from ...probes.images.files import ABOUT
from ...probes.images.image_set import ImageSet, open_image_set
from ...records import Cell, Model
from .file import AUTO, Study

MOST_CELLS = 1_000_000
"""Two hundred times those of the published study."""


@dataclass(frozen=True, slots=True)
class Work:
    """What a study resolves to on this machine."""

    study: Study
    """With the engine that `auto` stands for."""
    grid: Grid
    models: list[Model]
    image_sets: list[ImageSet]
    cells: list[Cell]


def resolve(study: Study) -> Work:
    """The models, image sets, conditions and cells of a study. Opens files, but loads neither weights nor pixels."""
    try:
        return _resolve(study)
    except OSError as error:  # a path that no file can have
        raise UsageError(f"study {study.name}: {error.filename}: {error.strerror}; mend the path") from None


def _resolve(study: Study) -> Work:
    if study.engine == AUTO:
        study = replace(study, engine=choose_engine().engine)
    grid = make_grid(study.probes, study.folder)
    folder = study.folder / study.models if study.models else None
    models = _models(study.checkpoints, folder)
    perturbed, clean = _image_sets(study, study.images), _image_sets(study, study.clean_images)
    image_sets = [open_image_set(path) for path in (*perturbed, *(path for path in clean if path not in perturbed))]
    _check_distinct("models", "files", [(model.name, model.sha256) for model in models])
    _check_distinct("image sets", "names", [(str(images.folder), images.info.name) for images in image_sets])
    _check_distinct("image sets", "images", [(str(images.folder), images.info.digest) for images in image_sets])
    for images in image_sets:
        check_labels(images, models)
        for model in models:
            if model.image_size != images.info.size:
                raise UsageError(
                    f"{model.name} takes images of {model.image_size} pixels, and image set {images.info.name} has "
                    f"{images.info.size}; pack it with --size {model.image_size}"
                )
        if grid.attacks and images.folder in perturbed:
            check_attackable(images.info)
    if len(image_sets) * len(models) * (len(grid.conditions) + len(grid.attacks)) > MOST_CELLS:
        raise UsageError(f"study {study.name} has more than {MOST_CELLS:,} cells; make several studies of it")
    seen = [variant_of(model, study.engine, study.precision) for model in models]
    attacked = [attack_variant(model, study.engine) for model in models] if grid.attacks else []
    cells = [
        Cell(
            variant=variant,
            image_set=images.info,
            condition=condition,
            decision_space=images.info.decision_space,
            # Where nothing is random the seed is no part of what a cell is, so changing it re-runs nothing.
            seed=study.seed if grid.family(condition).random else 0,
        )
        for images in image_sets
        for condition in ((*grid.conditions, *grid.attacks) if images.folder in perturbed else grid.clean)
        for variant in (attacked if is_attack(condition) else seen)
    ]
    return Work(study, grid, models, image_sets, cells)


def _image_sets(study: Study, paths: list[str]) -> list[Path]:
    """Folders, each once; a path with `*` is every image set that fits it, sorted."""
    found: dict[Path, None] = {}
    for path in paths:
        if "*" not in path:
            found[study.folder / path] = None
            continue
        fitting = _fitting(study.folder, f"{path.rstrip('/')}/{ABOUT}")
        if not fitting:
            raise UsageError(f"no image set fits '{path}' in {study.folder.resolve()}; see `bandlens images pack`")
        found.update(dict.fromkeys(fitting))
    return list(found)


def _fitting(folder: Path, pattern: str) -> list[Path]:
    """The folders of the files that fit, sorted; patterns may be absolute."""
    start = Path(Path(pattern).anchor)
    try:
        return sorted(file.parent for file in (folder / start).glob(str(Path(pattern).relative_to(start))))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{pattern}' cannot be looked for ({error}); `*` stands for any name in a path") from None


def _check_distinct(kind: str, what: str, named: list[tuple[str, str]]) -> None:
    """UsageError where two of a kind have in common what tells their results apart."""
    seen: dict[str, str] = {}
    for name, identity in named:
        if identity in seen:
            raise UsageError(f"{kind} {seen[identity]} and {name} have the same {what}; leave one of them out")
        seen[identity] = name


def _models(asked: list[str], folder: Path | None) -> list[Model]:
    """The models that are asked for, each once."""
    exported: list[Model] | None = None
    found: dict[str, Model] = {}
    for entry in asked:
        if entry != "*" and not entry.startswith("category:"):
            found.setdefault(entry, load_model(folder, entry))
            continue
        if exported is None:
            exported = [load_model(folder, name) for name in model_names(folder)]
        category = entry.removeprefix("category:")
        chosen = {model.name: model for model in exported if entry == "*" or model.category == category}
        if not exported:
            raise UsageError(f"no models in {folder or models_folder()}, so no '{entry}'; see `bandlens export`")
        if not chosen:
            raise UnknownName("category of exported models", category, sorted({model.category for model in exported}))
        found |= chosen
    return list(found.values())
