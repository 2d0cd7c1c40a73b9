"use strict";
// What every part of the page uses: data, elements made of text, numbers in words, colours, tooltips, redrawing.

const readBlock = (id) => JSON.parse(document.getElementById(id).textContent);

/** Base64 of little-endian numbers to a typed array. */
function unpack(base64, Type) {
  const bytes = Uint8Array.from(atob(base64), (mark) => mark.charCodeAt(0));
  return new Type(bytes.buffer);
}

/** An element. Children are elements or text; text never becomes HTML. */
function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === true) made.setAttribute(key, "");
    else if (value !== false && value !== null) made.setAttribute(key, value);
  }
  made.append(...children);
  return made;
}

/** JSON holds infinities and NaN as strings. */
const asNumber = (value) => (typeof value === "number" ? value : value === "inf" ? Infinity : value === "-inf" ? -Infinity : NaN);

/** Three digits, without a needless exponent. */
function inWords(value) {
  if (Number.isNaN(value)) return "no number";
  if (!Number.isFinite(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e-3 && size < 1e5) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace("e+", "e").replace("-", "−");
}

/** How many times as large, for a ratio. */
const times = (ratio) => (ratio >= 10 ? `${Math.round(ratio)}×` : `${Number(ratio.toPrecision(2))}×`);

const unit = (value) => Math.min(1, Math.max(0, value));

// ------------------------------------------------ colours

// Blue to yellow in even steps of lightness (after cividis): reads alike with deuteranopia and on a grey printer.
const HEAT = [[0, 34, 78], [53, 69, 108], [87, 93, 109], [125, 124, 120], [165, 156, 116], [210, 192, 96], [254, 232, 56]];
const COLD_TO_HOT = [[90, 170, 250], [40, 84, 150], [18, 20, 28], [150, 44, 40], [255, 150, 90]];

function along(stops, share) {
  const place = unit(share) * (stops.length - 1);
  const low = Math.min(Math.floor(place), stops.length - 2);
  return stops[low].map((from, index) => Math.round(from + (stops[low + 1][index] - from) * (place - low)));
}

const table256 = (stops) => Array.from({ length: 256 }, (_, index) => along(stops, index / 255));
const HEAT_TABLE = table256(HEAT);
const SIGNED_TABLE = table256(COLD_TO_HOT);

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (document.documentElement.dataset.theme ?? (darkScheme.matches ? "dark" : "light")) === "dark";
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

/** Worse stands out more: brighter on a dark page, darker on a light one. */
function severityLevels(share) {
  const place = 0.08 + 0.92 * unit(share);
  return along(HEAT, isDark() ? place : 1 - place);
}

const severity = (share) => `rgb(${severityLevels(share).join(" ")})`;

/** Black or white, whichever reads on a severity. */
function inkOn(share) {
  const [red, green, blue] = severityLevels(share);
  return 0.299 * red + 0.587 * green + 0.114 * blue > 130 ? "#14161a" : "#ffffff";
}

// ------------------------------------------------ drawing

const drawers = [];

/** Draw now, and again when the size or the theme changes. */
function keepDrawn(canvas, draw) {
  const again = () => { if (canvas.clientWidth) draw(); };
  drawers.push(again);
  new ResizeObserver(again).observe(canvas);
  return again;
}

function redrawAll() { drawers.forEach((draw) => draw()); }

/** A canvas at the screen's own resolution, cleared, in CSS pixels. */
function brush(canvas, height = canvas.clientHeight) {
  const ratio = devicePixelRatio || 1;
  const width = canvas.clientWidth;
  if (canvas.clientHeight !== height) canvas.style.height = `${height}px`;
  const [wide, high] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== wide || canvas.height !== high) { canvas.width = wide; canvas.height = high; }
  const ink = canvas.getContext("2d");
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, width, height);
  ink.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  return { ink, width, height };
}

function write(ink, words, x, y, align = "left", colour = cssColour("muted")) {
  ink.fillStyle = colour;
  ink.textAlign = align;
  ink.textBaseline = "middle";
  ink.fillText(words, x, y);
}

/** The pointer's place on a canvas, in CSS pixels. */
function placeOn(canvas, event) {
  const box = canvas.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
}

// ------------------------------------------------ tooltip, choices, theme

const tip = element("div", { class: "tip", role: "tooltip", hidden: true });

function showTip(event, title, lines) {
  tip.replaceChildren(element("b", {}, title), ...lines.map((line) => element("div", {}, line)));
  tip.hidden = false;
  const { width, height } = tip.getBoundingClientRect();
  const left = event.clientX + 14 + width > innerWidth ? event.clientX - 14 - width : event.clientX + 14;
  const top = event.clientY + 16 + height > innerHeight ? event.clientY - 12 - height : event.clientY + 16;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${Math.max(4, top)}px`;
}

function hideTip() { tip.hidden = true; }

let choices = 0;

/** One of several, as radio buttons; `choose(index)` selects one without calling back. */
function choice(legend, words, chosen, changed) {
  const name = `choice-${(choices += 1)}`;
  const inputs = words.map((word, index) => {
    const input = element("input", { type: "radio", name, value: index });
    input.checked = index === chosen;
    input.addEventListener("change", () => changed(index));
    return input;
  });
  const labels = words.map((word, index) => element("label", {}, inputs[index], word));
  const field = element("fieldset", {}, element("legend", {}, legend), element("div", { class: "choice" }, ...labels));
  return { field, choose: (index) => { inputs[index].checked = true; } };
}

function themeButton() {
  const button = element("button", { type: "button", class: "theme" }, "");
  const show = () => { button.textContent = isDark() ? "Light" : "Dark"; };
  button.addEventListener("click", () => {
    document.documentElement.dataset.theme = isDark() ? "light" : "dark";
    show();
    redrawAll();
  });
  darkScheme.addEventListener("change", () => { show(); redrawAll(); });
  show();
  return button;
}

const slotOf = (section) => {
  const slot = document.querySelector(`#${section} .slot`);
  slot?.replaceChildren();
  return slot;
};

/** Seconds into the clip, shared by picture and sound. */
const timeline = {
  listeners: [],
  listen(listener) { this.listeners.push(listener); },
  set(seconds, source) { this.listeners.forEach((listener) => listener(seconds, source)); },
};

document.body.append(tip);
document.querySelector("nav").append(themeButton());
const numbers = readBlock("numbers");
