// Section 8: a thousand seeds, and what became of each.

import { clear, el, svg } from "./dom.js";
import { around, button, bytes, choice, facts, floats, line, plot, responsive } from "./figures.js";
import { planeFigure } from "./epochs.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const COLOURS = ["--update", "--bad", "--chosen", "--value", "--hit"];

export function fates(data, state) {
  state.seed ??= 5;
  state.only ??= -1;
  const key = (k) => data.names[k].replaceAll(" ", "_");
  const losses = bytes(data.losses), behind = floats(data.behind), planes = bytes(data.plane);
  const detail = el("div", { class: "seed-detail", role: "status" }), holder = el("div", { class: "seed-grid" });
  let columns = 40;
  const grid = responsive((width) => {
    const room = holder.clientWidth || width;
    columns = room < 520 ? 25 : room < 1000 ? 40 : 50;
    const rows = Math.ceil(data.seeds / columns), size = Math.max(8, Math.floor(room / columns)), ratio = Math.min(3, devicePixelRatio || 1);
    const style = getComputedStyle(document.documentElement), colours = COLOURS.map((c) => style.getPropertyValue(c).trim());
    const canvas = el("canvas", { width: columns * size * ratio, height: rows * size * ratio, role: "img", "aria-label": t("fates.grid", data.seeds), class: "seeds" });
    canvas.style.setProperty("width", `${columns * size}px`);
    const context = canvas.getContext("2d");
    context.scale(ratio, ratio);
    for (let seed = 0; seed < data.seeds; seed++) {
      const x = (seed % columns) * size, y = Math.floor(seed / columns) * size, fate = data.fate[seed];
      context.globalAlpha = state.only < 0 || state.only === fate ? 1 : 0.12;
      context.fillStyle = colours[fate];
      context.fillRect(x + 1, y + 1, size - 2, size - 2);
      if (seed !== state.seed) continue;
      context.globalAlpha = 1;
      context.lineWidth = 2.5;
      context.strokeStyle = style.getPropertyValue("--ink").trim();
      context.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
    }
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      const seed = Math.floor((event.clientY - box.top) / size) * columns + Math.floor((event.clientX - box.left) / size);
      if (seed < data.seeds) show(seed);
    });
    return canvas;
  });
  const curve = responsive((width) => {
    const ys = data.frames.map((_, k) => (losses[state.seed * data.frames.length + k] / 255) * data.top), xs = data.frames.map((e) => Math.log10(e + 1));
    const frame = plot(width, 150, [0, Math.log10(data.epochs + 1)], [0, Math.max(around(ys)[1], 0.8)], { label: t("fates.lossCurve"), yName: t("fates.lossCurve"), xName: t("steps.epoch"), powers: [true, false], left: 36 });
    frame.root.append(line(frame, xs, ys, "value"));
    return frame.root;
  });
  const show = (seed) => {
    state.seed = Math.max(0, Math.min(data.seeds - 1, seed));
    number.value = state.seed;
    const fate = data.fate[state.seed], dead = data.deadBefore[state.seed], size = data.cells * data.cells;
    const plane = planes.subarray(state.seed * size, (state.seed + 1) * size), w = behind.subarray(state.seed * 9, state.seed * 9 + 9);
    const picture = planeFigure(data, btoa(String.fromCharCode(...plane)), { label: t("fates.plane", state.seed), lines: (at) => [0, 1].map((j) => fold(w[2 * j], w[2 * j + 1], w[4 + j], data, at)) });
    clear(detail,
      el("p", { class: `fate f${fate}` }, el("strong", {}, `${t("fates.seed")} ${state.seed} · ${t(`fates.${key(fate)}`)}`), " ", t(`fates.why_${key(fate)}`)),
      el("p", { class: "hint" }, dead ? t("fates.deadBefore", dead) : t("fates.aliveBefore"), " ", t("fates.lastLoss", num(data.last[state.seed]))),
      el("div", { class: "two" }, el("figure", { class: "small" }, picture, el("figcaption", {}, t("fates.plane", state.seed))), el("figure", { class: "small wide" }, curve.root)),
      el("h4", {}, t("fates.answers")), facts([[0, 0], [0, 1], [1, 0], [1, 1]].map(([a, b], k) => [`${a} ⊕ ${b} → ${a ^ b}`, num(data.answers[state.seed][k])])));
    grid.again(), curve.again();
  };
  const number = el("input", { type: "number", min: 0, max: data.seeds - 1, value: state.seed, id: "seed", "aria-label": t("fates.seed"), onchange: () => show(Math.round(Number(number.value)) || 0) });
  const next = () => {
    const ok = (s) => state.only < 0 || data.fate[s] === state.only;
    for (let k = 1; k <= data.seeds; k++) if (ok((state.seed + k) % data.seeds)) return show((state.seed + k) % data.seeds);
  };
  const square = (k) => el("span", { class: `square f${k}` });
  const filter = choice({
    name: t("fates.filter"), value: state.only, kind: "fates", onchange: (k) => {
      state.only = k;
      if (k >= 0 && data.fate[state.seed] !== k) next();
      else grid.again();
    },
    options: [[-1, `${t("fates.all")} ${data.seeds}`], ...data.names.map((_, k) => [k, [square(k), `${t(`fates.${key(k)}`)} ${data.counts[k]}`]])],
  });
  clear(holder, grid.root);
  show(state.seed);
  return el("div", { class: "stage" }, filter.root, holder, el("div", { class: "row seed-row" }, el("label", {}, `${t("fates.seed")} `, number), button(t("fates.next"), next, { "data-do": "next" })), detail);
}

// The line on which a ReLU switches: w0 x + w1 y + b = 0.
function fold(w0, w1, b, { low, high }, at) {
  const points = [];
  const inside = (x, y) => (x >= low - 1e-9 && x <= high + 1e-9 && y >= low - 1e-9 && y <= high + 1e-9 ? points.push([x, y]) : 0);
  for (const v of [low, high]) {
    if (w1) inside(v, -(b + w0 * v) / w1);
    if (w0) inside(-(b + w1 * v) / w0, v);
  }
  if (points.length < 2) return svg("g");
  const [[x1, y1], [x2, y2]] = [at(...points[0]), at(...points[points.length - 1])];
  return svg("line", { x1, y1, x2, y2, class: "fold" });
}
