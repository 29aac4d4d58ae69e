// The page of `hmsutils app`. Python sends `info` (the recording), `page` (its traces), `timeline`
// (probabilities, events) and `looked` (where the model looked), each with the number of the
// recording that was `opened`; this draws them, and asks for a page with 'turn', for the model's
// answer with 'settle', for a table of the events with 'export'.
const KEYS = {
  ArrowRight: (k) => move(k.shiftKey ? 1 : seconds()),
  ArrowLeft: (k) => move(k.shiftKey ? -1 : -seconds()),
  PageDown: () => move(seconds()), PageUp: () => move(-seconds()),
  Home: () => go(0), End: () => go(Infinity),
  ArrowUp: () => louder(-1), ArrowDown: () => louder(1), n: () => jump(1), p: () => jump(-1),
};
for (let k = 0; k < 6; k++) KEYS[k + 1] = () => document.querySelectorAll(".label input")[k].click();
const STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 28800, 86400];
const LEFT = 74, RIGHT = 26, TOP = 24, BOTTOM = 22, ROW = 17, PX_PER_MM = 96 / 25.4, LOST = -32768, UNKNOWN = 255;
const find = (name) => element.querySelector(`[data-name="${name}"]`);
const eeg = find("eeg"), strip = find("strip"), slider = find("slider"), list = find("list");
const set = (name) => Number(find(name).value);
const seconds = () => set("seconds");
const current = (x) => x.opened === props.info.opened;
let at = 0, number = 0, asked = null, wanted = null, settling = null;
let traces = null, map = null, bars = null, isNew = false, isChosen = false, width = 0, answers = 0;
let timeline = {}, looked = {};  // the last ones of this recording: others may come late

// Where on the recording.

function go(to) {
  if (!props.info.duration_s) return;
  const end = Math.max(0, props.info.duration_s - seconds());
  at = Math.round(Math.min(Math.max(0, to), end) * 10) / 10;
  slider.max = end;
  slider.value = at;
  slider.ariaValueText = clock(at);
  wanted = { at_s: at, montage: find("montage").value, opened: props.info.opened, number: ++number };
  for (const name of ["seconds", "low_hz", "high_hz", "notch_hz"]) wanted[name] = set(name);
  wait(true);
  drawStrip();
  ask();
}
const move = (by) => go(at + by);

function ask() {  // one page is on its way at most; then the last one wanted
  if (asked || !wanted) return;
  asked = wanted;
  wanted = null;
  trigger("turn", asked);
}

function arrived() {
  const page = props.page;
  if (asked && page.number === asked.number) asked = null;
  if (!page.number || !current(page)) return ask();
  traces = page.values ? decode(page.values, Int16Array) : null;
  if (isNew && traces) fit();
  isNew = isNew && !traces;
  draw();
  ask();
  clearTimeout(settling);
  settling = setTimeout(settle, 250);
}

function settle() {
  settling = null;
  wait(true);
  const asks = { middle_s: at + seconds() / 2, name: find("reasons").value };
  trigger("settle", { ...asks, opened: props.info.opened, number: ++answers });
}

// While the answer is of another page it is pale, and no label of it can be saved; nor where the
// nearest 50 s are about 10 s that are not shown.
function wait(isStale, isShown = false) {
  document.body.classList.toggle("stale", isStale);
  for (const button of document.querySelectorAll(".save")) button.inert = isStale || !isShown;
}

function jump(by) {  // to the next event, or the one before
  const starts = events().map((event) => event.onset_s);
  const there = by > 0 ? starts.find((s) => s > at + 0.5) : starts.findLast((s) => s < at - 0.5);
  if (there !== undefined) go(there);
}
const events = () => timeline.events || [];

// How it is drawn.

const paperHeight = () => Math.min(Math.max(window.innerHeight - 300, 480), 1000);

function fit() {  // the sensitivity at which most traces have room, 7 µV/mm or more
  if (isChosen || !props.info.fit) return;
  const rows = props.page.rows, n = traces.length / rows.length, swings = [];
  rows.forEach((row, k) => {
    if (row.side === "E" || row.bad) return;
    const seen = traces.subarray(k * n, (k + 1) * n).filter((v) => v !== LOST);
    swings.push(0.1 * Math.sqrt(seen.reduce((sum, v) => sum + v * v, 0) / Math.max(1, seen.length)));
  });
  const typical = swings.sort((a, b) => a - b)[Math.floor(swings.length / 2)] || 0;
  const choice = find("sensitivity"), options = [...choice.options];
  const room = options.findIndex((x) => (4 * typical * PX_PER_MM) / x.value < paperHeight() / 22);
  const usual = options.findIndex((x) => x.value === "7");
  choice.selectedIndex = room < 0 ? options.length - 1 : Math.max(room, usual);
}

