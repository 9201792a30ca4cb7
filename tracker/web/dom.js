// Elements without a framework. Text is always text: nothing that a run says is taken for HTML.

/** Characters that turn a line around or can't be seen at all, shown as what they are. Line breaks and tabs stay. */
export const visible = (text) => String(text).replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u2028-\u202e\u2066-\u2069]/g,
  (character) => `\\u{${character.charCodeAt(0).toString(16)}}`);

/** h("a.quiet", {href}, "text", child, [children]) */
export function h(tag, ...rest) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const part of rest.flat(Infinity)) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node) element.append(part);
    else if (typeof part === "object") assign(element, part);
    else element.append(visible(part));
  }
  return element;
}

function assign(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, name === "title" || name === "aria-label" ? visible(value) : value);
  }
}

/** Puts children in the place of those that are there. */
export function show(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== false));
}

/** A place whose content is made anew only when what it is made of has changed; where it was scrolled to, and what is open, stays. */
export class Slot {
  constructor() {
    this.element = h("div.slot");
    this.made = undefined;
  }

  /** `make` gives the content for `of`. */
  show(of, make) {
    const now = JSON.stringify(of) ?? "";
    if (now === this.made) return;
    this.made = now;
    const at = [...this.element.querySelectorAll(".tall, .scroll")].map((box) => [box.scrollTop, box.scrollLeft]);
    const isOpen = [...this.element.querySelectorAll("details")].map((box) => box.open);
    show(this.element, [make()]);
    this.element.querySelectorAll("details").forEach((box, index) => { box.open = isOpen[index] ?? box.open; });
    this.element.querySelectorAll(".tall, .scroll").forEach((box, index) => {
      [box.scrollTop, box.scrollLeft] = at[index] || [0, 0];
    });
    this.element.hidden = !this.element.children.length;
  }
}

/** A table: columns are {title, cell(row), kind: "n" | "wrap", hide}; `label` says what it is to those who don't see it. */
export function table(columns, rows, rowAttributes = () => ({}), label = null) {
  const of = (column) => [column.kind, column.hide && "hide-small"].filter(Boolean).join(" ");
  const heads = columns.map((column) => h("th", { scope: "col", class: of(column) || null }, column.title));
  const body = rows.map((row) =>
    h("tr", rowAttributes(row), columns.map((column) => h("td", { class: of(column) || null }, column.cell(row)))));
  return h("div.scroll", { tabindex: 0, role: label && "region", "aria-label": label }, h("table", h("thead", h("tr", heads)), h("tbody", body)));
}

export const status = (word) => h(`span.status.${word}`, word);

/** What went wrong; whoever lacks the token is shown where to give it. */
export const error = (problem) => h("p.error", { role: "alert" }, problem.message || String(problem),
  problem.asks_token ? [" ", h("a", { href: "/" }, "Give the token")] : null);
