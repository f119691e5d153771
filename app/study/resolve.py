"""Resolve a study on this machine: find its models, image sets, conditions and cells, and select the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from ...analysis.database.open import open_store
from ...core.errors import ProbeError, UnknownName, UsageError
from ...core.records import Cell, Model, Variant
from ...core.untrusted import words_of
from ...engine.backends.base import BATCH, ENGINES, attack_variant, plan_file_of, variant_of
from ...engine.device.devices import choose_engine, readiness
from ...engine.device.requirements import BF16_EMULATED, has_native_bf16
from ...engine.task_context import Workbench
from ...engine.tuning import read_tuning
from ...export.model_files import FUNCTION, load_model, load_onnx_file, model_names, models_folder
from ...export.plans.plans import trt_plan_batches
from ...probes.grid import PUBLISHED, Grid, make_grid
from ...probes.images.image_set import ImageSet, PackedSet, read_image_set
from ...probes.images.pack_options import Draw
from ...probes.images.storage import ABOUT
from .compatibility import check_attackable, check_fits, match_images, takes_images, without_training_images
from .file import AUTO, Study

MOST_CELLS = 1_000_000
"""Maximum number of cells of a study, two hundred times that of the published study."""


@dataclass(frozen=True, slots=True)
class Work:
    """A resolved study: its models, image sets, conditions and cells on this machine."""

    study: Study
    """The study, with an actual engine in place of `auto`, and with a batch size."""
    grid: Grid
    models: list[Model]
    image_sets: list[ImageSet]
    cells: list[Cell]
    choices: list[str]
    """Notes on what was selected automatically, such as the engine and the batch size."""

    def workbench(self) -> Workbench:
        """Create a workbench that computes tasks of the study in this process."""
        sets = {images.info.digest: images for images in self.image_sets}
        return Workbench(self.grid, self.study.batch, self.study.thread_count, sets.__getitem__)


def resolve(
    study: Study, database: Path | None = None, packed_sets: Mapping[Path, PackedSet] = MappingProxyType({})
) -> Work:
    """Find the models, image sets, conditions and cells of a study. Neither weights nor pixels are loaded.

    Args:
        study: The study.
        database: Results database. If the study names no engine, the engine of stored predictions is preferred.
        packed_sets: Folder -> image set that was read before, so that no image set is read twice.

    Raises:
        UsageError: Something is missing, or parts of the study do not fit together.
    """
    try:
        study, choices = settle_engine(study, database)
        # The paths must be absolute because worker processes may have a different current folder.
        models = _models(study.checkpoints, (study.folder / study.models).absolute() if study.models else None)
        perturbed, clean = _image_sets(study, study.images), _image_sets(study, study.clean_images)
        folders = dict.fromkeys([*perturbed, *clean])
        packed = [packed_sets.get(folder) or read_image_set(folder) for folder in folders]
        return _resolve(study, choices, models, packed, perturbed)
    except OSError as error:  # for example an invalid path
        raise UsageError(f"study {study.name}: {error.filename}: {words_of(error)}; mend the path") from None


def settle_engine(study: Study, database: Path | None) -> tuple[Study, list[str]]:
    """Select the engine and the batch size of a study that does not set them.

    The engine is part of the identity of a cell, so a change of the engine would recompute everything. The engine of
    stored predictions therefore takes precedence: a faster, tuned engine is not selected if there are predictions of
    the default engine. Likewise the tuned engine is kept if there are predictions of it, even if the tuning has become
    invalid.

    Returns:
        The study with engine and batch size, and notes on what was selected and why.
    """
    folder = study.folder / study.models if study.models else models_folder()
    if study.engine == AUTO and all(model.architecture == FUNCTION for model in _models(study.checkpoints, folder)):
        return replace(study, engine=FUNCTION), []
    usual = choose_engine() if study.engine == AUTO else None
    tuning = read_tuning(folder, study.precision) if usual or not study.batch else None
    choices = [f"engine: {usual.engine} ({usual.why})"] if usual else []
    engine = usual.engine if usual else study.engine
    best_rate = tuning.best if tuning else None
    if usual and tuning and best_rate and best_rate.engine != usual.engine:
        change = tuning.change(best_rate.engine, study.thread_count)
        preferred = usual.engine if change else best_rate.engine
        engines = _stored_engines(study, database) if database is not None and database.exists() else set()
        candidates = [name for name in (usual.engine, best_rate.engine) if name in engines and readiness(name).ready]
        engine = next(iter(candidates), preferred)
        if engine != preferred:
            why = f"{database} has its predictions; `--engine {preferred}` runs all anew"
        elif change:
            why = f"{usual.why}; {tuning} prefers {best_rate.engine} and is not taken: {change}"
        else:
            why = f"by {tuning}: {best_rate.images_per_second:.4g} images/s of {tuning.model}"
        choices = [f"engine: {engine} ({why})"]
    study = replace(study, engine=engine)
    if tuning is None or study.batch or (rate := tuning.best_of(engine)) is None:
        return study, choices
    if change := tuning.change(engine, study.thread_count):
        choices += [f"batch: {tuning} is not taken: {change}; `bandlens export --batch tune` measures anew"]
        return study, choices
    return replace(study, batch=rate.batch), [*choices, f"batch: {rate.batch} by {tuning}"]


def _stored_engines(study: Study, database: Path) -> set[str]:
    """Return the engines of the stored predictions of the study's models at its precision."""
    models = _models(study.checkpoints, study.folder / study.models if study.models else None)
    query = (
        "SELECT DISTINCT engine FROM cell JOIN condition ON condition.id = cell.condition WHERE NOT attack "
        "AND list_contains(?::VARCHAR[], precision) AND list_contains(?::VARCHAR[], onnx_sha256) "
        "AND cell.id IN (SELECT cell FROM part)"
    )
    with open_store(database, read_only=True) as store:
        onnx_files = [load_onnx_file(model, study.precision) for model in models]
        # An imported ONNX file with a fixed precision runs at that precision.
        precisions = [study.precision, *(onnx_file.precision for onnx_file in onnx_files)]
        return set(store.frame(query, [precisions, [onnx_file.sha256 for onnx_file in onnx_files]])["engine"])


