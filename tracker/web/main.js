// The way from an address to a view, and the keys that work everywhere.

import { error, h, show, visible } from "./dom.js";
import { compareView } from "./compare.js";
import { modelView, modelsView } from "./models.js";
import { runView } from "./run.js";
import { runsView } from "./runs.js";

const main = document.getElementById("main");
const crumbs = document.getElementById("crumbs");
const places = document.getElementById("places");
const live = document.getElementById("live");
let view = {};

/** What the top bar says of the connection. */
export function tellLive(state, text) {
  live.className = `live ${state}`;
  live.textContent = text;
}

/** Where one is: of the first part the links beside it speak. */
function trail(...parts) {
  show(crumbs, parts.slice(1).flatMap((part, index) => [index ? " / " : "", part]).map((part) => (part instanceof Node ? part : document.createTextNode(visible(part)))));
  document.title = ["Bonfire", ...parts.map((part) => (part instanceof Node ? part.textContent : visible(part)))].join(" · ");
}

async function route() {
  view.close?.();
  view = {};
  tellLive("", "");
  const [path, query] = location.hash.replace(/^#/, "").split("?");
  const asked = new URLSearchParams(query);
  const [, kind, id] = path.split("/");
  const place = { main, asked, trail, tellLive };
  const isModels = kind === "models" || kind === "model";
  for (const link of places.children) {
    if ((link.hash === "#/models") === isModels) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  show(main, h("p.empty", "Loading…"));
  const begun = (view = {});
  try {
    const opened = kind === "run" ? await runView(place, decodeURIComponent(id))
      : kind === "models" ? await modelsView(place)
      : kind === "model" ? await modelView(place, decodeURIComponent(id))
      : kind === "compare" ? await compareView(place, (asked.get("ids") || "").split(",").filter(Boolean))
      : await runsView(place);
    // Somebody has gone elsewhere meanwhile.
    if (view !== begun) opened.close?.();
    else view = opened;
  } catch (problem) {
    if (view === begun) show(main, error(problem), h("p.empty", h("a", { href: "#/" }, "All runs")));
  }
  main.focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

const keys = document.getElementById("keys");
document.getElementById("help").addEventListener("click", () => keys.showModal());

document.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea, select");
  if (event.key === "Escape" && isTyping) event.target.blur();
  if (isTyping || event.ctrlKey || event.metaKey || event.altKey || keys.open) return;
  if (event.key === "?") keys.showModal();
  else if (event.key === "g") location.hash = "#/";
  else if (event.key === "m") location.hash = "#/models";
  else if (!view.key?.(event)) return;
  event.preventDefault();
});

// A token that was given once is a cookie by now: it needn't stay in the address.
if (new URLSearchParams(location.search).has("token")) history.replaceState(null, "", location.pathname + location.hash);
window.addEventListener("hashchange", route);
route();
