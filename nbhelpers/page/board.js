// @ts-check
// A brush over the first cell, for Paint and for Fill a hole: by mouse, finger and keyboard.

const BRUSHES = [4, 8, 12, 16, 24, 32]; // pixels

class Board {
  frame;
  width;
  height;
  /** @type {number[]} */
  at; // of the brush: x, y
  stroke; // the mask under way
  constructor(frame) {
    const [height, width] = frame.sides;
    Object.assign(this, { frame, height, width, at: [width / 2, height / 2], stroke: null });
    this.cover = make("canvas", { width, height, className: "nb-cover" });
    this.cover.ariaHidden = "true";
    const { canvas } = frame.cells[0];
    this.el = canvas.parentElement;
    this.el.append(this.cover);
    this.el.classList.add("nb-board");
    Object.assign(this.el, { tabIndex: 0, ariaLabel: "canvas: arrow keys move the brush, Enter paints" });
    this.el.setAttribute("role", "application");
    const on = (kind, act) => this.el.addEventListener(kind, act);
    on("pointerdown", (event) => this.down(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", () => this.stroke && this.end());
    on("pointercancel", () => ((this.stroke = null), this.outline()));
    on("keydown", (event) => this.key(event));
    this.outline();
  }
  get size() {
    return BRUSHES[this.frame.wishes[this.frame.demo.id].controls.brush];
  }
  // Soft by one pixel at its edge; a stroke is the most of all places of the brush.
  /** @param {Uint8ClampedArray} into @param {number[]} at */
  stamp(into, [x, y]) {
    for (let row = 0; row < this.height; row++)
      for (let column = 0; column < this.width; column++) {
        const far = Math.hypot(column + 0.5 - x, row + 0.5 - y);
        const value = 255 * Math.min(1, Math.max(0, this.size / 2 + 0.5 - far));
        const k = row * this.width + column;
        into[k] = Math.max(into[k], value);
      }
    return into;
  }
  fresh() {
    return new Uint8ClampedArray(this.width * this.height);
  }
  outline() {
    const context = this.cover.getContext("2d");
    const shown = this.stroke ?? this.stamp(this.fresh(), this.at);
    const pixels = context.createImageData(this.width, this.height);
    shown.forEach((value, i) => pixels.data.set([255, 140, 0, value / 2], 4 * i));
    context.putImageData(pixels, 0, 0);
  }
  placeOf(event) {
    const box = this.el.getBoundingClientRect();
    return [((event.clientX - box.left) / box.width) * this.width, ((event.clientY - box.top) / box.height) * this.height];
  }
  down(event) {
    if (event.button !== 0) return;
    this.el.focus();
    this.el.setPointerCapture(event.pointerId);
    this.at = this.placeOf(event);
    this.stroke = this.stamp(this.fresh(), this.at);
    this.outline();
    event.preventDefault();
  }
  move(event) {
    const [from, to] = [this.at, this.placeOf(event)];
    this.at = to;
    const count = Math.max(1, Math.ceil(Math.hypot(to[0] - from[0], to[1] - from[1])));
    if (this.stroke)
      for (let k = 1; k <= count; k++)
        this.stamp(this.stroke, [0, 1].map((i) => from[i] + ((to[i] - from[i]) * k) / count));
    this.outline();
  }
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const far = event.shiftKey ? 8 : 2;
    const way = { ArrowRight: [far, 0], ArrowLeft: [-far, 0], ArrowDown: [0, far], ArrowUp: [0, -far] }[event.key];
    if (way) {
      this.at = this.at.map((value, i) => Math.max(0, Math.min(this.width, value + way[i])));
      this.outline();
    } else if (event.key === "Enter" || event.key === " ") {
      this.stroke = this.stamp(this.fresh(), this.at);
      this.end();
    } else return;
    event.preventDefault();
  }
  end() {
    const { stroke } = this;
    this.stroke = null;
    this.outline();
    if (stroke.some(Boolean)) this.stroked(stroke);
  }
  // What a stroke does: defined by each kind of board.
  stroked(_mask) {}
}

// What is covered is to be filled; strokes add up.
class Hole extends Board {
  constructor(frame) {
    super(frame);
    this.clear();
    place("controls").append(button("No hole", () => this.undone()));
  }
  // The hole that it opens with: the middle half of both sides.
  clear() {
    const inside = (k, size) => k >= size / 4 && k < (3 * size) / 4;
    this.mask = Float32Array.from({ length: this.width * this.height }, (_, k) =>
      Number(inside(Math.floor(k / this.width), this.height) && inside(k % this.width, this.width)),
    );
  }
  undone() {
    this.mask.fill(0);
    this.frame.start();
  }
  stroked(stroke) {
    this.mask = this.mask.map((value, k) => Math.max(value, Number(stroke[k] > 127)));
    this.frame.start();
  }
}

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
const base64 = (bytes) => btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""));