def _resolve(
    study: Study,
    choices: list[str],
    models: list[Model],
    packed_sets: Sequence[PackedSet],
    perturbed: Collection[Path],
) -> Work:
    """Resolve a study with given models and image sets. Only image sets in the folders `perturbed` are perturbed."""
    image_sets = [_select_images(packed, models, study) for packed in packed_sets]
    _check_distinct("models", "files", [(model.name, model.sha256) for model in models])
    _check_distinct("image sets", "names", [(str(images.folder), images.info.name) for images in image_sets])
    _check_distinct("image sets", "images", [(str(images.folder), images.info.digest) for images in image_sets])
    check_fits(models, [images.info for images in image_sets])
    sizes = {images.info.size for images in image_sets if images.folder in perturbed}
    study, notes = _fit_probes(study, sizes)
    grid = make_grid(study.probes, study.folder)
    for images in image_sets:
        if images.folder in perturbed:
            try:
                grid.check_size(images.info.size)
            except ProbeError as error:
                raise UsageError(f"image set {images.info.name}: {error}") from None
            if grid.attacks:
                check_attackable(images.info)
    if len(image_sets) * len(models) * (len(grid.conditions) + len(grid.attacks)) > MOST_CELLS:
        raise UsageError(f"study {study.name} has more than {MOST_CELLS:,} cells; make several studies of it")
    variants = [variant_of(model, study.engine, study.precision) for model in models]
    attacked = [attack_variant(model, study.engine) for model in models] if grid.attacks else []
    cells = [
        Cell(
            variant=variant,
            image_set=images.info,
            condition=condition,
            # A deterministic condition has seed 0, so that its cells are not recomputed when the seed of the study
            # changes.
            seed=study.seed if grid.family(condition).random else 0,
        )
        for images in image_sets
        for condition in ((*grid.conditions, *grid.attacks) if images.folder in perturbed else grid.clean)
        for variant in (attacked if condition.facts.attack else variants)
        if takes_images(variant.model, images.info)
    ]
    study = replace(study, batch=study.batch or _usual_batch(study.engine, variants))
    if (study.engine, study.precision) == ("openvino", "bf16") and not has_native_bf16():
        notes.append(f"precision: bf16 is {BF16_EMULATED} on this processor")
    return Work(study, grid, models, image_sets, cells, [*choices, *notes])


