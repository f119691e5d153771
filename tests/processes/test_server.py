"""The explorer as a process, by a browser and by who should not come in."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import DESKTOP, PHONE, await_page, chromium, require_browser, resize
from made_up_results import cell, condition, image_set, model, part, store_study
from served import Served, ask, cookie, post, serving
from small import bandlens

from bandlens.analysis.database.open import open_store

COEFFICIENT = "document.getElementById('coefficient').textContent"


@pytest.fixture(scope="module")
def database(explored: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The networks are random, and their biases at chance, unless it is said that they are not."""
    path = Path(shutil.copy(explored / "results.duckdb", tmp_path_factory.mktemp("served")))
    sound = "UPDATE measure_value SET state = 'ok', value = checkpoint * checkpoint WHERE metric LIKE '%bias'"
    with open_store(path) as store:
        store.execute(sound)
    return path


@pytest.fixture(scope="module")
def served(explored: Path, database: Path) -> Iterator[Served]:
    with serving(database, explored) as server:
        yield server


# Who may come in


def test_a_page_may_load_from_here_alone(served: Served) -> None:
    policy = ask(served, "/", Cookie=cookie(served)).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert re.findall(r"https?:|\*", policy) == []


@pytest.mark.parametrize(
    "path",
    [
        "/static/../answers.py",
        "/static/..%2Fanswers.py",
        "/static/%2Fetc%2Fpasswd",
        "/api/picture?set=../images.set&index=0",
        "/api/picture?set=%2Fetc&index=passwd",
        "/api/picture?index=0",
    ],
)
def test_no_file_but_images_of_packed_sets(served: Served, path: str) -> None:
    answer = ask(served, path, Cookie=cookie(served))
    assert answer.status in (400, 404)
    assert b"root:" not in answer.body


MALFORMED_FIELDS = [
    {"a": ["net_0"]},
    {"selection": "a'; DROP TABLE cell"},
    {"selection": "flips_only_a", "b": None},
    {"condition": "\0"},
    {"other": 1},
]
MALFORMED_BODIES = [b"", b"null", b"[]", b"{", b"\xff", b"[" * 100_000]


@pytest.mark.parametrize("path", ["/api/images", "/api/correlation"])
def test_a_malformed_request_is_400_and_one_line(served: Served, path: str) -> None:
    study = json.loads(ask(served, "/api/study", Cookie=cookie(served)).body)
    request = {
        "study": study["study"],
        "image_set": study["image_sets"][0]["name"],
        "selection": "all",
        "b": None,
        "condition": study["conditions"][0]["id"],
        "a": study["models"][0]["name"],
        "label": None,
        "models": [],
    }
    if path == "/api/images":
        assert post(served, path, json.dumps(request).encode()).status == 200
    bodies = [*MALFORMED_BODIES, *(json.dumps(request | fields).encode() for fields in MALFORMED_FIELDS)]
    for body in bodies:
        answer = post(served, path, body)
        assert (answer.status, list(json.loads(answer.body))) == (400, ["error"]), body[:100]
        assert "\n" not in json.loads(answer.body)["error"]


def test_a_folder_of_images_that_is_not_there_is_one_line(explored: Path) -> None:
    answer = bandlens("explore", "--images", "nowhere", cwd=explored)
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert answer.stderr.startswith("bandlens: no folder nowhere; name with --images where")


# By doing


