
// --- the canvas --------------------------------------------------------------------------------------------------------

// What it shows where nothing can be painted: a stroke made beforehand.
const stillOf = (demo) => ({ ...demo, pickers: [], recipe: null, live: { ...demo.live, kind: "live" } });

// Red, green and blue on [0, 1] as a picture; several lie side by side.
function sheetOf([height, width], ...images) {
  const sheet = new ImageData(width * images.length, height);
  images.forEach((values, i) => {
    for (let k = 0; k < height * width; k++) {
      const to = 4 * (Math.floor(k / width) * sheet.width + i * width + (k % width));
      for (let c = 0; c < 3; c++) sheet.data[to + c] = values[3 * k + c] * 255; // clamped and rounded
      sheet.data[to + 3] = 255;
    }
  });
  return sheet;
}
async function fileOf(sheet) {
  const canvas = new OffscreenCanvas(sheet.width, sheet.height);
  canvas.getContext("2d").putImageData(sheet, 0, 0);
  return new Uint8Array(await (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer());
}
const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

function crc32(bytes) {
  let sum = ~0;
  for (const byte of bytes) {
    sum ^= byte;
    for (let k = 0; k < 8; k++) sum = sum & 1 ? (sum >>> 1) ^ 0xedb88320 : sum >>> 1;
  }
  return ~sum >>> 0;
}
// A PNG file with a text in it, after its head: an iTXt chunk, as the PNG specification has it.
function noted(file, key, text) {
  const content = new TextEncoder().encode(`iTXt${key}\0\0\0\0\0${text}`);
  const chunk = new Uint8Array(content.length + 8);
  const view = new DataView(chunk.buffer);
  view.setUint32(0, content.length - 4);
  chunk.set(content, 4);
  view.setUint32(content.length + 4, crc32(content));
  const head = 33; // signature and IHDR
  return new Uint8Array([...file.subarray(0, head), ...chunk, ...file.subarray(head)]);
}

// What paint.py's `Paint` does: strokes one after the other, each live; undo, stop, an eraser, and the note of it all.
class Painting extends Demo {
  constructor(demo, index, widget, canvas) {
    super(demo, index, widget, canvas);
    Object.assign(this, { images: [], strokes: [], pending: [], discard: false, opened: false });
    begun.then((there) => {
      if (there) return;
      this.place.replaceChildren();
      new Demo(stillOf(demo), index, widget).start();
    });
  }
  order() {} // nothing beyond its own tools

  // Another source, as it is; the first one with the stroke that was made beforehand.
  async go() {
    this.cancel();
    this.pending = [];
    const turn = (this.turn = {});
    const picture = await this.picture(0);
    const [height, width] = [picture.height, picture.width];
    const opening = this.opened ? null : await pixelsOf(bytesOf(this.results[""].sheet));
    if (turn !== this.turn) return;
    Object.assign(this, { sides: [height, width], images: [numbersOf(picture)], strokes: [] });
    if (opening) {
      const both = numbersOf(opening);
      const half = Float32Array.from({ length: 3 * height * width }, (_, k) => {
        const pixel = Math.floor(k / 3);
        return both[3 * (Math.floor(pixel / width) * opening.width + width + (pixel % width)) + (k % 3)];
      });
      this.images.push(half);
      this.strokes.push(this.recipe.note.strokes[0]);
    }
    this.settle("done", opening ? "computed beforehand" : "");
    this.opened = true;
  }

  settle(state, text) {
    const { model } = this.shown;
    model.set("result", { sheet: sheetOf(this.sides, this.images[0], this.images.at(-1)) });
    model.set("done", this.strokes.length);
    model.set("status", { state, text });
  }

  asked({ type, erase }, buffers) {
    if (!this.images.length) return; // no source yet
    if (type === "stop") this.stop();
    else if (type === "export") this.save();
    else if (type === "undo" && this.run) {
      this.discard = true;
      this.stop();
    } else if (type === "undo") {
      if (this.strokes.pop()) this.images.pop();
      this.settle("done", "");
    } else if (type === "stroke") {
      const { model } = this.shown;
      const chosen = model.get("chosen");
      const entry = model.get("palette")[chosen];
      const name = erase ? "" : model.get("names")[entry.key] ?? "";
      this.pending.push({ mask: new Uint8Array(buffers[0]), erase, chosen, entry, name, amount: model.get("at") });
      if (!this.run) this.next();
    }
  }

  // The next stroke that waits.
  async next() {
    const [stroke] = this.pending;
    const mask = Float32Array.from(stroke.mask, (value) => value / 255);
    const [source, image] = [this.images[0], this.images.at(-1)];
    if (stroke.erase) {
      const erased = image.map((value, k) => {
        const [share, far] = [mask[Math.floor(k / 3)], source[k] - value];
        return share < 0.5 ? value + share * far : source[k] - far * (1 - share);
      });
      return this.commit(erased, {});
    }
    const id = (this.run = ++runs);
    this.shown.model.set("status", { state: "running", text: "" });
    if (!(await begun) || id !== this.run) return;
    busy.set(id, (message) => this.answered(message));
    const images = { sides: this.sides, values: [image, source] };
    const job = { type: "run", id, demo: this.index, pick: [stroke.chosen], images, mode: 0, seed: 0 };
    const rest = { steps: this.recipe.steps, captions: [], rows: 1, columns: 2 };
    worker.postMessage({ ...job, ...rest, stroke: { mask, amount: stroke.amount } });
  }

  commit(image, { text = "", until = null, ceiling = null }) {
    const { mask, erase, entry, name } = this.pending.shift();
    const { steps, step_size, radius } = this.recipe.note.strokes[0];
    const way = { name, ceiling, steps, step_size, radius };
    const about = { network: entry.label, component: erase ? -1 : entry.component, ...way };
    this.images.push(image);
    this.strokes.push({ ...about, until: until === steps ? null : until, mask });
    if (this.pending.length) this.next();
    else this.settle(until === null || until === steps ? "done" : "stopped", text);
  }

  answered({ type, id, pixels, width, captions, step, total, text, stopped, image, ...rest }) {
    if (id !== this.run) return;
    const { model } = this.shown;
    if (type === "frame") {
      model.emit("msg:custom", { type, captions, text, step, total }, [new ImageData(pixels, width)]);
      return;
    }
    busy.delete(id);
    this.run = 0;
    const discard = this.discard;
    this.discard = false;
    if (type !== "done" || discard) {
      this.pending = [];
      const said = { error: text, left: "left for another pick", done: "taken back" }[type];
      this.settle(type === "error" ? "error" : "stopped", said);
      return;
    }
    if (stopped) this.pending.length = 1; // what waits is not begun
    const rgb = image.length === this.images[0].length ? image : this.images[0].map((_, k) => image[Math.floor(k / 3)]);
    this.commit(rgb, { ...rest, text: `${text}${stopped ? " (stopped)" : ", computed here"}` });
  }

  async save() {
    const { model } = this.shown;
    const [source, last] = [this.images[0], this.images.at(-1)];
    const strokes = this.strokes.map(async ({ mask, ...stroke }) => {
      if (typeof mask === "string") return { ...stroke, mask };
      const grey = Float32Array.from({ length: 3 * mask.length }, (_, k) => mask[Math.floor(k / 3)] / 255);
      return { ...stroke, mask: base64(await fileOf(sheetOf(this.sides, grey))) };
    });
    const note = { ...this.recipe.note, source: base64(await fileOf(sheetOf(this.sides, source))) };
    const text = JSON.stringify({ ...note, strokes: await Promise.all(strokes) });
    const file = noted(await fileOf(sheetOf(this.sides, last)), "nbhelpers", text);
    model.emit("msg:custom", { type: "file", name: "painted.png" }, [file]);
  }
}
