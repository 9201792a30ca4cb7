// Which metrics are looked at together, and charts of them that are loaded a few at a time and grow as points come.

import * as api from "./api.js";
import { Chart, axes } from "./chart.js";
import { error, h, show } from "./dom.js";
import { value } from "./format.js";

/** Metrics of one request, and requests at once: browsers have six connections to a host, and streams hold some. */
const KEYS_AT_ONCE = 2;
const REQUESTS_AT_ONCE = 3;
/** A series that grew beyond this is asked for again, thinned. */
const POINTS_MAX = 5000;

const READING = /^(system|workers)\//;
const PER_LABEL = /^(train|validation)\/(precision|recall|f1)\/(.+)$/;

/** What is measured of machines and workers counts readings, not steps. */
export const isReading = (key) => READING.test(key);

/** What is measured of one label of many. */
export const isPerLabel = (key) => PER_LABEL.test(key);

/** Where a metric is shown: [part, title, label, order]. */
function placeOf(key) {
  let found = key.match(/^workers\/(.+)\/([^/]+)$/);
  if (found) {
    const known = { samples_per_second: ["Worker speed (samples/s at work)", 1], share: ["Share of each batch", 2], data_ms: ["Waiting for data (ms a step)", 3] };
    const [title, order] = known[found[2]] || [found[2].replaceAll("_", " "), 4];
    return ["workers", title, found[1], order];
  }
  if (key === "train/samples_per_second") return ["workers", "Samples per second", "all together", 0];
  found = key.match(/^system\/(?:(.+)\/)?([^/]+)$/);
  if (found) return ["machines", found[2].replaceAll("_", " "), found[1] || "coordinator", 1];
  found = key.match(PER_LABEL);
  if (found) return ["labels", `${found[2][0].toUpperCase()}${found[2].slice(1)}, by label`, found[3], 1];
  if (/^validation\/macro_/.test(key)) return ["curves", "Macro averages", key.slice("validation/macro_".length), 3];
  found = key.match(/^(train|validation)\/(loss|accuracy)$/);
  if (found) return ["curves", found[2] === "loss" ? "Loss" : "Accuracy", found[1], found[2] === "loss" ? 0 : 1];
  found = key.match(/^(train|validation)\/(.+)$/);
  return found ? ["curves", found[2].replaceAll("_", " "), found[1], 2] : ["curves", key, key, 2];
}

/** Charts of these metrics: {part, title, lines: [{key, label}]}, the most looked at first. */
export function groups(keys) {
  const found = new Map();
  for (const key of [...keys].sort()) {
    const [part, title, label, order] = placeOf(key);
    const name = `${part} ${title}`;
    if (!found.has(name)) found.set(name, { part, title, order, lines: [] });
    const group = found.get(name);
    group.order = Math.min(group.order, order);
    group.lines.push({ key, label });
  }
  return [...found.values()].sort((a, b) => a.order - b.order || a.title.localeCompare(b.title));
}

/** Points as they come, with numbers where JSON has words. */
export const toSeries = (series, began) => ({ ...series, value: series.value.map(value), began });

/** Steps of an epoch, as some of a run's own metrics have them; null where none says it. */
export function perEpoch(series) {
  for (const { key, step, epoch } of series) {
    if (!isReading(key) && epoch?.at(-1) > 0) return step.at(-1) / epoch.at(-1);
  }
  return null;
}

/** A line of a chart; a reading's step is where the run was. */
export const toLine = (series, per_epoch, label, colour) =>
  ({ ...series, per_epoch: isReading(series.key) && series.epoch.length ? per_epoch : null, label, colour });

/** Series of all keys, some at a time, in their order; `take` gets them as they come. */
export async function load(id, keys, take) {
  const parts = [];
  for (let at = 0; at < keys.length; at += KEYS_AT_ONCE) parts.push(keys.slice(at, at + KEYS_AT_ONCE));
  const work = async () => {
    for (let part = parts.shift(); part; part = parts.shift()) take(await api.points(id, part));
  };
  await Promise.all(Array.from({ length: REQUESTS_AT_ONCE }, work));
}

