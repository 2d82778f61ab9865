// Section 6, second half: a limit on memory is moved, and the planner's dynamic program says what is kept.

import { clear, el, svg } from "./dom.js";
import { dot, facts, line, plot, responsive, slider } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const ROW = 11;

export function keeping(data, state) {
  state.plan ??= Math.min(10, data.plans.length - 1);
  const numbers = el("div"), plan = () => data.plans[state.plan];
  const gantt = responsive((width) => lives(width, data, plan()), "gantt");
  const trade = responsive((width) => {
    const xs = data.plans.map((p) => p.peak / data.bytes), ys = data.plans.map((p) => p.runs);
    const frame = plot(width, 210, [0, Math.max(...xs) + 1], [0, Math.max(...ys) * 1.1], { label: t("keeping.curve"), xName: t("keeping.peak"), yName: t("keeping.runs") });
    frame.root.append(line(frame, xs, ys, "value"), ...xs.map((x, k) => dot(frame, x, ys[k], "value", 3)), dot(frame, xs[state.plan], ys[state.plan], "adjoint", 7));
    return frame.root;
  });
  const show = (k) => {
    state.plan = data.plans.length - 1 - k;
    const p = plan(), base = data.operators.length;
    clear(numbers, facts([[t("keeping.peak"), `${num(p.peak / 1024)} KiB`, "value"], [t("keeping.runs"), String(p.runs)], [t("keeping.again"), String(p.runs - base), "hit"]]));
    gantt.again(), trade.again();
  };
  const last = data.plans.length - 1;
  const handle = slider({ name: t("keeping.budget"), max: last, value: last - state.plan, text: (k) => String(data.plans[last - k].budget), oninput: show, id: "budget" });
  show(last - state.plan);
  const legend = el("p", { class: "legend" }, ["forward", "recomputed", "backward"].map((k) => el("span", { class: k }, t(`keeping.${k}`))));
  return el("div", { class: "stage" }, handle.root, numbers, el("figure", { class: "small" }, el("figcaption", {}, t("keeping.gantt")), gantt.root, legend),
    el("figure", { class: "small" }, el("figcaption", {}, t("keeping.curve")), trade.root));
}

// A row for each large value, a bar for each copy of it, and below how many are alive.
function lives(width, data, plan) {
  const large = data.sizes.flatMap((size, v) => (size >= data.bytes ? [v] : []));
  const row = new Map(large.map((v, k) => [v, k])), length = plan.runs;
  const left = 58, below = 84, height = large.length * ROW + below + 12;
  const x = (at) => left + (at / length) * (width - left - 6);
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": t("keeping.gantt") });
  const seen = new Set(), alive = new Array(length).fill(1); // the input is always there
  const maker = new Map(data.outputs.flatMap((values, operator) => values.map((v) => [v, operator])));
  for (const [value, start, end] of [...plan.lives].sort((a, b) => a[1] - b[1])) {
    if (!row.has(value)) continue;
    const again = seen.has(value), { of } = data.operators[maker.get(value)];
    seen.add(value);
    for (let at = start; at <= end; at++) alive[at] += 1;
    root.append(svg("rect", { x: x(start), y: 4 + row.get(value) * ROW, width: Math.max(2, x(end + 1) - x(start)), height: ROW - 3, rx: 2.5, class: `life ${again ? "recomputed" : of ? "backward" : "forward"}` },
      svg("title", {}, data.operators[maker.get(value)].label)));
  }
  const name = (k, text) => root.append(svg("text", { x: left - 6, y: 4 + k * ROW + 8, class: "tick end" }, text));
  const backward = large.findIndex((v) => data.operators[maker.get(v)].of);
  for (let k = 0; k < backward; k += k ? 4 : 3) name(k, `sin ${k + 1}`); // 1, 4, 8, ...
  name(backward, t("keeping.backward"));
  const base = height - 8, most = Math.max(data.plans[0].budget, ...alive), y = (n) => base - (n / most) * (below - 8);
  root.append(svg("path", { d: `M${x(0)},${base}${alive.map((n, at) => `L${x(at)},${y(n)}L${x(at + 1)},${y(n)}`).join("")}L${x(length)},${base}Z`, class: "profile" }));
  root.append(svg("line", { x1: x(0), x2: x(length), y1: y(plan.budget), y2: y(plan.budget), class: "limit" }));
  root.append(svg("text", { x: left - 5, y: y(plan.budget) + 4, class: "tick end" }, String(plan.budget)));
  return root;
}
