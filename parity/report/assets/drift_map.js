// The drift map: steps down, blocks across, one pass, stream and part at a time. Hover for a cell's number, click or
// move with the arrow keys for its details (drift_detail.js).

const ABSENT = 0, MISSING = 1, NOT_A_NUMBER = 2, INFINITE = 3, EQUAL = 4, ZERO = 5;
const MOST_ROOT_BUTTONS = 6;
const END_WORDS = ["x0", "guided", "latent"]; // of a step, after its blocks
const END_COLUMNS = END_WORDS.length;
const SCALES = [
  { words: "relative L2", low: -6, high: 0 }, // fitted to the errors of the run
  { words: "times harmless noise", low: -2, high: 2 },
];

/** Looks numbers up: `at` is {pass, stream, part, step, column}, where columns beyond the blocks are the step's end. */
function driftModel(drift) {
  const { steps, blocks, scale } = drift;
  const [streams, parts] = [drift.streams.length, drift.parts.length];
  const whole = { errors: unpack(drift.errors, Uint16Array), floors: unpack(drift.floors, Uint16Array) };
  const ends = { errors: unpack(drift.end_errors, Uint16Array), floors: unpack(drift.end_floors, Uint16Array) };
  const value = (code) => {
    if (code === EQUAL || code === ZERO) return 0;
    if (code === INFINITE) return Infinity;
    return code < scale.first ? NaN : 10 ** (scale.low + (code - scale.first) * scale.step);
  };
  const codeOf = (kind, at) => {
    const row = at.pass * streams + at.stream;
    if (at.column >= blocks) return ends[kind][(row * steps + at.step) * END_COLUMNS + at.column - blocks];
    return whole[kind][((row * parts + at.part) * steps + at.step) * blocks + at.column];
  };
  const cell = (at) => {
    const code = codeOf("errors", at);
    const [error, floor] = [value(code), value(codeOf("floors", at))];
    return { code, error, floor, ratio: error === 0 ? 0 : error / floor };
  };
  const words = (at) => {
    if (at.column >= blocks) return drift.end_words[at.column - blocks];
    return drift.part_words[at.stream][at.part];
  };
  const isRoot = (at) => drift.roots.some((root) =>
    root.step === at.step && root.stream === at.stream && (root.pass === null || root.pass === at.pass) &&
    (root.block === null ? root.part - parts === at.column - blocks : root.block === at.column && root.part === at.part));
  const codes = [...whole.errors, ...ends.errors].filter((code) => code >= scale.first);
  const decade = (pick) => Math.log10(value(codes.reduce((one, other) => pick(one, other), codes[0] ?? 65535)));
  SCALES[0].high = Math.min(2, Math.max(-1, Math.ceil(decade(Math.max))));
  SCALES[0].low = Math.min(SCALES[0].high - 2, Math.max(-6, Math.floor(decade(Math.min))));
  return { drift, steps, blocks, columns: blocks + END_COLUMNS, differs: codes.length > 0, cell, words, isRoot, value };
}

/** A cell in words. */
function cellWords({ code, error, floor, ratio }) {
  if (code === ABSENT) return ["the case leaves no such tap"];
  if (code === MISSING) return ["not recorded"];
  if (code === EQUAL) return ["equal in every bit"];
  if (code === NOT_A_NUMBER) return ["could not be computed"];
  if (code === ZERO) return ["equal in value, bits differ (signed zeros)"];
  return [`relative L2 ${inWords(error)}`, `${times(ratio)} harmless noise (${inWords(floor)})`];
}

/** How far along the scale of colours a cell lies. */
function shareOf(cell, scale) {
  const worth = scale === 0 ? cell.error : cell.ratio;
  return broken((Math.log10(worth) - SCALES[scale].low) / (SCALES[scale].high - SCALES[scale].low), scale);
}

/** On the scale of harmless noise a visible break at 1x: within noise a pale third of the colours, beyond it the rest. */
function broken(share, scale) {
  if (scale === 0) return share;
  return share < 0.5 ? unit(share) * 0.3 : 0.55 + (Math.min(1, share) - 0.5) * 0.9;
}

