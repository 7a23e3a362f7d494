const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
const state = { recording: 0, mark: 0, frame: 0, moment: -1 };
const STRIP_COLOURS = ["#2b7bba", "#e4572e", "#3a9d78", "#8c5fbf", "#c99a16", "#c2528b", "#3aa6b9"];

const current = () => data.recordings[state.recording];
const place = (name) => data.recordings.findIndex((one) => one.name === name);
const markOf = (one, frame) => Math.min(Math.floor(frame / one.each), one.frame.length - 1);
const seconds = (s) => (s < 60 ? `${s.toFixed(1)} s`
  : `${Math.floor(s / 60)}:${String(Math.floor(s % 60)).padStart(2, "0")} min`);

// Shows a frame of a recording: its picture, or the nearest one.
function show(recording, frame) {
  const changed = recording !== state.recording || !$("timeline").hasChildNodes();
  Object.assign(state, { recording, frame, mark: markOf(data.recordings[recording], frame) });
  if (changed) {
    $("recording").value = recording;
    drawTimeline();
    drawStrips();
  }
  moveCursor();
  view();
  [...$("worst").children].forEach((one, k) => {
    const m = data.worst[k];
    const now = place(m.recording) === recording && m.number === frame;
    one.setAttribute("aria-pressed", now);
    if (now) state.moment = k;
  });
}

function view() {
  const one = current(), k = state.mark, frame = state.frame;
  const said = [`${one.name}, frame ${frame}, ${seconds(one.time_s[k])}`];
  if (frame === one.frame[k]) {
    said.push(`${one.objects[k]} objects, ${one.missed[k]} missed, ${one.wrong[k]} wrong`);
  }
  if (one.each > 1) said.push(`worst of ${Math.min(one.each, one.frames - k * one.each)} frames`);
  if (one.dropped[k]) said.push(one.each > 1 ? `${one.dropped[k]} dropped` : "dropped");
  if (one.switches[k]) said.push(`${one.switches[k]} id switches`);
  if (one.ms[k] !== null) said.push(`${one.ms[k]} ms`);
  const caption = make("p", {}, [said.join("; ")]);
  const near = Object.keys(one.pictures).map(Number)
    .reduce((a, b) => (a === null || Math.abs(b - frame) < Math.abs(a - frame) ? b : a), null);
  if (near === null) {
    $("viewer").replaceChildren(caption, make("p", { class: "muted" }, ["No picture was kept."]));
    return;
  }
  const picture = one.pictures[near];
  const shown = sideBySide([["Truth", picture, picture.truth],
    [picture.predicted.length ? "Prediction" : "Prediction: nothing", picture, picture.predicted]]);
  const note = near === frame ? [] : [make("p", { class: "remark" },
    [`No picture of frame ${frame} was kept: this is frame ${near}.`])];
  $("viewer").replaceChildren(caption, ...note, shown);
}

// Bars of one series of the timeline, as one path.
function bars(values, from, scale, height) {
  return values.map((v, k) => (v ? `M${k} ${height - (from[k] + v) * scale}h1v${v * scale}h-1z` : ""))
    .join("");
}

function drawTimeline() {
  const one = current(), n = one.frame.length, zeros = new Array(n).fill(0);
  const layer = (name, height, children) => draw("svg", { class: name,
    viewBox: `0 0 ${n} ${height}`, preserveAspectRatio: "none" }, children);
  const most = Math.max(1, ...one.missed.map((m, k) => m + one.wrong[k]));
  const errors = layer("errors", 90, [
    draw("path", { class: "missed", d: bars(one.missed, zeros, 88 / most, 90) }),
    draw("path", { class: "wrong", d: bars(one.wrong, one.missed, 88 / most, 90) })]);
  const kept = zeros.slice();
  for (const frame of Object.keys(one.pictures)) kept[markOf(one, Number(frame))] = 1;
  const one_if = (values) => values.map((v) => (v ? 1 : 0));
  const events = layer("events", 12, [
    draw("path", { class: "kept-picture", d: bars(kept, zeros, 3, 3) }),
    draw("path", { class: "drop", d: bars(one_if(one.dropped), zeros, 3, 7.5) }),
    draw("path", { class: "switch", d: bars(one_if(one.switches), zeros, 3, 12) })]);
  const known = one.ms.filter((v) => v !== null), parts = [errors, events];
  const slowest = Math.max(...known);
  if (known.length) {
    let pen = "M";
    const d = one.ms.map((v, k) => {
      if (v === null) { pen = "M"; return ""; }
      const step = `${pen}${k + 0.5} ${43 - (v / (slowest || 1)) * 40}`;
      pen = "L";
      return step;
    }).join("");
    parts.push(layer("ms", 44, [draw("path", { class: "line", d })]));
  }
  for (const part of parts) {
    part.append(draw("line", { class: "cursor", y1: 0, y2: 100, x1: 0, x2: 0 }));
  }
  $("timeline").replaceChildren(...parts);
  $("timeline").setAttribute("aria-valuemin", 0);
  $("timeline").setAttribute("aria-valuemax", n - 1);
  const key = (colour, name) => make("span", {},
    [make("i", { class: "swatch", style: `background:var(${colour})` }), name]);
  $("legend").replaceChildren(
    key("--missed", "missed"), key("--wrong", "wrong"), key("--right", "picture kept"),
    key("--ink", "dropped"), key("--here", "id switch"),
    ...(known.length ? [make("span", {}, [`line: ms, up to ${slowest}`])] : []), make("br"),
    `${one.frames} frames in ${seconds(one.time_s[n - 1])}; the tallest bar is ${most} errors. `,
    one.each > 1 ? `A mark is ${one.each} frames. ` : "",
    "Tap, or use the arrow keys, Page Up and Down, Home and End.");
}

