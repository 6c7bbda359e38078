"use strict";
(() => {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const touch = matchMedia("(pointer: coarse)").matches;
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // The charts' text and axes in the colours of the page; the data keeps its own, which are legible on both.
  function themed(layout) {
    const change = {
      "font.color": colour("--ink"), "hoverlabel.bgcolor": colour("--raised"),
      "hoverlabel.bordercolor": colour("--strong-rule"), "hoverlabel.font.color": colour("--ink"),
    };
    for (const axis of Object.keys(layout).filter((key) => /^[xy]axis/.test(key))) {
      change[axis + ".gridcolor"] = colour("--rule");
      change[axis + ".linecolor"] = change[axis + ".tickcolor"] = colour("--strong-rule");
      if (touch) change[axis + ".fixedrange"] = true;
    }
    if (touch) change.dragmode = false; // a finger on a chart scrolls the page
    return change;
  }

  const live = [];
  for (const figure of document.querySelectorAll("figure[data-chart]")) {
    const source = document.getElementById(figure.dataset.chart);
    if (!source || typeof Plotly === "undefined") continue;
    const { data, layout } = JSON.parse(source.textContent);
    const div = document.createElement("div");
    div.className = "live";
    figure.querySelector(".plot").append(div);
    figure.classList.add("drawn");
    const config = { responsive: true, displaylogo: false, displayModeBar: false };
    Plotly.newPlot(div, data, layout, config).then(() => Plotly.relayout(div, themed(layout)));
    live.push([div, layout]);
  }
  dark.addEventListener("change", () => live.forEach(([div, layout]) => Plotly.relayout(div, themed(layout))));

  // Tables sort by any column; what is missing stays at the end in both directions.
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const down = head.getAttribute("aria-sort") === "ascending";
        heads.forEach((other) => other.removeAttribute("aria-sort"));
        head.setAttribute("aria-sort", down ? "descending" : "ascending");
        const key = (row) => row.cells[column].dataset.sort;
        const numeric = head.classList.contains("num");
        const order = (a, b) => (numeric ? a - b : a.localeCompare(b, "en", { numeric: true })) * (down ? -1 : 1);
        const rows = [...body.rows];
        const known = rows.filter((row) => key(row) !== undefined).sort((a, b) => order(key(a), key(b)));
        body.append(...known, ...rows.filter((row) => key(row) === undefined));
      });
    });
  }

  // Paper shows everything.
  let closed = [];
  addEventListener("beforeprint", () => {
    closed = [...document.querySelectorAll("details:not([open])")];
    closed.forEach((one) => (one.open = true));
  });
  addEventListener("afterprint", () => closed.forEach((one) => (one.open = false)));

  // A link to something folded away unfolds it.
  const unfold = () => {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const fold = target && target.closest("details");
    if (fold) fold.open = true;
  };
  addEventListener("hashchange", unfold);
  unfold();
})();
