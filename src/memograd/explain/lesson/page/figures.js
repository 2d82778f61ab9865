// What the figures of all sections are made of: plots that follow their width, sliders, choices, numbers, pictures.

import { clear, el, svg } from "./dom.js";
import { num } from "./tensors.js";

// How much larger than usual letters are: drawings grow with them.
function scale() {
  return parseFloat(getComputedStyle(document.documentElement).fontSize) / 16;
}

// A figure that is drawn anew when its width changes; `again()` draws it when something else has changed.
export function responsive(draw, kind = "") {
  const root = el("div", { class: `drawn ${kind}` });
  let width = 0;
  const again = () => {
    if (!width) return;
    const drawn = draw(width / scale());
    if (drawn instanceof SVGElement) for (const side of ["width", "height"]) drawn.setAttribute(side, drawn.getAttribute(side) * scale());
    clear(root, drawn);
  };
  new ResizeObserver(([entry]) => {
    const wide = Math.floor(entry.contentRect.width);
    if (wide === width) return;
    width = wide;
    again();
  }).observe(root);
  return { root, again };
}

// Calls `move(x, y)` with the place in pixels while a pointer is down on `root`.
export function dragged(root, move) {
  const at = (event) => {
    const box = root.getBoundingClientRect();
    move((event.clientX - box.left) / scale(), (event.clientY - box.top) / scale());
  };
  root.classList.add("dragged");
  root.addEventListener("pointerdown", (event) => {
    root.setPointerCapture(event.pointerId);
    at(event);
  });
  root.addEventListener("pointermove", (event) => (root.hasPointerCapture(event.pointerId) ? at(event) : null));
}

// A slider with its name and what it stands at. `text(value)` says that in words or numbers.
export function slider({ name, min = 0, max, step = 1, value, text = num, oninput, id = null }) {
  const output = el("output", {}, text(value));
  const input = el("input", { type: "range", min, max, step, value, id, "aria-label": name, "aria-valuetext": text(value) });
  const set = (v) => {
    input.value = v;
    output.textContent = text(v);
    input.setAttribute("aria-valuetext", text(v));
  };
  input.addEventListener("input", () => {
    set(Number(input.value));
    oninput(Number(input.value));
  });
  return { root: el("div", { class: "slider" }, el("span", { class: "name", "aria-hidden": "true" }, name), input, output), set, input };
}

// One of several: [[value, text or element], ...].
export function choice({ name, options, value, onchange, kind = "", labels = null }) {
  const buttons = options.map(([v, inside], k) =>
    el("button", { type: "button", "aria-pressed": String(v === value), "aria-label": labels ? labels[k] : null, "data-value": String(v), onclick: () => (set(v), onchange(v)) }, inside));
  const set = (v) => buttons.forEach((b, k) => b.setAttribute("aria-pressed", String(options[k][0] === v)));
  return { root: el("div", { class: `choice ${kind}`, role: "group", "aria-label": name }, el("span", { class: "name" }, name), el("span", { class: "options" }, buttons)), set };
}

// Numbers with their names, in a row; `[name, text, kind]`.
export function facts(list) {
  return el("dl", { class: "facts" }, list.map(([name, text, kind]) => el("div", { class: kind }, el("dt", {}, name), el("dd", {}, text))));
}

export function button(text, onclick, attributes = {}) {
  return el("button", { type: "button", class: "do", onclick, ...attributes }, text);
}

// -- plots ------------------------------------------------------------------------------------------------------------

// A frame with axes: {root, x, y} where x and y place numbers. `logarithmic` axes are given as powers of ten.
export function plot(width, height, [x0, x1], [y0, y1], { label, xName = "", yName = "", powers = [false, false], left = 44, bottom = 30 } = {}) {
  const right = 10, top = yName ? 26 : 12;
  const x = (v) => left + ((v - x0) / (x1 - x0)) * (width - left - right);
  const y = (v) => height - bottom - ((v - y0) / (y1 - y0)) * (height - bottom - top);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const ten = (v) => `10${[...String(v)].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("")}`;
  for (const v of ticks(x0, x1, Math.max(3, width / 80), powers[0])) {
    root.append(svg("line", { x1: x(v), x2: x(v), y1: y(y0), y2: y(y1), class: v === 0 && !powers[0] ? "axis" : "grid" }));
    root.append(svg("text", { x: x(v), y: height - bottom + 15, class: "tick" }, powers[0] ? ten(v) : short(v)));
  }
  for (const v of ticks(y0, y1, Math.max(3, height / 48), powers[1])) {
    root.append(svg("line", { x1: x(x0), x2: x(x1), y1: y(v), y2: y(v), class: v === 0 && !powers[1] ? "axis" : "grid" }));
    root.append(svg("text", { x: left - 6, y: y(v) + 4, class: "tick end" }, powers[1] ? ten(v) : short(v)));
  }
  if (xName) root.append(svg("text", { x: width - right, y: height - 3, class: "axis-name end" }, xName));
  if (yName) root.append(svg("text", { x: 4, y: 13, class: "axis-name start" }, yName));
  return { root, x, y, value: (px) => x0 + ((px - left) / (width - left - right)) * (x1 - x0) };
}

