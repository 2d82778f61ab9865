// Section 7: a digit, what the network says of it, and what the loss would have each pixel do.

import { clear, el } from "./dom.js";
import { bytes, cells, choice, ink, percent, signed } from "./figures.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const SIDE = 28, PIXELS = SIDE * SIDE;

export function digits(data, state) {
  state.digit ??= 3;
  state.target ??= 3;
  state.changed = [];
  const pixels = bytes(data.pixels), adjoints = bytes(data.adjoints);
  const pixel = (d) => (i) => pixels[d * PIXELS + i] / 255;
  const thumb = (d) => cells(SIDE, SIDE, pixel(d), ink, { label: "", kind: "thumb" });
  const pictures = el("div", { class: "two" }), answers = el("div", { class: "guesses" });
  const show = () => {
    const { digit, target } = state, at = (digit * 10 + target) * PIXELS;
    const part = (canvas, caption) => el("figure", { class: "small" }, canvas, el("figcaption", {}, caption));
    clear(pictures,
      part(cells(SIDE, SIDE, pixel(digit), ink, { label: t("digits.image", digit), kind: "large" }), t("digits.image", digit)),
      part(cells(SIDE, SIDE, (i) => adjoints[at + i] / 127 - 1, signed, { label: t("digits.adjoint"), kind: "large" }), `${t("digits.adjoint")} · ${t("digits.limit", num(data.limits[digit][target]))}`));
    clear(answers, el("h4", {}, t("digits.probability")), data.answers[digit].map((p, c) => {
      const bar = el("span", { class: "fill" });
      bar.style.setProperty("--share", p);
      return el("div", { class: `guess ${c === digit ? "true" : ""}` }, el("span", {}, String(c)), el("span", { class: "track" }, bar), el("span", { class: "percent" }, percent(p)));
    }));
    state.changed.forEach((f) => f());
  };
  const ten = [...Array(10).keys()];
  const which = choice({ name: t("digits.digit"), options: ten.map((d) => [d, thumb(d)]), labels: ten.map((d) => t("digits.image", d)), value: state.digit, kind: "thumbs", onchange: (d) => {
    state.digit = state.target = d;
    target.set(d);
    show();
  } });
  const target = choice({ name: t("digits.target"), options: ten.map((d) => [d, String(d)]), value: state.target, kind: "code", onchange: (d) => ((state.target = d), show()) });
  show();
  return el("div", { class: "stage" }, which.root, target.root, el("div", { class: "two wide-first" }, pictures, answers));
}
