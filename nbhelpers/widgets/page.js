// A kernel's stand-in for the exported page: widgets get their state, and every pick its precomputed result.
const { source, demos } = JSON.parse(document.getElementById("state").textContent);
const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

class Model {
  #handlers = new Map();
  constructor(state) {
    this.state = state;
  }
  get(name) {
    return this.state[name];
  }
  set(name, value) {
    if (this.state[name] === value) return;
    this.state[name] = value;
    this.#handlers.get(`change:${name}`)?.forEach((handler) => handler());
  }
  on(name, handler) {
    if (!this.#handlers.has(name)) this.#handlers.set(name, new Set());
    this.#handlers.get(name).add(handler);
  }
  off(name, handler) {
    this.#handlers.get(name)?.delete(handler);
  }
  save_changes() {}
  send() {}
}

const { default: widget } = await import(URL.createObjectURL(new Blob([source], { type: "text/javascript" })));
for (const { id, pickers, live, results } of demos) {
  const place = document.getElementById(id);
  const add = (state) => {
    const el = document.createElement("div");
    place.append(el);
    const model = new Model(state);
    return { model, draw: () => widget.render({ model, el }) };
  };
  const parts = pickers.map((state) => add({ ...state, thumbnails: state.thumbnails.map(bytes) }));
  const shown = add(live);
  const show = () => {
    const result = results[parts.map(({ model }) => model.get("selected")).join()];
    shown.model.set("result", { ...result, sheet: bytes(result.sheet) });
    shown.model.set("status", { state: "done", text: "computed beforehand" });
  };
  parts.forEach(({ model }) => model.on("change:selected", show));
  show();
  [...parts, shown].forEach(({ draw }) => draw());
}
document.body.dataset.ready = "true";
