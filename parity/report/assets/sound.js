// Sound: a clip of each side to play from the same place, envelopes, and log-mel spectra with their difference.

const SIDES = ["reference", "candidate", "difference"];
const SOUND_LEFT = 84;

function startSound(slot, sound) {
  const sides = SIDES.filter((side) => sound.sides[side]);
  const titles = sides.map((side) => ({ reference: "Reference", candidate: "This run", difference: `Difference ×${sound.gain.toLocaleString("en")}` })[side]);
  const peak = Math.max(...sides.flatMap((side) => sound.sides[side].envelope.map((one) => one.peak)));
  const seconds = Math.max(...sides.map((side) => sound.sides[side].seconds));
  const channels = Math.max(...sides.map((side) => sound.sides[side].channels));
  if (!seconds || !channels) {
    slot.append(element("p", { class: "note" }, "There is no sound to show."));
    return;
  }
  const state = { channel: 0, seconds: 0 };
  const audio = element("audio", { controls: true, preload: "auto", src: sound.sides[sides[0]].clip });
  const listen = choice("Listen to", titles, 0, (index) => {
    const [at, playing] = [audio.currentTime, !audio.paused];
    audio.src = sound.sides[sides[index]].clip;
    audio.addEventListener("loadedmetadata", () => { audio.currentTime = Math.min(at, audio.duration); if (playing) audio.play(); }, { once: true });
  });
  const which = choice("Channel", channels === 2 ? ["left", "right"] : Array.from({ length: channels }, (_, index) => String(index + 1)), 0, (index) => { state.channel = index; drawAll(); });
  const wave = element("canvas", { class: "wave", role: "img", "aria-label": "Envelopes of both runs and of their difference" });
  const spectrum = element("canvas", { class: "spectrum", role: "img", "aria-label": "Log-mel spectra of both runs and the change of level" });
  const pictures = new Map();
  const drawWave = keepDrawn(wave, () => drawEnvelopes(wave, sound, sides, titles, state, seconds, peak));
  const drawSpectrum = keepDrawn(spectrum, () => drawSpectra(spectrum, sound, state, seconds, pictures));
  const drawAll = () => { drawWave(); drawSpectrum(); };
  const moveTo = (time) => { state.seconds = time; drawAll(); timeline.set(time, "sound"); };

  function follow() {
    moveTo(audio.currentTime);
    if (!audio.paused) requestAnimationFrame(follow);
  }
  audio.addEventListener("play", follow);
  audio.addEventListener("seeked", () => { if (audio.paused) moveTo(audio.currentTime); });
  for (const canvas of [wave, spectrum]) {
    const timeAt = (event) => unit((placeOn(canvas, event).x - SOUND_LEFT) / (canvas.clientWidth - SOUND_LEFT)) * seconds;
    canvas.addEventListener("click", (event) => {
      const time = timeAt(event);
      if (time <= audio.duration) audio.currentTime = time;
      moveTo(time);
    });
    canvas.addEventListener("pointerleave", hideTip);
    canvas.addEventListener("pointermove", (event) => {
      const found = canvas === spectrum ? levelsAt(sound, state, timeAt(event), placeOn(canvas, event).y, canvas.clientHeight) : [];
      showTip(event, `${timeAt(event).toFixed(3)} s`, found);
    });
  }
  const choosing = element("div", { class: "controls" }, listen.field, ...(channels > 1 ? [which.field] : []));
  slot.append(choosing, element("div", { class: "player" }, audio), wave, spectrum);
}

function drawEnvelopes(canvas, sound, sides, titles, state, seconds, peak) {
  const { ink, width, height } = brush(canvas);
  const each = height / sides.length;
  sides.forEach((side, row) => {
    const found = sound.sides[side].envelope[state.channel];
    const middle = (row + 0.5) * each;
    titles[row].split(" ×").forEach((words, line) => write(ink, line ? `×${words}` : words, 0, middle - 7 + 15 * line, "left", cssColour("ink")));
    if (side !== "difference") write(ink, `±${inWords(peak)}`, 0, middle + 8);
    if (side !== "difference" && peak > 0) write(ink, `${(20 * Math.log10(peak)).toFixed(1)} dBFS`, 0, middle + 22);
    ink.fillStyle = cssColour("line");
    ink.fillRect(SOUND_LEFT, middle, width - SOUND_LEFT, 1);
    if (!found?.columns) return;
    const values = unpack(found.data, Int16Array);
    const across = ((width - SOUND_LEFT) * sound.sides[side].seconds) / seconds / found.columns;
    ink.fillStyle = cssColour(side === "difference" ? "bad" : "accent");
    for (let column = 0; column < found.columns; column += 1) {
      const scale = 1 / (32767 * (peak || 1));
      const [low, high] = [values[column] * scale, values[found.columns + column] * scale];
      const [top, bottom] = [middle - high * each * 0.48, middle - low * each * 0.48];
      ink.fillRect(SOUND_LEFT + column * across, top, Math.max(1, across), Math.max(1, bottom - top));
    }
  });
  playhead(ink, width, height, state, seconds);
}

function playhead(ink, width, height, state, seconds) {
  ink.fillStyle = cssColour("ink");
  ink.fillRect(SOUND_LEFT + (state.seconds / seconds) * (width - SOUND_LEFT), 0, 1.5, height);
}

