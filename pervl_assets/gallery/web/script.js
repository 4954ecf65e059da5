
"use strict";
const { collections, notes } = JSON.parse(document.getElementById("data").textContent);
const PART = 40;  // concepts that are drawn at a time
const get = (id) => document.getElementById(id);
let current, shown = [], drawn = 0, visible = new Set(), here = null, view = "concepts";

function make(tag, properties, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

for (const collection of collections) {
  collection.concepts = collection.concepts.map(([name, of]) => ({ name, of, images: [], captions: [], place: 0 }));
  collection.images.forEach((image, number) => {
    const concept = collection.concepts[image.concept];
    concept.images.push(Object.assign(image, { number, concept }));
    for (const [kind, text, places] of image.captions ?? []) {
      concept.captions.push([kind, text]);
      if (places.length) concept.place = Math.max(concept.place, places.at(-1)[1]);
    }
  });
  for (const concept of collection.concepts) {
    concept.words = [concept.name, concept.of, ...concept.captions.map(([, text]) => text)].join("\n").toLowerCase();
  }
  collection.classes = [...new Set(collection.concepts.map((concept) => concept.of))].sort();
}

const colour = (of) => `hsl(${(current.classes.indexOf(of) * 137.5) % 360} 70% 50%)`;
const describe = (image) => `${image.concept.name}, ${image.role}`;

function draw(image) {
  if (!image.file) return make("span", { className: "nothing", textContent: image.fault });
  const [width, height] = image.size;
  const source = { src: `images/${image.file}`, alt: describe(image), width, height, loading: "lazy" };
  const picture = make("span", { className: "picture" }, make("img", source));
  if (image.mask) picture.append(make("img", { className: "over mask", src: `images/${image.mask}`, alt: "" }));
  if (image.box) {
    const box = make("span", { className: "over box" });
    ["left", "top", "width", "height"].forEach((side, n) => { box.style[side] = `${image.box[n]}%`; });
    picture.append(box);
  }
  return picture;
}

function press(image, ...more) {
  const button = make("button", { type: "button", className: image.role, title: describe(image) }, draw(image), ...more);
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
  if (order !== "name") shown.sort(([a], [b]) => (order === "worst" ? b.place - a.place : a.place - b.place));
  visible = new Set(shown.flatMap(([, images]) => images));
  const count = (number, what) => `${number.toLocaleString("en")} ${what}${number === 1 ? "" : "s"}`;
  get("count").textContent = `${count(shown.length, "concept")} of ${current.concepts.length.toLocaleString("en")}, ` +
    count(visible.size, "image");
  drawn = 0;
  get("concepts").replaceChildren();
  extend();
  drawMap();
}

function extend() {
  get("more")?.remove();
  const cards = shown.slice(drawn, (drawn += PART)).map(([concept, images]) => {
    const captions = concept.captions.map(([kind, text]) => make("p", { textContent: text, title: `${kind} caption` }));
    const place = concept.place ? `, worst place ${concept.place.toLocaleString("en")}` : "";
    return make("article", {},
      make("h2", { textContent: concept.name }), make("p", { className: "dim", textContent: concept.of + place }),
      ...captions.slice(0, 4), make("div", { className: "strip" }, ...images.map((image) => press(image))));
  });
  get("concepts").append(...cards);
  if (drawn >= shown.length) return;
  const more = make("button", { id: "more", type: "button", textContent: "More concepts" });
  more.addEventListener("click", extend);
  get("concepts").append(more);
  new IntersectionObserver(([entry]) => entry.isIntersecting && extend()).observe(more);
}

function open(image) {
  const step = (by) => {
    const images = [...visible], at = images.indexOf(image);
    open(images[(at + by + images.length) % images.length]);
  };
  const dialog = get("detail");
  const act = (textContent, work) => {
    const button = make("button", { type: "button", textContent });
    button.addEventListener("click", work);
    return button;
  };
  const facts = [["image", image.path], ["class", image.concept.of], ["is", image.role]];
  for (const [kind, text, places] of image.captions ?? []) {
    facts.push([`${kind} caption`, text]);
    if (places.length) facts.push(["found at place", places.map(([method, place]) => `${place} by ${method}`).join(", ")]);
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
    make("dl", {}, ...facts.flatMap(([term, text]) => [make("dt", { textContent: term }), make("dd", { textContent: text })])),
    ...(near.length ? [make("h2", { textContent: "Nearest by cosine" }), make("div", { className: "near" }, ...near)] : []));
  dialog.onkeydown = ({ key }) => key === "ArrowLeft" ? step(-1) : key === "ArrowRight" && step(1);
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

const boxes = () => document.body.classList.contains("boxes");
function toggle() {
  document.body.classList.toggle("boxes");
  document.querySelectorAll("[data-boxes], .bar [aria-pressed]").forEach((button) => { button.ariaPressed = boxes(); });
}

const points = () => current.images.filter((image) => image.point);
function place(image) {
  const { clientWidth: width, clientHeight: height } = get("canvas");
  return [width / 2 + image.point[0] * (width / 2 - 12), height / 2 - image.point[1] * (height / 2 - 12)];
}

function drawMap() {
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
  get("hover").replaceChildren(draw(image), make("figcaption", { textContent: `${describe(image)}, ${image.concept.of}` }));
  const [x, y] = place(image), { clientWidth: width, clientHeight: height } = get("canvas");
  Object.assign(get("hover").style, x < width / 2 ? { left: `${x + 12}px`, right: "" } : { left: "", right: `${width - x + 12}px` });
  Object.assign(get("hover").style, y < height / 2 ? { top: `${y}px`, bottom: "" } : { top: "", bottom: `${height - y}px` });
}

function findNearest(x, y, weigh = (dx, dy) => Math.hypot(dx, dy)) {
  const costs = points().filter((image) => visible.has(image)).map((image) => {
    const [left, top] = place(image);
    return [weigh(left - x, top - y), image];
  });
  return costs.reduce((best, one) => (one[0] < best[0] ? one : best), [Infinity, null]);
}

function go(event) {
  const [ax, ay] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [0, 0];
  if (event.key === "Enter" && here) open(here);
  if (!ax && !ay) return;
  event.preventDefault();
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
      for (const other of get("legend").children) other.ariaPressed = other === button && Boolean(get("class").value);
    });
    return button;
  }));
  const share = `${(100 * current.variance).toFixed(0)} % of the variance`;
  get("axes").textContent = current.model
    ? `Image features of ${current.model}: their two main components, which hold ${share}. Large dots are evaluation images.`
    : "There is no map: the image features of this split are not materialized.";
  here = null;
  get("hover").hidden = true;
  filter();
}

