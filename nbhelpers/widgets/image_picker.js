// @ts-check
// Two front-ends: "picker" shows thumbnails to choose from, "live" shows pictures as they form.

const PATIENCE = 5000; // ms
const NO_ANSWER = "No answer. Is another cell running? Otherwise run this cell again.";
const SIDE = 512; // pixels a side of an upload
const LARGEST = 8e6; // bytes: a Jupyter server silently drops messages above 10 MB

// A radio group of buttons.
const choice = (name, labels, chosen) => {
  const group = make("div", "nb-choice");
  group.setAttribute("role", "radiogroup");
  group.setAttribute("aria-label", name);
  const buttons = labels.map((label, i) => {
    const button = keepKeys(make("button", "nb-button", label));
    button.type = "button";
    button.setAttribute("role", "radio");
    button.addEventListener("click", () => chosen(i));
    return button;
  });
  group.append(...buttons);
  group.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.metaKey || event.altKey) return;
    const next = (buttons.indexOf(event.target) + step + buttons.length) % buttons.length;
    buttons[next].focus();
    chosen(next);
    event.preventDefault();
    event.stopPropagation();
  });
  const show = (at) =>
    buttons.forEach((button, i) => {
      button.setAttribute("aria-checked", String(i === at));
      button.tabIndex = i === at ? 0 : -1;
    });
  return { group, show };
};

// A picture file to send: reduced if large. Unreadable files go to the kernel unchanged, and so do 16-bit PNGs, which the
// browser would silently cut to 8 bits.
async function prepared(file) {
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const deep = head[0] === 0x89 && head[1] === 0x50 && head[24] === 16; // a PNG's bits a channel
  const bitmap = deep ? null : await createImageBitmap(file).catch(() => null);
  const large = bitmap && Math.max(bitmap.width, bitmap.height) > SIDE;
  if (large) {
    const share = SIDE / Math.max(bitmap.width, bitmap.height);
    const [width, height] = [bitmap.width, bitmap.height].map((side) => Math.max(1, Math.round(side * share)));
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.imageSmoothingQuality = "high";
    context.drawImage(bitmap, 0, 0, width, height);
    bitmap.close();
    return (await canvas.convertToBlob({ type: "image/png" })).arrayBuffer();
  }
  bitmap?.close();
  if (file.size <= LARGEST) return file.arrayBuffer();
  if (deep) throw new Error(`${file.name} has more than 8 bits per channel; save it with 8`);
  throw new Error(`cannot read ${file.name} as an image; save it as PNG or JPEG`);
}

