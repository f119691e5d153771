"use strict";
(() => {
  const specs = JSON.parse(document.getElementById("specs").textContent);
  const views = new WeakMap(); // figure -> views drawn in it
  const picks = new WeakMap(); // figure -> model or category picked

  const show = (view, name) => {
    if (view.signal("picked") !== name) view.signal("picked", name).runAsync();
  };

  const pick = (figure, name) => {
    picks.set(figure, name);
    for (const button of figure.querySelectorAll("[data-pick]"))
      button.setAttribute("aria-pressed", String(button.dataset.pick === name));
    const select = figure.querySelector("select");
    if (select) select.value = [...select.options].some((option) => option.value === name) ? name : "";
    for (const view of views.get(figure) ?? []) show(view, name);
  };

  const draw = async (panel) => {
    const figure = panel.closest("figure");
    try {
      const drawn = specs[panel.dataset.spec];
      // On a phone, names take half of the width at most: the chart needs the rest.
      drawn.config.axis.labelLimit = Math.min(360, panel.clientWidth / 2);
      const { view, spec } = await vegaEmbed(panel, drawn, { renderer: "svg", actions: false });
      if (!spec.params?.some((parameter) => parameter.name === "picked")) return;
      views.set(figure, [...(views.get(figure) ?? []), view]);
      show(view, picks.get(figure) ?? "");
      const named = new Set([...figure.querySelectorAll("[data-pick]")].map((button) => button.dataset.pick));
      view.addEventListener("click", (event, item) => {
        const name = [item?.datum?.category, item?.datum?.model].find((word) => named.has(word));
        pick(figure, name === undefined || picks.get(figure) === name ? "" : name);
      });
    } catch (error) {
      panel.textContent = "This chart could not be drawn; the table below has its numbers.";
      console.error(error);
    }
  };

  for (const figure of document.querySelectorAll("figure")) {
    for (const button of figure.querySelectorAll("[data-pick]"))
      button.addEventListener("click", () =>
        pick(figure, picks.get(figure) === button.dataset.pick ? "" : button.dataset.pick));
    figure.querySelector("select")?.addEventListener("change", (event) => pick(figure, event.target.value));
    figure.querySelector(".later")?.addEventListener("toggle", async (event) => {
      for (const panel of event.target.querySelectorAll(".panel:empty")) await draw(panel);
    });
  }

  // On paper, charts are as wide as their place there, so that their type is as large as on a screen.
  const fit = (event) => {
    document.body.classList.toggle("paper", event.type === "beforeprint");
    window.dispatchEvent(new Event("resize"));
  };
  window.addEventListener("beforeprint", fit);
  window.addEventListener("afterprint", fit);

  (async () => {
    for (const panel of document.querySelectorAll(".panel"))
      if (!panel.closest(".later")) await draw(panel);
    document.documentElement.dataset.drawn = "all";
  })();
})();
