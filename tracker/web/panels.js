// What a run's page says beside its curves. Each panel is a function of the run that gives elements, or null where there
// is nothing to say.

import * as api from "./api.js";
import { h, table } from "./dom.js";
import { modelPlace } from "./models.js";
import { bytes, duration, moment, number, short, value } from "./format.js";

const EVENTS_SHOWN = 200;
/** Events that are looked for when something is wrong. */
const TROUBLES = new Set(["left", "retry", "rewind", "refused", "warning"]);
const code = (text, whole) => h("code", { title: whole }, text);
const hash = (digest) => (digest ? code(short(digest), digest) : "–");

const panel = (title, ...rest) => h("section.panel", h("h2", title), rest);

/** For how long the run was worked on; its downtime doesn't count, where its record knows. */
function took({ record, status, start_ms: start, end_ms: end, updated_ms: updated }, now) {
  const isRunning = status === "running";
  const active = record?.active;
  const ms = active
    ? 1000 * active.seconds + (isRunning ? Math.max(0, now - 1000 * active.until) : 0)
    : (end ?? (isRunning ? now : updated)) - start;
  return ms > 0 && duration(active && ms >= 60_000 ? Math.round(ms) : ms);
}

/** The numbers that are looked for first. `now` is when they were true. */
export function facts(run, now) {
  const { record } = run;
  const latest = new Map(run.latest.map((metric) => [metric.key, metric]));
  const of = (key) => value(latest.get(key)?.value);
  const epoch = record?.final?.epoch;
  const list = [
    ["step", number(run.step ?? record?.final?.step)],
    epoch > 0 && ["epochs", number(epoch)],
    ["train loss", latest.has("train/loss") && number(of("train/loss"))],
    ["validation loss", latest.has("validation/loss") && number(of("validation/loss"))],
    ["validation accuracy", latest.has("validation/accuracy") && number(of("validation/accuracy"))],
    ["samples per second", latest.has("train/samples_per_second") && number(of("train/samples_per_second"))],
    ["took", took(run, now)],
  ].filter((fact) => fact && fact[1]);
  return h("dl.facts", list.map(([title, text]) => h("div.fact", h("dt", title), h("dd", { title: text }, text))));
}

/** What the run stands on, in a line. */
export function about({ record, start_ms: start, experiment, folder }) {
  const parts = [
    start && ["started", moment(start)],
    experiment && ["experiment", experiment],
    record?.dataset && ["data", code(record.dataset.version || record.dataset.name)],
    record?.final?.digest && ["weights", hash(record.final.digest)],
    record?.git_commit && ["commit", hash(record.git_commit)],
    record && folder && ["in", code(folder)],
  ];
  return h("p.note.about", parts.filter(Boolean).map(([title, what]) => h("span", `${title} `, what)));
}

/** A row for each worker, whatever its comings and goings: how it stands, and the steps that it took part in. */
function people(all, isRunning) {
  const rows = new Map();
  for (const member of all) {
    const before = rows.get(member.name);
    rows.delete(member.name);
    rows.set(member.name, { ...member, periods: [...(before?.periods ?? []), [member.joined_step, member.left_step]] });
  }
  // Of an earlier start of the run nobody saw the workers leave: they left when they came again.
  for (const row of rows.values()) {
    row.periods = row.periods.map(([from, to], index) => [from, to ?? row.periods[index + 1]?.[0] ?? null]);
    row.is_there = isRunning && row.left_step === null;
  }
  return [...rows.values()].sort((a, b) => b.is_there - a.is_there || a.name.localeCompare(b.name));
}

const PERIODS_SHOWN = 4;

/** Of who came more than once: the steps between which it was there. */
function periods({ periods: all }, end) {
  if (all.length < 2) return null;
  const said = all.map(([from, to]) => `${from} – ${to ?? end}`);
  const shown = `${said.length > PERIODS_SHOWN ? "…, " : ""}${said.slice(-PERIODS_SHOWN).join(", ")}`;
  return h("div.why", { title: said.join(", ") }, `there ${all.length} times: steps ${shown}`);
}

/** Parts of a whole as whole percents that sum to it: what rounding leaves goes to those that it took most from. */
export function percents(parts) {
  const sum = parts.reduce((all, part) => all + part, 0);
  const exact = parts.map((part) => (sum > 0 ? (100 * part) / sum : 0));
  const whole = exact.map(Math.floor);
  const order = exact.map((part, index) => [part - whole[index], index]).sort((a, b) => b[0] - a[0]);
  const left = sum > 0 ? 100 - whole.reduce((all, part) => all + part, 0) : 0;
  for (const [, index] of order.slice(0, left)) whole[index] += 1;
  return whole;
}

