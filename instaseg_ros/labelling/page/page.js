"use strict";
// The page draws, and asks the server for every edit; the server alone knows what a mask is.

const $ = (id) => document.getElementById(id);
const TOOLS = [["click", "Click", "c"], ["stroke", "Cut or join", "s"], ["brush", "Brush", "b"],
  ["erase", "Eraser", "e"], ["polygon", "Polygon", "p"], ["ignore", "Ignore", "i"]];
const NARROWEST = 1 / 8, WIDEST = 8, STEP = 1.15;  // of a click's width
const PAGE = crypto.randomUUID();
const token = (() => {  // out of the address, so that it is in no screenshot or history
  const given = new URLSearchParams(location.search).get("token");
  if (given) {
    sessionStorage.setItem("token", given);
    history.replaceState(null, "", location.pathname + location.hash);
  }
  return given || sessionStorage.getItem("token") || "";
})();

let dataset = {frames: 0, class_names: [], labelled: [], no_ignore: ""};
let frame = null;  // {number, width, height, labels, ignore, objects, active, picture, overlay, ...}
let view = {scale: 1, x: 0, y: 0, fits: true};  // of the image on the canvas, in its own pixels
let tool = "click", classId = null, clickWidth = 1, radius = 12;
let path = [], drag = null, cursor = [0, 0];  // in pixels of the image
const canvas = $("view"), context = canvas.getContext("2d", {alpha: false});

// Talking to the server

async function ask(address, body) {
  const headers = {"X-Instaseg-Token": token, "X-Instaseg-Page": PAGE};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch("api/" + address, {method: body === undefined ? "GET" : "POST", headers,
      body: body === undefined ? undefined : JSON.stringify(body)});
  } catch {
    throw new Error("instaseg label does not answer: has it ended? What was saved is on disk.");
  }
  if (!answer.ok) {
    const said = await answer.json().catch(() => ({}));
    const error = new Error(said.error || `error ${answer.status}`);
    error.status = answer.status;
    throw error;
  }
  return answer;
}

let queue = Promise.resolve();
function inTurn(work) {  // edits in the order they were made
  queue = queue.then(work).catch(show);
  return queue;
}

function show(error) {
  const box = $("message");
  box.textContent = error ? error.message || error : "";
  if (error && error.status === 409) {
    const button = document.createElement("button");
    button.textContent = "Take over here";
    button.onclick = () => start(true);
    box.append(button);
  }
  clearTimeout(show.timer);
  if (error && error.status !== 409) show.timer = setTimeout(() => show(""), 6000);
}

async function unpack(answer) {
  const bytes = await answer.arrayBuffer();
  const length = new DataView(bytes).getUint32(0, true);
  const facts = JSON.parse(new TextDecoder().decode(new Uint8Array(bytes, 4, length)));
  const count = facts.box[2] * facts.box[3];
  return {facts, labels: new Uint16Array(bytes, 4 + length, count),
    ignore: new Uint8Array(bytes, 4 + length + 2 * count, count)};
}

async function start(takeOver) {
  dataset = await (await ask("start", {take_over: takeOver})).json();
  show("");
  showClasses();
  $("number").max = dataset.frames;
  $("count").textContent = `of ${dataset.frames}`;
  await open(Math.min(Math.max((parseInt(location.hash.slice(1)) || 1) - 1, 0), dataset.frames - 1));
}

async function open(number) {
  if (number < 0 || number >= dataset.frames) return;
  const same = frame && frame.number === number;
  const {facts, labels, ignore} = await unpack(await ask(`frame/${number}`));
  const {height, width} = facts;
  let picture = same ? frame.picture : null;
  if (!picture) picture = await createImageBitmap(await (await ask(`image/${number}`)).blob());
  const overlay = same ? frame.overlay : new OffscreenCanvas(width, height);
  const old = frame;
  frame = {number, width, height, labels: labels.slice(), ignore: ignore.slice(), picture, overlay,
    objects: new Map(), active: 0, live: false};
  learn(same ? {...facts, active: old.active} : facts);
  if (!same) {
    if (old && old.picture) old.picture.close();
    path = [];
    history.replaceState(null, "", `#${number + 1}`);
    $("number").value = number + 1;
    if (!old || old.width !== width || old.height !== height) fit();
    cursor = [Math.round(width / 2), Math.round(height / 2)];
  }
  paint(0, 0, width, height);
  draw();
}

