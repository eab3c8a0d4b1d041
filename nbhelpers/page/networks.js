// @ts-check
// The networks, each in a worker of its own: two cores compute at once. What is asked resolves to
// the answer, or is rejected with LEFT once something else was wanted.

const textOf = (id) => document.getElementById(id).textContent;
const LEFT = Symbol("left for another pick");
const argmax = (values) => values.reduce((best, value, k) => (value > values[best] ? k : best), 0);

const bytesOf = (text) => {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const letters = atob(text);
  const bytes = new Uint8Array(letters.length);
  for (let k = 0; k < letters.length; k++) bytes[k] = letters.charCodeAt(k);
  return bytes;
};
const inflated = async (text) => {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

class Network {
  label;
  about; // what the worker needs of it
  jobs; // that wait for an answer, by number
  head;
  backend;
  static asked = 0; // numbers of jobs
  constructor(label, about) {
    Object.assign(this, { label, about, jobs: new Map(), running: 0 });
  }

  // Resolves once it can be asked.
  begin(script, wasm) {
    this.worker = new Worker(script);
    const ready = new Promise((resolve, reject) => {
      const fail = (why) => reject(new Error(why || "the worker did not start"));
      this.worker.addEventListener("error", (event) => fail(event.message));
      this.worker.addEventListener("message", ({ data }) => {
        if (data.type === "ready") resolve(Object.assign(this, { head: data.head, backend: data.backend }));
        else if (data.type === "missing") fail(data.why);
        else this.heard(data);
      });
    });
    this.worker.postMessage({ type: "begin", wasm, about: this.about });
    return ready;
  }

  heard({ type, id, ...answer }) {
    const job = this.jobs.get(id);
    if (!job) return;
    if (type === "frame") return job.frame?.(answer);
    this.jobs.delete(id);
    if (type === "left") return job.reject(LEFT);
    if (type === "error") return job.reject(new Error(answer.text));
    if (answer.index !== undefined) job.frame?.(answer);
    job.resolve(answer);
  }

  ask(job, frame) {
    const id = ++Network.asked;
    this.worker.postMessage({ type: "ask", job: { id, ...job } });
    return new Promise((resolve, reject) => this.jobs.set(id, { frame, resolve, reject }));
  }
  // See worker.js.
  look(images, options) {
    return this.ask({ images, ...options });
  }
  descend(options, frame) {
    return this.ask(options, frame);
  }
  stop() {
    for (const id of this.jobs.keys()) this.worker.postMessage({ type: "stop", id });
  }
  leave() {
    for (const { reject } of this.jobs.values()) reject(LEFT);
    this.jobs.clear();
    this.worker?.postMessage({ type: "leave", id: Network.asked });
  }

  get width() {
    return this.about.classes.length;
  }
  // The class that the network gives picture `k`, always marked as this network's.
  says({ logits }, k = 0) {
    const row = Array.from(logits).slice(k * this.width, (k + 1) * this.width);
    return `${this.label}: ${this.about.classes[argmax(row)]}`;
  }
}

// All networks of the page, begun; rejected with the reason where nothing can be computed.
async function beginAll(networks) {
  const packed = textOf("library");
  if (!packed) throw new Error("this page was written without the engine");
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
  const { code, wasm } = JSON.parse(packed);
  const [script, bytes] = await Promise.all([inflated(code), inflated(wasm)]);
  const url = URL.createObjectURL(new Blob([script], { type: "text/javascript" }));
  await Promise.all(networks.map((network) => network.begin(url, bytes)));
}
