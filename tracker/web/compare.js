// Two or more runs: metrics over each other, what differs in the configuration, last values side by side.

import * as api from "./api.js";
import { Chart, axes } from "./chart.js";
import { h, show, status } from "./dom.js";
import { number, value } from "./format.js";
import { toSeries } from "./run.js";

const CHARTS_MAX = 24;

export async function compareView({ main, trail }, ids) {
  trail("compare");
  if (ids.length < 2) throw new Error("Choose at least two runs to compare.");
  const { runs, params, metrics } = await api.compare(ids);
  trail(`compare ${runs.map((run) => run.name).join(", ")}`);
  const keys = metrics.map((metric) => metric.key).filter((key) => !/^(workers|system)\//.test(key)).slice(0, CHARTS_MAX);
  const loaded = await Promise.all(runs.map((run) => api.points(run.id, keys)));

  let axis = "step";
  const charts = keys.map((key) => {
    const chart = new Chart(key, () => axis);
    chart.set(runs.flatMap((run, index) => {
      const found = loaded[index].find((series) => series.key === key);
      return found?.value.length ? [{ ...toSeries(found, run.start_ms), label: run.name, colour: index }] : [];
    }));
    return chart;
  });
  const across = h("select", { "aria-label": "Horizontal axis", onchange: (event) => { axis = event.target.value; charts.forEach((chart) => { chart.setZoom(null); }); } },
    axes.map((name) => h("option", { value: name }, `by ${name}`)));

  const names = runs.map((run, index) => h("th.n", { scope: "col" }, h("span", { style: { color: `var(--s${index % 8})` } }, "● "), h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name)));
  const best = (metric) => {
    const found = metric.values.map((cell) => (cell ? value(cell.value) : NaN)).filter(Number.isFinite);
    return metric.lower_is_better ? Math.min(...found) : Math.max(...found);
  };
  const cell = (metric, at) => {
    if (!at) return h("td.n", "–");
    const shown = value(at.value);
    const isBest = runs.length > 1 && shown === best(metric) && !/^(workers|system)\//.test(metric.key) && metric.lower_is_better !== null;
    return h("td.n", { title: `step ${at.step}` }, isBest ? h("b", number(shown)) : number(shown));
  };
  const differing = params.filter((param) => param.differs);
  const all = h("input", { type: "checkbox", onchange: () => drawParams() });
  const table = h("div");
  function drawParams() {
    const rows = (all.checked ? params : differing).map((param) =>
      h("tr", { class: all.checked && param.differs ? "differs" : null }, h("th", { scope: "row" }, h("code", param.key)), param.values.map((text) => h("td.n", text ?? "–"))));
    show(table, rows.length ? h("div.scroll", { tabindex: 0 }, h("table", h("thead", h("tr", h("th", "key"), names.map((name) => name.cloneNode(true)))), h("tbody", rows))) : h("p.empty", "Their configurations are the same."));
  }
  drawParams();
  show(main,
    h("div.head", h("h1", "Compare"), runs.map((run) => h("span", run.name, " ", status(run.status)))),
    h("div.tools", across),
    h("div.charts", charts.map((chart) => chart.element)),
    h("h2", "Configuration"), h("label.note", all, " show what is the same, too"), table,
    h("h2", "Last values"),
    h("div.scroll", { tabindex: 0 }, h("table", h("thead", h("tr", h("th", "metric"), names)), h("tbody", metrics.map((metric) => h("tr", h("th", { scope: "row" }, h("code", metric.key)), metric.values.map((at) => cell(metric, at))))))));
  return { close: () => charts.forEach((chart) => chart.close()) };
}
