// @ts-check
// The networks, each in a worker of its own: two cores compute at once. A request resolves to
// its answer, or rejects with LEFT when another pick replaces it.

const LEFT = Symbol("left for another pick");
const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);

class Network {
  label;
  about; // what the workers need of it
  worker; // in use: WebAssembly's, or the graphics card's
  floor; // WebAssembly's
  jobs; // open requests, by number
  head;
  backend;
  engine; // which one runs, and why
  static requests = 0; // so far
  constructor(label, about) {
    Object.assign(this, { label, about, jobs: new Map(), engine: "WebAssembly" });
  }

  // The worker once it has this network. `failed` is rejected when its script does not run.
  /** @param {any} options */
  opened({ worker, failed }, options) {
    const ready = new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(why || "the worker did not start"));
      failed.catch(({ message }) => fail(message));
      worker.addEventListener("message", ({ data }) => {
        if (data.type === "ready") resolve({ worker, ...data });
        else if (data.type === "missing") fail(data.why);
        else if (data.type === "lost") this.lost(worker, data.why);
        else this.received(data);
      });
    });
    worker.postMessage({ type: "begin", about: this.about, ...options });
    ready.catch(() => worker.terminate());
    return ready;
  }
  async begin(begun) {
    const { worker, head, backend } = await this.opened(begun, {});
    Object.assign(this, { worker, floor: worker, head, backend });
  }
  // Move to the graphics card where that is correct and faster.
  async accelerate(begun, graphics) {
    try {
      const { worker, backend, times } = await this.opened(begun, { graphics });
      Object.assign(this, { worker, backend, engine: `WebGPU (${times})` });
    } catch (error) {
      this.engine = `WebAssembly (${error.message})`;
    }
  }
  // Back to WebAssembly, and all over again what is open.
  lost(worker, why) {
    worker.terminate();
    if (worker !== this.worker) return;
    Object.assign(this, { worker: this.floor, backend: "wasm", engine: `WebAssembly (the graphics card was lost: ${why})` });
    for (const [id, { job, on }] of this.jobs) if (on === worker) this.post(id, job);
    this.changed?.();
  }
  /** @type {(() => void) | undefined} */
  changed; // called when another engine takes over

  received({ type, id, ...answer }) {
    const job = this.jobs.get(id);
    if (!job) return;
    if (type === "frame") return job.frame?.(answer);
    this.jobs.delete(id);
    if (type === "left") return job.reject(LEFT);
    if (type === "error") return job.reject(new Error(answer.text));
    if (answer.index !== undefined) job.frame?.(answer);
    job.resolve(answer);
  }

  request(job, frame) {
    const id = ++Network.requests;
    return new Promise((resolve, reject) => {
      this.jobs.set(id, { job, frame, resolve, reject });
      this.post(id, job);
    });
  }
  post(id, job) {
    this.jobs.get(id).on = this.worker;
    this.worker.postMessage({ type: "request", job: { id, ...job } });
  }
  // See worker.js.
  look(images, options) {
    return this.request({ images, ...options });
  }
  descend(options, frame) {
    return this.request(options, frame);
  }
  stop() {
    for (const [id, { on }] of this.jobs) on.postMessage({ type: "stop", id });
  }
  leave() {
    for (const { reject } of this.jobs.values()) reject(LEFT);
    this.jobs.clear();
    for (const worker of new Set([this.worker, this.floor])) worker?.postMessage({ type: "leave", id: Network.requests });
  }

  get width() {
    return this.about.classes.length;
  }
  // The predicted class of picture `k`, marked as this network's.
  prediction({ logits }, k = 0) {
    const row = Array.from(logits).slice(k * this.width, (k + 1) * this.width);
    return `${this.label}: ${this.about.classes[argmax(row)]}`;
  }
}

// All networks of the page, begun; rejected with the reason where nothing can be computed.
// Resolves to what the graphics card needs.
async function beginAll(networks) {
  const { all, ...files } = await workers;
  await Promise.all(networks.map((network, k) => network.begin(all[k])));
  return files;
}

// The graphics card, where the browser offers one and it does better. `?engine=wasm` in the address
// leaves it alone; `?engine=webgpu` takes it though it be slower.
async function accelerateAll(networks, { wasm, script }) {
  const wish = new URLSearchParams(location.search).get("engine");
  if (wish === "wasm" || !(await navigator.gpu?.requestAdapter())) return;
  const [url, graphics] = [await script(), wish === "webgpu" ? "wanted" : "tried"];
  await Promise.all(networks.map((network) => network.accelerate(prepared(begunWorker(url), wasm), graphics)));
}
