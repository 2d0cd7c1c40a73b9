// Frames side by side, their amplified difference, and a strip of every frame's difference and flicker to choose from.

function startFrames(slot, album) {
  const { shown, per_frame: measured, rate_hz: rate } = album;
  if (!shown.length) {
    slot.append(element("p", { class: "note" }, "There is no frame to show."));
    return;
  }
  const mad = (measured.mad ?? []).map(asNumber);
  const flicker = (measured.flicker ?? []).map(asNumber);
  let place = nearest(worst(mad));
  let playing = 0;
  let stage = null;

  const alt = (side) => `Frame of the ${side} run`;
  const left = element("img", { alt: alt("reference"), width: album.size[0], height: album.size[1] });
  const middle = element("img", { alt: alt("candidate"), width: album.size[0], height: album.size[1] });
  const right = element("canvas", { role: "img", "aria-label": "Amplified difference", width: album.size[0], height: album.size[1] });
  const figure = (title, picture) => element("figure", {}, element("figcaption", {}, title), picture);
  const brightest = (255 / album.gain).toPrecision(3).replace(/\.?0+$/, "");
  const difference = album.reason || `Difference ×${album.gain} (brightest: ${brightest} of 255 levels)`;
  const slider = element("input", { type: "range", min: 0, max: shown.length - 1, step: 1, "aria-label": "Frame" });
  const play = element("button", { type: "button" }, "Play");
  const readout = element("p", { class: "readout", "aria-live": "polite" });
  const strip = element("canvas", { class: "strip", role: "img", "aria-label": "Mean difference and flicker of every frame" });
  const drawStrip = keepDrawn(strip, () => drawFrameStrip(strip, album, mad, flicker, shown[place]));

  function nearest(frame) {
    let best = 0;
    shown.forEach((one, index) => { if (Math.abs(one - frame) < Math.abs(shown[best] - frame)) best = index; });
    return best;
  }

  function show(index) {
    place = Math.min(shown.length - 1, Math.max(0, index));
    slider.value = place;
    left.src = album.reference[place];
    middle.src = album.candidate[place] ?? album.reference[place];
    stage?.copy();
    drawDifference(right, album.difference[place], () => place === index);
    readout.textContent = frameWords(album, shown[place]);
    drawStrip();
  }

  function stop() { clearInterval(playing); playing = 0; play.textContent = "Play"; }

  play.addEventListener("click", () => {
    if (playing) return stop();
    play.textContent = "Pause";
    const each = (1000 / rate) * (shown.length > 1 ? shown[1] - shown[0] : 1);
    playing = setInterval(() => show((place + 1) % shown.length), Math.max(16, each));
  });
  slider.addEventListener("input", () => { stop(); show(Number(slider.value)); });
  const at = (event) => nearest(Math.floor(stripFrame(strip, album, placeOn(strip, event).x)));
  strip.addEventListener("pointermove", (event) => {
    const frame = shown[at(event)];
    showTip(event, `Frame ${frame + 1}`, frameWords(album, frame).split(" · ").slice(1));
  });
  strip.addEventListener("pointerleave", hideTip);
  strip.addEventListener("click", (event) => { stop(); show(at(event)); });
  timeline.listen((seconds, source) => { if (source === "sound" && !playing) show(nearest(Math.floor(seconds * rate))); });

  stage = startStage(left, middle);
  const trio = element("div", { class: "trio" }, figure("Reference", left), figure("This run", middle), figure(difference, right));
  const views = element("div", { class: "views" }, stage.field, trio);
  const view = choice("View", ["side by side", "swipe", "flicker"], 0, (index) => {
    views.classList.toggle("one", index > 0);
    stage.show(["", "swipe", "flicker"][index]);
  });
  slot.append(
    element("div", { class: "controls" }, view.field), views,
    element("div", { class: "player frames-player" }, play, slider), readout, strip,
  );
  show(place);
}

const FLICKER_MS = 400;

/** Both pictures in one place: uncovered from left to right by a slider, or by turns. */
function startStage(left, middle) {
  const [below, above] = [element("img", { alt: left.alt }), element("img", { alt: middle.alt, class: "above" })];
  const edge = element("input", { type: "range", min: 0, max: 100, value: 50, "aria-label": "How much of this run is shown" });
  const title = element("figcaption", {}, "");
  const line = element("div", { class: "edge", "aria-hidden": "true" });
  const pair = element("div", { class: "pair" }, below, above, line);
  const field = element("figure", { class: "stage", hidden: true }, title, pair, edge);
  let turning = 0;
  const cover = () => {
    above.style.clipPath = `inset(0 0 0 ${edge.value}%)`;
    line.style.left = `${edge.value}%`;
  };
  edge.addEventListener("input", cover);
  const drag = (event) => {
    if (edge.hidden || !event.buttons) return;
    edge.value = 100 * placeOn(pair, event).x / pair.clientWidth;
    cover();
  };
  for (const kind of ["pointerdown", "pointermove"]) pair.addEventListener(kind, drag);
  const copy = () => { [below.src, above.src] = [left.src, middle.src]; };
  const show = (mode) => {
    clearInterval(turning);
    field.hidden = !mode;
    line.hidden = edge.hidden = mode !== "swipe";
    above.style.visibility = "visible";
    above.style.clipPath = "none";
    if (mode === "swipe") cover();
    title.textContent = mode === "swipe" ? "Left of the edge: reference. Right of it: this run" : "This run";
    if (mode !== "flicker") return;
    let on = true;
    turning = setInterval(() => {
      on = !on;
      above.style.visibility = on ? "visible" : "hidden";
      title.textContent = on ? "This run" : "Reference";
    }, FLICKER_MS);
  };
  return { field, copy, show };
}

