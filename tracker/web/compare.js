// Two or more runs: metrics over each other, what differs in the configuration, last values side by side.

import * as api from "./api.js";
import { Chart } from "./chart.js";
import { fits, groups, isPerLabel, isReading, load, perEpoch, toLine, toSeries, toolbar } from "./curves.js";
import { Slot, error, h, show, status } from "./dom.js";
import { number, value } from "./format.js";

const LOOK_AGAIN_MS = 3000;
const link = (run) => h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name);
const dot = (index) => h(index >= 8 ? "span.swatch.dashed" : "span.swatch", { style: { color: `var(--s${index % 8})` }, "aria-hidden": "true" });
const heads = (runs) => runs.map((run, index) => h("th.n", { scope: "col" }, dot(index), link(run)));

/** Charts of what the runs have in common or not, one for each metric; the first ones at once. */
class Overlay {
  constructor(look) {
    this.look = look;
    this.runs = [];
    this.charts = new Map();
    this.points = new Map();
    this.open = new Set(["curves"]);
    this.parts = Object.fromEntries(["curves", "labels", "workers", "machines"].map((part) => [part, h("div.charts")]));
  }

  /** Shows these runs; only what has changed is asked for again. */
  async take({ runs, metrics }) {
    this.runs = runs;
    this.keys = metrics.map((metric) => metric.key);
    this.counts = new Map(metrics.flatMap((metric) => metric.values.map((at, index) => [`${runs[index].id} ${metric.key}`, at ? `${at.count} ${at.step} ${at.time_ms}` : ""])));
    this.draw();
    await this.load();
  }

  shown() {
    return groups(this.keys).filter((group) => this.open.has(group.part)).flatMap((group) => group.lines.map((line) => ({ ...group, title: line.key, lines: [line] })));
  }

  async load() {
    const keys = this.shown().map((group) => group.lines[0].key);
    for (const run of this.runs) {
      const wanted = keys.filter((key) => {
        const name = `${run.id} ${key}`;
        return this.counts.get(name) && this.points.get(name)?.of !== this.counts.get(name);
      });
      await load(run.id, wanted, (found) => {
        found.forEach((series) => this.points.set(`${run.id} ${series.key}`, { of: this.counts.get(`${run.id} ${series.key}`), series: toSeries(series, run.start_ms) }));
        this.draw();
      });
    }
  }

  draw() {
    const all = this.shown();
    const steps = this.runs.map((run) => perEpoch(this.keys.flatMap((key) => this.points.get(`${run.id} ${key}`)?.series ?? [])));
    for (const group of all) {
      const [{ key }] = group.lines;
      if (!this.charts.has(key)) this.charts.set(key, new Chart(key, () => this.look));
      const chart = this.charts.get(key);
      const known = this.runs.flatMap((run, index) => {
        const found = this.points.get(`${run.id} ${key}`);
        return found ? [toLine(found.series, steps[index], run.name, index)] : [];
      });
      if (known.length) chart.set(known);
      chart.element.hidden = !fits(this.look, group);
    }
    for (const [part, element] of Object.entries(this.parts)) {
      const order = all.filter((group) => group.part === part).map((group) => this.charts.get(group.title).element);
      if (order.length !== element.children.length || order.some((child, index) => child !== element.children[index])) show(element, order);
    }
  }
}

function configuration(runs, params, isAll, onAll) {
  const shown = isAll ? params : params.filter((param) => param.differs);
  const box = h("input", { type: "checkbox", onchange: (event) => onAll(event.target.checked) });
  box.checked = isAll;
  const rows = shown.map((param) => h("tr", { class: isAll && param.differs ? "differs" : null }, h("th", { scope: "row" }, h("code", param.key)),
    param.values.map((text) => h("td.n", text === null ? "–" : h("code", text)))));
  return h("section.panel", h("h2", "Configuration"), h("p.note", h("label", box, " show what is the same, too")),
    rows.length ? h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Configuration" }, h("table.side", h("thead", h("tr", h("th", { scope: "col" }, "key"), heads(runs))), h("tbody", rows)))
      : h("p.empty", "Their configurations are the same."));
}