function learn(facts) {
  frame.objects = new Map(facts.objects.map(([id, ...rest]) => [id, rest]));
  Object.assign(frame, {undo: facts.undo, redo: facts.redo, kept: facts.kept,
    revision: facts.revision});
  if (facts.kept && !dataset.labelled.includes(frame.number)) dataset.labelled.push(frame.number);
  $("name").textContent = $("name").title = facts.name;
  $("undo").disabled = !facts.undo;
  $("redo").disabled = !facts.redo;
  select(facts.active);
}

function edit(op, more = {}) {
  const number = frame.number;
  return inTurn(async () => {
    const asked = {op, into: frame.active, class_id: classId, ...more};
    const {facts, labels, ignore} = await unpack(await ask(`edit/${number}`, asked));
    if (number !== frame.number) return;
    const [left, top, width, height] = facts.box;
    for (let row = 0; row < height; row++) {
      const place = (top + row) * frame.width + left;
      frame.labels.set(labels.subarray(row * width, (row + 1) * width), place);
      frame.ignore.set(ignore.subarray(row * width, (row + 1) * width), place);
    }
    show("");
    frame.live = op === "click" || op === "width";
    learn(facts);
    paint(left - 1, top - 1, width + 2, height + 2);
    draw();
  });
}

async function news() {
  try {
    if (frame) {
      const asked = frame.number;
      const status = await (await ask(`status/${asked}`)).json();
      const bad = Boolean(status.error);
      $("saved").textContent = bad ? status.error : status.unsaved ? "saving…" : "saved";
      $("saved").classList.toggle("bad", bad);
      $("network").textContent = [status.network, status.how].filter(Boolean).join(" · ");
      $("learning").textContent = status.learning;
      $("newer").hidden = !status.newer;
      // In turn: an edit on its way may bring the same revision.
      inTurn(() => frame.number === asked && status.revision > frame.revision && open(asked));
    }
  } catch (error) {
    show(error);
  }
  setTimeout(news, 700);
}

// Drawing

const colors = new Uint32Array(65536);  // ABGR; hues a golden ratio apart
for (let id = 1; id < 65536; id++) {
  const hue = (0.65 + id * 0.618033988749895) % 1 * 6, light = [0.95, 0.8, 1][id % 3];
  const [red, green, blue] = [5, 3, 1].map((n) => {
    const k = (n + hue) % 6;
    return Math.round(255 * light * (1 - 0.8 * Math.max(0, Math.min(k, 4 - k, 1))));
  });
  colors[id] = (blue << 16 | green << 8 | red) >>> 0;
}

function paint(left, top, width, height) {  // the overlay within a box
  const {labels, ignore, objects, active} = frame, columns = frame.width;
  const right = Math.min(left + width, columns), bottom = Math.min(top + height, frame.height);
  left = Math.max(left, 0);
  top = Math.max(top, 0);
  if (left >= right || top >= bottom) return;
  const data = new ImageData(right - left, bottom - top), out = new Uint32Array(data.data.buffer);
  let lastId = 0, proposed = false, place = 0;
  for (let y = top; y < bottom; y++) {
    for (let x = left, i = y * columns + left; x < right; x++, i++, place++) {
      const id = labels[i];
      if (!id) {
        if (ignore[i]) out[place] = (x + y) & 4 ? 0xc0909090 : 0x90202020;
        continue;
      }
      if (id !== lastId) proposed = (objects.get(lastId = id) || [])[1] === "proposal";
      const edge = x === 0 || y === 0 || x === columns - 1 || y === frame.height - 1 ||
        labels[i - 1] !== id || labels[i + 1] !== id ||
        labels[i - columns] !== id || labels[i + columns] !== id;
      const alpha = edge && !(proposed && (x + y) & 4) ? 0xff : id === active ? 0x90 : 0x60;
      out[place] = (alpha << 24 | (edge && id === active ? 0xffffff : colors[id])) >>> 0;
    }
  }
  frame.overlay.getContext("2d").putImageData(data, left, top);
}

function paintObject(id) {
  const {labels, width, height} = frame;
  let left = width, right = -1, top = -1, bottom = -1;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (labels[i] !== id) continue;
      if (top < 0) top = y;
      bottom = y;
      if (x < left) left = x;
      if (x > right) right = x;
    }
  }
  if (top >= 0) paint(left, top, right - left + 1, bottom - top + 1);
}

let drawing = false;
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => {
    drawing = false;
    render();
  });
}

