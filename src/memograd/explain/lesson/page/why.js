// Section 1: one weight is dragged, the loss draws a curve, the slope shows the way down.

import { clear, el, svg } from "./dom.js";
import { around, button, choice, dot, dragged, facts, line, plot, responsive, slider, steps, tangent } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const HEIGHT = 300;

export function why(data, state) {
  const half = (data.points - 1) / 2;
  state.weight ??= 1;
  state.at ??= half + 44;
  const name = (w) => `${w.name}[${w.index.join(",")}]`;
  const said = el("p", { class: "hint", role: "status" }), numbers = el("div");
  const weight = () => data.weights[state.weight];
  const value = (at) => weight().start + (data.reach * (at - half)) / half;
  let frame = null;

  const figure = responsive((width) => {
    const w = weight(), xs = steps(value(0), value(data.points - 1), data.points), at = state.at;
    frame = plot(width, HEIGHT, [xs[0], xs[xs.length - 1]], around(w.loss), { label: t("why.curve", { name: name(w) }), xName: name(w), yName: t("why.loss") });
    frame.root.append(
      svg("line", { x1: frame.x(w.start), x2: frame.x(w.start), y1: frame.y(around(w.loss)[0]), y2: frame.y(w.loss[half]), class: "mark" }),
      line(frame, xs, w.loss, "value"), tangent(frame, xs[at], w.loss[at], w.slope[at], Math.min(width * 0.5, 220), "adjoint"), dot(frame, xs[at], w.loss[at], "adjoint", 8));
    return frame.root;
  });
  const move = (at, text = "") => {
    state.at = Math.max(0, Math.min(data.points - 1, at));
    said.textContent = text;
    handle.set(state.at);
    figure.again();
    clear(numbers, facts([[name(weight()), num(value(state.at)), "value"], [t("why.loss"), num(weight().loss[state.at])], [t("why.slope"), num(weight().slope[state.at]), "adjoint"]]));
  };
  dragged(figure.root, (x) => (frame ? move(Math.round(half + ((frame.value(x) - weight().start) / data.reach) * half)) : null));
  const down = () => {
    const from = value(state.at), to = from - data.rate * weight().slope[state.at];
    const at = Math.max(0, Math.min(data.points - 1, Math.round(half + ((to - weight().start) / data.reach) * half)));
    move(at, at === state.at ? t("why.stay") : t("why.rule", { name: name(weight()), rate: data.rate, from: num(from), to: num(value(at)) }));
    if (at !== state.at) state.at = at;
  };
  const which = choice({ name: t("why.which"), options: data.weights.map((w, k) => [k, name(w)]), value: state.weight, kind: "code", onchange: (k) => ((state.weight = k), move(half)) });
  const handle = slider({ name: t("why.move"), max: data.points - 1, value: state.at, text: (at) => num(value(at)), oninput: (at) => move(at) });
  move(state.at);
  return el("div", { class: "stage" }, which.root, figure.root, handle.root, numbers,
    el("div", { class: "buttons" }, button(t("why.step"), down, { "data-do": "down" }), button(t("why.reset"), () => move(half))), said);
}
