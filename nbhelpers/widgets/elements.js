// @ts-check
// Python puts this before every front-end: a widget is one module, without a build.

const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
// JupyterLab's shortcuts look at the focused element only, so every focusable one needs this.
const keepKeys = (element) => {
  element.dataset.lmSuppressShortcuts = "true";
  return element;
};
const bytesOf = (view) => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const bitmapOf = (bytes) => createImageBitmap(new Blob([bytesOf(bytes)]));
const listen = (model, handlers, signal) => {
  for (const [name, handler] of Object.entries(handlers)) {
    model.on(name, handler);
    signal.addEventListener("abort", () => model.off(name, handler));
  }
};
