"use strict";
(() => {
  const TILES = 24;
  const FEW = 7; // models that have a line of clean accuracy each, and intervals in full
  const LINES = 12; // values of a second parameter that lines can be told apart by
  const $ = (name) => document.getElementById(name);
  const views = new Map(); // place of a chart -> its view
  let study = null; // what the server says of it
  let asked = {}; // what the address says: study, set, probe, condition, models, bias, group, selection, a, b, label, attribute, from, image
  let tiles = [];
  let turns = 0; // how often the page was shown: an answer to an earlier choice comes too late

  // The address is the state: a link opens what was seen, and the back button goes there.
  const read = () => Object.fromEntries(new URLSearchParams(location.search));
  const write = (changes, replace = false) => {
    const next = { ...asked, ...changes };
    for (const [name, value] of Object.entries(next)) if (value === null || value === undefined || value === "") delete next[name];
    const address = `/?${new URLSearchParams(next)}`;
    $("link").href = address;
    if (address === location.pathname + location.search) return;
    history[replace ? "replaceState" : "pushState"](null, "", address);
    asked = read();
  };

  const fetched = async (path, body) => {
    const answer = await fetch(path, body === undefined ? {} : { method: "POST", body: JSON.stringify(body) });
    const given = await answer.json().catch(() => ({ error: `the server answered ${answer.status}` }));
    if (!answer.ok) throw new Error(given.error);
    return given;
  };
  const guarded = (work) => async (...words) => {
    try {
      await work(...words);
      $("trouble").hidden = true;
    } catch (error) {
      $("trouble").textContent = error instanceof TypeError ? "The explorer does not answer; is it still running?" : error.message;
      $("trouble").hidden = false;
      console.warn(error.message);
    }
  };

  const fill = (select, options, chosen) => {
    select.replaceChildren(...options.map(([value, words]) => new Option(words ?? value, value)));
    select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0] ?? "";
    select.disabled = options.length < 2;
    return select.value;
  };

  // What is chosen, with what stands for it where the address does not say
  const names = () => study.models.map((model) => model.name);
  const chosen = () => {
    if (asked.models === undefined) return names();
    const wanted = new Set(asked.models.split(","));
    return names().filter((name) => wanted.has(name));
  };
  const conditions = (probe) => study.conditions.filter((one) => one.probe === probe);
  const condition = () => study.conditions.find((one) => one.id === $("condition").value);

  const controls = () => {
    fill($("study"), study.studies.map((name) => [name]), study.study);
    fill($("set"), study.image_sets.map((set) => [set.name, `${set.name} (${set.n.toLocaleString("en")})`]), asked.set);
    const probes = [...new Set(study.conditions.map((one) => one.probe))];
    const first = probes.find((name) => name !== "clean") ?? probes[0];
    fill($("probe"), probes.map((name) => [name, name.replaceAll("_", " ")]), asked.probe ?? first);
    const here = conditions($("probe").value);
    fill($("condition"), here.map((one) => [one.id, one.setting || one.words]), asked.condition ?? here[Math.floor(here.length / 2)]?.id);
    fill($("bias"), study.metrics.biases.map((name) => [name, study.metrics.titles[name]]), asked.bias);
    fill($("group"), study.metrics.groups.map((name) => [name, study.metrics.titles[name]]), asked.group);
    const a = fill($("a"), names().map((name) => [name]), asked.a);
    fill($("b"), [["", "none"], ...names().filter((name) => name !== a).map((name) => [name])], asked.b ?? "");
    const only = [...$("selection").options].find((option) => option.value === "flips_only_a");
    only.disabled = !$("b").value;
    $("selection").value = asked.selection === "flips_only_a" && only.disabled ? "flips" : asked.selection ?? "flips";
    boxes();
    // What stands for an empty choice is written as well: a link has to show the same when the database has a newer study.
    const parts = Object.fromEntries(["probe", "condition", "bias", "group", "selection", "a", "b"].map((name) => [name, $(name).value]));
    write({ study: study.study, set: $("set").value, ...parts }, true);
  };

  const verdict = () =>
    $("verdict").replaceChildren(...study.verdict.map((sentence) => {
      const item = document.createElement("li");
      item.textContent = sentence;
      return item;
    }));

  const boxes = () => {
    const wanted = new Set(chosen());
    $("count").textContent = `${wanted.size} of ${study.models.length}`;
    $("every").disabled = wanted.size === study.models.length;
    $("none").disabled = wanted.size === 0;
    if ($("models").children.length !== study.models.length || $("models").dataset.study !== study.study) {
      $("models").dataset.study = study.study;
      $("models").replaceChildren(...study.models.map((model) => {
        const label = document.createElement("label"), box = document.createElement("input");
        box.type = "checkbox";
        box.value = model.name;
        label.title = model.category;
        label.append(box, symbol(model), model.name);
        return label;
      }));
    }
    for (const box of $("models").querySelectorAll("input")) box.checked = wanted.has(box.value);
  };

  // The symbols of the charts, in a square of 10 units
  const SHAPES = {
    circle: "M5 1a4 4 0 1 0 0 8a4 4 0 1 0 0-8z", square: "M1.5 1.5h7v7h-7z", diamond: "M5 0l4.5 5l-4.5 5l-4.5-5z",
    cross: "M3.5 1h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z", "triangle-up": "M5 1l4.5 8h-9z", "triangle-down": "M5 9l4.5-8h-9z",
    "triangle-right": "M9 5l-8 4.5v-9z", "triangle-left": "M1 5l8 4.5v-9z",
  };
  const symbol = (model) => {
    const [image, path] = ["svg", "path"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
    image.setAttribute("viewBox", "0 0 10 10");
    image.setAttribute("class", "symbol");
    image.setAttribute("aria-hidden", "true");
    path.setAttribute("d", SHAPES[model.shape]);
    path.setAttribute("fill", hue(model));
    image.append(path);
    return image;
  };
  const hue = (model) => (model.color === "#000000" ? "var(--ink)" : model.color); // black is not seen on a dark page

  // Charts. Colours of the page's variables follow light and dark without another drawing.
  const TEXT = { labelColor: "var(--ink)", titleColor: "var(--ink)", titleFontWeight: "normal" };
  const CONFIG = {
    font: "Helvetica Neue, Arial, Liberation Sans, sans-serif", background: "transparent", padding: 8, view: { stroke: "var(--line)" },
    axis: { ...TEXT, gridColor: "var(--line)", gridOpacity: 0.6, domainColor: "var(--faint)", tickColor: "var(--faint)" }, legend: TEXT,
  };
  const draw = async (place, spec) => {
    views.get(place)?.finalize();
    $(place).classList.remove("words");
    const { view } = await vegaEmbed($(place), { $schema: "https://vega.github.io/schema/vega-lite/v6.json", width: "container", autosize: { type: "fit-x", contains: "padding" }, config: CONFIG, ...spec },
      { renderer: "svg", actions: false, ast: true, defaultStyle: false, tooltip: false });
    views.set(place, view);
    return view;
  };
  const words = (place, text) => {
    views.get(place)?.finalize();
    views.delete(place);
    $(place).classList.add("words");
    $(place).textContent = text;
  };

  // The accuracies of the chosen models under a probe, in the order in which conditions are shown
  const rows = (probe) => {
    const table = study.accuracy, models = new Set(chosen());
    const ofProbe = new Map(conditions(probe).map((condition) => [condition.id, condition]));
    const picked = $("condition").value, data = [];
    for (let i = 0; i < table.checkpoint.length; i++) {
      const condition = ofProbe.get(table.condition[i]);
      if (!condition || !models.has(table.checkpoint[i]) || table.image_set[i] !== $("set").value) continue;
      const { id, place, setting, series, x, x_title, y, y_title, cuts } = condition;
      data.push({ place, model: table.checkpoint[i], condition: id, setting, series, x, x_title, y, y_title, cuts, cycles: table.cycles[i],
        top1: table.top1[i], low: table.low[i], high: table.high[i], chance: table.chance[i], picked: id === picked });
    }
    // Places and their ranks grow alike from one gap of a model to the next.
    const ranks = {};
    for (const row of data.sort((a, b) => a.place - b.place)) row.stretch = row.place - (ranks[row.model] = (ranks[row.model] ?? 0) + 1);
    return data;
  };

  const imageSet = () => study.image_sets.find((set) => set.name === $("set").value);
  const own = () => imageSet()?.own_cycles; // above it, enlarged images have nothing of their own
  const measure = () => imageSet()?.labelled === false ? "agreement" : "accuracy";
  const looks = () => ({
    color: { field: "model", type: "nominal", scale: { domain: names(), range: study.models.map(hue) }, legend: null },
    shape: { field: "model", type: "nominal", scale: { domain: names(), range: study.models.map((model) => model.shape) }, legend: null },
  });
  const accuracy = async () => {
    const data = rows($("probe").value), count = (field) => new Set(onAxis.map((row) => row[field])).size;
    $("marks").textContent = "";
    if (!data.length) return words("curves", chosen().length ? "No results of these models for these images." : "No model is chosen.");
    const onAxis = data.filter((row) => row.x !== null), varies = count("x") > 1, several = varies && count("series") > 1;
    // The lines of one model tell the values of a second parameter; several models would have too many.
    const byModel = !several || count("model") > 1, hasFields = onAxis.some((row) => row.y !== null);
    const isMap = hasFields || (several && (byModel || count("series") > LINES));
    const view = await draw("curves", isMap ? map(onAxis) : varies ? curves(onAxis, across(onAxis), byModel) : curves(data, "setting"));
    if (isMap) $("marks").textContent = count("model") > 1 ? `A field is the mean of ${count("model")} models${hasFields ? "" : "; choose one of them for lines"}.` : "";
    view.addEventListener("click", (_, item) => {
      if (item?.datum?.condition) change({ condition: item.datum.condition, from: null, image: null });
    });
  };
  const across = (data) => (data.every((row) => row.cycles !== null) ? "cycles" : "x");
  const map = (data) => {
    const x = across(data), series = [...new Set(data.map((row) => row.series))].reverse();
    const down = data.some((row) => row.y !== null)
      ? { field: "y", title: data[0].y_title, sort: "descending" }
      : { field: "series", title: null, sort: series };
    return {
      data: { values: data }, height: 230,
      transform: [{ aggregate: [{ op: "mean", field: "top1", as: "top1" }, { op: "max", field: "picked", as: "picked" }], groupby: [x, down.field, "condition"] }],
      mark: { type: "rect", cursor: "pointer" },
      encoding: {
        x: { field: x, type: "ordinal", title: data[0].x_title, axis: { labelAngle: 0, format: ".4~g", labelOverlap: true } },
        y: { type: "ordinal", axis: { labelOverlap: true }, ...down },
        color: { field: "top1", type: "quantitative", title: `mean ${measure()}`, scale: { scheme: "viridis", domain: [0, 1] } },
        ...(x === "cycles" && own() ? { opacity: { condition: { test: `datum.cycles > ${own()}`, value: 0.5 }, value: 1 } } : {}),
        stroke: { condition: { test: "datum.picked", value: "#d55e00" }, value: null }, strokeWidth: { value: 3 },
        description: { field: "top1", format: ".3f" },
      },
    };
  };
  const curves = (data, x, byModel = true) => {
    const type = x === "setting" ? "nominal" : "quantitative", title = x === "setting" ? x : data[0].x_title;
    const octaves = x === "cycles" && !data[0].cuts;
    const chances = [...new Set(data.map((row) => row.chance).filter((chance) => chance !== null))].map((chance) => ({ chance }));
    const { color, shape } = looks(), last = Math.max(...data.map((row) => row.cycles));
    const models = new Set(data.map((row) => row.model)).size, few = models <= FEW;
    // A condition that has no place on the axis, as noise of none, is what the others are to be compared with.
    const without = rows($("probe").value).filter((row) => row.x === null), [reference, where] = without.length === models ? [without, `at ${without[0].setting}`] : [rows("clean"), "on clean images"];
    const cleans = few && measure() === "accuracy" ? reference : [];
    $("marks").textContent = ["Bars are 95 % intervals", ...(chances.length ? ["dotted lines chance"] : []), ...(cleans.length ? [`dashed lines the accuracy ${where}`] : few || measure() !== "accuracy" ? [] : [`and up to ${FEW} models have dashed lines of the accuracy ${where}`])].join(", ") + (byModel ? "." : `; lines are of ${data[0].model}.`);
    return {
      data: { values: data }, height: 270,
      encoding: {
        x: { field: x, type, title, sort: null, axis: { labelAngle: 0, labelOverlap: true }, ...(octaves ? { scale: { type: "log", base: 2 } } : {}) },
        ...(type === "nominal" && few ? { xOffset: { field: "model" } } : {}),
        color: byModel ? color : { field: "series", type: "ordinal", sort: null, title: null, scale: { scheme: { name: "viridis", extent: [0, 0.85] } }, legend: { orient: "top", columns: 4 } },
      },
      layer: [
        ...(x === "cycles" && own() && own() < last ? [{ data: { values: [{ cycles: own(), last }] }, mark: { type: "rect", color: "var(--faint)", opacity: 0.25 },
          encoding: { x: { field: "cycles", type }, x2: { field: "last" }, color: null, description: { value: "enlarged images have nothing of their own here" } } }] : []),
        { data: { values: chances }, mark: { type: "rule", strokeDash: [1, 3], color: "var(--faint)" },
          encoding: { x: null, xOffset: null, color: null, y: { field: "chance", type: "quantitative" }, description: { value: "chance" } } },
        { data: { values: cleans }, mark: { type: "rule", strokeDash: [5, 4], ...(byModel ? {} : { color: "var(--ink)" }) },
          encoding: { x: null, xOffset: null, ...(byModel ? {} : { color: null }), y: { field: "top1", type: "quantitative" }, description: { value: `accuracy ${where}` } } },
        ...(type === "quantitative" ? [{ mark: { type: "line", opacity: 0.7 }, encoding: { detail: { field: "stretch" }, y: { field: "top1", type: "quantitative" } } }] : []),
        { mark: { type: "rule", strokeWidth: 1.5, opacity: few ? 0.8 : 0.35 }, encoding: { y: { field: "low", type: "quantitative", title: measure() }, y2: { field: "high" } } },
        { mark: { type: "point", filled: true, cursor: "pointer" },
          encoding: {
            ...(byModel ? { shape } : {}),
            y: { field: "top1", type: "quantitative", title: measure(), scale: { domain: [0, 1] } },
            size: { condition: { test: "datum.picked", value: 130 }, value: 45 },
          } },
      ],
    };
  };

  const scatter = async () => {
    const { why, rows: all } = study.metrics, bias = $("bias").value, group = $("group").value;
    $("brush").hidden = $("bias").parentElement.hidden = $("group").parentElement.hidden = Boolean(why);
    if (why) return void (words("scatter", `Nothing to correlate: ${why}.`), await coefficient());
    const wanted = new Set(chosen()), { color, shape } = looks();
    const values = all.filter((row) => row[bias] !== null && row[group] !== null).map((row) => ({
      model: row.checkpoint, x: row[bias], y: row[group],
      x_low: row[`${bias}_low`] ?? row[bias], x_high: row[`${bias}_high`] ?? row[bias],
      y_low: row[`${group}_low`] ?? row[group], y_high: row[`${group}_high`] ?? row[group], chosen: wanted.has(row.checkpoint),
    }));
    const opacity = { condition: { test: "datum.chosen", value: 0.9 }, value: 0.15 };
    const axes = {
      x: { field: "x", type: "quantitative", title: study.metrics.titles[bias], scale: { zero: false, nice: true } },
      y: { field: "y", type: "quantitative", title: `${study.metrics.titles[group]} (%)`, scale: { zero: false, nice: true } },
      color,
    };
    const view = await draw("scatter", {
      data: { name: "models", values }, height: 300,
      layer: [
        { mark: { type: "rule" }, encoding: { ...axes, x: { ...axes.x, field: "x_low" }, x2: { field: "x_high" }, opacity: { ...opacity, value: 0.08 } } },
        { mark: { type: "rule" }, encoding: { ...axes, y: { ...axes.y, field: "y_low" }, y2: { field: "y_high" }, opacity: { ...opacity, value: 0.08 } } },
        { params: [{ name: "brush", select: { type: "interval", clear: "dblclick", mark: { fill: "var(--ink)", stroke: "var(--ink)", fillOpacity: 0.12 } } }], mark: { type: "point", filled: true, size: 80 }, encoding: { ...axes, shape, opacity } },
      ],
    });
    $("scatter").onpointerup = async () => {
      await view.runAsync(); // the rectangle is drawn by the chart, in a turn of its own
      const box = view.signal("brush");
      if (!box?.x || !box?.y) return;
      const [[left, right], [bottom, top]] = [box.x, box.y].map((ends) => [...ends].sort((one, other) => one - other));
      const inside = values.filter((row) => row.x >= left && row.x <= right && row.y >= bottom && row.y <= top).map((row) => row.model);
      if (inside.length) change({ models: inside.join(",") });
    };
    $("scatter").ondblclick = () => change({ models: null });
    await coefficient();
  };
  const coefficient = async () => {
    if (study.metrics.why) return void ($("coefficient").textContent = "");
    const models = chosen(), turn = turns;
    if (models.length < 4) return void ($("coefficient").textContent = `${models.length} ${models.length === 1 ? "model is" : "models are"} chosen, and a coefficient needs 4.`);
    const found = await fetched("/api/correlation", { study: study.study, bias: $("bias").value, group: $("group").value, models });
    if (turn !== turns) return;
    const number = (value) => (value === null ? "unknown" : value.toFixed(2).replace("-", "−"));
    const given = found.low === null ? "" : ` [${number(found.low)}, ${number(found.high)}]`;
    const p = found.p === null ? "" : `, p = ${found.p.toPrecision(2)}`;
    const note = found.note ? ` (${found.note})` : "";
    $("coefficient").textContent = `Spearman over ${found.n} models: ${number(found.coefficient)}${given}${p}${note}`;
  };

  // Images
  const percent = (value) => (value === null ? "" : `\u00a0${Math.round(100 * value)}\u00a0%`);
  const inWords = (one) => (one.setting ? `${one.probe} ${one.setting}` : one.words);
  const picture = (tile, digest, seed, perturbed) => {
    const image = document.createElement("img"), asks = { set: digest, index: tile.index };
    if (perturbed) Object.assign(asks, { condition: perturbed.id, seed });
    image.src = `/api/picture?${new URLSearchParams(asks)}`;
    image.alt = perturbed ? `${tile.path}, ${inWords(perturbed)}` : tile.path;
    image.loading = "lazy";
    return image;
  };
  const element = (tag, className, ...content) => {
    const node = Object.assign(document.createElement(tag), { className });
    node.append(...content);
    return node;
  };
  const pair = (tile, wall, whole = false) => {
    const perturbed = condition(), seen = imageSet()?.pictures;
    const figure = (content, words) => element("figure", "", content, element("figcaption", "", words));
    if (!seen) return [];
    return [
      figure(picture(tile, wall.digest, wall.seed), "clean"),
      figure(perturbed.unseen ? element("p", "", perturbed.unseen) : picture(tile, wall.digest, wall.seed, perturbed), whole ? `perturbed: ${inWords(perturbed)}` : "perturbed"),
    ];
  };
  const answered = (name, confidence, right) => {
    const text = element("span", right === false ? "answer wrong" : "answer");
    if (right === false) text.append(Object.assign(element("span", "", "✗"), { role: "img", ariaLabel: "wrong:" }), "\u00a0");
    text.append(`${name ?? "?"}${percent(confidence)}`);
    return text;
  };
  const clean = (answer) => answered(answer.clean, answer.clean_confidence, answer.clean_right);
  const perturbed = (answer) => answered(answer.answer, answer.confidence, answer.right);
  const symbolOf = (name) => symbol(study.models.find((model) => model.name === name));
  const says = (answer, letter) => (answer ? element("span", "says", `${letter}\u00a0`, symbolOf(answer.model), `\u00a0${answer.model}: `, clean(answer), " → ", perturbed(answer)) : "");
  let wall = null;
  const images = async () => {
    const turn = turns;
    const { classes, attributes } = await fetched(`/api/filters?${new URLSearchParams({ study: study.study, set: $("set").value })}`);
    if (turn !== turns) return;
    const several = new Set(classes.map((row) => row.scheme)).size > 1;
    fill($("label"), [["", "any"], ...classes.map((row) => [`${row.scheme}:${row.class}`, several ? `${row.scheme.replaceAll("_", " ")}: ${row.name}` : row.name])], asked.label ?? "");
    // The name and value of an attribute are text: a list of both tells them apart whatever they hold.
    fill($("attribute"), [["", "any"], ...attributes.map(({ name, value }) => [JSON.stringify([name, value]), `${name}: ${value}`])], asked.attribute ?? "");
    $("attributes").hidden = !attributes.length;
    $("labelled").hidden = measure() !== "accuracy";
    $("unlabelled").hidden = measure() === "accuracy";
    write({ label: $("label").value, attribute: $("attribute").value }, true);
    const [attribute, value] = $("attribute").value ? JSON.parse($("attribute").value) : [null, null];
    const [scheme, label] = $("label").value ? $("label").value.split(":") : [null, null];
    const from = Number(asked.from ?? 0), b = $("b").value;
    const found = await fetched("/api/images", {
      study: study.study, image_set: $("set").value, condition: $("condition").value, a: $("a").value, b: b || null,
      selection: $("selection").value, attribute, attribute_value: value, scheme, label: label === null ? null : Number(label),
      models: [...new Set([$("a").value, ...(b ? [b] : []), ...chosen()])], offset: from, limit: TILES,
    });
    if (turn !== turns) return;
    wall = found;
    tiles = found.tiles;
    const range = tiles.length > 1 ? `${from + 1} to ${from + tiles.length}` : `number ${from + 1}`;
    const unseen = imageSet()?.pictures ? "" : ". Their pictures are not on this machine (those of bandlens sample do not come along): name their folder with --images to see them.";
    $("total").textContent = ({ 0: "No image fits.", 1: "1 image" }[found.total] ?? `${found.total.toLocaleString("en")} images; ${range}`) + (found.total ? unseen : "");
    $("difference").textContent = found.difference ? `B minus A under ${inWords(condition())}: ${found.difference} (${b} less ${$("a").value}).` : "";
    $("before").disabled = from === 0;
    $("after").disabled = from + tiles.length >= found.total;
    $("wall").replaceChildren(...tiles.map((tile) => {
      const item = document.createElement("li"), button = element("button", "", element("div", "pair", ...pair(tile, found)));
      button.type = "button";
      button.dataset.index = tile.index;
      button.append(element("span", "says", tile.label === null ? tile.path : `${tile.path} (${tile.label})`));
      for (const [letter, name] of [["A", $("a").value], ["B", b]]) if (name) button.append(says(tile.answers.find((answer) => answer.model === name), letter));
      button.onclick = () => { write({ image: tile.index }); detail(); };
      item.append(button);
      return item;
    }));
    detail();
  };
  const detail = () => {
    const place = tiles.findIndex((tile) => String(tile.index) === asked.image), tile = tiles[place], dialog = $("image");
    if (!tile) return void (dialog.open && dialog.close());
    $("image-title").textContent = tile.label === null ? tile.path : `${tile.path}, labelled ${tile.label}`;
    $("image-pair").replaceChildren(...pair(tile, wall, true));
    $("image-answers").replaceChildren(...tile.answers.map((answer) => {
      const cells = [[symbolOf(answer.model), `\u00a0${answer.model}`], [clean(answer)], [perturbed(answer)]];
      return element("tr", "", ...cells.map((content) => element("td", "", ...content)));
    }));
    octaves(tile);
    $("previous").disabled = place === 0;
    $("next").disabled = place === tiles.length - 1;
    if (!dialog.open) dialog.showModal();
  };
  const octaves = guarded(async (tile) => {
    const place = $("image-octaves");
    place.hidden = true;
    const shares = await fetched(`/api/octaves?${new URLSearchParams({ study: study.study, set: $("set").value, index: tile.index })}`);
    if (String(tile.index) !== asked.image) return; // another image was opened meanwhile
    const models = tile.answers.map((answer) => answer.model).filter((name) => shares[name]);
    place.querySelector("tbody").replaceChildren(...models.map((name) => {
      const cells = shares[name].map((share) => {
        const cell = element("td", "", share.toFixed(2).replace("-", "−"));
        cell.style.background = `color-mix(in srgb, ${share < 0 ? "#0072b2" : "#d55e00"} ${Math.min(70, 140 * Math.abs(share))}%, transparent)`;
        return cell;
      });
      return element("tr", "", element("td", "", symbolOf(name), `\u00a0${name}`), ...cells);
    }));
    place.hidden = !models.length;
  });
  const step = (by) => {
    const tile = tiles[tiles.findIndex((one) => String(one.index) === asked.image) + by];
    if (tile) { write({ image: tile.index }, true); detail(); }
  };

  // From the address to the page
  const show = guarded(async () => {
    delete document.documentElement.dataset.drawn;
    const turn = ++turns;
    if (!study || asked.study !== study.study) {
      const given = await fetched(`/api/study${asked.study ? `?${new URLSearchParams({ study: asked.study })}` : ""}`);
      if (turn !== turns) return;
      study = given;
    }
    controls();
    verdict();
    await Promise.all([accuracy(), scatter(), images()]);
    if (turn === turns) document.documentElement.dataset.drawn = "all";
  });
  const change = (changes) => { write(changes); return show(); };

  $("study").onchange = () => { write({ ...Object.fromEntries(Object.keys(asked).map((name) => [name, null])), study: $("study").value }); show(); };
  $("set").onchange = () => change({ set: $("set").value, label: null, attribute: null, from: null, image: null });
  $("probe").onchange = () => change({ probe: $("probe").value, condition: null, from: null, image: null });
  $("condition").onchange = () => change({ condition: $("condition").value, from: null, image: null });
  for (const name of ["bias", "group"]) $(name).onchange = () => change({ [name]: $(name).value });
  for (const name of ["selection", "a", "b", "label", "attribute"]) $(name).onchange = () => change({ [name]: $(name).value, from: null, image: null });
  $("models").onchange = () => change({ models: [...$("models").querySelectorAll("input:checked")].map((box) => box.value).join(",") || "-" });
  $("every").onclick = () => change({ models: null });
  $("none").onclick = () => change({ models: "-" });
  $("before").onclick = () => change({ from: Math.max(0, Number(asked.from ?? 0) - TILES) || null, image: null });
  $("after").onclick = () => change({ from: Number(asked.from ?? 0) + TILES, image: null });
  $("previous").onclick = () => step(-1);
  $("next").onclick = () => step(1);
  $("close").onclick = () => $("image").close();
  $("image").onclose = () => { if (asked.image !== undefined) write({ image: null }); };
  $("image").onkeydown = (event) => {
    if (event.key === "ArrowLeft" || event.key === "ArrowRight") { event.preventDefault(); step(event.key === "ArrowLeft" ? -1 : 1); }
  };
  $("choice").onsubmit = (event) => event.preventDefault();
  window.onpopstate = () => { asked = read(); show(); };

  asked = read();
  show();
})();
