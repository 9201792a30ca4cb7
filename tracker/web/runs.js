// All runs: find, sort, choose.

import * as api from "./api.js";
import { error, h, show, status } from "./dom.js";
import { ago, duration, moment, number, value } from "./format.js";

const LOOK_AGAIN_MS = 3000;
const metric = (key) => `metrics.\`${key}\``;
const COLUMNS = [
  { title: "run", order: "attributes.run_name", cell: (run) => h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name) },
  { title: "status", order: "attributes.status", cell: (run) => status(run.status) },
  { title: "step", kind: "n", hide: true, cell: (run) => number(run.step) },
  { title: "train loss", kind: "n", hide: true, order: metric("train/loss"), cell: (run) => number(value(run.metrics["train/loss"])) },
  { title: "validation loss", kind: "n", order: metric("validation/loss"), cell: (run) => number(value(run.metrics["validation/loss"])) },
  { title: "validation accuracy", kind: "n", order: metric("validation/accuracy"), cell: (run) => number(value(run.metrics["validation/accuracy"])) },
  { title: "experiment", hide: true, cell: (run) => run.experiment },
  { title: "took", kind: "n", hide: true, cell: (run) => duration((run.end_ms ?? (run.status === "running" ? Date.now() : run.updated_ms)) - run.start_ms) },
  { title: "started", hide: true, order: "attributes.start_time", cell: (run) => h("span", { title: moment(run.start_ms) }, ago(run.start_ms)) },
];