function render() {
  const {width, height} = canvas;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#24282c";
  context.fillRect(0, 0, width, height);
  if (!frame) return;
  context.setTransform(view.scale, 0, 0, view.scale, view.x, view.y);
  context.imageSmoothingEnabled = view.scale < 3;
  // Only what is seen: the rest would cost as much.
  const left = Math.max(0, Math.floor(-view.x / view.scale));
  const top = Math.max(0, Math.floor(-view.y / view.scale));
  const right = Math.min(frame.width, Math.ceil((width - view.x) / view.scale));
  const bottom = Math.min(frame.height, Math.ceil((height - view.y) / view.scale));
  const box = [left, top, right - left, bottom - top];
  if (box[2] > 0 && box[3] > 0) {
    context.drawImage(frame.picture, ...box, ...box);
    context.drawImage(frame.overlay, ...box, ...box);
  }
  const thin = 1 / view.scale;
  context.lineWidth = 2 * thin;
  context.strokeStyle = "#fff";
  if (path.length) {
    context.beginPath();
    for (const [x, y] of path) context.lineTo(x, y);
    if (tool === "polygon" || tool === "ignore") context.lineTo(...cursor);
    const wide = tool === "brush" || tool === "erase";
    if (wide) Object.assign(context, {lineWidth: 2 * radius, lineCap: "round", lineJoin: "round"});
    context.globalAlpha = wide ? 0.5 : 1;
    context.stroke();
    context.globalAlpha = 1;
    context.lineWidth = 2 * thin;
  }
  const [x, y] = cursor;
  context.beginPath();
  if (tool === "brush" || tool === "erase") context.arc(x, y, radius, 0, 7);
  else {
    const arm = 9 * thin;
    context.moveTo(x - arm, y);
    context.lineTo(x + arm, y);
    context.moveTo(x, y - arm);
    context.lineTo(x, y + arm);
  }
  context.strokeStyle = "#000";
  context.lineWidth = 3 * thin;
  context.stroke();
  context.strokeStyle = "#fff";
  context.lineWidth = thin;
  context.stroke();
}

function resize() {
  const ratio = devicePixelRatio, {width, height} = canvas.parentElement.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  if (frame && view.fits) fit();
  draw();
}

function fit() {
  view.fits = true;
  view.scale = Math.min(canvas.width / frame.width, canvas.height / frame.height);
  view.x = (canvas.width - frame.width * view.scale) / 2;
  view.y = (canvas.height - frame.height * view.scale) / 2;
}

function zoom(factor, x = canvas.width / 2, y = canvas.height / 2) {
  const scale = Math.min(Math.max(view.scale * factor, 0.02), 64);
  view.x = x - (x - view.x) * scale / view.scale;
  view.y = y - (y - view.y) * scale / view.scale;
  view.scale = scale;
  view.fits = false;
  draw();
}

// What a person sees of the dataset

function select(id) {
  const old = frame.active;
  frame.active = frame.objects.has(id) ? id : 0;
  if (old !== frame.active) {
    for (const one of [old, frame.active]) if (one) paintObject(one);
  }
  const made = new Map();
  for (const [, by] of frame.objects.values()) made.set(by, (made.get(by) || 0) + 1);
  const said = [...made].map(([by, count]) => `${count} by ${by}`).join(", ");
  $("facts").textContent = `${frame.objects.size} masks${said && " (" + said + ")"}` +
    `${frame.kept ? "" : "; not in the dataset until you edit or accept"}. ` +
    `${dataset.labelled.length} frames labelled.`;
  showClasses();
  draw();
}

function showClasses() {
  const own = frame && frame.active ? frame.objects.get(frame.active)[0] : classId;
  const names = [["auto", null], ...dataset.class_names.map((name, id) => [name, id])];
  $("classes").replaceChildren(...names.map(([name, id]) => {
    const item = document.createElement("li"), button = document.createElement("button");
    button.textContent = id === null ? "0  as the network sees it" : `${id + 1}  ${name}`;
    button.setAttribute("aria-pressed", own === id);
    button.onclick = () => chooseClass(id);
    item.append(button);
    return item;
  }));
}

function chooseClass(id) {
  if (id !== null && id >= dataset.class_names.length) return;
  classId = id;
  if (id !== null && frame.active) edit("class");
  else showClasses();
  canvas.focus();
}

