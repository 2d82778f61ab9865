// The texts in the language that is chosen. `t` gives plain text, `rich` what has words that are stressed, code and
// formulas; numbers are filled in by position ({0}) or by name ({slope}).

import { el, math } from "./dom.js";

let words = {}, language = "en";

export function learn(all) {
  words = all;
}

export function speak(name) {
  language = name in words ? name : "en";
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
}

export function spoken() {
  return language;
}

// The text of a key, `section.name`; one without a section is among those that all share.
function find(key) {
  let text = key.includes(".") ? words[language] : words[language].common;
  for (const part of key.split(".")) text = text[part];
  return text;
}

function filled(text, values) {
  const named = values.length === 1 && typeof values[0] === "object" ? values[0] : values;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in named ? said(named[name]) : whole));
}

// Large whole numbers are easier to read in groups of three.
function said(value) {
  return Number.isInteger(value) && Math.abs(value) >= 10_000 ? value.toLocaleString("en") : String(value);
}

export function t(key, ...values) {
  const text = find(key);
  return filled(typeof text === "string" ? text : text.pieces.map(([kind, inside]) => (kind === "math" ? "" : inside)).join(""), values);
}

// Nodes of one text, or of each text of a list.
export function rich(key, values = {}) {
  const text = find(key);
  return Array.isArray(text) ? text.map((one) => pieces(one, values)) : pieces(text, values);
}

function pieces(text, values) {
  if (typeof text === "string") return [filled(text, [values])];
  return text.pieces.map(([kind, inside]) => {
    if (kind === "math") return math(inside);
    return kind === "text" ? filled(inside, [values]) : el(kind, {}, filled(inside, [values]));
  });
}

// Whether a text is a formula and nothing else, to be shown on a line of its own.
export function isFormula(key, index) {
  const text = find(key)[index];
  return typeof text !== "string" && text.pieces.length === 1 && text.pieces[0][0] === "math";
}