/** Index of the largest number; 0 where there is none. */
function worst(values) {
  return values.reduce((best, value, index) => (value > values[best] ? index : best), 0);
}

function frameWords(album, frame) {
  const of = (key, index = frame) => asNumber(album.per_frame[key]?.[index]);
  const words = [`frame ${frame + 1} of ${album.frames}`, `${(frame / album.rate_hz).toFixed(3)} s`];
  if (Number.isNaN(of("psnr_db"))) return words.join(" · ");
  words.push(`PSNR ${inWords(of("psnr_db"))} dB`, `SSIM ${inWords(of("ssim"))}`, `mean difference ${inWords(of("mad"))} levels`);
  if (frame && !Number.isNaN(of("flicker", frame - 1))) words.push(`flicker ${inWords(of("flicker", frame - 1))} levels`);
  return words.join(" · ");
}

/** Grey levels of a picture in colours of heat; black where nothing differs. */
function drawDifference(canvas, source, current) {
  const ink = canvas.getContext("2d", { willReadFrequently: true });
  ink.fillStyle = "#000";
  if (!source) {
    ink.fillRect(0, 0, canvas.width, canvas.height);
    return;
  }
  const picture = new Image();
  picture.src = source;
  picture.decode().then(() => {
    if (!current()) return;
    ink.drawImage(picture, 0, 0, canvas.width, canvas.height);
    const pixels = ink.getImageData(0, 0, canvas.width, canvas.height);
    for (let index = 0; index < pixels.data.length; index += 4) {
      const level = pixels.data[index];
      const colour = level < 4 ? [0, 0, 0] : HEAT_TABLE[level];
      pixels.data.set(colour, index);
    }
    ink.putImageData(pixels, 0, 0);
  }, () => ink.fillRect(0, 0, canvas.width, canvas.height));
}

const STRIP_LEFT = 8;

function stripFrame(canvas, album, x) {
  return ((x - STRIP_LEFT) / Math.max(1, canvas.clientWidth - 2 * STRIP_LEFT)) * album.frames;
}

function drawFrameStrip(canvas, album, mad, flicker, chosen) {
  const { ink, width, height } = brush(canvas);
  const each = (width - 2 * STRIP_LEFT) / album.frames;
  ink.fillStyle = cssColour("shade");
  ink.fillRect(STRIP_LEFT + chosen * each, 0, Math.max(2, each), height);
  const rows = [["mean difference, levels", mad, 0, "accent", album.limits.mad], ["flicker, levels", flicker, 1, "warn", album.limits.flicker]];
  rows.forEach(([title, values, shift, colour, limit], row) => {
    const [top, bottom] = [row * (height / 2) + 18, (row + 1) * (height / 2) - 6];
    const largest = Math.max(...values.filter(Number.isFinite), 0);
    const most = largest > 0 && limit !== null && limit < 3 * largest ? Math.max(largest, limit) : largest;
    ink.fillStyle = cssColour("line");
    ink.fillRect(STRIP_LEFT, bottom, width - 2 * STRIP_LEFT, 1);
    values.forEach((value, index) => {
      const high = most > 0 && Number.isFinite(value) ? (value / most) * (bottom - top) : 0;
      ink.fillStyle = cssColour(index + shift === chosen ? "ink" : colour);
      ink.fillRect(STRIP_LEFT + (index + shift) * each, bottom - high, Math.max(1, each - (each > 3 ? 1 : 0)), high);
    });
    if (limit !== null && limit <= most) {
      const y = bottom - (limit / most) * (bottom - top);
      ink.fillStyle = cssColour("bad");
      for (let x = STRIP_LEFT; x < width - STRIP_LEFT; x += 8) ink.fillRect(x, y - 0.75, 5, 1.5);
    }
    let said = !values.length ? "no numbers" : largest > 0 ? `most ${inWords(largest)}` : "none anywhere";
    if (limit !== null && values.length) said += `, limit ${inWords(limit)}${limit > most ? " above this scale" : " dashed"}`;
    write(ink, `${title} (${said})`, STRIP_LEFT, top - 9);
  });
}

startFrames(slotOf("frames"), readBlock("frames-data"));
