// A line chart on a canvas: several series, a crosshair, zoom by dragging, a logarithmic scale.

import { h, show } from "./dom.js";
import { duration, number } from "./format.js";

const MARGIN = { left: 54, right: 10, top: 9, bottom: 24 };
const AXES = {
  step: { label: "step", of: (series, i) => series.step[i] },
  epoch: { label: "epoch", of: (series, i) => series.epoch?.[i] ?? series.step[i] },
  samples: { label: "samples", of: (series, i) => series.samples?.[i] ?? series.step[i] },
  time: { label: "time since the start", of: (series, i) => series.time_ms[i] - series.began },
};

const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** Round numbers that divide a range in about `count` parts. */
function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= raw) || raw;
  const found = [];
  for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(Math.abs(at) < step * 1e-9 ? 0 : at);
  return found;
}

function decades(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
    for (const factor of [1, 2, 5]) {
      const at = factor * 10 ** power;
      if (at >= low && at <= high) found.push(at);
    }
  }
  const every = Math.ceil(found.length / 6);
  return found.filter((_, index) => index % every === 0);
}

export class Chart {
  /** `axis()` names what is across. */
  constructor(title, axis = () => "step") {
    this.title = title;
    this.axis = axis;
    this.series = [];
    this.zoom = null;
    this.isLog = false;
    this.canvas = h("canvas", { role: "img" });
    this.legend = h("ul.legend");
    this.log = h("button", { type: "button", "aria-pressed": "false", title: "Logarithmic scale", onclick: () => this.toggleLog() }, "log");
    this.reset = h("button", { type: "button", hidden: true, onclick: () => this.setZoom(null) }, "reset zoom");
    this.element = h("section.chart", { "aria-label": title }, h("header", h("h3", title), this.reset, this.log), this.canvas, this.legend);
    this.listen();
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.canvas);
  }

  /** Series are {label, colour: 0..7, step, value, time_ms, epoch, samples, began, is_thinned}. */
  set(series) {
    this.series = series;
    this.draw();
  }

  close() {
    this.watcher.disconnect();
  }

  toggleLog() {
    this.isLog = !this.isLog;
    this.log.setAttribute("aria-pressed", String(this.isLog));
    this.draw();
  }

  setZoom(range) {
    this.zoom = range;
    this.reset.hidden = !range;
    this.draw();
  }

  listen() {
    const at = (event) => event.clientX - this.canvas.getBoundingClientRect().left;
    let from = null;
    this.canvas.addEventListener("pointerdown", (event) => {
      if (event.pointerType === "mouse") from = at(event);
    });
    this.canvas.addEventListener("pointermove", (event) => {
      this.drag = from === null ? null : [from, at(event)];
      this.draw(at(event));
    });
    this.canvas.addEventListener("pointerleave", () => {
      from = null;
      this.drag = null;
      this.draw();
    });
    this.canvas.addEventListener("pointerup", (event) => {
      const range = from === null ? [0, 0] : [from, at(event)].sort((a, b) => a - b);
      from = null;
      this.drag = null;
      if (range[1] - range[0] > 6) this.setZoom(range.map((x) => this.fromX(x)));
    });
    this.canvas.addEventListener("dblclick", () => this.setZoom(null));
  }

  /** The ranges of what is shown; null where there is nothing. */
  extent() {
    const axis = AXES[this.axis()];
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const series of this.series) {
      for (let i = 0; i < series.value.length; i += 1) {
        const x = axis.of(series, i);
        if (this.zoom && (x < this.zoom[0] || x > this.zoom[1])) continue;
        left = Math.min(left, x);
        right = Math.max(right, x);
        const y = series.value[i];
        if (!Number.isFinite(y) || (this.isLog && y <= 0)) continue;
        low = Math.min(low, y);
        high = Math.max(high, y);
      }
    }
    if (this.zoom) [left, right] = this.zoom;
    if (!Number.isFinite(left) || !Number.isFinite(low)) return null;
    if (left === right) [left, right] = [left - 0.5, right + 0.5];
    if (low === high) [low, high] = this.isLog ? [low / 2, high * 2] : [low - (Math.abs(low) / 2 || 0.5), high + (Math.abs(high) / 2 || 0.5)];
    const room = this.isLog ? 0 : (high - low) * 0.04;
    return { left, right, low: low - room, high: high + room };
  }

  fromX(x) {
    const { left, right } = this.shown;
    return left + ((x - MARGIN.left) / (this.width - MARGIN.left - MARGIN.right)) * (right - left);
  }

  draw(pointer) {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width) return;
    const scale = window.devicePixelRatio || 1;
    if (this.canvas.width !== Math.round(width * scale) || this.canvas.height !== Math.round(height * scale)) {
      this.canvas.width = Math.round(width * scale);
      this.canvas.height = Math.round(height * scale);
    }
    const ink = this.canvas.getContext("2d");
    ink.setTransform(scale, 0, 0, scale, 0, 0);
    ink.clearRect(0, 0, width, height);
    ink.font = "11.5px system-ui, 'DejaVu Sans', sans-serif";
    const extent = this.extent();
    this.width = width;
    this.shown = extent;
    if (!extent) {
      ink.fillStyle = style("--soft");
      ink.textAlign = "center";
      ink.fillText(this.isLog ? "nothing above 0" : "no points yet", width / 2, height / 2);
      this.describe();
      return;
    }
    const [low, high] = this.isLog ? [Math.log10(extent.low), Math.log10(extent.high)] : [extent.low, extent.high];
    const plot = { width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom };
    const toX = (x) => MARGIN.left + ((x - extent.left) / (extent.right - extent.left)) * plot.width;
    const toY = (y) => MARGIN.top + (1 - ((this.isLog ? Math.log10(y) : y) - low) / (high - low)) * plot.height;
    this.drawGrid(ink, extent, { toX, toY, width, height });
    ink.save();
    ink.beginPath();
    ink.rect(MARGIN.left, 0, plot.width, height - MARGIN.bottom + 1);
    ink.clip();
    for (const series of this.series) this.drawLine(ink, series, toX, toY);
    if (this.drag) {
      ink.fillStyle = style("--accent");
      ink.globalAlpha = 0.15;
      ink.fillRect(Math.min(...this.drag), MARGIN.top, Math.abs(this.drag[1] - this.drag[0]), plot.height);
      ink.globalAlpha = 1;
    }
    const isInside = pointer !== undefined && pointer >= MARGIN.left && pointer <= width - MARGIN.right;
    const at = isInside ? this.fromX(pointer) : null;
    if (at !== null) this.drawCrosshair(ink, at, { toX, toY, height });
    ink.restore();
    this.describe(at);
  }

  drawGrid(ink, extent, { toX, toY, width, height }) {
    const across = this.axis();
    ink.strokeStyle = style("--line");
    ink.fillStyle = style("--soft");
    ink.lineWidth = 1;
    ink.textAlign = "right";
    ink.textBaseline = "middle";
    for (const y of this.isLog ? decades(extent.low, extent.high) : ticks(extent.low, extent.high, 5)) {
      const at = Math.round(toY(y)) + 0.5;
      ink.beginPath();
      ink.moveTo(MARGIN.left, at);
      ink.lineTo(width - MARGIN.right, at);
      ink.stroke();
      ink.fillText(number(y), MARGIN.left - 7, at);
    }
    ink.textAlign = "center";
    ink.textBaseline = "alphabetic";
    for (const x of ticks(extent.left, extent.right, Math.max(2, Math.floor(width / 110)))) {
      if (x < extent.left) continue;
      const text = across === "time" ? duration(x) : number(x);
      const half = ink.measureText(text).width / 2;
      ink.fillText(text, Math.min(Math.max(toX(x), MARGIN.left + half - 8), width - half - 2), height - 7);
    }
  }

  drawLine(ink, series, toX, toY) {
    const axis = AXES[this.axis()];
    ink.strokeStyle = style(`--s${series.colour % 8}`);
    ink.fillStyle = ink.strokeStyle;
    ink.lineWidth = 1.6;
    ink.lineJoin = "round";
    ink.setLineDash(series.colour >= 8 ? [6, 3] : []);
    ink.beginPath();
    let isDown = false;
    let drawn = 0;
    for (let i = 0; i < series.value.length; i += 1) {
      const y = series.value[i];
      if (!Number.isFinite(y) || (this.isLog && y <= 0)) {
        isDown = false; // A gap is what a value that isn't one looks like.
        continue;
      }
      const [px, py] = [toX(axis.of(series, i)), toY(y)];
      if (isDown) ink.lineTo(px, py);
      else ink.moveTo(px, py);
      isDown = true;
      drawn += 1;
    }
    ink.stroke();
    ink.setLineDash([]);
    if (drawn > 40) return;
    for (let i = 0; i < series.value.length; i += 1) {
      if (!Number.isFinite(series.value[i]) || (this.isLog && series.value[i] <= 0)) continue;
      ink.beginPath();
      ink.arc(toX(axis.of(series, i)), toY(series.value[i]), 2.4, 0, 7);
      ink.fill();
    }
  }

  drawCrosshair(ink, at, { toX, toY, height }) {
    const axis = AXES[this.axis()];
    ink.strokeStyle = style("--soft");
    ink.lineWidth = 1;
    ink.beginPath();
    ink.moveTo(Math.round(toX(at)) + 0.5, MARGIN.top);
    ink.lineTo(Math.round(toX(at)) + 0.5, height - MARGIN.bottom);
    ink.stroke();
    for (const series of this.series) {
      const i = this.nearest(series, at);
      const y = series.value[i];
      if (i < 0 || !Number.isFinite(y) || (this.isLog && y <= 0)) continue;
      ink.fillStyle = style(`--s${series.colour % 8}`);
      ink.beginPath();
      ink.arc(toX(axis.of(series, i)), toY(y), 4, 0, 7);
      ink.fill();
    }
  }

  /** The index of the point nearest to a place; points are in the axis's order. */
  nearest(series, at) {
    const axis = AXES[this.axis()];
    let [low, high] = [0, series.value.length - 1];
    if (high < 0) return -1;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (axis.of(series, middle) < at) low = middle + 1;
      else high = middle;
    }
    const before = low > 0 ? low - 1 : low;
    return at - axis.of(series, before) < axis.of(series, low) - at ? before : low;
  }

  /** The legend says each series's value at the crosshair, or its last. */
  describe(at = null) {
    const axis = AXES[this.axis()];
    const items = this.series.map((series) => {
      const i = at === null ? series.value.length - 1 : this.nearest(series, at);
      return { series, i, value: i < 0 ? null : series.value[i] };
    });
    show(this.legend, items.map(({ series, value }) =>
      h("li", h("i", { style: { background: `var(--s${series.colour % 8})` } }), series.label, " ", h("b", number(value)))));
    const first = items.find(({ i }) => i >= 0);
    if (at !== null && first) {
      const x = axis.of(first.series, first.i);
      this.legend.prepend(h("li", axis.label, " ", h("b", this.axis() === "time" ? duration(x) : number(x))));
    }
    if (this.series.some((series) => series.is_thinned)) {
      this.legend.append(h("li", { title: "Of each stretch of steps the least and the greatest value are shown" }, "thinned, extremes kept"));
    }
    const said = items.map(({ series, value }) => `${series.label} ${number(value)}`).join(", ");
    this.canvas.setAttribute("aria-label", `${this.title}: ${said || "no points"}`);
  }
}

export const axes = Object.keys(AXES);
