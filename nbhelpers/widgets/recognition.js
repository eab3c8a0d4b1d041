// @ts-check
// A forced choice: one picture, at most ten names, no feedback until the end. The correct answers stay in the kernel.

const keyOf = (i) => String((i + 1) % 10); // 1 to 9, then 0

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const about = make("p", "nb-about", model.get("about"));
  const begin = keepKeys(make("button", "nb-button nb-main", "Start"));
  begin.type = "button";
  const stage = keepKeys(make("div", "nb-trial"));
  stage.tabIndex = 0;
  stage.setAttribute("role", "group");
  stage.setAttribute("aria-label", "the picture and its names; the keys 1 to 9 and 0 answer");
  const picture = make("canvas", "nb-picture");
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", "the picture to name");
  const answers = make("div", "nb-answers");
  answers.setAttribute("role", "group");
  answers.setAttribute("aria-label", "What does it show?");
  const bar = make("div", "nb-bar");
  const progress = make("progress");
  progress.setAttribute("aria-label", "progress");
  const output = make("span", "nb-status");
  output.setAttribute("role", "status");
  bar.append(progress, output);
  const end = make("div", "nb-end");
  let shown = 0; // time of display, ms; 0 between trials
  let order = 0;
  let buttons = [];

  function choices(names) {
    buttons.slice(names.length).forEach((one) => one.remove());
    buttons = names.map((name, i) => {
      const one = buttons[i] ?? keepKeys(make("button", "nb-button"));
      one.type = "button";
      one.replaceChildren(make("b", "", keyOf(i)), ` ${name}`);
      one.onclick = () => answer(i);
      if (!one.isConnected) answers.append(one);
      return one;
    });
    lock(false);
  }
  const lock = (on) => buttons.forEach((one) => one.setAttribute("aria-disabled", String(on)));
  function answer(i) {
    if (!shown || i >= buttons.length) return;
    const seconds = (performance.now() - shown) / 1000;
    shown = 0;
    lock(true);
    model.send({ type: "answer", number: model.get("trial").number, choice: i, seconds });
  }
  async function present() {
    const mine = ++order;
    const { number, total, choices: names } = model.get("trial");
    const bitmap = await bitmapOf(model.get("picture"));
    if (mine !== order || signal.aborted) return bitmap.close();
    Object.assign(picture, { width: bitmap.width, height: bitmap.height });
    picture.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
    choices(names);
    output.textContent = `picture ${number + 1} of ${total}`;
    stage.focus({ preventScroll: true });
    requestAnimationFrame(() => {
      if (mine !== order) return;
      shown = performance.now();
      el.dataset.number = number;
    });
  }
  function table() {
    const { rows, note, file } = model.get("result");
    const head = ["condition", "right", "accuracy (95 %)", "median time"];
    const made = make("table", "nb-results");
    const line = (cells, kind) => {
      const row = make("tr");
      row.append(...cells.map((cell, i) => {
        const one = make(i ? kind : "th", "", cell);
        one.scope = kind === "th" ? "col" : i ? "" : "row";
        return one;
      }));
      return row;
    };
    const [top, body] = [make("thead"), make("tbody")];
    top.append(line(head, "th"));
    body.append(...rows.map((row) => line(row, "td")));
    made.append(make("caption", "nb-label", "What you recognised"), top, body);
    const save = keepKeys(make("button", "nb-button nb-main", "Save answers"));
    save.type = "button";
    save.addEventListener("click", () => {
      const link = Object.assign(make("a"), { download: file.name });
      link.href = URL.createObjectURL(new Blob([file.text], { type: "text/csv" }));
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 1000);
      output.textContent = `saved ${file.name}`;
    });
    end.replaceChildren(made, make("p", "nb-note", note), save);
    return save;
  }
  function show() {
    const { state, number, total, text } = model.get("trial");
    const begun = state === "shown" || state === "waits" || (state === "error" && number > 0);
    const before = el.dataset.state;
    el.dataset.state = state;
    about.hidden = begin.hidden = state !== "ready";
    stage.hidden = !begun;
    bar.hidden = state === "ready";
    end.hidden = state !== "ends";
    Object.assign(progress, { max: total, value: number });
    if (state !== "shown") [shown, order] = [0, order + 1];
    if (state === "shown") present();
    else if (state === "waits") [lock(true), (output.textContent = "the next picture forms…")];
    else if (state === "error") output.textContent = text;
    else if (state === "ends") {
      const save = table();
      output.textContent = "done, thank you";
      if (before && before !== "ends") save.focus({ preventScroll: true });
    }
  }
  begin.addEventListener("click", () => model.send({ type: "begin" }));
  el.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat || !/^\d$/.test(event.key)) return;
    if (stage.hidden) return;
    answer((Number(event.key) + 9) % 10);
    event.preventDefault();
    event.stopPropagation();
  });
  listen(model, { "change:trial": show }, signal);
  el.classList.add("nb-widget", "nb-recognition");
  stage.append(picture, answers);
  el.append(about, begin, bar, stage, end);
  show();
  model.send({ type: "open" }); // starts the background computation
  return () => controller.abort();
}

export default { render };
