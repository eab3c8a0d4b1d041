// @ts-check
// A picture with a hole that grows under the brush (brush.js).

function render({ model, el }) {
  const controller = new AbortController();
  const { signal } = controller;
  const [height, width] = model.get("size");
  const output = make("span", "nb-status");
  output.setAttribute("role", "status");
  const report = (text) => (output.textContent = text);
  const picked = () => el.dispatchEvent(new CustomEvent("nb-picked", { bubbles: true })); // to the live table
  const brush = brushOn({
    size: [height, width],
    name: "picture with a hole",
    report,
    apply: (mask) => {
      const grown = bytesOf(model.get("mask")).map((value, i) => Math.max(value, mask[i] > 127 ? 255 : 0));
      if (grown.every(Boolean)) return report("the hole would cover the whole picture; leave a part of it");
      brush.hide(grown); // before the kernel's answer
      picked();
      model.send({ type: "stroke" }, undefined, [mask.buffer]);
    },
  });
  const undo = button("Undo", () => {
    if (undo.getAttribute("aria-disabled") === "true") return;
    picked();
    model.send({ type: "undo" });
  });
  const first = button("Start over", () => {
    if (first.getAttribute("aria-disabled") === "true") return;
    picked();
    model.send({ type: "reset" });
  });
  const more = make("details", "nb-more");
  const summary = keepKeys(make("summary", "", "More"));
  more.append(summary, first);
  let order = 0;
  async function show() {
    const mine = ++order;
    const bitmap = await bitmapOf(model.get("picture"));
    if (mine === order && !signal.aborted) brush.picture.getContext("2d").drawImage(bitmap, 0, 0);
    bitmap.close();
  }
  const hide = () => brush.hide(bytesOf(model.get("mask")));
  const count = () => {
    const done = model.get("done");
    [undo, first].forEach((one) => one.setAttribute("aria-disabled", String(!done)));
    report(model.get("message") || (done ? `${done} ${done === 1 ? "stroke" : "strokes"}` : "brush over the picture: the hole grows"));
  };
  listen(model, { "change:picture": show, "change:mask": hide, "change:done": count, "change:message": () => [hide(), count()] }, signal);
  const tools = make("div", "nb-bar");
  tools.append(undo, output);
  el.classList.add("nb-widget", "nb-hole");
  el.append(make("div", "nb-label", model.get("label")), brush.board, brush.control, tools, more);
  hide();
  count();
  show();
  return () => controller.abort();
}

export default { render };
