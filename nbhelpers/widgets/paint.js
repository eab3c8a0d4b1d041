// @ts-check
// The canvas of canvas.py: a brush, a palette, and the picture that forms under the stroke.
// Sends {type: "stroke", erase} with the mask's bytes, "undo", "stop", "export", and {type: "open", name} with a file's.
// Sets `chosen`, `at` and `names`. Shows `result` (a sheet of source and picture), `status` (state, text), `done`
// (strokes), and the messages "frame" and "file".

const LARGEST = 8e6; // bytes: a Jupyter server silently drops messages above 10 MB
const asFile = (text) => new Blob([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))]);

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const [height, width] = model.get("size");
  let urls = [];
  let erasing = false;
  let [order, drawn] = [0, 0]; // the newest picture and the newest drawn: decoding may overtake

  const brush = brushOn({
    size: [height, width],
    name: "painted",
    report: (text) => report(text),
    apply: (mask) => model.send({ type: "stroke", erase: erasing }, undefined, [mask.buffer]),
  });
  const { board, picture } = brush;
  const source = pictureOf(width, height, "source");

  const amount = slider("amount", model.get("amounts").length - 1, model.get("at"), (value) => {
    model.set("at", value);
    model.save_changes();
    showAmount();
  });
  const showAmount = () => amount.show(model.get("at"), model.get("amounts")[model.get("at")]);
  const erase = (on) => {
    erasing = on;
    eraser.setAttribute("aria-pressed", String(on));
    brush.erase(on);
  };
  const eraser = button("Eraser", () => erase(!erasing));
  eraser.setAttribute("aria-pressed", "false");
  const undo = button("Undo", () => model.send({ type: "undo" }));
  const stop = button("Stop", () => stop.getAttribute("aria-disabled") !== "true" && model.send({ type: "stop" }));
  const save = button("Save PNG", () => model.send({ type: "export" }));
  const file = Object.assign(make("input"), { type: "file", accept: "image/png", hidden: true });
  const read = async (chosen) => {
    if (!chosen) return;
    if (chosen.size > LARGEST) return report(`note: ${chosen.name} is too large for a canvas; give a PNG that it saved`);
    report(`opening ${chosen.name}…`);
    model.send({ type: "open", name: chosen.name }, undefined, [await chosen.arrayBuffer()]);
  };
  file.addEventListener("change", () => {
    read(file.files[0]);
    file.value = "";
  });
  const open = button("Open PNG…", () => file.click());
  const tools = make("div", "nb-bar");
  tools.append(eraser, undo, stop, save, open, file);
  el.addEventListener("dragover", (event) => {
    event.preventDefault();
    el.classList.add("nb-drop");
  });
  el.addEventListener("dragleave", () => el.classList.remove("nb-drop"));
  el.addEventListener("drop", (event) => {
    event.preventDefault();
    event.stopPropagation();
    el.classList.remove("nb-drop");
    read(event.dataTransfer.files[0]);
  });

  // The palette: one tab stop, then arrow keys.
  const list = make("div", "nb-list");
  list.setAttribute("role", "listbox");
  list.setAttribute("aria-label", "Choose a component");
  list.style.setProperty("--thumb", "52px");
  list.style.setProperty("--columns", "8");
  let options = [];
  const called = (entry) => model.get("names")[entry.key] || "";
  const words = (entry) => called(entry) || `${entry.component}`;
  const name = keepKeys(make("input", "nb-name-field"));
  Object.assign(name, { type: "text", maxLength: 40 });
  name.addEventListener("change", () => {
    const entry = model.get("palette")[model.get("chosen")];
    model.set("names", { ...model.get("names"), [entry.key]: name.value.trim() });
    model.save_changes();
    mark();
  });
  name.addEventListener("keydown", (event) => event.key === "Enter" && name.blur());
  const naming = make("label", "nb-slider");
  naming.append(make("span", "", "its name"), name);
  const about = make("div", "nb-note");

  function mark() {
    const chosen = model.get("chosen");
    options.forEach(({ option, text, entry }, i) => {
      option.setAttribute("aria-selected", String(i === chosen));
      option.tabIndex = i === chosen ? 0 : -1;
      text.textContent = words(entry);
      option.title = `${words(entry)}: ${entry.about}`;
      option.setAttribute("aria-label", `${entry.label} network, component ${entry.component}, ${words(entry)}; ${entry.about}`);
    });
    const entry = model.get("palette")[chosen];
    name.value = called(entry);
    about.textContent = `${entry.label} network, component ${entry.component}; ${entry.about}`;
  }
  function choose(i) {
    erase(false);
    model.set("chosen", i);
    model.save_changes();
    mark();
    options[i].option.focus();
  }
  function build() {
    urls.forEach((url) => URL.revokeObjectURL(url));
    [urls, options] = [[], []];
    list.replaceChildren();
    let grid;
    model.get("palette").forEach((entry, i, all) => {
      if (entry.label !== all[i - 1]?.label) {
        const group = make("div");
        group.setAttribute("role", "group");
        group.setAttribute("aria-label", `${entry.label} network`);
        grid = make("div", "nb-grid");
        grid.setAttribute("role", "presentation");
        group.append(make("div", "nb-title", `${entry.label} network`), grid);
        list.append(group);
      }
      const option = keepKeys(make("div", "nb-option"));
      option.setAttribute("role", "option");
      const image = make("img");
      image.alt = "";
      image.src = URL.createObjectURL(asFile(entry.thumbnail));
      urls.push(image.src);
      const text = make("span");
      option.append(image, text);
      option.addEventListener("click", () => choose(i));
      grid.append(option);
      options.push({ option, text, entry });
    });
    mark();
  }
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    choose((model.get("chosen") + step + options.length) % options.length);
    event.preventDefault();
    event.stopPropagation();
  });

  const progress = make("progress");
  progress.setAttribute("aria-label", "progress");
  const step = make("span", "nb-status");
  const output = make("span", "nb-status");
  output.setAttribute("role", "status");
  const bar = make("div", "nb-bar");
  bar.append(progress, step, output);
  const report = (text) => (output.textContent = text);
  async function show(bytes) {
    const mine = ++order;
    const sheet = await bitmapOf(bytes);
    if (mine > drawn && !signal.aborted) {
      drawn = mine;
      source.getContext("2d").drawImage(sheet, 0, 0, width, height, 0, 0, width, height);
      picture.getContext("2d").drawImage(sheet, width, 0, width, height, 0, 0, width, height);
      el.dataset.drawn = mine;
    }
    sheet.close();
  }
  function status() {
    const { state, text } = model.get("status");
    el.dataset.state = state || "";
    stop.setAttribute("aria-disabled", String(state !== "running"));
    undo.setAttribute("aria-disabled", String(state !== "running" && !model.get("done")));
    progress.hidden = state !== "running";
    if (state === "running") progress.removeAttribute("value");
    step.textContent = "";
    const strokes = `${model.get("done")} ${model.get("done") === 1 ? "stroke" : "strokes"}`;
    report(state === "error" ? text : [text, strokes].filter(Boolean).join(", "));
  }
  let latest = Promise.resolve(); // of the newest picture
  const whole = () => {
    const { sheet } = model.get("result");
    if (sheet) latest = show(sheet);
  };
  const after = () => latest.then(status, status); // after the picture
  const handlers = {
    "change:result": whole,
    "change:status": after,
    "change:done": after,
    "change:palette": build,
    "change:names": mark,
    "change:at": showAmount,
    "msg:custom": (message, buffers) => {
      if (message.type === "frame") {
        show(buffers[0]);
        progress.max = message.total;
        progress.value = message.step;
        step.textContent = message.text;
      } else if (message.type === "file") {
        const link = Object.assign(make("a"), { download: message.name });
        link.href = URL.createObjectURL(new Blob([buffers[0]], { type: "image/png" }));
        link.click();
        setTimeout(() => URL.revokeObjectURL(link.href), 1000);
        report(`saved ${message.name}, with its note`);
      }
    },
  };
  listen(model, handlers, signal);
  el.classList.add("nb-widget", "nb-paint");
  el.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    model.send({ type: "stop" });
    event.stopPropagation();
  });
  const figure = make("figure", "nb-source");
  figure.append(make("div", "nb-name", "source"), source);
  const left = make("div", "nb-easel");
  left.append(board, bar, brush.control, amount.label, tools, figure);
  const right = make("div", "nb-palette");
  right.append(make("div", "nb-label", "Choose a component"), list, about, naming);
  const both = make("div", "nb-sides");
  both.append(left, right);
  el.append(make("div", "nb-about", model.get("about")), both, make("div", "nb-note", model.get("note")));
  build();
  showAmount();
  status();
  whole();
  signal.addEventListener("abort", () => urls.forEach((url) => URL.revokeObjectURL(url)));
  return () => controller.abort();
}

export default { render };
