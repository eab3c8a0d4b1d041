// @ts-check
// A worker for each network. They begin while the browser still reads the rest of the page, since
// their script, TensorFlow.js, takes long to start.

const textOf = (id) => document.getElementById(id).textContent;
const inflated = async (text) => {
  const stream = new Blob([bytesOf(text)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
};

const begunWorker = (url) => {
  const worker = new Worker(url);
  const failed = new Promise((_, reject) => worker.addEventListener("error", reject));
  failed.catch(() => {}); // handled once the network is there
  return { worker, failed };
};
const prepared = (begun, wasm) => {
  begun.worker.postMessage({ type: "prepare", wasm });
  return begun;
};
// Workers with what the graphics card needs; rejected with the reason where nothing can be computed.
const workers = (async () => {
  const packed = textOf("library");
  if (!packed) throw new Error("this page was written without the engine");
  if (typeof WebAssembly !== "object") throw new Error("this browser has no WebAssembly");
  const { code, count, ...deflated } = JSON.parse(packed);
  const urlOf = (...parts) => URL.createObjectURL(new Blob(parts, { type: "text/javascript" }));
  const url = urlOf(code);
  const begun = Array.from({ length: count }, () => begunWorker(url));
  const wasm = await inflated(deflated.wasm);
  const all = begun.map((one) => prepared(one, wasm));
  return { all, wasm, script: async () => urlOf(code, "\n", await inflated(deflated.webgpu)) };
})();
workers.catch(() => {}); // likewise
