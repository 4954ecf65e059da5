
"use strict";
const { collections, notes } = JSON.parse(document.getElementById("data").textContent);
const PART = 40;  // concepts that are drawn at a time
const STEPS = { ArrowLeft: -1, ArrowRight: 1 };
const get = (id) => document.getElementById(id);
let current, shown, drawn, visible, ends, here;

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

for (const collection of collections) {
  collection.concepts = collection.concepts.map(([name, of]) => ({ name, of, images: [], captions: [], place: 0 }));
  collection.images.forEach((image) => {
    const concept = collection.concepts[image.concept];
    concept.images.push(Object.assign(image, { concept }));
    for (const [kind, text, places] of image.captions ?? []) {
      concept.captions.push([kind, text]);
      const [method, place] = places.at(-1) ?? [concept.method, 0];  // by the most complete one
      Object.assign(concept, { method, place: Math.max(concept.place, place) });
    }
  });
  for (const concept of collection.concepts) {
    concept.words = [concept.name, concept.of, ...concept.captions.map(([, text]) => text)].join("\n").toLowerCase();
  }
  const gallery = collection.images.filter((image) => image.role === "evaluation" && image.point).length;
  collection.total = gallery ? ` of ${gallery.toLocaleString("en")}` : "";
  collection.classes = [...new Set(collection.concepts.map((concept) => concept.of))].sort();
}

function colour(of) {
  const number = current.classes.indexOf(of);
  return `hsl(${(number * 137.5) % 360} 70% ${number % 2 ? 68 : 50}%)`;
}

const describe = (image) => `${image.concept.name}, ${image.role}`;
const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;

function draw(image) {
  if (!image.file) return make("span", { className: "nothing", textContent: image.fault });
  const [width, height] = image.size;
  const source = { src: `images/${image.file}`, alt: describe(image), width, height, loading: "lazy" };
  const picture = make("span", { className: "picture" }, make("img", source));
  picture.style.setProperty("--width", width);
  picture.style.setProperty("--ratio", width / height);
  if (image.mask) picture.append(make("img", { className: "over mask", src: `images/${image.mask}`, alt: "" }));
  if (image.box) {
    const box = make("span", { className: "over box" });
    ["left", "top", "width", "height"].forEach((side, n) => { box.style[side] = `${image.box[n]}%`; });
    picture.append(box);
  }
  return picture;
}

function press(image, ...more) {
  const facts = { type: "button", className: image.role, title: describe(image) };
  const button = make("button", facts, draw(image), ...more);
  button.addEventListener("click", () => open(image));
  return button;
}

function filter() {
  const words = get("text").value.toLowerCase().split(/\s+/), of = get("class").value, role = get("role").value;
  const order = get("order").value;
  shown = current.concepts
    .filter((concept) => (!of || concept.of === of) && words.every((word) => concept.words.includes(word)))
    .map((concept) => [concept, concept.images.filter((image) => !role || image.role === role)])
    .filter(([, images]) => images.length);
  if (order !== "name") shown.sort(([a], [b]) => (order === "hard" ? b.place - a.place : a.place - b.place));
  visible = new Set(shown.flatMap(([, images]) => images));
  const concepts = `${shown.length} of ${count(current.concepts.length, "concept")}`;
  get("count").textContent = `${concepts}, ${count(visible.size, "image")}`;
  for (const button of get("legend").children) button.ariaPressed = button.textContent === of;
  drawn = 0;
  get("concepts").replaceChildren();
  extend();
  fit();
  point(null);
}

function extend() {
  get("more")?.remove();
  const cards = shown.slice(drawn, (drawn += PART)).map(([concept, images]) => {
    const captions = concept.captions.filter(([kind]) => kind === concept.captions[0][0]);
    const worst = `, worst place ${concept.place.toLocaleString("en")}${current.total} by ${concept.method}`;
    return make("article", {},
      make("h2", { textContent: concept.name }), make("p", { className: "dim", textContent: concept.of + (concept.place ? worst : "") }),
      ...captions.map(([, text]) => make("p", {}, text)),
      make("div", { className: "strip" }, ...images.map((image) => press(image))));
  });
  get("concepts").append(...cards);
  if (drawn >= shown.length) return;
  const more = make("button", { id: "more", type: "button", textContent: "More concepts" });
  more.addEventListener("click", extend);
  get("concepts").append(more);
  new IntersectionObserver(([entry]) => entry.isIntersecting && extend()).observe(more);
}

