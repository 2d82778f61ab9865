// Search over names of operators, parameters and modules.

import { clear, el } from "./dom.js";
import { t } from "./words.js";

const MOST = 40;

export function openSearch(dialog, view, node, folder) {
  const results = el("ul", { class: "results" });
  const field = el("input", { type: "search", "aria-label": t("search"), placeholder: t("searchHint"), oninput: () => find(), autocomplete: "off", spellcheck: "false" });
  const pick = (action) => {
    dialog.close();
    action();
  };
  const entry = (name, where, action) =>
    el("li", {}, el("button", { type: "button", onclick: () => pick(action) }, el("b", {}, name), " ", el("span", { class: "hint" }, where)));
  const find = () => {
    const wanted = field.value.trim().toLowerCase();
    const hits = [];
    view.folders.forEach((f, i) => {
      if (f.kind !== "run" && f.path.toLowerCase().includes(wanted)) hits.push([f.path.length, () => entry(f.path + (f.call > 0 ? ` · ${f.call + 1}` : ""), t("module"), () => folder(i))]);
    });
    view.nodes.forEach((n, i) => {
      const text = `${n.label} ${n.name} ${n.op ?? ""} ${n.module ?? ""}`.toLowerCase();
      if (text.includes(wanted)) hits.push([n.label.toLowerCase().includes(wanted) ? n.label.length : 1000, () => entry(n.label, n.module ?? n.kind, () => node(i))]);
    });
    hits.sort((a, b) => a[0] - b[0]);
    clear(results, hits.slice(0, MOST).map(([, make]) => make()), hits.length ? null : el("li", { class: "hint" }, t("nothing")),
      hits.length > MOST ? el("li", { class: "hint" }, t("more", hits.length - MOST)) : null);
  };
  field.addEventListener("keydown", (event) => {
    if (event.key === "Enter") (event.preventDefault(), results.querySelector("button")?.click());
    if (event.key === "ArrowDown") (event.preventDefault(), results.querySelector("button")?.focus());
  });
  clear(dialog, el("form", { method: "dialog" }, field), results);
  dialog.setAttribute("aria-label", t("search"));
  dialog.onclick = (event) => event.target === dialog && dialog.close();
  find();
  dialog.showModal();
  field.focus();
}
