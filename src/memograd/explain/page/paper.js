// What is printed besides the picture: every node with its value and its adjoint.

import { clear, el } from "./dom.js";
import { brief } from "./tensors.js";
import { t } from "./words.js";

const MOST = 2000;

export function paper(root, data) {
  const head = el("tr", {}, [t("node"), t("module"), t("value"), t("adjoint")].map((name) => el("th", { scope: "col" }, name)));
  const rows = data.nodes.slice(0, MOST).map((n) =>
    el("tr", {}, el("td", {}, n.label), el("td", {}, n.module ?? n.kind), el("td", {}, brief(n.value, 60)), el("td", {}, n.adjoint ? brief(n.adjoint, 60) : "")));
  clear(root, el("h2", {}, t("table")), el("table", {}, el("thead", {}, head), el("tbody", {}, rows)));
}