function moveCursor() {
  for (const line of document.querySelectorAll("#timeline .cursor")) {
    for (const x of ["x1", "x2"]) line.setAttribute(x, state.mark + 0.5);
  }
  for (const line of document.querySelectorAll("#strips .cursor")) {
    for (const x of ["x1", "x2"]) line.setAttribute(x, state.frame + 0.5);
  }
  const one = current();
  $("timeline").setAttribute("aria-valuenow", state.mark);
  $("timeline").setAttribute("aria-valuetext",
    `frame ${state.frame}, ${one.missed[state.mark]} missed, ${one.wrong[state.mark]} wrong`);
}

// A strip for each object whose id switched: a colour for each id that it was given.
function drawStrips() {
  const one = current(), rows = one.strips.map((strip) => {
    const ids = [...new Set(strip.runs.map((run) => run[2]).filter((id) => id))];
    const parts = strip.runs.map(([first, last, id]) => draw("rect", {
      x: first, y: 1, width: last - first + 1, height: 14, class: id ? "id" : "gap",
      ...(id ? { fill: STRIP_COLOURS[ids.indexOf(id) % STRIP_COLOURS.length] } : {}),
    }, [draw("title", {}, [id ? `frames ${first} to ${last}: id ${id}`
      : `frames ${first} to ${last}: missed`])]));
    const svg = draw("svg", { viewBox: `0 0 ${one.frames} 16`, preserveAspectRatio: "none" },
      [...parts, draw("line", { class: "cursor", y1: 0, y2: 16, x1: 0, x2: 0 })]);
    svg.addEventListener("click", (event) => goTo(svg, event, one.frames, (k) => k));
    const title = `${strip.name}: ids ${ids.join(", ")}`;
    return make("div", { class: "strip" }, [make("span", { title }, [strip.name]), svg]);
  });
  const left = one.objects_with_switches - rows.length;
  $("strips-title").textContent = rows.length ? "Id switches: a colour for each id" : "";
  if (left > 0) rows.push(make("p", { class: "muted" }, [`and ${left} more objects`]));
  if (one.runs_left_out) {
    rows.push(make("p", { class: "muted" },
      [`${one.runs_left_out} later stretches of these objects are left out`]));
  }
  $("strips").replaceChildren(...rows);
}

function goTo(box, event, count, frameOf) {
  const where = box.getBoundingClientRect();
  const k = Math.floor(((event.clientX - where.left) / where.width) * count);
  show(state.recording, frameOf(Math.max(0, Math.min(count - 1, k))));
}

function goToMark(mark) {
  const one = current();
  show(state.recording, one.frame[Math.max(0, Math.min(one.frame.length - 1, mark))]);
}

function goToMoment(k) {
  const moment = data.worst[k];
  if (!moment) return;
  show(place(moment.recording), moment.number);
  $("worst").children[k].scrollIntoView({ block: "nearest", inline: "nearest" });
}

function start() {
  data.recordings.forEach((one, k) => $("recording").append(make("option", { value: k }, [one.name])));
  data.worst.forEach((moment, k) => {
    const picture = data.recordings[place(moment.recording)].pictures[moment.number];
    const thumb = picture ? photograph(picture, []) : make("div", { class: "none" }, ["no picture"]);
    const said = `${moment.missed} missed, ${moment.wrong} wrong of ${moment.objects}`;
    const button = make("button", { type: "button", "aria-pressed": false }, [thumb,
      make("b", {}, [said + (moment.dropped ? ", dropped" : "")]), make("br"),
      `${moment.recording}, ${seconds(moment.time_s)}`]);
    button.addEventListener("click", () => {
      goToMoment(k);
      $("viewer").scrollIntoView({ block: "nearest" });
    });
    $("worst").append(button);
  });
  if (!data.worst.length) $("worst").append("No frame has an error.");
  $("recording").addEventListener("change", (event) => {
    show(Number(event.target.value), data.recordings[event.target.value].frame[0]);
  });
  switchOutlines();
  let dragging = false;
  const pick = (event) => goTo($("timeline"), event, current().frame.length,
    (k) => current().frame[k]);
  $("timeline").addEventListener("pointerdown", (event) => { dragging = true; pick(event); });
  $("timeline").addEventListener("pointermove", (event) => dragging && pick(event));
  window.addEventListener("pointerup", () => { dragging = false; });
  window.addEventListener("pointercancel", () => { dragging = false; });
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowDown: -1, ArrowUp: 1, PageDown: -10, PageUp: 10,
    Home: -Infinity, End: Infinity };
  $("timeline").addEventListener("keydown", (event) => {
    if (!(event.key in steps)) return;
    event.preventDefault();
    goToMark(Math.max(0, Math.min(current().frame.length - 1, state.mark + steps[event.key])));
  });
  document.addEventListener("keydown", (event) => {
    if (!isOurs(event)) return;
    if (event.key === "n") goToMoment(Math.min(state.moment + 1, data.worst.length - 1));
    if (event.key === "p") goToMoment(Math.max(state.moment - 1, 0));
  });
  for (const button of document.querySelectorAll("[data-recording]")) {
    button.addEventListener("click", () => {
      const k = Number(button.dataset.recording);
      show(k, data.recordings[k].frame[0]);
      $("drive").scrollIntoView();
    });
  }
  if (data.worst.length) goToMoment(0);
  else show(0, data.recordings[0].frame[0]);
  window.scrollTo(0, 0);
}
start();
