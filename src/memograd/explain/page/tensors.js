// Numbers and tensors as people read them.

import { el } from "./dom.js";
import { t } from "./words.js";

export function num(x) {
  if (typeof x === "string") return x === "nan" ? "NaN" : x.replace("inf", "∞").replace("-", "−");
  if (x === 0) return "0";
  const size = Math.abs(x);
  let text;
  if (Number.isInteger(x) && size < 1e6) text = String(x);
  else if (size >= 1e5 || size < 1e-3) text = x.toExponential(2).replace("e+", "e");
  else text = x.toFixed(size >= 100 ? 1 : size >= 10 ? 2 : 4);
  return text.replaceAll("-", "−");
}

export function shapeOf(tensor) {
  return tensor.shape.length ? tensor.shape.join("×") : "1";
}

// One line: the numbers themselves if they are few, else the geometry and the range.
export function brief(tensor, most = 22) {
  if (!tensor) return "";
  if (tensor.numbers && tensor.numbers.length <= 4) {
    const text = tensor.numbers.map(num).join("  ");
    if (text.length <= most) return tensor.numbers.length === 1 ? text : `[${text}]`;
  }
  if (tensor.min === undefined) return shapeOf(tensor);
  const range = `${num(tensor.min)} … ${num(tensor.max)}`;
  return range.length <= most ? range : shapeOf(tensor);
}

export function rowsOf(tensor) {
  const columns = tensor.shape.length ? tensor.shape[tensor.shape.length - 1] : 1;
  const rows = [];
  for (let i = 0; i < tensor.numbers.length; i += columns) rows.push(tensor.numbers.slice(i, i + columns));
  return rows;
}

// A tensor in full: statistics, and a table of its numbers (each can be chosen), or heat maps.
export function tensorView(tensor, kind, choose = null, chosen = -1) {
  if (!tensor) return el("p", { class: "none" }, "—");
  const stats = el("p", { class: "stats" }, `${tensor.dtype} ${shapeOf(tensor)}`);
  if (tensor.min !== undefined) {
    const facts = [["min", num(tensor.min)], ["max", num(tensor.max)], ["mean", num(tensor.mean)]];
    facts.push(["zeros", `${Math.round(tensor.zeros * 1000) / 10} %`]);
    if (tensor.notFinite) facts.push(["notFinite", String(tensor.notFinite)]);
    for (const [name, value] of facts) {
      stats.append(" ", el("span", { class: name === "notFinite" ? "fact bad" : "fact" }, `${t(name)} ${value}`));
    }
  }
  return el("div", { class: `tensor ${kind}` }, stats, tensor.numbers ? table(tensor, kind, choose, chosen) : maps(tensor, kind));
}

function table(tensor, kind, choose, chosen) {
  const limit = Math.max(Math.abs(tensor.min ?? 0), Math.abs(tensor.max ?? 0)) || 1;
  let at = 0;
  const body = el("tbody");
  for (const row of rowsOf(tensor)) {
    const line = el("tr");
    for (const x of row) {
      const index = at++;
      const cell = el("td", { class: index === chosen ? "chosen" : null, title: String(x) });
      cell.style.setProperty("--much", typeof x === "number" ? Math.min(1, Math.abs(x) / limit).toFixed(3) : 0);
      if (choose) {
        const name = t("element", index);
        cell.append(el("button", { type: "button", "aria-label": `${name}: ${num(x)}`, onclick: () => choose(index) }, num(x)));
      } else cell.append(num(x));
      line.append(cell);
    }
    body.append(line);
  }
  return el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t(kind) }, el("table", { class: "numbers" }, body));
}

function maps(tensor, kind) {
  const m = tensor.maps;
  if (!m) return null;
  const bytes = Uint8Array.from(atob(m.cells), (c) => c.charCodeAt(0));
  const size = m.rows * m.columns;
  const figure = el("figure", { class: "maps" });
  for (let k = 0; k < bytes.length / size; k++) figure.append(map(tensor, bytes.subarray(k * size, (k + 1) * size), kind));
  const shown = Math.round(bytes.length / size);
  figure.append(el("figcaption", {}, t("maps", shown, m.of, m.rows, m.columns)));
  return figure;
}

// White is zero (or the least number, where all are positive); colour is distance from it, two hues for two signs.
function map(tensor, cells, kind) {
  const { rows, columns } = tensor.maps;
  const scale = Math.max(2, Math.floor(112 / Math.max(rows, columns)));
  const canvas = el("canvas", { width: columns * scale, height: rows * scale, role: "img", "aria-label": `${t(kind)} ${shapeOf(tensor)}` });
  const context = canvas.getContext("2d");
  const span = tensor.max - tensor.min;
  const limit = Math.max(Math.abs(tensor.min), Math.abs(tensor.max)) || 1;
  for (let i = 0; i < cells.length; i++) {
    const x = tensor.min + (cells[i] / 255) * span;
    context.fillStyle = heat(x / limit);
    context.fillRect((i % columns) * scale, Math.floor(i / columns) * scale, scale, scale);
  }
  return canvas;
}

export function heat(share) {
  const much = Math.min(1, Math.abs(share));
  const mix = (a, b) => Math.round(a + (b - a) * Math.sqrt(much));
  return share >= 0
    ? `rgb(${mix(250, 190)},${mix(249, 60)},${mix(246, 10)})`
    : `rgb(${mix(250, 20)},${mix(249, 80)},${mix(246, 190)})`;
}