def _fit_probes(study: Study, sizes: Iterable[int]) -> tuple[Study, list[str]]:
    """Remove the published probes for which the images are too small, if the study does not name its probes.

    Images with an odd side length only support the condition without perturbation. The study is then returned
    unchanged, so that the size check fails and the user has to name the probes.

    Returns:
        The study, and a note if probes were removed.
    """
    if study.probes != PUBLISHED:
        return study, []
    omissions: dict[str, str] = {}
    for name in PUBLISHED:
        try:
            for size in sizes:
                make_grid({name: {}}, study.folder).check_size(size)
        except ProbeError as error:
            omissions[name] = str(error)
    probes = {name: table for name, table in PUBLISHED.items() if name not in omissions}
    if len(probes) < 2 or not omissions:
        return study, []
    return replace(study, probes=probes), [f"probes: {', '.join(probes)}, without: {'; '.join(omissions.values())}"]


def _usual_batch(engine: str, variants: Sequence[Variant]) -> int:
    """Return the batch size for which most models have TensorRT plans, and the larger one in a tie.

    Without plans, return the default of the device type.
    """
    counts = Counter[int]()
    if ENGINES[engine].module == "tensorrt":
        counts.update(batch for variant in variants for batch in trt_plan_batches(plan_file_of(variant)))
    return max(counts, key=lambda batch: (counts[batch], batch), default=BATCH[ENGINES[engine].arrays])


def _select_images(packed: PackedSet, models: Sequence[Model], study: Study) -> ImageSet:
    """Select the images of a study, remove training images of the models, and convert labels to their class indices."""
    images = packed.draw(Draw(study.limit, study.seed) if study.limit else None)
    takers = [model for model in models if takes_images(model, images.info)]
    return match_images(without_training_images(images, takers, study.overlap), takers)


def _image_sets(study: Study, paths: list[str]) -> list[Path]:
    """Return the distinct folders. A path with `*` expands to all image sets that match it, sorted."""
    folders: dict[Path, None] = {}
    for path in paths:
        if "*" not in path:
            folders[study.folder / path] = None
            continue
        set_folders = _glob_folders(study.folder, f"{path.rstrip('/')}/{ABOUT}")
        if not set_folders:
            raise UsageError(f"no image set fits '{path}' in {study.folder.resolve()}; see `bandlens images pack`")
        folders.update(dict.fromkeys(set_folders))
    return list(folders)


def _glob_folders(folder: Path, pattern: str) -> list[Path]:
    """Return the sorted folders of the files that match a pattern, which may be absolute."""
    start = Path(Path(pattern).anchor)
    try:
        return sorted(file.parent for file in (folder / start).glob(str(Path(pattern).relative_to(start))))
    except (OSError, ValueError) as error:
        raise UsageError(f"'{pattern}' cannot be looked for ({error}); `*` stands for any name in a path") from None


def _check_distinct(kind: str, trait: str, identities: list[tuple[str, str]]) -> None:
    """Raise UsageError if two models or image sets share the property that distinguishes their results."""
    names: dict[str, str] = {}
    for name, identity in identities:
        if identity in names:
            raise UsageError(f"{kind} {names[identity]} and {name} have the same {trait}; leave one of them out")
        names[identity] = name


def _models(entries: list[str], folder: Path | None) -> list[Model]:
    """Load the distinct models that the entries of `checkpoints` select."""
    exported: list[Model] | None = None
    models: dict[str, Model] = {}
    for entry in entries:
        if entry != "*" and not entry.startswith("category:"):
            models.setdefault(entry, load_model(folder, entry))
            continue
        if exported is None:
            exported = [load_model(folder, name) for name in model_names(folder)]
        category = entry.removeprefix("category:")
        entry_models = {model.name: model for model in exported if entry == "*" or model.category == category}
        if not exported:
            raise UsageError(
                f"no models in {folder or models_folder()}, so no '{entry}'; name their folder in the study, as in "
                'models = "models", or see `bandlens export`'
            )
        if not entry_models:
            raise UnknownName("category of exported models", category, sorted({model.category for model in exported}))
        models |= entry_models
    return list(models.values())
