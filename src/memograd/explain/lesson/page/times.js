// Section 7: a gradient on its way back through 28 time steps, as a product of factors.

import { clear, el, svg } from "./dom.js";
import { choice, plot, responsive, slider } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const NETWORKS = ["linear", "tanh", "rnn", "lstm"];

export function times(data, state) {
  state.network ??= "linear";
  state.settings ??= { linear: 4, tanh: 5, rnn: 5, lstm: 4 };
  state.t ??= 1;
  const said = el("p", { class: "product-line", role: "status" }), factors = el("p", { class: "chips small" }), holder = el("div");
  const current = () => data[state.network], setting = () => state.settings[state.network];
  const bars = responsive((width) => {
    const sizes = current().sizes[setting()], logs = sizes.map((s) => Math.log10(Math.abs(s)));
    const low = Math.floor(Math.min(...logs, -2)), high = Math.ceil(Math.max(...logs, 1));
    const frame = plot(width, 280, [0.4, data.steps + 0.6], [low, high], { label: t("times.bars"), xName: t("times.t"), powers: [false, true] });
    const wide = Math.max(2, frame.x(1.72) - frame.x(1));
    logs.forEach((v, k) => {
      const base = frame.y(low);
      frame.root.append(svg("rect", { x: frame.x(k + 1) - wide / 2, y: frame.y(v), width: wide, height: Math.max(1, base - frame.y(v)), rx: 2, class: `bar time ${k + 1 === state.t ? "here" : k + 1 > state.t ? "walked" : ""}` }, svg("title", {}, num(sizes[k]))));
    });
    return frame.root;
  });
  const show = () => {
    bars.again();
    const all = current().factors[setting()], used = all.slice(state.t - 1).reverse();
    const product = current().sizes[setting()][state.t - 1] / current().sizes[setting()][data.steps - 1];
    said.textContent = t("times.product", state.t, used.length, num(product));
    said.setAttribute("data-product", product);
    clear(factors, used.length ? [el("span", { class: "name" }, t("times.factors")), used.map((f, k) => el("span", { class: "chip" }, el("span", { class: "of" }, `f_${data.steps - k}`), el("b", {}, num(f))))] : null);
  };
  const handle = () => {
    const lstm = state.network === "lstm";
    return slider({ name: t(lstm ? "times.bias" : "times.weight"), max: current().settings.length - 1, value: setting(), text: (k) => String(current().settings[k]).replace("-", "−"), id: "setting", oninput: (k) => ((state.settings[state.network] = k), show()) }).root;
  };
  const back = slider({ name: t("times.step"), min: 1, max: data.steps, value: state.t, text: String, id: "time", oninput: (v) => ((state.t = v), show()) });
  const which = choice({ name: t("times.network"), options: NETWORKS.map((n) => [n, t(`times.${n}`, data.hidden)]), value: state.network, onchange: (n) => {
    state.network = n;
    clear(holder, handle());
    show();
  } });
  clear(holder, handle());
  show();
  return el("div", { class: "stage" }, which.root, holder, el("figure", { class: "small" }, bars.root, el("figcaption", {}, t("times.bars"))), back.root, said, factors);
}
