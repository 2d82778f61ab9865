// Icons, drawn as lines on a grid of 24.

import { svg } from "./dom.js";

const PATHS = {
  find: ["M10.5 4a6.5 6.5 0 1 0 0 13a6.5 6.5 0 1 0 0-13z", "M15.5 15.5L20 20"],
  turn: ["M4 12h15", "M15 8l4 4-4 4", "M4 5v14"],
  fit: ["M4 9V4h5", "M15 4h5v5", "M20 15v5h-5", "M9 20H4v-5"],
  all: ["M4 6h7v5H4z", "M4 15h7v4H4z", "M15 8h5", "M17.500 5.500v5", "M15 17h5"],
  theme: ["M12 4a8 8 0 1 0 0 16z*", "M12 4a8 8 0 0 1 0 16"],
  print: ["M7 9V4h10v5", "M5 9h14v7h-3", "M8 16H5V9", "M8 13h8v7H8z"],
  first: ["M6 5v14", "M18 5L9 12l9 7z*"],
  back: ["M16 5L7 12l9 7z*"],
  play: ["M7 4l12 8-12 8z*"],
  pause: ["M7 5h3v14H7z*", "M14 5h3v14h-3z*"],
  forward: ["M8 5l9 7-9 7z*"],
  last: ["M18 5v14", "M6 5l9 7-9 7z*"],
};

export function icon(name) {
  const lines = PATHS[name].map((d) => svg("path", { d: d.replace("*", ""), class: d.endsWith("*") ? "solid" : null }));
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true" }, lines);
}
