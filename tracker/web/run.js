// One run, live: curves, who is in the view and what happened to it, checkpoints, the confusion matrix, data, exports.

import * as api from "./api.js";
import { Chart, axes } from "./chart.js";
import { h, show, status, table } from "./dom.js";
import { bytes, duration, moment, number, short, value } from "./format.js";

const EVENTS_SHOWN = 200;
/** Curves that people look at together. */
const TOGETHER = [
  ["Loss", /^(train|validation)\/loss$/],
  ["Accuracy", /^(train|validation)\/accuracy$/],
  ["Samples per second, by worker", /^workers\/.*\/samples_per_second$|^train\/samples_per_second$/],
  ["Share of the samples, by worker", /^workers\/.*\/share$/],
  ["Waiting for data, by worker (ms a step)", /^workers\/.*\/data_ms$/],
];

/** Points as they come, with numbers where JSON has words. */
export const toSeries = (series, began) => ({ ...series, value: series.value.map(value), began });

function groups(keys) {
  const rest = new Set(keys);
  const found = [];
  for (const [title, pattern] of TOGETHER) {
    const these = keys.filter((key) => pattern.test(key));
    these.forEach((key) => rest.delete(key));
    if (these.length) found.push([title, these]);
  }
  const system = new Map();
  for (const key of [...rest].filter((name) => /^(system|workers)\//.test(name))) {
    const title = `${key.split("/")[0]}: ${key.split("/").at(-1).replaceAll("_", " ")}`;
    system.set(title, [...(system.get(title) || []), key]);
    rest.delete(key);
  }
  return [...found, ...[...rest].sort().map((key) => [key, [key]]), ...[...system].sort()];
}

const label = (key, title) => (title === key ? key.split("/").at(-1) : /^(workers|system)\//.test(key) ? key.split("/").slice(1, -1).join("/") || "coordinator" : key);

class Curves {
  constructor(id, began) {
    this.id = id;
    this.began = began;
    this.axis = "step";
    this.series = new Map();
    this.charts = new Map();
    this.element = h("div.charts");
  }

  async load(keys) {
    const missing = keys.filter((key) => !this.series.has(key));
    for (const series of await api.points(this.id, missing)) this.series.set(series.key, toSeries(series, this.began));
    this.draw();
  }

  draw() {
    for (const [title, keys] of groups([...this.series.keys()])) {
      if (!this.charts.has(title)) this.charts.set(title, new Chart(title, () => this.axis));
      const shown = keys.map((key, index) => ({ ...this.series.get(key), label: label(key, title), colour: index }));
      this.charts.get(title).set(shown.filter((series) => series.value.length));
    }
    const order = groups([...this.series.keys()]).map(([title]) => this.charts.get(title).element);
    if (order.length !== this.element.children.length || order.some((element, index) => element !== this.element.children[index])) show(this.element, order);
  }

  /** What came since; a stream and a question may bring the same. */
  append(series) {
    for (const more of series) {
      const known = this.series.get(more.key);
      if (!known) {
        this.series.set(more.key, toSeries(more, this.began));
        continue;
      }
      const last = known.step.at(-1) ?? -1;
      more.step.forEach((step, i) => {
        if (step <= last) return;
        known.step.push(step);
        known.value.push(value(more.value[i]));
        known.time_ms.push(more.time_ms[i]);
        known.epoch?.push(more.epoch?.[i]);
        known.samples?.push(more.samples?.[i]);
      });
    }
    this.draw();
  }

  close() {
    this.charts.forEach((chart) => chart.close());
  }
}

function facts(summary, run) {
  const { record } = run;
  const latest = new Map(run.latest.map((metric) => [metric.key, metric]));
  const of = (key) => value(latest.get(key)?.value);
  const rate = of("train/samples_per_second");
  const list = [
    ["step", number(summary.step)],
    ["train loss", number(of("train/loss"))],
    ["validation loss", number(of("validation/loss"))],
    latest.has("validation/accuracy") && ["validation accuracy", number(of("validation/accuracy"))],
    rate !== undefined && ["samples per second", number(rate)],
    ["took", duration((summary.end_ms ?? (summary.status === "running" ? Date.now() : summary.updated_ms)) - summary.start_ms)],
    record?.dataset && ["dataset", record.dataset.version || record.dataset.name || "–", "small"],
    record?.final?.digest && ["final digest", short(record.final.digest), "small", record.final.digest],
    record?.git_commit && ["commit", short(record.git_commit), "small", record.git_commit],
    record && ["bit for bit", record.exact === false ? "not claimed" : "yes"],
  ];
  return h("dl.facts", list.filter(Boolean).map(([title, text, kind, whole]) => h("div.fact", h("dt", title), h(kind ? `dd.${kind}` : "dd", { title: whole || text }, text))));
}

function members(run) {
  const { members: all = [] } = run.record || {};
  if (!all.length) return null;
  const rate = (name) => value(run.latest.find((metric) => metric.key === `workers/${name}/samples_per_second`)?.value) || 0;
  const total = all.filter((member) => member.left_step === null).reduce((sum, member) => sum + rate(member.name), 0);
  const rows = [...all].reverse().sort((a, b) => (a.left_step !== null) - (b.left_step !== null));
  const share = (member) => {
    if (member.left_step !== null || !total) return "–";
    const part = rate(member.name) / total;
    return [h("span.meter", { "aria-hidden": "true" }, h("i", { style: { width: `${100 * part}%` } })), `${Math.round(100 * part)} %`];
  };
  return h("section", h("h2", "Workers"), h("div.tall", table([
    { title: "name", cell: (member) => member.name },
    { title: "device", cell: (member) => member.device },
    { title: "speed", cell: share },
    { title: "joined", kind: "n", cell: (member) => `step ${member.joined_step}` },
    { title: "left", cell: (member) => (member.left_step === null ? "" : `step ${member.left_step}: ${member.reason || ""}`), kind: "wrap" },
  ], rows)));
}

function events(run) {
  const all = run.record?.events || [];
  if (!all.length) return null;
  const rows = all.slice(-EVENTS_SHOWN).reverse();
  return h("section", h("h2", "What happened"), h("div.tall", table([
    { title: "time", cell: (event) => h("time", { datetime: new Date(event.time * 1000).toISOString() }, moment(event.time * 1000).slice(11)) },
    { title: "step", kind: "n", cell: (event) => event.step },
    { title: "what", kind: "wrap", cell: (event) => event.text },
    { title: "cost", kind: "n", cell: (event) => (event.cost_seconds ? duration(1000 * event.cost_seconds) : "") },
  ], rows)));
}

function checkpoints(run) {
  if (!run.checkpoints?.length) return null;
  return h("section", h("h2", "Checkpoints"), h("div.tall", table([
    { title: "step", kind: "n", cell: (version) => version.step },
    { title: "written", cell: (version) => moment(1000 * version.created) },
    { title: "size", kind: "n", cell: (version) => bytes(version.bytes) },
    { title: "digest", cell: (version) => h("code", { title: version.digest }, short(version.digest)) },
  ], [...run.checkpoints].reverse())));
}

function confusion(run) {
  const matrix = run.record?.final?.confusion;
  if (!matrix?.rows?.length) return null;
  const cell = (count, total, isHit) => {
    const part = total ? count / total : 0;
    const colour = isHit ? "var(--good)" : "var(--bad)";
    return h("td", { title: `${(100 * part).toFixed(1)} %`, style: { background: count ? `color-mix(in srgb, ${colour} ${Math.round(12 + 58 * part)}%, transparent)` : "" } }, count || "·");
  };
  const rows = matrix.rows.map((row, truth) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return h("tr", h("th", { scope: "row" }, matrix.labels[truth]), row.map((count, guess) => cell(count, total, truth === guess)));
  });
  return h("section", h("h2", "Confusion matrix"), h("p.note", `Rows are the truth, columns what was predicted; validation after step ${matrix.step}.`),
    h("div.scroll", { tabindex: 0 }, h("table.matrix", h("thead", h("tr", h("th", ""), matrix.labels.map((name) => h("th", { scope: "col" }, name)))), h("tbody", rows))));
}

function data(run) {
  const dataset = run.record?.dataset;
  if (!dataset) return null;
  const rows = Object.entries(dataset).filter(([, text]) => text !== null && typeof text !== "object");
  const profile = Object.entries(dataset.profile || {}).filter(([, text]) => typeof text !== "object");
  return h("section", h("h2", "Data"), table([{ title: "", cell: ([key]) => key }, { title: "", kind: "wrap", cell: ([, text]) => h("code", text) }], [...rows, ...profile]));
}

async function exports_(run) {
  const found = [];
  const look = async (path, depth) => {
    const { files = [] } = await api.artifacts(run.id, path);
    for (const file of files) {
      if (file.is_dir && depth < 3) await look(file.path, depth + 1);
      else if (!file.is_dir) found.push(file);
    }
  };
  await look("exports", 0).catch(() => {});
  if (!found.length) return null;
  return h("section", h("h2", "Exports"), table([
    { title: "file", cell: (file) => h("a", { href: api.artifact(run.experiment_id, run.id, file.path), download: file.path.split("/").at(-1) }, file.path) },
    { title: "size", kind: "n", cell: (file) => bytes(file.file_size || 0) },
  ], found));
}

function settings(run) {
  const rows = Object.entries(run.config || {});
  if (!rows.length) return null;
  return h("section", h("h2", "Configuration"), h("div.tall", table([{ title: "key", cell: ([key]) => h("code", key) }, { title: "value", kind: "wrap", cell: ([, text]) => h("code", text) }], rows)));
}

function notes(run) {
  const text = h("textarea", { "aria-label": "Notes", placeholder: "What was this run for? What came of it?" });
  text.value = run.all_tags?.["mlflow.note.content"] || "";
  const said = h("span.note", { role: "status" });
  const save = h("button", { type: "button", onclick: async () => {
    said.textContent = await api.note(run.id, text.value).then(() => "saved", (problem) => problem.message);
  } }, "Save");
  return h("section", h("h2", "Notes"), text, h("div.tools", save, said));
}

export async function runView({ main, trail, tellLive }, id) {
  let run = await api.run(id);
  let summary = run;
  trail(h("a", { href: "#/" }, "runs"), run.name);
  const curves = new Curves(id, run.start_ms);
  const keysOf = (latest) => latest.map((metric) => metric.key);
  const [top, sides, downloads] = [h("div"), h("div.columns"), h("div")];
  const across = h("select", { "aria-label": "Horizontal axis", onchange: (event) => { curves.axis = event.target.value; curves.charts.forEach((chart) => chart.setZoom(null)); } }, axes.map((name) => h("option", { value: name }, `by ${name}`)));

  function drawTop() {
    const message = run.record?.message;
    show(top, h("div.head", h("h1", run.name), status(summary.status), h("span.note", `started ${moment(summary.start_ms)}`), h("span.note", `experiment ${summary.experiment}`)),
      message ? h("p.note", message) : null,
      run.damaged_lines ? h("p.error", `${run.damaged_lines} lines of metrics.jsonl can't be read and are left out.`) : null,
      facts(summary, run));
  }
  function drawSides() {
    show(sides, [members(run), events(run), confusion(run), checkpoints(run), data(run), settings(run)].filter(Boolean));
  }
  drawTop();
  drawSides();
  show(main, top, h("div.tools", { style: { marginTop: "18px" } }, across, h("span.note", "Drag over a chart to zoom; double-click to go back.")), curves.element, sides, downloads, notes(run));

  const isLive = run.kind === "bonfire" && run.status === "running";
  let revision = run.revision;
  let isAsking = false;
  async function again() {
    if (isAsking) return;
    isAsking = true;
    try {
      run = await api.run(id);
      summary = run;
      drawTop();
      drawSides();
    } catch {
      // The stream says that the tracker is away.
    }
    isAsking = false;
  }
  const stop = api.stream(id, {
    up: () => tellLive(isLive ? "on" : "", isLive ? "live" : ""),
    down: () => tellLive("off", "the tracker is away; trying again"),
    run(change) {
      summary = { ...summary, ...change.summary };
      run.latest = change.latest;
      drawTop();
      if (change.summary.status !== "running") tellLive("", "");
      if (change.summary.revision !== revision) {
        revision = change.summary.revision;
        again();
      }
    },
    points: (change) => curves.append(change.series),
    reset: () => { curves.series.clear(); curves.load(keysOf(run.latest)); },
    gone: () => tellLive("off", "the run was removed"),
  });
  await curves.load(keysOf(run.latest));
  exports_(run).then((section) => { if (section) show(downloads, section); });
  return { close() { stop(); curves.close(); } };
}