function renderPicker({ model, el, signal }) {
  const label = make("div", "nb-label");
  const list = make("div", "nb-list");
  list.setAttribute("role", "listbox");
  let options = [];
  let focus = 0;
  let urls = [];

  function build() {
    const hadFocus = list.contains(document.activeElement);
    const stale = urls;
    urls = [];
    label.textContent = model.get("label");
    list.setAttribute("aria-label", model.get("label"));
    list.style.setProperty("--thumb", `${model.get("thumb")}px`);
    list.style.setProperty("--columns", model.get("columns"));
    const thumbnails = model.get("thumbnails");
    const captions = model.get("captions");
    const groups = model.get("groups");
    list.replaceChildren();
    options = [];
    for (const [title, count] of groups) {
      const group = make("div");
      group.setAttribute("role", "group");
      group.setAttribute("aria-label", title || model.get("label"));
      if (title) group.append(make("div", "nb-title", title));
      const grid = make("div", "nb-grid");
      grid.setAttribute("role", "presentation");
      for (let k = 0; k < count; k++) {
        const i = options.length;
        const option = keepKeys(make("div", "nb-option"));
        option.setAttribute("role", "option");
        option.setAttribute("aria-label", captions[i] || `${title || "image"} ${k + 1}`);
        option.title = option.getAttribute("aria-label");
        const image = make("img");
        image.src = URL.createObjectURL(new Blob([bytesOf(thumbnails[i])]));
        urls.push(image.src);
        image.alt = "";
        image.draggable = false;
        option.append(image);
        if (captions[i]) option.append(make("span", "", captions[i]));
        option.addEventListener("click", () => pick(i));
        grid.append(option);
        options.push(option);
      }
      group.append(grid);
      list.append(group);
    }
    mark();
    if (hadFocus) options[focus]?.focus();
    stale.forEach((url) => URL.revokeObjectURL(url));
  }

  function mark() {
    const selected = model.get("selected");
    if (selected >= 0) focus = selected;
    options.forEach((option, i) => {
      option.setAttribute("aria-selected", String(i === selected));
      option.tabIndex = i === focus ? 0 : -1; // one tab stop, then arrow keys
    });
  }

  function move(i) {
    focus = i;
    options.forEach((option, k) => (option.tabIndex = k === i ? 0 : -1));
    options[i].focus();
  }

  function pick(i) {
    move(i);
    el.dispatchEvent(new CustomEvent("nb-picked", { bubbles: true })); // to the live table
    if (model.get("selected") === i) model.send({ type: "again" }); // an unchanged trait sends no event
    model.set("selected", i);
    model.save_changes();
  }

  function vertical(direction) {
    // By position on the screen: rows wrap with the window.
    const boxes = options.map((option) => option.getBoundingClientRect());
    const here = boxes[focus];
    let best = focus;
    let cost = Infinity;
    boxes.forEach((box, i) => {
      const down = (box.top - here.top) * direction;
      const value = down * 1000 + Math.abs(box.left - here.left);
      if (down > here.height / 2 && value < cost) [best, cost] = [i, value];
    });
    return best;
  }

  list.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !options.length) return;
    focus = Math.max(0, options.indexOf(event.target)); // a screen reader may have moved the focus
    const last = options.length - 1;
    const goals = {
      ArrowRight: () => Math.min(last, focus + 1),
      ArrowLeft: () => Math.max(0, focus - 1),
      ArrowDown: () => vertical(1),
      ArrowUp: () => vertical(-1),
      Home: () => 0,
      End: () => last,
    };
    if (event.key in goals) move(goals[event.key]());
    else if (event.key === "Enter" || event.key === " ") pick(focus);
    else if (event.key === "Escape") model.send({ type: "stop" });
    else return;
    event.preventDefault();
    event.stopPropagation();
  });

  el.append(label, list);
  if (model.get("upload")) {
    const file = make("input");
    file.type = "file";
    file.accept = "image/*";
    file.hidden = true;
    const button = keepKeys(make("button", "nb-button", "Your own image…"));
    const remove = keepKeys(make("button", "nb-button", "Remove"));
    button.type = remove.type = "button";
    const output = make("span", "nb-status");
    output.setAttribute("role", "status");
    const hint = "or drop or paste one here";
    let awaited;
    const report = (text) => {
      clearTimeout(awaited);
      output.textContent = text || hint;
    };
    let expected = false; // a sent picture gets the focus
    const arrived = () => {
      if (!expected) return;
      expected = false;
      const [here, now] = [el.closest(".nb-demo") ?? el, document.activeElement];
      if (here.contains(now) || now === document.body) options[model.get("selected")]?.focus();
    };
    const wait = () => {
      report("waiting for the kernel…");
      awaited = setTimeout(() => report(NO_ANSWER), PATIENCE);
    };
    const send = async (chosen) => {
      if (!chosen) return;
      const name = chosen.name || "pasted.png";
      try {
        const bytes = await prepared(chosen);
        wait();
        expected = true;
        model.send({ type: "upload", name }, undefined, [bytes]);
      } catch (error) {
        report(error.message);
      }
    };
    const own = () => {
      const last = model.get("groups").at(-1);
      remove.hidden = last?.[0] !== "your own" || model.get("selected") < options.length - last[1];
    };
    button.addEventListener("click", () => file.click());
    remove.addEventListener("click", () => {
      wait();
      model.send({ type: "remove" });
      button.focus(); // `remove` disappears
    });
    file.addEventListener("change", () => {
      send(file.files[0]);
      file.value = "";
    });
    el.addEventListener("dragover", (event) => {
      event.preventDefault();
      el.classList.add("nb-drop");
    });
    el.addEventListener("dragleave", () => el.classList.remove("nb-drop"));
    el.addEventListener("drop", (event) => {
      event.preventDefault();
      event.stopPropagation();
      el.classList.remove("nb-drop");
      send(event.dataTransfer.files[0]);
    });
    el.addEventListener("paste", (event) => {
      const pasted = event.clipboardData.files[0];
      if (!pasted) return;
      event.preventDefault();
      event.stopPropagation();
      send(pasted);
    });
    const answered = () => {
      if (model.get("message") && model.get("groups").at(-1)?.[0] !== "your own") expected = false; // refused
      report(model.get("message"));
    };
    listen(
      model,
      {
        "change:message": answered,
        "change:thumbnails": () => queueMicrotask(() => [own(), answered()]),
        "change:selected": () => [own(), arrived()],
      },
      signal,
    );
    signal.addEventListener("abort", () => clearTimeout(awaited));
    const bar = make("div", "nb-bar");
    bar.append(button, remove, file, output);
    el.append(bar);
    answered();
    queueMicrotask(own);
  }
  listen(model, { "change:thumbnails": build, "change:selected": mark }, signal);
  signal.addEventListener("abort", () => urls.forEach((url) => URL.revokeObjectURL(url)));
  build();
}

