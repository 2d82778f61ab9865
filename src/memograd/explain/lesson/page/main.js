// The lesson: sections with prose beside a figure, questions below, in the language and the light that are chosen.

import { asking } from "./asking.js";
import { chain } from "./chain.js";
import { digits } from "./digits.js";
import { clear, el } from "./dom.js";
import { epochs } from "./epochs.js";
import { fates } from "./fates.js";
import { percent } from "./figures.js";
import { icon } from "./icons.js";
import { keeping } from "./keeping.js";
import { pooling } from "./pooling.js";
import { program } from "./program.js";
import { quizOf, score } from "./quiz.js";
import { rungs } from "./rungs.js";
import { num } from "./tensors.js";
import { times } from "./times.js";
import { why } from "./why.js";
import { isFormula, learn, rich, speak, spoken, t } from "./words.js";

// Eight sections of one part or more: {key of the data, figure, texts, questions, numbers for the texts}.
const SECTIONS = [
  [{ key: "why", figure: why, values: ({ costs }) => ({ ...costs, tries: 2 * costs.parameters, cnnTries: 2 * costs.cnn }) }],
  [{ key: "chain", figure: chain }],
  [{ key: "steps", figure: epochs }],
  [{ key: "asking", figure: asking }],
  [{ key: "program", figure: program }],
  [{ key: "rungs", figure: rungs }, { key: "keeping", figure: keeping, values: (d) => ({ length: d.length, kib: d.bytes / 1024 }) }],
  [{ key: "digits", figure: digits, quiz: null, values: (d) => ({ ...d, accuracy: percent(d.accuracy) }) },
    { key: "digits", figure: pooling, title: "digits.poolTitle", text: "digits.poolText", quiz: "pooling", values: (d) => ({ of: d.pooling.of, passed: percent(d.pooling.passed, 2), sum: num(d.pooling.sums[1]) }) },
    { key: "times", figure: times, quiz: "time" }],
  [{ key: "fates", figure: fates, values: (d) => ({ ...d, learned: d.counts[0], failed: d.seeds - d.counts[0], before: d.deadBefore.filter(Boolean).length }) }],
];

const at = (id) => document.getElementById(id);

class LessonPage {
  constructor(data) {
    this.data = data;
    this.states = {};
    this.answered = {};
    learn(data.words);
    speak(data.lang);
    this.build();
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.build());
  }

  build() {
    document.title = `${t("page.title")} · memograd`;
    const built = SECTIONS.map((parts, k) => this.section(parts, k + 1));
    clear(at("top"), this.bar());
    clear(at("main"), this.opening(), built, this.closing());
    this.watch(built);
    this.scored();
  }

  bar() {
    const tool = (name, inside, onclick) => el("button", { type: "button", id: name, "aria-label": t(`page.${name}`), title: t(`page.${name}`), onclick }, inside);
    const links = SECTIONS.map(([{ key, title }], k) => el("a", { href: `#section-${k + 1}`, title: t(title ?? `${key}.title`), "aria-label": `${k + 1}. ${t(title ?? `${key}.title`)}` }, String(k + 1)));
    return [
      el("a", { href: "#opening", class: "brand" }, "memograd"),
      el("nav", { "aria-label": t("page.contents") }, links),
      el("div", { class: "tools" }, tool("language", t("page.language"), () => this.speak(spoken() === "zh" ? "en" : "zh")), tool("theme", icon("theme"), () => this.shade())),
    ];
  }

  opening() {
    return el("section", { id: "opening", "aria-labelledby": "title" },
      el("p", { class: "subtitle" }, t("page.subtitle")), el("h1", { id: "title" }, t("page.title")), el("p", { class: "lead" }, rich("page.lead")),
      el("ol", { class: "contents" }, SECTIONS.map(([{ key }], k) => el("li", {}, el("a", { href: `#section-${k + 1}` }, t(`${key}.title`))))));
  }

  section(parts, number) {
    const id = `section-${number}`;
    return el("section", { id, "aria-labelledby": `${id}-title` }, parts.map((part, k) => this.part(part, k, id, number)));
  }

  part({ key, figure, title = `${key}.title`, text = `${key}.text`, quiz = key, values = (d) => d }, k, id, number) {
    const data = this.data[key], numbers = values(data);
    const state = (this.states[key] ??= {});
    const heading = k ? el("h3", {}, t(title)) : el("h2", { id: `${id}-title` }, el("span", { class: "number" }, String(number)), t(title));
    const all = rich(text, numbers), paragraphs = Array.isArray(all[0]) ? all : [all];
    const prose = el("div", { class: "prose" }, heading, paragraphs.map((p, i) => el("p", { class: paragraphs === all && isFormula(text, i) ? "formula" : null }, p)));
    const question = quiz ? quizOf(quiz, this.data.quiz[quiz], this.answered, () => this.scored()) : null;
    const beside = el("div", { class: "beside" }, prose, question);
    return el("div", { class: "part" }, beside, el("div", { class: "touch" }, figure(data, state)));
  }

  closing() {
    return el("section", { id: "closing", "aria-label": t("quiz.title") }, el("p", { id: "score", role: "status" }), el("p", { class: "hint" }, rich("fates.end")));
  }

  scored() {
    at("score").textContent = score(this.data.quiz, this.answered);
  }

  // The section that is read is marked above.
  watch(sections) {
    const links = [...at("top").querySelectorAll("nav a")];
    this.watching?.disconnect();
    this.watching = new IntersectionObserver((entries) => {
      for (const { target, isIntersecting } of entries) {
        if (!isIntersecting) continue;
        links.forEach((link) => (link.getAttribute("href") === `#${target.id}` ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current")));
      }
    }, { rootMargin: "-20% 0px -70% 0px" });
    sections.forEach((section) => this.watching.observe(section));
  }

  speak(language) {
    const section = at("top").querySelector('[aria-current="true"]')?.getAttribute("href");
    speak(language);
    this.build();
    if (section) document.querySelector(section).scrollIntoView({ behavior: "instant" });
    at("language").focus({ preventScroll: true });
  }

  shade() {
    const root = document.documentElement;
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    const top = scrollY;
    this.build();
    scrollTo({ top, behavior: "instant" });
    at("theme").focus({ preventScroll: true });
  }
}

document.addEventListener("DOMContentLoaded", () => {
  window.lesson = new LessonPage(JSON.parse(at("data").textContent));
});