function ticks(low, high, most, powers) {
  const raw = (high - low) / most;
  const unit = powers ? 1 : 10 ** Math.floor(Math.log10(raw));
  const step = (powers ? [1, 2, 3, 5, 10, 20] : [1, 2, 5, 10]).find((k) => k * unit >= raw) * unit;
  const all = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + 1e-9; k++) all.push(Number((k * step).toPrecision(12)) + 0);
  return all;
}

function short(v) {
  return (Math.abs(v) >= 1e4 ? v.toExponential(0).replace("e+", "e") : String(v)).replace("-", "−");
}

export function line(frame, xs, ys, kind) {
  const points = xs.map((v, i) => `${frame.x(v).toFixed(1)},${frame.y(ys[i]).toFixed(1)}`).join("L");
  return svg("path", { d: `M${points}`, class: `curve ${kind}` });
}

export function dot(frame, x, y, kind, r = 6) {
  return svg("circle", { cx: frame.x(x), cy: frame.y(y), r, class: `dot ${kind}` });
}

// A piece of the line through (x, y) with this slope, so many pixels long.
export function tangent(frame, x, y, slope, length, kind) {
  const dx = frame.x(1) - frame.x(0), dy = frame.y(slope) - frame.y(0);
  const scale = length / 2 / Math.hypot(dx, dy);
  const [px, py] = [frame.x(x), frame.y(y)];
  return svg("line", { x1: px - dx * scale, y1: py - dy * scale, x2: px + dx * scale, y2: py + dy * scale, class: `tangent ${kind}` });
}

// The range of numbers with some room around it.
export function around(values, room = 0.08) {
  const low = Math.min(...values), high = Math.max(...values);
  const more = (high - low || 1) * room;
  return [low - more, high + more];
}

export function steps(from, to, count) {
  return Array.from({ length: count }, (_, i) => from + ((to - from) * i) / (count - 1));
}

// -- pictures of bytes ------------------------------------------------------------------------------------------------

export function bytes(text) {
  return Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
}

export function floats(text) {
  return new Float32Array(bytes(text).buffer);
}

// Cells as a canvas of so many pixels; `colour(cell)` is [red, green, blue].
export function cells(rows, columns, get, colour, { label, size = null, kind = "" }) {
  const canvas = el("canvas", { width: columns, height: rows, class: `cells ${kind}`, role: label ? "img" : null, "aria-label": label || null, "aria-hidden": label ? null : "true" });
  if (size) canvas.style.setProperty("width", `${size}px`);
  const context = canvas.getContext("2d"), image = context.createImageData(columns, rows);
  for (let i = 0; i < rows * columns; i++) image.data.set([...colour(get(i)), 255], 4 * i);
  context.putImageData(image, 0, 0);
  return canvas;
}

const BLUE = [37, 99, 235], ORANGE = [224, 108, 16], PALE = [249, 248, 244];
const mix = (a, b, share) => a.map((c, i) => Math.round(c + (b[i] - c) * share));

// From blue at 0 over pale at 1/2 to orange at 1.
export function between(share) {
  return share < 0.5 ? mix(PALE, BLUE, 1 - 2 * share) : mix(PALE, ORANGE, 2 * share - 1);
}

// From -1, blue, to 1, orange; small ones are lifted so that they can be seen.
export function signed(share) {
  return mix(PALE, share < 0 ? BLUE : ORANGE, Math.sqrt(Math.min(1, Math.abs(share))));
}

export function ink(share) {
  return mix([255, 255, 255], [20, 24, 32], share);
}

export function percent(share, digits = 1) {
  return `${(100 * share).toFixed(digits)}%`;
}