function louder(by) {
  const choice = find("sensitivity");
  choice.selectedIndex = Math.min(Math.max(0, choice.selectedIndex + by), choice.length - 1);
  isChosen = true;
  draw();
}

function decode(text, Kind) {
  return new Kind(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
}

function clock(s) {
  const start = props.info.start_s, two = (x) => String(x).padStart(2, "0");
  const t = Math.round(s + (start || 0)), hours = Math.floor(t / 3600);
  const shown = start === null ? hours : two(hours % 24);
  return `${shown}:${two(Math.floor(t / 60) % 60)}:${two(t % 60)}`;
}

// The colours of the theme, light or dark.
const isDark = () => document.body.classList.contains("dark");

function ink() {
  const style = getComputedStyle(element), dark = isDark();
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    text: of("--body-text-color"), faint: dark ? "#a1a1aa" : "#5f6570", paper: of("--background-fill-primary"),
    grid: dark ? "#3f3f46" : "#dcdfe4", L: dark ? "#f0a8a0" : "#971d16", R: dark ? "#8ec5ff" : "#2474cf",
    M: of("--body-text-color"), E: dark ? "#8fd19e" : "#1c6b35", hot: dark ? "255,165,60" : "240,130,20",
  };
}

function prepare(canvas, height, wide = canvas.clientWidth) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = wide * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "middle";
  return pen;
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

function draw() {
  const page = props.page, width = eeg.clientWidth;
  if (!width) return;
  const height = paperHeight(), colour = ink(), pen = prepare(eeg, height);
  pen.fillStyle = colour.paper;
  pen.fillRect(0, 0, width, height);
  pen.fillStyle = colour.text;
  if (page.problem) pen.fillText(page.problem, LEFT, height / 2);
  if (!page.rows || !traces || !current(page)) return;
  const n = traces.length / page.rows.length, x = (s) => LEFT + ((s - page.at_s) / page.seconds) * (width - LEFT - RIGHT);
  const units = page.rows.reduce((sum, row) => sum + 1 + 0.55 * row.first, 0);
  const gap = (height - TOP - BOTTOM) / (units + 0.3), scale = PX_PER_MM / set("sensitivity");
  const every = page.seconds > 15 ? 5 : page.seconds > 10 ? 2 : 1;
  for (let s = Math.ceil(page.at_s); s <= page.at_s + page.seconds; s++) {
    pen.strokeStyle = colour.grid;
    pen.lineWidth = s % 5 ? 0.5 : 1.2;
    line(pen, x(s), TOP, x(s), height - BOTTOM);
    pen.fillStyle = colour.faint;
    pen.textAlign = "center";
    if (s % every === 0 && x(s) < width - RIGHT - 20) pen.fillText(clock(s), x(s), height - BOTTOM / 2);
  }
  drawMarks(pen, x, width - RIGHT, colour);
  let y = TOP - gap * 0.3;
  page.rows.forEach((row, k) => {
    y += gap * (1 + 0.55 * row.first);
    shade(pen, row, x, y, gap, colour);
    const isBad = row.bad || (looked.replaced || []).some((e) => row.electrodes.includes(e));
    pen.fillStyle = pen.strokeStyle = isBad ? colour.faint : colour[row.side];
    pen.textAlign = "right";
    pen.fillText(isBad ? `(${row.label})` : row.label, LEFT - 8, y);
    const trace = traces.subarray(k * n, (k + 1) * n);
    let up = scale / 10;  // pixels of a tenth of a microvolt; negative is up, as on every EEG machine
    if (row.side === "E") {  // the heart in a height of its own, positive up
      up = (-gap * 0.8) / trace.reduce((most, v) => (v === LOST ? most : Math.max(most, Math.abs(v))), 1);
    }
    drawTrace(pen, trace, width, y, up, 3 * gap);
  });
  pen.strokeStyle = pen.fillStyle = colour.text;
  pen.lineWidth = 2;
  const bar = 100 * scale, middle = height / 2;
  line(pen, width - 18, middle - bar / 2, width - 18, middle + bar / 2);
  pen.save();
  pen.translate(width - 8, middle);
  pen.rotate(-Math.PI / 2);
  pen.textAlign = "center";
  pen.fillText("100 µV", 0, 0);
  pen.restore();
  const title = `${page.title}, ${set("sensitivity")} µV/mm`, wide = pen.measureText(title).width;
  pen.textAlign = "right";
  pen.fillStyle = colour.paper;
  pen.fillRect(width - RIGHT - wide - 4, 0, wide + 4, 13);
  pen.fillStyle = colour.faint;
  pen.fillText(title, width - RIGHT, 7);
}

