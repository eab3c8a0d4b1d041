// The exported page. Each widget gets its state from the page; what answers a pick is its precomputed result, or, where
// WebAssembly is there, the engine in a worker.
const textOf = (id) => document.getElementById(id).textContent;
const { sources, demos, networks } = JSON.parse(textOf("state"));
const said = document.getElementById("engine");

const bytesOf = (text) => {
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
};
const unpacked = async (text) => {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

// A kernel's stand-in: the state of one widget, and whoever listens to it.
class Model {
  #handlers = new Map();
  constructor(state) {
    this.state = state;
    this.receive = () => {}; // what the widget sends
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.emit(`change:${name}`);
  }
  emit(name, ...what) {
    this.#handlers.get(name)?.forEach((handler) => handler(...what));
  }
  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
  }
  off(name, handler) {
    this.#handlers.get(name)?.delete(handler);
  }
  save_changes() {}
  send(content, _, buffers) {
    this.receive(content, buffers);
  }
}

// --- pictures ----------------------------------------------------------------------------------------------------------

const EXACT = { colorSpaceConversion: "none", premultiplyAlpha: "none" };
const pixelsOf = async (bytes) => {
  const bitmap = await createImageBitmap(new Blob([bytes]), EXACT);
  const { width, height } = bitmap;
  const context = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, width, height);
};
// Red, green and blue on [0, 1].
const numbersOf = ({ data }) => {
  const values = new Float32Array((data.length / 4) * 3);
  for (let k = 0; k < data.length / 4; k++) for (let c = 0; c < 3; c++) values[3 * k + c] = data[4 * k + c] / 255;
  return values;
};
// A picture of one's own: its middle, on white, made smaller by halves so that every pixel has its say.
async function fitted(bitmap, width, height) {
  const share = Math.min(bitmap.width / width, bitmap.height / height);
  const [w, h] = [width * share, height * share];
  const [left, top] = [(bitmap.width - w) / 2, (bitmap.height - h) / 2];
  const sheet = (a, b) => {
    const canvas = new OffscreenCanvas(Math.max(1, Math.round(a)), Math.max(1, Math.round(b)));
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    return [canvas, context];
  };
  let halvings = Math.max(0, Math.floor(Math.log2(share)));
  let [now, context] = sheet(width * 2 ** halvings, height * 2 ** halvings);
  context.fillStyle = "white";
  context.fillRect(0, 0, now.width, now.height);
  context.drawImage(bitmap, left, top, w, h, 0, 0, now.width, now.height);
  while (halvings-- > 0) {
    const [next, smaller] = sheet(now.width / 2, now.height / 2);
    smaller.drawImage(now, 0, 0, next.width, next.height);
    now = next;
  }
  return new Uint8Array(await (await now.convertToBlob({ type: "image/png" })).arrayBuffer());
}

// --- the engine --------------------------------------------------------------------------------------------------------

let worker = null;
let runs = 0; // numbers of runs
const busy = new Map(); // a run's number → its demo's answer
let begun; // resolves to whether there is an engine
const HELD = "What was computed beforehand can be seen all the same.";

async function begin() {
  const packed = textOf("library");
  if (!packed) return false;
  try {
    if (typeof WebAssembly !== "object") throw new Error("it has no WebAssembly");
    const { code, wasm } = JSON.parse(packed);
    const script = new Blob([await unpacked(code)], { type: "text/javascript" });
    const bytes = await unpacked(wasm);
    worker = new Worker(URL.createObjectURL(script));
    const ready = new Promise((resolve, reject) => {
      worker.addEventListener("error", (event) => reject(new Error(event.message || "the worker did not start")));
      worker.addEventListener("message", ({ data }) => {
        if (data.type === "ready") resolve(true);
        else if (data.type === "missing") reject(new Error(data.why));
        else busy.get(data.id)?.(data);
      });
    });
    for (const [name, about] of Object.entries(networks))
      worker.postMessage({ type: "network", name, about: { ...about, weights: textOf(`network-${name}`) } });
    worker.postMessage({ type: "recipes", recipes: demos.map(({ recipe }) => recipe) });
    worker.postMessage({ type: "begin", wasm: bytes }, [bytes.buffer]);
    await ready;
    said.textContent = "Ready. Everything is computed on this device; nothing you give it leaves it.";
    return true;
  } catch (error) {
    said.textContent = `This browser cannot compute here (${error.message}). ${HELD}`;
    return false;
  }
}

// --- a demo ------------------------------------------------------------------------------------------------------------

const element = (tag, attributes = {}, ...children) => {
  const made = document.createElement(tag);
  Object.assign(made, attributes);
  made.append(...children);
  return made;
};
const choice = (label, values, shown) => {
  const select = element("select", {}, ...values.map((value, k) => element("option", { value, textContent: shown[k] })));
  return { select, whole: element("label", {}, label, select) };
};

const computes = ({ recipe }) => Boolean(recipe) && Boolean(textOf("library"));

