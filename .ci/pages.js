// For check_pages.py: what a page shows, as a person would say it.

window.check = {
  luminance(colour) {
    const [r, g, b] = colour.match(/[\d.]+/g).slice(0, 3).map((part) => Number(part) / 255)
      .map((part) => (part <= 0.03928 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  },

  /** Texts with less than WCAG's contrast of 4.5 : 1 to what is behind them; only what is painted in one colour counts. */
  illegible() {
    const behind = (element) => {
      for (let at = element; at; at = at.parentElement) {
        const { backgroundColor: colour } = getComputedStyle(at);
        if (!colour.startsWith("rgb")) return null;
        const opacity = colour.startsWith("rgba") ? Number(colour.match(/[\d.]+/g)[3]) : 1;
        if (opacity === 1) return colour;
        if (opacity > 0) return null;
      }
      return "rgb(255, 255, 255)";
    };
    const found = [];
    for (const element of document.body.querySelectorAll("*")) {
      const hasText = [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
      if (!hasText || !element.offsetParent || element.closest(":disabled, option, .unseen, .skip")) continue;
      const paper = behind(element);
      if (!paper) continue;
      const pair = [check.luminance(getComputedStyle(element).color), check.luminance(paper)].sort((a, b) => b - a);
      const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
      if (contrast < 4.5) found.push(`${element.tagName} ${element.className}: ${element.textContent.slice(0, 30)} (${contrast.toFixed(2)})`);
    }
    return found.slice(0, 10);
  },

  /** Elements that go beyond a phone of 390 pixels, for the message of a failure. */
  widest() {
    return [...document.body.querySelectorAll("*")].filter((element) => element.getBoundingClientRect().right > 391 && !element.parentElement.closest(".scroll, .tall"))
      .map((element) => `${element.tagName}.${element.className} ${Math.round(element.getBoundingClientRect().right)}`).slice(0, 8);
  },

  focused() {
    const element = document.activeElement;
    const { outlineStyle, outlineWidth } = getComputedStyle(element);
    const isOwn = element.matches(":focus-visible") && outlineStyle !== "none" && parseFloat(outlineWidth) > 0;
    return { what: `${element.tagName}.${element.className} ${element.textContent.slice(0, 20)}`, is_visible: isOwn || element === document.body || element.id === "main" };
  },

  set(selector, value) {
    const element = document.querySelector(`main ${selector}`);
    element.value = value;
    element.dispatchEvent(new Event("input"));
    element.dispatchEvent(new Event("change"));
  },

  fact: (title) => [...document.querySelectorAll(".fact")].find((fact) => fact.firstChild.textContent === title)?.lastChild.textContent,
  section: (title) => [...document.querySelectorAll("section.panel")].find((panel) => panel.querySelector("h2").textContent === title),
  panel: (title) => check.section(title)?.textContent ?? "",
  /** First cells of a panel's rows. */
  rows: (title) => [...(check.section(title)?.querySelectorAll("tbody tr") ?? [])].map((row) => row.firstChild.textContent),
  chart: (title) => [...document.querySelectorAll(".chart")].find((chart) => chart.querySelector("h3").textContent === title),
  matrix: () => [...document.querySelectorAll(".matrix tbody tr")].map((row) => [...row.querySelectorAll("td:not(.n)")].map((cell) => Number(cell.textContent.replace("·", "0")))),

  /** A column of the table that has it. */
  table: (title) => [...document.querySelectorAll("table")].map((table) => [table, [...table.querySelectorAll("thead th")].findIndex((head) => head.textContent.replace(/ [↑↓]$/, "") === title)]).find(([, at]) => at >= 0),
  column(title) {
    const [table, at] = check.table(title) ?? [];
    return table ? [...table.querySelectorAll("tbody tr")].map((row) => row.children[at].textContent) : [];
  },
  cell(name, title) {
    const [table, at] = check.table(title) ?? [];
    const row = [...(table?.querySelectorAll("tbody tr") ?? [])].find((tr) => [...tr.children].some((cell) => cell.textContent === name));
    return row?.children[at].textContent;
  },

  /** Pixels in the colours of the first two series. */
  inks(title) {
    const canvas = check.chart(title)?.querySelector("canvas");
    if (!canvas?.width) return [0, 0];
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const own = getComputedStyle(document.documentElement);
    return ["--s0", "--s1"].map((name) => {
      const [r, g, b] = own.getPropertyValue(name).trim().match(/[\da-f]{2}/gi).map((part) => parseInt(part, 16));
      let count = 0;
      for (let at = 0; at < data.length; at += 4) {
        if (data[at + 3] > 200 && Math.abs(data[at] - r) + Math.abs(data[at + 1] - g) + Math.abs(data[at + 2] - b) < 24) count += 1;
      }
      return count;
    });
  },

  /** A chart's picture. */
  print: (title) => check.chart(title).querySelector("canvas").toDataURL(),
};
