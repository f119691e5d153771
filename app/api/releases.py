"""A release as an assertion: a model that is run as an earlier one was, and judged by it."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from ...core.errors import UnknownName, UsageError
from ...core.jobs import Progress, silent
from ...core.log import log
from ...export.model_files import OWN_NORMALIZATION, normalization_option
from ...probes.grid import condition_in_words
from .coerce import UnknownNormalization, take_images, take_model
from .parameters import File, Layout, reading
from .studies import gate, run

if TYPE_CHECKING:
    from ...analysis.comparison.gates import Gated

MOST_ROWS = 5
"""The number of rows that do not pass and are named by an error."""
EARLIER = """
SELECT DISTINCT toml, detail.checkpoint, normalization, image_set, size
FROM study_detail_of(?) AS detail JOIN checkpoint ON checkpoint.id = checkpoint_id
JOIN (SELECT id, size FROM image_set) AS images ON images.id = image_set_id JOIN study ON study.id = study_id
ORDER BY ALL
"""


def assert_no_worse(
    model: File | Any,
    images: File | Any,
    labels: File | Any | None = None,
    against: File = "main.duckdb",
    margin: float = 0.01,
    *,
    name: str | None = None,
    architecture: str | None = None,
    normalization: str | None = None,
    layout: Layout = "nhwc",
    progress: Progress = silent,
) -> Gated:
    """Run a model as an earlier one was run, and raise AssertionError unless it is surely no worse: for any test.

    Args:
        model: as `look` takes it, and normalized as the earlier one where it does not say how.
        images: as `look` takes them, those of the earlier run; others are matched by path, and a line says so.
        labels: as `look` takes them.
        against: the database of the earlier run, FILE or FILE:NAME, by default its study that ran last, which has the
            conditions and limits. Several checkpoints or image sets are matched by name.
        margin: the loss that the model has to stay below.
        name: as `look` takes it, like `architecture`, `normalization` and `layout`. A function needs no version here.

    Returns the verdicts. AssertionError has the worst rows that fail or are undecided, which too few images do not
    excuse. UsageError where nothing can be compared, and for probes of the user's own: no database holds programs.
    """
    from ...analysis.comparison.gates import decision_of
    from ...analysis.database.open import open_store, split_against
    from ...analysis.database.study_versions import earlier_label
    from ..study.file import repeated_study

    file, word = split_against(str(against))
    if file is None:
        raise UsageError(f"{against} is no results database; give that of an earlier run, FILE or FILE:NAME")
    with reading(file) as store:
        label = earlier_label(store, word, "")
        earlier = store.frame(EARLIER, [label])
    with TemporaryDirectory(prefix="bandlens-") as place:
        folder, database = Path(place), Path(place, "release.duckdb")
        options: dict[str, Any] = {"image_size": earlier["size"][0], "name": name, "architecture": architecture}
        options |= {"layout": layout}
        try:
            network = take_model(model, folder, normalization=normalization, **options)
        except UnknownNormalization:
            if earlier["normalization"][0] == OWN_NORMALIZATION:
                raise
            numbers = normalization_option(earlier["normalization"][0])
            network = take_model(model, folder, normalization=numbers, **options)
        image_set = take_images(images, labels, network, folder, progress)
        study = repeated_study(label, earlier["toml"][0], network, image_set.folder)
        new_names = {"checkpoint": network.name, "image_set": image_set.info.name}
        for column, new_name in new_names.items():
            names = earlier[column].unique().sort()
            if len(names) > 1 and new_name not in names:
                raise UnknownName(f"{column.replace('_', ' ')} of {against}", new_name, names)
        run(study, database, analyze=False, progress=progress)
        with open_store(database) as store:  # names belong to a study, and cells of equal names are compared
            for column in new_names:
                if earlier[column].n_unique() == 1:
                    store.execute(f"UPDATE study_{column} SET name = ?", [earlier[column][0]])  # noqa: S608
        gated = gate(f"{study.name}@1", f"{file}:{label}", database, margin=margin, progress=progress)
    title = f"{network.name} against {label} of {file}: {gated.headline.rpartition(': ')[2]}"
    if "images" in gated.differs_in:
        log.warning(f"bandlens: warning: the images differ from those of {file}: {gated.lacking or 'pixels or labels'}")
    rows = gated.rows.filter(gated.rows["verdict"] != "pass").sort("loss", descending=True).to_dicts()
    lines = [
        f"{row['verdict']}: {condition_in_words(row)}{row['slice'] and ', '}{row['slice']}, {row['image_set']}: "
        f"{row['measure']} {row['before']:.3g} before, {row['now']:.3g} now; {decision_of(row)['decides']}"
        f"{'; ' if row['note'] else ''}{row['note'] or ''}"
        for row in sorted(rows, key=lambda row: row["verdict"] != "fail")
    ]
    if lines:
        raise AssertionError("\n".join([title, *lines[:MOST_ROWS]]))
    return gated
