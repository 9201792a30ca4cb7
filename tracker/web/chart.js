// A line chart on a canvas: several series, a crosshair by pointer or arrow keys, zoom by dragging, smoothing, a
// logarithmic scale.

import { h, show, visible } from "./dom.js";
import { duration, number } from "./format.js";

const MARGIN = { left: 54, right: 10, top: 9, bottom: 24 };
const LEGEND_MAX = 12;
const AXES = {
  // The steps of a reading of machines count readings: its epoch says where the run was.
  step: { label: "step", isWhole: true, of: (series, i) => (series.per_epoch ? Math.round(series.epoch[i] * series.per_epoch) : series.step[i]) },
  epoch: { label: "epoch", of: (series, i) => series.epoch?.[i] ?? series.step[i] },
  samples: { label: "samples", isWhole: true, of: (series, i) => series.samples?.[i] ?? series.step[i] },
  time: { label: "after", of: (series, i) => series.time_ms[i] - series.began },
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

/** The same in time: parts of seconds, minutes, hours and days. */
function timeTicks(low, high, count) {
  const sizes = [1, 2, 5, 10, 15, 30].flatMap((n) => [n * 1000, n * 60_000]).concat([1, 2, 3, 6, 12, 24, 48, 168].map((hours) => hours * 3_600_000));
  const size = sizes.sort((a, b) => a - b).find((ms) => ms >= (high - low) / count);
  if (high - low < 1000 * count || !size) return ticks(low, high, count);
  const found = [];
  for (let at = Math.ceil(low / size) * size; at <= high; at += size) found.push(at);
  return found;
}

/** Ticks as text: as many digits as tell them apart. */
function tickTexts(places) {
  const gap = places.length > 1 ? Math.abs(places[1] - places[0]) : 0;
  const digits = gap ? Math.max(0, -Math.floor(Math.log10(gap) + 1e-9)) : 0;
  const greatest = Math.max(...places.map(Math.abs));
  return places.map((at) => (gap && digits <= 6 && greatest < 1e5 && at !== 0 ? at.toFixed(digits) : number(at)));
}

/** An exponential mean that doesn't lean to 0 at its beginning; gaps stay. */
function smoothed(values, weight) {
  let [sum, part] = [0, 1];
  return values.map((value) => {
    if (!Number.isFinite(value)) return value;
    sum = sum * weight + (1 - weight) * value;
    part *= weight;
    return sum / (1 - part);
  });
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
  /** `look()` says what is across, and how much is smoothed: {axis, smooth: 0..1}. */
  constructor(title, look) {
    this.title = title;
    this.look = look;
    this.series = null;
    this.pointer = undefined;
    this.zoom = null;
    this.isLog = false;
    this.canvas = h("canvas", { role: "img", tabindex: 0, title: "Arrow keys or the pointer read values; drag to zoom" });
    this.legend = h("ul.legend");
    this.place = h("span.note");
    this.log = h("button", { type: "button", "aria-pressed": "false", title: "Logarithmic scale", onclick: () => this.toggleLog() }, "log");
    this.reset = h("button", { type: "button", hidden: true, onclick: () => this.setZoom(null) }, "reset zoom");
    this.element = h("section.chart", { "aria-label": title }, h("header", h("h3", title), this.place, this.reset, this.log), this.canvas, this.legend);
    this.listen();
    this.watcher = new ResizeObserver(() => this.draw());
    this.watcher.observe(this.canvas);
    this.scheme = window.matchMedia("(prefers-color-scheme: dark)");
    this.repaint = () => this.draw();
    this.scheme.addEventListener("change", this.repaint);
  }

  axis() {
    return this.look().axis;
  }

  /** Series are {label, colour: 0..7, step, value, time_ms, epoch, samples, began, is_thinned, per_epoch}. */
  set(series) {
    this.series = series;
    this.element.dataset.points = series.map((one) => one.step.length).join(" ");
    this.draw();
  }

  close() {
    this.watcher.disconnect();
    this.scheme.removeEventListener("change", this.repaint);
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
      this.point(at(event));
    });
    const leave = () => {
      from = null;
      this.drag = null;
      this.point(undefined);
    };
    this.canvas.addEventListener("pointerleave", leave);
    this.canvas.addEventListener("blur", leave);
    this.canvas.addEventListener("pointerup", (event) => {
      const range = from === null ? [0, 0] : [from, at(event)].sort((a, b) => a - b);
      from = null;
      this.drag = null;
      if (range[1] - range[0] > 6) this.setZoom(range.map((x) => this.fromX(x)));
    });
    this.canvas.addEventListener("dblclick", () => this.setZoom(null));
    this.canvas.addEventListener("keydown", (event) => this.key(event));
  }

  /** Moves the crosshair. */
  point(x) {
    this.pointer = x;
    this.draw();
  }

  key(event) {
    const [first, last] = [MARGIN.left, this.width - MARGIN.right];
    const now = this.pointer ?? last;
    const pace = (last - first) / (event.shiftKey ? 10 : 60);
    const to = { ArrowLeft: now - pace, ArrowRight: now + pace, Home: first, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    this.point(Math.min(Math.max(to, first), last));
  }

  /** The ranges of what is shown; null where there is nothing. */
  extent() {
    const axis = AXES[this.axis()];
    let [left, right, low, high] = [Infinity, -Infinity, Infinity, -Infinity];
    for (const series of this.series || []) {
      for (let i = 0; i < series.value.length; i += 1) {
        const x = axis.of(series, i);
        if (this.zoom && (x < this.zoom[0] || x > this.zoom[1])) continue;
        left = Math.min(left, x);
        right = Math.max(right, x);
        const y = series.value[i];
        if (!this.isShown(y)) continue;
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

  draw() {
    const { pointer } = this;
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
      ink.fillText(this.series === null ? "loading…" : this.isLog ? "nothing above 0" : "no points yet", width / 2, height / 2);
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
    ink.rect(MARGIN.left - 3, 0, plot.width + 6, height - MARGIN.bottom + 3);
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
    const levels = this.isLog ? decades(extent.low, extent.high) : ticks(extent.low, extent.high, 5);
    const texts = this.isLog ? levels.map(number) : tickTexts(levels);
    for (const [index, y] of levels.entries()) {
      const at = Math.round(toY(y)) + 0.5;
      ink.beginPath();
      ink.moveTo(MARGIN.left, at);
      ink.lineTo(width - MARGIN.right, at);
      ink.stroke();
      ink.fillText(texts[index], MARGIN.left - 7, at);
    }
    ink.textAlign = "center";
    ink.textBaseline = "alphabetic";
    const places = across === "time" ? timeTicks : ticks;
    for (const x of places(extent.left, extent.right, Math.max(3, Math.floor(width / 75)))) {
      // There is no half of a step.
      if (x < extent.left || (AXES[across].isWhole && !Number.isInteger(x))) continue;
      const text = across === "time" ? duration(x) : number(x);
      const half = ink.measureText(text).width / 2;
      ink.fillText(text, Math.min(Math.max(toX(x), MARGIN.left + half - 8), width - half - 2), height - 7);
    }
  }

  drawLine(ink, series, toX, toY) {
    const { smooth } = this.look();
    const isSmoothed = smooth > 0 && series.value.length > 3;
    ink.strokeStyle = style(`--s${series.colour % 8}`);
    ink.fillStyle = ink.strokeStyle;
    ink.lineWidth = 1.6;
    ink.lineJoin = "round";
    ink.setLineDash(series.colour >= 8 ? [6, 3] : []);
    if (isSmoothed) ink.globalAlpha = 0.22;
    const drawn = this.trace(ink, series, series.value, toX, toY);
    ink.globalAlpha = 1;
    if (isSmoothed) this.trace(ink, series, smoothed(series.value, smooth), toX, toY);
    ink.setLineDash([]);
    if (isSmoothed || drawn > 40) return;
    const axis = AXES[this.axis()];
    for (let i = 0; i < series.value.length; i += 1) {
      if (!this.isShown(series.value[i])) continue;
      ink.beginPath();
      ink.arc(toX(axis.of(series, i)), toY(series.value[i]), 2.4, 0, 7);
      ink.fill();
    }
  }

  isShown(y) {
    return Number.isFinite(y) && !(this.isLog && y <= 0);
  }

  /** The line through values: how many there are. */
  trace(ink, series, values, toX, toY) {
    const axis = AXES[this.axis()];
    ink.beginPath();
    let isDown = false;
    let drawn = 0;
    for (let i = 0; i < values.length; i += 1) {
      if (!this.isShown(values[i])) {
        isDown = false; // A gap is what a value that isn't one looks like.
        continue;
      }
      const [px, py] = [toX(axis.of(series, i)), toY(values[i])];
      if (isDown) ink.lineTo(px, py);
      else ink.moveTo(px, py);
      isDown = true;
      drawn += 1;
    }
    ink.stroke();
    return drawn;
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
      if (i < 0 || !this.isShown(y)) continue;
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
    const series = this.series || [];
    const items = series.map((one) => {
      const i = at === null ? one.value.length - 1 : this.nearest(one, at);
      return { one, i, value: i < 0 ? null : one.value[i] };
    });
    const line = ({ one, value }) =>
      h(one.colour >= 8 ? "li.dashed" : "li", h("i", { style: { color: `var(--s${one.colour % 8})` } }), one.label, " ", h("b", number(value)));
    const first = items.find(({ i }) => i >= 0);
    const place = at !== null && first ? axis.of(first.one, first.i) : null;
    show(this.legend,
      items.slice(0, LEGEND_MAX).map(line),
      items.length > LEGEND_MAX ? h("li", `and ${items.length - LEGEND_MAX} more`) : null,
      series.some((one) => one.is_thinned) ? h("li", { title: "Of each stretch of steps the least and the greatest value are shown" }, "thinned, extremes kept") : null);
    // Not in the legend, which would become longer and push the page about under the pointer.
    this.place.textContent = place === null ? "" : `${axis.label} ${this.axis() === "time" ? duration(place) : number(place)}`;
    const said = items.map(({ one, value }) => `${one.label} ${number(value)}`).join(", ");
    this.canvas.setAttribute("aria-label", visible(`${this.title}${place === null ? "" : `, ${this.place.textContent}`}: ${said || "no points"}`));
  }
}

export const axes = Object.keys(AXES);