/** Who is in the view, and how fast. */
export function members(run) {
  const all = run.record?.members || [];
  if (!all.length) return null;
  const isRunning = run.status === "running";
  const rows = people(all, isRunning);
  const latest = new Map(run.latest.map((metric) => [metric.key, metric]));
  const of = (name, what) => latest.get(`workers/${name}/${what}`);
  // Shares are of one moment: who wasn't there then has none.
  const moments = rows.map(({ name }) => of(name, "share")?.time_ms ?? 0);
  const last = Math.max(...moments);
  const has = (row) => row.left_step === null && last > 0 && of(row.name, "share")?.time_ms === last;
  const sharing = rows.filter(has);
  const parts = sharing.map(({ name }) => value(of(name, "share")?.value) || 0);
  const whole = percents(parts);
  const share = (row) => {
    const index = sharing.indexOf(row);
    return index < 0 ? "–" : `${whole[index]} %`;
  };
  const rate = (row) => (has(row) ? value(of(row.name, "samples_per_second")?.value) : undefined);
  const fastest = Math.max(0, ...rows.map((row) => rate(row) || 0));
  const speed = (row) => {
    const own = rate(row);
    if (own === undefined) return "–";
    return [h("span.meter", { "aria-hidden": "true" }, h("i", { style: { width: `${fastest ? (100 * own) / fastest : 0}%` } })), number(own)];
  };
  const together = value(latest.get("train/samples_per_second")?.value);
  const sum = parts.reduce((total, part) => total + part, 0);
  const throughput = (row) => {
    const index = sharing.indexOf(row);
    return index < 0 || together === undefined || !sum ? "–" : number((together * parts[index]) / sum);
  };
  const there = rows.filter((row) => row.is_there).length;
  const { views, retries, members_left_out: more } = run.record;
  const said = [isRunning ? `${there} in the view` : `${rows.length} took part`, `${views} ${views === 1 ? "view" : "views"}`, retries ? `${retries} ${retries === 1 ? "step" : "steps"} tried again` : null, more ? `${more} older stays aren't listed` : null];
  const end = isRunning ? "" : run.step ?? run.record.final?.step ?? "";
  return panel("Who takes part", h("p.note", said.filter(Boolean).join(" · ")), h("div.tall", table([
    { title: "worker", cell: (row) => [h("span", { class: row.is_there ? "dot on" : "dot" }), row.name, row.left_step !== null && h("div.why", `left after step ${row.left_step}${row.reason ? `: ${row.reason}` : ""}`), periods(row, end)] },
    { title: "samples/s", kind: "n", cell: throughput },
    { title: "share", kind: "n", cell: share },
    { title: "speed at work", cell: speed },
    { title: "joined", kind: "n", hide: true, cell: (row) => `step ${row.joined_step}` },
    { title: "device", kind: "device", cell: (row) => row.device },
  ], rows, () => ({}), "Who takes part")));
}

/** What happened to the view, newest first. */
export function events(run) {
  const all = run.record?.events || [];
  if (!all.length) return null;
  const days = new Set(all.map((event) => moment(event.time * 1000).slice(0, 10)));
  const time = (event) => moment(event.time * 1000).slice(days.size > 1 ? 0 : 11);
  return panel("What happened", h("p.note", all.length > EVENTS_SHOWN ? `The newest ${EVENTS_SHOWN} of ${all.length}, newest first.` : "Newest first."), h("div.tall", table([
    { title: "time", cell: (event) => h("time", { datetime: new Date(event.time * 1000).toISOString() }, time(event)) },
    { title: "step", kind: "n", cell: (event) => event.step },
    { title: "what", kind: "wrap", cell: (event) => [h("span", { class: TROUBLES.has(event.event) ? "mark bad" : "mark", "aria-hidden": "true" }), event.text, event.repeated ? h("span.note", ` and ${event.repeated} times more`) : null] },
    { title: "cost", kind: "n", cell: (event) => (event.cost_seconds ? duration(1000 * event.cost_seconds) : "") },
  ], all.slice(-EVENTS_SHOWN).reverse(), () => ({}), "What happened")));
}

export function checkpoints(run) {
  if (!run.checkpoints?.length) return null;
  const best = run.record?.final?.best_step;
  return panel("Checkpoints", h("p.note", "Folders in ", code(`${run.folder}/checkpoints`), "."), h("div.tall", table([
    { title: "step", kind: "n", cell: (version) => version.step },
    { title: "folder", hide: true, cell: (version) => code(`step-${String(version.step).padStart(8, "0")}`) },
    { title: "written", cell: (version) => moment(1000 * version.created) },
    { title: "size", kind: "n", hide: true, cell: (version) => bytes(version.bytes) },
    { title: "weights", cell: (version) => [hash(version.digest), version.step === best ? h("b", " best") : null] },
  ], [...run.checkpoints].sort((a, b) => b.step - a.step), () => ({}), "Checkpoints")));
}