function values(runs, metrics) {
  const best = (metric) => {
    const found = metric.values.filter(Boolean).map((at) => value(at.value)).filter(Number.isFinite);
    const isJudged = found.length > 1 && /^validation\/|^train\/(loss|accuracy)$/.test(metric.key) && new Set(found).size > 1;
    if (!isJudged) return null;
    return metric.lower_is_better ? Math.min(...found) : Math.max(...found);
  };
  const row = (metric) => {
    const winner = best(metric);
    return h("tr", h("th", { scope: "row" }, h("code", metric.key)), metric.values.map((at) => {
      if (!at) return h("td.n", "–");
      const shown = value(at.value);
      return h("td.n", { title: `step ${at.step}` }, shown === winner ? h("b.best", number(shown)) : number(shown));
    }));
  };
  const side = (title, some) => h("div.scroll", { tabindex: 0, role: "region", "aria-label": title },
    h("table.side", h("thead", h("tr", h("th", { scope: "col" }, "metric"), heads(runs))), h("tbody", some.map(row))));
  const measured = metrics.filter((metric) => !isReading(metric.key));
  const labels = measured.filter((metric) => isPerLabel(metric.key));
  return h("section.panel", h("h2", "Last values"), h("p.note", "The best of each row is marked."),
    side("Last values", measured.filter((metric) => !isPerLabel(metric.key))),
    labels.length ? h("details.more", h("summary", `By label (${labels.length})`), side("Last values by label", labels)) : null);
}

export async function compareView({ main, trail, tellLive }, ids) {
  trail(h("a", { href: "#/" }, "runs"), "compare");
  if (ids.length < 2) throw new Error("Choose at least two runs to compare.");
  let found = await api.compare(ids);
  if (!found.runs.length) throw new Error("None of these runs is there any more.");
  trail(h("a", { href: "#/" }, "runs"), `compare ${found.runs.map((run) => run.name).join(", ")}`);
  const look = { axis: "step", smooth: 0, filter: "" };
  const overlay = new Overlay(look);
  const [top, params, last, trouble] = [new Slot(), new Slot(), new Slot(), h("div")];
  let isAll = false;

  function draw() {
    const { runs, metrics } = found;
    top.show(runs.map(({ id, name, status: stands }) => [id, name, stands]), () =>
      [h("div.head", h("h1", "Compare"), runs.map((run, index) => h("span", dot(index), link(run), " ", status(run.status)))),
        runs.length < ids.length ? h("p.note", `${ids.length - runs.length} of the runs are gone.`) : null]);
    params.show([runs.map(({ id }) => id), found.params, isAll], () => configuration(runs, found.params, isAll, (now) => {
      isAll = now;
      draw();
      params.element.querySelector("input").focus();
    }));
    last.show([runs.map(({ id }) => id), metrics], () => values(runs, metrics));
    const running = runs.filter((run) => run.status === "running").length;
    tellLive(running ? "on" : "", running ? `${running} running` : "");
  }

  const more = (title, part) => {
    const box = h("details.more", h("summary", title), overlay.parts[part]);
    box.addEventListener("toggle", () => {
      if (!box.open) return;
      overlay.open.add(part);
      overlay.draw();
      overlay.load();
    });
    return box;
  };
  const redraw = (isOther) => {
    if (isOther) overlay.charts.forEach((chart) => chart.setZoom(null));
    overlay.draw();
  };
  draw();
  show(main, top.element, trouble, toolbar(look, redraw), overlay.parts.curves, more("By label", "labels"), more("Throughput", "workers"), more("Machines", "machines"), params.element, last.element);
  const said = (problem) => {
    show(trouble, error(problem));
    tellLive("off", "trying again");
  };
  overlay.take(found).catch(said);

  let isAsking = false;
  const timer = setInterval(async () => {
    if (isAsking || document.hidden || !found.runs.some((run) => run.status === "running")) return;
    isAsking = true;
    try {
      found = await api.compare(ids);
      draw();
      show(trouble);
      await overlay.take(found);
    } catch (problem) {
      said(problem);
    }
    isAsking = false;
  }, LOOK_AGAIN_MS);
  return {
    close() {
      clearInterval(timer);
      overlay.charts.forEach((chart) => chart.close());
    },
  };
}
