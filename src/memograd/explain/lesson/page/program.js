// Section 5: the recursion as it stands in the source, the program it leaves behind, and three witnesses.

import { clear, el } from "./dom.js";
import { num, rowsOf, shapeOf } from "./tensors.js";
import { rich, t } from "./words.js";

export function program(data, state) {
  state.line ??= data.lines.findIndex((l) => l.of);
  state.witness ??= 1;
  const about = el("div", { class: "about", role: "status" });
  const lines = data.lines.map((line, k) =>
    el("button", { type: "button", class: line.of ? "backward" : "forward", "aria-pressed": "false", onclick: () => show(k) }, line.text));
  const show = (k) => {
    state.line = k;
    lines.forEach((l, i) => l.setAttribute("aria-pressed", String(i === k)));
    const line = data.lines[k];
    clear(about, el("p", { class: "where" }, el("code", {}, line.name), " · ", line.of ? t("program.backwardLine", line.of) : t("program.forwardLine"),
      line.module ? ` · ${t("program.module", line.module)}` : "", ` · ${t("program.shape", shapeOf(line.value))}`), table(line.value, line.of ? "adjoint" : "value"));
  };
  show(state.line);
  const code = (title, inside) => el("figure", { class: "code-figure" }, el("figcaption", {}, title), inside);
  return el("div", { class: "stage" },
    el("div", { class: "codes" },
      code(t("program.recursion"), el("pre", { class: "code", tabindex: 0, role: "region", "aria-label": t("program.recursion") }, data.recursion)),
      code(t("program.left"), el("div", { class: "lines" }, lines))),
    about, witnesses(data, state));
}

function table(value, kind) {
  if (!value?.numbers) return null;
  return el("table", { class: `numbers ${kind}` }, el("tbody", {}, rowsOf(value).map((row) => el("tr", {}, row.map((x) => el("td", { title: String(x) }, num(x)))))));
}

function witnesses(data, state) {
  const product = el("div", { class: "paths", role: "status" });
  const most = Math.max(...data.witnesses.flatMap((w) => [Math.abs(w.ours - w.autograd), Math.abs(w.ours - w.differences)]));
  const rows = data.witnesses.map((w, k) => el("tr", {},
    el("th", { scope: "row" }, el("button", { type: "button", "aria-pressed": "false", onclick: () => show(k) }, w.name)),
    [w.ours, w.autograd, w.differences].map((x) => el("td", { title: String(x) }, x.toFixed(8).replace("-", "−")))));
  const show = (k) => {
    state.witness = k;
    rows.forEach((row, i) => {
      row.className = i === k ? "chosen" : "";
      row.querySelector("button").setAttribute("aria-pressed", String(i === k));
    });
    const w = data.witnesses[k];
    clear(product, el("h4", {}, t("program.product", w.name)), w.products.map((factors) => el("p", { class: "chips" },
      factors.map(([u, v, x], i) => [i ? el("span", { class: "times" }, "×") : null, el("span", { class: `chip ${x === 0 ? "zero" : ""}` }, el("span", { class: "of" }, `∂${u} / ∂${v}`), el("b", {}, num(x)))]),
      el("span", { class: "times" }, "="), el("span", { class: "chip result" }, el("b", {}, num(w.ours))))));
  };
  show(state.witness);
  const names = ["parameter", "ours", "autograd", "differences"];
  return [el("h3", {}, t("program.witnesses")), el("p", {}, rich("program.witnessText", { 0: most.toExponential(1).replace("e-", " · 10⁻").replace(/⁻(\d+)$/, (_, d) => `⁻${[...d].map((c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c]).join("")}`) })),
    el("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": t("program.witnesses") }, el("table", { class: "witnesses" },
      el("thead", {}, el("tr", {}, names.map((n) => el("th", { scope: "col" }, t(`program.${n}`))))), el("tbody", {}, rows))),
    product];
}
