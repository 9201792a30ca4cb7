// One run, live: curves, who is in the view and what happened to it, checkpoints, the confusion matrix, data, exports.

import * as api from "./api.js";
import { Curves, groups, toolbar } from "./curves.js";
import { Slot, error, h, show, status } from "./dom.js";
import { moment } from "./format.js";
import * as panels from "./panels.js";

/** The whole run is asked for no more often than this: its numbers come by the stream. */
const LOOK_AGAIN_MS = 1000;

function notes(run) {
  const text = h("textarea", { "aria-label": "Notes", placeholder: "What was this run for? What came of it?" });
  text.value = run.all_tags?.["mlflow.note.content"] || "";
  const said = h("span.note", { role: "status" });
  const save = h("button", { type: "button", onclick: async () => {
    said.textContent = await api.note(run.id, text.value).then(() => "saved", (problem) => problem.message);
  } }, "Save");
  return h("section.panel", h("h2", "Notes"), text, h("div.tools", save, said));
}

function head(run, now) {
  return [
    h("div.head", h("h1", run.name), status(run.status), panels.about(run)),
    run.record?.message && run.status !== "completed" ? h(run.status === "failed" ? "p.error" : "p.note", run.record.message) : null,
    run.damaged_lines ? h("p.error", `${run.damaged_lines} lines of the run's files can't be read and are left out.`) : null,
    panels.facts(run, now),
  ];
}

/** The page's frame: slots for what changes, parts for charts. */
function frame(run, curves, look) {
  const redraw = (isOther) => {
    if (isOther) curves.unzoom();
    curves.draw();
  };
  const slots = Object.fromEntries(["away", "top", "members", "events", "confusion", "checkpoints", "data", "origin", "settings", "exports", "registered"].map((name) => [name, new Slot()]));
  const more = (title, part) => {
    const box = h("details.more", { hidden: true }, h("summary", title), curves.parts[part]);
    box.addEventListener("toggle", () => { if (box.open) curves.load(run.latest.map(({ key }) => key).filter((key) => groups([key])[0].part === part)); });
    return box;
  };
  const labels = more("By label", "labels");
  const machines = more("Machines", "machines");
  const workers = h("h2", { hidden: true }, "Throughput");
  const tools = toolbar(look, redraw);
  tools.hidden = true;
  const elements = [
    slots.away.element, slots.top.element, tools, curves.trouble, curves.parts.curves, labels,
    workers, curves.parts.workers,
    h("div.columns", slots.members.element, slots.events.element),
    machines,
    h("div.columns", slots.confusion.element, slots.checkpoints.element, slots.data.element, slots.exports.element, slots.registered.element, slots.origin.element, slots.settings.element, notes(run)),
  ];
  return { slots, elements, tools, parts: { labels, machines, workers } };
}