export function confusion(run) {
  const matrix = run.record?.final?.confusion;
  if (!matrix?.rows?.length) return null;
  const cell = (count, total, isHit) => {
    const part = total ? count / total : 0;
    const colour = isHit ? "var(--good)" : "var(--bad)";
    return h(count ? "td" : "td.none", { title: `${(100 * part).toFixed(1)} % of ${total}`, style: { background: count ? `color-mix(in srgb, ${colour} ${Math.round(12 + 58 * part)}%, transparent)` : "" } }, count || "·");
  };
  const rows = matrix.rows.map((row, truth) => {
    const total = row.reduce((sum, count) => sum + count, 0);
    return h("tr", h("th", { scope: "row" }, matrix.labels[truth]), row.map((count, guess) => cell(count, total, truth === guess)),
      h("td.n", total ? `${((100 * row[truth]) / total).toFixed(1)} %` : "–"));
  });
  return panel("Confusion matrix", h("p.note", `Rows are the truth, columns what was predicted: validation after step ${matrix.step}.`),
    h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Confusion matrix" }, h("table.matrix", h("thead", h("tr", h("th", ""), matrix.labels.map((name) => h("th", { scope: "col" }, name)), h("th.n", { scope: "col" }, "recall"))), h("tbody", rows))));
}

/** Names and values. */
const pairs = (rows) => h("div.tall", h("table.pairs", h("tbody", rows.filter(([, text]) => text !== null && text !== undefined && text !== "").map(([key, text]) => h("tr", h("th", { scope: "row" }, key), h("td.wrap", text))))));

const parsed = (text) => {
  try {
    return JSON.parse(text);
  } catch {
    return {};
  }
};

/** Of which version the data is. */
export function data(run) {
  const known = run.record?.dataset;
  const found = run.record?.provenance?.inputs?.at(-1)?.dataset ?? run.inputs?.[0]?.dataset;
  if (!known && !found) return null;
  const [source, profile] = [parsed(found?.source), parsed(found?.profile)];
  return panel("Data version", pairs([
    ["name", known?.name ?? found?.name],
    ["version", known?.version && code(known.version)],
    ["digest", code(known?.digest ?? found?.digest)],
    ["from", source.uri && code(source.uri)],
    ["rows", profile.num_rows && number(profile.num_rows)],
    ["columns", profile.num_columns && number(profile.num_columns)],
    ["rows left out", known?.skipped || null],
  ]));
}

/** Where the run comes from: its last start. */
export function origin(run) {
  const starts = run.record?.provenance?.starts || [];
  const start = starts.at(-1);
  if (!start) return null;
  const { git, build = {}, machine = {} } = start;
  return panel("Where it comes from", pairs([
    starts.length > 1 && ["started", `${starts.length} times; the last at step ${start.step}`],
    ["command", h("code", start.command.map((word) => [h("span.word", word), " "]))],
    ["in", code(start.directory)],
    ["commit", git && [hash(git.commit), git.branch ? ` on ${git.branch}` : "", git.dirty ? h("b", " with changes") : ""]],
    ["changes", git?.diff && h("a", { href: api.artifact(run.experiment_id, run.id, git.diff) }, git.diff)],
    ["built with", build.rustc],
    ["coordinator's machine", [machine.cpu, machine.cores && `${machine.cores} cores`, machine.memory_megabytes && bytes(machine.memory_megabytes * 1e6), machine.os].filter(Boolean).join(", ")],
    ["bit for bit", run.record.exact ? "the same on any number of workers" : "not claimed: the workers' numerics may differ"],
  ].filter(Boolean)));
}

/** The versions of registered models that are made from the run. */
export function registered(versions) {
  if (!versions.length) return null;
  return panel("Registered models", h("div.tall", table([
    { title: "model", cell: (version) => h("a", { href: modelPlace(version.name) }, version.name) },
    { title: "version", kind: "n", cell: (version) => version.version },
    { title: "aliases", cell: (version) => (version.aliases.length ? version.aliases.map((name) => h("span.alias", name)) : "–") },
  ], versions)));
}

export function settings(run) {
  const rows = Object.entries(run.config || {});
  return rows.length ? panel(run.kind === "bonfire" ? "Configuration" : "Parameters", pairs(rows.map(([key, text]) => [code(key), code(text)]))) : null;
}

/** The files that the run exported. */
export async function exported(run) {
  const found = [];
  const look = async (path, depth) => {
    const { files = [] } = await api.artifacts(run.id, path);
    for (const file of files) {
      if (file.is_dir && depth < 3) await look(file.path, depth + 1);
      else if (!file.is_dir) found.push(file);
    }
  };
  await look(run.kind === "bonfire" ? "exports" : "", 0);
  return found;
}

export function exports_(run, files) {
  if (!files.length) return null;
  return panel(run.kind === "bonfire" ? "Exports" : "Files", h("div.tall", table([
    { title: "file", kind: "wrap", cell: (file) => h("a", { href: api.artifact(run.experiment_id, run.id, file.path), download: file.path.split("/").at(-1) }, file.path.replace(/^exports\//, "")) },
    { title: "size", kind: "n", cell: (file) => bytes(Number(file.file_size || 0)) },
  ], files)));
}
