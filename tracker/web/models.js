// Registered models: all of them, and one with its versions, where each comes from and how good its run was.

import * as api from "./api.js";
import { error, h, show, Slot, status, table } from "./dom.js";
import { ago, moment, number, short, value } from "./format.js";

const LOOK_AGAIN_MS = 3000;
const MODELS = "#/models";
const NONE = "There are no registered models yet. MLflow's clients register them here: set MLFLOW_TRACKING_URI to this address, then mlflow.register_model(\"models:/m-…\", \"NAME\").";

/** Where a model's page is. */
export const modelPlace = (name) => `#/model/${encodeURIComponent(name)}`;

const when = (ms) => h("time", { datetime: new Date(ms).toISOString(), title: moment(ms) }, ago(ms));
const alias = (name, version) => h("span.alias", name, version !== undefined && [" → ", version]);
const chips = (all) => (all.length ? h("span.chips", all) : "–");
const aliasesOf = (model, version) => Object.entries(model.aliases).filter(([, to]) => to === version).map(([name]) => alias(name));

/** Asks again and again while somebody looks; a failure is said and what is known stays. */
function following(place, ask, draw) {
  const trouble = h("div");
  const look = async () => {
    if (document.hidden) return;
    try {
      draw(await ask());
      show(trouble);
      place.tellLive("", "");
    } catch (problem) {
      show(trouble, error(problem));
      place.tellLive("off", problem.is_away ? "trying again" : "");
    }
  };
  const timer = setInterval(look, LOOK_AGAIN_MS);
  return { trouble, close: () => clearInterval(timer) };
}

export async function modelsView(place) {
  place.trail(h("a", { href: MODELS }, "models"));
  let { models } = await api.models();
  const search = h("input", { type: "search", "aria-label": "Search models", placeholder: "Name", oninput: () => draw() });
  const list = new Slot();
  const columns = [
    { title: "model", cell: (model) => h("a", { href: modelPlace(model.name) }, model.name) },
    { title: "newest", kind: "n", cell: (model) => model.newest ?? "–" },
    { title: "versions", kind: "n", hide: true, cell: (model) => model.versions },
    { title: "aliases", cell: (model) => chips(Object.entries(model.aliases).map(([name, version]) => alias(name, version))) },
    { title: "about", kind: "wrap", hide: true, cell: (model) => model.description || "–" },
    { title: "changed", hide: true, cell: (model) => when(model.updated_ms) },
  ];

  function draw() {
    const text = search.value.trim().toLowerCase();
    const found = models.filter((model) => model.name.toLowerCase().includes(text));
    list.show([found, found.map((model) => ago(model.updated_ms))], () =>
      (found.length ? table(columns, found) : h("p.empty", models.length ? "No model fits." : NONE)));
  }

  const follow = following(place, api.models, (answer) => { ({ models } = answer); draw(); });
  draw();
  show(place.main, h("h1.unseen", "Registered models"), h("div.tools", search), follow.trouble, list.element);
  return { close: follow.close, key: (event) => event.key === "/" && (search.focus(), true) };
}

/** What a version is made from: a run's own page where there is one. */
function origin({ run, run_id: id }) {
  if (run) return [h("a", { href: `#/run/${encodeURIComponent(run.id)}` }, run.name), " ", status(run.status)];
  return id ? [h("code", { title: id }, short(id)), h("div.why", "this run isn't here")] : "–";
}

const measured = (version, key) => (version.run?.metrics[key] === undefined ? "–" : number(value(version.run.metrics[key])));

function head(model) {
  const tags = Object.entries(model.tags);
  return [
    h("div.head", h("h1", model.name), chips(Object.entries(model.aliases).map(([name, version]) => alias(name, version)))),
    model.description && h("p.told", model.description),
    h("p.note.about", h("span", "made ", when(model.created_ms)), h("span", "changed ", when(model.updated_ms)), tags.map(([key, text]) => h("span", `${key} `, h("code", text)))),
  ];
}

const versions = (model) => h("section.panel", h("h2", "Versions"),
  h("p.note", "Newest first. ", h("code", `models:/${model.name}/VERSION`), " or ", h("code", `models:/${model.name}@ALIAS`), " names one for MLflow's clients."),
  table([
    { title: "version", kind: "n", cell: (version) => version.version },
    { title: "aliases", cell: (version) => chips(aliasesOf(model, version.version)) },
    { title: "run", cell: origin },
    { title: "validation loss", kind: "n", cell: (version) => measured(version, "validation/loss") },
    { title: "validation accuracy", kind: "n", cell: (version) => measured(version, "validation/accuracy") },
    { title: "about", kind: "wrap", hide: true, cell: (version) => [version.description, Object.entries(version.tags).map(([key, text]) => h("div.why", `${key} `, h("code", text)))] },
    { title: "made", hide: true, cell: (version) => when(version.created_ms) },
    { title: "from", kind: "wrap", hide: true, cell: (version) => h("code", version.source) },
  ], model.versions, () => ({}), "Versions"));

export async function modelView(place, name) {
  let model = await api.model(name);
  place.trail(h("a", { href: MODELS }, "models"), model.name);
  const [top, list] = [new Slot(), new Slot()];

  function draw() {
    top.show([model, ago(model.updated_ms), ago(model.created_ms)], () => head(model));
    list.show([model.versions, model.aliases, model.versions.map((version) => ago(version.created_ms))], () =>
      (model.versions.length ? versions(model) : h("p.empty", "This model has no versions.")));
  }

  const follow = following(place, () => api.model(name), (answer) => { model = answer; draw(); });
  draw();
  show(place.main, follow.trouble, top.element, list.element);
  return { close: follow.close };
}
