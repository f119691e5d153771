"""The report in a browser: drawn, quiet, picked by mouse and keyboard, and as narrow as a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, await_page, chromium, open_drawn, require_browser, resize
from reported import make_stored_study

from bandlens.app.report.build import write_report

OPACITIES = """
return [...document.querySelectorAll(arguments[0] + " .mark-symbol path[aria-roledescription='point']")]
  .map((point) => getComputedStyle(point).opacity)"""
CUT = """
return [...document.querySelectorAll("svg.marks")].flatMap((chart) => {
  const frame = chart.getBoundingClientRect();
  return [...chart.querySelectorAll("text")].filter((text) => {
    const box = text.getBoundingClientRect();
    return box.width && (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
      || box.bottom > frame.bottom + 1);
  }).map((text) => `${chart.closest("figure").id}: ${text.textContent}`);
})"""
"""Texts that reach beyond their chart."""
TOUCHING = """
return [...document.querySelectorAll("svg.marks .role-axis-label")].flatMap((axis) => {
  const boxes = [...axis.querySelectorAll("text")].filter((text) => getComputedStyle(text).opacity > 0
    && !/rotate/.test(text.getAttribute("transform"))).map((text) => [text, text.getBoundingClientRect()]);
  return boxes.flatMap(([text, one], i) => boxes.slice(i + 1).filter(([, other]) => one.left < other.right
    && other.left < one.right && one.top < other.bottom - 3 && other.top < one.bottom - 3)
    .map(([other]) => `${axis.closest("figure").id}: ${text.textContent} ${other.textContent}`));
})"""
"""Names or numbers along an axis that lie over each other; a line is higher than its letters."""


PANELS = 4
"""Biases of the made-up models that published ones have, too, and that mean something."""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of eight models, so that lines are coloured by category and heat maps wait to be asked for."""
    require_browser()
    folder = tmp_path_factory.mktemp("report")
    make_stored_study(folder, 8)
    write_report(folder / "results.duckdb", folder / "report.html", published=True)
    return folder / "report.html"


