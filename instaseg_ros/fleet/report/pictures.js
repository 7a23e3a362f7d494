"use strict";
const SVG = "http://www.w3.org/2000/svg";

// An element of HTML, or with `svg` of SVG; children are elements or text.
function make(tag, attributes = {}, children = [], svg = false) {
  const one = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) one.setAttribute(name, value);
  one.append(...children);
  return one;
}
const draw = (tag, attributes, children) => make(tag, attributes, children, true);

// The photograph of a kept picture with the outlines of some of its objects.
function photograph(picture, objects) {
  const [width, height] = picture.size;
  const image = { href: "data:image/jpeg;base64," + picture.jpeg, x: -0.5, y: -0.5, width, height };
  const svg = draw("svg", { viewBox: `-0.5 -0.5 ${width} ${height}` }, [draw("image", image)]);
  for (const one of objects) {
    svg.append(draw("path", { d: one.path, class: one.verdict, "data-id": one.id }));
  }
  const taken = []; // places of the names so far
  for (const one of objects) {
    if (one.verdict !== "missed" && one.verdict !== "wrong") continue;
    const [x, top] = one.path.slice(1).split(/[lhz ]/).map(Number);
    const free = (y) => !taken.some((t) => Math.abs(t.x - x) < 80 && Math.abs(t.y - y) < 13);
    const y = [-3, -16, -29].map((step) => Math.max(12, top + step)).find(free);
    if (y === undefined) continue; // tapping tells it
    taken.push({ x, y });
    const anchor = x > width * 0.8 ? "end" : "start"; // so that it stays inside
    svg.append(draw("text", { x, y, "text-anchor": anchor }, [named(one)]));
  }
  return svg;
}

function named(one) {
  return one.class + (one.score === undefined ? "" : " " + one.score.toFixed(2));
}

// What is known of an object, for the line below its picture.
function described(one) {
  const parts = [`${named(one)}, ${one.verdict ?? "class not evaluated"}`, `id ${one.id}`];
  if (one.partner !== null) parts.push(`matched with id ${one.partner}`);
  if (one.iou !== undefined) parts.push(`IoU ${one.iou.toFixed(2)}`);
  return parts.join(", ");
}

// Pictures of a frame beside each other; tapping an object tells about it, and shows its match.
// sides: [title, picture, objects], the truth first; partners of the others are in it.
function sideBySide(sides) {
  const box = make("div", { class: "sides" });
  const figures = sides.map(([title, picture, objects]) => {
    const caption = make("figcaption", {}, [title]);
    const svg = photograph(picture, objects);
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${title}: ${objects.map(named).join(", ") || "no object"}`);
    box.append(make("figure", { class: "side" }, [svg, caption]));
    return { title, objects, svg, caption };
  });
  const tell = (figure, id) => {
    const tapped = figure.objects.find((o) => o.id === id);
    const truth = figure === figures[0] ? id : tapped.partner;
    for (const one of figures) {
      const object = one === figure ? tapped : one.objects.find((o) => truth !== null &&
        (one === figures[0] ? o.id : o.partner) === truth);
      for (const path of one.svg.querySelectorAll("path")) {
        path.classList.toggle("told", object !== undefined && Number(path.dataset.id) === object.id);
      }
      one.caption.textContent = one.title + (object ? ": " + described(object) : "");
    }
  };
  for (const figure of figures) {
    figure.svg.addEventListener("click", (event) => {
      const path = event.target.closest("path");
      if (path) tell(figure, Number(path.dataset.id));
    });
  }
  return box;
}

// Whether a key is for the page, not for the browser or a field.
const isOurs = (event) => !(event.ctrlKey || event.metaKey || event.altKey ||
  event.target.matches("select"));

// The box and the key that hide all outlines.
function switchOutlines() {
  const box = document.getElementById("outlines");
  if (!box) return;
  box.addEventListener("change", () => document.body.classList.toggle("bare", !box.checked));
  document.addEventListener("keydown", (event) => {
    if (event.key === "o" && isOurs(event)) box.click();
  });
}
