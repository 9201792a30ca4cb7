// Elements without a framework. Text is always text: nothing that a run says is taken for HTML.

/** h("a.quiet", {href}, "text", child, [children]) */
export function h(tag, ...rest) {
  const [name, ...classes] = tag.split(".");
  const element = document.createElement(name || "div");
  if (classes.length) element.className = classes.join(" ");
  for (const part of rest.flat(Infinity)) {
    if (part === null || part === undefined || part === false) continue;
    if (part instanceof Node) element.append(part);
    else if (typeof part === "object") assign(element, part);
    else element.append(String(part));
  }
  return element;
}

function assign(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
}

/** Puts children in the place of those that are there. */
export function show(parent, ...children) {
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child !== null && child !== false));
}

/** A table: columns are {title, cell(row), kind: "n" | "wrap", hide}. */
export function table(columns, rows, rowAttributes = () => ({})) {
  const of = (column) => [column.kind, column.hide && "hide-small"].filter(Boolean).join(" ");
  const heads = columns.map((column) => h("th", { scope: "col", class: of(column) || null }, column.title));
  const body = rows.map((row) =>
    h("tr", rowAttributes(row), columns.map((column) => h("td", { class: of(column) || null }, column.cell(row)))));
  return h("div.scroll", { tabindex: 0 }, h("table", h("thead", h("tr", heads)), h("tbody", body)));
}

export const status = (word) => h(`span.status.${word}`, word);

export const error = (problem) => h("p.error", { role: "alert" }, problem.message || String(problem));