function paintCell(ink, cell, scale, x, y, width, height) {
  if (cell.code === ABSENT) return;
  if (cell.code === MISSING || cell.code === NOT_A_NUMBER) {
    ink.fillStyle = cell.code === MISSING ? cssColour("shade") : cssColour("bad");
    ink.fillRect(x, y, width, height);
    ink.strokeStyle = cssColour(cell.code === MISSING ? "muted" : "ground");
    ink.beginPath();
    ink.moveTo(x + 1, y + height - 1);
    ink.lineTo(x + width - 1, y + 1);
    ink.stroke();
    return;
  }
  ink.fillStyle = cell.code === EQUAL || cell.code === ZERO ? equalColour() : severity(shareOf(cell, scale));
  ink.fillRect(x, y, width, height);
}

const equalColour = () => (isDark() ? "#16382c" : "#cfe8da");

/** Where cells lie on a canvas of some width. */
function mapLayout(model, width) {
  const [left, top, gap] = [40, 8, 12];
  const across = (width - left - gap - 1) / model.columns;
  const down = Math.max(9, Math.min(28, across, 520 / model.steps));
  const x = (column) => left + column * across + (column >= model.blocks ? gap : 0);
  return {
    left, top, across, down, x,
    y: (step) => top + step * down,
    height: top + model.steps * down + 34,
    hit(place) {
      const step = Math.floor((place.y - top) / down);
      let column = Math.floor((place.x - left) / across);
      if (column >= model.blocks) column = Math.floor((place.x - left - gap) / across);
      if (step < 0 || step >= model.steps || column < 0 || column >= model.columns || place.x < left) return null;
      return place.x < x(column) ? null : { step, column };
    },
  };
}

function drawMap(canvas, model, state, hovered) {
  const layout = mapLayout(model, canvas.clientWidth);
  const { ink } = brush(canvas, Math.round(layout.height));
  const space = layout.across > 6 ? 1 : layout.across > 3 ? 0.5 : 0;
  for (let step = 0; step < model.steps; step += 1) {
    for (let column = 0; column < model.columns; column += 1) {
      const at = { ...state, step, column };
      const [x, y] = [layout.x(column), layout.y(step)];
      paintCell(ink, model.cell(at), state.scale, x, y, layout.across - space, layout.down - space);
    }
  }
  const whole = Array.from({ length: model.steps * model.blocks }, (_, index) => model.cell({ ...state, step: index % model.steps, column: Math.floor(index / model.steps) }));
  if (whole.every((cell) => cell.code === ABSENT)) {
    write(ink, "This pass leaves this part of the blocks out.", layout.x(0) + 8, layout.y(model.steps / 2));
  }
  for (const root of model.drift.roots) {
    const column = root.block === null ? root.part - model.drift.parts.length + model.blocks : root.block;
    if (root.step !== null && model.isRoot({ ...state, step: root.step, column })) ring(ink, layout, root.step, column, "accent", true);
  }
  if (hovered) ring(ink, layout, hovered.step, hovered.column, "muted", false);
  ring(ink, layout, state.step, state.column, "ink", false);
  mapLabels(ink, layout, model);
}

/** A frame around a cell, in two colours so that it stands out on any. */
function ring(ink, layout, step, column, colour, dashed) {
  const out = dashed ? 2 : 0;
  const box = [layout.x(column) - 1 - out, layout.y(step) - 1 - out, layout.across + 1 + 2 * out, layout.down + 1 + 2 * out];
  ink.save();
  ink.lineWidth = 4;
  ink.strokeStyle = cssColour("ground");
  ink.strokeRect(...box);
  ink.lineWidth = 2;
  ink.strokeStyle = cssColour(colour);
  ink.setLineDash(dashed ? [3, 2] : []);
  ink.strokeRect(...box);
  ink.restore();
}

function mapLabels(ink, layout, model) {
  const everyRow = Math.ceil(14 / layout.down);
  for (let step = 0; step < model.steps; step += everyRow) {
    write(ink, String(step), layout.left - 6, layout.y(step) + layout.down / 2, "right");
  }
  const every = [1, 2, 4, 8, 16, 32, 64].find((one) => one * layout.across >= 20);
  const below = layout.y(model.steps) + 10;
  for (let block = 0; block < model.blocks; block += every) {
    write(ink, String(block), layout.x(block) + layout.across / 2, below, "center");
  }
  write(ink, "step", 0, layout.top + 5);
  write(ink, "block", layout.x(0), below + 15);
  if (layout.across < 44) return write(ink, END_WORDS.join(", "), layout.x(model.columns - 1) + layout.across, below + 15, "right");
  END_WORDS.forEach((words, end) => write(ink, words, layout.x(model.blocks + end) + layout.across / 2, below, "center"));
}