/** What is across, how smooth, and which charts: `look` is {axis, smooth, filter}. */
export function toolbar(look, redraw) {
  const across = h("select", { onchange: (event) => { look.axis = event.target.value; redraw(true); } }, axes.map((name) => h("option", { value: name }, name)));
  const said = h("output", "off");
  const smooth = h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, oninput: (event) => {
    look.smooth = Number(event.target.value);
    said.textContent = look.smooth ? look.smooth.toFixed(2) : "off";
    redraw(false);
  } });
  const filter = h("input", { type: "search", "aria-label": "Filter charts", placeholder: "Filter charts", oninput: (event) => { look.filter = event.target.value.trim().toLowerCase(); redraw(false); } });
  return h("div.tools.look", h("label", "across ", across), h("label", "smoothing ", smooth, said), filter);
}

export const fits = (look, group) => !look.filter || [group.title, ...group.lines.flatMap(({ key, label }) => [key, label])].some((text) => text.toLowerCase().includes(look.filter));

/** A run's charts, in an element for each part. */
export class Curves {
  constructor(run, look) {
    this.id = run.id;
    this.began = run.start_ms;
    this.look = look;
    this.keys = new Set();
    this.series = new Map();
    this.waiting = new Map();
    this.charts = new Map();
    this.parts = Object.fromEntries(["curves", "labels", "workers", "machines"].map((part) => [part, h("div.charts")]));
    this.trouble = h("div");
  }

  /** Shows charts for these keys and asks for their points. */
  async load(keys) {
    const missing = groups(keys).flatMap(({ lines }) => lines.map(({ key }) => key)).filter((key) => !this.keys.has(key));
    if (!missing.length) return;
    missing.forEach((key) => { this.keys.add(key); this.waiting.set(key, []); });
    this.draw();
    try {
      await load(this.id, missing, (found) => {
        found.forEach((series) => this.take(series));
        this.draw();
      });
      show(this.trouble);
    } catch (problem) {
      missing.filter((key) => !this.series.has(key)).forEach((key) => { this.keys.delete(key); this.waiting.delete(key); });
      show(this.trouble, error(problem), h("button", { type: "button", onclick: () => this.load(keys) }, "Try again"));
    }
  }

  take(series) {
    this.series.set(series.key, toSeries(series, this.began));
    const waiting = this.waiting.get(series.key) || [];
    this.waiting.delete(series.key);
    waiting.forEach((more) => this.extend(more));
  }

  draw() {
    const all = groups(this.keys);
    const per_epoch = perEpoch(this.series.values());
    for (const group of all) {
      const name = `${group.part} ${group.title}`;
      if (!this.charts.has(name)) this.charts.set(name, new Chart(group.title, () => this.look));
      const chart = this.charts.get(name);
      const known = group.lines.map(({ key, label }, colour) => ({ series: this.series.get(key), label, colour })).filter(({ series }) => series);
      const shown = known.map(({ series, label, colour }) => toLine(series, per_epoch, label, colour));
      chart.element.hidden = !fits(this.look, group);
      if (known.length) chart.set(shown.filter((series) => series.value.length));
    }
    for (const [part, element] of Object.entries(this.parts)) {
      const order = all.filter((group) => group.part === part).map((group) => this.charts.get(`${part} ${group.title}`).element);
      if (order.length !== element.children.length || order.some((child, index) => child !== element.children[index])) show(element, order);
    }
  }

  /** What came since; a stream and a question may bring the same. */
  append(all) {
    for (const more of all) {
      if (this.waiting.has(more.key)) this.waiting.get(more.key).push(more);
      else if (this.series.has(more.key)) this.extend(more);
    }
    const long = [...this.series.values()].filter((series) => series.step.length > POINTS_MAX).map((series) => series.key);
    if (long.length) this.again(long);
    this.draw();
  }

  extend(more) {
    const known = this.series.get(more.key);
    const last = known.step.at(-1) ?? -1;
    more.step.forEach((step, i) => {
      if (step <= last) return;
      known.step.push(step);
      known.value.push(value(more.value[i]));
      known.time_ms.push(more.time_ms[i]);
      if (more.epoch.length) known.epoch.push(more.epoch[i]);
      if (more.samples.length) known.samples.push(more.samples[i]);
    });
  }

  /** Asks for these anew; what is there is shown meanwhile. */
  again(keys = [...this.keys]) {
    keys.forEach((key) => this.keys.delete(key));
    return this.load(keys);
  }

  /** The horizontal axis is another: ranges of the old one mean nothing. */
  unzoom() {
    this.charts.forEach((chart) => chart.setZoom(null));
  }

  close() {
    this.charts.forEach((chart) => chart.close());
  }
}