// `start` shows it; what is computed has `table` for a front-end.
class Demo {
  constructor({ id, pickers, live, results, recipe }, index, widget, table = widget) {
    Object.assign(this, { index, results, recipe, place: document.getElementById(id) });
    this.alive = computes({ recipe });
    const parts = pickers.map((state) => ({ ...state, thumbnails: state.thumbnails.map(bytesOf) }));
    const own = { hint: "or drop or paste one here; it never leaves this device", waits: "reading…" };
    // A component is no picture, and cannot be one's own; nor can one whose changes the page brings along.
    const takes = this.alive && !recipe.changes;
    parts.forEach((state) => Object.assign(state, own, { upload: takes && state.takes }));
    this.side = element("div", { className: "side" });
    if (parts.length) this.place.append(this.side);
    this.parts = parts.map((state) => this.add(state, widget, this.side));
    this.normal = live.mode; // the way that was computed beforehand
    if (this.alive) this.order();
    const shown = { ...live, still: !this.alive, switch: this.alive ? live.switch : [], waits: "computing…" };
    this.shown = this.add(shown, table, this.place);
    this.pixels = parts.map(() => new Map()); // by thumbnail
    this.run = 0;
    this.parts.forEach(({ model }) => {
      model.on("change:selected", () => this.go());
      model.receive = (content, buffers) => this.heard(model, content, buffers);
    });
    this.shown.model.on("change:mode", () => this.go());
    this.shown.model.receive = (content, buffers) => this.asked(content, buffers);
  }

  start() {
    this.go();
    [...this.parts, this.shown].forEach(({ draw }) => draw());
    if (navigator.mediaDevices?.getUserMedia) this.parts.forEach((part) => part.model.get("upload") && camera(part));
  }

  add(state, widget, place) {
    const el = element("div");
    place.append(el);
    const model = new Model(state);
    return { el, model, draw: () => widget.render({ model, el }) };
  }

  // What to order beyond a pick.
  order() {
    const { steps, seeded } = this.recipe;
    const button = element("button", { className: "nb-button watch", type: "button", textContent: "▶ Watch it form" });
    button.setAttribute("aria-disabled", "true");
    button.addEventListener("click", () => button.getAttribute("aria-disabled") === "false" && this.compute());
    const each = element("input", { type: "checkbox" });
    const counts = [steps, 2 * steps, 5 * steps];
    const count = choice("steps", counts, counts);
    const seeds = Array.from({ length: 10 }, (_, k) => k);
    const seed = choice("noise", seeds, seeds.map((k) => `no. ${k}`));
    const change = () => this.go();
    [count.select, seed.select, each].forEach((input) => input.addEventListener("change", change));
    const bar = element("div", { className: "orders nb-widget" }, button, count.whole, ...(seeded ? [seed.whole] : []));
    bar.append(element("label", {}, each, "compute every pick here"));
    this.side.append(bar);
    this.wishes = { button, each, count: count.select, seed: seed.select };
    begun.then((there) => {
      if (there) return button.setAttribute("aria-disabled", "false");
      bar.remove();
      this.parts.forEach(({ el }) => el.querySelector(".nb-bar")?.remove());
      this.shown.el.querySelector("[aria-label=representation]")?.remove();
    });
  }

  get pick() {
    return this.parts.map(({ model }) => model.get("selected"));
  }
  get mode() {
    return this.shown.model.get("switch").length ? this.shown.model.get("mode") : 1;
  }
  get wished() {
    if (!this.alive) return { seed: 0, steps: 0, each: false };
    const { count, seed, each } = this.wishes;
    return { seed: +seed.value, steps: +count.value, each: each.checked };
  }

  // After a pick: the result that is there, or else a run.
  go() {
    if (Math.min(...this.pick) < 0) return;
    const { seed, steps, each } = this.wished;
    const other = this.alive && (seed !== 0 || steps !== this.recipe.steps || each);
    const result = this.shown.model.get("mode") === this.normal ? this.results[this.pick.join()] : null;
    if (result && !other) this.show({ ...result, sheet: bytesOf(result.sheet) }, "done", "computed beforehand");
    else if (this.alive) this.compute();
  }

  show(result, state, text) {
    this.cancel();
    this.shown.model.set("result", result);
    this.shown.model.set("status", { state, text });
  }

  cancel() {
    if (!this.run) return;
    busy.delete(this.run);
    worker?.postMessage({ type: "leave", id: this.run });
    this.run = 0;
  }

  asked({ type }) {
    if (type === "stop") this.stop();
  }

  stop() {
    if (this.run) worker?.postMessage({ type: "stop", id: this.run });
  }

  async picture(k) {
    const { model } = this.parts[k];
    const thumbnail = model.get("thumbnails")[model.get("selected")];
    const known = this.pixels[k];
    if (!known.has(thumbnail)) known.set(thumbnail, await pixelsOf(thumbnail));
    return known.get(thumbnail);
  }