function drawLegend(canvas, scale, differs) {
  const { ink, width } = brush(canvas);
  const { low, high, words } = SCALES[scale];
  const [left, right] = [84, width - 12];
  ink.fillStyle = equalColour();
  ink.fillRect(0, 4, 60, 12);
  write(ink, "equal bits", 0, 28);
  if (!differs) return canvas.setAttribute("aria-label", "Colours: every cell has equal bits");
  for (let x = left; x < right; x += 1) {
    ink.fillStyle = severity(broken((x - left) / (right - left), scale));
    ink.fillRect(x, 4, 1.5, 12);
  }
  if (scale === 1) {
    ink.fillStyle = cssColour("ink");
    ink.fillRect((left + right) / 2 - 1, 0, 2, 20);
  }
  for (let tick = low; tick <= high; tick += 1) {
    const x = left + ((tick - low) / (high - low)) * (right - left);
    const end = tick === low ? "≤" : tick === high ? "≥" : "";
    write(ink, scale === 0 ? `${end}${tick ? `1e${tick}` : 1}` : `${end}${10 ** tick}×`, x, 28, tick === low ? "left" : tick === high ? "right" : "center");
  }
  canvas.setAttribute("aria-label", `Colours: from equal bits over ${words} up to the worst`);
}

/** Small maps of every pass and stream, to see at a glance where drift is and to choose one. */
function miniMaps(model, state, changed) {
  const { passes, streams } = model.drift;
  const options = passes.flatMap((one, pass) => streams.map((name, stream) => ({ pass, stream, words: `${one.words}, ${name}` })));
  options.sort((one, other) => one.stream - other.stream || one.pass - other.pass);
  const field = element("fieldset", { class: "minis" }, element("legend", {}, "Guidance pass and stream"));
  const inputs = options.map(({ pass, stream, words }) => {
    const input = element("input", { type: "radio", name: "drift-pass", value: `${pass}-${stream}` });
    input.addEventListener("change", () => changed({ pass, stream }));
    const canvas = element("canvas", { "aria-hidden": "true" });
    keepDrawn(canvas, () => {
      canvas.width = model.columns;
      canvas.height = model.steps;
      const ink = canvas.getContext("2d");
      for (let step = 0; step < model.steps; step += 1) {
        for (let column = 0; column < model.columns; column += 1) {
          paintCell(ink, model.cell({ ...state, pass, stream, step, column }), state.scale, column, step, 1, 1);
        }
      }
    });
    field.append(element("label", {}, input, words, canvas));
    return input;
  });
  const choose = () => options.forEach((one, index) => { inputs[index].checked = one.pass === state.pass && one.stream === state.stream; });
  return { field, choose };
}

const ADDRESS = ["pass", "stream", "part", "step", "column", "scale"];

