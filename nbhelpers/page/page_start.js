
// --- the page ----------------------------------------------------------------------------------------------------------

const [widget, canvas] = await Promise.all(
  sources.map(async (text) => (await import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })))).default),
);
let start;
begun = new Promise((resolve) => (start = resolve)).then(begin);
demos.forEach((demo, k) => {
  const painted = demo.live.kind === "paint";
  (painted && computes(demo) ? new Painting(demo, k, widget, canvas) : new Demo(painted ? stillOf(demo) : demo, k, widget)).start();
});
document.body.dataset.ready = "true";
// The page first: the engine takes a second of one core.
requestAnimationFrame(() => setTimeout(start));
begun.then((there) => (document.body.dataset.engine = String(there)));