// Strokes one after the other, each live; undone one by one, and kept in the picture that is saved.
// They belong to the source: another one puts them aside, and going back brings them back.
class Painting extends Board {
  images;
  strokes;
  static kept = new Map(); // by source: its pictures and strokes
  constructor(frame) {
    super(frame);
    this.pending = []; // masks that wait for the stroke before them
    this.undo = button("Undo", () => this.undone());
    place("controls").append(this.undo, button("Save PNG", () => this.save()));
    this.picked("from");
  }
  picked(role) {
    if (role !== "from") return;
    const source = this.frame.pictures[this.frame.chosen.from].values;
    if (!Painting.kept.has(source)) Painting.kept.set(source, { images: [source], strokes: [] });
    Object.assign(this, Painting.kept.get(source), { pending: [], busy: false });
    this.frame.leave();
    this.draw();
  }
  changed() {
    this.frame.strips();
  }
  draw(values = this.images.at(-1)) {
    const { name } = this.frame.pictures[this.frame.chosen.from];
    const count = this.strokes.length;
    this.frame.show(0, values, "Paint here", `${count} ${count === 1 ? "stroke" : "strokes"}`);
    this.frame.show(1, this.images[0], "Source", name);
    this.undo.disabled = !count && !this.busy;
  }
  undone() {
    if (this.busy) this.frame.leave();
    else if (this.strokes.pop()) this.images.pop();
    Object.assign(this, { pending: [], busy: false });
    this.draw();
  }
  stroked(mask) {
    this.pending.push(mask);
    if (!this.busy) this.next();
  }
  next() {
    const { frame, images, strokes } = this;
    const mask = this.pending.shift();
    this.busy = Boolean(mask);
    if (!mask) return this.draw();
    const { settings, wishes, chosen } = frame;
    const { size, steps, radius } = settings.paint;
    const network = frame.networks[+wishes.paint.controls.network];
    const component = chosen.component;
    const shares = Float32Array.from(mask, (value) => value / 255);
    const before = images.at(-1);
    frame.start(async ({ view }) => {
      const goal = { kind: "activate", components: [component], place: "features", mask: shares };
      const job = { start: before, goal, steps, size, full: steps, radius, mask: shares };
      const end = await network.descend(job, (step) => {
        view.step(0, step);
        if (step.index < steps && !step.stopped) this.draw(step.images);
      });
      images.push(end.images);
      const first = size * Math.sqrt((3 * this.width * this.height) / 3072);
      const kept = { component, network: network.label, ceiling: null, steps, step_size: first, radius, name: "" };
      strokes.push({ ...kept, until: end.stopped ? end.index : null, mask });
      setTimeout(() => this.next());
      view.numbers(`Component ${component} of the ${network.label} network under the brush: ${fixed(-end.losses[0])}.`);
    });
  }
  async save() {
    const { frame, images, strokes } = this;
    const grey = (mask) => imageOf(Float32Array.from({ length: 3 * mask.length }, (_, k) => mask[Math.floor(k / 3)] / 255), frame.sides);
    const written = strokes.map(async ({ mask, ...stroke }) => ({ ...stroke, mask: base64(await pngOf(grey(mask))) }));
    const source = base64(await pngOf(imageOf(images[0], frame.sides)));
    const text = JSON.stringify({ ...frame.note, source, strokes: await Promise.all(written) });
    const file = noted(await pngOf(imageOf(images.at(-1), frame.sides)), "nbhelpers", text);
    download("painted.png", file, "image/png");
  }
}

function download(name, content, type) {
  const link = make("a", { href: URL.createObjectURL(new Blob([content], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const BOARDS = { paint: Painting, hole: Hole };