/** What is typed is a filter if it looks like one, else a part of a name. */
function filterOf(text) {
  if (!text.trim()) return "";
  if (/[=<>]|\bI?LIKE\b|\bIN\s*\(/i.test(text)) return text;
  return `attributes.run_name ILIKE '%${text.trim().replaceAll("'", "''")}%'`;
}

export async function runsView({ main, asked, trail, tellLive }) {
  trail("runs");
  const chosen = new Set();
  const state = { text: asked.get("q") || "", order: asked.get("order") || "", experiment: asked.get("experiment") || "", at: -1, runs: [], next: null, more: 1 };
  const search = h("input", { type: "search", value: state.text, "aria-label": "Search runs", placeholder: "Name, or a filter: metrics.`validation/loss` < 0.1 and params.`model.kind` = 'cnn'" });
  const choose = h("select", { "aria-label": "Experiment" }, h("option", { value: "" }, "All experiments"));
  const compare = h("button.main", { type: "button", disabled: true, onclick: () => goCompare() }, "Compare");
  const trouble = h("div");
  const list = h("div", h("p.empty", "Loading…"));
  const rows = new Map();
  show(main, h("h1.unseen", "Runs"), h("div.tools", search, choose, compare), trouble, list);

  for (const { id, name, runs } of (await api.experiments()).experiments) {
    choose.append(h("option", { value: id, selected: id === state.experiment }, `${name} (${runs})`));
  }

  function remember() {
    const query = new URLSearchParams();
    if (state.text) query.set("q", state.text);
    if (state.order) query.set("order", state.order);
    if (state.experiment) query.set("experiment", state.experiment);
    history.replaceState(null, "", `#/${query.size ? `?${query}` : ""}`);
  }

  function goCompare() {
    if (chosen.size > 1) location.hash = `#/compare?ids=${[...chosen].map(encodeURIComponent).join(",")}`;
  }

  function toggle(id) {
    if (!chosen.delete(id)) chosen.add(id);
    draw();
  }

  function sortBy(column) {
    const isDown = state.order === `${column.order} DESC`;
    state.order = `${column.order} ${isDown ? "ASC" : "DESC"}`;
    remember();
    load();
  }

  function head(column) {
    const [order, way] = [state.order.replace(/ (ASC|DESC)$/, ""), state.order.endsWith("ASC")];
    const isSorted = column.order && order === column.order;
    const title = isSorted ? `${column.title} ${way ? "↑" : "↓"}` : column.title;
    return h("th", { scope: "col", class: [column.kind, column.hide && "hide-small"].filter(Boolean).join(" ") || null, "aria-sort": isSorted ? (way ? "ascending" : "descending") : null },
      column.order ? h("button", { type: "button", onclick: () => sortBy(column) }, title) : title);
  }

  function row(run, index) {
    const box = h("input", { type: "checkbox", "aria-label": `Compare ${run.name}`, onclick: (event) => { event.stopPropagation(); toggle(run.id); } });
    box.checked = chosen.has(run.id);
    const open = (event) => { if (!event.target.closest("a, input, label")) location.hash = `#/run/${encodeURIComponent(run.id)}`; };
    const classes = ["pick", chosen.has(run.id) && "chosen", index === state.at && "at"].filter(Boolean).join(" ");
    return h("tr", { class: classes, "data-id": run.id, onclick: open },
      h("td.check", h("label", box)), COLUMNS.map((column) => h("td", { class: [column.kind, column.hide && "hide-small"].filter(Boolean).join(" ") || null }, column.cell(run))));
  }

  /** A row that says the same as before is the same element: the focus and a selection in it stay. */
  function rowOf(run, index) {
    const now = JSON.stringify([run, chosen.has(run.id), index === state.at, ago(run.start_ms), run.status === "running" && Math.floor(Date.now() / 1000)]);
    const known = rows.get(run.id);
    if (known?.now === now) return known.element;
    const element = row(run, index);
    rows.set(run.id, { now, element });
    return element;
  }

  function draw() {
    compare.disabled = chosen.size < 2;
    compare.textContent = chosen.size ? `Compare ${chosen.size}` : "Compare";
    if (!state.runs.length) {
      const nothing = state.text || state.experiment ? "No run fits." : ["There are no runs yet. Start one: ", h("code", "coordinator --config configs/digits.toml")];
      return show(list, h("p.empty", nothing));
    }
    const focus = document.activeElement;
    const [focused, isBox] = [focus?.closest("tr")?.dataset.id, focus?.matches("input")];
    const elements = state.runs.map(rowOf);
    const body = list.querySelector("tbody");
    const order = `${state.order}|${Boolean(state.next)}`;
    if (body && list.dataset.order === order) {
      if (elements.length !== body.children.length || elements.some((element, index) => element !== body.children[index])) body.replaceChildren(...elements);
    } else {
      const more = state.next && h("p.empty", h("button", { type: "button", onclick: () => { state.more += 1; load(); } }, "Show more"));
      show(list, h("div.scroll", { tabindex: 0, role: "region", "aria-label": "Runs" }, h("table.runs", h("thead", h("tr", h("th", { scope: "col" }, h("span.unseen", "compare")), COLUMNS.map(head))), h("tbody", elements))), more || null);
      list.dataset.order = order;
    }
    if (focused && document.activeElement === document.body) elements.find((element) => element.dataset.id === focused)?.querySelector(isBox ? "input" : "a").focus();
  }

  let load_number = 0;
  async function load() {
    const number_of_this = (load_number += 1);
    try {
      const search = { filter: filterOf(state.text), order: state.order, experiment: state.experiment };
      let found = [];
      let page = "";
      for (let pages = 0; pages < state.more; pages += 1) {
        const answer = await api.runs({ ...search, page });
        found = found.concat(answer.runs);
        page = answer.next_page;
        if (!page) break;
      }
      if (number_of_this !== load_number) return; // A newer question was asked meanwhile.
      state.runs = found;
      state.next = page;
      show(trouble);
      const running = found.filter((run) => run.status === "running").length;
      tellLive(running ? "on" : "", running ? `${running} running` : "");
      draw();
    } catch (problem) {
      if (number_of_this !== load_number) return;
      show(trouble, error(problem));
      if (problem.is_away) tellLive("off", "trying again");
    }
  }

  let typing;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => { state.text = search.value; state.more = 1; remember(); load(); }, 200);
  });
  choose.addEventListener("change", () => { state.experiment = choose.value; remember(); load(); });
  const timer = setInterval(() => { if (!document.hidden) load(); }, LOOK_AGAIN_MS);
  await load();

  return {
    close: () => clearInterval(timer),
    key(event) {
      if (event.key === "/") search.focus();
      else if (event.key === "c") goCompare();
      else if ((event.key === "j" || event.key === "k") && state.runs.length) {
        state.at = Math.min(Math.max(state.at + (event.key === "j" ? 1 : -1), 0), state.runs.length - 1);
        draw();
        list.querySelectorAll("tbody tr")[state.at]?.querySelector("a").focus();
      } else if (event.key === "x" && state.runs[state.at]) toggle(state.runs[state.at].id);
      else return false;
      return true;
    },
  };
}
