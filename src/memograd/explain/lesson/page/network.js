// The lecture's network as a drawing: two inputs, two hidden units, one answer, a number on every line.

import { svg } from "./dom.js";
import { num } from "./tensors.js";

// `numbers`: nine of them, in the order of the parameters, for the lines; `units`: texts of x, h and p; `lit`: what is
// lit up; `kind`: the colour of the numbers.
export function network(width, { numbers, units, lit, kind, label }) {
  const height = 290, narrow = width < 420;
  const xs = [narrow ? 30 : 50, width * 0.5, width - (narrow ? 34 : 56)];
  const places = { x0: [xs[0], 80], x1: [xs[0], 200], h0: [xs[1], 70], h1: [xs[1], 210], p: [xs[2], 140] };
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", class: "network", "aria-label": label });
  const edge = (from, to, k, along, dy = -6) => {
    const [a, b] = [places[from], places[to]], x = a[0] + (b[0] - a[0]) * along, y = a[1] + (b[1] - a[1]) * along;
    root.append(svg("line", { x1: a[0], y1: a[1], x2: b[0], y2: b[1], class: `edge ${lit.edges ? kind : ""}`, "stroke-width": 1 + Math.min(5, Math.abs(numbers[k]) * (kind === "adjoint" ? 8 : 0.8)) }));
    return svg("text", { x, y: y + dy, class: `on-edge ${kind}`, "data-parameter": k }, num(numbers[k]));
  };
  const texts = [edge("x0", "h0", 0, 0.5), edge("x1", "h0", 1, narrow ? 0.66 : 0.72, -4), edge("x0", "h1", 2, narrow ? 0.66 : 0.72, 14), edge("x1", "h1", 3, 0.5, 16), edge("h0", "p", 6, narrow ? 0.4 : 0.5), edge("h1", "p", 7, narrow ? 0.34 : 0.5, 18)];
  root.append(...texts);
  const unit = (name, text, parameter) => {
    const [x, y] = places[name], inner = name[0];
    root.append(svg("circle", { cx: x, cy: y, r: narrow ? 24 : 28, class: `unit ${lit.units?.includes(inner) ? "lit" : ""}` }), svg("text", { x, y: y + 5, class: "unit-text" }, text));
    if (parameter >= 0) {
      const below = name !== "h0";
      root.append(svg("text", { x, y: y + (below ? 46 : -36), class: `on-edge ${kind}`, "data-parameter": parameter }, `b = ${num(numbers[parameter])}`));
    }
  };
  unit("x0", units.x[0], -1), unit("x1", units.x[1], -1);
  unit("h0", units.h[0], 4), unit("h1", units.h[1], 5), unit("p", units.p, 8);
  return root;
}