@pytest.fixture(scope="module")
def driver(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    require_browser()
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        resize(browser, DESKTOP)
        browser.get(served.address)
        yield browser


def await_charts(driver: Any) -> None:
    result = "return document.documentElement.dataset.drawn === 'all'"
    await_page(driver, lambda: driver.execute_script(result), "the page is not drawn")


@pytest.fixture
def page(driver: Any, served: Served) -> Any:
    resize(driver, DESKTOP)
    driver.get(f"http://127.0.0.1:{served.port}/")
    await_charts(driver)
    driver.get_log("browser")
    return driver


def js(driver: Any, script: str, *words: Any) -> Any:
    return driver.execute_script(f"return {script}", *words)


def choose(page: Any, name: str, value: str) -> None:
    page.execute_script(
        "const one = document.getElementById(arguments[0]); one.value = arguments[1];"
        "delete document.documentElement.dataset.drawn; one.dispatchEvent(new Event('change', {bubbles: true}));",
        name,
        value,
    )
    await_charts(page)


def query(page: Any) -> dict[str, str]:
    return dict(js(page, "Object.fromEntries(new URLSearchParams(location.search))"))


def test_the_page_is_drawn_and_the_console_is_silent(served: Served, driver: Any) -> None:
    driver.get_log("browser")
    driver.get(f"http://127.0.0.1:{served.port}/")
    await_charts(driver)
    assert [entry for entry in driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    assert js(driver, "document.querySelectorAll('.chart svg').length") == 2
    assert js(driver, "document.getElementById('trouble').hidden")
    assert js(driver, "document.title") == "bandlens explorer", "a model's name is text"


def test_choosing_models_changes_curves_and_coefficient(page: Any) -> None:
    assert js(page, COEFFICIENT).startswith("Spearman over 6 models: ")
    lines = "document.querySelectorAll('#curves .mark-line path').length"
    assert js(page, lines) == 6
    page.find_element("css selector", "#models input[value=net_5]").click()
    await_charts(page)
    assert js(page, lines) == 5
    assert re.match(r"Spearman over 5 models: \S+, p = \S+ \([^()]+\(least possible p", js(page, COEFFICIENT))
    assert "net_5" not in query(page)["models"]
    page.execute_script("""
        const read = Response.prototype.json, model = document.querySelector("#models [value=net_3]");
        Response.prototype.json = async function () {
          const answer = await read.call(this);
          if (this.url.endsWith("correlation")) await new Promise((go) => { window.go = go; model.click(); });
          return answer;
        };""")
    page.find_element("css selector", "#models input[value=net_4]").click()
    await_page(page, lambda: js(page, COEFFICIENT).startswith("3 models are chosen"))
    page.execute_async_script("window.go(); setTimeout(arguments[0])")
    assert js(page, COEFFICIENT).startswith("3 models are chosen"), "an answer to an earlier choice comes too late"


def test_brushing_models_chooses_them(page: Any) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    points = (
        "[...document.querySelectorAll('#scatter .mark-symbol path')].map((point) => point.getBoundingClientRect())"
        ".map((box) => [box.x + box.width / 2, box.y + box.height / 2])"
    )
    page.execute_script("document.getElementById('scatter').scrollIntoView({block: 'center'})")
    places = js(page, points)
    assert len(places) == 6
    top, bottom = min(y for _, y in places) - 8, sorted(y for _, y in places)[4] + 4
    inside = [place for place in places if place[1] < bottom]
    assert 4 <= len(inside) < 6
    left_edge, right_edge = min(x for x, _ in places) - 8, max(x for x, _ in places) + 8
    actions = ActionChains(page)
    pointer = actions.w3c_actions.pointer_action
    pointer.move_to_location(int(left_edge), int(top))
    pointer.pointer_down()
    pointer.move_to_location(int(left_edge + right_edge) // 2, int(top + bottom) // 2)
    pointer.move_to_location(int(right_edge), int(bottom))
    pointer.pointer_up()
    actions.perform()
    await_page(page, lambda: "models" in query(page))
    await_charts(page)
    assert len(query(page)["models"].split(",")) == len(inside)
    assert js(page, "document.getElementById('count').textContent") == f"{len(inside)} of 6"
    assert js(page, COEFFICIENT).startswith(f"Spearman over {len(inside)} models: ")


def test_a_click_on_a_point_shows_its_images(page: Any) -> None:
    choose(page, "probe", "highpass")
    condition = js(page, "document.getElementById('condition').value")
    page.execute_script("delete document.documentElement.dataset.drawn")
    first = page.find_elements("css selector", "#curves .mark-symbol path")[0]
    from selenium.webdriver.common.action_chains import ActionChains

    ActionChains(page).move_to_element(first).click().perform()
    await_charts(page)
    assert js(page, "document.getElementById('condition').value") != condition
    assert "condition" in query(page)


def test_frequencies_that_enlarged_originals_do_not_have_are_shaded(
    driver: Any, explored: Path, tmp_path: Path
) -> None:
    shutil.copyfile(explored / "results.duckdb", tmp_path / "results.duckdb")
    with open_store(tmp_path / "results.duckdb") as store:
        store.execute("UPDATE image_set SET own_cycles = 30")
    with serving(tmp_path / "results.duckdb", explored) as second_server:
        driver.get(second_server.address)
        await_charts(driver)
        choose(driver, "probe", "lowpass")
        assert js(driver, "document.querySelectorAll('#curves .mark-rect.role-mark path').length") == 1
        choose(driver, "probe", "critical_band")
        # Octave 5 of images of 128 pixels is centred at 32 cycles.
        assert js(driver, "document.querySelectorAll('#curves path[opacity=\"0.5\"]').length") == 2 * 4
        assert [entry for entry in driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_two_parameters_are_lines_of_one_model_beside_its_clean_accuracy(
    driver: Any, explored: Path, tmp_path: Path
) -> None:
    images = image_set(4, labels=[0, 0, 0, 0])
    amounts = (0.1, 0.2, 0.4)
    settings = [condition("fog", amount=amount, level=level) for amount in amounts for level in (0.0, 1.0)]
    cells = [cell(images, setting, by=model(name)) for name in ("x", "y") for setting in (condition(), *settings)]
    del cells[3]  # x lacks amount 0.2 at level 0
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "one", images, [part(work, [0, 0, 0, 1], [0, 0, 0, 1]) for work in cells])
    count = "document.querySelectorAll(`#curves .mark-${arguments[0]} path, #curves .mark-${arguments[0]} line`).length"
    with serving(tmp_path / "results.duckdb", explored) as second_server:
        driver.get(second_server.address)
        await_charts(driver)
        choose(driver, "probe", "fog")
        assert [js(driver, count, mark) for mark in ("rect.role-mark", "line")] == [6, 0]
        driver.find_element("css selector", "#models input[value=y]").click()
        await_charts(driver)
        assert [js(driver, count, mark) for mark in ("rect.role-mark", "line")] == [0, 3], "one has a gap"
        texts = js(driver, "[...document.querySelectorAll('#curves svg text')].map((text) => text.textContent)")
        assert {"amount", "level=0", "level=1"} <= set(texts)
        dashed = js(driver, "document.querySelectorAll('#curves .mark-rule line[stroke-dasharray=\"5,4\"]').length")
        assert dashed == 1, "the clean accuracy"
        bars = "document.querySelectorAll('#curves .mark-rule line[stroke-width=\"1.5\"]')"
        opacities = f"[...{bars}].map((bar) => bar.getAttribute('opacity'))"
        assert js(driver, opacities) == ["0.8"] * 5, "the intervals are seen"
        choose(driver, "b", "y")
        assert js(driver, "document.getElementById('difference').textContent").startswith("B minus A under fog amount=")


def test_a_study_of_one_model_has_no_coefficient_and_lines_beside_its_accuracy_without_noise(
    driver: Any, explored: Path, tmp_path: Path
) -> None:
    shutil.copyfile(explored / "results.duckdb", tmp_path / "results.duckdb")
    images, noise = image_set(1, labels=[3]), {"noise_sd": 0.1}
    settings = [condition(), condition("critical_band", noise_sd=0.0)]
    settings += [condition("critical_band", **noise, frequency=frequency) for frequency in (1, 4)]
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "one", images, [part(cell(images, setting), [3], [0]) for setting in settings])
    with serving(tmp_path / "results.duckdb", explored) as second_server:
        driver.get(second_server.address)
        await_charts(driver)
        choose(driver, "study", "small@1")
        assert js(driver, COEFFICIENT).startswith("Spearman over ")
        choose(driver, "study", "one@1")
        assert js(driver, COEFFICIENT) == ""
        choose(driver, "probe", "critical_band")
        assert "dashed lines the accuracy at noise_sd=0" in js(driver, "document.getElementById('marks').textContent")


def test_an_image_opens_and_the_keys_go_on(page: Any) -> None:
    from selenium.webdriver.common.keys import Keys

    choose(page, "selection", "all")
    page.find_elements("css selector", "#wall button")[1].send_keys(Keys.ENTER)
    title = "document.getElementById('image-title').textContent"
    assert js(page, "document.getElementById('image').open")
    assert js(page, title).startswith("0/1.png")
    assert js(page, "document.querySelectorAll('#image-answers tr').length") == 6
    page.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert js(page, title).startswith("0/2.png")
    page.switch_to.active_element.send_keys(Keys.ESCAPE)
    assert not js(page, "document.getElementById('image').open")
    await_page(page, lambda: "image" not in query(page))  # the dialog tells of its end a moment later


def test_pictures_are_seen_clean_and_perturbed(page: Any) -> None:
    choose(page, "selection", "all")
    page.execute_script("document.querySelector('#wall').scrollIntoView()")
    widths = "[...document.querySelectorAll('#wall li:first-child img')].map((one) => one.naturalWidth)"
    await_page(page, lambda: js(page, widths) == [128, 128])


def test_a_link_opens_what_was_seen_and_back_goes_there(page: Any, served: Served) -> None:
    controls = ("study", "set", "probe", "condition", "bias", "group", "selection", "a")
    assert query(page) == {name: js(page, f"document.getElementById('{name}').value") for name in controls}
    choose(page, "probe", "highpass")
    choose(page, "b", "net_3")
    choose(page, "selection", "errors")
    assert js(page, "document.getElementById('link').href") == page.current_url
    indices = "[...document.querySelectorAll('#wall button')].map((one) => one.dataset.index)"
    address, tiles = page.current_url, js(page, indices)
    assert tiles
    choose(page, "selection", "all")
    assert js(page, indices) != tiles
    page.execute_script("delete document.documentElement.dataset.drawn")
    page.back()
    await_charts(page)
    assert js(page, indices) == tiles
    assert js(page, "document.getElementById('selection').value") == "errors"
    page.get("about:blank")
    page.get(address)
    await_charts(page)
    assert js(page, indices) == tiles
    assert js(page, "['probe', 'b'].map((name) => document.getElementById(name).value)") == ["highpass", "net_3"]


def test_without_labels_it_is_agreement(driver: Any, explored: Path, tmp_path: Path) -> None:
    images, blurred = image_set(1), condition("lowpass", cutoff=0.3)
    with open_store(tmp_path / "results.duckdb") as store:
        store_study(store, "one", images, [part(cell(images), [3]), part(cell(images, blurred), [4])])
    with serving(tmp_path / "results.duckdb", explored) as second_server:
        driver.get(second_server.address)
        await_charts(driver)
        titles = js(driver, "[...document.querySelectorAll('#curves svg text')].map((text) => text.textContent)")
        assert "agreement" in titles
        assert "accuracy" not in titles
        choose(driver, "selection", "all")
        total = js(driver, "document.getElementById('total').textContent")
        assert total.startswith("1 image. Their pictures are not on this machine")


def test_charts_are_dark_in_the_dark(page: Any) -> None:
    script = """(() => {
        const gray = (color) => { const [r, g, b, a] = [...color.matchAll(/[0-9.]+/g)].map(Number);
            return a === 0 ? null : (0.21 * r + 0.72 * g + 0.07 * b) / 255; };
        const back = (node) => gray(getComputedStyle(node).backgroundColor) ?? back(node.parentElement);
        return [...document.querySelectorAll('.chart svg')].map((chart) => [back(chart),
            ...[...chart.querySelectorAll('text')].map((text) => gray(getComputedStyle(text).fill))]);
    })()"""
    for scheme in ("dark", "light"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        charts = js(page, script)
        assert len(charts) == 2
        for ground, *texts in charts:
            assert texts
            assert (ground < 0.15 and min(texts) > 0.7) if scheme == "dark" else (ground > 0.9 and max(texts) < 0.4)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_phone_does_not_scroll_sideways(page: Any) -> None:
    resize(page, (390, PHONE[1]))
    page.refresh()
    await_charts(page)
    assert js(page, "document.documentElement.scrollWidth") <= 390


def test_a_database_that_is_gone_is_said(page: Any, database: Path) -> None:
    elsewhere = database.rename(database.with_name("elsewhere.duckdb"))
    try:
        page.execute_script(
            "const one = document.getElementById('selection');"
            "one.value = 'errors'; one.dispatchEvent(new Event('change'))"
        )
        trouble = "document.getElementById('trouble').textContent"
        await_page(page, lambda: "no results database" in js(page, trouble))
    finally:
        elsewhere.rename(database)
    choose(page, "selection", "all")
    assert js(page, "document.getElementById('trouble').hidden")
