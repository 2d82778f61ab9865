// Elements, made one by one: text is only ever set as text, so nothing that a user wrote can become markup.

const SVG = "http://www.w3.org/2000/svg";
const MATH = "http://www.w3.org/1998/Math/MathML";
const TAGS = new Set(["mrow", "mi", "mn", "mo", "mtext", "msup", "msub", "mover", "mfrac"]);

export function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  for (const child of children.flat(3)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
  return element;
}

export function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

// A tree of [tag, text or children] as MathML; `swap` may put something else in the place of a part.
export function math(tree, swap = () => null) {
  const root = document.createElementNS(MATH, "math");
  root.setAttribute("display", "inline");
  root.append(mathPart(tree, swap));
  return root;
}

export function mathPart(tree, swap) {
  const swapped = swap(tree);
  if (swapped) return swapped;
  const [tag, inside] = tree;
  const element = document.createElementNS(MATH, TAGS.has(tag) ? tag : "mtext");
  if (typeof inside === "string") element.append(tag === "mtext" ? inside.replaceAll(" ", "\u00a0") : inside);
  else element.append(...inside.map((part) => mathPart(part, swap)));
  if (tag === "mo" && (inside === "¯" || inside === "^")) element.setAttribute("stretchy", "false");
  return element;
}

// A matrix of texts in brackets.
export function mathMatrix(rows, kind) {
  const make = (tag, ...children) => {
    const element = document.createElementNS(MATH, tag);
    element.append(...children);
    return element;
  };
  const cells = (row) => row.map((text) => make("mtd", make("mn", text)));
  const whole =
    rows.length === 1 && rows[0].length === 1
      ? make("mrow", make("mo", "("), make("mn", rows[0][0]), make("mo", ")")) // 2 x is not to become 20.5
      : make("mrow", make("mo", "["), make("mtable", ...rows.map((r) => make("mtr", ...cells(r)))), make("mo", "]"));
  whole.setAttribute("class", kind);
  return whole;
}

export function clear(element, ...children) {
  element.replaceChildren();
  return fill(element, {}, children);
}
