// Section 7: what max-pooling lets through, forward and back. The image is the one that is chosen above.

import { clear, el, svg } from "./dom.js";
import { cells, choice, floats, ink, signed, slider } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const SIDE = 28, HALF = 14;

export function pooling(data, state) {
  state.channel ??= 0;
  state.what ??= "adjoints";
  state.row ??= 5;
  state.column ??= 7;
  const all = Object.fromEntries(["values", "adjoints", "pooled", "given"].map((k) => [k, floats(data.pooling[k])]));
  const count = data.pooling.channels.length;
  const of = (name, side) => all[name].subarray((state.digit * count + state.channel) * side * side, (state.digit * count + state.channel + 1) * side * side);
  const maps = el("div", { class: "pair" }), window = el("div", { class: "window", role: "status" });
  const map = (name, side, caption, marked) => {
    const values = of(name, side), most = values.reduce((m, v) => Math.max(m, Math.abs(v)), 1e-12), adjoint = state.what === "adjoints";
    const canvas = cells(side, side, (i) => values[i] / most, adjoint ? signed : ink, { label: caption, kind: "large" });
    const size = 100 / side, k = marked;
    const over = svg("svg", { viewBox: "0 0 100 100", class: "over", "aria-hidden": "true" }, svg("rect", { x: state.column * size * k, y: state.row * size * k, width: size * k, height: size * k, class: "mark" }));
    const holder = el("div", { class: "plane pick" }, canvas, over);
    holder.addEventListener("click", (event) => {
      const box = holder.getBoundingClientRect();
      pick(Math.floor(((event.clientY - box.top) / box.height) * HALF), Math.floor(((event.clientX - box.left) / box.width) * HALF));
    });
    return el("figure", { class: "small" }, holder, el("figcaption", {}, caption));
  };
  const four = (name) => [0, 1].map((r) => [0, 1].map((c) => of(name, SIDE)[(2 * state.row + r) * SIDE + 2 * state.column + c]));
  const table = (title, name, kind) => {
    const rows = four(name), values = four("values").flat(), most = values.indexOf(Math.max(...values));
    return el("figure", { class: "small" }, el("figcaption", {}, title), el("table", { class: `numbers ${kind}` }, el("tbody", {}, rows.map((row, r) => el("tr", {}, row.map((x, c) => el("td", { class: 2 * r + c === most ? "most" : "", title: String(x) }, num(x))))))));
  };
  const show = () => {
    const adjoint = state.what === "adjoints";
    clear(maps, map(adjoint ? "adjoints" : "values", SIDE, t("digits.before"), 2), map(adjoint ? "given" : "pooled", HALF, t("digits.behind"), 1));
    const at = state.row * HALF + state.column, values = four("values").flat();
    clear(window, el("h4", {}, t("digits.window", state.row + 1, state.column + 1)), el("div", { class: "two even" }, table(t("digits.values"), "values", "value"), table(t("digits.givenBack"), "adjoints", "adjoint")),
      el("p", { class: "hint" }, t("digits.given", num(of("given", HALF)[at]), num(Math.max(...values)))));
  };
  const pick = (row, column) => {
    state.row = Math.max(0, Math.min(HALF - 1, row)), state.column = Math.max(0, Math.min(HALF - 1, column));
    rows.set(state.row), columns.set(state.column);
    show();
  };
  const place = (v) => String(v + 1);
  const rows = slider({ name: t("digits.pick"), max: HALF - 1, value: state.row, text: place, oninput: (v) => pick(v, state.column) });
  const columns = slider({ name: t("digits.pickColumn"), max: HALF - 1, value: state.column, text: place, oninput: (v) => pick(state.row, v) });
  const channel = choice({ name: t("digits.channel"), options: data.pooling.channels.map((c, k) => [k, String(c)]), value: state.channel, kind: "code", onchange: (k) => ((state.channel = k), show()) });
  const what = choice({ name: t("digits.show"), options: [["adjoints", t("digits.adjoints")], ["values", t("digits.value")]], value: state.what, onchange: (w) => ((state.what = w), show()) });
  state.changed.push(show);
  show();
  return el("div", { class: "stage" }, el("div", { class: "choices" }, what.root, channel.root), maps, el("div", { class: "choices" }, rows.root, columns.root), window);
}