/** The three spectra: what to draw, in which colours, and what a byte means. */
function spectra(sound, state) {
  const side = (name) => ({ found: sound.sides[name].spectrum[state.channel], seconds: sound.sides[name].seconds, rate: sound.sides[name].rate_hz, colours: HEAT_TABLE });
  const level = (byte) => `${Math.round(sound.floor_db * (1 - byte / 255))} dB`;
  const change = (byte) => `${(((byte - 127.5) / 127.5) * sound.difference_db).toFixed(1)} dB`;
  return [
    { key: "reference", title: "Reference", ...side("reference"), words: level },
    { key: "candidate", title: "This run", ...side("candidate"), words: level },
    { key: "difference", title: "Change", ...side("reference"), found: sound.level_difference[state.channel], colours: SIGNED_TABLE, words: change },
  ].filter((one) => one.found?.columns);
}

const SPECTRUM_GAP = 8;
const SPECTRUM_FOOT = 18;

function drawSpectra(canvas, sound, state, seconds, pictures) {
  const { ink, width, height } = brush(canvas);
  const rows = spectra(sound, state);
  const each = (height - SPECTRUM_FOOT) / Math.max(1, rows.length) - SPECTRUM_GAP;
  rows.forEach(({ key, title, found, seconds: length, rate, colours }, row) => {
    const name = `${key}-${state.channel}`;
    if (!pictures.has(name)) pictures.set(name, spectrumPicture(found, sound.bands, colours));
    const top = row * (each + SPECTRUM_GAP);
    ink.imageSmoothingEnabled = false;
    ink.drawImage(pictures.get(name), SOUND_LEFT, top, ((width - SOUND_LEFT) * length) / seconds, each);
    write(ink, title, 0, top + each / 2 - 7, "left", cssColour("ink"));
    scaleBar(ink, colours, top + each / 2 + 6, key === "difference" ? [-sound.difference_db, sound.difference_db] : [sound.floor_db, 0]);
    const middle = top + each / 2;
    for (const hertz of [200, 1000, 4000, 12000]) {
      const y = Math.max(top + each * (1 - mel(hertz) / mel(rate / 2)), top + 6);
      const taken = y > middle - 16 && y < middle + 34; // by the title and the scale
      if (hertz < rate / 2) write(ink, taken ? (hertz >= 1000 ? `${hertz / 1000}k` : String(hertz)) : hertz >= 1000 ? `${hertz / 1000} kHz` : `${hertz} Hz`, SOUND_LEFT - 5, y, "right");
    }
  });
  const every = [0.1, 0.25, 0.5, 1, 2, 5, 10, 30, 60].find((one) => seconds / one <= width / 70) ?? 120;
  for (let at = 0; at <= seconds; at += every) {
    const x = SOUND_LEFT + (at / seconds) * (width - SOUND_LEFT);
    write(ink, `${Number(at.toFixed(2))} s`, Math.min(x, width - 2), height - 8, at === 0 ? "left" : x > width - 20 ? "right" : "center");
  }
  playhead(ink, width, height - SPECTRUM_FOOT, state, seconds);
}

/** What the colours of a spectrum mean, in decibels, beside it. */
function scaleBar(ink, colours, y, [low, high]) {
  const wide = 40;
  for (let x = 0; x < wide; x += 1) {
    ink.fillStyle = `rgb(${colours[Math.round((x / (wide - 1)) * 255)].join(" ")})`;
    ink.fillRect(x, y, 1.5, 8);
  }
  const sign = (value) => (value > 0 && low < 0 && high > 0 ? `+${value}` : `${value}`.replace("-", "−"));
  write(ink, `${sign(low)} to ${sign(high)}`, 0, y + 16);
  write(ink, "dB", 0, y + 29);
}

const mel = (hertz) => 2595 * Math.log10(1 + hertz / 700);

/** A canvas of one pixel a number: low bands at the bottom. */
function spectrumPicture(found, bands, colours) {
  const picture = element("canvas", { width: found.columns, height: bands });
  const ink = picture.getContext("2d");
  const pixels = ink.createImageData(found.columns, bands);
  const bytes = unpack(found.data, Uint8Array);
  for (let band = 0; band < bands; band += 1) {
    for (let column = 0; column < found.columns; column += 1) {
      const place = 4 * ((bands - 1 - band) * found.columns + column);
      pixels.data.set([...colours[bytes[band * found.columns + column]], 255], place);
    }
  }
  ink.putImageData(pixels, 0, 0);
  return picture;
}

/** What lies under the pointer: the band's frequency and its level on every side. */
function levelsAt(sound, state, seconds, y, height) {
  const rows = spectra(sound, state);
  const each = (height - SPECTRUM_FOOT) / Math.max(1, rows.length);
  const inside = (y % each) / (each - SPECTRUM_GAP);
  if (!rows.length || inside > 1 || y > height - SPECTRUM_FOOT) return [];
  const band = Math.min(sound.bands - 1, Math.max(0, Math.floor((1 - inside) * sound.bands)));
  const hertz = 700 * (10 ** (((band + 1) / (sound.bands + 1)) * mel(rows[0].rate / 2) / 2595) - 1);
  const lines = rows.filter((one) => seconds <= one.seconds).map((one) => {
    const column = Math.min(one.found.columns - 1, Math.floor((seconds / one.seconds) * one.found.columns));
    return `${one.title}: ${one.words(unpack(one.found.data, Uint8Array)[band * one.found.columns + column])}`;
  });
  return [`around ${Math.round(hertz)} Hz`, ...lines];
}

startSound(slotOf("sound"), readBlock("sound-data"));
