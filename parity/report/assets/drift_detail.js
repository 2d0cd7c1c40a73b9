// Details of one cell of the drift map: all its parts in all passes, its row and column as profiles, and its code.

function startDetail(panel, model, state, changed) {
  const title = element("h3", {}, "");
  const matrix = element("table", { class: "matrix" });
  const where = element("dl", { class: "where" });
  const alongBlocks = profile(model, state, "blocks");
  const alongSteps = profile(model, state, "steps");
  const right = element("div", { class: "profiles" }, alongBlocks.figure, alongSteps.figure);
  panel.append(title, element("div", { class: "detail" }, element("div", {}, matrix, where), right));

  return () => {
    const inBlock = state.column < model.blocks;
    const place = inBlock ? `Step ${state.step}, block ${state.column}` : `Step ${state.step}, after the blocks`;
    const here = model.cell(state);
    title.textContent = `${place}: ${model.drift.streams[state.stream]}, ${model.words(state)} — ${cellWords(here).join(", ")}`;
    matrix.replaceChildren(...matrixRows(model, state, changed));
    where.replaceChildren(...moduleLines(model, state));
    alongBlocks.draw();
    alongSteps.draw();
  };
}

function matrixRows(model, state, changed) {
  const { passes, streams, parts } = model.drift;
  const head = element("thead", {}, element("tr", {}, element("th", {}, ""), ...passes.map((one) => element("th", { scope: "col" }, one.words.replace(/ pass$/, "")))));
  const body = element("tbody", {});
  streams.forEach((name, stream) => {
    body.append(element("tr", { class: "group" }, element("th", { colspan: passes.length + 1, scope: "rowgroup" }, name)));
    const rows = state.column < model.blocks ? parts.map((_, part) => ({ part })) : [0, 1, 2].map((end) => ({ part: state.part, column: model.blocks + end }));
    for (const row of rows) {
      const once = row.column > model.blocks; // guided predictions and latents
      const cells = once
        ? [element("td", { colspan: passes.length }, valueButton(model, state, { ...row, pass: 0, stream }, changed))]
        : passes.map((_, pass) => element("td", {}, valueButton(model, state, { ...row, pass, stream }, changed)));
      body.append(element("tr", {}, element("th", { scope: "row" }, model.words({ ...state, stream, ...row })), ...cells));
    }
  });
  return [head, body];
}

function valueButton(model, state, change, changed) {
  const at = { ...state, ...change };
  const cell = model.cell(at);
  if (cell.code === ABSENT) return "";
  const chosen = Object.keys(change).every((key) => change[key] === state[key]);
  const words = cell.code > ZERO ? inWords(state.scale ? cell.ratio : cell.error) : { [EQUAL]: "=", [ZERO]: "±0", [MISSING]: "none" }[cell.code] ?? "NaN";
  const button = element("button", { type: "button", "aria-pressed": String(chosen), title: cellWords(cell).join(", ") }, words);
  if (model.isRoot(at)) button.classList.add("root");
  if (cell.code === EQUAL || cell.code === ZERO) button.style.background = equalColour();
  if (cell.code > ZERO) {
    const share = shareOf(cell, state.scale);
    button.style.background = severity(share);
    button.style.color = inkOn(share);
  }
  button.addEventListener("click", () => changed(change));
  return button;
}

function moduleLines(model, state) {
  const place = state.column < model.blocks ? state.part : model.drift.parts.length + state.column - model.blocks;
  const found = model.drift.modules[state.stream][place];
  const lines = [["native", found.native], ["official", found.official], ["weights", found.weights.replace("{block}", state.column)]];
  return lines.filter(([, words]) => words).flatMap(([label, words]) => [element("dt", {}, label), element("dd", {}, words)]);
}

/** Errors along the blocks of a step, or along the steps of a block, over their floors, on a logarithmic scale. */
function profile(model, state, axis) {
  const canvas = element("canvas", { role: "img" });
  const caption = element("figcaption", {}, "");
  const draw = () => {
    const count = axis === "blocks" ? model.blocks : model.steps;
    const cells = Array.from({ length: count }, (_, index) => model.cell(axis === "blocks" ? { ...state, column: index } : { ...state, step: index }));
    const chosen = axis === "blocks" ? state.column : state.step;
    caption.textContent = axis === "blocks"
      ? `Along the blocks of step ${state.step}: ${model.words({ ...state, column: 0 })}`
      : `Along the steps: ${state.column < model.blocks ? `block ${state.column}, ` : ""}${model.words(state)}`;
    canvas.setAttribute("aria-label", caption.textContent);
    drawProfile(canvas, cells, chosen);
  };
  return { figure: element("figure", {}, canvas, caption), draw: keepDrawn(canvas, draw) };
}

function drawProfile(canvas, cells, chosen) {
  const { ink, width, height } = brush(canvas);
  const [left, right, top, bottom] = [44, width - 6, 8, height - 16];
  const finite = cells.flatMap((cell) => [cell.error, cell.floor]).filter((value) => value > 0 && Number.isFinite(value));
  const low = Math.floor(Math.log10(Math.min(1e-3, ...finite)));
  const high = Math.ceil(Math.log10(Math.max(1e-2, ...finite)));
  const x = (index) => left + (cells.length > 1 ? index / (cells.length - 1) : 0.5) * (right - left);
  const y = (value) => bottom - unit((Math.log10(value) - low) / (high - low)) * (bottom - top);
  for (let decade = low; decade <= high; decade += Math.ceil((high - low) / 4)) {
    ink.fillStyle = cssColour("line");
    ink.fillRect(left, y(10 ** decade), right - left, 1);
    write(ink, decade === 0 ? "1" : `1e${decade}`, left - 6, y(10 ** decade), "right");
  }
  const line = (key, colour, thick, dash) => {
    ink.strokeStyle = cssColour(colour);
    ink.lineWidth = thick;
    ink.setLineDash(dash);
    ink.beginPath();
    let drawing = false;
    cells.forEach((cell, index) => {
      const shown = cell[key] > 0 && Number.isFinite(cell[key]);
      if (shown) ink[drawing ? "lineTo" : "moveTo"](x(index), y(cell[key]));
      drawing = shown;
    });
    ink.stroke();
    ink.setLineDash([]);
  };
  line("floor", "muted", 1, [4, 3]);
  line("error", "accent", 2, []);
  cells.forEach((cell, index) => {
    const shown = cell.error > 0 && Number.isFinite(cell.error);
    if (cell.code <= MISSING) return;
    ink.fillStyle = index === chosen ? cssColour("ink") : cell.code === EQUAL ? cssColour("good") : cssColour("accent");
    ink.beginPath();
    ink.arc(x(index), shown ? y(cell.error) : bottom, index === chosen ? 4.5 : 2, 0, 7);
    ink.fill();
  });
  write(ink, "dashed: harmless noise", right, height - 6, "right");
}

if (numbers.drift) startDrift(slotOf("drift"), driftModel(numbers.drift));