  async compute() {
    this.cancel();
    const id = (this.run = ++runs);
    const { model } = this.shown;
    model.set("status", { state: "running", text: "" });
    if (!(await begun)) {
      if (id === this.run) model.set("status", { state: "error", text: `Nothing can be computed here. ${HELD}` });
      return;
    }
    const pictures = await Promise.all(this.parts.map((_, k) => this.picture(k)));
    const result = this.results[this.pick.join()]; // for what no run changes, such as images of the set
    const base = result && { pixels: (await pixelsOf(bytesOf(result.sheet))).data, captions: result.captions };
    if (id !== this.run) return;
    busy.set(id, (message) => this.answered(message));
    const { seed, steps } = this.wished;
    const captions = this.parts.map((part) => part.model.get("captions")[part.model.get("selected")]);
    const [rows, columns] = [model.get("rows").length, model.get("columns").length];
    const { width, height } = pictures[0];
    const images = { sides: [height, width], values: pictures.map(numbersOf) };
    const job = { type: "run", id, demo: this.index, pick: this.pick, images, mode: this.mode, seed, steps };
    worker.postMessage({ ...job, base, captions, rows, columns });
  }

  answered({ type, id, pixels, width, captions, step, total, text, stopped }) {
    if (id !== this.run) return;
    const { model } = this.shown;
    if (type === "frame") {
      model.emit("msg:custom", { type, captions, text, step, total }, [new ImageData(pixels, width)]);
      return;
    }
    busy.delete(id);
    this.run = 0;
    if (type === "error") model.set("status", { state: "error", text });
    else if (type === "left") model.set("status", { state: "stopped", text: "left for another pick" });
    else {
      model.set("result", { sheet: new ImageData(pixels, width), captions });
      const ended = stopped ? " (stopped)" : ", computed here";
      model.set("status", { state: stopped ? "stopped" : "done", text: text + ended });
    }
  }

  // --- what a picker sends ---

  async heard(model, { type, name }, buffers) {
    if (type === "stop") this.stop();
    else if (type === "again") this.go();
    else if (type === "remove") this.remove(model);
    else if (type === "upload") model.set("message", await this.upload(model, name, buffers[0]));
  }

  async upload(model, name, content) {
    model.state.message = null; // so that the same words are said again
    const { width, height } = await pixelsOf(model.get("thumbnails")[0]);
    let bitmap;
    try {
      bitmap = await createImageBitmap(new Blob([content]));
    } catch {
      return `cannot read ${name} as an image; save it as PNG or JPEG`;
    }
    const cut = Math.abs(height * bitmap.width - width * bitmap.height) > Math.max(bitmap.width, bitmap.height);
    const thumbnail = await fitted(bitmap, width, height);
    bitmap.close();
    const groups = model.get("groups").map((group) => [...group]);
    if (groups.at(-1)[0] !== "your own") groups.push(["your own", 0]);
    groups.at(-1)[1] += 1;
    model.set("groups", groups);
    model.set("captions", [...model.get("captions"), name.replace(/\.[^.]*$/, "").slice(0, 40)]);
    model.set("thumbnails", [...model.get("thumbnails"), thumbnail]);
    model.set("selected", model.get("thumbnails").length - 1);
    return cut ? `${name}: the centre was cut out` : "";
  }

  remove(model) {
    const groups = model.get("groups").map((group) => [...group]);
    const k = model.get("selected");
    const without = (name) => model.set(name, model.get(name).filter((_, i) => i !== k));
    groups.at(-1)[1] -= 1;
    model.set("selected", k - 1);
    model.set("groups", groups.at(-1)[1] ? groups : groups.slice(0, -1));
    without("captions");
    without("thumbnails");
    model.set("message", "");
  }
}

// A picture from the camera, taken when one says so.
function camera({ el, model }) {
  const dialog = document.getElementById("camera");
  const video = dialog.querySelector("video");
  const button = element("button", { className: "nb-button", type: "button", textContent: "Camera…" });
  el.querySelector(".nb-bar").children[0].after(button);
  button.addEventListener("click", async () => {
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
    } catch (error) {
      model.state.message = null;
      return model.set("message", `the camera cannot be used (${error.name})`);
    }
    video.srcObject = stream;
    const ended = new AbortController();
    const { signal } = ended;
    const close = () => {
      ended.abort();
      stream.getTracks().forEach((track) => track.stop());
      video.srcObject = null;
      dialog.close();
      button.focus();
    };
    dialog.addEventListener("cancel", close, { signal });
    dialog.querySelector("[value=cancel]").addEventListener("click", close, { signal });
    dialog.querySelector("[value=take]").addEventListener("click", async () => {
      const canvas = new OffscreenCanvas(video.videoWidth || 1, video.videoHeight || 1);
      canvas.getContext("2d").drawImage(video, 0, 0);
      close();
      const blob = await canvas.convertToBlob({ type: "image/png" });
      model.send({ type: "upload", name: "camera.png" }, undefined, [await blob.arrayBuffer()]);
    }, { signal });
    dialog.showModal();
    await video.play();
  });
}