function chooseTool(name) {
  if (name === "ignore" && dataset.no_ignore) return show(dataset.no_ignore);
  tool = name;
  path = [];
  for (const button of $("tools").children) {
    button.setAttribute("aria-pressed", button.dataset.tool === name);
  }
  draw();
}

function setWidth(value) {
  clickWidth = Math.min(Math.max(value, NARROWEST), WIDEST);
  $("width").value = clickWidth.toFixed(2);
  $("wide").value = Math.log2(clickWidth);
  if (frame && frame.live && !setWidth.waits) {
    setWidth.waits = true;  // many turns of the wheel are one edit
    edit("width", {get width() { setWidth.waits = false; return clickWidth; }});
  }
}

function setRadius(value) {
  radius = Math.min(Math.max(Math.round(value), 1), 100);
  $("radius").value = $("brush").value = radius;
  draw();
}

function widen(turns) {
  if (tool === "brush" || tool === "erase") setRadius(radius * STEP ** turns + Math.sign(turns));
  else setWidth(clickWidth * STEP ** turns);
}

// Gestures: of the mouse, or of the keyboard's cursor

function idAt([x, y]) {
  const column = Math.floor(x), row = Math.floor(y);
  const inside = column >= 0 && row >= 0 && column < frame.width && row < frame.height;
  return inside ? frame.labels[row * frame.width + column] : -1;
}

function click(mode) {
  const [x, y] = cursor, id = idAt(cursor);
  if (id < 0) return;
  if (mode === "new" && id) {
    frame.live = false;
    return select(id);
  }
  if (mode === "less" && id && id !== frame.active) select(id);
  setWidth.waits = true;  // not the click before
  setWidth(1);
  setWidth.waits = false;
  edit("click", {x, y, mode, width: clickWidth, into: mode === "new" ? 0 : frame.active});
}

function press(mode) {
  if (!frame) return;
  if (tool === "click") click(mode);
  else if (tool === "polygon" || tool === "ignore") {
    const near = path.length > 2 && Math.hypot(path[0][0] - cursor[0], path[0][1] - cursor[1]);
    if (path.length > 2 && near * view.scale < 10) closePolygon();
    else path.push([...cursor]);
  } else path = [[...cursor]];
  draw();
}

function release() {
  if (!path.length || tool === "polygon" || tool === "ignore" || tool === "click") return;
  if (path.length === 1) path.push([...cursor]);
  const into = tool === "erase" && eraseAll ? 0 : frame.active;
  edit(tool, {path, radius, into});
  path = [];
  draw();
}

let eraseAll = false;  // with Shift the eraser takes from every mask, and what is ignored

function closePolygon() {
  if (path.length > 2) edit(tool, {path});
  path = [];
  draw();
}

function place(event) {  // in pixels of the image
  const box = canvas.getBoundingClientRect(), ratio = canvas.width / box.width;
  const x = (event.clientX - box.left) * ratio, y = (event.clientY - box.top) * ratio;
  return {x, y, at: [(x - view.x) / view.scale, (y - view.y) / view.scale]};
}

