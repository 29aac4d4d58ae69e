// The page of `hmsutils app`. Python sends `info` (the recording), `page` (its traces), `timeline`
// (probabilities, events) and `looked` (where the model looked); this draws them, and asks for a
// page with 'turn', for the model's reasons with 'settle', for a file with 'export'.
const KEYS = {
  ArrowRight: (k) => move(k.shiftKey ? 1 : seconds()), ArrowLeft: (k) => move(k.shiftKey ? -1 : -seconds()),
  PageDown: () => move(seconds()), PageUp: () => move(-seconds()),
  Home: () => go(0), End: () => go(Infinity),
  ArrowUp: () => louder(-1), ArrowDown: () => louder(1), n: () => jump(1), p: () => jump(-1),
};
const LEFT = 74, TOP = 24, BOTTOM = 22, PX_PER_MM = 96 / 25.4, LOST = -32768, NONE = 255;
const find = (name) => element.querySelector(`[data-name="${name}"]`);
const eeg = find("eeg"), strip = find("strip"), slider = find("slider"), list = find("list");
const set = (name) => Number(find(name).value);
const seconds = () => set("seconds");
let at = 0, asked = null, wanted = null, settling = null, isNew = false, model = null;

function go(to) {
  const end = Math.max(0, props.info.duration_s - seconds());
  at = Math.round(Math.min(Math.max(0, to), end) * 10) / 10;
  slider.value = at;
  ask();
}
const move = (by) => go(at + by);

function ask() {  // one page is on its way at most; the last one wanted comes next
  if (!props.info.duration_s) return;
  wanted = { at_s: at };
  for (const name of ["seconds", "low_hz", "high_hz", "notch_hz"]) wanted[name] = set(name);
  wanted.montage = find("montage").value;
  drawStrip();
  if (!asked) trigger("turn", (asked = wanted));
}

function arrived() {
  const again = wanted !== null && wanted !== asked;
  asked = null;
  if (again) return ask();
  at = props.page.at_s;
  slider.value = at;
  if (isNew) fit();
  isNew = false;
  draw();
  drawStrip();
  clearTimeout(settling);
  settling = setTimeout(settle, 250);
}
const settle = () => trigger("settle", { at_s: at, seconds: seconds(), name: find("reasons").value });

function fit() {  // the sensitivity at which most traces have room, 7 µV/mm or less
  const values = decode(props.page.values, Int16Array), n = values.length / props.page.rows.length;
  const swings = props.page.rows.filter((row) => row.side !== "E").map((_, k) => {
    const seen = values.subarray(k * n, (k + 1) * n).filter((v) => v !== LOST);
    return 0.1 * Math.sqrt(seen.reduce((sum, v) => sum + v * v, 0) / Math.max(1, seen.length));
  });
  const typical = swings.sort((a, b) => a - b)[Math.floor(swings.length / 2)], choice = find("sensitivity");
  const room = [...choice.options].findIndex((x) => (4 * typical * PX_PER_MM) / x.value < paperHeight() / 22);
  const usual = [...choice.options].findIndex((x) => x.value === "7");
  choice.selectedIndex = room < 0 ? choice.length - 1 : Math.max(room, usual);
}

function louder(by) {
  const choice = find("sensitivity");
  choice.selectedIndex = Math.min(Math.max(0, choice.selectedIndex + by), choice.length - 1);
  draw();
}

function jump(by) {  // to the next event, or the one before
  const starts = (props.timeline.events || []).map((event) => event.onset_s);
  const there = by > 0 ? starts.find((s) => s > at + 0.5) : starts.findLast((s) => s < at - 0.5);
  if (there !== undefined) go(there);
}

function decode(text, Kind) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  return new Kind(bytes.buffer);
}

function clock(s) {
  const t = Math.round(s + (props.info.start_s || 0)), two = (x) => String(x).padStart(2, "0");
  return `${Math.floor(t / 3600) % (props.info.start_s === null ? 1e9 : 24)}:${two(Math.floor(t / 60) % 60)}:${two(t % 60)}`;
}

// The colours of the theme, light or dark.
function ink() {
  const style = getComputedStyle(element), dark = document.body.classList.contains("dark");
  const of = (name) => style.getPropertyValue(name).trim();
  return {
    text: of("--body-text-color"), faint: dark ? "#a1a1aa" : "#5f6570", paper: of("--background-fill-primary"),
    grid: dark ? "#3f3f46" : "#dcdfe4", L: dark ? "#f0a8a0" : "#a3271c", R: dark ? "#8ec5ff" : "#1f4fa3",
    M: of("--body-text-color"), E: dark ? "#8fd19e" : "#1c6b35", hot: dark ? "255,165,60" : "240,130,20",
  };
}

function prepare(canvas, height) {
  const width = canvas.clientWidth, ratio = window.devicePixelRatio || 1;
  canvas.width = width * ratio;
  canvas.height = height * ratio;
  canvas.style.height = `${height}px`;
  const pen = canvas.getContext("2d");
  pen.scale(ratio, ratio);
  pen.font = "11px system-ui, sans-serif";
  return [pen, width];
}