function open(image, focus = 0) {
  const step = (by) => {
    const images = [...visible], at = images.indexOf(image);
    open(images[(at + by + images.length) % images.length], by > 0 ? 1 : 0);
  };
  const dialog = get("detail");
  const act = (textContent, work) => {
    const button = make("button", { type: "button", textContent });
    button.addEventListener("click", work);
    return button;
  };
  const facts = [["image", image.path], ["class", image.concept.of], ["role", image.role]];
  for (const [kind, text, places] of image.captions ?? []) {
    facts.push([`${kind} caption`, text]);
    const found = places.map(([method, place]) => `${place} by ${method}`);
    if (found.length) facts.push([`place${current.total}`, found.join("; ")]);
  }
  const near = (image.near ?? []).map(([number, cosine]) => {
    const other = current.images[number];
    const name = other.concept === image.concept ? "same concept" : other.concept.name;
    return press(other, make("br"), `${cosine.toFixed(3)} ${name}, ${other.role}`);
  });
  const bar = [act("← Previous", () => step(-1)), act("Next →", () => step(1))];
  if (image.box) bar.push(Object.assign(act("Boxes and masks", toggle), { ariaPressed: boxes() }));
  dialog.replaceChildren(
    make("div", { className: "bar" }, ...bar, act("Close", () => dialog.close())),
    make("h2", { id: "name", textContent: image.concept.name }),
    make("div", { className: "large" }, draw(image)),
    make("dl", {}, ...facts.flatMap(([term, text]) => [make("dt", {}, term), make("dd", {}, text)])),
    ...(near.length ? [make("h2", {}, "Nearest by cosine"), make("div", { className: "near" }, ...near)] : []));
  dialog.onkeydown = ({ key }) => { if (key in STEPS) step(STEPS[key]); };
  if (!dialog.open) dialog.showModal();
  dialog.querySelectorAll("button")[focus].focus();
  dialog.scrollTop = 0;
}

const boxes = () => document.body.classList.contains("boxes");
function toggle() {
  document.body.classList.toggle("boxes");
  document.querySelectorAll("[data-boxes], .bar [aria-pressed]").forEach((button) => { button.ariaPressed = boxes(); });
}

const points = () => current.images.filter((image) => image.point);
function fit() {  // the map to what is visible
  const front = points().filter((image) => visible.has(image));
  const axes = [0, 1].map((axis) => front.map((image) => image.point[axis]));
  ends = axes.map((values) => [Math.min(...values), Math.max(...values)]);
}

function place(image) {
  const { clientWidth: width, clientHeight: height } = get("canvas");
  const [x, y] = image.point.map((value, axis) => (value - ends[axis][0]) / (ends[axis][1] - ends[axis][0] || 1));
  return [12 + x * (width - 24), height - 12 - y * (height - 24)];
}

function drawMap() {
  if (get("map").hidden) return;
  const canvas = get("canvas"), scale = devicePixelRatio, pen = canvas.getContext("2d");
  canvas.width = canvas.clientWidth * scale;
  canvas.height = canvas.clientHeight * scale;
  pen.scale(scale, scale);
  const ink = getComputedStyle(canvas).color;
  for (const front of [false, true]) {
    for (const image of points().filter((image) => visible.has(image) === front)) {
      pen.globalAlpha = front ? 0.85 : 0.15;
      pen.fillStyle = front ? colour(image.concept.of) : ink;
      pen.beginPath();
      pen.arc(...place(image), image.role === "evaluation" ? 5 : 3, 0, 2 * Math.PI);
      pen.fill();
      pen.strokeStyle = ink;
      if (image.role === "evaluation" || image === here) pen.stroke();
    }
  }
}