/** The cell that the page's address names, `#drift=PASS,STREAM,PART,STEP,COLUMN,SCALE`; nothing where it names none. */
function cellInAddress(model) {
  const found = location.hash.match(/^#drift=(\d+),(\d+),(\d+),(\d+),(\d+),([01])$/);
  const most = [model.drift.passes.length, model.drift.streams.length, model.drift.parts.length, model.steps, model.columns, SCALES.length];
  if (!found || most.some((count, index) => Number(found[index + 1]) >= count)) return {};
  return Object.fromEntries(ADDRESS.map((key, index) => [key, Number(found[index + 1])]));
}

function startDrift(slot, model) {
  const [root] = model.drift.roots.filter((one) => one.step !== null);
  const ends = model.drift.parts.length;
  const state = {
    pass: root?.pass ?? 0, stream: root?.stream ?? 0, step: root?.step ?? 0, scale: 0,
    part: root && root.part < ends ? root.part : ends - 1,
    column: root ? root.block ?? model.blocks + root.part - ends : 0,
    ...cellInAddress(model),
  };
  let hovered = null;
  const canvas = element("canvas", { class: "map", tabindex: 0, role: "img", "aria-label": "Drift map; arrow keys move from cell to cell", "aria-describedby": "drift-detail" });
  const legend = element("canvas", { class: "legend", role: "img" });
  const detail = element("div", { class: "panel", id: "drift-detail", "aria-live": "polite" });
  const drawDetail = startDetail(detail, model, state, (change) => update(change));
  const minis = miniMaps(model, state, (change) => update(change));
  const parts = choice("Part of the block", model.drift.parts.map((_, part) => (part < ends - 1 ? model.drift.part_words[0][part].replace("audio-to-video", "cross-modal") : "block output")), state.part, (part) => update({ part }));
  const scales = choice("Colours", SCALES.map((one) => one.words), state.scale, (scale) => update({ scale }));
  const draw = keepDrawn(canvas, () => drawMap(canvas, model, state, hovered));
  const drawScale = keepDrawn(legend, () => drawLegend(legend, state.scale, model.differs));

  function update(change) {
    const before = { ...state };
    Object.assign(state, change);
    minis.choose();
    parts.choose(state.part);
    if (before.scale !== state.scale || before.part !== state.part) redrawAll();
    else draw();
    drawScale();
    drawDetail();
    if (Object.keys(change).length) history.replaceState(null, "", `#drift=${ADDRESS.map((key) => state[key]).join(",")}`);
  }

  addEventListener("hashchange", () => update(cellInAddress(model)));
  canvas.addEventListener("pointermove", (event) => {
    hovered = mapLayout(model, canvas.clientWidth).hit(placeOn(canvas, event));
    draw();
    if (!hovered) return hideTip();
    const at = { ...state, ...hovered };
    const where = hovered.column < model.blocks ? `Step ${hovered.step}, block ${hovered.column}` : `Step ${hovered.step}`;
    const first = model.isRoot(at) ? ["departs first here"] : [];
    showTip(event, `${where}: ${model.drift.streams[at.stream]}, ${model.words(at)}`, [...cellWords(model.cell(at)), ...first]);
  });
  canvas.addEventListener("pointerleave", () => { hovered = null; hideTip(); draw(); });
  canvas.addEventListener("click", (event) => {
    const cell = mapLayout(model, canvas.clientWidth).hit(placeOn(canvas, event));
    if (cell) update(cell);
  });
  canvas.addEventListener("keydown", (event) => {
    const [right, down] = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key] ?? [0, 0];
    if (!right && !down) return;
    event.preventDefault();
    const column = Math.min(model.columns - 1, Math.max(0, state.column + right));
    update({ column, step: Math.min(model.steps - 1, Math.max(0, state.step + down)) });
  });

  slot.append(...rootButtons(model, (change) => update(change)), minis.field, element("div", { class: "controls" }, parts.field, scales.field), canvas, legend, detail, outsideTaps(model));
  update({});
}

/** One button a place at which the run first departs. */
function rootButtons(model, changed) {
  const onMap = model.drift.roots.filter((root) => root.step !== null);
  if (!onMap.length) return [];
  const ends = model.drift.parts.length;
  const buttons = onMap.slice(0, MOST_ROOT_BUTTONS).map((root) => {
    const button = element("button", { type: "button", class: "root-button" }, root.words);
    const place = { step: root.step, column: root.block ?? model.blocks + root.part - ends };
    place.pass = root.pass ?? 0; // what a step has once stands in the first pass's map
    if (root.stream !== null) place.stream = root.stream;
    if (root.part < ends) place.part = root.part;
    button.addEventListener("click", () => changed(place));
    return button;
  });
  const more = onMap.length - buttons.length;
  const rest = more > 0 ? [element("span", { class: "note" }, `and ${more} more`)] : [];
  return [element("div", { class: "roots" }, element("span", { class: "note" }, "Departs first at"), ...buttons, ...rest)];
}

/** The taps that lie on no map: text, pictures, first latents, what is decoded. */
function outsideTaps(model) {
  const items = model.drift.outside.map(({ words, codes }) => {
    const [error, floor] = codes.map(model.value);
    const [first] = cellWords({ code: codes[0], error, floor, ratio: error / floor });
    return element("li", {}, words, element("b", {}, codes[0] > ZERO ? `${inWords(error)} (${times(error / floor)})` : first));
  });
  return element("div", {}, element("h3", {}, "Before and after denoising"), element("ul", { class: "chips" }, ...items));
}
