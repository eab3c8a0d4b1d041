// The page's kernel, in a worker of its own so that the page is never kept waiting: one run at a time, the newest pick
// wins. It gets the library's bytes, networks, recipes and picks as messages, and answers with frames.

const FRAME = 1000 / 15; // ms between two frames
const networks = new Map(); // by name, promises, made at their first use
const waiting = new Map(); // as they came
const recipes = [];
let [newest, stopped] = [0, 0];
let turn = Promise.resolve();

// Lets messages in. A timer would wait for 4 ms each time.
const channel = new MessageChannel();
const pause = () =>
  new Promise((resolve) => {
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(0);
  });

function network(name) {
  if (!networks.has(name)) {
    networks.set(name, Engine.Network.load(waiting.get(name)));
    waiting.delete(name);
  }
  return networks.get(name); // a promise
}

function halves({ shape, halves: text }) {
  const { buffer } = Engine.bytesOf(text);
  return { shape, values: Engine.floats(new Uint16Array(buffer)) };
}

// Pixels on [0, 1] into the sheet's bytes; grey ones three times.
function paint(sheet, width, { row, column, pixels }, [h, w, c]) {
  for (let y = 0; y < h; y++)
    for (let x = 0; x < w; x++) {
      const to = 4 * ((row * h + y) * width + column * w + x);
      const from = c * (y * w + x);
      for (let k = 0; k < 3; k++) sheet[to + k] = pixels[from + (c === 3 ? k : 0)] * 255; // clamped and rounded
      sheet[to + 3] = 255;
    }
}

async function run({ id, demo, pick, images, mode, seed, steps, base, captions, rows, columns, stroke }) {
  const recipe = recipes[demo];
  const began = performance.now();
  const used = await Promise.all(recipe.networks.map(([, name]) => network(name)));
  const shape = [...images.sides, used[0].mean.shape[0]]; // of a picture: height, width, channels
  const pictures = images.values.map((rgb) => (shape[2] === 3 ? rgb : rgb.filter((_, k) => k % 3 === 0)));
  const kitchen = new Recipes.Kitchen({
    recipe, networks: used, images: pictures, shape, positions: mode === 0, seed, steps, pick, captions, stroke,
  });
  const width = columns * shape[1];
  const sheet = base?.pixels ?? new Uint8ClampedArray(4 * width * rows * shape[0]);
  const texts = base?.captions ?? Array.from({ length: rows }, () => Array(columns).fill(""));
  const stages = Recipes.plan(kitchen);
  const total = stages.reduce((sum, { steps: own }) => sum + own, 0);
  let [done, shown, note, step, result] = [0, 0, "", 0, {}];
  const post = (type, extra) => {
    const pixels = sheet.slice();
    const seconds = ((performance.now() - began) / 1000).toFixed(1);
    const text = `${note}${step.index} of ${step.total} steps, ${seconds} s`;
    const message = { type, id, demo, pixels, width, captions: texts, step: done + step.index, total, text, ...extra };
    postMessage(message, [pixels.buffer]);
  };
  const draw = (now, stage) => {
    for (const one of stage.draw(now)) {
      paint(sheet, width, one, shape);
      texts[one.row][one.column] = one.text;
    }
  };
  const runs = [];
  try {
    for (const stage of stages) {
      note = stage.note;
      const mine = stage.runs();
      runs.push(...mine);
      for (let k = 0; k <= stage.steps; k++) {
        const now = [];
        for (const one of mine) {
          if (now.length) await pause(); // a step of sixteen pictures takes a while
          if (newest !== id) return postMessage({ type: "left", id, demo });
          now.push(one.next().value);
        }
        step = now[0];
        const ends = stopped === id;
        if (ends || k === stage.steps || performance.now() - shown >= FRAME) {
          draw(now, stage);
          if (ends) return post("done", { stopped: true, ...stage.result(now) });
          if (k === stage.steps) result = stage.result(now);
          shown = performance.now();
          if (k < stage.steps || stage !== stages.at(-1)) post("frame");
        }
        await pause();
        if (newest !== id) return postMessage({ type: "left", id, demo });
      }
      done += stage.steps;
    }
    done -= step.total;
    post("done", { stopped: false, ...result });
  } finally {
    runs.forEach((one) => one.return());
    kitchen.end();
  }
}

const answers = {
  async begin({ wasm }) {
    try {
      if (!(await Engine.begin(wasm))) throw new Error("this browser lacks WebAssembly with SIMD");
    } catch (error) {
      return postMessage({ type: "missing", why: error.message });
    }
    const [first] = waiting.keys();
    if (first !== undefined) warm(await network(first));
    postMessage({ type: "ready" });
    for (const name of [...waiting.keys()]) await network(name); // before anybody asks
  },
  network({ name, about }) {
    waiting.set(name, about);
  },
  recipes({ recipes: given }) {
    for (const recipe of given) {
      if (recipe?.starts) recipe.starts = halves(recipe.starts);
      recipe?.palette?.forEach((entry) => (entry.maps = halves(entry.maps)));
      if (recipe?.changes) recipe.changes = recipe.changes.map(halves);
      recipes.push(recipe);
    }
  },
  run(job) {
    newest = job.id;
    turn = turn.then(async () => {
      if (newest !== job.id) return postMessage({ type: "left", id: job.id, demo: job.demo });
      try {
        await run(job);
      } catch (error) {
        postMessage({ type: "error", id: job.id, demo: job.demo, text: error.message });
      }
    });
  },
  stop({ id }) {
    stopped = id;
  },
  leave({ id }) {
    if (newest === id) newest = 0;
  },
};

// The first step prepares much; nobody shall wait for that.
function warm(one) {
  const start = tf.fill([1, ...one.sides, one.mean.shape[0]], 0.5);
  const goal = Engine.activate([0]);
  const run = Engine.descend(one, goal, start, { positions: false, steps: 1, stepSize: 0.1 });
  while (!run.next().done);
  goal.dispose();
  start.dispose();
}

onmessage = ({ data }) => answers[data.type](data);