canvas.addEventListener("pointerdown", (event) => {
  canvas.setPointerCapture(event.pointerId);
  canvas.focus();
  const {x, y, at} = place(event);
  cursor = at;
  if (event.button) drag = {x: x - view.x, y: y - view.y};
  else {
    eraseAll = event.shiftKey;
    press(event.altKey ? "less" : event.shiftKey ? "more" : "new");
  }
  event.preventDefault();
});
canvas.addEventListener("pointermove", (event) => {
  const {x, y, at} = place(event);
  if (drag) {
    view.fits = false;
    view.x = x - drag.x;
    view.y = y - drag.y;
  } else {
    cursor = at;
    if (path.length && tool !== "polygon" && tool !== "ignore") path.push(at);
  }
  draw();
});
canvas.addEventListener("pointerup", () => {
  if (drag) drag = null;
  else release();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("dblclick", closePolygon);
canvas.addEventListener("wheel", (event) => {
  event.preventDefault();
  const {x, y} = place(event);
  if (event.ctrlKey) zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, x, y);
  else widen(event.deltaY < 0 ? 1 : -1);
}, {passive: false});

function move(x, y) {
  cursor = [Math.min(Math.max(cursor[0] + x, 0), frame.width - 1),
    Math.min(Math.max(cursor[1] + y, 0), frame.height - 1)];
  if (path.length && tool !== "polygon" && tool !== "ignore") path.push([...cursor]);
  const [left, top] = [cursor[0] * view.scale + view.x, cursor[1] * view.scale + view.y];
  if (left < 0 || left > canvas.width) view.x += canvas.width / 2 - left;
  if (top < 0 || top > canvas.height) view.y += canvas.height / 2 - top;
  draw();
}

function neighbour(step) {
  const ids = [...frame.objects.keys()].sort((a, b) => a - b);
  if (!ids.length) return;
  const place = ids.indexOf(frame.active);
  frame.live = false;
  select(ids[(place < 0 ? (step > 0 ? 0 : -1) + ids.length : place + step + ids.length) % ids.length]);
}

function go(step) {
  const number = frame.number + step;
  return inTurn(() => open(number));
}

function accept() {
  edit("accept");
  if (frame.number + 1 < dataset.frames) go(1);
}

function again() {  // news tells when the network has looked
  const {number, kept} = frame;
  inTurn(async () => {
    await ask(`again/${number}`, {});
    if (kept) show("Edited masks stay; clicks and O are by what the network sees now.");
  });
}

const KEYS = {
  Enter: () => path.length > 2 ? closePolygon() : accept(),
  PageDown: () => go(1), PageUp: () => go(-1),
  " ": () => tool !== "click" && tool !== "polygon" && tool !== "ignore" && path.length ?
    release() : press("new"),
  a: () => click("more"), d: () => click("less"), o: () => edit("propose"), r: again,
  n: () => $("class-name").focus(), f: () => { fit(); draw(); },
  "+": () => zoom(1.2), "=": () => zoom(1.2), "-": () => zoom(1 / 1.2),
  "]": () => widen(1), "[": () => widen(-1), ",": () => neighbour(-1), ".": () => neighbour(1),
  Delete: () => frame.active && edit("remove"), Backspace: () => frame.active && edit("remove"),
  Escape: () => { path = []; frame.live = false; select(0); },
  "?": () => { const keys = document.querySelector("details"); keys.open = !keys.open; },
};
for (const [key, x, y] of [["ArrowLeft", -1, 0], ["ArrowRight", 1, 0], ["ArrowUp", 0, -1],
  ["ArrowDown", 0, 1]]) KEYS[key] = (event) => move(...[x, y].map((d) => d * (event.shiftKey ? 10 : 1)));
for (const [name, , key] of TOOLS) KEYS[key] = () => chooseTool(name);
for (let digit = 0; digit < 10; digit++) KEYS[digit] = () => chooseClass(digit ? digit - 1 : null);

document.addEventListener("keydown", (event) => {
  const typing = event.target instanceof HTMLInputElement && event.target.type !== "range";
  if (!frame) return;
  if (typing) {
    if (event.key === "Escape") canvas.focus();
    return;
  }
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.ctrlKey || event.metaKey) {
    const op = key === "y" || (key === "z" && event.shiftKey) ? "redo" : key === "z" ? "undo" : "";
    if (op) {
      event.preventDefault();
      edit(op);
    }
    return;
  }
  const onButton = event.target instanceof HTMLButtonElement && (key === " " || key === "Enter");
  if (KEYS[key] && !event.altKey && !onButton) {
    event.preventDefault();
    KEYS[key](event);
  }
});

$("previous").onclick = () => go(-1);
$("next").onclick = () => go(1);
$("accept").onclick = accept;
$("again").onclick = again;
$("undo").onclick = () => edit("undo");
$("redo").onclick = () => edit("redo");
$("number").onchange = () => inTurn(() => open($("number").value - 1));
$("wide").oninput = () => setWidth(2 ** $("wide").value);
$("brush").oninput = () => setRadius($("brush").value);
$("new-class").onsubmit = (event) => {
  event.preventDefault();
  const name = $("class-name").value.trim();
  if (name) inTurn(async () => {
    const made = await (await ask("classes", {name})).json();
    dataset.class_names = made.class_names;
    $("class-name").value = "";
    chooseClass(made.class_id);
  });
};
$("tools").replaceChildren(...TOOLS.map(([name, words, key]) => {
  const button = document.createElement("button"), hint = document.createElement("kbd");
  button.dataset.tool = name;
  hint.textContent = key.toUpperCase();
  button.append(words, " ", hint);
  button.onclick = () => chooseTool(name);
  return button;
}));

new ResizeObserver(resize).observe($("stage"));
resize();
chooseTool("click");
start(false).catch(show);
news();