function turn(to) {
  view = to;
  get("concepts").hidden = view !== "concepts";
  get("map").hidden = view !== "map";
  document.querySelectorAll("[data-view]").forEach((button) => { button.ariaPressed = button.dataset.view === view; });
  drawMap();
}

get("collection").append(...collections.map(({ title }, value) => make("option", { textContent: title, value })));
get("notes").append(...notes.map((textContent) => make("p", { textContent })));
get("collection").addEventListener("change", choose);
for (const id of ["text", "class", "role", "order"]) get(id).addEventListener("input", filter);
get("filters").addEventListener("submit", (event) => event.preventDefault());
document.querySelectorAll("[data-view]").forEach((button) => button.addEventListener("click", () => turn(button.dataset.view)));
document.querySelector("[data-boxes]").addEventListener("click", toggle);
document.querySelector("[data-boxes]").ariaPressed = false;
get("canvas").addEventListener("keydown", go);
get("canvas").addEventListener("pointerleave", () => point(null));
get("canvas").addEventListener("pointermove", ({ offsetX, offsetY }) => {
  const [distance, image] = findNearest(offsetX, offsetY);
  if ((distance < 30 ? image : null) !== here) point(distance < 30 ? image : null);
});
get("canvas").addEventListener("click", () => here && open(here));
addEventListener("resize", drawMap);
choose();
turn("concepts");