function drawTrace(pen, trace, width, y, up, most) {  // a pen stops at `most` pixels
  pen.lineWidth = 0.9;
  pen.beginPath();
  let isGap = true;
  for (let i = 0; i < trace.length; i++) {
    const px = LEFT + (i / trace.length) * (width - LEFT - RIGHT);
    const py = y + Math.min(most, Math.max(-most, trace[i] * up));
    if (trace[i] !== LOST) isGap ? pen.moveTo(px, py) : pen.lineTo(px, py);
    isGap = trace[i] === LOST;
  }
  pen.stroke();
}

// Over the traces: events, and the 10 s that the probabilities are about.
function drawMarks(pen, x, width, colour) {
  for (const event of events()) {
    const from = Math.max(x(event.onset_s), LEFT), to = Math.min(x(event.onset_s + event.duration_s), width);
    if (to <= from) continue;
    pen.fillStyle = props.info.colours[event.event];
    pen.fillRect(from, 14, to - from, 5);
    pen.textAlign = "left";
    pen.fillText(event.event, from + 2, 7);
  }
  if (!looked.span_s) return;
  const from = Math.max(x(looked.span_s[0]), LEFT), to = Math.min(x(looked.span_s[1]), width);
  pen.strokeStyle = colour.text;
  pen.lineWidth = 1.5;
  if (to > from) line(pen, from, TOP - 2, to, TOP - 2);
}

// Behind a trace: how much the model's answer depends on each second of this derivation.
function shade(pen, row, x, y, gap, colour) {
  if (!map || row.derivation === null) return;
  for (let s = 0; s < 50; s++) {
    const begin = looked.middle_s - 25 + s, from = Math.max(x(begin), LEFT);
    const to = Math.min(x(begin + 1), eeg.clientWidth - RIGHT);
    const share = map[row.derivation * 50 + s] / 255;
    if (to <= from || share < 0.02) continue;
    pen.fillStyle = `rgba(${colour.hot},${0.75 * share})`;
    pen.fillRect(from, y - gap / 2, to - from, gap);
  }
}

// The whole recording: drawn once for every timeline, then copied under the frame of the page.
function drawBars() {
  const { info } = props, wide = strip.clientWidth, rows = info.classes.length + 1, colour = ink();
  bars = document.createElement("canvas");
  const pen = prepare(bars, rows * ROW + 18, wide), span = wide - LEFT - 2;
  const p = timeline.columns ? decode(timeline.columns, Uint8Array) : [], n = p.length / rows;
  for (let k = 0; k < rows; k++) {
    const name = info.classes[k] || "EEG lost", bottom = (k + 1) * ROW;
    pen.fillStyle = info.colours[name] || colour.faint;
    pen.textAlign = "right";
    pen.fillText(name, LEFT - 8, bottom - ROW / 2);
    for (let i = 0; i < n; i++) {
      const v = p[k * n + i], isKnown = v !== UNKNOWN, high = (isKnown ? v / 200 : 1) * (ROW - 3);
      pen.fillStyle = isKnown ? info.colours[name] || colour.faint : colour.grid;
      pen.fillRect(LEFT + (i / n) * span, bottom - high, span / n + 0.5, high);
    }
    pen.strokeStyle = colour.grid;
    line(pen, LEFT, bottom, wide, bottom);
  }
  for (const event of events()) {
    const k = info.classes.indexOf(event.event), from = LEFT + (event.onset_s / info.duration_s) * span;
    pen.fillStyle = info.colours[event.event];
    pen.fillRect(from, k * ROW, Math.max(2, (event.duration_s / info.duration_s) * span), 2.5);
  }
  pen.fillStyle = colour.faint;
  const step_s = STEPS_S.find((s) => s * 9 > info.duration_s) || info.duration_s / 8;
  const offset_s = info.start_s ? (step_s - (info.start_s % step_s)) % step_s : 0;
  for (let s = offset_s; s <= info.duration_s; s += step_s) {
    const left = LEFT + (s / info.duration_s) * span;
    pen.textAlign = left > wide - 25 ? "right" : left < LEFT + 25 ? "left" : "center";
    pen.fillText(clock(s), left, rows * ROW + 10);
  }
}