export async function runView({ main, trail, tellLive }, id) {
  let run = await api.run(id);
  trail(h("a", { href: "#/" }, "runs"), run.name);
  const look = { axis: "step", smooth: 0, filter: "" };
  const curves = new Curves(run, look);
  const { slots, elements, tools, parts } = frame(run, curves, look);
  let [files, versions] = [[], []];
  let [away, refusal, ended] = [null, null, null];

  function draw() {
    slots.away.show([away, refusal?.message, ended], () => refusal ? error(refusal) : ended ? h("p.note.ended", { role: "status" }, `This is how the run ended. Its own tracker has ended with it: `, h("code", ended), " shows it, and all runs, at any time.") : away && h("p.error", { role: "alert" }, `The tracker can't be reached: this is what it said by ${moment(away).slice(11)}. A run's own tracker ends with the run; `, h("code", "coordinator tracker serve"), " shows all runs at any time."));
    // What isn't heard of any more stands still.
    const now = away ?? Date.now();
    // Only what has changed is made anew: a table keeps its place, a selection stays.
    const { status: stands, record, latest, checkpoints, config } = run;
    slots.top.show([run.name, stands, run.step, run.start_ms, run.end_ms, record?.message, record?.final, record?.git_commit, latest, stands === "running" && Math.floor(now / 1000)], () => head(run, now));
    slots.members.show([stands, record?.members, record?.views, record?.retries, latest.filter(({ key }) => key.startsWith("workers/") || key === "train/samples_per_second")], () => panels.members(run));
    slots.events.show(record?.events, () => panels.events(run));
    slots.confusion.show(record?.final?.confusion, () => panels.confusion(run));
    slots.checkpoints.show([checkpoints, record?.final?.best_step], () => panels.checkpoints(run));
    slots.data.show([record?.dataset, record?.provenance?.inputs, run.inputs], () => panels.data(run));
    slots.origin.show([record?.provenance, record?.exact], () => panels.origin(run));
    slots.settings.show(config, () => panels.settings(run));
    slots.exports.show(files, () => panels.exports_(run, files));
    slots.registered.show(versions, () => panels.registered(versions));
    const shown = new Set(groups(latest.map(({ key }) => key)).map(({ part }) => part));
    for (const [part, element] of Object.entries(parts)) element.hidden = !shown.has(part);
    tools.hidden = !shown.size;
  }

  /** Metrics that are shown at once; the others when they are looked for. */
  function load() {
    const isOpen = { curves: true, workers: true, labels: parts.labels.open, machines: parts.machines.open };
    return curves.load(run.latest.map(({ key }) => key).filter((key) => isOpen[groups([key])[0].part]));
  }

  async function lookForFiles() {
    files = await panels.exported(run).catch(() => files);
    versions = await api.versionsOf(id).catch(() => versions);
    draw();
  }

  draw();
  show(main, elements);

  let [revision, timer, isAsking, isClosed] = [run.revision, null, false, false];
  async function again() {
    timer = null;
    if (isAsking || isClosed || ended) return;
    isAsking = true;
    try {
      const before = run;
      const asked = await api.run(id);
      if (ended) return;
      run = asked;
      draw();
      load();
      if (run.status !== before.status || run.checkpoints.length !== before.checkpoints.length) lookForFiles();
      tellLive(run.status === "running" ? "on" : "", run.status === "running" ? "live" : "");
    } catch {
      // The stream says that the tracker is away.
    }
    isAsking = false;
  }

  const follow = () => api.stream(id, {
    up() {
      tellLive(run.status === "running" ? "on" : "", run.status === "running" ? "live" : "");
      if (!away) return;
      // What came meanwhile is in no event.
      [away, refusal] = [null, null];
      draw();
      curves.again();
    },
    down() {
      if (ended) return;
      away ??= Date.now();
      tellLive("off", "trying again");
      draw();
    },
    refused(problem) {
      refusal = problem;
      draw();
    },
    run(change) {
      run = { ...run, ...change.summary, latest: change.latest };
      draw();
      load();
      if (change.summary.revision !== revision) {
        revision = change.summary.revision;
        timer ??= setTimeout(again, LOOK_AGAIN_MS);
      }
    },
    points: (change) => curves.append(change.series),
    reset: () => curves.again(),
    end(last) {
      if (last.run) run = last.run;
      // A run that goes on without this tracker may be served again in a moment: the stream is tried again.
      if (run.status === "running") return draw();
      ended = last.command;
      clearTimeout(timer);
      stop();
      tellLive("", "ended");
      draw();
    },
    gone: () => tellLive("off", "the run was removed"),
  });
  // A browser has six connections to a host for all its tabs: one that nobody looks at gives its own back.
  let stop = follow();
  const seen = () => {
    stop();
    if (document.hidden || ended) return;
    stop = follow();
    curves.again();
    again();
  };
  document.addEventListener("visibilitychange", seen);
  load();
  lookForFiles();
  return {
    close() {
      isClosed = true;
      clearTimeout(timer);
      document.removeEventListener("visibilitychange", seen);
      stop();
      curves.close();
    },
  };
}