const paperHeight = () => Math.min(Math.max(window.innerHeight - 300, 480), 1000);

function draw() {
  const page = props.page;
  if (!page.rows || !eeg.clientWidth) return;
  const height = paperHeight(), colour = ink();
  const [pen, width] = prepare(eeg, height);
  pen.fillStyle = colour.paper;
  pen.fillRect(0, 0, width, height);
  const values = decode(page.values, Int16Array), n = values.length / page.rows.length;
  const x = (s) => LEFT + ((s - page.at_s) / page.seconds) * (width - LEFT);
  const units = page.rows.reduce((sum, row) => sum + 1 + 0.55 * row.first, 0);
  const gap = (height - TOP - BOTTOM) / (units + 0.3), scale = PX_PER_MM / set("sensitivity");
  pen.textBaseline = "middle";
  const every = page.seconds > 15 ? 5 : page.seconds > 10 ? 2 : 1;
  for (let s = Math.ceil(page.at_s); s <= page.at_s + page.seconds; s++) {
    pen.strokeStyle = colour.grid;
    pen.lineWidth = s % 5 ? 0.5 : 1.2;
    line(pen, x(s), TOP, x(s), height - BOTTOM);
    pen.fillStyle = colour.faint;
    pen.textAlign = "center";
    if (s % every === 0 && x(s) < width - 20) pen.fillText(clock(s), x(s), height - BOTTOM / 2);
  }
  drawMarks(pen, x, width, colour);
  let y = TOP - gap * 0.3;
  page.rows.forEach((row, k) => {
    y += gap * (1 + 0.55 * row.first);
    shade(pen, row, x, y, gap, colour);
    pen.fillStyle = row.bad ? colour.faint : colour[row.side];
    pen.textAlign = "right";
    pen.fillText(row.bad ? `(${row.label})` : row.label, LEFT - 8, y);
    const trace = values.subarray(k * n, (k + 1) * n);
    let height_px = scale / 10;
    if (row.side === "E") {  // the heart in a height of its own
      let most = 1;
      for (const v of trace) if (v !== LOST && Math.abs(v) > most) most = Math.abs(v);
      height_px = (gap * 0.8) / most;
    }
    pen.strokeStyle = row.bad ? colour.faint : colour[row.side];
    pen.lineWidth = 0.9;
    pen.save();
    pen.beginPath();
    pen.rect(LEFT, TOP, width - LEFT, height - TOP - BOTTOM);
    pen.clip();
    pen.beginPath();
    let up = true;
    for (let i = 0; i < n; i++) {  // negative is up, as on every EEG machine
      const v = trace[i];
      if (v === LOST) { up = true; continue; }
      const px = LEFT + (i / n) * (width - LEFT), py = y + v * height_px * (row.side === "E" ? -1 : 1);
      up ? pen.moveTo(px, py) : pen.lineTo(px, py);
      up = false;
    }
    pen.stroke();
    pen.restore();
  });
  const bar = 100 * scale;  // 100 µV and a second
  pen.strokeStyle = pen.fillStyle = colour.text;
  pen.lineWidth = 2;
  line(pen, width - 10, height - BOTTOM - 8 - bar, width - 10, height - BOTTOM - 8);
  pen.textAlign = "right";
  pen.fillText("100 µV", width - 15, height - BOTTOM - 8 - bar / 2);
}