function renderLive({ model, el, signal }) {
  const rows = model.get("rows");
  const columns = model.get("columns");
  const slider = model.get("slider");
  const about = model.get("about");
  const canvas = (name) => {
    const picture = make("canvas", "nb-picture");
    picture.setAttribute("role", "img");
    picture.setAttribute("aria-label", name);
    return picture;
  };
  // With a slider: a large picture per row over strips of all columns.
  const panels = rows.map((row) => {
    const figure = make("figure", "nb-large");
    const text = make("figcaption");
    figure.append(make("div", "nb-name", row), canvas(row), text);
    return { figure, text, picture: figure.querySelector("canvas") };
  });
  const table = make("div", "nb-table");
  table.style.setProperty("--n", columns.length);
  table.classList.toggle("nb-pairs", !slider && rows.length > 1);
  const cells = rows.map((row, r) => {
    const strip = make("div", "nb-strip");
    const line = make("div", "nb-line");
    strip.hidden = slider && r < model.get("fixed"); // equal pictures: the large one is enough
    if (row) strip.append(make("div", "nb-row", row));
    strip.append(line);
    table.append(strip);
    return columns.map((column, c) => {
      const figure = make("figure", slider ? "nb-small" : columns.length > 4 ? "nb-medium" : "nb-large");
      const text = make("figcaption");
      if (column && (r === 0 || (slider && r === model.get("fixed")))) figure.append(make("div", "nb-name", column));
      figure.append(canvas([row, column].filter(Boolean).join(", ")), text);
      if (slider) figure.addEventListener("click", () => go(c));
      line.append(figure);
      return { figure, text, picture: figure.querySelector("canvas") };
    });
  });

  const range = keepKeys(make("input"));
  const shown = make("output", "", "");
  const buttons = slider && model.get("buttons") ? choice(slider, columns, go) : null;
  if (about) el.append(make("div", "nb-about", about));
  const ways = model.get("switch") ?? [];
  const switched = ways.length ? choice("representation", ways, change) : null;
  if (switched) {
    switched.group.prepend(make("span", "", "representation"));
    el.append(switched.group);
  }
  if (slider) {
    const top = make("div", "nb-line");
    top.style.setProperty("--n", rows.length);
    top.append(...panels.map((panel) => panel.figure));
    Object.assign(range, { type: "range", min: 0, max: columns.length - 1, step: 1, value: model.get("at") });
    range.addEventListener("input", () => go(+range.value));
    const label = make(model.get("buttons") ? "div" : "label", "nb-slider");
    label.append(make("span", "", slider), ...(buttons ? [buttons.group] : [range, shown]));
    el.append(top, label);
  }

  const bar = make("div", "nb-bar");
  const progress = make("progress");
  progress.setAttribute("aria-label", "progress");
  const stop = keepKeys(make("button", "nb-button", "Stop"));
  stop.type = "button";
  const step = make("span", "nb-status");
  const output = make("span", "nb-status");
  output.setAttribute("role", "status"); // read aloud: a run's end, not its steps
  stop.addEventListener("click", halt);
  bar.append(stop, progress, step, output);
  const more = make("details", "nb-more");
  more.append(keepKeys(make("summary", "", "More")), make("div", "nb-note", model.get("note")));
  el.append(table, bar, more);
  // From anywhere in the demo: after a pick the focus is outside this table.
  const escaped = (event) => {
    if (event.key !== "Escape" || !(el.contains(event.target) || partOf(event.target))) return;
    halt();
    event.preventDefault(); // else a search field is cleared
  };
  document.addEventListener("keydown", escaped, { signal });

  const partOf = (element) => element.closest?.(".nb-demo")?.contains(el);

  let sheet = null;
  let captions = [];
  let [order, drawn] = [0, 0]; // the newest picture and the newest drawn: decoding may overtake
  let latest = Promise.resolve(); // of the newest picture
  let awaited; // timeout of the kernel's answer

  function wait(text) {
    clearTimeout(awaited);
    progress.hidden = true;
    step.textContent = text;
    output.textContent = "";
    awaited = setTimeout(() => {
      step.textContent = "";
      output.textContent = NO_ANSWER; // read aloud
      stop.setAttribute("aria-disabled", "true");
    }, PATIENCE);
  }

  function picked() {
    el.dataset.state = "waiting";
    const box = (panels[0] && slider ? panels[0].figure : table).getBoundingClientRect();
    const seen = Math.min(box.bottom, innerHeight) - Math.max(box.top, 0);
    if (seen < Math.min(120, box.height / 2)) el.scrollIntoView({ block: "nearest" }); // in a narrow window it is below
    stop.setAttribute("aria-disabled", "true");
    wait("waiting for the kernel…");
  }

  function halt() {
    if (stop.getAttribute("aria-disabled") === "true") return;
    wait("stopping…");
    model.send({ type: "stop" });
  }

  function change(mode) {
    if (mode === model.get("mode")) return;
    picked();
    model.set("mode", mode);
    model.save_changes();
    switched.show(mode);
  }

  function go(column) {
    model.set("at", column);
    model.save_changes();
    paint();
  }

  function draw(cell, r, c) {
    const [width, height] = [sheet.width / columns.length, sheet.height / rows.length];
    if (cell.picture.width !== width || cell.picture.height !== height)
      Object.assign(cell.picture, { width, height }).style.aspectRatio = `${width} / ${height}`;
    cell.picture.getContext("2d").drawImage(sheet, c * width, r * height, width, height, 0, 0, width, height);
    const text = captions[r]?.[c] ?? "";
    cell.text.textContent = text;
    cell.picture.setAttribute("aria-label", [rows[r], columns[c], text].filter(Boolean).join(", "));
  }

  function paint() {
    const at = Math.min(model.get("at"), columns.length - 1);
    if (slider) {
      range.value = at;
      shown.textContent = columns[at];
      range.setAttribute("aria-valuetext", columns[at]);
      buttons?.show(at);
    }
    if (!sheet) return;
    cells.forEach((line, r) => line.forEach((cell, c) => draw(cell, r, c)));
    if (!slider) return;
    panels.forEach((panel, r) => draw(panel, r, at));
    cells.forEach((line) => {
      line.forEach((cell, c) => {
        cell.figure.classList.toggle("nb-at", c === at);
        cell.text.textContent = ""; // numbers are under the large picture
      });
    });
  }

  async function show(bytes, texts) {
    const mine = ++order;
    const next = await bitmapOf(bytes);
    if (mine < drawn || signal.aborted) return next.close();
    drawn = mine;
    sheet?.close();
    [sheet, captions] = [next, texts];
    paint();
    el.dataset.drawn = mine;
  }

  function status() {
    clearTimeout(awaited);
    const { state, text } = model.get("status");
    el.dataset.state = state || "";
    // Not `disabled`, which would lose the focus.
    stop.setAttribute("aria-disabled", String(state !== "running"));
    progress.hidden = state !== "running";
    if (state === "running") progress.removeAttribute("value");
    step.textContent = "";
    output.textContent = text || "";
  }

  listen(
    model,
    {
      "change:result": () => {
        const result = model.get("result");
        if (result.sheet) latest = show(result.sheet, result.captions);
      },
      "change:status": () => latest.then(status, status), // after the picture
      "change:at": paint,
      // Frames are messages, not state: dropped without a view, never saved.
      "msg:custom": (message, buffers) => {
        if (message.type !== "frame") return;
        clearTimeout(awaited);
        if (el.dataset.state !== "running") status(); // after NO_ANSWER
        show(buffers[0], message.captions);
        progress.max = message.total;
        progress.value = message.step;
        step.textContent = message.text;
      },
    },
    signal,
  );
  document.addEventListener("nb-picked", (event) => partOf(event.target) && picked(), { signal });
  signal.addEventListener("abort", () => clearTimeout(awaited));
  if (switched) {
    listen(model, { "change:mode": () => switched.show(model.get("mode")) }, signal);
    switched.show(model.get("mode"));
  }
  status();
  paint();
  const result = model.get("result");
  if (result.sheet) show(result.sheet, result.captions);
}

function render({ model, el }) {
  const controller = new AbortController();
  el.classList.add("nb-widget");
  (model.get("kind") === "live" ? renderLive : renderPicker)({ model, el, signal: controller.signal });
  return () => controller.abort();
}

export default { render };
