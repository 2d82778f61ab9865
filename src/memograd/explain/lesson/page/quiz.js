// A question with several answers; which one is right was computed with the page.

import { clear, el } from "./dom.js";
import { num } from "./tensors.js";
import { rich, t } from "./words.js";

// `answered` holds what has been chosen so far, by question; `changed()` is called after each answer.
export function quizOf(name, question, answered, changed) {
  const values = Object.fromEntries(Object.entries(question.values).map(([key, v]) => [key, shown(v)]));
  const said = el("p", { class: "said", role: "status" });
  const text = (option) => {
    if (question.kind === "word") return t(`quiz.${name}.${option}`);
    return question.kind === "word of another" ? t(option) : shown(option);
  };
  const buttons = question.options.map((option, k) =>
    el("button", { type: "button", class: "option", "data-right": String(k === question.right), onclick: () => choose(k) }, text(option)));
  const paint = () => {
    const k = answered[name];
    if (k === undefined) return;
    const right = k === question.right;
    buttons.forEach((b, i) => {
      b.classList.toggle("right", right && i === k);
      b.classList.toggle("wrong", !right && i === k);
      b.setAttribute("aria-pressed", String(i === k));
    });
    said.className = `said ${right ? "right" : "wrong"}`;
    clear(said, el("strong", {}, t(right ? "quiz.right" : "quiz.wrong")), right ? [" ", rich(`quiz.${name}.because`, values)] : null);
  };
  const choose = (k) => {
    answered[name] = k;
    paint();
    changed();
  };
  const root = el("div", { class: "quiz", "data-quiz": name, role: "group", "aria-label": t("quiz.title") },
    el("p", { class: "ask" }, el("strong", {}, t("quiz.title")), " ", rich(`quiz.${name}.ask`, values)), el("div", { class: "options" }, buttons), said);
  paint();
  return root;
}

function shown(value) {
  return typeof value === "number" ? num(value).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "") : value;
}

export function score(questions, answered) {
  const right = Object.entries(answered).filter(([name, k]) => questions[name].right === k).length;
  return t("quiz.score", { right, all: Object.keys(questions).length });
}