function line(pen, x1, y1, x2, y2) {
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

// Over the traces: events, and the 10 s that the probabilities are about.
function drawMarks(pen, x, width, colour) {
  const looked = props.looked;
  for (const event of props.timeline.events || []) {
    const from = Math.max(x(event.onset_s), LEFT), to = Math.min(x(event.onset_s + event.duration_s), width);
    if (to <= from) continue;
    pen.fillStyle = props.info.colours[event.event];
    pen.fillRect(from, 14, to - from, 5);
    pen.textAlign = "left";
    pen.fillText(event.event, from + 2, 7);
  }
  if (looked.start_s === undefined) return;
  const from = Math.max(x(looked.start_s), LEFT), to = Math.min(x(looked.end_s), width);
  pen.strokeStyle = colour.text;
  pen.lineWidth = 1.5;
  if (to > from) line(pen, from, TOP - 2, to, TOP - 2);
}

// Behind a trace: how much the model's answer depends on each second of this derivation.
function shade(pen, row, x, y, gap, colour) {
  const looked = props.looked;
  if (!looked.map || row.derivation === null) return;
  const map = decode(looked.map, Uint8Array);
  for (let s = 0; s < 50; s++) {
    const from = Math.max(x(looked.first_s + s), LEFT), to = x(looked.first_s + s + 1);
    const alpha = map[row.derivation * 50 + s] / 255;
    if (to <= from || alpha < 0.02) continue;
    pen.fillStyle = `rgba(${colour.hot},${0.75 * alpha})`;
    pen.fillRect(from, y - gap / 2, to - from, gap);
  }
}

function drawStrip() {
  const { info, timeline } = props;
  if (!info.duration_s || !strip.clientWidth) return;
  const row = 17, rows = info.classes.length + 1, height = rows * row + 18, colour = ink();
  const [pen, width] = prepare(strip, height), x = (s) => LEFT + (s / info.duration_s) * (width - LEFT - 2);
  pen.textBaseline = "middle";
  const p = timeline.columns ? decode(timeline.columns, Uint8Array) : [], n = p.length / rows;
  for (let k = 0; k < rows; k++) {
    const name = info.classes[k] || "EEG lost", bottom = (k + 1) * row;
    pen.fillStyle = info.colours[name] || colour.faint;
    pen.textAlign = "right";
    pen.fillText(name, LEFT - 8, bottom - row / 2);
    for (let i = 0; i < n; i++) {
      const v = p[k * n + i], left = LEFT + (i / n) * (width - LEFT - 2), wide = (width - LEFT - 2) / n + 0.5;
      pen.fillStyle = v === NONE ? colour.grid : info.colours[name] || colour.faint;
      if (v === NONE) pen.fillRect(left, bottom - row + 2, wide, row - 3);
      else pen.fillRect(left, bottom - (v / 200) * (row - 3), wide, (v / 200) * (row - 3));
    }
    pen.strokeStyle = colour.grid;
    pen.lineWidth = 1;
    line(pen, LEFT, bottom, width, bottom);
  }
  for (const event of timeline.events || []) {
    pen.fillStyle = info.colours[event.event];
    const k = info.classes.indexOf(event.event);
    pen.fillRect(x(event.onset_s), k * row, Math.max(2, x(event.duration_s) - LEFT), 2.5);
  }
  pen.textAlign = "center";
  for (let i = 0; i <= 6; i++) {
    pen.fillStyle = colour.faint;
    pen.textAlign = i === 6 ? "right" : i ? "center" : "left";
    pen.fillText(clock((info.duration_s * i) / 6), x((info.duration_s * i) / 6), height - 8);
  }
  pen.fillStyle = "rgba(128,128,128,0.22)";
  pen.strokeStyle = colour.text;
  const from = x(at), wide = Math.max(3, x(seconds()) - LEFT);
  pen.fillRect(from, 0, wide, rows * row);
  pen.strokeRect(from, 0.5, wide, rows * row - 1);
}

function showEvents() {
  const events = props.timeline.events || [];
  list.replaceChildren();
  find("n_events").textContent = props.timeline.done ? `Events: ${events.length}` : "Predicting …";
  for (const event of events) {
    const button = document.createElement("button");
    button.textContent = `${clock(event.onset_s)}  ${event.event}  ${Math.round(event.duration_s)} s  (${event.confidence.toFixed(2)})`;
    button.title = event.channels ? `Stands out in ${event.channels}` : "";
    button.style.borderLeft = `4px solid ${props.info.colours[event.event]}`;
    button.onclick = () => go(event.onset_s);
    list.append(button);
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}

strip.onclick = (k) => go(((k.offsetX - LEFT) / (strip.clientWidth - LEFT)) * props.info.duration_s - seconds() / 2);
slider.oninput = () => go(Number(slider.value));
for (const name of ["seconds", "montage", "low_hz", "high_hz", "notch_hz"]) find(name).onchange = () => go(at);
find("sensitivity").onchange = draw;
find("reasons").onchange = settle;
find("back").onclick = () => move(-seconds());
find("on").onclick = () => move(seconds());
find("event_before").onclick = () => jump(-1);
find("event_after").onclick = () => jump(1);
find("png").onclick = () => eeg.toBlob((blob) => save(blob, `${props.info.stem}_${Math.round(at)}s.png`));
find("tsv").onclick = () => trigger("export", {});
document.addEventListener("keydown", (k) => {
  const busy = k.target.closest("input:not([type=range]), textarea, select, [role=listbox], [role=radiogroup]");
  if (!KEYS[k.key] || busy || k.ctrlKey || k.metaKey || k.altKey || !element.isConnected) return;
  k.preventDefault();
  KEYS[k.key](k);
});
new ResizeObserver(() => { draw(); drawStrip(); }).observe(element);
new MutationObserver(() => { draw(); drawStrip(); }).observe(document.body, { attributeFilter: ["class"] });
watch("page", arrived);
watch("looked", draw);
watch("timeline", () => {
  drawStrip();
  showEvents();
  draw();
  if (props.timeline.model && model && props.timeline.model !== model) settle();
  model = props.timeline.model || model;
});
watch("tsv", () => props.tsv && save(new Blob([props.tsv.text]), props.tsv.name));
watch("info", () => {
  asked = wanted = null;
  isNew = true;
  slider.max = Math.max(0, props.info.duration_s - seconds());
  element.querySelector(".empty").hidden = true;
  element.querySelector(".full").hidden = false;
  find("montage").querySelectorAll("option").forEach((x, i) => { x.disabled = i > 0 && props.info.is_bipolar; });
  if (props.info.is_bipolar) find("montage").selectedIndex = 0;
  go(props.info.at_s);
});
