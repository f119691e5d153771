"""A results database worth a report: made-up models with the whole grid, one of them with a hostile name."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from made_up_results import cell, condition, database_of, image_set, model, part

from bandlens.app.report.data import ReportData
from bandlens.app.report.metric_sections import measured_sections
from bandlens.app.report.page import Section
from bandlens.core.protocol import CATEGORIES
from bandlens.core.records import Condition, Model
from bandlens.probes.grid import PUBLISHED, make_grid

HOSTILE = '<script>alert(1)</script>"&'
IMAGES = 120
OWN_PROBE = [condition("blur", sigma=sigma) for sigma in (1, 2, 4)]
GRID = make_grid(PUBLISHED, Path()).conditions


def models(count: int) -> list[Model]:
    """Models of several categories; the second is hostile."""
    plain = [model(f"net_{k}", classes=1000, category=CATEGORIES[k % len(CATEGORIES)]) for k in range(count)]
    return [*plain[:1], model(HOSTILE, classes=1000), *plain[2:]][:count]


def make_database(
    folder: Path, count: int, conditions: Sequence[Condition] = (*GRID, *OWN_PROBE), *, measured: bool = False
) -> Path:
    """A database with a study `many` of so many models."""
    random = np.random.default_rng(count)
    labels = random.integers(0, 10, IMAGES)
    photographs = image_set(IMAGES, name="photographs", labels=labels)
    parts = []
    for checkpoint in models(count):
        skill, peak, center, gain = random.uniform((0.5, 1, 2, 0.5), (0.8, 2.6, 4.5, 2))
        for setting in conditions:
            hits = random.random(IMAGES) < skill * _share(setting, peak, center, gain)
            rank = np.where(hits, 0, random.integers(1, 8, IMAGES))
            parts.append(
                part(cell(photographs, setting, by=checkpoint), np.where(hits, labels, (labels + 1) % 10), rank)
            )
    return database_of(folder, photographs, parts, "many", measured=measured)


def make_stored_study(folder: Path, count: int = 5) -> None:
    """Fill the folder with results.duckdb: models under all of `GRID` and `OWN_PROBE`, with all their measures."""
    make_database(folder, count, measured=True).chmod(0o444)


def _share(setting: Condition, peak: float, center: float, gain: float) -> float:
    """The share of its skill that a made-up model keeps."""
    if cutoff := setting.number("cutoff"):
        return float(1 - np.exp(-4 * gain * cutoff)) if setting.probe == "lowpass" else 0.8 * cutoff ** (3 * gain)
    if noise_sd := setting.number("noise_sd"):
        sensitivity = peak * np.exp(-(((setting.number("frequency") or 0) - center) ** 2) / 4)
        return float(1 / (1 + np.exp(3 * (np.log2(noise_sd / 0.16) + sensitivity))))
    return float(np.exp(-(setting.number("sigma") or 0) / 4))


def measured_section(results: ReportData, name: str) -> Section:
    """One of the sections of what a study measured."""
    return next(section for section in measured_sections(results) if section.name == name)