function drawStrip() {
  const { duration_s, classes } = props.info;
  if (!duration_s || !strip.clientWidth) return;
  if (!bars) drawBars();
  const wide = strip.clientWidth, pen = prepare(strip, (classes.length + 1) * ROW + 18), span = wide - LEFT - 2;
  pen.drawImage(bars, 0, 0, wide, (classes.length + 1) * ROW + 18);
  pen.fillStyle = "rgba(128,128,128,0.22)";
  pen.strokeStyle = ink().text;
  const frame = [LEFT + (at / duration_s) * span, 0.5, Math.max(3, (seconds() / duration_s) * span)];
  pen.fillRect(...frame, (classes.length + 1) * ROW - 1);
  pen.strokeRect(...frame, (classes.length + 1) * ROW - 1);
}

function showEvents() {
  const { info } = props;
  const count = timeline.done ? `Events: ${events().length}` : "Predicting …";
  find("n_events").textContent = timeline.problem || count;
  find("tsv").disabled = !timeline.done;
  const buttons = events().map((event) => {
    const button = document.createElement("button");
    const lasts = Math.round(event.duration_s), mean = event.confidence.toFixed(2);
    button.textContent = `${clock(event.onset_s)}  ${event.event}  ${lasts} s  (${mean})`;
    button.title = event.channels && event.channels !== "n/a" ? `stands out in ${event.channels}` : "";
    button.style.borderLeft = `4px solid ${info.colours[event.event]}`;
    button.onclick = () => go(event.onset_s);
    return button;
  });
  const text = (nodes) => [...nodes].map((x) => x.textContent + x.title).join();
  if (text(buttons) !== text(list.children)) list.replaceChildren(...buttons);
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

function anew() {
  bars = null;
  draw();
  drawStrip();
}

strip.onclick = (k) => {
  const share = (k.offsetX - LEFT) / (strip.clientWidth - LEFT - 2);
  go(share * props.info.duration_s - seconds() / 2);
};
slider.oninput = () => go(Number(slider.value));
for (const name of ["montage", "low_hz", "high_hz", "notch_hz"]) find(name).onchange = () => go(at);
let before_s = seconds();
find("seconds").onchange = () => {  // the middle stays
  go(at + (before_s - seconds()) / 2);
  before_s = seconds();
};
find("sensitivity").onchange = () => louder(0);
find("reasons").onchange = settle;
find("back").onclick = () => move(-seconds());
find("on").onclick = () => move(seconds());
find("event_before").onclick = () => jump(-1);
find("event_after").onclick = () => jump(1);
find("png").onclick = () => eeg.toBlob((blob) => save(blob, `${props.info.stem}_${Math.round(at)}s.png`));
find("tsv").onclick = () => trigger("export", {});
document.addEventListener("keydown", (k) => {
  const isTyping = k.target.closest("input:not([type=range], [type=radio]), textarea, select, [role=listbox]");
  if (!KEYS[k.key] || isTyping || k.ctrlKey || k.metaKey || k.altKey) return;
  if (!props.info.duration_s) return;
  k.preventDefault();
  KEYS[k.key](k);
});
document.addEventListener("change", (k) => k.target.matches("select, .label input") && k.target.blur());
new ResizeObserver(() => {
  if (width !== element.clientWidth) anew();
  width = element.clientWidth;
}).observe(element);
let wasDark = isDark();
new MutationObserver(() => {  // the class says more than the theme
  if (wasDark !== isDark()) anew();
  wasDark = isDark();
}).observe(document.body, { attributeFilter: ["class"] });
watch("page", arrived);
watch("looked", () => {
  if (!current(props.looked)) return;
  looked = props.looked;
  map = looked.map ? decode(looked.map, Uint8Array) : null;
  draw();
  if (looked.number !== answers || settling) return;
  const [from, to] = looked.span_s || [0, 0], end = at + seconds();  // all of it, or of the page, is shown
  wait(false, Math.min(to, end) - Math.max(from, at) > Math.min(to - from, seconds()) - 0.1 && to > from);
});
watch("timeline", () => {
  if (!current(props.timeline)) return;
  const isOther = timeline.model && props.timeline.model !== timeline.model;
  timeline = props.timeline;
  showEvents();
  anew();
  if (isOther) settle();
});
window.hmsutilsWait = () => wait(true);  // when another model is chosen
watch("tsv", () => props.tsv.text && save(new Blob([props.tsv.text]), props.tsv.name));
let newest = 0;
watch("info", () => {
  if (props.info.opened < newest) return;
  newest = props.info.opened;
  asked = wanted = traces = map = bars = null;
  timeline = looked = {};
  isNew = true;
  element.querySelector(".empty").hidden = true;
  element.querySelector(".full").hidden = false;
  const montage = find("montage");
  for (const x of [...montage.options].slice(1)) x.disabled = props.info.is_bipolar;
  if (props.info.is_bipolar) montage.selectedIndex = 0;
  showEvents();
  go(props.info.middle_s - seconds() / 2);
});
