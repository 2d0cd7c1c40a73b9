// Limits: in every row the limit at 1, harmless variation and known defects where they lie, and the run's own value.

const DECADES = 3; // on either side of the limit
const AXIS_ROWS = { floors: 8, value: 15, defects: 22 };

/** Along the axis, in CSS pixels; what lies beyond its ends is drawn at them. */
function axisPlace(share, width) {
  const decade = share > 0 ? Math.log10(share) : -Infinity;
  return 8 + unit((decade + DECADES) / (2 * DECADES)) * (width - 16);
}

function axisPoints(found) {
  const point = (kind) => ([who, share, words, wanted]) => ({ kind, who, share: asNumber(share), words, wanted });
  const [share, words] = found.value;
  return [
    ...found.floors.map(point("floors")), ...found.defects.map(point("defects")),
    { kind: "value", who: "this run", share: asNumber(share), words, wanted: true },
  ].filter((one) => !Number.isNaN(one.share));
}

function drawAxis(canvas, points) {
  const { ink, width, height } = brush(canvas);
  const middle = axisPlace(1, width);
  ink.fillStyle = cssColour("good-tint");
  ink.fillRect(0, 0, middle, height);
  ink.fillStyle = cssColour("bad-tint");
  ink.fillRect(middle, 0, width - middle, height);
  ink.fillStyle = cssColour("ink");
  ink.fillRect(middle - 0.75, 0, 1.5, height);
  for (const { kind, share, wanted } of points) {
    const [x, y] = [axisPlace(share, width), AXIS_ROWS[kind]];
    ink.globalAlpha = kind === "value" ? 1 : wanted ? 0.75 : 0.25;
    ink.fillStyle = cssColour(kind === "floors" ? "good" : kind === "defects" ? "bad" : "ink");
    ink.beginPath();
    if (kind === "value") { ink.moveTo(x, y - 7); ink.lineTo(x + 6, y); ink.lineTo(x, y + 7); ink.lineTo(x - 6, y); }
    else ink.arc(x, y, 3, 0, 7);
    ink.fill();
    if (kind === "value") { ink.strokeStyle = cssColour("surface"); ink.lineWidth = 1; ink.stroke(); }
  }
  ink.globalAlpha = 1;
}

function startAxis(canvas, found) {
  const points = axisPoints(found);
  keepDrawn(canvas, () => drawAxis(canvas, points));
  canvas.addEventListener("pointerleave", hideTip);
  canvas.addEventListener("pointermove", (event) => {
    const place = placeOn(canvas, event);
    const away = ({ kind, share }) => Math.hypot(axisPlace(share, canvas.clientWidth) - place.x, AXIS_ROWS[kind] - place.y);
    const near = points.filter((point) => away(point) < 9).sort((one, other) => away(one) - away(other)).slice(0, 5);
    const kinds = { floors: "harmless", defects: "defect", value: "this run" };
    const lines = near.map((one) => `${kinds[one.kind]}${one.kind === "value" ? "" : ` ${one.who}`}: ${one.words}, ${inWords(one.share)}× the limit${one.wanted ? "" : " (not its target)"}`);
    showTip(event, `limit ${found.limit}${found.calibrated ? "" : ", not calibrated"}`, lines);
  });
}

function drawAxisKey(canvas) {
  const { ink, width } = brush(canvas);
  for (let decade = -DECADES; decade <= DECADES; decade += 1) {
    const words = decade === 0 ? "limit" : decade === -DECADES ? "≤0.001×" : decade === DECADES ? "≥1000×" : decade % 2 ? `${10 ** decade}×` : "";
    const align = decade === -DECADES ? "left" : decade === DECADES ? "right" : "center";
    write(ink, words, decade === -DECADES ? 0 : decade === DECADES ? width : axisPlace(10 ** decade, width), 9, align);
  }
}

for (const canvas of document.querySelectorAll(".axis")) startAxis(canvas, numbers.limits[canvas.dataset.metric]);
for (const canvas of document.querySelectorAll(".axis-key")) keepDrawn(canvas, () => drawAxisKey(canvas));

/** Rows by words in their text, and those beyond their limits alone; groups with rows left open themselves. */
function startFilter(box) {
  const rows = [...document.querySelectorAll("#metrics .metrics tbody tr")];
  const words = element("input", { type: "search", placeholder: "Filter metrics", "aria-label": "Filter metrics" });
  const beyond = element("input", { type: "checkbox" });
  const count = element("span", { class: "note", "aria-live": "polite" }, "");
  const filter = () => {
    const wanted = words.value.trim().toLowerCase();
    let left = 0;
    for (const row of rows) {
      row.hidden = (beyond.checked && !row.classList.contains("bad")) || !row.textContent.toLowerCase().includes(wanted);
      left += row.hidden ? 0 : 1;
    }
    if (wanted || beyond.checked) {
      for (const group of document.querySelectorAll("#metrics details.more")) group.open = group.querySelector("tbody tr:not([hidden])") !== null;
    }
    count.textContent = `${left} of ${rows.length}`;
  };
  words.addEventListener("input", filter);
  beyond.addEventListener("change", filter);
  box.append(words, element("label", {}, beyond, " beyond their limits only"), count);
  filter();
}

for (const box of document.querySelectorAll(".filter")) startFilter(box);