function point(image) {
  here = image;
  get("here").textContent = image ? `${describe(image)}, ${image.concept.of}` : "";
  get("hover").hidden = !image;
  drawMap();
  if (!image) return;
  get("hover").replaceChildren(draw(image), make("figcaption", {}, get("here").textContent));
  const [x, y] = place(image), { clientWidth: width, clientHeight: height } = get("canvas"), style = get("hover").style;
  [style.left, style.right] = x < width / 2 ? [`${x + 12}px`, ""] : ["", `${width - x + 12}px`];
  [style.top, style.bottom] = y < height / 2 ? [`${y}px`, ""] : ["", `${height - y}px`];
}

function findNearest(x, y, weigh = (dx, dy) => Math.hypot(dx, dy)) {
  const costs = points().filter((image) => visible.has(image)).map((image) => {
    const [left, top] = place(image);
    return [weigh(left - x, top - y), image];
  });
  return costs.reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, null]);
}

function touch({ offsetX, offsetY }) {
  const [distance, image] = findNearest(offsetX, offsetY), found = distance < 30 ? image : null;
  if (found !== here) point(found);
}

function go(event) {
  const [ax, ay] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (!ax && !ay && event.key !== "Enter") return;
  event.preventDefault();  // else the page scrolls, or the button that gets the focus is pressed
  if (!ax && !ay) return here && open(here);
  const [x, y] = here ? place(here) : [event.target.clientWidth / 2, event.target.clientHeight / 2];
  const ahead = (dx, dy) => (dx * ax + dy * ay > 0 ? dx * ax + dy * ay + 3 * Math.abs(dx * ay + dy * ax) : Infinity);
  const [, found] = findNearest(x, y, ahead);
  if (found) point(found);
}

function choose() {
  current = collections[get("collection").value];
  const option = (textContent, value) => make("option", { textContent, value });
  get("class").replaceChildren(option("all", ""), ...current.classes.map((of) => option(of, of)));
  get("legend").replaceChildren(...current.classes.map((of) => {
    const swatch = make("span", { className: "swatch" }), button = make("button", { type: "button" }, swatch, of);
    swatch.style.background = colour(of);
    button.addEventListener("click", () => {
      get("class").value = get("class").value === of ? "" : of;
      filter();
    });
    return button;
  }));
  const share = `${(100 * current.variance).toFixed(0)} % of the variance`;
  document.querySelector("[data-boxes]").hidden = !current.images.some((image) => image.box);
  get("role").value = "";
  const framed = current.images.some((image) => image.role === "frame");
  get("role").lastElementChild.hidden = !framed;
  get("borders").textContent = "; blue border: evaluation image, to be found by its caption; "
    + `no border: few-shot image${framed ? " or whole frame" : ""}`;
  get("order").parentElement.hidden = !current.concepts.some((concept) => concept.place);
  get("axes").textContent = current.model
    ? `Image features of ${current.model}: two main components, ${share}. Large dots are evaluation images.`
    : "There is no map: the image features of this split are not materialized.";
  document.querySelector(".board").hidden = !current.model;
  filter();
}

function turn(view) {
  get("concepts").hidden = view !== "concepts";
  get("map").hidden = view !== "map";
  get("borders").hidden = view !== "concepts";
  document.querySelectorAll("[data-view]").forEach((button) => { button.ariaPressed = button.dataset.view === view; });
  drawMap();
}

get("collection").append(...collections.map(({ title }, value) => make("option", { textContent: title, value })));
get("notes").append(...notes.map((textContent) => make("p", { textContent })));
get("collection").addEventListener("change", choose);
for (const id of ["text", "class", "role", "order"]) get(id).addEventListener("input", filter);
get("filters").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("[data-view]").forEach((button) => {
  button.addEventListener("click", () => turn(button.dataset.view));
});
document.querySelector("[data-boxes]").addEventListener("click", toggle);
get("canvas").addEventListener("keydown", go);
get("canvas").addEventListener("pointerleave", () => point(null));
get("canvas").addEventListener("pointermove", touch);
get("canvas").addEventListener("click", (event) => { touch(event); if (here) open(here); });
addEventListener("resize", drawMap);
choose();
turn("concepts");
