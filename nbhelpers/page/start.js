// @ts-check
// The page opens: pictures, and beside them the engine, one worker for each network.

const data = JSON.parse(textOf("state"));
const networks = data.networks.map((about, k) => new Network(about.label, { ...about, weights: textOf(`weights-${k}`) }));
const begun = beginAll(networks); // beside all that follows
begun.catch(() => {}); // handled below, once there is a page
const pictures = await sheetPictures(textOf("pictures"), data.sides, data.pictures);
const frame = new Frame({
  ...data,
  pictures,
  activations: data.activations.map(({ width, bytes }) => ({
    width, values: new Float32Array(bytesOf(bytes).buffer),
  })),
}, networks);
frame.photographs = [...pictures];
const engines = () => {
  document.body.dataset.engine = [...new Set(networks.map(({ backend }) => backend))].join(" ");
  place("runs").textContent = networks.map(({ label, engine }) => `The ${label} network runs in ${engine}.`).join(" ");
};
networks.forEach((network) => (network.changed = engines));
frame.begun = begun;
begun.then(
  async (files) => {
    frame.alive = true;
    engines();
    await frame.settled; // the first pictures have the processor for themselves
    await accelerateAll(networks, files);
    engines();
  },
  (error) => {
    frame.alive = false;
    document.body.dataset.engine = "none";
    place("engine").textContent = `This browser cannot compute here (${error.message}). What you see was computed beforehand.`;
    frame.poster();
  },
);
frame.takesFiles();
frame.open();
document.body.dataset.ready = "true";

export {}; // a module, which may await
