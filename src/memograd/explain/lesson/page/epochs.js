// Section 3: a recorded run on XOR, epoch by epoch, and the four steps of each.

import { clear, el, svg } from "./dom.js";
import { around, between, bytes, cells, choice, dot, facts, line, plot, responsive, slider } from "./figures.js";
import { icon } from "./icons.js";
import { network } from "./network.js";
import { num } from "./tensors.js";
import { t } from "./words.js";

const SAMPLES = [[0, 0], [0, 1], [1, 0], [1, 1]];
const KINDS = ["value", "value", "adjoint", "update"];

// A plane of answers with the four samples on it; `lines`: more to draw, given a function that places points.
export function planeFigure(run, text, { label, size, chosen = -1, lines = () => [] }) {
  const levels = bytes(text);
  const canvas = cells(run.cells, run.cells, (i) => levels[i] / 255, between, { label, kind: "smooth" });
  const place = (v) => ((v - run.low) / (run.high - run.low)) * 100;
  const over = svg("svg", { viewBox: "0 0 100 100", class: "over", "aria-hidden": "true" }, lines((x, y) => [place(x), 100 - place(y)]));
  SAMPLES.forEach(([a, b], k) => {
    const one = a !== b;
    over.append(svg("circle", { cx: place(a), cy: 100 - place(b), r: k === chosen ? 5.4 : 4, class: `sample ${one ? "one" : "zero"} ${k === chosen ? "chosen" : ""}` }));
    over.append(svg("text", { x: place(a), y: 100 - place(b) + 1.9, class: `sample-text ${one ? "one" : "zero"}` }, one ? "1" : "0"));
  });
  const figure = el("div", { class: "plane" }, canvas, over);
  if (size) figure.style.setProperty("width", `${size}px`);
  return figure;
}

export function epochs(data, state) {
  state.frame ??= 0;
  state.act ??= 0;
  state.sample ??= 1;
  const plane = el("div"), said = el("p", { class: "said-act", role: "status" });
  const frame = () => data.frames[state.frame];
  const log = (epoch) => Math.log10(epoch + 1);
  const curve = responsive((width) => {
    const xs = data.frames.map((f) => log(f.epoch)), ys = data.frames.map((f) => f.loss);
    const drawn = plot(width, 250, [0, log(data.epochs)], [0, around(ys)[1]], { label: t("steps.curve"), yName: t("steps.loss"), xName: t("steps.epoch"), powers: [true, false], left: 40 });
    drawn.root.append(line(drawn, xs, ys, "value"), dot(drawn, xs[state.frame], ys[state.frame], "adjoint", 6));
    return drawn.root;
  });
  const drawn = responsive((width) => {
    const f = frame(), s = state.sample, act = state.act;
    const numbers = [f.weights, f.weights, f.gradients, f.after][act];
    return network(width, {
      numbers, kind: KINDS[act], label: t("steps.network"), lit: { edges: act >= 2, units: act === 0 ? "xhp" : act === 1 ? "p" : "" },
      units: { x: SAMPLES[s].map(String), h: f.hidden[s].map((v) => short(v)), p: short(f.answers[s]) },
    });
  });
  const sentence = () => {
    const f = frame(), s = state.sample;
    const values = { a: SAMPLES[s][0], b: SAMPLES[s][1], h: f.hidden[s].map(num).join(", "), p: num(f.answers[s]), y: data.targets[s], each: num(f.each[s]), loss: num(f.loss), rate: data.rate };
    return t(`steps.said${state.act + 1}`, values);
  };
  const numbers = el("div");
  const show = () => {
    const f = frame();
    clear(plane, planeFigure(data, f.plane, { label: t("steps.plane"), chosen: state.sample }));
    said.textContent = sentence();
    said.className = `said-act ${KINDS[state.act]}`;
    clear(numbers, facts([[t("steps.epoch"), String(f.epoch)], [t("steps.loss"), num(f.loss), "value"], ...f.answers.map((a, k) => [`${SAMPLES[k].join(" ⊕ ")} → ${data.targets[k]}`, num(a)])]));
    curve.again(), drawn.again();
  };
  const go = (k) => {
    state.frame = k;
    handle.set(k);
    show();
  };
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    clear(play, icon("play"), " ", t("steps.play"));
  };
  const toggle = () => {
    if (timer) return stop();
    if (state.frame === data.frames.length - 1) go(0);
    clear(play, icon("pause"), " ", t("steps.pause"));
    timer = setInterval(() => {
      if (!play.isConnected || state.frame === data.frames.length - 1) return stop();
      go(state.frame + 1);
    }, 140);
  };
  const play = el("button", { type: "button", class: "do", onclick: toggle }, icon("play"), " ", t("steps.play"));
  const handle = slider({ name: t("steps.epoch"), max: data.frames.length - 1, value: state.frame, text: (k) => String(data.frames[k].epoch), oninput: go, id: "epoch" });
  const acts = choice({ name: t("steps.acts"), options: [0, 1, 2, 3].map((k) => [k, t(`steps.act${k + 1}`)]), value: state.act, kind: "acts", onchange: (k) => ((state.act = k), show()) });
  const samples = choice({ name: t("steps.sample"), options: SAMPLES.map((s, k) => [k, `${s.join(" ⊕ ")} = ${data.targets[k]}`]), value: state.sample, kind: "code", onchange: (k) => ((state.sample = k), show()) });
  show();
  return el("div", { class: "stage" }, el("div", { class: "row" }, handle.root, play), numbers,
    el("div", { class: "two" }, el("figure", { class: "small" }, plane, el("figcaption", {}, t("steps.plane"))), el("figure", { class: "small wide" }, curve.root, el("figcaption", {}, t("steps.curve")))),
    acts.root, said, samples.root, drawn.root);
}

function short(v) {
  return v === 0 ? "0" : v.toFixed(2).replace("-", "−");
}