@pytest.fixture(scope="module")
def driver(report: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def page(driver: Any, report: Path) -> Any:
    open_drawn(driver, report)
    return driver


@pytest.fixture
def scatter(page: Any) -> Any:
    """The page with the figure atlas-biases, whose panels have a point for each of the study's 48 models."""
    charts = "return document.querySelectorAll('#atlas-biases svg.marks').length"
    await_page(page, lambda: page.execute_script(charts) == PANELS)
    return page


def counts(page: Any, figure: str) -> dict[str, int]:
    """Opacity -> number of points of the first panel."""
    opacities = page.execute_script(OPACITIES, f"#{figure} .card:first-child .panel")
    return {opacity: opacities.count(opacity) for opacity in sorted(set(opacities))}


def wait_for(page: Any, figure: str, expected: dict[str, int]) -> None:
    await_page(page, lambda: counts(page, figure) == expected, f"{counts(page, figure)}")


def test_every_chart_is_drawn_and_the_console_is_silent(page: Any) -> None:
    missing = """return [...document.querySelectorAll(".panel")]
        .filter((panel) => !panel.closest(".later") && !panel.querySelector("svg.marks path, svg.marks text"))
        .map((panel) => panel.dataset.spec)"""
    assert page.execute_script(missing) == []
    assert page.execute_script("return document.querySelectorAll('svg.marks').length") > 30
    assert [entry for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []


@pytest.mark.parametrize("size", [DESKTOP, PHONE])
def test_no_text_of_a_chart_is_cut_or_covered_and_no_phone_scrolls_sideways(
    driver: Any, report: Path, size: tuple[int, int]
) -> None:
    open_drawn(driver, report, size)
    assert driver.execute_script(CUT) == []
    assert driver.execute_script(TOUCHING) == []
    if size == DESKTOP:
        assert "…" not in "".join(driver.execute_script("return [...document.querySelectorAll('svg.marks text')]"
                                                        ".map((text) => text.textContent)"))  # fmt: skip
    else:
        ends = "return [...document.querySelectorAll('svg.marks')].map((chart) => chart.getBoundingClientRect().right)"
        assert max(driver.execute_script(ends)) <= PHONE[0]
        assert driver.execute_script("return document.documentElement.scrollWidth") <= PHONE[0]
    resize(driver, DESKTOP)


def test_hovering_shows_the_models_name(scatter: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    # The point drawn last lies over the others.
    point = scatter.find_elements(By.CSS_SELECTOR, "#atlas-biases .mark-symbol path")[-1]
    model, category = scatter.execute_script(
        "const {model, category} = arguments[0].__data__.datum; return [model, category]", point
    )
    scatter.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(scatter).move_to_element(point).perform()
    tooltip = await_page(scatter, lambda: scatter.find_elements(By.CSS_SELECTOR, "#vg-tooltip-element.visible"))
    assert model in tooltip[0].text
    assert category in tooltip[0].text


def test_picking_a_category_fades_the_others_in_every_panel(scatter: Any) -> None:
    from selenium.webdriver.common.by import By

    button = scatter.find_element(By.CSS_SELECTOR, "#atlas-biases [data-pick=contrastive]")
    wait_for(scatter, "atlas-biases", {"0.85": 48})
    scatter.execute_script("arguments[0].click()", button)
    wait_for(scatter, "atlas-biases", {"0.08": 42, "1": 6})
    assert button.get_attribute("aria-pressed") == "true"
    every = scatter.execute_script(OPACITIES, "#atlas-biases")
    assert (len(every), every.count("1")) == (PANELS * 48, PANELS * 6)
    scatter.execute_script("arguments[0].click()", button)
    wait_for(scatter, "atlas-biases", {"0.85": 48})


def test_picking_a_model_from_the_list_or_a_point(scatter: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import Select

    figure = scatter.find_element(By.ID, "atlas-biases")
    Select(figure.find_element(By.TAG_NAME, "select")).select_by_visible_text("tv_resnet50")
    wait_for(scatter, "atlas-biases", {"0.08": 47, "1": 1})
    Select(figure.find_element(By.TAG_NAME, "select")).select_by_visible_text("all")
    wait_for(scatter, "atlas-biases", {"0.85": 48})
    point = figure.find_elements(By.CSS_SELECTOR, ".mark-symbol path")[-1]
    scatter.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})", point)
    ActionChains(scatter).move_to_element(point).click().perform()
    await_page(scatter, lambda: len(figure.find_elements(By.CSS_SELECTOR, "[aria-pressed=true]")) == 1)


def test_the_keyboard_reaches_every_kind_of_control(page: Any) -> None:
    from selenium.webdriver import ActionChains, Keys

    def press(key: str) -> None:
        ActionChains(page).send_keys(key).perform()

    reached = []
    kinds = {"A", "SUMMARY", "scroll", "BUTTON"}
    for _ in range(120):
        press(Keys.TAB)
        reached.append(page.execute_script("return document.activeElement.className || document.activeElement.tagName"))
        if reached[-1] == "BUTTON" and kinds <= set(reached):
            break
    assert reached[0] == "skip"
    assert kinds <= set(reached)
    press(Keys.SPACE)
    assert page.execute_script("return document.activeElement.ariaPressed") == "true"
    for _ in range(12):
        press(Keys.TAB)
        if page.execute_script("return document.activeElement.tagName") == "SELECT":
            return
    pytest.fail("no list of models after the buttons")


def test_heat_maps_are_drawn_when_they_are_asked_for(page: Any) -> None:
    charts = "return document.querySelectorAll('#critical-band-1 svg.marks').length"
    assert page.execute_script(charts) == 0
    page.execute_script("document.querySelector('#critical-band-1 summary').click()")
    await_page(page, lambda: page.execute_script(charts) == 16)
    width = "return document.querySelector('#critical-band-1 svg.marks').getBoundingClientRect().width"
    assert page.execute_script(width) > 300


def test_on_paper_there_are_no_controls_and_no_folded_tables(page: Any) -> None:
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    script = "return getComputedStyle(document.querySelector(arguments[0])).display"
    for selector in ("nav", ".controls label", "details.data", "#critical-band-1"):
        assert page.execute_script(script, selector) == "none"
    page.execute_script("document.querySelector('#critical-band-1 summary').click()")
    assert page.execute_script(script, "#critical-band-1") == "block"
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_charts_are_drawn_for_the_paper_before_they_are_printed(page: Any) -> None:
    widths = """return [...document.querySelectorAll("svg.marks")].filter((chart) => chart.clientWidth)
        .map((chart) => [chart.viewBox.baseVal.width, chart.getBoundingClientRect().width])"""
    on_screen = page.execute_script(widths)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    page.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    on_paper = page.execute_script(widths)  # at once: a browser does not wait
    assert all(chart_width == pytest.approx(box_width, abs=1) for chart_width, box_width in on_paper)
    assert max(chart_width for chart_width, _ in on_paper) < max(chart_width for chart_width, _ in on_screen)
    assert page.execute_script("return document.body.scrollWidth") <= 186 / 25.4 * 96
    assert page.execute_script(CUT) == []
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    page.execute_script("window.dispatchEvent(new Event('afterprint'))")
    await_page(page, lambda: page.execute_script(widths) == on_screen)
